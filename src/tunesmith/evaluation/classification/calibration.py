"""Whether probabilities mean what they say, and when to hand a row to a person instead of answering.

Temperature scaling, reliability, abstention with a stated guarantee, and detection of rows that are out of scope.

Legend: N rows, C classes, J candidate thresholds, I and O rows in and out of scope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluation.classification.metrics import BINS, Floats, confidence_bin, predictions
from tunesmith.evaluation.intervals import numbered

TEMPERATURES = (1e-3, 1e3)
"""Range searched; wide, because `baselines.nearest_mean` scales cosines, which lie within one, by about 20."""


def softened(logits: NDArray[Any], temperature: float, multi_label: bool = False) -> Floats:
    """Probabilities (N, C) at a temperature: softmax over classes, or a sigmoid each when multi-label."""
    from scipy.special import expit, softmax

    scaled = logits.astype(np.float64) / temperature
    found: Floats = expit(scaled) if multi_label else softmax(scaled, axis=1)
    return found


def fit_temperature(logits: NDArray[Any], labels: NDArray[Any], offset: NDArray[Any] | float = 0.0) -> float:
    """The one temperature under which the labels are likeliest. It changes no answer of a single-label model.

    The labels are smoothed as if one more row had gone wrong: without that, 40 validation rows that are all right would
    give temperature 0 and a model that is always certain. The loss is convex in 1 / temperature: one minimum.

    Args:
        logits: (N, C), of validation rows, never of test rows.
        labels: int (N,), or bool (N, C) for multi-label.
        offset: added after the division, (C,); log prior odds for `baselines.nearest_mean`.

    Returns:
        T > 0; above 1 the model was too sure.

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2; smoothing: Platt 1999 ("Probabilistic outputs for support
    vector machines"), section 2.1, targets (n + 1) / (n + 2), here spread over the other classes when single-label.
    """
    from scipy.optimize import minimize_scalar

    assert len(labels) == len(logits) > 0
    wide, (N, C) = logits.astype(np.float64), logits.shape
    if labels.ndim == 2:
        positive = int(labels.sum())
        target_NC = np.where(labels, (positive + 1) / (positive + 2), 1 / (N * C - positive + 2))
    else:
        target_NC = np.full((N, C), 1 / (N + 2) / max(1, C - 1))
        target_NC[np.arange(N), labels] = (N + 1) / (N + 2)

    def loss(log_temperature: float) -> float:
        scaled = wide / np.exp(log_temperature) + offset
        if labels.ndim == 2:
            return float((np.logaddexp(0, scaled) - target_NC * scaled).mean())
        scaled -= scaled.max(1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(1)) - (target_NC * scaled).sum(1)).mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-5}).x))


def forecasts(labels: NDArray[Any], probabilities: NDArray[Any]) -> tuple[NDArray[np.bool_], Floats]:
    """What was foretold and what came: (outcome, confidence), one a row, or one a row and class when multi-label."""
    wide = probabilities.astype(np.float64)
    if labels.ndim == 2:
        return labels.ravel(), wide.ravel()
    return wide.argmax(1) == labels, wide.max(1)


def reliability(labels: NDArray[Any], probabilities: NDArray[Any], bins: int = BINS) -> dict[str, Any]:
    """Points of a reliability diagram, and the ECE, which is their mean distance from the diagonal.

    Args:
        labels: int (N,) or bool (N, C). probabilities: (N, C).
        bins: equal-width bins (i/bins, (i+1)/bins].

    Returns:
        `ece`, and for each bin that is not empty: `confidence` (mean), `accuracy` (share that came true), `count`.

    Source: Guo et al. 2017 (arXiv 1706.04599), equations 1 to 3; the same bins as `classification.metrics`.
    """
    outcome, confidence = forecasts(labels, probabilities)
    which = confidence_bin(confidence, bins)
    count = np.bincount(which, minlength=bins)
    kept = np.flatnonzero(count)
    sure = np.bincount(which, confidence, bins)[kept] / count[kept]
    true = np.bincount(which, outcome, bins)[kept] / count[kept]
    return {
        "ece": float((np.abs(true - sure) * count[kept]).sum() / count.sum()),
        "confidence": sure.tolist(),
        "accuracy": true.tolist(),
        "count": count[kept].tolist(),
    }


def right_and_sure(
    labels: NDArray[Any], probabilities: NDArray[Any], threshold: float | NDArray[Any] = 0.5
) -> tuple[NDArray[np.bool_], Floats]:
    """For abstention: whether each row is right (N,) and how sure the model is of it (N,).

    Multi-label: a row is right when all its labels are, and as sure as the least sure of them. `threshold`: see
    `classification.predictions`.
    """
    wide, answers = probabilities.astype(np.float64), predictions(probabilities, labels.ndim == 2, threshold)
    if labels.ndim == 2:
        return (answers == labels).all(1), np.where(answers, wide, 1 - wide).min(1)
    return answers == labels, wide.max(1)


def coverage_curve(right: NDArray[Any], confidence: NDArray[Any], points: int = 100) -> dict[str, list[float]]:
    """Accuracy on the rows that are answered when the least sure are handed to a person.

    Args:
        right: bool (N,). confidence: (N,).
        points: at most this many, spread evenly over coverage.

    Returns:
        `coverage`, `accuracy`, `threshold`: at each point the share answered, the accuracy on it, and the least
        confidence answered. Equally sure rows are answered or left together. The last point answers all.

    Source: risk-coverage curve: El-Yaniv and Wiener 2010 (JMLR 11); accuracy is 1 - risk.
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_N = confidence[order]
    ends = np.flatnonzero(np.append(sorted_N[1:] != sorted_N[:-1], True))  # a threshold cannot part equal confidences
    if len(ends) > points:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, points).round().astype(int))]
    hits = np.cumsum(right[order])[ends]
    return {
        "coverage": ((ends + 1) / len(right)).tolist(),
        "accuracy": (hits / (ends + 1)).tolist(),
        "threshold": sorted_N[ends].tolist(),
    }


