"""Augmentation: further rows of train, made from its rows by small changes that leave the labels true. Off by default; measuring sides are never touched.

The changes are those of `noise`, or a model's (`rewording`). The row's id seeds the draw: a row has the same variants in any order and company.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from tunesmith.core.errors import UserError, nearest, some
from tunesmith.core.settings import Settings
from tunesmith.data.augmentation.noise import LOCAL, Synonyms, synonyms
from tunesmith.data.augmentation.paraphrase import PARAPHRASE, filled, masked, reworded
from tunesmith.data.texts import even

Step = Literal["typos", "keyboard", "drop", "swap", "synonyms", "replace", "paraphrase"]
Generate = Callable[[list[str]], list[str]]


class AugmentSettings(Settings):
    """Which further rows are made from those of train."""

    steps: tuple[Step, ...] = ()
    """typos, keyboard, drop, swap, synonyms, replace, paraphrase: how variants are made. They take turns. Empty: none are made."""
    variants: int = Field(1, ge=1, le=20)
    """Variants of each row; fewer where a step finds nothing to change."""
    rate: float = Field(0.1, gt=0, le=0.5)
    """Share of the words that a step changes, one at least. EDA's 0.1; from half on little of a text is left."""
    labels: tuple[str, ...] = ()
    """Only rows with one of these labels. Empty: all."""
    fewer_than: int | None = Field(None, ge=1)
    """Only rows with a label of fewer rows than this in train. null: all."""
    synonyms: str | None = None
    """The file of step `synonyms`, from the recipe's folder: a word or phrase and what may stand in its place on each line, divided by commas or tabs."""
    masked: str | None = None
    """The folder of your masked language model, which fills the gap of step `replace`."""
    writer: str | None = None
    """The language model of step `paraphrase`: the folder of a run, or of a model with a chat template."""
    seed: int = Field(0, ge=0)
    """Another number, other variants."""


def plan(row_id: str, settings: AugmentSettings) -> list[tuple[Step, random.Random]]:
    """The steps of a row's variants, each with its generator. The first step is drawn by the id, so that few variants still use all steps over the rows."""
    if not settings.steps:
        return []
    seed = f"{settings.seed}\x1f{row_id}"
    first = _generator(seed).random() * len(settings.steps)
    turns = [settings.steps[(int(first) + number) % len(settings.steps)] for number in range(settings.variants)]
    return [(step, _generator(f"{seed}\x1f{number}")) for number, step in enumerate(turns)]


def _generator(name: str) -> random.Random:
    return random.Random(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))


def variants(text: str, row_id: str, settings: AugmentSettings, table: Synonyms | None = None) -> list[tuple[str, str]]:
    """Variants of one text by the steps that need no model.

    Args:
        text: what is varied.
        row_id: decides all draws, with `settings.seed`.
        table: of step `synonyms`.

    Returns:
        (step, text) each; none is blank, equal to the text, or there twice.
    """
    return [(how, one) for how, (one,) in variants_of([text], [0], row_id, settings, table)]


def variants_of(
    texts: Sequence[str], may_change: Collection[int], row_id: str, settings: AugmentSettings, table: Synonyms | None = None
) -> list[tuple[str, list[str]]]:
    """As `variants`, of several texts that are one row (a dialogue's messages): a step changes each of those whose number is in `may_change`, where it can."""
    made = []
    for how, rng in plan(row_id, settings):
        if how in LOCAL or (how == "synonyms" and table):
            change = functools.partial(synonyms, table=table or {}) if how == "synonyms" else LOCAL[how]
            made.append((str(how), [change(text, settings.rate, rng) if at in may_change else text for at, text in enumerate(texts)]))
    return _distinct(texts, made)


def generated(
    found: Sequence[tuple[Sequence[str], Collection[int]]], row_ids: Sequence[str], settings: AugmentSettings, models: Mapping[str, Generate]
) -> list[list[tuple[str, list[str]]]]:
    """Variants by a model: another word in the place of one (`replace`), or the whole in other words (`paraphrase`).

    Args:
        found: each row's texts, and the numbers of those that may change.
        row_ids: each decides all draws of its row, with `settings.seed`.
        models: step -> a function from questions to answers, one each, called once with all of them. `replace` gets texts with one MASK and answers the
            word that stands there; `paraphrase` gets prompts (PARAPHRASE).

    Returns:
        For each row (step, texts) as of `variants_of`. An answer is refused when it is blank or the text itself, when a number, address or placeholder
        of the text is missing in it or new, or when it is LONGEST_ANSWER times as long.
    """
    asked: dict[Step, list[tuple[int, int, int, str]]] = {how: [] for how in ("replace", "paraphrase") if how in models}
    for row, (texts, may_change) in enumerate(found):
        for number, (how, rng) in enumerate(plan(row_ids[row], settings)):
            if how in asked:
                questions = [(at, masked(texts[at], rng) if how == "replace" else PARAPHRASE.replace("{text}", texts[at])) for at in sorted(may_change)]
                asked[how] += [(row, number, at, question) for at, question in questions if question]
    made: list[dict[int, tuple[str, list[str]]]] = [{} for _ in found]
    for how, items in asked.items():
        answers = models[how]([question for *_, question in items]) if items else []
        for (row, number, at, question), answer in zip(items, answers, strict=True):
            text = found[row][0][at]
            new = filled(text, question, answer) if how == "replace" else reworded(text, answer)
            if new:
                made[row].setdefault(number, (how, list(found[row][0])))[1][at] = new
    return [_distinct(texts, [one[number] for number in sorted(one)]) for (texts, _), one in zip(found, made, strict=True)]


