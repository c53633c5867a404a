"""Augmentation: further rows of train, made from its rows by small changes that leave the labels true. Off by default; measuring sides are never touched.

Noise of words (Wei and Zou 2019, "EDA", https://arxiv.org/abs/1901.11196) and of keys (Belinkov and Bisk 2018, https://arxiv.org/abs/1711.02173). We differ:
1. Words are swapped with their neighbours, not across the text; negations are never dropped, as without them the label may be another.
2. Numbers, addresses and placeholders are never touched: they carry what an answer needs, and what privacy put there.
3. The row's id seeds the draw: a row has the same variants in any order and company.

A step is a pure function: text, rate, random generator -> text. It needs words with spaces between them; of other languages only a model makes variants.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from tunesmith.data.texts import even
from tunesmith.errors import UserError, nearest, some
from tunesmith.files import as_user_error
from tunesmith.settings import Settings

Step = Literal["typos", "keyboard", "drop", "swap", "synonyms", "replace", "paraphrase"]
Generate = Callable[[list[str]], list[str]]
Synonyms = Mapping[str, Sequence[str]]

PARAPHRASE = """Rewrite the message in other words. Keep its meaning, its tone and its language. Keep every number, name, address and placeholder as it is. \
Answer with the rewritten message alone.

Message: {text}
Rewritten message:"""
"""The prompt of a paraphrase. It forbids what would make the label false (another meaning, tone or number), and ends where a model that only continues texts
begins to answer, so that one without a chat template can be used too."""
MASK = "[MASK]"
"""Stands for the word to be replaced in the texts that `replace` hands over; whose model has another mark puts it in its place."""
LONGEST_ANSWER = 3
"""A paraphrase longer than so many times its text, in characters, went on to something else. A convention of ours."""
NEGATIONS = frozenset("no not never none nothing nobody neither nor without cannot nicht kein keine nie ohne ne pas jamais sans sin nunca ni".split())
"""Never dropped, and words with n't neither. English, German, French and Spanish; for other languages leave the step `drop` out."""
_ROWS = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))
_KEYS = {key: (offset + at, float(line)) for line, (keys, offset) in enumerate(_ROWS) for at, key in enumerate(keys)}
"""Where the keys lie, in key widths, on a staggered keyboard (ANSI INCITS 154: rows are shifted by a quarter and by half a key)."""
NEIGHBOURS = {a: sorted(b for b in _KEYS if b != a and math.dist(_KEYS[a], _KEYS[b]) < 1.3) for a in _KEYS}
"""The keys that touch each key of QWERTY."""
_WHOLE = re.compile(r"\{[^{}\n]{0,99}\}|\[[^\[\]\n]{0,99}\]|<[^<>\n]{0,99}>")  # placeholders and tags, which may hold spaces
_FIXED = re.compile(r"[@#%$€£_\\/]|\w\.\w|:\w")  # in a run without spaces: e-mail and web addresses, paths, codes, handles
_MARKS, _QUOTES = ".,;:!?…\"'`()„“”‚‘’«»", "\"'„“”‚‘’«»"
_WORD = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")


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


def scan(text: str) -> tuple[list[tuple[int, int]], list[str]]:
    """Where the words are that may change, as (start, stop), and what may not: numbers, addresses and placeholders, without marks around them."""
    words, kept, at = [], [], 0
    for whole in [*_WHOLE.finditer(text), None]:
        stop = whole.start() if whole else len(text)
        for run in re.finditer(r"\S+", text[at:stop]):
            first, last = at + run.start(), at + run.end()
            code = (at and first == at) or (whole and last == stop)  # "ID-[NUMBER]" is one
            # Numbers, and marks that combine with the letter before them: a word of such a script cannot be cut anywhere.
            if code or _FIXED.search(run[0]) or any(unicodedata.category(letter)[0] in "NM" for letter in run[0]):
                kept.append(run[0])
            else:
                words += [(first + word.start(), first + word.end()) for word in _WORD.finditer(run[0])]
        if whole:
            kept.append(whole[0])
            at = whole.end()
    return words, [bare for one in kept if (bare := one.strip(_MARKS))]