@dataclass(frozen=True)
class Abstention:
    """Answer when the confidence is at least `threshold`, else hand the row to a person."""

    threshold: float | None
    """None: no threshold can be promised to reach the target."""
    target: float
    """Accuracy wanted on the rows answered."""
    bound: float
    """Accuracy on the rows answered is at least this, with probability `certainty` over the choice of validation rows.
    Without a threshold: the best bound of any candidate, so that a reader sees how much was missing."""
    certainty: float
    coverage: float
    """Share of validation rows answered, 0 without a threshold."""
    accuracy: float | None
    """Accuracy on them."""
    rows: int
    """Validation rows it was fitted on."""
    groups: int | None = None
    """Groups of validation rows that counted as one each; None where each row was one."""


CANDIDATES = 20
"""Coverages tried: 100 %, 95 %, ... 5 %."""


def fit_abstention(
    right: NDArray[Any], confidence: NDArray[Any], target: float, certainty: float = 0.95, groups: Sequence[Any] | None = None
) -> Abstention:
    """The threshold that answers most rows while the accuracy on those it answers is at least `target`.

    A threshold that merely met the target on validation rows would miss it about half the time on new ones. Here each of
    `CANDIDATES` coverages has a lower Clopper-Pearson bound at an error of (1 - certainty) / CANDIDATES, so that all bounds
    hold together and the best threshold may be picked freely. The price: at 0.95 and 0.95 at least 117 rows, all right.
    What it assumes: validation rows independent of each other and new rows like them; it says nothing after drift.

    The rows also chose the step to keep, the seed and the temperature. The union bound leaves room for that, for the 20
    coverages share most of their rows: simulated, the promise of 5 % is broken in 0.2 % of trials, and in 1.8 % when the best
    of 20 models was chosen on the same 300 rows.

    Args:
        right: bool (N,), of validation rows. confidence: (N,).
        target: accuracy wanted, in (0, 1).
        certainty: probability with which the promise holds.
        groups: the group of each row, None for a row on its own; rows of one group are not independent, see `effective_rows`.
            None: all rows are independent.

    Source: Geifman and El-Yaniv 2017 (arXiv 1705.08500), theorem 3.2, with a fixed grid instead of a binary search.
    """
    from scipy.special import betaincinv

    assert len(right) and 0 < target < 1 and 0 < certainty < 1
    units_N = None if groups is None else numbered(groups, len(right))
    counted = None if units_N is None else int(units_N.max()) + 1
    error, sorted_N, best = (1 - certainty) / CANDIDATES, np.sort(confidence)[::-1], 0.0
    wanted_J = np.ceil(np.arange(CANDIDATES, 0, -1) / CANDIDATES * len(right)).astype(int)
    for wanted in wanted_J:
        threshold = float(sorted_N[wanted - 1])
        answered = confidence >= threshold
        n, k = int(answered.sum()), int(right[answered].sum())
        rows = float(n) if units_N is None else effective_rows(right[answered], units_N[answered])
        hits = k / n * rows
        bound = float(betaincinv(hits, rows - hits + 1, error)) if k else 0.0
        if units_N is not None:  # no better than if all of so many groups were right: a rare group that is all wrong may be missing
            bound = min(bound, float(error ** (1 / _group_count(units_N[answered]))))
        if bound >= target:
            return Abstention(threshold, target, bound, certainty, n / len(right), k / n, len(right), counted)
        best = max(best, bound)
    return Abstention(None, target, best, certainty, 0.0, None, len(right), counted)


