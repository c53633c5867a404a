"""Stage `prepare`: data files -> checked, divided rows and their card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.data import layouts, streaming
from tunesmith.data import prepare as preparation
from tunesmith.data.validate import DataSettings
from tunesmith.files import read_json, sha256_json
from tunesmith.runs import Run
from tunesmith.stages import FORMAT, GENERAL, Context, content

OUTPUTS = [*(f"data/{side}.parquet?" for side in preparation.SIDES), "data/labels.json?", "data/card.json", "data/rejected.jsonl"]


def stage(context: Context, kin: list[Run]) -> None:
    """Prepare the data, or reuse what is prepared."""
    run, recipe = context.run, context.recipe

    def work() -> None:
        folder = run.folder / "data"
        into(recipe.data, folder, folder / "rejected.jsonl", context.progress("prepare"))

    files = {side: digest for side, digest in context.files.items() if side != GENERAL}
    inputs = sha256_json({"data": content(recipe)["data"], "files": files, "format": FORMAT})
    run.stage("prepare", inputs, OUTPUTS, work, kin)
    card = read_json(run.folder / "data" / "card.json")
    for text in card["notes"]:
        run.emit({"kind": "note", "text": text})
    known, main = set(context.base.languages), next(iter(card["languages"]), "")
    if known and main and main not in known:
        share = card["languages"][main]
        text = f"{share:.0%} of the training texts look like `{main}`, but {context.base.name} was made for {', '.join(sorted(known))}: "
        run.emit({"kind": "warning", "text": text + "expect a weak model, and choose a base that knows the language"})


def into(data: DataSettings, folder: Path, rejected: Path | None, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Prepare rows of any kind into a folder.

    Args:
        data: with paths that exist from here.
        folder: gets the Parquet files, labels.json (labelled rows), rejected.jsonl and, last, card.json.
        rejected: where bad rows are kept when they stop the run; None keeps and names no place.
        progress: told (bytes done, bytes in all) for the kinds that are streamed.

    Returns:
        The data card.

    Raises:
        UserError: files, columns or rows that cannot be used.
    """
    kind = layouts.infer(data)
    if kind != "labelled":
        return streaming.prepare_stream(data, kind, folder, progress, rejected)
    prepared = preparation.prepare(data, rejected)
    preparation.save(prepared, folder)
    return prepared.card
