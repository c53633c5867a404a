"""Baselines: what they answer, that they see only train rows, and that they are strong enough to be worth beating."""

import csv
import os
import time
from pathlib import Path

import numpy as np
import pytest

from tunesmith.evaluation import baselines, classification

BANKING = Path(os.environ.get("TUNESMITH_BANKING77", "banking77-is-not-here"))


def test_majority_gives_the_smoothed_shares_of_the_train_rows():
    found = baselines.majority(np.array([1, 1, 0]), 2, 3)
    np.testing.assert_allclose(found, [[2 / 6, 3 / 6, 1 / 6]] * 2)
    several = baselines.majority(np.array([[True, False], [True, False]]), 1, 2)
    np.testing.assert_allclose(several, [[3 / 4, 1 / 4]])


TEXTS = ["my card is lost", "lost my card again", "the card was stolen"]
TEXTS += ["exchange rate please", "rates of exchange", "what is the rate"]
LABELS = np.array([0, 0, 0, 2, 2, 2])


def test_tfidf_reads_words_and_parts_of_words_and_leaves_unseen_classes_at_zero():
    found = baselines.tfidf(TEXTS, LABELS, ["i lost it", "exchanging", ""], 3)
    assert found.argmax(1)[:2].tolist() == [0, 2]
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found[:, 1] == 0).all() and np.isfinite(found).all()


def test_tfidf_is_the_same_every_time_and_does_not_learn_from_test_texts():
    first = baselines.tfidf(TEXTS, LABELS, ["lost", "rate"], 3, seed=0)
    np.testing.assert_array_equal(first, baselines.tfidf(TEXTS, LABELS, ["lost", "rate"], 3, seed=0))
    np.testing.assert_array_equal(first[:1], baselines.tfidf(TEXTS, LABELS, ["lost"], 3, seed=0))


def test_tfidf_of_several_labels():
    labels = np.array([[True, True, False, True]] * 3 + [[False, True, False, True]] * 2 + [[False, True, False, False]])
    found = baselines.tfidf(TEXTS, labels, ["lost card", "rate"], 4)
    assert found[0, 0] > 0.5 > found[1, 0]
    np.testing.assert_allclose(found[:, 1:3], [[7 / 8, 1 / 8]] * 2)  # always and never true in train: the prior


@pytest.mark.parametrize("texts", [["", ""], ["a b", "c d"]])
def test_tfidf_with_nothing_to_read_or_to_tell_apart_is_the_majority(texts):
    labels = np.array([0, 1]) if texts[0] == "" else np.array([1, 1])
    np.testing.assert_array_equal(baselines.tfidf(texts, labels, ["a"], 2), baselines.majority(labels, 1, 2))


def test_nearest_mean_finds_the_cloud_and_is_calibrated():
    """Five rows a class in 128 dimensions: a row is far too close to a mean that contains it."""
    rng = np.random.default_rng(0)
    train, test = np.arange(50) % 10, rng.integers(0, 10, 2000)
    centres = rng.normal(size=(10, 128)) + 5  # a large common part, as raw language models' vectors have
    vectors, others = (centres[y] + 1.5 * rng.normal(size=(len(y), 128)) for y in (train, test))
    answers = baselines.nearest_mean(vectors, train, others, 10)
    np.testing.assert_allclose(baselines.nearest_mean(vectors + 7, train, others + 7, 10), answers, atol=1e-4)
    found = classification.scores(test, answers)
    assert found["accuracy"] > 0.95
    assert found["ece"] < 0.08  # 0.15 and more when the temperature is fitted with each row left in its own mean


def test_nearest_mean_by_hand_and_with_an_unseen_class():
    vectors = np.array([[1.0, 0], [1, 0.1], [-1, 0], [-1, -0.1]])
    found = baselines.nearest_mean(vectors, np.array([0, 0, 2, 2]), np.array([[3.0, 0], [-0.5, 0]]), 3)
    assert found.argmax(1).tolist() == [0, 2] and (found[:, 1] == 0).all()
    alone = baselines.nearest_mean(vectors[[0, 2]], np.array([0, 1]), vectors[:1], 2)  # one row a class: no temperature to fit
    assert alone[0, 0] > 0.9


def test_nearest_mean_of_several_labels():
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(3, 16))

    def draw(n):
        labels = rng.random((n, 3)) < [0.5, 0.3, 0.1]
        return labels, labels @ directions + 0.5 * rng.normal(size=(n, 16)) + 5

    (train, vectors), (test, others) = draw(300), draw(500)
    ours = classification.scores(test, baselines.nearest_mean(vectors, train, others, 3))
    prior = classification.scores(test, baselines.majority(train, 500, 3))
    assert ours["micro_f1"] > 0.85 and ours["log_loss"] < 0.5 * prior["log_loss"]
    train[:, 2] = False
    np.testing.assert_allclose(baselines.nearest_mean(vectors, train, others, 3)[:, 2], 1 / 302)


def test_tfidf_on_banking77():
    """All 10,003 rows take 10 s (91.7 % accuracy), so one class in five here."""
    if not BANKING.exists():
        pytest.skip(f"no Banking77 in {BANKING}; name its folder in TUNESMITH_BANKING77")
    parts = []
    for name in ("train", "test"):
        with open(BANKING / f"{name}.csv", newline="", encoding="utf-8") as file:
            parts.append(list(csv.DictReader(file)))
    names = sorted({row["category"] for row in parts[0]})[::5]
    (train, y), (test, z) = (
        ([row["text"] for row in rows if row["category"] in names],
         np.array([names.index(row["category"]) for row in rows if row["category"] in names])) for rows in parts
    )  # fmt: skip
    started = time.perf_counter()
    found = classification.scores(z, baselines.tfidf(train, y, test, len(names)))
    assert found["accuracy"] > 0.96 and found["log_loss"] < 0.2
    assert time.perf_counter() - started < 10  # 0.5 s
