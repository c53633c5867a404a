"""Confident learning finds flipped labels; the file of suspects goes through a spreadsheet and back."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tunesmith.core.errors import Problems, UserError
from tunesmith.data import rows
from tunesmith.data.review import label_errors
from tunesmith.data.review.label_errors import Suspect, Suspects

NAMES = ("card", "refund", "other")


Clouds = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]


def clouds(n: int = 300, classes: int = 5, width: int = 12, seed: int = 0) -> Clouds:
    """Vectors around a centre for each class; their labels, the same with a tenth flipped, and which."""
    rng = np.random.default_rng(seed)
    true_N = rng.integers(0, classes, n)
    vectors_ND = (rng.normal(size=(classes, width))[true_N] * 2 + rng.normal(size=(n, width))).astype(np.float32)
    flipped_N = np.zeros(n, bool)
    flipped_N[rng.choice(n, n // 10, replace=False)] = True
    given_N = np.where(flipped_N, (true_N + rng.integers(1, classes, n)) % classes, true_N)
    return vectors_ND, true_N, given_N, flipped_N


def table(names: list[list[str]], **columns: list[str]) -> rows.pa.Table:
    count = len(names)
    base = {"id": [f"id{n}" for n in range(count)], "source": ["f.csv"] * count, "line": list(range(2, count + 2)), "text": [f"text {n}" for n in range(count)]}
    return rows.table(base | {"labels": names} | columns)


@pytest.mark.parametrize("seed", [0, 1])
def test_flipped_labels_are_found_and_put_right(seed: int) -> None:
    vectors_ND, true_N, given_N, flipped_N = clouds(seed=seed)
    found = label_errors.suspects(label_errors.cross_validated(vectors_ND, given_N), given_N)
    hit = flipped_N[found.rows_S]
    assert hit.sum() >= 0.9 * flipped_N.sum() and hit.mean() >= 0.8
    assert (found.suggested == true_N[found.rows_S])[hit].mean() >= 0.95
    assert (np.diff(found.scores_S) <= 0).all() and (found.scores_S > 0.5).all() and (found.suggested != given_N[found.rows_S]).all()


def test_clean_labels_are_left_alone() -> None:
    vectors_ND, true_N, _, _ = clouds()
    assert len(label_errors.suspects(label_errors.cross_validated(vectors_ND, true_N), true_N).rows_S) <= 3


def test_flipped_labels_of_rows_with_several() -> None:
    vectors_ND, true_N, _, _ = clouds(400, 4)
    true_NC = np.stack([true_N == 0, true_N == 1, true_N >= 2, np.ones(len(true_N), bool)], 1)  # the last label is everywhere: nothing to learn
    given_NC = true_NC.copy()
    given_NC[:20, 0] ^= True
    given_NC[10:30, 2] ^= True
    found = label_errors.suspects(label_errors.cross_validated(vectors_ND, given_NC), given_NC)
    planted = np.isin(found.rows_S, np.arange(30))
    assert planted.sum() >= 25 and planted.mean() >= 0.8 and len(set(found.rows_S.tolist())) == len(found.rows_S)
    assert (found.suggested == true_NC[found.rows_S])[planted].all(1).mean() >= 0.8 and found.suggested.dtype == bool
    assert (np.diff(found.scores_S) <= 0).all()


def test_the_count_is_the_calibrated_confident_joint() -> None:
    """By hand. Thresholds: mean of 0.9, 0.8, 0.1 = 0.6 and of 0.8, 0.9, 0.3 = 2/3. Counted: given 0: two as 0, one as 1; given 1: two as 1 and one as 0.
    A third of either label is wrong: two rows. By odds the first is row 2 (0.9 against 0.1), then row 5 (0.7 against 0.3)."""
    p_NC = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.1, 0.9], [0.7, 0.3]])
    found = label_errors.suspects(p_NC, np.array([0, 0, 0, 1, 1, 1]))
    assert found.rows_S.tolist() == [2, 5] and found.suggested.tolist() == [1, 0]
    assert found.scores_S == pytest.approx([0.9, 0.7])


def test_rows_that_are_not_counted_share_the_rate_of_those_that_are() -> None:
    """By hand. Label 0: thresholds 0.6 and 0.8; of each four rows two stay, one moves, one is below both: 8 rows times 1 / 3. Label 1: none."""
    p_NC = np.array([[0.9, 0.1], [0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.2, 0.8], [0.2, 0.8]] * 2)
    assert label_errors._wrong(p_NC, np.array([0, 0, 0, 0, 1, 1] * 2)) == 3


def test_a_row_that_cannot_be_judged_is_passed_over() -> None:
    p_NC = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [np.nan, np.nan], [0.1, 0.9], [0.2, 0.8]])
    assert label_errors.suspects(p_NC, np.array([0, 0, 0, 0, 1, 1])).rows_S.tolist() == [2]


def test_rare_labels_do_not_crash_and_are_not_suspects() -> None:
    vectors_ND, given_N, _, _ = clouds(60, 3)
    given_N[0], given_N[1:3] = 3, 4
    p_NC = label_errors.cross_validated(vectors_ND, given_N)
    assert np.isnan(p_NC[0]).all() and np.isfinite(p_NC[3:]).all() and p_NC.shape == (60, 5) and p_NC.dtype == np.float32
    assert 0 not in label_errors.suspects(p_NC, given_N).rows_S


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_rows(count: int) -> None:
    for given_labels in (np.zeros(count, np.int64), np.zeros((count, 2), bool)):
        p_NC = label_errors.cross_validated(np.ones((count, 3), np.float32), given_labels)
        assert len(p_NC) == count and np.isnan(p_NC).all() and len(label_errors.suspects(p_NC, given_labels).rows_S) == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([None, "a", "b", "c"])), min_size=1, max_size=60), st.integers(2, 6), st.integers(0, 9))
def test_groups_stay_whole_and_folds_are_even(drawn: list[tuple[int, str | None]], folds: int, seed: int) -> None:
    of = np.array([label for label, _ in drawn])
    groups = [group for _, group in drawn]
    folds_N = label_errors._folds(of, groups, folds, seed)
    for name in set(groups) - {None}:
        assert len({fold for fold, group in zip(folds_N.tolist(), groups, strict=True) if group == name}) == 1
    alone = label_errors._folds(of, None, folds, seed)
    assert np.ptp(np.bincount(alone, minlength=folds)) <= 1
    for label in set(of.tolist()):
        assert np.ptp(np.bincount(alone[of == label], minlength=folds)) <= 1  # each fold has its share of each label
    assert (folds_N == label_errors._folds(of, groups, folds, seed)).all()


def test_a_dimension_that_never_changes_says_nothing() -> None:
    vectors_ND, _, given_N, _ = clouds()
    vectors_ND[:, 0] = 0
    wide = label_errors.cross_validated(vectors_ND, given_N)
    assert wide == pytest.approx(label_errors.cross_validated(vectors_ND[:, 1:], given_N), abs=1e-3)


def test_a_row_does_not_vote_for_itself() -> None:
    """Rows of one group have one vector and another label than their neighbours: a model that saw one of them would answer its label."""
    vectors_ND, true_N, _, _ = clouds(200, 2)
    vectors_ND[:10], true_N[:10] = vectors_ND[20], 1 - true_N[20]
    alone = label_errors.cross_validated(vectors_ND, true_N)[:10, 1 - true_N[20]]
    grouped = label_errors.cross_validated(vectors_ND, true_N, ["g"] * 10 + [None] * 190)[:10, 1 - true_N[20]]
    assert grouped.max() < alone.min()


def test_listed_takes_texts_places_and_names() -> None:
    rows = table([["card"], ["refund"]], text_pair=["", "pair"])
    found = label_errors.listed(rows, NAMES, Suspects(np.array([1]), np.array([2]), np.array([0.75], np.float32)))
    assert found == [Suspect("id1", "f.csv:3", "text 1\n\npair", ("refund",), ("other",), 0.75)]
    many = label_errors.listed(table([["card"]]), NAMES, Suspects(np.array([0]), np.array([[True, False, True]]), np.array([0.75], np.float32)))
    assert many[0].suggested == ("card", "other")


def correct(path: Path, words: list[str]) -> Path:
    """Fill the column `correct` as a person would, in a spreadsheet that saves semicolons."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    out = path.with_name("corrected.csv")
    with open(out, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(label_errors.COLUMNS), delimiter=";")
        writer.writeheader()
        writer.writerows(line | {"correct": word} for line, word in zip(lines, words, strict=True))
    return out


