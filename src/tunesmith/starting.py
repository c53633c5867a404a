"""`tunesmith init`: a first recipe from a data file, with the columns that were recognised and why."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from tunesmith.data import layouts, sources, streams
from tunesmith.data.card import NAMES
from tunesmith.data.validate import DataSettings
from tunesmith.errors import UserError
from tunesmith.files import write_bytes
from tunesmith.settings import write_yaml

FEW_FOR_FULL = 300
"""Below this many rows a linear head on frozen features is the safer start."""


def first_recipe(data: Path, target: Path) -> tuple[str, list[str]]:
    """Write a recipe for a data file.

    Args:
        data: the file.
        target: the recipe to write; it must not be there yet.

    Returns:
        The recipe's text, and what was recognised, line by line.

    Raises:
        UserError: the data cannot be read, or `target` exists.
    """
    if target.exists():
        raise UserError("there is a file of this name already", str(target), "delete it, or write elsewhere with --output")
    kind = layouts.infer(DataSettings(train=str(data)), data)
    recipe, said = _labelled(data) if kind == "labelled" else _written(data, kind)
    try:
        place = data.absolute().relative_to(target.absolute().parent)
    except ValueError:
        place = data.absolute()
    text = write_yaml({**recipe, "data": {"train": str(place), **recipe["data"], "valid": 0.1, "test": 0.2}})
    write_bytes(target, text.encode())
    return text, said


def _labelled(data: Path) -> tuple[dict[str, Any], list[str]]:
    """A recipe for texts with labels, but for where the data lie, and what was recognised."""
    stream = streams.Stream(data)
    labels: Counter[str] = Counter()
    found, rows, wrong = None, 0, None
    said: list[str] = []
    for _, value in stream:
        if not isinstance(value, dict):
            wrong = wrong or value
            continue
        if found is None:
            found, said = layouts.layout(DataSettings(train=str(data)), "labelled", data, stream.columns, [value])
        rows += 1
        labels[str(value.get(found.label or ""))] += 1
    if found is None:
        assert wrong is not None
        raise wrong.error()
    said.append(f"{data.name}: {rows:,} rows, {len(labels)} labels in `{found.label}`, the commonest `{labels.most_common(1)[0][0]}`")
    if len(labels) > rows / 2:
        said.append(f"warning: almost every row has a label of its own; is `{found.label}` the right column?")
    others = [name for name in stream.columns if name not in (found.text, found.label)]
    if others:
        said.append(f"other columns: {', '.join(others)}. One whose rows belong together goes under data.together, those for audits under data.attributes")
    method = "features" if rows < FEW_FOR_FULL else "full"
    return {"data": {"text": found.text, "label": found.label}, "model": "starter/minilm", "method": method}, said


def _written(data: Path, kind: str) -> tuple[dict[str, Any], list[str]]:
    """The same for rows that a language model learns to write, by the first records of the file."""
    stream = streams.Stream(data)
    head = list(islice(stream, streams.HEAD_RECORDS))
    records = [value for _, value in head if isinstance(value, dict)]
    if not records:
        raise next(value.error() for _, value in head if isinstance(value, sources.BadRow))
    settings = DataSettings(train=str(data), rows=kind)
    found, notes = layouts.layout(settings, kind, data, stream.columns, records)
    said = [f"{data.name}: the rows are {NAMES[kind]}", *stream.notes, *notes]
    others = [name for name in stream.columns if name not in found.columns().values()]
    if others:
        said.append(f"other columns: {', '.join(others)}. One whose rows belong together goes under data.together, those for audits under data.attributes")
    objective, method = ("pretraining", "full") if kind == "document" else ("sft", "lora")
    return {"data": {"rows": kind}, "model": "starter/scribe", "objective": objective, "method": method}, said
