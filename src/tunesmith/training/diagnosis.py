"""The learning curves, and what they say in words: the finding, its evidence, and the next thing to try.

Every rule is a plain comparison on logged figures, with its numbers in the sentence, so that a reader can check it. The bounds
are conventions of ours, chosen on runs with a known fault (tests/training/test_diagnosis.py makes each fault and expects its name).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import counted
from tunesmith.sections import Block, Lines, Section, Series, Tone, Words

FEW_ROWS_A_LABEL = 20
OVERFITTING_RISE = 0.10
"""Validation loss this share above its best, while the training loss fell on."""
SPIKE = 3.0
"""Training loss this many times the median of the points before it."""
HIGH_LOSS = 0.5
"""Training loss still above this share of a blind guess's at the end: little was learnt."""
GAP = 0.08
"""Training accuracy this far above validation accuracy: the rest is to be gained from data."""
GAP_NATS = 0.5
"""Training loss of a language model this far below the validation loss: rows are being learnt by heart."""
FEW_ROWS = 50
"""Fewer dialogues or documents than this are few."""
SHORT_ANSWER = 4.0
"""Learnt tokens a row below which an answer is a label rather than a text."""
UNEVEN = 0.25
"""Half of the late training steps further than this share of the middle loss from it."""
STILL_FALLING = 0.02
"""Validation loss that fell by this share in the last measurement is still falling."""


@dataclass(frozen=True)
class Finding:
    """One thing the curves show: a short name, the sentence with its numbers, what to try, and how grave it is."""

    name: str
    text: str
    remedy: str
    tone: Tone