def written(path: Path, count: int = 5) -> Path:
    label_errors.write_suspects(path / "suspects.csv", [Suspect(f"id{n}", "f:1", "a; text", ("card",), ("refund",), 0.9) for n in range(count)])
    return path / "suspects.csv"


def test_corrections_are_read_back(tmp_path: Path) -> None:
    path = correct(written(tmp_path), ["", "other", "+", "-", " - "])
    assert label_errors.corrections(path, NAMES) == {"id1": ("other",), "id2": ("refund",), "id3": None, "id4": None}
    assert label_errors.corrections(correct(written(tmp_path, 1), ["-"]), ["-", "card"]) == {"id0": ("-",)}  # a label of the data is a label
    assert label_errors.corrections(correct(written(tmp_path, 1), ["drop"])) == {"id0": ("drop",)}


def test_corrections_of_rows_with_several_labels(tmp_path: Path) -> None:
    label_errors.write_suspects(tmp_path / "suspects.csv", [Suspect(f"id{n}", "f:1", "t", ("card",), ("refund", "card"), 0.9) for n in range(2)])
    path = correct(tmp_path / "suspects.csv", ["other | card", "+"])
    assert label_errors.corrections(path, NAMES, "|") == {"id0": ("card", "other"), "id1": ("card", "refund")}


