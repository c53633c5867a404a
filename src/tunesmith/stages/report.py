"""Stage `report`: everything measured -> report.html and MODEL_CARD.md."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from tunesmith import recipe as recipes
from tunesmith import runs
from tunesmith.core.files import read_json, sha256_json, write_bytes
from tunesmith.stages import Context, content


def stage(context: Context, kin: list[runs.Run]) -> None:
    """Write the report, or leave the one that is there."""
    run = context.run
    made = {name: run.output_hash(name) for name in ("prepare", "inspect", "train", "evaluate")}
    decides = {**made, "gate": content(context.recipe)["gate"], "name": run.name, "version": version("tunesmith")}
    run.stage("report", sha256_json(decides), ["report.html", "MODEL_CARD.md"], lambda: _work(context), [])


def _work(context: Context) -> None:
    from tunesmith.report import card, page, run_page

    run, base = context.run, context.base
    facts = run_page.Facts(
        run=run.state,
        recipe=recipes.dump(context.recipe),
        card=read_json(run.folder / "data" / "card.json") | {"tokens": run.state.get("tokens")},
        inspection=read_json(run.folder / "data" / "inspection.json"),
        evaluation=runs.evaluation_of(run),
        events=run.events("step", "valid", "skipped"),
        base={"name": base.name, "sha256": base.sha256, "licence": base.licence, "languages": list(base.languages)},
        files=context.files,
        texts={row["id"]: row["text"] for row in _measured(context)},
    )
    made = run_page.page(facts)
    html = page.render(made.title, made.subtitle, made.verdict, made.sections, made.facts)
    write_bytes(run.folder / "report.html", html.encode())
    write_bytes(run.folder / "MODEL_CARD.md", card.model_card(run_page.model_card(facts)).encode())


def _measured(context: Context) -> list[dict[str, Any]]:
    if context.recipe.data.rows != "labelled":  # texts to learn from may be more than the memory holds
        return []
    tables = context.tables()
    table = tables.get("test", tables.get("valid"))
    return [] if table is None else table.select(["id", "text"]).to_pylist()
