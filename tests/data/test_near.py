"""Near-duplicates by text and by meaning, against plain sets and plain products."""

from __future__ import annotations

import builtins
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.dedup import minhash, semantic

SYLLABLES = ["ka", "lo", "mir", "te", "sun", "ve", "dra", "o", "pi", "ghe"]
WORDS = np.array(["".join(syllables) for syllables in np.random.default_rng(7).choice(SYLLABLES, (4000, 3))])


def sentences(count: int, words: int, seed: int = 0) -> list[str]:
    return [" ".join(one) for one in WORDS[np.random.default_rng(seed).integers(0, len(WORDS), (count, words))]]


def grams(text: str) -> set[str]:
    evened = " ".join(text.lower().split())
    return {evened[at : at + 5] for at in range(len(evened) - 4)} if len(evened) >= 5 else {evened}


def jaccard(left: str, right: str) -> float:
    return len(grams(left) & grams(right)) / len(grams(left) | grams(right))


def found(
    folder: Path, texts: list[str], threshold: float = 0.8, priority: Sequence[int] | None = None, wanted: Any = None, batch: int = 700
) -> tuple[minhash.Twins, minhash.Twins]:
    signatures = minhash.Signatures(folder, threshold)
    for start in range(0, len(texts), batch):
        some = texts[start : start + batch]
        signatures.append(minhash.signed(some, signatures.width), len(some))
    signatures.close()
    some_rows = np.arange(0, len(texts), 7)[::-1]
    assert signatures.texts(some_rows) == [minhash.even(texts[row]) for row in some_rows.tolist()]
    return minhash.twins(signatures, np.asarray([3] * len(texts) if priority is None else priority, np.uint8), wanted)


def changed(text: str, edits: int, random: np.random.Generator) -> str:
    letters = list(text)
    for at in random.integers(0, len(letters), edits):
        letters[at] = random.choice(list("abcdefghij"))
    return "".join(letters)


def test_twins_of_every_length_are_found_and_nothing_else(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    texts = [text for words in (2, 3, 5, 10, 30) for text in sentences(600, words, words)]
    planted = list(range(0, len(texts), 2))
    texts += [changed(texts[at], 1 + len(texts[at]) // 70, random) for at in planted]
    dropped, kept = found(tmp_path, texts)
    assert not len(kept.rows)
    for row, of, similarity in zip(*dropped, strict=True):
        assert similarity == pytest.approx(jaccard(texts[row], texts[of]), abs=1e-6) and similarity >= 0.8
    gone = set(dropped.rows.tolist())
    alike = [(at, 3000 + number) for number, at in enumerate(planted) if jaccard(texts[at], texts[3000 + number]) >= 0.8]
    assert len(alike) > 500
    assert sum(one in gone or other in gone for one, other in alike) >= 0.99 * len(alike)
    assert (np.diff(dropped.rows) > 0).all()


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), min_size=1, max_size=8))
def test_the_similarity_is_that_of_sets_of_characters(pairs: list[tuple[str, str]]) -> None:
    pairs += [("\0", ""), *((left, left[1:]) for left, _ in pairs)]
    exact = [jaccard(left, right) for left, right in pairs]
    assert minhash.jaccard([minhash.even(left) for left, _ in pairs], [minhash.even(right) for _, right in pairs]).tolist() == pytest.approx(exact, abs=1e-6)


@given(st.text(max_size=30))
def test_case_and_white_space_do_not_count(text: str) -> None:
    assert minhash.even(" Straße\t\n ÉTÉ\u00a0") == "straße été"
    assert minhash.even(f"\n {text}\t\u00a0") == minhash.even(text) == minhash.even(minhash.even(text).rstrip(minhash.NO_CHARACTER))


def test_the_estimate_follows_the_similarity() -> None:
    words = sentences(1, 400)[0].split()
    for shared in (0, 50, 100, 150, 190, 200):
        left, right = (" ".join(words[:shared] + words[start : start + 200 - shared]) for start in (200, 200 + shared))
        one, other = minhash.sketch([minhash.even(left), minhash.even(right)])
        assert (one == other).mean() == pytest.approx(jaccard(left, right), abs=0.13)  # three standard errors of 128 values


def test_bins_without_a_value_copy_the_same_one() -> None:
    one, other = minhash.sketch([minhash.even("abcdef"), minhash.even("abcdeg")])
    assert len(set(one.tolist())) == 2, "two grams, two values in all bins"
    assert (one == other).mean() == pytest.approx(1 / 3, abs=0.2)
    assert len(set(minhash.sketch([minhash.even("x")])[0].tolist())) == 1


