"""The gate: thresholds that a run must pass before it may be served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.core.errors import UserError, nearest, some


@dataclass(frozen=True)
class Result:
    """One threshold: the figure's name, the number held against it, whether it passed, and that in words."""

    figure: str
    value: float | None
    passed: bool
    said: str


def judge(gate: Mapping[str, Mapping[str, Any]], evaluation: Mapping[str, Any] | None) -> list[Result]:
    """Hold the tuned model's figures against the gate.

    Args:
        gate: figure -> {at_least, at_most, by}; `by` chooses the value or an end of its interval.
        evaluation: what evaluation.json holds; None fails every threshold, since nothing was measured.

    Returns:
        One result a threshold.

    Raises:
        UserError: a figure that was not measured.
    """
    if evaluation is None:
        return [Result(name, None, False, f"{name}: nothing was measured") for name in gate]
    split = evaluation["splits"].get("test") or next(iter(evaluation["splits"].values()))
    figures = split["models"]["tuned"]
    out = []
    for name, bound in gate.items():
        if name not in figures:
            raise UserError(f"the gate names an unknown figure `{name}`{nearest(name, figures)}", "recipe, `gate`", f"choose from {some(figures, 20)}")
        key = {"value": "value", "lower": "low", "upper": "high"}[bound["by"]]
        value = figures[name][key]
        low, high = bound.get("at_least"), bound.get("at_most")
        passed = value is not None and (low is None or value >= low) and (high is None or value <= high)
        rule = " and ".join(f"{word} {limit:g}" for word, limit in (("at least", low), ("at most", high)) if limit is not None)
        end = {"value": "", "lower": " (lower end of its 95 % interval)", "upper": " (upper end of its 95 % interval)"}[bound["by"]]
        out.append(Result(name, value, passed, f"{name}{end} is {value:.4f}, must be {rule}: {'passed' if passed else 'FAILED'}"))
    return out
