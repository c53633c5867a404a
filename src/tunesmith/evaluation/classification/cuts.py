"""From which probability on a label is given, where a row has any number of labels.

1. One cut in common has the highest micro F1 on validation rows. Equally good cuts: the one nearest 0.5.
2. Each label's own cut has the highest F1 on validation rows, after `BORROWED` positive rows of an average label are added to the label's
   own. A label with few positives therefore stays close to what suits the average label. Equally good cuts: the one nearest the common cut.
3. Cuts are whole hundredths from `GRID[0]` to `GRID[-1]`.
4. Probabilities are calibrated first, and cuts are chosen after that.

Per-label cuts: Yang 2001 (SIGIR, "A study of thresholding strategies for text categorization"), SCut, which overfits rare labels; the
borrowed rows are our remedy in place of her fixed default for labels of low F1. Lewis et al. 1996 (SIGIR, "Training algorithms for linear
text classifiers") and Lipton et al. 2014 (arXiv 1402.1892): the cut with the best F1 is below 0.5, and lower for labels that are harder.

Legend: N rows, C labels, G candidate cuts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluation.classification import metrics
from tunesmith.evaluation.classification.metrics import Floats, Ints

GRID: Floats = np.arange(2, 99) / 100
"""Cuts tried. Bounds of ours: a label that is given at 1 % is a guess, whatever a few validation rows say."""
BORROWED = 20
"""Positive rows of an average label that each label borrows. Fewer gain more macro F1 and lose micro F1; of 0, 2, 5, 10, 20 and 40 it is the
smallest that loses at most 0.3 points of the common cut's micro F1 in every setting of benchmarks/multi_label.py (docs/LOG.md)."""
FOLDS = 5
"""Parts of the validation rows, for figures on rows that the cuts were not chosen on."""
DEFAULT = 0.5
"""The cut of models without chosen ones."""
RULE = "best F1 of each label with borrowed rows"


@dataclass(frozen=True)
class Counts:
    """What F1 at any cut is made of. right_CG: rows that have the label and are given it; given_CG; positive_C."""

    right_CG: Ints
    given_CG: Ints
    positive_C: Ints


@dataclass(frozen=True)
class Cuts:
    """The chosen cuts; fields as calibration.json has them."""

    rule: str
    common: float
    """The cut with the best micro F1 when all labels share it. Labels without validation rows are close to it."""
    by_label: list[float]
    """In the model's order of labels."""
    positives: list[int]
    """Validation rows with each label."""
    rows: int
    """Validation rows."""
    held_out: dict[str, dict[str, float]]
    """Micro and macro F1 of `half` (0.5), `common` and `chosen`, on validation rows that the cuts were not chosen on. Empty: too few rows."""
    curve: dict[str, list[float]]
    """`f1_curve` of the validation rows."""


def count(labels_NC: NDArray[np.bool_], probabilities_NC: NDArray[Any]) -> Counts:
    """Count at every cut of `GRID` at once: a label is given where its probability is at least the cut."""
    (_, C), size = probabilities_NC.shape, len(GRID) + 1
    passed_NC = np.searchsorted(GRID, probabilities_NC.astype(np.float64), side="right") + np.arange(C) * size

    def at_each(cells: NDArray[Any]) -> Ints:
        counts_CG = np.bincount(cells.ravel(), minlength=C * size).reshape(C, size)
        return counts_CG[:, ::-1].cumsum(1)[:, -2::-1]  # rows that pass cut g or a higher one

    return Counts(at_each(passed_NC[labels_NC]), at_each(passed_NC), labels_NC.sum(0))


def choose(labels_NC: NDArray[np.bool_], probabilities_NC: NDArray[Any], groups: Sequence[Any] | None = None) -> Cuts:
    """Choose cuts on validation rows.

    Args:
        labels_NC: the truth.
        probabilities_NC: calibrated, of rows that the model has not learned from.
        groups: the `together` value of each row, None for a row on its own: rows of one group stay in one fold of `held_out`.
    """
    common, cut_C = fit(labels_NC, probabilities_NC)
    positives = [int(n) for n in labels_NC.sum(0)]
    names = [f"row {row}" if group is None else f"group {group}" for row, group in enumerate(groups or [None] * len(labels_NC))]
    held = _held_out(labels_NC, probabilities_NC, np.unique(names, return_inverse=True)[1])
    return Cuts(RULE, common, [float(cut) for cut in cut_C], positives, len(labels_NC), held, f1_curve(labels_NC, probabilities_NC))


