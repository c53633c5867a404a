"""`tunesmith init`: a first recipe from a data file, with the columns that were recognised and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tunesmith.data import sources
from tunesmith.data.validate import DataSettings, columns_for
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
    records = sources.read(data)
    if not records.records:
        raise records.bad[0].error()
    settings, said = columns_for(DataSettings(train=str(data)), records)
    labels = Counter(str(record.get(settings.label or "")) for _, record in records.records)
    said.append(f"{data.name}: {len(records.records):,} rows, {len(labels)} labels in `{settings.label}`, the commonest `{labels.most_common(1)[0][0]}`")
    if len(labels) > len(records.records) / 2:
        said.append(f"warning: almost every row has a label of its own; is `{settings.label}` the right column?")
    others = [name for name in records.columns if name not in (settings.text, settings.label)]
    if others:
        said.append(f"other columns: {', '.join(others)}. One whose rows belong together goes under data.together, those for audits under data.attributes")
    method = "features" if len(records.records) < FEW_FOR_FULL else "full"
    try:
        place = data.absolute().relative_to(target.absolute().parent)
    except ValueError:
        place = data.absolute()
    recipe = {
        "data": {"train": str(place), "text": settings.text, "label": settings.label, "valid": 0.1, "test": 0.2},
        "model": "starter/minilm",
        "method": method,
    }
    text = write_yaml(recipe)
    write_bytes(target, text.encode())
    return text, said
