"""Two runs' models on the test rows of the first, paired: what a change of data, method or base has gained."""

from __future__ import annotations

from typing import Any

import numpy as np

from tunesmith import recipe as recipes
from tunesmith.core.errors import UserError, counted, some
from tunesmith.core.files import write_json
from tunesmith.data import rows, texts
from tunesmith.data.texts import even
from tunesmith.models import catalog, metadata
from tunesmith.runs import Run
from tunesmith.stages import Context, evaluate_text, label_array, plain


def against(run: Run, other: Run, seed: int = 0, resamples: int = 2000) -> dict[str, Any]:
    """Measure a run's model and another's on the same rows, and write `comparison-OTHER.json` into the run's folder.

    Args:
        run: whose test rows (or, without any, validation rows) both answer; it is `tuned` in the result, and hears how far the work is.
        other: the other run.
        seed: of the resampling.
        resamples: behind each interval.

    Returns:
        As evaluation.json has it, with the other run's name among the models, and `notes`.

    Raises:
        UserError: a run has no model, the two learn different things, there are no rows to measure on, or what a run's texts are read with is gone.
    """
    if run.folder.resolve() == other.folder.resolve():
        raise UserError("a run cannot be compared with itself", str(run.folder), "name another run with --against")
    found = {one.folder: metadata.read(one.folder / "model") for one in (run, other)}
    split = next((side for side in ("test", "valid") if (run.folder / "data" / f"{side}.parquet").exists()), None)
    if split is None:
        raise UserError("it has no test and no validation rows to compare on", str(run.folder), "set data.test")
    writes = [about.writing is not None for about in found.values()]
    if writes[0] != writes[1]:
        what = f"`{run.name if writes[0] else other.name}` writes texts and `{other.name if writes[0] else run.name}` gives labels"
        raise UserError(what, str(other.folder), "compare runs that learn one task")
    result = (_texts if writes[0] else _labels)(run, other, split, seed, resamples)
    written: dict[str, Any] = plain(result)
    write_json(run.folder / f"comparison-{other.name}.json", written)
    return written


def _labels(run: Run, other: Run, split: str, seed: int, resamples: int) -> dict[str, Any]:
    """Two classifiers."""
    from tunesmith.evaluation.classification import measure
    from tunesmith.serving import engine

    about, beside = (metadata.read(one.folder / "model") for one in (run, other))
    if set(about.labels) != set(beside.labels) or about.multi_label != beside.multi_label:
        unlike = sorted(set(about.labels) ^ set(beside.labels))
        what = f"the labels of `{run.name}` and `{other.name}` are not the same ({some(unlike, 5)})"
        what = what if unlike else "only one of the two gives several labels a row"
        raise UserError(what, str(other.folder), "compare runs that learn one task")
    table = rows.read(run.folder / "data" / f"{split}.parquet")
    models, thresholds = {}, {}
    for name, one in (("tuned", run), (_name(other), other)):
        classifier = engine.load(one.folder / "model")
        order = [classifier.about.labels.index(label) for label in about.labels]
        logits_NC = classifier.logits(rows.strings(table, "text"), rows.strings(table, "text_pair"))[:, order]
        models[name] = engine.to_probabilities(logits_NC / classifier.temperature, classifier.about.multi_label)
        thresholds[name] = np.broadcast_to(classifier.cuts, len(order))[order]
    result = measure.evaluate(
        models,
        label_array(table, about),
        about.labels,
        groups=evaluate_text.groups_of(table),
        rows=rows.strings(table, "id"),
        headline="micro_f1" if about.multi_label else "macro_f1",
        thresholds=thresholds,
        split=split,
        seed=seed,
        resamples=resamples,
    )
    return result | {"notes": _learnt(run, other, table, split)}


def _texts(run: Run, other: Run, split: str, seed: int, resamples: int) -> dict[str, Any]:
    """Two models that write: as many rows, and answers as long, as the first run's recipe measures."""
    from tunesmith.evaluation.generation import measure

    contexts = {name: _context(one, run) for name, one in (("tuned", run), (_name(other), other))}
    documents = [one.recipe.data.rows == "document" for one in contexts.values()]
    if documents[0] != documents[1]:
        what = f"`{run.name if documents[0] else other.name}` learns documents and `{other.name if documents[0] else run.name}` answers"
        raise UserError(what, str(other.folder), "compare runs that learn one task")
    settings = contexts["tuned"].recipe.evaluate
    table = evaluate_text.sample(run.folder / "data" / f"{split}.parquet", settings.most_rows, settings.seed)
    prompts, references = evaluate_text.asked(table)
    tasks = {name: "evaluate" if name == "tuned" else f"evaluate {other.name}" for name in contexts}
    models = {name: evaluate_text.answers(one, table, settings.max_new_tokens, tasks[name]) for name, one in contexts.items()}
    result = measure.measure_text(
        models,
        references,
        evaluate_text.shown(prompts),
        groups=evaluate_text.groups_of(table),
        rows=rows.strings(table, "id"),
        split=split,
        seed=seed,
        resamples=resamples,
    )
    return result | {"notes": _learnt(run, other, table, split)}


def _name(other: Run) -> str:
    """The other run's name among the models, where some names say what they are."""
    from tunesmith.evaluation.classification.findings import CALLED

    return f"run {other.name}" if other.name in CALLED else other.name


def _context(one: Run, run: Run) -> Context:
    """What a run's model reads texts with; `run` hears how far it is."""
    recipe = recipes.load(one.folder / "recipe.yaml")
    return Context(run if one is run else Run(one.folder, run.emit), recipe, catalog.resolve(recipe.model), {}, lambda: None)


def _learnt(run: Run, other: Run, table: Any, split: str) -> list[str]:
    """Said when the other model has learnt from rows that it is measured on here: its figures flatter."""
    path = other.folder / "data" / "train.parquet"
    if not path.exists():
        return []
    kinds = [str(recipes.load(one.folder / "recipe.yaml").data.rows) for one in (run, other)]
    measured = {even(text) for text in _read(table, kinds[0])}
    known = sum(even(text) in measured for batch in rows.batches(path, texts.COLUMNS[kinds[1]]) for text in _read(batch, kinds[1]))
    if not known:
        return []
    return [f"{counted(known, 'training row')} of `{other.name}` also among the {split} rows: its figures here flatter; compare runs with one split"]


def _read(table: Any, kind: str) -> list[str]:
    """The texts of each row as one."""
    return [texts.compared(values, kind) for values in table.select(list(texts.COLUMNS[kind])).to_pylist()]


def said(result: dict[str, Any], run: Run, other: Run) -> list[str]:
    """The comparison as a small table and in sentences."""
    from tunesmith.evaluation import table, verdict

    split, found = next(iter(result["splits"].items()))
    _, sentences, _ = verdict(result, split)
    about = f"({found['rows']:,} {split} rows, 95 % intervals; the tuned model is that of `{run.name}`)"
    return [*table(result, split, {"tuned": run.name, _name(other): other.name}), about, *sentences, *result["notes"]]