def fit(labels_NC: NDArray[np.bool_], probabilities_NC: NDArray[Any], borrowed: float = BORROWED) -> tuple[float, Floats]:
    """The common cut, and the labels' own cuts (C,), by the rules at the top of this file."""
    counts = count(labels_NC, probabilities_NC)
    if not counts.positive_C.any():
        return DEFAULT, np.full(len(counts.positive_C), DEFAULT)
    common = float(GRID[_best(_micro_f1(counts), DEFAULT)])
    known = counts.positive_C > 0
    positive_C1 = counts.positive_C[:, None].astype(np.float64)
    right_G = (counts.right_CG[known] / positive_C1[known]).mean(0)  # an average label's counts, per positive row
    given_G = (counts.given_CG[known] / positive_C1[known]).mean(0)
    below_CG = counts.given_CG + borrowed * given_G + positive_C1 + borrowed
    f1_CG = 2 * (counts.right_CG + borrowed * right_G) / np.where(below_CG > 0, below_CG, 1)
    return common, GRID[[_best(f1_G, common) for f1_G in f1_CG]]


def _micro_f1(counts: Counts) -> Floats:
    f1_G: Floats = 2 * counts.right_CG.sum(0) / (counts.given_CG.sum(0) + counts.positive_C.sum())
    return f1_G


def _best(f1_G: Floats, near: float) -> int:
    """The index of the best cut; of equally good ones that nearest to `near`."""
    ties = np.flatnonzero(f1_G >= f1_G.max() - 1e-12)
    return int(ties[np.abs(GRID[ties] - near).argmin()])


def f1_curve(labels_NC: NDArray[np.bool_], probabilities_NC: NDArray[Any]) -> dict[str, list[float]]:
    """`cut`, `micro_f1` and `macro_f1`: what one cut for all labels gives on these rows, over the cuts of `GRID`."""
    counts = count(labels_NC, probabilities_NC)
    below_CG = counts.given_CG + counts.positive_C[:, None]
    present_G = (below_CG > 0).sum(0)
    macro_G = (2 * counts.right_CG / np.maximum(below_CG, 1)).sum(0) / np.maximum(present_G, 1)
    micro_G = 2 * counts.right_CG.sum(0) / np.maximum(below_CG.sum(0), 1)
    return {"cut": GRID.tolist(), "micro_f1": micro_G.tolist(), "macro_f1": macro_G.tolist()}


def _held_out(labels_NC: NDArray[np.bool_], probabilities_NC: NDArray[Any], unit_N: Ints) -> dict[str, dict[str, float]]:
    """`Cuts.held_out`: each fold is answered with cuts chosen on the other folds, and all folds are scored together."""
    units = int(unit_N.max()) + 1
    if units < 2 * FOLDS:
        return {}
    fold_N = (np.random.default_rng(0).permutation(units) % FOLDS)[unit_N]
    passed = {name: np.zeros_like(labels_NC) for name in ("half", "common", "chosen")}
    for fold in range(FOLDS):
        here_N = fold_N == fold
        common, cut_C = fit(labels_NC[~here_N], probabilities_NC[~here_N])
        for name, cut in (("half", DEFAULT), ("common", common), ("chosen", cut_C)):
            passed[name][here_N] = metrics.predictions(probabilities_NC[here_N], True, cut)
    answered = {name: metrics.scores(labels_NC, given_NC.astype(np.float64)) for name, given_NC in passed.items()}
    return {name: {metric: scores[metric] for metric in ("micro_f1", "macro_f1")} for name, scores in answered.items()}


def of(calibration: Mapping[str, Any]) -> Floats | float:
    """The cuts (C,) that calibration.json holds, or 0.5 where it holds none."""
    found = calibration.get("cuts")
    return np.array(found["by_label"], np.float64) if found else DEFAULT


def shown(found: Mapping[str, Any], labels_NC: NDArray[np.bool_], probabilities_NC: NDArray[Any]) -> dict[str, Any]:
    """What evaluation.json says of a model's cuts.

    Args:
        found: `cuts` of calibration.json.
        labels_NC, probabilities_NC: the rows that are measured.

    Returns:
        The fields of `Cuts`, and `here`: `f1_curve` of the rows that are measured.
    """
    return {**found, "here": f1_curve(labels_NC, probabilities_NC)}
