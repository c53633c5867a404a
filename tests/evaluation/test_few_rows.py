"""The bias of macro averages with few rows a label, against worlds whose macro average is known."""

import numpy as np
import pytest

from tunesmith.evaluation.classification import few_rows, metrics


def sums_of(right, wrong, actual):
    """One row of column sums from each label's counts."""
    return np.concatenate([right, right + wrong, actual, np.zeros(3 + metrics.BINS)]).astype(float)


def drawn(rng, labels, rows, rate, false):
    return sums_of(rng.binomial(rows, rate, labels), rng.poisson(false, labels), np.full(labels, rows))


@pytest.mark.parametrize(("rows", "bias"), [(1, -0.065), (2, -0.02)])
def test_the_bias_is_taken_off(rows, bias):
    """300 labels whose true rows are found at 0.7 and that get 0.3 wrong answers a true row: F1 is 1.4 / 2 = 0.7.

    With one row: found with 0.7, and then F1 is 2 / (2 + wrong): 0.7 * (0.741 + 0.222 * 2/3 + 0.033 * 1/2 + ...) = 0.635.
    """
    found, centers = [], []
    for trial in range(40):
        sums = drawn(np.random.default_rng([1, trial]), 300, rows, 0.7, 0.3 * rows)
        found.append(float(metrics.metrics(sums, False)["macro_f1"]))
        lower, upper = few_rows.centers(sums, False, trial)["macro_f1"]
        assert lower == upper
        centers.append(lower)
    assert np.mean(found) - 0.7 == pytest.approx(bias, abs=0.01)
    assert np.mean(centers) == pytest.approx(0.7, abs=0.01)


def test_with_many_rows_nothing_is_taken_off():
    sums = drawn(np.random.default_rng(2), 20, 500, 0.8, 100)
    values = metrics.metrics(sums, False)
    for metric, ends in few_rows.centers(sums, False, 0).items():
        assert ends == pytest.approx((float(values[metric]),) * 2, abs=0.002), metric


def test_a_label_that_is_never_true_raises_the_upper_center_alone():
    right, wrong, actual = np.full(10, 4), np.full(10, 1), np.full(10, 5)
    seen = few_rows.centers(sums_of(right, wrong, actual), False, 0)["macro_f1"]
    right[0] = actual[0] = 0
    lower, upper = few_rows.centers(sums_of(right, wrong, actual), False, 0)["macro_f1"]
    assert seen[0] == seen[1] and lower < seen[0] - 0.05 and upper > lower + 0.03


def test_edges_and_the_same_seed():
    nothing = few_rows.centers(sums_of(np.zeros(3), np.array([0, 2, 0]), np.array([1, 0, 1])), False, 0)
    everything = few_rows.centers(sums_of(np.ones(3), np.zeros(3), np.ones(3)), True, 0)
    assert all(0 <= end <= 1 for ends in (*nothing.values(), *everything.values()) for end in ends)
    assert everything["macro_f1"] == (1, 1) and "weighted_f1" not in everything
    sums = drawn(np.random.default_rng(3), 50, 2, 0.6, 1)
    assert few_rows.centers(sums, False, 5) == few_rows.centers(sums, False, 5) != few_rows.centers(sums, False, 6)


def test_test_sets_drawn_do_not_depend_on_how_many_are_held_at_a_time(monkeypatch):
    """Different pieces draw different sets, which may move a center by no more than the error of `DRAWN` sets."""
    sums = drawn(np.random.default_rng(4), 50, 2, 0.6, 1)
    whole = few_rows.centers(sums, False, 0)["macro_f1"]
    monkeypatch.setattr(few_rows, "CELLS", 1000)
    assert few_rows.centers(sums, False, 0)["macro_f1"] == pytest.approx(whole, abs=0.01)