def curves(events: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
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


def sections(events: Sequence[Mapping[str, Any]], kept_step: int, findings: Sequence[Finding]) -> list[Section]:
    """The report's section on learning: the diagnosis, then loss and accuracy of train and validation over steps."""
    series = curves(events)
    blocks: list[Block] = [Words(f"{one.text} {one.remedy}".strip(), one.tone) for one in findings]
    for figure, label in (("loss", "loss (nats)"), ("accuracy", "accuracy"), ("micro_f1", "micro F1"), ("token_accuracy", "next tokens guessed")):
        lines = [Series({"train": "training", "valid": "validation"}[side], s["step"], s[figure]) for side, s in series.items() if len(s.get(figure, [])) > 1]
        if lines:
            blocks.append(Lines(lines, "step", label, f"{label[0].upper()}{label[1:].removesuffix(' (nats)')} while training", [(kept_step, "kept")]))
    return [Section("learning", "How it learned", blocks)]


def diagnose(events: Sequence[Mapping[str, Any]], kept_step: int, rows: int, classes: int) -> list[Finding]:
    """Read the curves.

    Args:
        events: the run's `step`, `valid` and `skipped` events, in order.
        kept_step: whose weights were kept.
        rows: training rows.
        classes: labels.

    Returns:
        Findings, gravest first; at least one.
    """
    series = curves(events)
    train, valid = series["train"], series["valid"]
    found = [
        *_skipped(events),
        *_spikes(train),
        *_rate_too_high(train, classes),
        *_underfitting(train, valid, classes),
        *_overfitting(train, valid, kept_step),
        *_gap(train, valid),
        *_unfinished(valid),
        *_too_little_data(rows, classes),
    ]
    return _ranked(found, kept_step)


def diagnose_text(events: Sequence[Mapping[str, Any]], kept_step: int, rows: int, tokens: Mapping[str, Any]) -> list[Finding]:
    """Read the curves of a language model.

    Args:
        events, kept_step, rows: as for `diagnose`.
        tokens: the token report of the training rows (`sequences`, `tokens`, `learnt`, `left_out`).

    Returns:
        Findings, gravest first; at least one.
    """
    series = curves(events)
    train, valid = series["train"], series["valid"]
    found = [
        *_skipped(events),
        *_spikes(train),
        *_did_not_fall(train),
        *_uneven(train),
        *_overfitting(train, valid, kept_step),
        *_by_heart(train, valid),
        *_unfinished(valid),
        *_short_answers(tokens),
        *_few_rows(rows),
    ]
    return _ranked(found, kept_step)


def _ranked(found: list[Finding], kept_step: int) -> list[Finding]:
    if not any(one.tone in ("warn", "bad") for one in found):
        text = f"Training went steadily; the weights of step {kept_step} were kept."
        found.append(Finding("steady", text, "", "good"))
    return sorted(found, key=lambda one: ("bad", "warn", "good", "plain").index(one.tone))


def _did_not_fall(train: Mapping[str, list[float]]) -> list[Finding]:
    losses = train.get("loss", [])
    if len(losses) < 6:
        return []
    quarter = max(2, len(losses) // 4)
    first, last = sum(losses[:2]) / 2, sum(losses[-quarter:]) / quarter
    if last < 0.98 * first:
        return []
    text = f"The training loss did not fall: {first:.2f} nats a token at the start, {last:.2f} over the last quarter."
    remedy = "If it rose, try a third of train.learning_rate; if it stood still, raise it, or let more weights learn."
    return [Finding("learning rate", text, remedy, "bad")]


def _uneven(train: Mapping[str, list[float]]) -> list[Finding]:
    losses = train.get("loss", [])
    late = losses[len(losses) // 2 :]
    if len(late) < 10:
        return []
    middle = sorted(late)[len(late) // 2]
    spread = sorted(abs(one - middle) for one in late)[len(late) // 2]
    if spread < UNEVEN * middle:
        return []
    text = f"The training loss stays uneven: half of the late steps lie more than {100 * spread / middle:.0f} % from their middle of {middle:.2f}."
    remedy = "Rows may be wrong, or of very different kinds: read the ones with the largest loss, or make batches larger."
    return [Finding("label noise", text, remedy, "warn")]


def _by_heart(train: Mapping[str, list[float]], valid: Mapping[str, list[float]]) -> list[Finding]:
    if len(train.get("loss", [])) < 3 or not valid.get("loss"):
        return []
    learnt, held = sum(train["loss"][-3:]) / 3, valid["loss"][-1]
    if held - learnt < GAP_NATS:
        return []
    text = f"The training loss ended at {learnt:.2f} nats a token, the validation loss at {held:.2f}: it has begun to know rows by heart."
    return [Finding("gap", text, "More rows will help more than more epochs; LoRA or a lower train.learning_rate keep more of the base.", "plain")]


def _short_answers(tokens: Mapping[str, Any]) -> list[Finding]:
    learnt, sequences = tokens.get("learnt", 0), max(1, tokens.get("sequences", 1))
    found = []
    if learnt / sequences < SHORT_ANSWER:
        text = f"The answers have {learnt / sequences:.1f} tokens on average, end mark included: there is little in them to learn from."
        remedy = "If they are names of classes, objective: classification learns faster and can be measured better."
        found.append(Finding("answers too short", text, remedy, "warn"))
    if tokens.get("left_out"):
        text = f"{counted(tokens['left_out'], 'row')} left out, because the limit of {tokens['limit']} tokens cut off all that was to be learnt."
        found.append(Finding("answers cut away", text, "Raise model.max_tokens, or set model.truncation: tail.", "warn"))
    return found


def _few_rows(rows: int) -> list[Finding]:
    if rows >= FEW_ROWS:
        return []
    text = f"Little data: {rows} training rows."
    return [Finding("too little data", text, "Expect it to pick up a tone rather than facts; a few hundred rows change that.", "warn")]


def _skipped(events: Sequence[Mapping[str, Any]]) -> list[Finding]:
    steps = [event["step"] for event in events if event["kind"] == "skipped"]
    if not steps:
        return []
    text = f"{counted(len(steps), 'step')} skipped because their loss or gradient was not finite (the first is step {steps[0]})."
    return [Finding("not finite", text, "Look for odd rows, lower train.learning_rate, or set train.precision: fp32.", "bad")]


def _spikes(train: Mapping[str, list[float]]) -> list[Finding]:
    losses, steps = train.get("loss", []), train.get("step", [])
    for index in range(5, len(losses)):
        usual = sorted(losses[max(0, index - 20) : index])[min(20, index) // 2]
        if losses[index] > SPIKE * max(usual, 0.05):
            text = f"The training loss jumped to {losses[index]:.2f} at step {steps[index]:.0f}, from about {usual:.2f} before."
            return [Finding("spike", text, "Look at the rows around that step; a lower train.learning_rate or train.clip_norm makes jumps smaller.", "warn")]
    return []


def _blind(classes: int) -> float:
    """Loss of guessing all labels alike, in nats."""
    return math.log(max(2, classes))


def _rate_too_high(train: Mapping[str, list[float]], classes: int) -> list[Finding]:
    losses = train.get("loss", [])
    if len(losses) < 6:
        return []
    quarter = max(2, len(losses) // 4)
    last = sum(losses[-quarter:]) / quarter
    if last > 0.97 * max(losses[0], _blind(classes)) or not math.isfinite(last):
        text = f"The training loss did not fall: {losses[0]:.2f} at the start, {last:.2f} over the last quarter; a blind guess has {_blind(classes):.2f}."
        return [Finding("learning rate too high", text, "Try a third of train.learning_rate; if that changes nothing, check the labels.", "bad")]
    return []


def _underfitting(train: Mapping[str, list[float]], valid: Mapping[str, list[float]], classes: int) -> list[Finding]:
    losses = train.get("loss", [])
    if len(losses) < 4 or _rate_too_high(train, classes):
        return []
    last = sum(losses[-3:]) / 3
    if last <= HIGH_LOSS * _blind(classes):
        return []
    text = f"Underfitting: the training loss ended at {last:.2f}, where a blind guess has {_blind(classes):.2f}."
    return [Finding("underfitting", text, "Train longer (train.epochs), raise train.learning_rate, or let more weights learn (method: full).", "warn")]


def _overfitting(train: Mapping[str, list[float]], valid: Mapping[str, list[float]], kept_step: int) -> list[Finding]:
    losses, steps = valid.get("loss", []), valid.get("step", [])
    if len(losses) < 2:
        return []
    best = min(range(len(losses)), key=losses.__getitem__)
    rise = losses[-1] / max(losses[best], 1e-9) - 1
    if best == len(losses) - 1 or rise < OVERFITTING_RISE:
        return []
    behind = [loss for step, loss in zip(train.get("step", []), train.get("loss", []), strict=True) if step > steps[best]]
    if not behind or behind[-1] > behind[0] * 1.05:
        return []
    text = f"Overfitting since step {steps[best]:.0f}: from there the validation loss rose by {100 * rise:.0f} %, while the training loss fell on."
    score = valid.get("accuracy") or valid.get("micro_f1") or []
    if score and score[-1] >= score[best]:
        text += f" Accuracy did not suffer ({100 * score[best]:.1f} % then, {100 * score[-1]:.1f} % at the end): the model grew too sure of itself."
        remedy = "The temperature fitted on validation corrects that; fewer epochs or objective.label_smoothing prevent it."
        return [Finding("overfitting", text, remedy, "plain")]
    remedy = f"The weights of step {kept_step} were kept. Fewer epochs, train.patience, model.dropout or more rows would help."
    return [Finding("overfitting", text, remedy, "warn")]


def _gap(train: Mapping[str, list[float]], valid: Mapping[str, list[float]]) -> list[Finding]:
    for name in ("accuracy", "micro_f1"):
        if len(train.get(name, [])) < 3 or not valid.get(name):
            continue
        learnt, held = sum(train[name][-3:]) / 3, valid[name][-1]
        if learnt - held > GAP:
            text = f"It answers {100 * learnt:.0f} % of the training rows right and {100 * held:.0f} % of the validation rows. "
            return [Finding("gap", text + "It has begun to know rows by heart.", "More labelled rows will help more than more epochs.", "plain")]
    return []


def _unfinished(valid: Mapping[str, list[float]]) -> list[Finding]:
    losses = valid.get("loss", [])
    if len(losses) < 2 or losses[-1] != min(losses) or losses[-2] - losses[-1] < STILL_FALLING * losses[-2]:
        return []
    text = f"The validation loss was still falling at the end ({losses[-2]:.3f} to {losses[-1]:.3f} in the last measurement)."
    return [Finding("unfinished", text, "More epochs are likely to help: tunesmith run --resume RUN train.epochs=N goes on from here.", "plain")]


def _too_little_data(rows: int, classes: int) -> list[Finding]:
    each = rows / max(1, classes)
    if each >= FEW_ROWS_A_LABEL:
        return []
    text = f"Little data: {rows} training rows for {classes} labels, {each:.0f} each on average."
    return [Finding("too little data", text, "Method features is safest here; labelling more rows of the weakest labels helps most.", "warn")]