def parts(text: str) -> tuple[list[str], list[int]]:
    """A text in pieces that join to it again, and the numbers of those that are words a step may change."""
    pieces, free, at = [], [], 0
    for start, stop in scan(text)[0]:
        if start > at:
            pieces.append(text[at:start])
        free.append(len(pieces))
        pieces.append(text[start:stop])
        at = stop
    return [*pieces, *([text[at:]] if at < len(text) else [])], free


def _some(among: Sequence[Any], words: int, rate: float, rng: random.Random) -> list[Any]:
    """A drawn share of the words, one at least. `random()` alone is promised to draw the same numbers in every version of Python."""
    left, count = list(among), max(1, round(rate * words))
    return [left.pop(int(rng.random() * len(left))) for _ in range(min(count, len(left)))]


def typos(text: str, rate: float, rng: random.Random) -> str:
    """Slips of the fingers: two letters change places, one is left out or doubled. The first letter stays, and words of fewer than four are left alone."""
    pieces, free = parts(text)
    for at in _some([one for one in free if len(pieces[one]) >= 4], len(free), rate, rng):
        word = pieces[at]
        k, slip = 1 + int(rng.random() * (len(word) - 2)), int(rng.random() * 3)
        if slip == 0 and word[k] != word[k + 1]:
            pieces[at] = word[:k] + word[k + 1] + word[k] + word[k + 2 :]
        elif slip == 1:
            pieces[at] = word[:k] + word[k + 1 :]
        else:
            pieces[at] = word[:k] + word[k] + word[k:]
    return "".join(pieces)


def keyboard(text: str, rate: float, rng: random.Random) -> str:
    """A key beside the right one, on QWERTY; words of fewer than four letters are left alone."""
    pieces, free = parts(text)
    places = {at: [k for k, letter in enumerate(pieces[at]) if letter.lower() in NEIGHBOURS] for at in free if len(pieces[at]) >= 4}
    for at in _some([one for one, letters in places.items() if letters], len(free), rate, rng):
        k = places[at][int(rng.random() * len(places[at]))]
        beside = NEIGHBOURS[pieces[at][k].lower()]
        hit = beside[int(rng.random() * len(beside))]
        pieces[at] = pieces[at][:k] + (hit.upper() if pieces[at][k].isupper() else hit) + pieces[at][k + 1 :]
    return "".join(pieces)


def drop(text: str, rate: float, rng: random.Random) -> str:
    """Words left out, with a space beside them; no negation, no word that a mark stands beside, and never the last word that is left."""
    pieces, free = parts(text)
    spaced = [at for at in free if (not at or pieces[at - 1][-1].isspace()) and (at + 1 == len(pieces) or pieces[at + 1][0].isspace())]
    may = [at for at in spaced if pieces[at].lower() not in NEGATIONS and "n't" not in pieces[at].lower().replace("’", "'")]
    for at in _some(may, len(free), rate, rng)[: len(free) - 1]:
        pieces[at] = ""
        if at + 1 < len(pieces):
            pieces[at + 1] = pieces[at + 1][1:]
    new = "".join(pieces)
    return new if text[-1:].isspace() else new.rstrip()


def swap(text: str, rate: float, rng: random.Random) -> str:
    """Neighbouring words change places."""
    pieces, free = parts(text)
    pairs = [(a, b) for a, b in zip(free, free[1:], strict=False) if b == a + 2 and pieces[a + 1].isspace() and pieces[a] != pieces[b]]
    for a, b in _some(pairs, len(free), rate, rng):
        pieces[a], pieces[b] = pieces[b], pieces[a]
    return "".join(pieces)


def synonyms(text: str, rate: float, rng: random.Random, table: Synonyms) -> str:
    """Words, or phrases of up to three, that stand in the table become one of their synonyms, with a capital where they had one.

    Args:
        table: from `read_synonyms`; keys in lower case.
    """
    pieces, free = parts(text)
    found = []
    for start in range(len(free)):
        for width in (3, 2, 1):
            span = free[start : start + width]
            between = [pieces[at + 1] for at in span[:-1]]
            if len(span) == width and span[-1] - span[0] == 2 * (width - 1) and all(map(str.isspace, between)):
                key = " ".join(pieces[at].lower() for at in span)
                if key in table:
                    found.append((span[0], span[-1], key))
                    break
    for first, last, key in _some(found, len(free), rate, rng):
        word = "".join(pieces[first : last + 1])
        if " ".join(word.lower().split()) != key:
            continue  # a phrase that overlaps it was replaced before
        new = table[key][int(rng.random() * len(table[key]))]
        pieces[first] = _cased(new, word)
        pieces[first + 1 : last + 1] = [""] * (last - first)
    return "".join(pieces)


