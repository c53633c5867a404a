"""`tunesmith init`: a first recipe for a source of rows, which is read and checked as `tunesmith check` does it; so the recipe passes the same check."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from tunesmith import objectives, pipeline, starters
from tunesmith import recipe as recipes
from tunesmith.core.errors import UserError
from tunesmith.core.files import write_bytes
from tunesmith.core.settings import build, write_yaml
from tunesmith.data.kinds import layout
from tunesmith.data.preparation import inputs
from tunesmith.data.preparation.card import NAMES
from tunesmith.data.preparation.progress import Progress
from tunesmith.data.readers import formats, snapshot

FEW_FOR_FULL = 300
"""Below this many rows a linear head on frozen features is the safer start."""
METHODS = {"classification": "full", "pretraining": "full", "sft": "lora"}
"""What is proposed for an objective, but for few rows with labels."""


def first_recipe(
    source: str,
    target: Path,
    overrides: Sequence[str] = (),
    query: str | None = None,
    split: str | None = None,
    progress: Progress | None = None,
) -> tuple[str, list[str]]:
    """Write a recipe for a source of rows.

    Args:
        source: a file, a folder, a glob, a database's URL, hub:OWNER/NAME or starter/NAME; paths are taken from where you stand.
        target: the recipe to write; it must not be there yet.
        overrides: `key.path=value`, kept in the recipe.
        query: of a database.
        split: of a data set of the Hub.
        progress: told how far the reading is.

    Returns:
        The recipe's text, and what was recognised and is unwise, line by line.

    Raises:
        UserError: the data cannot be used as they are, no objective learns from such rows, or `target` exists.
    """
    if target.exists():
        raise UserError("there is a file of this name already", str(target), "delete it, or write elsewhere with --output")
    recipe = recipes.of_data(source, overrides, query, split)
    kind = str(recipe.data.rows)
    objective = objectives.for_rows(kind)
    card, _, seen = pipeline.check_data(recipe, None, progress)
    files = inputs.inputs(recipe.data)["train"]
    rows = sum(card["rows"].values())

    given = recipes.values_of(source, overrides, query, split)
    data, own = {"train": given["data"].pop("train")}, given.pop("data")
    if kind != "labelled" or len(files) > 1:  # the columns of several files may have other names in each
        data["rows"] = kind
    else:
        data |= {key: card["columns"][key] for key in ("text", "label")}
    few = kind == "labelled" and rows < FEW_FOR_FULL
    values: dict[str, Any] = {
        "data": {**data, "valid": 0.1, "test": 0.2, **own},
        "model": "starter/minilm" if kind == "labelled" else recipes.LANGUAGE_BASE,
        **({} if kind == "labelled" else {"objective": objective}),
        "method": "features" if few else METHODS[objective],
        **given,
    }
    known = values | {"data": values["data"] | {"rows": kind}}
    recipes.resolve(build(recipes.Recipe, known, "command line"), target.stem)  # such rows may not go with what else was said
    text = write_yaml(_from(target.absolute().parent, values))
    write_bytes(target, text.encode())

    said = [f"{snapshot.shown(source)}: the rows are {NAMES[kind]}, {rows:,} of them", *card["notes"]]
    if card["labels"]:
        commonest = max(card["labels"], key=lambda name: sum(card["labels"][name].values()))
        said.append(f"{len(card['labels'])} labels in `{card['columns']['label']}`, the commonest `{commonest}`")
    used = {*card["columns"].values(), recipe.data.id, recipe.data.together, recipe.data.time, *recipe.data.attributes}
    others = [name for name in dict.fromkeys(name for record in layout.peek(files[0].path) for name in record) if name not in used]
    if others:
        said.append(f"other columns: {', '.join(others)}. One whose rows belong together goes under data.together, those for audits under data.attributes")
    return text, said + [f"warning: {text}" for text in card["warnings"]] + [f"look at: {text}" for text in seen]


def default_target(source: str) -> Path:
    """The recipe's file where none is named, in the folder that you stand in: shop.yaml for shop.jsonl.gz, shop/**/*.csv or sqlite:///shop.db."""
    if snapshot.is_remote(source):
        return Path(snapshot.stem(source) + ".yaml")
    path = Path(os.path.abspath(os.path.expanduser(source)))
    if not os.path.lexists(path):
        path = Path(*takewhile(lambda name: not re.search(r"[*?[]", name), path.parts))
    if not os.path.isdir(path):
        path = Path(path.stem if formats.ending(path)[1] else path).with_suffix("")
    return Path((path.name or "data") + ".yaml")


def _from(folder: Path, value: Any) -> Any:
    """Values with absolute paths, those below a folder as a recipe in that folder names them."""
    if isinstance(value, dict):
        return {key: _from(folder, one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_from(folder, one) for one in value]
    found = re.fullmatch(rf"((?:sqlite|duckdb):///)?{re.escape(str(folder))}/+(.+)", value) if isinstance(value, str) else None
    if not found or found[2] == "none" or found[2].startswith((starters.PREFIX, "~", "$")) or snapshot.is_remote(found[2]):
        return value
    return (found[1] or "") + found[2]
