"""Metrics against scikit-learn, and small cases worked out by hand."""

import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from tunesmith.evaluation.classification import metrics as ours

warnings.filterwarnings("ignore", module="sklearn")


def some_single(seed, rows=60, classes=5, true=5, given=5):
    """Labels among the first `true` classes and answers among the last `given` ones: some classes lack one or both."""
    rng = np.random.default_rng(seed)
    probabilities = rng.random((rows, classes)).astype(np.float32)
    probabilities[:, : classes - given] *= 0.01
    return rng.integers(0, true, rows), probabilities / probabilities.sum(1, keepdims=True)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
def test_single_label_metrics_equal_scikit_learns_whatever_classes_are_absent(seed, rows, true, given):
    labels, probabilities = some_single(seed, rows, 5, true, given)
    answers, found = probabilities.argmax(1), ours.scores(labels, probabilities)
    macro = {"average": "macro", "zero_division": 0}
    expected = {
        "accuracy": oracle.accuracy_score(labels, answers),
        "macro_f1": oracle.f1_score(labels, answers, **macro),
        "weighted_f1": oracle.f1_score(labels, answers, average="weighted", zero_division=0),
        "macro_precision": oracle.precision_score(labels, answers, **macro),
        "macro_recall": oracle.recall_score(labels, answers, **macro),
        "log_loss": oracle.log_loss(labels, probabilities, labels=range(5)),
    }
    assert set(found) == set(expected) | {"ece"} == set(ours.SINGLE_LABEL)
    # scikit-learn takes the logarithm in float32
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(0.05, 0.95))
def test_multi_label_metrics_equal_scikit_learns_over_the_labels_present(seed, rows, threshold):
    rng = np.random.default_rng(seed)
    labels, probabilities = rng.random((rows, 4)) < [0.1, 0.3, 0.5, 0.0], rng.random((rows, 4)) * [1, 1, 1, 0.04]
    answers, found = probabilities >= threshold, ours.scores(labels, probabilities, threshold)
    present = np.flatnonzero((labels | answers).any(0))
    macro = {"average": "macro", "zero_division": 0, "labels": present}
    expected = {
        "accuracy": oracle.accuracy_score(labels, answers),
        "micro_f1": oracle.f1_score(labels, answers, average="micro", zero_division=0),
        "macro_f1": oracle.f1_score(labels, answers, **macro) if len(present) else 0.0,
        "macro_precision": oracle.precision_score(labels, answers, **macro) if len(present) else 0.0,
        "macro_recall": oracle.recall_score(labels, answers, **macro) if len(present) else 0.0,
        "log_loss": np.mean([oracle.log_loss(labels[:, c], probabilities[:, c], labels=[0, 1]) for c in range(4)]),
    }
    assert set(found) == set(expected) | {"ece"} == set(ours.MULTI_LABEL)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_a_label_given_but_never_true_counts_as_zero_and_an_absent_one_does_not_count():
    """Truth 0 0 1, answers 0 2 1, class 3 nowhere: F1 are 2/3, 1, 0, so macro F1 is (2/3 + 1 + 0) / 3."""
    probabilities = np.eye(4)[[0, 2, 1]]
    assert ours.scores(np.array([0, 0, 1]), probabilities)["macro_f1"] == pytest.approx(5 / 9)


def test_ece_by_hand():
    """Two forecasts of 0.9, one right: gap 0.4, weight 2/3. One of 0.6, right: gap 0.4, weight 1/3. ECE 0.4."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    assert ours.scores(np.array([0, 1, 1]), probabilities)["ece"] == pytest.approx(0.4)
    # gaps of opposite sign within a bin cancel: 0.9 right, 0.9 wrong against a bin mean accuracy of 1/2
    multi = ours.scores(np.array([[True, False]]), np.array([[0.9, 0.9]]))
    assert multi["ece"] == pytest.approx(0.4)


def test_bins_are_closed_above():
    assert ours.confidence_bin(np.array([0.0, 0.1, 0.1000001, 0.2, 1.0]), 10).tolist() == [0, 0, 1, 1, 9]


def test_log_loss_of_a_certain_error_is_finite():
    assert ours.scores(np.array([0]), np.array([[0.0, 1.0]]))["log_loss"] == pytest.approx(15.9424, abs=1e-4)


def test_per_class_equals_scikit_learns():
    labels, probabilities = some_single(3, true=4, given=3)
    found = ours.per_class(np.asarray(ours.row_sums(labels, probabilities).sum(0)))
    expected = oracle.precision_recall_fscore_support(labels, probabilities.argmax(1), labels=range(5), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(found[name], values, atol=1e-12)
    records = ours.by_name(found, list("abcde"))
    assert records[4]["label"] == "e" and records[4]["support"] == 0 and isinstance(records[4]["support"], int)


def test_confusion_and_most_confused():
    labels, answers = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 0, 1, 2, 2])
    cells = ours.confusion(labels, answers, 4)
    dense = oracle.confusion_matrix(labels, answers, labels=range(4))
    assert cells.tolist() == [[i, j, dense[i, j]] for i, j in zip(*np.nonzero(dense), strict=True)]
    assert ours.most_confused(cells) == [(0, 1, 2), (1, 2, 1)]
    assert ours.most_confused(cells, most=1) == [(0, 1, 2)]


def test_confusions_of_many_labels_take_no_matrix():
    """Of 5,000 labels a matrix would hold 25 million cells: 200 MB."""
    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, 5000, 2000), rng.integers(0, 5000, 2000)
    tracemalloc.start()
    cells = ours.confusion(labels, answers, 5000)
    worst = ours.most_confused(cells)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6 and cells[:, 2].sum() == 2000 and len(worst) == 10
    truth, answer, rows = worst[0]
    assert rows == ((labels == truth) & (answers == answer)).sum()


def test_worst_errors_are_the_surest_and_only_errors():
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.01, 0.99], [0.2, 0.8]])
    found = ours.worst_errors(np.array([1, 1, 1, 0]), probabilities)
    assert [(row, answer) for row, answer, _ in found] == [(1, 0), (3, 1), (0, 0)]
    assert ours.worst_errors(np.array([0, 0, 1, 1]), probabilities) == []


def test_worst_errors_of_several_labels_name_the_label_decided_wrongly():
    labels = np.array([[True, False], [True, True], [False, False]])
    probabilities = np.array([[0.9, 0.7], [0.05, 0.2], [0.1, 0.2]])
    found = ours.worst_errors(labels, probabilities)
    assert [(row, label) for row, label, _ in found] == [(1, 0), (0, 1)]
    assert found[0][2] == pytest.approx(0.95)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(AssertionError):
        ours.row_sums(np.array([0, 2]), np.full((2, 2), 0.5))
    with pytest.raises(AssertionError):
        ours.row_sums(np.array([0]), np.array([[np.nan, 1.0]]))
