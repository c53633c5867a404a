"""What every kind of row has: texts that can be read and put back, and what tells two rows apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tunesmith.core.errors import nearest
from tunesmith.data.readers.json import json_type

Wrong = tuple[str, str, str]
"""A short reason to count by, what was found, the remedy."""


class Row(NamedTuple):
    """A row and what is counted of it.

    Attributes: values (the columns), key (what makes it equal to another), prompt and answer (the first question and the last answer, white
    space evened out; the labels are the answer of a labelled row), prompt_characters, answer_characters, turns (messages but the system's), flags.
    """

    values: dict[str, Any]
    key: str
    prompt: str
    answer: str
    prompt_characters: int
    answer_characters: int
    turns: int
    flags: int


COLUMNS: dict[str, tuple[str, ...]] = {
    "labelled": ("text", "text_pair"),
    "dialogue": ("messages",),
    "completion": ("prompt", "completion"),
    "document": ("text",),
    "preference": ("messages", "chosen", "rejected"),
    "prompt": ("messages",),
}
"""The columns that hold a kind's texts, in the order in which they are read."""

OTHERWISE: dict[type, str] = {
    list: "join its texts into one, or give each a row of its own",
    dict: "give its text a column of its own; a whole table in one object is written by rows: pandas to_json(path, orient='records', lines=True)",
    bytes: "write the column as text, not as binary",
}
"""Remedies for what is no text."""
MOST_MARKS = 256
"""Accents upon accents that are put in order; Python does it in quadratic time (64,000 of them in 4 s), and no language stacks ten. A convention of ours."""


@lru_cache(maxsize=1)
def _stacked() -> re.Pattern[str]:
    """Finds more marks one upon the other than that; the last in Unicode 17 is U+1E94A."""
    marks = "".join(chr(code) for code in range(0x300, 0x1E94B) if unicodedata.combining(chr(code)))
    return re.compile(f"[{marks}]{{{MOST_MARKS}}}")


def composed(text: str) -> str:
    """A text in Unicode's NFC: an `é` may be one character or two. One that stacks accents beyond all measure stays as it is."""
    if text.isascii() or (len(text) > MOST_MARKS and _stacked().search(text)):
        return text
    return unicodedata.normalize("NFC", text)


def even(text: str) -> str:
    """A text with each run of white space as one space, none at its ends, and accents composed."""
    text = composed(text)
    # Of white space only the space is printable: most texts are told to be even without dividing them, in a fifth of the time.
    if text.isprintable() and "  " not in text and text[:1] != " " and text[-1:] != " ":
        return text
    return " ".join(text.split())


def of(values: Mapping[str, Any], kind: str) -> list[str]:
    """A row's texts in order: those of its columns, and of its messages one by one."""
    out: list[str] = []
    for column in COLUMNS[kind]:
        value = values[column]
        if column == "messages":
            out += [message["content"] for message in value]
        elif value is not None:
            out.append(value)
    return out


def compared(values: Mapping[str, Any], kind: str) -> str:
    """A row's texts as one, to tell how alike two rows are: without the system's messages, which many rows share."""
    if "messages" not in values:
        return "\n".join(of(values, kind))
    said = [message["content"] for message in values["messages"] if message["role"] != "system"]
    return "\n".join([*said, *(values[column] for column in COLUMNS[kind] if column != "messages")])


def answer(values: Mapping[str, Any]) -> str:
    """The last answer of a dialogue, the completion, or the better answer of a preference."""
    if "completion" in values:
        return str(values["completion"])
    if "chosen" in values:
        return str(values["chosen"])
    return next((str(message["content"]) for message in reversed(values["messages"]) if message["role"] == "assistant"), "")


def put(values: Mapping[str, Any], kind: str, texts: Sequence[str]) -> dict[str, Any]:
    """The row's columns with other texts, as many as `of` gave."""
    rest = iter(texts)
    out = dict(values)
    for column in COLUMNS[kind]:
        if column == "messages":
            out[column] = [{"role": message["role"], "content": next(rest)} for message in values[column]]
        elif values[column] is not None:
            out[column] = next(rest)
    return out


def text_in(record: dict[str, Any], column: str, what: str) -> str | Wrong:
    """A text that must be there; `what` names it in messages (text, prompt, completion)."""
    value = record.get(column)
    if value is None or (isinstance(value, str) and (not value or value.isspace())):
        state = "blank" if column in record else f"missing{nearest(column, record)}"
        remedy = "fill it in or delete the row"
        return f"no {what}", f"the {what} in column `{column}` is {state}", remedy
    if not isinstance(value, str):
        remedy = "map it as data.messages" if isinstance(value, list) and what != "text" else OTHERWISE.get(type(value), "write it in quotes")
        return f"{what} of another type", f"column `{column}` holds {json_type(value)}, expected text", remedy
    return value
