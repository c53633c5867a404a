"""Two short lines of coverage_table.py, and its own judgement; `make coverage` runs all lines with 2,000 trials."""

import importlib.util
import sys
from pathlib import Path

import pytest

from tunesmith.evaluation import intervals
from tunesmith.evaluation.classification import calibration


@pytest.fixture(scope="module")
def table():
    place = Path(__file__).parent / "coverage_table.py"
    spec = importlib.util.spec_from_file_location("coverage_table", place)
    sys.modules["coverage_table"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["coverage_table"]


def test_the_intervals_of_few_rows_a_label_hold_the_truth(table, monkeypatch):
    """77 labels x 3: macro F1 is covered in 97 % of trials. Of 40 seeded trials 34 (85 %) must be: fewer have a chance of 5 in 10,000."""
    world = next(one for one in table.WORLDS if one.name == "77 labels x 3")
    monkeypatch.setattr(table, "TRUTH_ROWS", 50_000)
    true, covered = table.truth(world), 0
    for seed in range(40):
        cells = table.trial(world, seed)
        assert all(low <= value <= high for value, low, high in cells.values())
        covered += cells["macro_f1"][1] <= true["macro_f1"] <= cells["macro_f1"][2]
    assert covered >= 34


def test_the_promise_holds_in_groups_and_would_break_in_rows(table, monkeypatch):
    """120 groups of 20, 3 % of them wholly wrong: a promise on rows breaks in about 8 % of trials, on groups in about 1 %."""
    world = next(one for one in table.PROMISES if "120 groups of 20, 3 %" in one.name)
    assert table.line(world, 200)[1] == []
    fit = calibration.fit_abstention
    monkeypatch.setattr(calibration, "fit_abstention", lambda right, sure, target, groups: fit(right, sure, target))
    assert len(table.line(world, 200)[1]) == 1


def test_a_line_below_its_floor_and_a_value_outside_are_named(table, monkeypatch):
    world = next(one for one in table.WORLDS if one.name == "5 labels, 20 rows")
    monkeypatch.setattr(table, "TRUTH_ROWS", 2000)
    monkeypatch.setattr(table, "RESAMPLES", 20)
    monkeypatch.setattr(intervals, "symmetric", lambda value, drawn, units: (value + 1, value + 1))
    monkeypatch.setattr(intervals, "widen_few_differing", lambda low, high, *rest: (low, high))
    wrong = table.line(world, 3)[1]
    assert any("d_macro_f1 covers 0.000, floor 0.90" in one for one in wrong)
    assert any("d_macro_f1 lies outside its own interval in 3 of 3" in one for one in wrong)
