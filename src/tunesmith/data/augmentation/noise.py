"""Small changes of a text that leave its label true: slips, keys, words left out, changing places or becoming synonyms. No model is needed.

Noise of words (Wei and Zou 2019, "EDA", https://arxiv.org/abs/1901.11196) and of keys (Belinkov and Bisk 2018, https://arxiv.org/abs/1711.02173). We differ:
1. Words are swapped with their neighbours, not across the text; negations are never dropped, as without them the label may be another.
2. Numbers, addresses and placeholders are never touched: they carry what an answer needs, and what privacy put there.

A step is a pure function: text, rate, random generator -> text. It needs words with spaces between them; of other languages only a model makes variants.
"""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import as_user_error

Synonyms = Mapping[str, Sequence[str]]

NEGATIONS = frozenset("no not never none nothing nobody neither nor without cannot nicht kein keine nie ohne ne pas jamais sans sin nunca ni".split())
"""Never dropped, and words with n't neither. English, German, French and Spanish; for other languages leave the step `drop` out."""
_ROWS = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))
_KEYS = {key: (offset + at, float(line)) for line, (keys, offset) in enumerate(_ROWS) for at, key in enumerate(keys)}
"""Where the keys lie, in key widths, on a staggered keyboard (ANSI INCITS 154: rows are shifted by a quarter and by half a key)."""
NEIGHBOURS = {a: sorted(b for b in _KEYS if b != a and math.dist(_KEYS[a], _KEYS[b]) < 1.3) for a in _KEYS}
"""The keys that touch each key of QWERTY."""
_WHOLE = re.compile(r"\{[^{}\n]{0,99}\}|\[[^\[\]\n]{0,99}\]|<[^<>\n]{0,99}>")  # placeholders and tags, which may hold spaces
_FIXED = re.compile(r"[@#%$€£_\\/]|\w\.\w|:\w")  # in a run without spaces: e-mail and web addresses, paths, codes, handles
_MARKS = ".,;:!?…\"'`()„“”‚‘’«»"
_WORD = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")


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


def drawn(among: Sequence[Any], words: int, rate: float, rng: random.Random) -> list[Any]:
    """A drawn share of the words, one at least. `random()` alone is promised to draw the same numbers in every version of Python."""
    left, count = list(among), max(1, round(rate * words))
    return [left.pop(int(rng.random() * len(left))) for _ in range(min(count, len(left)))]


def typos(text: str, rate: float, rng: random.Random) -> str:
    """Slips of the fingers: two letters change places, one is left out or doubled. The first letter stays, and words of fewer than four are left alone."""
    pieces, free = parts(text)
    for at in drawn([one for one in free if len(pieces[one]) >= 4], len(free), rate, rng):
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
    for at in drawn([one for one, letters in places.items() if letters], len(free), rate, rng):
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
    for at in drawn(may, len(free), rate, rng)[: len(free) - 1]:
        pieces[at] = ""
        if at + 1 < len(pieces):
            pieces[at + 1] = pieces[at + 1][1:]
    new = "".join(pieces)
    return new if text[-1:].isspace() else new.rstrip()


def swap(text: str, rate: float, rng: random.Random) -> str:
    """Neighbouring words change places."""
    pieces, free = parts(text)
    pairs = [(a, b) for a, b in zip(free, free[1:], strict=False) if b == a + 2 and pieces[a + 1].isspace() and pieces[a] != pieces[b]]
    for a, b in drawn(pairs, len(free), rate, rng):
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
    for first, last, key in drawn(found, len(free), rate, rng):
        word = "".join(pieces[first : last + 1])
        if " ".join(word.lower().split()) != key:
            continue  # a phrase that overlaps it was replaced before
        new = table[key][int(rng.random() * len(table[key]))]
        pieces[first] = cased(new, word)
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


def cased(new: str, old: str) -> str:
    """A word with capitals where the one before it had them."""
    return new.upper() if old.isupper() and len(old) > 1 else new[0].upper() + new[1:] if old[0].isupper() else new


LOCAL: dict[str, Callable[[str, float, random.Random], str]] = {"typos": typos, "keyboard": keyboard, "drop": drop, "swap": swap}
