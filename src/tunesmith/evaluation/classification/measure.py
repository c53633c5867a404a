"""From the probabilities of several models on the same test rows to `evaluation.json`.

One set of resamples serves all models and metrics, so that every difference is paired. Intervals and p-values:

1. accuracy of independent rows: Wilson interval; differences: exact McNemar p-value.
2. every other share, and accuracy when rows belong together: t times the bootstrap's standard deviation over units on the scale
   of log odds (`intervals.of_share`), macro averages less their bias with few rows a label (`few_rows`), widened near 0 and 1
   (`widen_near_edge`). Log loss: `intervals.of_ratio`, widened when hardly anything is wrong. ECE: `intervals.of_ece`.
   Differences: `intervals.symmetric` and `widen_few_differing`, p-value by `intervals.sign_flip`.
3. p-values of one metric against several baselines carry Holm's adjustment beside them (`p_adjusted`).

Legend: N rows, G units, K columns of sums, B resamples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.statistics import holm, wilson
from tunesmith.evaluation import intervals
from tunesmith.evaluation.classification import calibration, few_rows, metrics
from tunesmith.evaluation.classification.calibration import Abstention
from tunesmith.evaluation.classification.metrics import Floats

COMPARED = ("accuracy", "macro_f1", "micro_f1", "log_loss")
"""Metrics in which models are compared, beside the headline; one table of more would only invite picking."""


def evaluate(
    models: Mapping[str, NDArray[Any]],
    labels: NDArray[Any],
    names: Sequence[str],
    *,
    groups: Sequence[Any] | None = None,
    rows: Sequence[str] | None = None,
    headline: str = "macro_f1",
    tuned: str = "tuned",
    thresholds: Mapping[str, float | NDArray[Any]] | None = None,
    uncalibrated: NDArray[Any] | None = None,
    abstention: Abstention | None = None,
    out_of_scope: NDArray[Any] | None = None,
    split: str = "test",
    seed: int = 0,
    resamples: int = intervals.RESAMPLES,
) -> dict[str, Any]:
    """Measure models on the same rows and compare the tuned one with each of the others.

    Args:
        models: name -> probabilities (N, C) of all rows; contains `tuned`.
        labels: int (N,), or bool (N, C) for multi-label.
        names: the C labels in column order.
        groups: the `together` value of each row, None for a row on its own; None when the data have no such column.
        rows: ids of the rows, by which the worst errors are named; None numbers them.
        headline: the metric that decides; a name of `classification.SINGLE_LABEL` or `MULTI_LABEL`.
        tuned: the model to compare and to look into.
        thresholds: multi-label only: model -> threshold, 0.5 where absent.
        uncalibrated: the tuned model's probabilities before temperature scaling (N, C), to show what that changed.
        abstention: a threshold fitted on validation rows, to be tried on these.
        out_of_scope: the tuned model's probabilities (O, C) on rows that belong to no label.
        split: the name of these rows in the result; several results merge by their `splits`.
        seed, resamples: same seed, same result, bit for bit.

    Returns:
        What `evaluation.json` holds. In `splits[split]`, beside house.md's `rows`, `models` and `comparisons`:
        `groups`, `labels`, `multi_label`, `tuned`, and of the tuned model `per_class`, `confusion` (truth, answer, rows;
        non-zero cells, single-label), `most_confused`, `worst_errors`, `calibration`, `coverage`, and when given
        `abstention`, `out_of_scope`.

    Raises:
        UserError: fewer than two independent groups of rows.
    """
    multi_label, cuts = labels.ndim == 2, {name: 0.5 for name in models} | dict(thresholds or {})
    assert tuned in models and headline in (metrics.MULTI_LABEL if multi_label else metrics.SINGLE_LABEL)
    assert all(probabilities.shape == (len(labels), len(names)) for probabilities in models.values())
    units = intervals.unit_of_rows(groups, len(labels))
    sums_GK = {
        name: intervals.unit_sums(metrics.row_sums(labels, probabilities, cuts[name]), units)
        for name, probabilities in models.items()
    }
    found: dict[str, Any] = {"rows": len(labels), "groups": None if groups is None else int(units.max()) + 1}
    found |= {"multi_label": multi_label, "labels": list(names), "tuned": tuned, "seed": seed, "resamples": resamples}
    found |= _intervals_and_tests(sums_GK, multi_label, groups is None, headline, tuned, seed, resamples)
    ids = [str(row) for row in (range(len(labels)) if rows is None else rows)]
    found |= _errors(sums_GK[tuned], labels, models[tuned], cuts[tuned], names, ids)
    found |= _confidence(labels, models[tuned], uncalibrated, cuts[tuned], abstention, out_of_scope, None if groups is None else units)
    return {"headline": headline, "splits": {split: found}}


def _intervals_and_tests(
    sums_GK: Mapping[str, Any], multi_label: bool, independent: bool, headline: str, tuned: str, seed: int, resamples: int
) -> dict[str, Any]:
    """`models` and `comparisons` of a split."""

    def statistic(sums: Floats) -> dict[str, Floats]:
        return metrics.metrics(sums, multi_label)

    drawn = dict(zip(sums_GK, intervals.bootstrap(list(sums_GK.values()), statistic, seed, resamples), strict=True))
    values = {name: {m: float(v) for m, v in statistic(np.asarray(s.sum(0))).items()} for name, s in sums_GK.items()}
    right = {name: _right(s) for name, s in sums_GK.items()}
    shown = {
        name: _intervals(sums, values[name], drawn[name], right[name], independent, multi_label, seed)
        for name, sums in sums_GK.items()
    }
    compared = [m for m in values[tuned] if m == headline or m in COMPARED]
    lines: dict[str, list[dict[str, Any]]] = {m: [] for m in compared}
    for name in (name for name in sums_GK if name != tuned):
        p_values = intervals.sign_flip(sums_GK[tuned], sums_GK[name], statistic, seed, resamples)
        if independent:
            p_values["accuracy"] = intervals.mcnemar(*intervals.only(right[tuned], right[name]))
        for m in compared:
            difference = values[tuned][m] - values[name][m]
            low, high = intervals.symmetric(difference, drawn[tuned][m] - drawn[name][m], len(right[tuned]))
            if m not in metrics.ERRORS:
                low, high = intervals.widen_few_differing(low, high, difference, right[tuned], right[name])
            line = {"model": tuned, "against": name, "metric": m, "difference": difference, "low": low, "high": high}
            lines[m].append(line | {"p": p_values[m]})
    for of_one_metric in lines.values():
        for line, adjusted in zip(of_one_metric, holm([line["p"] for line in of_one_metric]), strict=True):
            line["p_adjusted"] = adjusted
    return {"models": shown, "comparisons": [line for m in sorted(lines, key=lambda m: m != headline) for line in lines[m]]}


def _right(sums_GK: Any) -> Floats:
    """Share of the rows of each unit that are wholly right (G,)."""
    C = (sums_GK.shape[1] - 3 - metrics.BINS) // 3
    columns = sums_GK[:, [3 * C, 3 * C + 2]].toarray()
    share: Floats = columns[:, 0] / columns[:, 1]
    return share


def _intervals(
    sums_GK: Any, values: Mapping[str, float], drawn: Mapping[str, Floats], right_G: Floats, independent: bool, multi_label: bool, seed: int
) -> dict[str, dict[str, float]]:
    """{"value", "low", "high"} of each metric of one model, by the rules at the top of this file."""
    units, sums_K = len(right_G), np.asarray(sums_GK.sum(0))
    C = (len(sums_K) - 3 - metrics.BINS) // 3
    centers = few_rows.centers(sums_K, multi_label, seed)
    found = {}
    for metric, value in values.items():
        if metric == "accuracy" and independent:
            low, high = wilson(right_G.sum(), units)
        elif metric == "ece":
            forecasts = sums_K[3 * C + 2] * (C if multi_label else 1)
            decided = sums_K[C : 3 * C].sum() - 2 * sums_K[:C].sum() if multi_label else forecasts - sums_K[3 * C]
            gaps_Gb = sums_GK[:, 3 * C + 3 :].toarray()
            low, high = intervals.of_ece(value, drawn[metric], gaps_Gb, float(forecasts), float(decided / forecasts))
        elif metric == "log_loss":
            loss_G, rows_G = sums_GK[:, [3 * C + 1, 3 * C + 2]].toarray().T
            low, high = _log_loss(loss_G, rows_G, right_G, C, multi_label)
        else:
            half = intervals.half_width(drawn[metric], units)
            low, high = intervals.of_share(value, half, units, *centers.get(metric, ()))
            low, high = intervals.widen_near_edge(low, high, value, right_G)
        found[metric] = {"value": value, "low": float(low), "high": float(high)}
    return found


def _log_loss(loss_G: Floats, rows_G: Floats, right_G: Floats, C: int, multi_label: bool) -> tuple[float, float]:
    """95 % interval of the log loss: `intervals.of_ratio`, its upper end raised when fewer than `FEW` units hold an error.

    There may be as many wrong rows as Wilson's interval allows, each as costly as those seen. When none is wrong, a row is
    taken to cost what it would if the truth were another label: at least -log((1 - p) / (C - 1)), by Jensen's inequality.
    """
    low, high = intervals.of_ratio(loss_G, rows_G)
    wrong_G, units = right_G < 1, len(right_G)
    if wrong_G.sum() >= min(intervals.FEW, units):
        return low, high
    each_G, others = loss_G / rows_G, C if multi_label else 1  # multi-label: the loss is a mean over labels, one of them wrong
    rest = each_G[~wrong_G]
    if wrong_G.any():
        cost = each_G[wrong_G].mean() - rest.mean()
    else:
        other = -np.expm1(-rest) / (1 if multi_label else max(1, C - 1))
        cost = (-np.log(np.clip(other, metrics.SMALLEST, 1)) / others).mean() - rest.mean()
    more = wilson(wrong_G.sum(), units)[1] - wrong_G.mean()
    return low, max(high, float(loss_G.sum() / rows_G.sum() + more * max(0.0, cost)))


def _errors(
    sums_GK: Any, labels: NDArray[Any], probabilities: NDArray[Any], cut: Any, names: Sequence[str], ids: Sequence[str]
) -> dict[str, Any]:
    """Per-class figures with a Wilson interval of the recall, confusions and worst errors of one model."""
    by_class = metrics.per_class(np.asarray(sums_GK.sum(0)))
    by_class["recall_low"], by_class["recall_high"] = wilson(by_class["right"], by_class["support"])
    answers = metrics.predictions(probabilities, labels.ndim == 2, cut)
    found: dict[str, Any] = {"per_class": metrics.by_name(by_class, list(names))}
    worst = metrics.worst_errors(labels, probabilities, threshold=cut)
    if labels.ndim == 2:
        found["worst_errors"] = [
            {"row": ids[i], "label": names[c], "given": bool(answers[i, c]), "confidence": sure} for i, c, sure in worst
        ]
        return found
    cells = metrics.confusion(labels, answers, len(names))
    support_C = np.bincount(labels, minlength=len(names))
    found["confusion"] = cells.tolist()
    found["most_confused"] = [
        {"truth": names[i], "answer": names[j], "rows": n, "share": n / int(support_C[i])}
        for i, j, n in metrics.most_confused(cells)
    ]
    found["worst_errors"] = [
        {"row": ids[i], "truth": names[int(labels[i])], "answer": names[c], "confidence": sure} for i, c, sure in worst
    ]
    return found


def _confidence(
    labels: NDArray[Any],
    probabilities: NDArray[Any],
    before: NDArray[Any] | None,
    cut: Any,
    abstention: Abstention | None,
    out_of_scope: NDArray[Any] | None,
    units_N: NDArray[Any] | None,
) -> dict[str, Any]:
    """Calibration and coverage; when given, how the fitted threshold does here, and whether rows out of scope stand out.

    `units_N`: the group of each row, None when rows are independent; rows of groups count as `calibration.effective_rows`.
    """
    found: dict[str, Any] = {"calibration": {"after": calibration.reliability(labels, probabilities)}}
    if before is not None:
        found["calibration"]["before"] = calibration.reliability(labels, before)
    right, confidence = calibration.right_and_sure(labels, probabilities, cut)
    found["coverage"] = calibration.coverage_curve(right, confidence)
    if abstention is not None:
        answered = confidence >= (np.inf if abstention.threshold is None else abstention.threshold)
        n, hits = int(answered.sum()), int(right[answered].sum())
        worth = n if units_N is None or not n else calibration.effective_rows(right[answered], units_N[answered])
        low, high = wilson(hits / max(1, n) * worth, worth)
        accuracy = {"value": hits / n, "low": float(low), "high": float(high)} if n else None
        found["abstention"] = asdict(abstention) | {"here": {"rows": n, "coverage": n / len(labels), "accuracy": accuracy}}
    if out_of_scope is not None:
        scores = (calibration.max_probability(probabilities), calibration.max_probability(out_of_scope))
        found["out_of_scope"] = {"rows": len(out_of_scope)} | calibration.detection(*scores)
    return found
