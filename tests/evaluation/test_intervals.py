"""Intervals and tests against enumeration, scipy and scikit-learn, and their coverage in simulation."""

import itertools

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.special import expit, logit, stdtrit
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from tunesmith.core.errors import UserError
from tunesmith.core.statistics import wilson
from tunesmith.evaluation import intervals
from tunesmith.evaluation.classification import metrics


def statistic(sums):
    return metrics.metrics(sums, False)


def answers_of(rng, labels, classes, error):
    """Probabilities whose answers are wrong at a rate that may differ by row."""
    wrong = rng.random(len(labels)) < error
    answers = np.where(wrong, (labels + 1 + rng.integers(0, classes - 1, len(labels))) % classes, labels)
    return np.eye(classes)[answers] * 0.7 + 0.3 / classes


def test_each_resample_is_scikit_learns_score_of_the_rows_drawn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 50)
    probabilities = answers_of(rng, labels, 4, 0.4)
    drawn = intervals.bootstrap([metrics.row_sums(labels, probabilities)], statistic, seed=7, resamples=20)[0]
    weights = np.concatenate(list(intervals._weights(50, 20, 7)), axis=1)
    assert (weights.sum(0) == 50).all() and len(np.unique(weights, axis=1).T) == 20
    for resample in range(20):
        rows = np.repeat(np.arange(50), weights[:, resample].astype(int))
        expected = f1_score(labels[rows], probabilities.argmax(1)[rows], average="macro", zero_division=0)
        assert drawn["macro_f1"][resample] == pytest.approx(expected)


def test_resamples_do_not_depend_on_how_many_are_held_at_a_time(monkeypatch):
    labels = np.arange(30) % 3
    model = metrics.row_sums(labels, answers_of(np.random.default_rng(1), labels, 3, 0.3))
    whole = intervals.bootstrap([model, model], statistic, 0, 50)
    assert (whole[0]["accuracy"] == whole[1]["accuracy"]).all()  # the same draws for every model
    assert len(np.unique(whole[0]["log_loss"])) > 20
    monkeypatch.setattr(intervals, "CELLS", 30 * 7)
    pieces = intervals.bootstrap([model], statistic, 0, 50)[0]["accuracy"]
    np.testing.assert_array_equal(pieces, whole[0]["accuracy"])


def test_copies_of_a_row_in_one_group_add_no_certainty():
    labels = np.arange(40) % 4
    probabilities = answers_of(np.random.default_rng(2), labels, 4, 0.3)
    once = metrics.row_sums(labels, probabilities)
    rows = np.repeat(np.arange(40), 5)
    units = intervals.unit_of_rows([f"customer {i}" for i in rows], 200)
    copied = intervals.unit_sums(metrics.row_sums(labels[rows], probabilities[rows]), units)
    one, five = intervals.bootstrap([once, copied], statistic, 0, 200)
    for name in one:
        np.testing.assert_allclose(one[name], five[name], atol=1e-12)
    alone = intervals.bootstrap([metrics.row_sums(labels[rows], probabilities[rows])], statistic, 0, 200)[0]
    assert alone["accuracy"].std() < 0.6 * five["accuracy"].std()


def test_rows_without_a_group_are_units_of_their_own():
    assert intervals.unit_of_rows(["a", None, "a", None, "b"], 5).tolist() == [0, 1, 0, 2, 3]
    assert intervals.unit_of_rows(None, 3).tolist() == [0, 1, 2]


def test_a_single_group_is_refused_with_a_remedy():
    with pytest.raises(UserError, match="4 test rows in 1 group: an interval needs at least two") as caught:
        intervals.unit_of_rows(["a"] * 4, 4)
    assert "add test rows" in caught.value.remedy


def test_half_width_is_t_times_the_standard_deviation_put_right_for_few_units():
    """Of means of 10 units: t(9) = 2.2622, sqrt(10 / 9) = 1.0541."""
    normal = np.random.default_rng(0).normal(size=200_000)
    assert intervals.half_width(normal, 100_000) == pytest.approx(1.96, rel=0.01)
    assert intervals.half_width(normal, 10) == pytest.approx(2.2622 * 1.0541 * normal.std(ddof=1), rel=1e-4)
    assert intervals.symmetric(0.5, normal, 10) == pytest.approx((0.5 - 2.3846, 0.5 + 2.3846), rel=0.01)


