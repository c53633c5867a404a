"""What the path of penalties of a solved head says in words: which strength was chosen, and how training and held-out rows compare there.

These are no learning curves: each point is a finished solution at another strength. The bounds are `training.diagnosis`'s, as far as they apply.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.core.sections import Block, Lines, Section, Series, Words
from tunesmith.training.diagnosis import FEW_ROWS_A_LABEL, GAP, HIGH_LOSS, Finding

ANCHORS = {"means": "the nearest class mean", "zero": "zero weights"}
"""What a strong penalty pulls the head toward, in words."""
FIGURES = (("loss", "loss (nats)"), ("accuracy", "accuracy"), ("micro_f1", "micro F1"))
SCORES = (("accuracy", "accuracy"), ("micro_f1", "micro F1"))


def sections(events: Sequence[Mapping[str, Any]], training: Mapping[str, Any], findings: Sequence[Finding]) -> list[Section]:
    """The report's section: the diagnosis, then loss and score of training and held-out rows over the penalty, at the chosen anchor."""
    blocks: list[Block] = [Words(f"{one.text} {one.remedy}".strip(), one.tone) for one in findings]
    sides = _sides(events, training["anchor"])
    for figure, label in FIGURES:
        lines = [Series(name, [e["penalty"] for e in told], [e[figure] for e in told]) for name, told in sides.items() if len(told) > 1 and figure in told[0]]
        if lines:
            caption = f"{label[0].upper()}{label[1:].removesuffix(' (nats)')} by penalty"
            blocks.append(Lines(lines, "penalty (strong to the right)", label, caption, [(training["penalty"], "kept")], log_x=True))
    return [Section("learning", "How it learned", blocks)]


def diagnose(events: Sequence[Mapping[str, Any]], training: Mapping[str, Any], rows: int, classes: int) -> list[Finding]:
    """Read the path.

    Args:
        events: the run's `step` and `valid` events, one of each a strength.
        training: run.json's record: `kept_step`, `penalty`, `anchor`, `held_rows`, `path_end`.
        rows: training rows.
        classes: labels.

    Returns:
        Findings, gravest first; at least one.
    """
    kept = {e["kind"]: e for e in events if e["kind"] in ("step", "valid") and e["step"] == training["kept_step"]}
    found = [*_chosen(events, training, kept)]
    if len(kept) == 2:
        found += [*_underfitting(kept["step"], classes), *_gap(kept["step"], kept["valid"])]
    if rows / max(1, classes) < FEW_ROWS_A_LABEL:
        text = f"Little data: {rows} training rows for {classes} labels, {rows / max(1, classes):.0f} each on average."
        found.append(Finding("too little data", text, "Labeling more rows of the weakest labels helps most.", "warn"))
    return sorted(found, key=lambda one: ("bad", "warn", "good", "plain").index(one.tone))


def _sides(events: Sequence[Mapping[str, Any]], anchor: str) -> dict[str, list[Mapping[str, Any]]]:
    of = {kind: sorted((e for e in events if e["kind"] == kind and e.get("anchor") == anchor), key=lambda e: e["penalty"]) for kind in ("step", "valid")}
    return {"training": of["step"], "held out": of["valid"]}


def _chosen(events: Sequence[Mapping[str, Any]], training: Mapping[str, Any], kept: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    toward = ANCHORS[training["anchor"]]
    if not kept:
        text = f"No row could be held out to choose a penalty, so the strongest one was used: the head is {toward}."
        return [Finding("no choice", text, "Give validation rows, or more than one group of training rows.", "warn")]
    rows, lowest = f"{training['held_rows']:,} held-out rows", min((e["tempered_loss"] for e in events if e["kind"] == "valid"), default=0.0)
    best = kept["valid"]["tempered_loss"] <= lowest
    why = f"{rows} have their lowest loss there" if best else f"{rows} cannot tell it from the lowest loss of {lowest:.3f} (one standard error)"
    tried = sum(1 for e in events if e["kind"] == "valid")
    text = (
        f"The head is the exact optimum. Of {tried} penalties, {training['penalty']:.2g} toward {toward} was chosen: "
        f"{why}, {kept['valid']['tempered_loss']:.3f} nats after calibration."
    )
    found = [Finding("chosen", text, "", "good")]
    if training["path_end"] == "weak":
        text = "The weakest penalty of the path was chosen: the training rows do not contradict the held-out rows at any strength."
        found.append(Finding("end of the path", text, "A method that changes the base (freeze, lora, full) is likely to gain more.", "plain"))
    elif training["path_end"] == "strong":
        text = f"The strongest penalty of the path was chosen: the head is close to {toward}, and the rows tell little more than that."
        found.append(Finding("end of the path", text, "More labeled rows will help.", "plain"))
    return found


def _underfitting(train: Mapping[str, Any], classes: int) -> list[Finding]:
    # Accuracy and not loss where there is one: a strong penalty keeps logits small, which calibration mends.
    blind = math.log(max(2, classes))
    if train["loss"] <= HIGH_LOSS * blind or train.get("accuracy", train.get("micro_f1", 0.0)) > 1 - HIGH_LOSS / 2:
        return []
    name, label = next((name, label) for name, label in SCORES if name in train)
    text = f"Underfitting: on training rows the best head has {label} {train[name]:.2f} and a loss of {train['loss']:.2f}; a blind guess has {blind:.2f}."
    return [Finding("underfitting", text, "The frozen vectors do not tell these labels apart: try another base, or method: freeze, lora or full.", "warn")]


def _gap(train: Mapping[str, Any], held: Mapping[str, Any]) -> list[Finding]:
    for name, label in SCORES:
        if name in train and train[name] - held[name] > GAP:
            learned, kept = 100 * train[name], 100 * held[name]
            text = f"Overfitting, as far as the best penalty leaves it: {label} is {learned:.0f} % on training rows and {kept:.0f} % on held-out rows."
            return [Finding("gap", text, "More labeled rows close this gap; a stronger penalty was tried and did worse.", "plain")]
    return []
