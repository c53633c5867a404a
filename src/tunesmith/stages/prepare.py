"""Stage `prepare`: data files -> checked, divided rows and their card."""

from __future__ import annotations

from tunesmith.data import prepare as preparation
from tunesmith.files import read_json, sha256_json
from tunesmith.runs import Run
from tunesmith.stages import FORMAT, Context, content

OUTPUTS = [*(f"data/{side}.parquet?" for side in preparation.SIDES), "data/labels.json", "data/card.json", "data/rejected.jsonl"]


def stage(context: Context, kin: list[Run]) -> None:
    """Prepare the data, or reuse what is prepared."""
    run, recipe = context.run, context.recipe

    def work() -> None:
        prepared = preparation.prepare(recipe.data, run.folder / "data" / "rejected.jsonl")
        preparation.save(prepared, run.folder / "data")

    inputs = sha256_json({"data": content(recipe)["data"], "files": context.files, "format": FORMAT})
    run.stage("prepare", inputs, OUTPUTS, work, kin)
    card = read_json(run.folder / "data" / "card.json")
    for text in card["notes"]:
        run.emit({"kind": "note", "text": text})
    known, main = set(context.base.languages), next(iter(card["languages"]), "")
    if known and main and main not in known:
        share = card["languages"][main]
        text = f"{share:.0%} of the training texts look like `{main}`, but {context.base.name} was made for {', '.join(sorted(known))}: "
        run.emit({"kind": "warning", "text": text + "expect a weak model, and choose a base that knows the language"})