def test_a_share_has_an_interval_symmetric_in_log_odds_that_holds_it():
    low, high = intervals.of_share(0.8, 0.08, 1000)
    assert logit(0.8) - logit(low) == pytest.approx(logit(high) - logit(0.8)) == pytest.approx(0.08 / 0.16)
    for value in (0.0, 0.001, 0.5, 1.0):
        for lower, upper in ((None, None), (0.2, 0.2), (0.9, 1.0)):
            low, high = intervals.of_share(value, 0.3, 5, lower, upper)
            assert 0 <= low <= value <= high <= 1
    low, high = intervals.of_share(0.6, 0.03, 1000, 0.7, 0.8)
    assert low == 0.6 and high == pytest.approx(expit(logit(0.8) + 0.03 / 0.16))


def test_the_interval_of_a_ratio_leans_with_the_skewness_of_its_units():
    """Symmetric units give the t interval: here of a mean of 20 units, error 1.026 / sqrt(20)."""
    even = np.r_[np.full(10, 4.0), np.full(10, 6.0)]
    low, high = intervals.of_ratio(even, np.ones(20))
    half = stdtrit(19, 0.975) * np.sqrt(20 / 19) / np.sqrt(20)
    assert (low, high) == pytest.approx((5 - half, 5 + half))
    skewed = np.r_[np.ones(37), 5.0, 6.0, 9.0]
    low, high = intervals.of_ratio(skewed, np.ones(40))
    assert low < skewed.mean() < high and high - skewed.mean() > 1.5 * (skewed.mean() - low)
    assert intervals.of_ratio(np.full(5, 3.0), np.full(5, 2.0)) == (1.5, 1.5)
    assert intervals.of_ratio(np.r_[np.zeros(19), 1.0], np.ones(20))[0] == 0


def test_the_ece_of_a_calibrated_model_may_be_zero_and_of_another_may_not():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 400)
    for shift, zero in ((0.0, True), (-0.2, False)):
        right = rng.random(400) < confidence + shift
        gaps = np.zeros((400, metrics.BINS))
        gaps[np.arange(400), metrics.confidence_bin(confidence)] = right - confidence

        def ece(sums):
            return {"ece": np.abs(sums).sum(-1) / 400}

        drawn = intervals.bootstrap([csr_array(gaps)], ece, 0, 300)[0]["ece"]
        value = float(np.abs(gaps.sum(0)).sum() / 400)
        low, high = intervals.of_ece(value, drawn, gaps, 400, float(1 - right.mean()))
        assert (low == 0) == zero and low <= value <= high


def test_no_error_gives_no_zero_width():
    low, high = intervals.widen_near_edge(1.0, 1.0, 1.0, np.ones(40))
    assert (low, high) == pytest.approx((float(wilson(40, 40)[0]), 1.0))
    low, high = intervals.widen_near_edge(0.0, 0.0, 0.0, np.zeros(40))
    assert (low, high) == pytest.approx((0.0, float(wilson(0, 40)[1])))
    few = np.r_[np.ones(37), np.zeros(3)]
    assert intervals.widen_near_edge(0.92, 0.93, 37 / 40, few) == pytest.approx(wilson(37, 40))
    # groups that are 2 % wrong each are no reason for an interval as if they were all wrong
    assert intervals.widen_near_edge(0.99, 1.0, 0.997, np.r_[np.ones(37), np.full(3, 0.98)])[0] > 0.98
    many = np.r_[np.ones(20), np.zeros(20)]
    assert intervals.widen_near_edge(0.4, 0.6, 0.5, many) == (0.4, 0.6)


def test_models_that_hardly_differ_have_no_interval_of_zero_width():
    low, high = intervals.widen_few_differing(0.0, 0.0, 0.0, np.ones(40), np.ones(40))
    assert low == pytest.approx(-high) and 0.03 < high < 0.1
    first = np.r_[np.ones(30), np.zeros(10)]
    assert intervals.widen_few_differing(-0.2, 0.3, 0.1, first, 1 - first) == (-0.2, 0.3)


def test_bonett_price_by_hand():
    """8 and 2 of 98 rows: shares 9/100 and 3/100, variance (0.12 - 0.0036) / 100, so 0.06 +- 1.96 * 0.034117."""
    assert intervals.bonett_price(8, 2, 98) == pytest.approx((0.06 - 0.066869, 0.06 + 0.066869), abs=1e-5)


def test_mcnemar_equals_the_exact_binomial_test():
    for first, second in [(0, 0), (5, 0), (9, 3), (20, 20), (100, 61)]:
        expected = binomtest(first, first + second).pvalue if first + second else 1.0
        assert intervals.mcnemar(first, second) == pytest.approx(expected)
    assert intervals.mcnemar(3000, 0) > 0