def read_synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    """Read a list of synonyms: on each line a word or a phrase of up to three, and what may stand in its place; commas or tabs between them.

    A line that begins with `#` is a remark.

    Raises:
        UserError: not there, not UTF-8, a line without a synonym or with a longer phrase, or nothing in it.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise as_user_error(error, path) from error
    except UnicodeDecodeError as error:
        raise UserError(f"byte 0x{error.object[error.start]:02X} is not UTF-8", str(path), "save the file as UTF-8") from error
    table: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        first, *others = (" ".join(cell.split()) for cell in line.split("\t" if "\t" in line else ","))
        new = tuple(dict.fromkeys(one for one in others if one and one.lower() != first.lower()))
        if not first or not new:
            raise UserError(f"`{line.strip()}` names no word with a synonym", f"{path}:{number}", "write a word, a comma, and what may stand in its place")
        if len(parts(first)[1]) != len(first.split()) or len(first.split()) > 3:
            raise UserError(f"`{first}` is not one to three plain words", f"{path}:{number}", "give one to three words, without numbers and marks")
        table[first.lower()] = tuple(dict.fromkeys((*table.get(first.lower(), ()), *new)))
    if not table:
        raise UserError("no synonyms in it", str(path), "write a word, a comma, and what may stand in its place on each line")
    return table


LOCAL: dict[str, Callable[[str, float, random.Random], str]] = {"typos": typos, "keyboard": keyboard, "drop": drop, "swap": swap}


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
                questions = [(at, _masked(texts[at], rng) if how == "replace" else PARAPHRASE.replace("{text}", texts[at])) for at in sorted(may_change)]
                asked[how] += [(row, number, at, question) for at, question in questions if question]
    made: list[dict[int, tuple[str, list[str]]]] = [{} for _ in found]
    for how, items in asked.items():
        answers = models[how]([question for *_, question in items]) if items else []
        for (row, number, at, question), answer in zip(items, answers, strict=True):
            text = found[row][0][at]
            new = _filled(text, question, answer) if how == "replace" else _reworded(text, answer)
            if new:
                made[row].setdefault(number, (how, list(found[row][0])))[1][at] = new
    return [_distinct(texts, [one[number] for number in sorted(one)]) for (texts, _), one in zip(found, made, strict=True)]


def _masked(text: str, rng: random.Random) -> str:
    """The text with MASK for a word of four letters or more that is no negation; empty when there is none."""
    pieces, free = parts(text)
    may = [at for at in free if len(pieces[at]) >= 4 and pieces[at].lower() not in NEGATIONS]
    return "".join([*pieces[: (at := _some(may, 1, 1.0, rng)[0])], MASK, *pieces[at + 1 :]]) if may and MASK not in text else ""


def _filled(text: str, question: str, answer: str) -> str:
    before, after = question.split(MASK)
    old, new = text[len(before) : len(text) - len(after)], answer.strip()
    if len(parts(new)[0]) != 1 or not parts(new)[1] or new.lower() == old.lower():
        return ""
    return before + _cased(new, old) + after


def _reworded(text: str, answer: str) -> str:
    new = answer.strip() if "\n" in text else answer.strip().partition("\n")[0].strip()
    if new[:1] in _QUOTES and new[-1:] in _QUOTES and text.strip()[:1] not in _QUOTES:
        new = new[1:-1].strip()
    same = Counter(scan(new)[1]) == Counter(scan(text)[1])
    return new if same and len(new) <= LONGEST_ANSWER * len(text) else ""


def _cased(new: str, old: str) -> str:
    """A word with capitals where the one before it had them."""
    return new.upper() if old.isupper() and len(old) > 1 else new[0].upper() + new[1:] if old[0].isupper() else new


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