WORST = 0.25
"""Weight of the group that `effective_rows` adds. See there."""


def _group_count(units: NDArray[Any]) -> float:
    """How many groups of equal size some rows' groups are worth: rows over the mean size of a row's group."""
    n_G = np.unique(units, return_counts=True)[1].astype(np.float64)
    return float(n_G.sum() ** 2 / (n_G**2).sum())


def effective_rows(right: NDArray[Any], units: NDArray[Any]) -> float:
    """How many independent rows the answered rows of several groups are worth.

    The variance of the accuracy is taken over groups, one more group that is wholly wrong added with a weight of `WORST`:
    few groups may hide a rare one of which nothing is right. The rows are then divided by the design effect, at most the
    mean size of a row's group. In simulations a promise of 95 % certainty is broken in 2.2 % of trials at
    most (`make coverage`); with a weight of 0 in 4 %, with 1 it answers half as many rows of 200 groups of 10.

    Args:
        right: bool, of the rows answered. units: their groups.

    Source: design effect: Kish 1965, "Survey Sampling", section 8.2; Clopper-Pearson with effective rows: Korn and Graubard
    1998 (Survey Methodology 24).
    """
    _, at = np.unique(units, return_inverse=True)
    n_G, k_G = np.bincount(at), np.bincount(at, right)
    rows, groups, p = float(n_G.sum()), len(n_G), float(k_G.sum() / n_G.sum())
    size = rows / _group_count(units)
    variance = ((k_G - p * n_G) ** 2).sum() * groups / max(1, groups - 1) + WORST * (p * size) ** 2
    alone = p * (1 - p) * rows
    effect = max(1.0, min(size, variance / alone)) if alone else size
    return rows / effect


def max_probability(probabilities: NDArray[Any]) -> Floats:
    """Score (N,), higher for rows more likely in scope. Source: Hendrycks and Gimpel 2017 (arXiv 1610.02136)."""
    score: Floats = probabilities.max(1).astype(np.float64)
    return score


def negative_energy(logits: NDArray[Any], temperature: float = 1.0) -> Floats:
    """Score (N,) = T logsumexp(logits / T), higher for rows more likely in scope.

    Source: Liu et al. 2020 (arXiv 2010.03759), equation 4, with the sign turned.
    """
    from scipy.special import logsumexp

    score: Floats = temperature * logsumexp(logits.astype(np.float64) / temperature, axis=1)
    return score


def detection(in_scope: NDArray[Any], out_of_scope: NDArray[Any], recall: float = 0.95) -> dict[str, float]:
    """How well a score parts rows the model was made for from others.

    Args:
        in_scope: (I,), out_of_scope: (O,): scores, higher meaning in scope.
        recall: share of in-scope rows that must be let through.

    Returns:
        `auroc`: chance that an in-scope row scores higher than an out-of-scope one, ties counting half.
        `fpr_at_95_recall`: share of out-of-scope rows let through at the highest threshold that lets `recall` of the
        in-scope rows through. `threshold`: that threshold.

    Source: Hendrycks and Gimpel 2017 (arXiv 1610.02136); AUROC as the Mann-Whitney statistic, Hanley and McNeil 1982.
    """
    from scipy.stats import rankdata

    assert len(in_scope) and len(out_of_scope)
    ranks = rankdata(np.concatenate([in_scope, out_of_scope]))
    inside, outside = len(in_scope), len(out_of_scope)
    auroc = (ranks[:inside].sum() - inside * (inside + 1) / 2) / (inside * outside)
    threshold = np.sort(in_scope)[::-1][int(np.ceil(recall * inside - 1e-9)) - 1]
    return {
        "auroc": float(auroc),
        f"fpr_at_{round(recall * 100)}_recall": float((out_of_scope >= threshold).mean()),
        "threshold": float(threshold),
    }