def test_sign_flip_agrees_with_all_exchanges_and_for_accuracy_with_mcnemar():
    rng = np.random.default_rng(5)
    labels = np.arange(9) % 3
    first, second = answers_of(rng, labels, 3, 0.1), answers_of(rng, labels, 3, 0.7)

    def difference(one, other):
        there, here = (statistic(np.asarray(metrics.row_sums(labels, p).sum(0))) for p in (other, one))
        return {name: here[name] - there[name] for name in here}

    observed, exceed = difference(first, second), dict.fromkeys(metrics.SINGLE_LABEL, 0)
    for swap in itertools.product([False, True], repeat=9):
        mask = np.array(swap)[:, None]
        flipped = difference(np.where(mask, second, first), np.where(mask, first, second))
        for name in exceed:
            exceed[name] += abs(flipped[name]) >= abs(observed[name]) - 1e-12
    sums = [metrics.row_sums(labels, p) for p in (first, second)]
    found = intervals.sign_flip(*sums, statistic, seed=0, flips=20_000)
    for name in ("accuracy", "macro_f1", "log_loss"):
        assert found[name] == pytest.approx(exceed[name] / 2**9, abs=0.015), name
    right = [(p.argmax(1) == labels).astype(float) for p in (first, second)]
    assert exceed["accuracy"] / 2**9 == pytest.approx(intervals.mcnemar(*intervals.only(*right)))


def test_a_model_against_itself_has_p_one():
    labels = np.arange(30) % 3
    model = metrics.row_sums(labels, answers_of(np.random.default_rng(0), labels, 3, 0.3))
    assert set(intervals.sign_flip(model, model, statistic, 0, 100).values()) == {1.0}


def test_any_ratio_of_sums_has_an_interval():
    """Perplexity: exp(loss / tokens). With independent losses of deviation 1 over 400 rows the log has a half-width of 0.098."""
    loss = np.random.default_rng(0).normal(2, 1, 400)
    rows = csr_array(np.stack([loss, np.ones(400)], 1))
    drawn = intervals.bootstrap([rows], lambda s: {"perplexity": np.exp(s[..., 0] / s[..., 1])}, 0)[0]["perplexity"]
    low, high = intervals.symmetric(float(np.exp(loss.mean())), drawn, 400)
    assert np.log(high / low) / 2 == pytest.approx(0.098, rel=0.1)
    low, high = intervals.of_ratio(loss, np.ones(400))
    assert (high - low) / 2 == pytest.approx(0.098, rel=0.1)


@pytest.mark.parametrize(("rows", "group_size"), [(200, 1), (400, 8)])
def test_95_percent_intervals_cover_the_truth_in_95_percent_of_trials(rows, group_size):
    """Macro F1 and a difference, independent rows and groups with their own error rate: 300 trials, 92 to 98 % covered."""
    classes, trials, covered = 4, 300, {"macro_f1": 0, "difference": 0}
    # by symmetry of classes and errors, F1 of every class is the accuracy: 0.8, and 0.7 for the second model
    for trial in range(trials):
        rng = np.random.default_rng([11, trial])
        groups = np.arange(rows) // group_size
        labels = rng.integers(0, classes, rows)
        hard = rng.beta(4, 16, rows)[groups] if group_size > 1 else np.full(rows, 0.2)
        models = [answers_of(rng, labels, classes, hard), answers_of(rng, labels, classes, 1.5 * hard)]
        units = intervals.unit_of_rows(groups.tolist(), rows)
        sums = [intervals.unit_sums(metrics.row_sums(labels, p), units) for p in models]
        first, second = (values["macro_f1"] for values in intervals.bootstrap(sums, statistic, trial, 300))
        here, there = (float(statistic(np.asarray(s.sum(0)))["macro_f1"]) for s in sums)
        low, high = intervals.of_share(here, intervals.half_width(first, rows // group_size), rows // group_size)
        covered["macro_f1"] += low <= 0.8 <= high
        low, high = intervals.symmetric(here - there, first - second, rows // group_size)
        covered["difference"] += low <= 0.1 <= high
    assert all(0.92 <= count / trials <= 0.98 for count in covered.values()), covered


def test_p_values_of_equal_models_are_below_5_percent_in_5_percent_of_trials():
    below, trials = 0, 300
    for trial in range(trials):
        rng = np.random.default_rng([12, trial])
        labels = rng.integers(0, 3, 150)
        sums = [metrics.row_sums(labels, answers_of(rng, labels, 3, 0.25)) for _ in range(2)]
        below += intervals.sign_flip(*sums, statistic, trial, 200)["macro_f1"] < 0.05
    assert 0.02 <= below / trials <= 0.08
