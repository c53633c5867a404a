"""Cuts against plain loops, what they do with few rows, and what is kept of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from tunesmith.evaluation.classification import cuts, metrics


def some_rows(rows: int = 400, labels: int = 6, seed: int = 0) -> tuple[Any, Any]:
    """Labels from rare to common, and probabilities that know something of them and are too low for the rare."""
    rng = np.random.default_rng(seed)
    share_C = np.geomspace(0.02, 0.4, labels)
    truth_NC = rng.random((rows, labels)) < share_C
    logit_NC = np.log(share_C / (1 - share_C)) + 2.0 * truth_NC - 0.5 + rng.normal(size=truth_NC.shape)
    return truth_NC, (1 / (1 + np.exp(-logit_NC))).astype(np.float32)


def test_counts_and_the_curve_equal_those_of_one_cut_after_the_other() -> None:
    truth_NC, chance_NC = some_rows()
    chance_NC[:50] = cuts.GRID[np.random.default_rng(1).integers(0, len(cuts.GRID), (50, 6))]  # probabilities that are cuts themselves
    counts, curve = cuts.count(truth_NC, chance_NC.astype(np.float64)), cuts.f1_curve(truth_NC, chance_NC.astype(np.float64))
    for g, cut in enumerate(cuts.GRID):
        given_NC = metrics.predictions(chance_NC.astype(np.float64), True, cut)
        assert counts.given_CG[:, g].tolist() == given_NC.sum(0).tolist() and counts.right_CG[:, g].tolist() == (given_NC & truth_NC).sum(0).tolist()
        scores = metrics.scores(truth_NC, chance_NC.astype(np.float64), cut)
        assert [curve["micro_f1"][g], curve["macro_f1"][g]] == pytest.approx([scores["micro_f1"], scores["macro_f1"]], abs=1e-12)


def test_a_case_worked_by_hand() -> None:
    """One label, rows (0.9, has it), (0.4, has it), (0.3, has it not): from 0.31 to 0.40 F1 is 1, and 0.40 is nearest 0.5."""
    truth_NC = np.array([[True], [True], [False]])
    common, cut_C = cuts.fit(truth_NC, np.array([[0.9], [0.4], [0.3]]))
    assert common == 0.4 and cut_C.tolist() == [0.4]


@pytest.mark.parametrize("borrowed", [0, 20])
def test_the_choice_equals_a_plain_search(borrowed: int) -> None:
    truth_NC, chance_NC = some_rows()
    N, C = truth_NC.shape
    common, cut_C = cuts.fit(truth_NC, chance_NC, borrowed)

    def at(c: int, cut: float) -> tuple[int, int, int]:
        given = [bool(chance_NC[row, c] >= cut) for row in range(N)]
        return sum(g and bool(t) for g, t in zip(given, truth_NC[:, c], strict=True)), sum(given), int(truth_NC[:, c].sum())

    table = {cut: [at(c, cut) for c in range(C)] for cut in cuts.GRID.tolist()}
    micro = {cut: 2 * sum(r for r, _, _ in one) / sum(g + p for _, g, p in one) for cut, one in table.items()}
    assert common == min((cut for cut in micro if micro[cut] > max(micro.values()) - 1e-12), key=lambda cut: abs(cut - 0.5))
    for c in range(C):
        own = {}
        for cut, one in table.items():
            right, given = (sum(x[k] / x[2] for x in one) / C for k in (0, 1))
            r, g, p = one[c]
            own[cut] = 2 * (r + borrowed * right) / (g + borrowed * given + p + borrowed) if g + p + borrowed else 0.0
        best = [cut for cut in own if own[cut] > max(own.values()) - 1e-12]
        assert abs(cut_C[c] - common) == pytest.approx(min(abs(cut - common) for cut in best), abs=1e-12) and cut_C[c] in best


def test_one_lucky_row_does_not_move_a_cut_far_but_many_rows_do() -> None:
    rng = np.random.default_rng(0)
    truth_NC = np.zeros((1000, 9), bool)
    chance_NC = np.full((1000, 9), 0.05)
    for c in range(8):  # eight labels whose rows are found from 0.5 down to 0.3
        truth_NC[100 * c : 100 * c + 100, c] = True
        chance_NC[truth_NC[:, c], c] = rng.uniform(0.3, 0.5, 100)
    for positives, others in ((1, 5), (100, 60)):
        truth_NC[900 : 900 + positives, 8] = True
        chance_NC[900 : 900 + positives, 8] = 0.95
        chance_NC[800 : 800 + others, 8] = 0.6  # without the label, and above all others' cuts
        _, plain_C = cuts.fit(truth_NC, chance_NC, 0)
        common, cut_C = cuts.fit(truth_NC, chance_NC)
        assert plain_C[8] == pytest.approx(0.61) and common < 0.35
        assert (cut_C[8] < 0.35) == (positives == 1)


def test_labels_without_rows_and_rows_without_labels() -> None:
    truth_NC, chance_NC = some_rows()
    truth_NC[:, 2] = False
    chance_NC[:, 2] = 0.001
    _, cut_C = cuts.fit(truth_NC, chance_NC)
    assert cuts.GRID[0] <= cut_C.min() and cut_C.max() <= cuts.GRID[-1] and np.isfinite(cut_C).all()
    nothing = cuts.choose(np.zeros((30, 3), bool), np.full((30, 3), 0.2))
    assert nothing.common == 0.5 and nothing.by_label == [0.5] * 3 and nothing.positives == [0, 0, 0]
    one = cuts.choose(np.ones((1, 2), bool), np.array([[0.7, 0.2]]))
    assert one.rows == 1 and one.held_out == {} and json.loads(json.dumps(asdict(one))) == asdict(one)


def test_chosen_cuts_beat_one_half_on_other_rows() -> None:
    found, gained = [], []
    for seed in range(10):
        truth_NC, chance_NC = some_rows(400, seed=seed)
        chosen = cuts.choose(truth_NC, chance_NC)
        other_NC, other_chance_NC = some_rows(2000, seed=100 + seed)
        scores = {name: metrics.scores(other_NC, other_chance_NC, cut) for name, cut in (("half", 0.5), ("chosen", np.array(chosen.by_label)))}
        gained.append([scores["chosen"][m] - scores["half"][m] for m in ("macro_f1", "micro_f1")])
        found.append([chosen.held_out["chosen"]["macro_f1"] - scores["chosen"]["macro_f1"], max(chosen.curve["micro_f1"])])
    assert (np.array(gained) > 0).all() and np.array(gained)[:, 0].mean() > 0.1
    assert abs(np.array(found)[:, 0].mean()) < 0.03  # what is held out says what new rows will show


def test_held_out_figures_are_not_those_of_the_rows_that_chose() -> None:
    """Noise: no cut is worth anything on other rows, and the held-out figure says so, where the chosen rows' own would flatter."""
    rng = np.random.default_rng(0)
    truth_NC, chance_NC = rng.random((60, 40)) < 0.1, rng.random((60, 40))
    _, cut_C = cuts.fit(truth_NC, chance_NC, 0)
    flattering = metrics.scores(truth_NC, chance_NC, cut_C)["macro_f1"]
    assert cuts.choose(truth_NC, chance_NC).held_out["chosen"]["macro_f1"] < flattering - 0.05


def test_rows_of_one_group_stay_in_one_fold() -> None:
    """Twenty copies of each of ten rows: by rows each fold has seen its rows already, by groups it has not."""
    truth_NC, chance_NC = some_rows(10, 4, seed=3)
    truth_NC, chance_NC = np.repeat(truth_NC, 20, 0), np.repeat(chance_NC, 20, 0)
    groups = [f"customer {row // 20}" for row in range(200)]
    by_rows, by_groups = cuts.choose(truth_NC, chance_NC).held_out, cuts.choose(truth_NC, chance_NC, groups).held_out
    assert by_rows["chosen"]["micro_f1"] > by_groups["chosen"]["micro_f1"] and by_rows["half"] == by_groups["half"]


def test_old_calibrations_read_as_one_half() -> None:
    assert cuts.of({"temperature": 1.0, "abstention": None}) == 0.5
    chosen = cuts.choose(*some_rows())
    assert np.array_equal(cuts.of({"temperature": 1.0, "abstention": None, "cuts": asdict(chosen)}), chosen.by_label)
