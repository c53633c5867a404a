"""Records -> rows, strictly: the mapped columns must be there and hold what they promise; other columns are left alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from tunesmith.data import rows
from tunesmith.data.sources import BadRow, Records, json_type
from tunesmith.errors import Problems, UserError, counted, nearest, some
from tunesmith.files import sha256_bytes
from tunesmith.settings import Settings

MOST_SHOWN = 50
TEXT_NAMES = ("text", "message", "sentence", "utterance", "question", "query", "content", "body", "review", "comment", "description", "title")
LABEL_NAMES = ("label", "labels", "category", "intent", "class", "queue", "target", "topic", "sentiment", "tag", "tags")
KEYS = {
    "labelled": ("text", "text_pair", "label", "multi_label", "out_of_scope"),
    "dialogue": ("messages", "prompt", "completion"),
    "completion": ("prompt", "completion"),
    "document": ("text",),
}
"""The keys that only rows of a kind have; all others go with every kind."""


class DataSettings(Settings):
    """Which data, which columns, which split."""

    train: str
    """The rows to learn from: a file (.csv .tsv .jsonl .parquet), from the recipe's folder, or starter/NAME."""
    valid: float | str = 0.1
    """Rows that choose the step to keep: a fraction of train, a file, or `none`."""
    test: float | str = 0.2
    """Rows that measure: a fraction of train, a file (never altered), or `none`."""
    out_of_scope: str | None = None
    """A file of texts that belong to none of the labels, to measure how well they are told apart; never learnt from. null: none."""
    rows: Literal["labelled", "dialogue", "completion", "document"] | None = None
    """What a row is: a text with its label, a dialogue of messages, a prompt with its completion, or a document. null: by the columns, and said."""
    text: str | None = None
    """Column of the text. null: guessed from the column names, and said."""
    text_pair: str | None = None
    """Column of a second text, for pairs. null: none."""
    label: str | None = None
    """Column of the label. null: guessed from the column names, and said."""
    messages: str | None = None
    """Column of a dialogue's messages, a list of {role, content} or {from, value}. null: guessed from the column names, and said."""
    prompt: str | None = None
    """Column of the prompt. null: guessed from the column names, and said."""
    completion: str | None = None
    """Column of the completion of a prompt. null: guessed from the column names, and said."""
    multi_label: bool = False
    """Whether a row has any number of labels: a list, or text divided by `label_separator`."""
    label_separator: str = "|"
    """Divides the labels of one field when `multi_label` and the field is text."""
    id: str | None = None
    """Column of a unique name for each row. null: a hash of the content."""
    together: str | None = None
    """Column whose equal values (one customer, one document) must stay on one side of the split. null: each text alone."""
    time: str | None = None
    """Column that says when a row was written; kept for later. null: none."""
    attributes: tuple[str, ...] = ()
    """Columns kept for audits (gender, region); never an input of the model."""
    on_bad_row: Literal["stop", "reject"] = "stop"
    """stop: report bad rows and train nothing. reject: go on without them, count them, keep them in data/rejected.jsonl."""
    split_seed: int = Field(0, ge=0)
    """Another number gives another split by hash."""

    @field_validator("valid", "test")
    @classmethod
    def _fraction_or_file(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and not 0 < value < 1:
            raise ValueError("must lie between 0 and 1, or be a file or `none`")
        return value

    @model_validator(mode="after")
    def _rows_to_learn_from(self) -> DataSettings:
        shares = [value for value in (self.valid, self.test) if not isinstance(value, str)]
        if sum(shares) >= 1:
            raise ValueError(f"valid={self.valid} and test={self.test} leave no rows to learn from; together they must stay below 1")
        return self

    @model_validator(mode="after")
    def _keys_of_one_kind(self) -> DataSettings:
        given = [key for keys in KEYS.values() for key in keys if getattr(self, key)]
        kinds = [kind for kind, keys in KEYS.items() if set(given) <= set(keys)]
        if self.rows and self.rows not in kinds:
            wrong = next(key for key in given if key not in KEYS[self.rows])
            raise ValueError(f"rows={self.rows} does not go with `{wrong}`; leave one of the two out")
        if not kinds:
            first = given[0]
            other = next(key for key in given if not any({first, key} <= set(keys) for keys in KEYS.values()))
            raise ValueError(f"`{first}` and `{other}` belong to different kinds of rows; leave one of the two out")
        return self


def columns_for(settings: DataSettings, records: Records) -> tuple[DataSettings, list[str]]:
    """Check that the mapped columns exist, and guess `text` and `label` where the recipe leaves them open.

    Returns:
        The settings with every column named, and what was guessed, to be said aloud.

    Raises:
        Problems: each missing column with the nearest one that exists.
    """
    said, found = [], {}
    for key, names in (("text", TEXT_NAMES), ("label", LABEL_NAMES)):
        if getattr(settings, key) is None:
            lower = {name.lower(): name for name in records.columns}
            found[key] = next((lower[name] for name in names if name in lower), None)
            if found[key]:
                said.append(f"{records.source}: taking column `{found[key]}` as the {key}")
    settings = settings.model_copy(update=found)
    mapped = {"text": settings.text, "text_pair": settings.text_pair, "label": settings.label, "id": settings.id}
    mapped |= {"together": settings.together, "time": settings.time} | {f"attributes.{a}": a for a in settings.attributes}
    errors = []
    for key, name in mapped.items():
        if name is None and key in ("text", "label"):
            what = f"no column for the {key} was found among {some(records.columns)}"
            also = "; for texts without labels set data.rows: document" if key == "label" else ""
            errors.append(UserError(what, f"{records.source}:1", f"name it in the recipe: data.{key}: COLUMN{also}"))
        elif name is not None and name not in records.columns:
            what = f"no column `{name}`{nearest(name, records.columns)}"
            errors.append(UserError(what, f"{records.source}:1", f"the columns are {some(records.columns)}; set data.{key} to one of them"))
    if errors:
        raise Problems(errors)
    return settings, said


def validate(records: Records, settings: DataSettings) -> tuple[pa.Table, list[BadRow]]:
    """Turn records into rows.

    Args:
        records: what a source read.
        settings: with every column named (`columns_for`).

    Returns:
        The good rows, and the bad ones with reasons; together they are all the records.
    """
    out: dict[str, list[Any]] = {name: [] for name in ("id", "line", "text", "text_pair", "labels", "together", "time", "attributes")}
    bad = list(records.bad)
    seen: dict[str, int] = {}
    for line, record in records.records:
        row = _row(record, settings, line)
        if isinstance(row, dict) and settings.id is not None:
            first = seen.setdefault(row["id"], line)
            if first != line:
                row = ("repeated id", f"id `{row['id']}` was used before, at line {first}", "ids must be unique; correct one")
        if isinstance(row, tuple):
            bad.append(BadRow(records.source, line, *row, row=record))
            continue
        for name, value in row.items():
            out[name].append(value)
    out["source"] = [records.source] * len(out["line"])
    return rows.table(out), sorted(bad, key=lambda one: one.line)


def _row(record: dict[str, Any], settings: DataSettings, line: int) -> dict[str, Any] | tuple[str, str, str]:
    """One row's values, or (reason, what, remedy)."""
    assert settings.text and settings.label
    columns = (settings.text, settings.text_pair, settings.label, settings.id, settings.together, settings.time, *settings.attributes)
    for column in columns:
        if column and not _encodable(record.get(column)):
            return _broken(column)
    text = _text(record, settings.text)
    if isinstance(text, tuple):
        return text
    pair = _text(record, settings.text_pair) if settings.text_pair else None
    if isinstance(pair, tuple):
        return pair
    labels = _labels(record.get(settings.label), settings)
    if isinstance(labels, tuple):
        return labels
    shared = _shared(record, settings)
    if isinstance(shared, tuple):
        return shared
    name = shared.pop("id")
    content = sha256_bytes("\x1f".join([text, pair or "", *labels]).encode())[:16]
    return {"id": name or content, "line": line, "text": text, "text_pair": pair, "labels": labels, **shared}


def _shared(record: dict[str, Any], settings: DataSettings) -> dict[str, Any] | tuple[str, str, str]:
    together = _plain(record.get(settings.together)) if settings.together else None
    if settings.together and together is None:
        return "no together value", f"column `{settings.together}` is blank", "fill it, or give each such row a value of its own"
    name = _plain(record.get(settings.id)) if settings.id else None
    if settings.id and name is None:
        return "no id", f"column `{settings.id}` is blank", "fill it, or leave data.id out"
    return {
        "id": name,
        "together": together,
        "time": _plain(record.get(settings.time)) if settings.time else None,
        "attributes": [(name, value) for name in settings.attributes if (value := _plain(record.get(name))) is not None],
    }


def common(record: dict[str, Any], settings: DataSettings) -> dict[str, Any] | tuple[str, str, str]:
    """The columns that every kind of row has: id (None where the recipe names no column), together, time and attributes.

    Returns:
        Their values, or (reason, what, remedy).
    """
    for column in (settings.id, settings.together, settings.time, *settings.attributes):
        if column and not _encodable(record.get(column)):
            return _broken(column)
    return _shared(record, settings)


def _broken(column: str) -> tuple[str, str, str]:
    return "broken character", f"column `{column}` holds half of a surrogate pair", "repair the escape \\ud8xx in it"


def _text(record: dict[str, Any], column: str) -> str | tuple[str, str, str]:
    value = record.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        state = "missing" if column not in record else "blank"
        return "no text", f"the text in column `{column}` is {state}", "fill it in or delete the row"
    if not isinstance(value, str):
        return "text of another type", f"column `{column}` holds {json_type(value)}, expected text", "write it in quotes"
    return value


def _encodable(value: Any) -> bool:
    """False for text, or a list of it, with half of a surrogate pair: it has no UTF-8."""
    if isinstance(value, list):
        return all(map(_encodable, value))
    try:
        return not isinstance(value, str) or value.encode() is not None
    except UnicodeEncodeError:
        return False


def _labels(value: Any, settings: DataSettings) -> list[str] | tuple[str, str, str]:
    column = settings.label
    if settings.multi_label:
        if isinstance(value, str):
            value = [part for part in value.split(settings.label_separator) if part.strip()]
        if value is None:
            value = []
        if not isinstance(value, list):
            return "label of another type", f"column `{column}` holds {json_type(value)}, expected a list of labels", "write a list"
        labels = [_plain(one) for one in value]
    else:
        if isinstance(value, list):
            remedy = "keep one, or set data.multi_label: true"
            return "several labels", f"column `{column}` holds a list, expected one label", remedy
        if isinstance(value, dict):
            return "label of another type", f"column `{column}` holds an object, expected one label", "write the label's name"
        labels = [_plain(value)]
    if any(one is None for one in labels):
        return "no label", f"the label in column `{column}` is blank", "label the row or delete it"
    return sorted({one for one in labels if one is not None})


def _plain(value: Any) -> str | None:
    """A name as text: trimmed, whole numbers without a point; None for blank, NaN or anything that is not a plain value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float) and math.isnan(value):  # how some tools write a missing number
        return None
    if isinstance(value, (str, int, float)):
        return str(value).strip() or None
    return str(value) if value is not None and not isinstance(value, (list, dict)) else None


def texts_alone(records: Records, column: str) -> tuple[pa.Table, list[BadRow]]:
    """Rows without labels, from the text column alone.

    Raises:
        UserError: there is no such column.
    """
    if column not in records.columns:
        what = f"no column `{column}`{nearest(column, records.columns)}"
        raise UserError(what, f"{records.source}:1", f"the columns are {some(records.columns)}; the text's must be named as in train")
    good, bad = [], list(records.bad)
    for line, record in records.records:
        text = _text(record, column)
        if isinstance(text, tuple):
            bad.append(BadRow(records.source, line, *text, row=record))
        else:
            good.append((f"{records.source}:{line}", line, text))
    ids, lines, texts = (list(one) for one in zip(*good, strict=True)) if good else ([], [], [])
    return rows.table({"id": ids, "line": lines, "text": texts, "source": [records.source] * len(ids), "labels": [[]] * len(ids)}), bad


def lonely(table: pa.Table) -> list[BadRow]:
    """Rows whose label occurs once in all the data: nothing can be both learnt and tested from one row."""
    counts = Counter(label for labels in rows.label_lists(table) for label in labels)
    out = []
    for row in table.select(["source", "line", "labels", "text"]).to_pylist():
        alone = [label for label in row["labels"] if counts[label] == 1]
        if alone:
            what = f"label `{alone[0]}` has one row; each label needs at least 2"
            remedy = "correct the label, add rows, or set data.on_bad_row: reject"
            out.append(BadRow(row["source"], row["line"], "label with one row", what, remedy, {"text": row["text"], "labels": row["labels"]}))
    return out


def stop_for(bad: Sequence[BadRow], rejected: Path | None, count: int = 0) -> Problems:
    """The error for bad rows when the recipe says stop: the first ones with their lines, and where the rest are.

    Args:
        bad: all of them, or the first MOST_SHOWN.
        rejected: the file that has them all; None for none.
        count: how many there are; 0 for as many as in `bad`.
    """
    shown, count = [one.error() for one in bad[:MOST_SHOWN]], count or len(bad)
    if count > MOST_SHOWN:
        shown.append(UserError(f"and {count - MOST_SHOWN} more"))
    place = f"; all are in {rejected}" if rejected else ""
    return Problems(shown, f"{counted(count, 'bad row')}{place}. Mend them, or go on without them: data.on_bad_row=reject")
