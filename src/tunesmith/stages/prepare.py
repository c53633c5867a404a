"""Stage `prepare`: data files -> checked, divided rows and their card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tunesmith.core.errors import counted
from tunesmith.core.files import read_json, sha256_json
from tunesmith.data.preparation import prepare as preparation
from tunesmith.data.preparation.prepare import Handed
from tunesmith.data.row_index import SIDES
from tunesmith.models import catalog
from tunesmith.models.catalog import Base
from tunesmith.recipe import Recipe
from tunesmith.runs import Run
from tunesmith.stages import FORMAT, GENERAL, Context, content, embedder

WRITER_TOKENS = 256
"""Most tokens of a paraphrase."""
OUTPUTS = [*(f"data/{side}.parquet?" for side in SIDES), "data/labels.json?", "data/card.json", "data/rejected.jsonl"]


def stage(context: Context, kin: list[Run]) -> None:
    """Prepare the data, or reuse what is prepared."""
    run, recipe = context.run, context.recipe

    def work() -> None:
        folder = run.folder / "data"
        data, models = recipe.data, handed(recipe, context.found, context.progress("embed"))
        assert data.rows is not None
        preparation.prepare(data, data.rows, folder, context.counting("prepare"), folder / "rejected.jsonl", models)

    files = {side: digest for side, digest in context.files.items() if side != GENERAL}
    inputs = sha256_json({"data": content(recipe)["data"], "files": files, "format": FORMAT})
    run.stage("prepare", inputs, OUTPUTS, work, kin)
    card = read_json(run.folder / "data" / "card.json")
    if card["rejected"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(card["rejected"].items(), key=lambda item: -item[1]))
        run.emit({"kind": "note", "text": f"{counted(sum(card['rejected'].values()), 'row')} left out ({reasons}); data/rejected.jsonl has them"})
    for text in card["notes"]:
        run.emit({"kind": "note", "text": text})
    for text in card["warnings"]:
        run.emit({"kind": "warning", "text": text})
    known, main = set(context.base.languages), next(iter(card["languages"]), "")
    if known and main and main not in known:
        share = card["languages"][main]
        text = f"{share:.0%} of the training texts look like `{main}`, but {context.base.name} was made for {', '.join(sorted(known))}: "
        run.emit({"kind": "warning", "text": text + "expect a weak model, and choose a base that knows the language"})


def handed(recipe: Recipe, base: Base | None, progress: Callable[[int, int], None] = lambda done, of: None) -> Handed:
    """What the data room needs of the models, as far as the recipe asks for it."""
    data = recipe.data
    vectors = embedder(base, recipe, progress) if base is not None and data.duplicates.meaning is not None else None
    named = None
    if data.privacy.action is not None and data.privacy.names is not None:
        from tunesmith.models.helpers import person_names

        named = person_names.finder(Path(data.privacy.names))
    models: dict[str, Callable[[list[str]], list[str]]] = {}
    if data.augment.masked is not None:
        from tunesmith.models.helpers import fill_mask

        models["replace"] = fill_mask.filler(Path(data.augment.masked))
    if data.augment.writer is not None:
        models["paraphrase"] = _writer(Path(data.augment.writer))
    return Handed(vectors, named, models)


def _writer(folder: Path) -> Callable[[list[str]], list[str]]:
    """A language model that answers prompts: a run's, or one with a chat template."""
    from tunesmith.models.decode import Sampling
    from tunesmith.serving import generation

    if (folder / "model").is_dir():
        writer = generation.load(folder / "model")
    else:
        from tunesmith.models.metadata import Writing
        from tunesmith.tokens import chat_template

        base, chat = catalog.resolve(catalog.ModelSettings(base=str(folder))), chat_template.load(folder)
        end = base.config.get("eos_token_id")
        ends = end if isinstance(end, list) else [] if end is None else [end]
        writer = generation.of_base(base, Writing(chat.template, dict(chat.tokens), ends), base.max_tokens)
    sampling = Sampling(max_new_tokens=WRITER_TOKENS)
    return lambda prompts: [one.text for one in writer.answer([[{"role": "user", "content": prompt}] for prompt in prompts], sampling)]
