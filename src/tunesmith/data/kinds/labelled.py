"""Records -> texts with labels, strictly: one row, or what is wrong with it and how to mend it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from tunesmith.data.kinds.layout import Layout
from tunesmith.data.readers.json import json_type
from tunesmith.data.settings import BROKEN, DataSettings, encodable, plain
from tunesmith.data.texts import Row, Wrong, even, text_in


def reader(layout: Layout, settings: DataSettings) -> Callable[[dict[str, Any]], Row | Wrong]:
    """What turns a record into a row with its labels; without a label column (texts out of scope) into one with none."""
    assert layout.text is not None
    text_column, pair_column, label_column = layout.text, layout.text_pair, layout.label
    plainly = pair_column is None and label_column is not None and not settings.multi_label  # most rows, in a third of the time
    columns = [column for column in (text_column, pair_column, label_column) if column]

    def read(record: dict[str, Any]) -> Row | Wrong:
        text, label = record.get(text_column), record.get(label_column or "")
        if plainly and type(text) is str and type(label) is str and text and not text.isspace() and (name := label.strip()):
            if encodable(text) and encodable(label):
                return row(text, None, [name])
        for column in columns:
            if not encodable(record.get(column)):
                return BROKEN[0], BROKEN[1].format(column=column), BROKEN[2]
        text = text_in(record, text_column, "text")
        if not isinstance(text, str):
            return text
        pair = text_in(record, pair_column, "text") if pair_column else None
        if isinstance(pair, tuple):
            return pair
        labels = _labels(record.get(label_column), label_column, settings) if label_column else []
        return labels if isinstance(labels, tuple) else row(text, pair, labels)

    return read


def row(text: str, pair: str | None, labels: list[str]) -> Row:
    """A row, and what makes it equal to another: its texts, white space aside. What must agree in equal texts, the answer, is the labels."""
    key = even(text) + ("\x1f" + even(pair) if pair is not None else "")
    values = {"text": text, "text_pair": pair, "labels": labels}
    return Row(values, key, "", "\x1f".join(labels), 0, len(text) + len(pair or ""), 0, 0)


def alike(names: Iterable[str]) -> list[list[str]]:
    """Labels that are probably one: they differ only in case, spaces, hyphens, underscores, or in how Unicode writes a letter."""
    found: dict[str, list[str]] = {}
    for name in names:
        key = "".join(letter for letter in unicodedata.normalize("NFKC", name).casefold() if not (letter.isspace() or letter in "-_"))
        found.setdefault(key or name, []).append(name)
    return [same for same in found.values() if len(same) > 1]


def _labels(value: Any, column: str, settings: DataSettings) -> list[str] | Wrong:
    if settings.multi_label:
        if isinstance(value, str):
            value = [part for part in value.split(settings.label_separator) if part.strip()]
        if value is None:
            value = []
        if not isinstance(value, list):
            return "label of another type", f"column `{column}` holds {json_type(value)}, expected a list of labels", "write a list"
        labels = [plain(one) for one in value]
    else:
        if isinstance(value, list):
            remedy = "keep one, or set data.multi_label: true"
            return "several labels", f"column `{column}` holds a list, expected one label", remedy
        if isinstance(value, dict):
            return "label of another type", f"column `{column}` holds an object, expected one label", "write the label's name"
        name = plain(value)
        if name is not None:
            return [name]
        labels = [None]
    if any(one is None for one in labels):
        return "no label", f"the label in column `{column}` is blank", "label the row or delete it"
    return sorted({one for one in labels if one is not None})