def test_wrong_corrections_are_reported_together(tmp_path: Path) -> None:
    label_errors.write_suspects(tmp_path / "s.csv", [Suspect(name, "f:1", "t", ("card",), ("refund",), 0.9) for name in ("a", "", "b", "b")])
    path = correct(tmp_path / "s.csv", ["refnd", "card", "card", "-"])
    with pytest.raises(Problems) as caught:
        label_errors.corrections(path, NAMES)
    assert str(caught.value) == (
        f"{path}:2: `refnd` in column `correct` is not a label, did you mean `refund`?\n"
        "  -> write one of `card`, `refund`, `other`, `+` for the suggested one, `-` to leave the row out, or nothing\n"
        f"{path}:3: the id is blank\n  -> restore it from the file as it was written\n"
        f"{path}:5: id `b` is corrected twice, in two ways\n  -> keep one of the two"
    )


def test_a_file_without_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("id,text,suggested,corect\n1,t,card,card\n")
    with pytest.raises(UserError) as caught:
        label_errors.corrections(path, NAMES)
    assert str(caught.value) == (
        f"{path}:1: no column `correct`, did you mean `corect`?\n"
        "  -> the file needs `id`, `text`, `label`, `suggested`, `score`, `correct` as first line"
    )


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "'=x", "＝1"])
def test_no_cell_is_a_formula(cell: str, tmp_path: Path) -> None:
    path = tmp_path / "suspects.csv"
    label_errors.write_suspects(path, [Suspect(cell, "f:1", cell, (cell,), (cell,), 0.9)])
    with open(path, encoding="utf-8-sig", newline="") as file:
        line = list(csv.reader(file))[1]
    assert line[:4] == ["'" + cell] * 4 and line[5] == ""


@pytest.mark.parametrize("label", ["=1+1", "-", "@home", "'-x", "+"])
def test_labels_that_look_like_formulas_come_back(label: str, tmp_path: Path) -> None:
    label_errors.write_suspects(tmp_path / "suspects.csv", [Suspect("-7", "f:1", "t", ("card",), (label,), 0.9)])
    assert label_errors.corrections(correct(tmp_path / "suspects.csv", [label_errors.guarded(label)]), [label]) == {"-7": (label,)}


def test_a_character_that_no_reader_takes_is_shown() -> None:
    assert label_errors.shortened("a\0b") == "a␀b"


@pytest.mark.parametrize("cell", ["00417", "1234567890123456", "12e5", "3-4", "2026-01-05", "1.50", "12:30", "true", "FALSE", "'007"])
def test_no_cell_is_saved_as_another(cell: str, tmp_path: Path) -> None:
    path = tmp_path / "suspects.csv"
    label_errors.write_suspects(path, [Suspect(cell, "f:1", "t", ("card",), (cell,), 0.9)])
    assert list(csv.reader(path.read_text("utf-8-sig").splitlines()))[1][0] == "'" + cell
    assert label_errors.corrections(correct(path, ["+"])) == {cell: (cell,)}


@pytest.mark.parametrize("cell", ["417", "0", "c0ffee00c0ffee00", "12e5x", "3 days", "truer", "1 2 3"])
def test_a_cell_that_is_safe_stays_as_it_is(cell: str) -> None:
    assert label_errors.guarded(cell) == cell


@given(st.text(alphabet="'=+-@\t\rab ＝01e.", max_size=6))
def test_guarding_can_be_undone(cell: str) -> None:
    assert label_errors.unguarded(label_errors.guarded(cell)) == cell
    assert not label_errors.guarded(cell).startswith(("=", "+", "-", "@", "\t", "\r", "＝"))


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_is_written_and_its_row_read_back(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "suspects.csv"
    label_errors.write_suspects(path, [Suspect("a", "f:1", text, ("card",), ("refund",), 0.9), Suspect("b", "f:1", "t", ("card",), ("refund",), 0.9)])
    assert label_errors.corrections(correct(path, ["+", "-"]), NAMES) == {"a": ("refund",), "b": None}
