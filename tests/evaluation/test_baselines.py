"""Baselines: what they answer, that they see only train rows, and that they are strong enough to be worth beating."""

import csv
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tunesmith.evaluation.classification import baselines, calibration, metrics

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
    found = metrics.scores(test, answers)
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
    ours = metrics.scores(test, baselines.nearest_mean(vectors, train, others, 3))
    prior = metrics.scores(test, baselines.majority(train, 500, 3))
    assert ours["micro_f1"] > 0.85 and ours["log_loss"] < 0.5 * prior["log_loss"]
    train[:, 2] = False
    np.testing.assert_allclose(baselines.nearest_mean(vectors, train, others, 3)[:, 2], 1 / 302)


def dense_nearest_mean(train_vectors, labels, vectors, classes):
    """The same by whole matrices of rows times labels."""
    centre = train_vectors.mean(0)
    train, other = baselines._unit(train_vectors - centre), baselines._unit(vectors - centre)
    member = np.eye(classes)[labels]
    sums = member.T @ train
    cosines = train @ baselines._unit(sums).T
    cosines[np.arange(len(train)), labels] = (train * baselines._unit(sums[labels] - train)).sum(1)
    return calibration.softened(other @ baselines._unit(sums).T, calibration.fit_temperature(cosines, labels))


def test_nearest_mean_by_parts_is_nearest_mean(monkeypatch):
    rng = np.random.default_rng(3)
    labels, vectors, others = rng.permutation(np.arange(90) % 9), rng.normal(size=(90, 12)), rng.normal(size=(50, 12))
    expected = dense_nearest_mean(vectors, labels, others, 9)
    np.testing.assert_allclose(baselines.nearest_mean(vectors, labels, others, 9), expected, rtol=1e-6)
    monkeypatch.setattr(baselines, "BLOCK_SCORES", 9 * 7)
    np.testing.assert_allclose(baselines.nearest_mean(vectors, labels, others, 9), expected, rtol=1e-6)
    several = rng.random((90, 9)) < 0.3
    whole = baselines.nearest_mean(vectors, several, others, 9)
    monkeypatch.setattr(baselines, "BLOCK_SCORES", 10**6)
    np.testing.assert_allclose(baselines.nearest_mean(vectors, several, others, 9), whole, rtol=1e-6)


def test_nearest_mean_of_many_labels_is_bounded(monkeypatch):
    """5,000 labels with four rows each: a matrix of rows times labels would take 800 MB, several times over."""
    monkeypatch.setattr(baselines, "TEMPERATURE_SCORES", 200_000)
    labels = np.arange(20_000) % 5000
    centres = np.random.default_rng(0).normal(size=(5000, 16))
    vectors = centres[labels] + 0.1 * np.random.default_rng(1).normal(size=(20_000, 16))
    tracemalloc.start()
    found = baselines.nearest_mean(vectors, labels, centres[:100], 5000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6 and (found.argmax(1) == np.arange(100)).mean() > 0.9


def test_tfidf_says_what_it_leaves_out_for_memory(monkeypatch):
    said: list[str] = []
    plain = baselines.tfidf(TEXTS, LABELS, ["lost card", "the rate"], 3, tell=said.append)
    assert said == [] and plain.argmax(1).tolist() == [0, 2]
    monkeypatch.setattr(baselines, "MOST_COEFFICIENTS", 3 * 2 * 8)
    found = baselines.tfidf(TEXTS, LABELS, ["lost card", "the rate"], 3, tell=said.append)
    assert said == ["tfidf reads the 8 commonest words and letter groups each: with 3 labels, more need too much memory"]
    assert found.shape == (2, 3) and not np.allclose(found, plain)
    monkeypatch.undo()
    monkeypatch.setattr(baselines, "MOST_SCORES", 3 * 4)
    said.clear()
    baselines.tfidf(TEXTS, LABELS, ["lost card"], 3, weights=np.ones(6), tell=said.append)
    assert said == ["tfidf learns from 4 of 6 training rows: with 3 labels, all need too much memory"]


def test_tfidf_is_given_what_the_tuned_model_has():
    """Rows that weigh three times are rows that stand there three times; balanced labels raise the rare one; held rows set the temperature."""
    texts, labels = [*TEXTS, "lost rate"], np.array([0, 0, 0, 1, 1, 1, 0])
    weighted = baselines.tfidf(texts, labels, ["lost rate", "card"], 2, weights=np.array([1.0, 1, 1, 1, 1, 1, 3]))
    plain = baselines.tfidf(texts, labels, ["lost rate", "card"], 2)
    assert weighted[0, 0] > plain[0, 0]
    rare = np.array([0, 0, 0, 0, 0, 1, 0])
    assert baselines.tfidf(texts, rare, ["rate"], 2, balanced=True)[0, 1] > baselines.tfidf(texts, rare, ["rate"], 2)[0, 1]
    several = np.stack([rare == 1, labels == 0], 1)
    assert baselines.tfidf(texts, several, ["rate"], 2, balanced=True)[0, 0] > baselines.tfidf(texts, several, ["rate"], 2)[0, 0]
    for truth, sign in ((np.array([1, 0]), 1), (np.array([0, 1]), -1)):
        held = baselines.tfidf(texts, labels, ["my card"], 2, held=(["rates", "the card"] * 30, np.tile(truth, 30)))
        without = baselines.tfidf(texts, labels, ["my card"], 2)
        assert sign * (held.max() - without.max()) > 0  # rows that are right make it surer, rows that are wrong less sure
    both = baselines.tfidf(texts, several, ["my card"], 2, held=(["rates", "the card"] * 30, np.tile([[True, False], [False, True]], (30, 1))))
    assert both.shape == (1, 2) and np.isfinite(both).all()


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
    found = metrics.scores(z, baselines.tfidf(train, y, test, len(names)))
    assert found["accuracy"] > 0.96 and found["log_loss"] < 0.2