def test_a_long_text_is_hashed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [minhash.even(text) for text in (sentences(1, 900)[0], "short", sentences(1, 300, 1)[0])]
    whole = minhash.sketch(texts)
    monkeypatch.setattr(minhash, "PIECE", 64)
    assert (minhash.sketch(texts) == whole).all()


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, (3, 42)), (0.7, (4, 32)), (0.8, (6, 21)), (0.9, (8, 16)), (1.0, (8, 16)), (0.01, (1, 128))])
def test_bands_follow_the_s_curve(threshold: float, expected: tuple[int, int]) -> None:
    width, count = minhash.bands(threshold)
    assert (width, count) == expected
    if threshold >= 0.05:
        assert 1 - (1 - threshold**width) ** count >= 0.995


def test_the_smaller_priority_stays_and_then_the_smaller_index(tmp_path: Path) -> None:
    text = sentences(1, 30)[0]
    other = sentences(1, 30, 5)[0]
    dropped, kept = found(tmp_path, [text, text + "!", other, text + "?", other + "."], priority=[3, 1, 3, 2, 3])
    assert dropped.rows.tolist() == [0, 3, 4] and dropped.of.tolist() == [1, 1, 2]
    assert not len(kept.rows)


def test_rows_of_the_user_stay_and_are_named_once(tmp_path: Path) -> None:
    text = sentences(1, 30)[0]
    dropped, kept = found(tmp_path, [text + " a", text, text + " b", text + " c"], priority=[3, 0, 0, 0])
    assert dropped.rows.tolist() == [0] and dropped.of.tolist() == [1]
    assert kept.rows.tolist() == [2, 3] and set(kept.of.tolist()) <= {1, 2}
    assert kept.similarity.min() >= 0.8


def test_rows_that_are_not_wanted_are_passed_over(tmp_path: Path) -> None:
    text = sentences(1, 30)[0]
    wanted = np.array([False, True, True, False])
    dropped, _ = found(tmp_path, [text, text + "!", text + "?", text], wanted=wanted)
    assert dropped.rows.tolist() == [2] and dropped.of.tolist() == [1]
    assert wanted.tolist() == [False, True, True, False], "the caller's mask is not changed"


