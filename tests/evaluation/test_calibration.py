"""Temperature, reliability, abstention and detection against scikit-learn, scipy and known truths."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve

from tunesmith.evaluation.classification import calibration, metrics


def forecasts(rng, rows, classes, too_sure):
    """Logits that are `too_sure` times as large as the truth, and labels drawn from the truth."""
    true = 2 * rng.normal(size=(rows, classes))
    chance = calibration.softened(true, 1.0)
    return too_sure * true, (chance.cumsum(1) > rng.random((rows, 1))).argmax(1)


def test_temperature_finds_how_much_too_sure_a_model_is():
    rng = np.random.default_rng(0)
    logits, labels = forecasts(rng, 5000, 5, too_sure=3.0)
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(3, rel=0.05)
    before, after = (calibration.reliability(labels, calibration.softened(logits, t))["ece"] for t in (1.0, found))
    assert before > 0.1 and after < 0.02
    assert (calibration.softened(logits, found).argmax(1) == logits.argmax(1)).all()


def test_temperature_of_several_labels():
    rng = np.random.default_rng(1)
    true = 2 * rng.normal(size=(3000, 4))
    labels = rng.random((3000, 4)) < calibration.softened(true, 1.0, multi_label=True)
    assert calibration.fit_temperature(0.5 * true, labels) == pytest.approx(0.5, rel=0.05)
    assert calibration.fit_temperature(0.5 * (true - 1), labels, offset=1.0) == pytest.approx(0.5, rel=0.05)


def test_a_faultless_validation_set_does_not_make_a_model_certain():
    """The best forecast against targets (n + 1) / (n + 2) is just that: 41/42 for 40 rows, all alike and all right."""
    logits, labels = np.tile([8.0, 0.0], (40, 1)), np.zeros(40, int)
    probability = calibration.softened(logits, calibration.fit_temperature(logits, labels))[0, 0]
    assert probability == pytest.approx(41 / 42, abs=1e-4)


def test_temperature_minimises_the_smoothed_cross_entropy():
    rng = np.random.default_rng(8)
    logits, labels = forecasts(rng, 12, 3, 2.0)
    target = np.where(np.eye(3)[labels] == 1, 13 / 14, 1 / 28)
    grid = np.exp(np.linspace(-3, 4, 7001))
    losses = [-(target * np.log(calibration.softened(logits, t))).sum() for t in grid]
    assert calibration.fit_temperature(logits, labels) == pytest.approx(grid[np.argmin(losses)], rel=2e-3)


def test_reliability_points_and_ece_by_hand():
    found = calibration.reliability(np.array([0, 1, 1]), np.array([[0.95, 0.05], [0.97, 0.03], [0.4, 0.6]]))
    assert found["count"] == [1, 2]
    assert found["confidence"] == pytest.approx([0.6, 0.96]) and found["accuracy"] == [1.0, 0.5]
    assert found["ece"] == pytest.approx((0.4 + 2 * 0.46) / 3)


def test_the_two_ways_to_the_ece_agree():
    logits, labels = forecasts(np.random.default_rng(2), 400, 4, 2.0)
    single = calibration.softened(logits, 1.0).astype(np.float32)
    several, many = np.eye(4, dtype=bool)[labels], calibration.softened(logits, 1.0, multi_label=True)
    for truth, probabilities in ((labels, single), (several, many)):
        expected = metrics.scores(truth, probabilities)["ece"]
        assert calibration.reliability(truth, probabilities)["ece"] == pytest.approx(expected, abs=1e-9)


def test_coverage_curve_by_hand():
    right, confidence = np.array([True, False, True, True]), np.array([0.9, 0.5, 0.8, 0.8])
    found = calibration.coverage_curve(right, confidence)
    assert found["coverage"] == [0.25, 0.75, 1.0]  # the two rows at 0.8 stay together
    assert found["accuracy"] == [1.0, 1.0, 0.75] and found["threshold"] == [0.9, 0.8, 0.5]


def test_coverage_curve_is_thinned_and_keeps_its_ends():
    rng = np.random.default_rng(3)
    right, confidence = rng.random(5000) < 0.8, rng.random(5000)
    found = calibration.coverage_curve(right, confidence)
    assert len(found["coverage"]) == 100 and found["coverage"][-1] == 1 and found["accuracy"][-1] == right.mean()


def test_right_and_sure_of_several_labels_is_the_least_sure_label():
    labels, probabilities = np.array([[True, False], [True, True]]), np.array([[0.9, 0.2], [0.9, 0.4]])
    right, sure = calibration.right_and_sure(labels, probabilities)
    assert right.tolist() == [True, False] and sure == pytest.approx([0.8, 0.6])


def test_abstention_promises_the_clopper_pearson_bound():
    confidence = np.linspace(1, 0, 200)
    right = np.arange(200) < 190
    found = calibration.fit_abstention(right, confidence, 0.95)
    assert found.coverage == pytest.approx(0.95) and found.accuracy == 1.0
    exact = binomtest(190, 190).proportion_ci(1 - 2 * 0.05 / calibration.CANDIDATES, method="exact").low
    assert found.bound == pytest.approx(exact) and found.bound >= 0.95
    assert (confidence >= found.threshold).sum() == 190


def test_abstention_promises_nothing_from_few_rows():
    """117 right rows are needed for 0.95 at 0.95, as the docstring says: 0.0025^(1/n) >= 0.95."""
    for rows, promised in ((116, False), (117, True)):
        found = calibration.fit_abstention(np.ones(rows, bool), np.ones(rows), 0.95)
        assert (found.threshold is not None) == promised
    nothing = calibration.fit_abstention(np.ones(40, bool), np.ones(40), 0.95)
    assert nothing.threshold is None and nothing.accuracy is None and nothing.bound == pytest.approx(0.0025 ** (1 / 40))


def test_the_promise_of_abstention_is_kept():
    """Chance of being right equals the confidence, so the accuracy on rows above t is (1 + t) / 2: known exactly."""
    broken, made = 0, 0
    for trial in range(200):
        rng = np.random.default_rng([4, trial])
        confidence = rng.random(1500)
        found = calibration.fit_abstention(rng.random(1500) < confidence, confidence, 0.9)
        if found.threshold is not None:
            made += 1
            broken += (1 + found.threshold) / 2 < 0.9
    assert made > 50 and broken / 200 <= 0.05


def test_the_promise_of_abstention_counts_groups_and_not_rows():
    """600 rows that are all right promise 95 %; as 120 groups of 5 they still do; as 30 groups of 20 they promise 0.0025^(1/30)."""
    right = np.ones(600, bool)
    for size, promised in ((1, True), (5, True), (20, False)):
        groups = (np.arange(600) // size).tolist()
        found = calibration.fit_abstention(right, right * 1.0, 0.95, groups=groups)
        assert (found.threshold is not None) == promised and found.groups == 600 // size and found.rows == 600
    assert found.bound == pytest.approx(0.0025 ** (1 / 30))
    assert calibration.fit_abstention(right, right * 1.0, 0.95, groups=["a"] * 600).bound == pytest.approx(0.0025)
    for groups in (list(range(600)), [None] * 600):  # each row a group of its own, and rows of no group: as without groups
        alone = calibration.fit_abstention(right, right * 1.0, 0.95, groups=groups)
        assert alone == replace(calibration.fit_abstention(right, right * 1.0, 0.95), groups=600)


def test_groups_that_are_wholly_right_or_wrong_count_as_one_row_each():
    """240 groups of 10, 3 of them wrong throughout: at most what 3 errors in 240 rows promise, and far below 30 in 2,400."""
    right = np.repeat(np.arange(240) % 80 != 0, 10)
    found = calibration.fit_abstention(right, np.ones(2400), 0.99, groups=(np.arange(2400) // 10).tolist())
    exact = binomtest(237, 240).proportion_ci(1 - 2 * 0.05 / calibration.CANDIDATES, method="exact").low
    assert found.threshold is None and found.bound == pytest.approx(exact)
    assert calibration.fit_abstention(right, np.ones(2400), 0.975).threshold is not None and exact < 0.96


def test_detection_equals_scikit_learns():
    rng = np.random.default_rng(5)
    inside, outside = np.round(rng.normal(1, 1, 300), 1), np.round(rng.normal(0, 1, 120), 1)  # rounded, to have ties
    found = calibration.detection(inside, outside)
    truth, scores = np.r_[np.ones(300), np.zeros(120)], np.r_[inside, outside]
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores))
    false, true, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    first = np.argmax(true >= 0.95)
    assert (found["fpr_at_95_recall"], found["threshold"]) == pytest.approx((false[first], thresholds[first]))


def test_detection_lets_through_just_enough_rows_in_scope():
    """Of 21 rows 20 are needed (0.95 * 21 = 19.95), so the threshold is 2; rows out of scope at 2 and 3 pass, at 1 not."""
    found = calibration.detection(np.arange(1, 22), np.array([1, 2, 3, 1]))
    assert found["threshold"] == 2 and found["fpr_at_95_recall"] == 0.5
    assert calibration.detection(np.arange(1, 21), np.array([0]))["threshold"] == 2  # 19 of 20


def test_scores_of_scope():
    logits = np.array([[2.0, 0.0], [0.0, 0.0]])
    assert calibration.negative_energy(logits) == pytest.approx([np.log(np.exp(2) + 1), np.log(2)])
    assert calibration.negative_energy(logits, 2.0)[1] == pytest.approx(2 * np.log(2))
    assert calibration.max_probability(np.array([[0.3, 0.7]])) == pytest.approx([0.7])