def _key(texts: Sequence[str]) -> str:
    """What makes two rows equal: their texts, white space aside."""
    return "\x1f".join(map(even, texts))


def _distinct(texts: Sequence[str], made: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """Variants that differ from the row, and from those before them, by more than white space."""
    first: dict[str, tuple[str, list[str]]] = {}
    for how, new in made:
        first.setdefault(_key(new), (how, new))
    first.pop(_key(texts), None)
    return list(first.values())


def augmented(
    train: pa.Table, settings: AugmentSettings, counts: Mapping[str, int], table: Synonyms | None = None, models: Mapping[str, Generate] | None = None
) -> list[dict[str, Any]]:
    """Further rows for train, of any kind. Of a dialogue only the user's messages change, of a completion the prompt, of labelled rows the first text.

    Args:
        train: some of the rows of train.
        settings: how (`checked`).
        counts: all rows of train by label.
        table: of step `synonyms`.
        models: of steps `replace` and `paraphrase`, as for `generated`.

    Returns:
        The new rows, with `origin: augmented:STEP`, ids of their row's and `~a1`, `~a2`, and all else as their row has it. One may equal another row.
    """
    chosen = [row for row in train.to_pylist() if _wanted(row, settings, counts)]
    found = [_texts(row) for row in chosen]
    by_model = generated(found, [row["id"] for row in chosen], settings, models or {})
    out: list[dict[str, Any]] = []
    for row, (texts, may_change), more in zip(chosen, found, by_model, strict=True):
        new = _distinct(texts, variants_of(texts, may_change, row["id"], settings, table) + more)
        out += [_with(row, how, texts, number) for number, (how, texts) in enumerate(new, 1)]
    return out


def checked(settings: AugmentSettings, counts: Mapping[str, int] | None, table: Synonyms | None, models: Mapping[str, Generate]) -> None:
    """Refuse what cannot be done, before anything is.

    Args:
        settings: how.
        counts: all rows of train by label; None for rows without labels.
        table, models: as for `augmented`.

    Raises:
        UserError: a step without its list or model; labels asked for that train does not have.
    """
    needs: dict[str, tuple[str, str, Any]] = {"synonyms": ("a list", "synonyms", table)}
    needs |= {"replace": ("a model", "masked", models.get("replace")), "paraphrase": ("a model", "writer", models.get("paraphrase"))}
    for step in settings.steps:
        if step in needs and not needs[step][2]:
            what, key, _ = needs[step]
            raise UserError(f"step `{step}` of `data.augment.steps` needs {what}", "recipe", f"name it in data.augment.{key}, or leave the step out")
    if counts is None and (settings.labels or settings.fewer_than is not None):
        raise UserError("`augment.labels` and `augment.fewer_than` go with labelled rows only", "recipe", "leave them out")
    for label in settings.labels:
        if counts is not None and label not in counts:
            what = f"`augment.labels`: no row of train has the label `{label}`{nearest(label, counts)}"
            raise UserError(what, "recipe", f"the labels are {some(sorted(counts))}")


def _wanted(row: Mapping[str, Any], settings: AugmentSettings, counts: Mapping[str, int]) -> bool:
    if not settings.labels and settings.fewer_than is None:
        return True
    most = settings.fewer_than or math.inf
    return any((not settings.labels or label in settings.labels) and counts.get(label, 0) < most for label in row["labels"])


def _texts(row: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """A row's texts, and the numbers of those that may change."""
    if "messages" in row:
        return [one["content"] for one in row["messages"]], [at for at, one in enumerate(row["messages"]) if one["role"] == "user"]
    if "prompt" in row:
        return [row["prompt"], row["completion"]], [0]
    return [row["text"], *([row["text_pair"]] if row.get("text_pair") is not None else [])], [0]


def _with(row: Mapping[str, Any], how: str, texts: Sequence[str], number: int) -> dict[str, Any]:
    """A row with other texts."""
    new = dict(row) | {"id": f"{row['id']}~a{number}", "origin": f"augmented:{how}"}
    if "messages" in row:
        return new | {"messages": [one | {"content": text} for one, text in zip(row["messages"], texts, strict=True)]}
    return new | {"prompt" if "prompt" in row else "text": texts[0]}
