"""The learning curves, and what they say in words: the finding, its evidence, and the next thing to try.

Every rule is a plain comparison on logged figures, with its numbers in the sentence, so that a reader can check it. The bounds
are conventions of ours, chosen on runs with a known fault (tests/training/test_diagnosis.py makes each fault and expects its name).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.core.errors import counted
from tunesmith.core.sections import Block, Lines, Section, Series, Tone, Words
from tunesmith.objectives.classification import MOST_POSITIVE_WEIGHT

FEW_ROWS_A_LABEL = 20
OVERFITTING_RISE = 0.10
"""Validation loss this share above its best, while the training loss fell on."""
SPIKE = 3.0
"""Training loss this many times the median of the points before it."""
HIGH_LOSS = 0.5
"""Training loss at the end still above this share of the way from a perfect model to one that reads nothing: little was learned."""
STANDING = 0.03
"""A loss within this share of the loss without reading has not left it; above it by more, the steps were too long."""
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


@dataclass(frozen=True)
class Chance:
    """Two losses to measure a training loss against: of a model that reads nothing and knows how often each label occurs, and of a perfect one."""

    blind: float
    floor: float


def chance(counts: Sequence[int], rows: int, multi_label: bool, balanced: bool = False, smoothing: float = 0.0) -> Chance:
    """Both losses in nats and in the units of the training loss: its class weights and its label smoothing.

    Worked by hand: counts 98 and 2 give a blind loss of -0.98 ln 0.98 - 0.02 ln 0.02 = 0.098; balanced weights make it ln 2. Two labels with
    smoothing 0.3 have targets of 0.85 and 0.15, so a perfect model still has 0.423.

    Args:
        counts: training rows of each label.
        rows: training rows.
        multi_label: the loss is a sigmoid a label and their mean, else a softmax.
        balanced, smoothing: as the objective's settings `class_weights` and `label_smoothing`.
    """
    if not multi_label:
        seen, classes = [count for count in counts if count], max(1, len(counts))
        shares = [1 / len(seen) if balanced else count / sum(seen) for count in seen]
        blind = [share * (1 - smoothing) + smoothing / classes for share in shares] + [smoothing / classes] * (classes - len(seen))
        floor = [1 - smoothing + smoothing / classes] + [smoothing / classes] * (classes - 1)
        return Chance(_entropy(blind), _entropy(floor))
    blind_sum = floor_sum = 0.0
    for count in counts:
        share = count / max(1, rows)
        weight = min((rows - count) / max(1, count), MOST_POSITIVE_WEIGHT) if balanced else 1.0
        blind_sum += _best(share * (1 - smoothing) + smoothing / 2, weight)
        floor_sum += share * _best(1 - smoothing / 2, weight) + (1 - share) * _best(smoothing / 2, weight)
    return Chance(blind_sum / max(1, len(counts)), floor_sum / max(1, len(counts)))


def _entropy(shares: Sequence[float]) -> float:
    return -sum(share * math.log(share) for share in shares if share > 0)


def _best(target: float, weight: float) -> float:
    """The least of -(w t ln p + (1 - t) ln(1 - p)), which lies at p = w t / (w t + 1 - t)."""
    yes, no = weight * target, 1 - target
    return -sum(part * math.log(part / (yes + no)) for part in (yes, no) if part > 0)


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


def diagnose(events: Sequence[Mapping[str, Any]], kept_step: int, rows: int, classes: int, trained: Chance | None, plain: Chance) -> list[Finding]:
    """Read the curves.

    Args:
        events: the run's `step`, `valid` and `skipped` events, in order.
        kept_step: whose weights were kept.
        rows: training rows.
        classes: labels.
        trained: in the units of the training loss; None: the training loss is no cross-entropy, so the validation loss is judged.
        plain: in the units of the validation loss, which has neither weights nor smoothing.

    Returns:
        Findings, gravest first; at least one.
    """
    series = curves(events)
    train, valid = series["train"], series["valid"]
    found = [
        *_skipped(events),
        *_spikes(train),
        *_little_learned(train, valid, trained, plain),
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


def _little_learned(train: Mapping[str, list[float]], valid: Mapping[str, list[float]], trained: Chance | None, plain: Chance) -> list[Finding]:
    """A loss that rose, that stayed where reading nothing leaves it, or that fell by less than half of what there is to learn."""
    losses = train.get("loss", [])
    quarter = max(2, len(losses) // 4)
    last = sum(losses[-quarter:]) / quarter if len(losses) >= 4 else math.nan
    if len(losses) >= 6 and not last <= (1 + STANDING) * max(losses[0], trained.blind if trained else 0.0):
        text = f"The training loss rose: {losses[0]:.2f} at the start, {last:.2f} over the last quarter."
        if trained:
            text = f"{text[:-1]}; without reading the texts it would be {trained.blind:.2f}."
        return [Finding("learning rate too high", text, "Try a third of train.learning_rate; if that changes nothing, check the labels.", "bad")]
    side, known = ("training", trained) if trained else ("validation", plain)
    if side == "validation":
        losses = valid.get("loss", [])
        last = losses[-1] if losses else math.nan
    elif len(losses) >= 4:
        last = sum(losses[-3:]) / 3
    if math.isnan(last) or known.blind - known.floor < 1e-6:  # one label only: there is nothing to learn
        return []
    left = (last - known.floor) / (known.blind - known.floor)
    against = f"{known.blind:.2f} come from knowing how often each label occurs" + (f", {known.floor:.2f} from a perfect model" if known.floor > 0.005 else "")
    if left >= 1 - STANDING:
        text = f"Nothing was learned from the texts: the {side} loss ended at {last:.2f}; {against}."
        remedy = "Raise train.learning_rate, train longer, or let more weights learn; if the loss jumped about, try a third of the rate. Then check the labels."
        return [Finding("nothing learned", text, remedy, "bad")]
    if left <= HIGH_LOSS:
        return []
    text = f"Underfitting: the {side} loss ended at {last:.2f}; {against}."
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
