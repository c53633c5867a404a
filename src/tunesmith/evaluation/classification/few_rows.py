"""What macro averages would be with more rows a label: the correction that their intervals need.

A macro average is a mean of ratios, and the ratio of a label with two rows is biased. Of 300 labels with two rows each, macro
F1 is two points lower on average than the same model's macro F1 on endless rows. Resampling cannot tell: a resample loses
labels, and is biased far more. We draw test sets from a model of the counts instead, whose macro average is known.

Legend: C labels, K columns of sums (`classification`), M test sets drawn, m at a time.
"""

from __future__ import annotations

import numpy as np

from tunesmith.evaluation.classification import metrics
from tunesmith.evaluation.classification.metrics import Floats
from tunesmith.evaluation.intervals import CELLS

CORRECTED = ("macro_f1", "macro_precision", "macro_recall", "weighted_f1")
"""Means of ratios of single labels."""

DRAWN = 200
"""Test sets drawn (M): the error of the bias found is 1/sqrt(200) = 7 % of the figure's own standard error."""

LEAST = 1e-6
"""Keeps the strength of a prior finite where labels differ no more than chance explains."""


def centers(sums_K: Floats, multi_label: bool, seed: int) -> dict[str, tuple[float, float]]:
    """Each macro average less its bias: where an interval's lower and its upper end are measured from.

    The count model: of a label's n true rows a binomial number is found; a Poisson number of other rows gets the label.
    Both rates are empirical Bayes estimates: each label's own rate, drawn towards that of all labels. With one label a row, n is
    fixed, as a split that gives each label its share makes it. With several, n is a Poisson number: no split can fix it.

    The two centers differ in two cases. A label that is given but never true counts as an F1 of 0, although nothing is known
    of it. It also shows that rows were drawn without regard to labels, so the upper center then assumes random n, and one
    row for that label. The second case is macro precision: the bias found for it is rougher, because wrong
    answers gather on labels that look alike. Its interval holds the ends with and without correction.

    Args:
        sums_K: sums over all test rows, of `classification.row_sums`.
        multi_label: as in `classification.metrics`.
        seed: same seed, same test sets.

    Returns:
        For each of `CORRECTED` that the data have: (lower center, upper center), both in [0, 1].

    Source: bias by the parametric bootstrap: Efron and Tibshirani 1993, section 10.2; empirical Bayes for counts by the method
    of moments: Efron and Hastie 2016, "Computer Age Statistical Inference", section 6.1.
    """
    C = (len(sums_K) - 3 - metrics.BINS) // 3
    found = {m: float(v) for m, v in metrics.metrics(sums_K, multi_label).items() if m in CORRECTED}
    right_C, given_C, actual_C = sums_K[:C], sums_K[C : 2 * C], sums_K[2 * C : 3 * C]
    present_C = given_C + actual_C > 0
    right_C, wrong_C, actual_C = right_C[present_C], (given_C - right_C)[present_C], actual_C[present_C]
    rate_C, false_C = _rates(right_C, actual_C), _counts(wrong_C)
    rng = np.random.default_rng([seed, 3])
    bias = _bias(rng, rate_C, false_C, actual_C, multi_label, multi_label)
    lower = {m: value - bias[m] for m, value in found.items()}
    upper = dict(lower)
    if (actual_C == 0).any():
        random = _bias(rng, rate_C, false_C, np.maximum(actual_C, 1.0), True, multi_label)
        upper = {m: max(upper[m], value - random[m]) for m, value in found.items()}
    if "macro_precision" in found:
        value = found["macro_precision"]
        lower["macro_precision"] = min(value, lower["macro_precision"])
        upper["macro_precision"] = max(value, upper["macro_precision"])
    return {m: (min(1.0, max(0.0, lower[m])), min(1.0, max(0.0, upper[m]))) for m in found}


def _rates(right_C: Floats, actual_C: Floats) -> Floats:
    """The share found of each label's true rows, (C,): a beta prior whose spread is that seen between labels."""
    mean = float(right_C.sum() / max(1.0, actual_C.sum()))
    by_chance, if_alike = mean * (1 - mean) * actual_C.sum(), mean * (1 - mean) * (actual_C * (actual_C - 1)).sum()
    seen = ((right_C - mean * actual_C) ** 2).sum()
    alike = min(1 - LEAST, max(LEAST, (seen - by_chance) / if_alike)) if if_alike > 0 else LEAST
    prior = (1 - alike) / alike
    rates: Floats = (right_C + prior * mean) / (actual_C + prior)
    return rates


def _counts(wrong_C: Floats) -> Floats:
    """Rows of other labels expected among the answers of each label, (C,): a gamma prior, spread as seen between labels."""
    mean = float(wrong_C.mean())
    if mean == 0:
        return wrong_C
    prior = mean / max(float(wrong_C.var()) - mean, LEAST * mean)
    expected: Floats = (wrong_C + prior * mean) / (1 + prior)
    return expected


def _bias(
    rng: np.random.Generator, rate_C: Floats, false_C: Floats, actual_C: Floats, random: bool, multi_label: bool
) -> dict[str, float]:
    """Mean of each macro average over test sets drawn, less its value at the rates that they are drawn from."""
    C = len(actual_C)
    wide = 3 * C + 3 + metrics.BINS

    def averages(right: Floats, wrong: Floats, actual: Floats) -> dict[str, Floats]:
        sums = np.zeros((*right.shape[:-1], wide))
        sums[..., :C], sums[..., C : 2 * C], sums[..., 2 * C : 3 * C] = right, right + wrong, actual
        return {m: v for m, v in metrics.metrics(sums, multi_label).items() if m in CORRECTED}

    totals: dict[str, float] = {}
    width = max(1, CELLS // wide)
    for start in range(0, DRAWN, width):
        shape = (min(width, DRAWN - start), C)
        actual_mC = rng.poisson(actual_C, shape) if random else np.broadcast_to(actual_C, shape)
        right_mC = rng.binomial(actual_mC.astype(np.int64), rate_C).astype(np.float64)
        for m, values in averages(right_mC, rng.poisson(false_C, shape).astype(np.float64), actual_mC.astype(np.float64)).items():
            totals[m] = totals.get(m, 0.0) + float(values.sum())
    at_rates = averages(rate_C * actual_C, false_C, actual_C)
    return {m: total / DRAWN - float(at_rates[m]) for m, total in totals.items()}
