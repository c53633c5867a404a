"""What a language model is asked for a variant of a text, and what is made of its answer: a word in the place of one, or the whole in other words."""

from __future__ import annotations

import random
from collections import Counter

from tunesmith.data.augmentation.noise import NEGATIONS, cased, drawn, parts, scan

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
_QUOTES = "\"'„“”‚‘’«»"


def masked(text: str, rng: random.Random) -> str:
    """The text with MASK for a word of four letters or more that is no negation; empty when there is none."""
    pieces, free = parts(text)
    may = [at for at in free if len(pieces[at]) >= 4 and pieces[at].lower() not in NEGATIONS]
    return "".join([*pieces[: (at := drawn(may, 1, 1.0, rng)[0])], MASK, *pieces[at + 1 :]]) if may and MASK not in text else ""


def filled(text: str, question: str, answer: str) -> str:
    """The text with a model's word where the question (`masked`) has its gap; empty for anything but one plain, other word."""
    before, after = question.split(MASK)
    old, new = text[len(before) : len(text) - len(after)], answer.strip()
    if len(parts(new)[0]) != 1 or not parts(new)[1] or new.lower() == old.lower():
        return ""
    return before + cased(new, old) + after


def reworded(text: str, answer: str) -> str:
    """A model's answer to PARAPHRASE without what stands around it; empty when it loses or adds a number, address or placeholder, or is too long."""
    new = answer.strip() if "\n" in text else answer.strip().partition("\n")[0].strip()
    if new[:1] in _QUOTES and new[-1:] in _QUOTES and text.strip()[:1] not in _QUOTES:
        new = new[1:-1].strip()
    same = Counter(scan(new)[1]) == Counter(scan(text)[1])
    return new if same and len(new) <= LONGEST_ANSWER * len(text) else ""
