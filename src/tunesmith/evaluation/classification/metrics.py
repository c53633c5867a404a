"""Metrics of a classifier, all of them functions of one row of column sums.

Each test row becomes a sparse vector of statistics (`row_sums`); the metrics of a test set depend only on the sum of those
vectors (`metrics`). A bootstrap resample, a sign flip or a slice is then a weighted sum of rows, so the same function gives
the figure, its interval and its test, and there is one definition of macro F1 in the repository.

Legend: N rows, C classes, K columns of sums = 3 C + 3 + BINS, ... any leading axes (none for the figure, B for resamples).
Single-label: labels int (N,). Multi-label: labels bool (N, C). Which it is follows from the dimensions of `labels`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15
"""Equal-width confidence bins of the ECE. Source: Guo et al. 2017 (arXiv 1706.04599), section 4, M = 15."""

SMALLEST = float(np.finfo(np.float32).eps)
"""Probabilities are raised to this in the log loss, what scikit-learn does for float32, so that a zero costs 15.9 nats."""

SINGLE_LABEL = ("accuracy", "macro_f1", "weighted_f1", "macro_precision", "macro_recall", "log_loss", "ece")
MULTI_LABEL = ("accuracy", "macro_f1", "micro_f1", "macro_precision", "macro_recall", "log_loss", "ece")
ERRORS = frozenset({"log_loss", "ece"})
"""Metrics of which less is better; every other one lies in [0, 1] and is 1 when no row is wrong."""


def check(labels: NDArray[Any], probabilities: NDArray[Any]) -> None:
    """Assert what every function here relies on; a violation is our own mistake, never the user's."""
    assert probabilities.ndim == 2 and len(labels) == len(probabilities) > 0, (labels.shape, probabilities.shape)
    assert np.isfinite(probabilities).all() and probabilities.min() >= 0 and probabilities.max() <= 1 + 1e-5
    if labels.ndim == 1:
        assert labels.min() >= 0 and labels.max() < probabilities.shape[1]
    else:
        assert labels.shape == probabilities.shape and labels.dtype == np.bool_


def predictions(probabilities: NDArray[Any], multi_label: bool, threshold: float | NDArray[Any] = 0.5) -> NDArray[Any]:
    """What the model answers.

    Args:
        probabilities: (N, C).
        multi_label: any number of labels a row, or exactly one.
        threshold: multi-label only: a label is given when its probability is at least this; one value or (C,).

    Returns:
        Single-label: int (N,), the first of equally probable labels. Multi-label: bool (N, C).
    """
    return probabilities >= threshold if multi_label else probabilities.argmax(1)


def row_sums(labels: NDArray[Any], probabilities: NDArray[Any], threshold: float | NDArray[Any] = 0.5) -> Any:
    """The statistics of each row whose sums over rows give every metric.

    Args:
        labels: int (N,) or bool (N, C).
        probabilities: (N, C); single-label rows sum to one.
        threshold: see `predictions`.

    Returns:
        scipy.sparse.csr_array (N, K): true positives C, predicted C, actual C, wholly right, log loss, one, and for
        each confidence bin the sum of (outcome - confidence).
    """
    from scipy.sparse import coo_array

    check(labels, probabilities)
    (N, C), multi_label = probabilities.shape, labels.ndim == 2
    answers, every = predictions(probabilities, multi_label, threshold), np.arange(N)
    if multi_label:
        truth, given, right = np.nonzero(labels), np.nonzero(answers), np.nonzero(labels & answers)
        whole = (labels == answers).all(1)
    else:
        whole = labels == answers
        truth, given, right = (every, labels), (every, answers), (every[whole], labels[whole])
    loss_N, bin_rows, bins, gaps = _loss_and_gaps(labels, probabilities, whole)
    parts = [
        (right[0], right[1], np.ones(len(right[0]))),
        (given[0], given[1] + C, np.ones(len(given[0]))),
        (truth[0], truth[1] + 2 * C, np.ones(len(truth[0]))),
        (every[whole], np.full(whole.sum(), 3 * C), np.ones(whole.sum())),
        (every, np.full(N, 3 * C + 1), loss_N),
        (every, np.full(N, 3 * C + 2), np.ones(N)),
        (bin_rows, bins + 3 * C + 3, gaps),
    ]
    rows, columns, values = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return coo_array((values, (rows, columns)), shape=(N, 3 * C + 3 + BINS)).tocsr()  # tocsr adds up cells named twice


def _loss_and_gaps(labels: NDArray[Any], probabilities: NDArray[Any], whole: NDArray[Any]) -> tuple[Any, Any, Any, Any]:
    """Log loss (N,), and row, bin and (outcome - confidence) of each forecast: one a row, or C a row when multi-label."""
    N, C = probabilities.shape
    p = probabilities.astype(np.float64)
    if labels.ndim == 2:
        chance_of_truth = np.where(labels, p, 1 - p)
        loss_N = -np.log(np.clip(chance_of_truth, SMALLEST, 1)).mean(1)
        return loss_N, np.repeat(np.arange(N), C), confidence_bin(p.ravel()), (labels - p).ravel()
    loss_N = -np.log(np.clip(p[np.arange(N), labels], SMALLEST, 1))
    confidence_N = p.max(1)
    return loss_N, np.arange(N), confidence_bin(confidence_N), whole - confidence_N


def confidence_bin(confidence: NDArray[Any], bins: int = BINS) -> Ints:
    """The bin i of `bins` with i/bins < confidence <= (i+1)/bins; a confidence of zero falls into the first."""
    which: Ints = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return which