def test_no_rows_and_one_row(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    for folder, texts in ((tmp_path, []), (tmp_path / "one", ["a text"])):
        dropped, kept = found(folder, texts)
        assert not len(dropped.rows) and not len(kept.of)


def test_batches_and_parts_of_a_band_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    texts = sentences(300, 12)
    texts += [changed(text, 1, random) for text in texts]
    results = []
    for number, (batch, part) in enumerate(((1000, 1 << 22), (7, 1 << 22), (1000, 50))):
        monkeypatch.setattr(minhash, "BAND_ROWS", part)
        folder = tmp_path / str(number)
        folder.mkdir()
        results.append(found(folder, texts, batch=batch)[0])
    assert len(results[0].rows) > 50
    for one in results[1:]:
        assert all((mine == first).all() for mine, first in zip(one, results[0], strict=True))


def test_20_000_rows_of_one_template_are_not_compared_with_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = sentences(20_000, 3, 9)
    texts = [f"your parcel {slot} is on its way and will reach you within three working days, keep this number" for slot in slots]
    texts += [text.replace("three", "four") for text in texts[:200]]
    compared = 0
    real = minhash.Signatures.estimate

    def estimate(self: minhash.Signatures, left: Any, right: Any, count: int) -> Any:
        nonlocal compared
        compared += len(left)
        return real(self, left, right, count)

    monkeypatch.setattr(minhash.Signatures, "estimate", estimate)
    dropped, _ = found(tmp_path, texts, 0.85, batch=5000)
    gone = set(dropped.rows.tolist())
    assert compared < 100 * len(texts)
    assert all(at in gone or 20_000 + at in gone for at in range(200) if jaccard(texts[at], texts[20_000 + at]) >= 0.85)
    assert len(dropped.rows) < 5000 and dropped.similarity.min() >= np.float32(0.85)


def test_one_of_10_000_equal_rows_stays(tmp_path: Path) -> None:
    dropped, _ = found(tmp_path, ["The same text."] * 10_000, batch=5000)
    assert dropped.rows.tolist() == list(range(1, 10_000)) and not dropped.of.any() and (dropped.similarity == 1).all()


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    signatures = minhash.Signatures(tmp_path)
    monkeypatch.setattr(signatures, "_files", [Full()] * (signatures.bands + 3))
    with pytest.raises(OSError, match="No space left"):
        signatures.append(minhash.signed(["a text"], signatures.width), 1)
    signatures.close()


def test_nothing_is_written_into_mapped_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, modes = builtins.open, set()
    monkeypatch.setattr(builtins, "open", lambda path, mode="r", *rest, **more: (modes.add(mode), real(path, mode, *rest, **more))[1])
    found(tmp_path, ["one text", "one text"])
    assert modes == {"wb", "rb"}


def units(rows: int, columns: int, seed: int) -> Any:
    vectors = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def greedy(vectors: Any, priority: Any, threshold: float) -> set[int]:
    """The rows that go, one at a time."""
    stay: list[int] = []
    gone = set()
    for row in np.argsort(priority, kind="stable").tolist():
        if priority[row] and stay and (vectors[stay] @ vectors[row]).max() >= threshold:
            gone.add(row)
        else:
            stay.append(row)
    return gone


@pytest.mark.parametrize("leaders", [8192, 100])
def test_meaning_up_to_some_thousands_is_what_one_at_a_time_finds(monkeypatch: pytest.MonkeyPatch, leaders: int) -> None:
    monkeypatch.setattr(semantic, "BLOCK", 64)
    monkeypatch.setattr(semantic, "LEADERS", leaders)
    vectors = units(700, 5, 1)  # five columns: many pairs are alike
    priority = np.random.default_rng(2).integers(0, 4, 700).astype(np.uint8)
    dropped, kept = semantic.twins_by_meaning(vectors, priority, 0.95)
    assert set(dropped.rows.tolist()) == greedy(vectors, priority, 0.95)
    assert 100 < len(dropped.rows) < 600 and 0 < len(kept.rows)
    for twins in (dropped, kept):
        assert np.allclose((vectors[twins.rows] * vectors[twins.of]).sum(axis=1), twins.similarity, atol=1e-5)
        assert (twins.similarity >= 0.95 - 1e-6).all() and not set(twins.of.tolist()) & set(dropped.rows.tolist())
    own = np.flatnonzero(priority == 0)
    alike = np.tril(vectors[own] @ vectors[own].T, -1) >= 0.95
    assert kept.rows.tolist() == own[alike.any(axis=1)].tolist()


def test_the_twin_that_is_named_stays() -> None:
    degrees = np.radians([0, 15, 20, 60], dtype=np.float32)
    dropped, _ = semantic.twins_by_meaning(np.stack([np.cos(degrees), np.sin(degrees)], axis=1), np.full(4, 3, np.uint8), float(np.cos(np.radians(25))))
    assert dropped.rows.tolist() == [1, 2] and dropped.of.tolist() == [0, 0], "the third is nearest to the second, which went"
    assert dropped.similarity == pytest.approx(np.cos(degrees[1:3]))


def test_meaning_of_many_rows_is_found_by_lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(semantic, "EXACT", 1000)
    vectors = units(3000, 32, 3)
    vectors = np.concatenate([vectors, vectors[:500] + 0.3 * units(500, 32, 4)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(tmp_path / "vectors.npy", vectors)
    priority = np.r_[np.full(3000, 3), np.full(500, 1)].astype(np.uint8)
    wanted = np.ones(3500, bool)
    wanted[:100] = False
    dropped, kept = semantic.twins_by_meaning(np.load(tmp_path / "vectors.npy", mmap_mode="r"), priority, 0.9, wanted)
    exact = greedy(vectors[100:], priority[100:], 0.9)
    assert len(exact) >= 380 and not len(kept.rows)
    rows = set((dropped.rows - 100).tolist())
    assert len(rows & exact) >= 0.97 * len(exact) and not rows - exact
    assert (np.diff(dropped.rows) > 0).all() and dropped.rows.min() >= 100


def test_meaning_names_the_users_rows_once_and_takes_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.repeat(units(40, 16, 5), 2, axis=0)
    for exact in (1000, 10):
        monkeypatch.setattr(semantic, "EXACT", exact)
        dropped, kept = semantic.twins_by_meaning(vectors, np.zeros(80, np.uint8), 1.0)
        assert not len(dropped.rows) and kept.rows.tolist() == list(range(1, 80, 2)) and kept.of.tolist() == list(range(0, 80, 2))
    assert not len(semantic.twins_by_meaning(vectors[:0], np.zeros(0, np.uint8), 0.9)[0].rows)