def _ratio(above: Floats, below: Floats) -> Floats:
    """Division with 0 / 0 = 0, scikit-learn's `zero_division=0`."""
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)


def metrics(sums: Floats, multi_label: bool) -> dict[str, Floats]:
    """All metrics from sums of rows.

    Macro averages run over the classes present in the truth or among the answers, as scikit-learn does for single-label
    data; multi-label does the same here (scikit-learn averages over all columns), because a label that neither occurs nor
    is given says nothing about the model. A class that is given but never true counts with an F1 of 0.

    Args:
        sums: (..., K), weighted sums of the rows of `row_sums`.
        multi_label: chooses `MULTI_LABEL` over `SINGLE_LABEL`, where accuracy means that all labels of a row are right.

    Returns:
        Each metric (...,). log_loss in nats a row (multi-label: a row and class); all others are shares of 1.

    Source: definitions of scikit-learn 1.9 with zero_division=0; ECE: Guo et al. 2017 (arXiv 1706.04599), equation 3.
    """
    C = (sums.shape[-1] - 3 - BINS) // 3
    right, given, actual = sums[..., :C], sums[..., C : 2 * C], sums[..., 2 * C : 3 * C]
    whole, loss, rows = sums[..., 3 * C], sums[..., 3 * C + 1], sums[..., 3 * C + 2]
    f1 = _ratio(2 * right, given + actual)
    present = (given + actual > 0).sum(-1)
    found = {
        "accuracy": _ratio(whole, rows),
        "macro_f1": _ratio(f1.sum(-1), present),  # an absent class adds 0 above and nothing below
        "macro_precision": _ratio(_ratio(right, given).sum(-1), present),
        "macro_recall": _ratio(_ratio(right, actual).sum(-1), present),
        "weighted_f1": _ratio((f1 * actual).sum(-1), actual.sum(-1)),
        "micro_f1": _ratio(2 * right.sum(-1), (given + actual).sum(-1)),
        "log_loss": _ratio(loss, rows),
        "ece": _ratio(np.abs(sums[..., 3 * C + 3 :]).sum(-1), rows * (C if multi_label else 1)),
    }
    return {name: found[name] for name in (MULTI_LABEL if multi_label else SINGLE_LABEL)}


def per_class(sums: Floats) -> dict[str, Floats]:
    """Precision, recall, F1, support (true rows) and predicted (rows given the label) of each class, (C,) each."""
    C = (sums.shape[-1] - 3 - BINS) // 3
    right, given, actual = sums[:C], sums[C : 2 * C], sums[2 * C : 3 * C]
    return {
        "precision": _ratio(right, given),
        "recall": _ratio(right, actual),
        "f1": _ratio(2 * right, given + actual),
        "support": actual,
        "predicted": given,
        "right": right,
    }


def scores(labels: NDArray[Any], probabilities: NDArray[Any], threshold: float | NDArray[Any] = 0.5) -> dict[str, float]:
    """The metrics of one model as plain numbers; arguments as `row_sums`, names and meaning as `metrics`."""
    sums = row_sums(labels, probabilities, threshold).sum(0)
    return {name: float(value) for name, value in metrics(np.asarray(sums), labels.ndim == 2).items()}


def confusion(labels: NDArray[Any], answers: NDArray[Any], classes: int) -> Ints:
    """The cells of the confusion matrix that are not 0. Single-label only.

    A whole matrix of 10,000 labels has 100 million cells, of which N rows fill N at most.

    Args:
        labels, answers: int (N,).
        classes: C.

    Returns:
        (cells, 3): truth, answer and rows, in the order of the labels.
    """
    keys, counts = np.unique(labels.astype(np.int64) * classes + answers, return_counts=True)
    return np.stack([keys // classes, keys % classes, counts], 1)


def most_confused(cells: Ints, most: int = 10) -> list[tuple[int, int, int]]:
    """The commonest kinds of error, from `confusion`: (truth, answer, rows), most rows first, ties in label order."""
    wrong = cells[cells[:, 0] != cells[:, 1]]
    order = np.argsort(-wrong[:, 2], kind="stable")[:most]
    return [(int(i), int(j), int(n)) for i, j, n in wrong[order]]


def worst_errors(
    labels: NDArray[Any], probabilities: NDArray[Any], most: int = 10, threshold: float | NDArray[Any] = 0.5
) -> list[tuple[int, int, float]]:
    """The rows where the model was surest and wrong, the first place to look for mislabelled data.

    Args:
        labels, probabilities, threshold: as `row_sums`.
        most: rows at most.

    Returns:
        (row, class, confidence), surest first. Single-label: the wrong answer and its probability. Multi-label: the class
        decided wrongly with the most certainty, and the certainty (1 - probability where the label was left out).
    """
    answers = predictions(probabilities, labels.ndim == 2, threshold)
    if labels.ndim == 2:
        sure_NC = np.where(answers != labels, np.where(answers, probabilities, 1 - probabilities), -1.0)
        which, sure = sure_NC.argmax(1), sure_NC.max(1)
    else:
        which, sure = answers, np.where(answers != labels, probabilities.max(1), -1.0)
    order = np.argsort(-sure, kind="stable")[:most]
    return [(int(row), int(which[row]), float(sure[row])) for row in order if sure[row] >= 0]


def by_name(values: Mapping[str, Floats], names: list[str]) -> list[dict[str, Any]]:
    """Turn columns of `per_class` into one record a class, ready for JSON."""
    whole = ("support", "predicted", "right")
    return [
        {"label": name, **{key: int(column[i]) if key in whole else float(column[i]) for key, column in values.items()}}
        for i, name in enumerate(names)
    ]
