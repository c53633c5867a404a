"""Two runs' classifiers on the test rows of the first, paired: what a change of data, method or base has gained."""

from __future__ import annotations

from typing import Any

from tunesmith.data import rows
from tunesmith.data.texts import even
from tunesmith.errors import UserError, counted, some
from tunesmith.files import write_json
from tunesmith.models import about as abouts
from tunesmith.runs import Run
from tunesmith.stages import label_array, plain


def against(run: Run, other: Run, seed: int = 0, resamples: int = 2000) -> dict[str, Any]:
    """Measure a run's model and another's on the same rows, and write `comparison-OTHER.json` into the run's folder.

    Args:
        run: whose test rows (or, without any, validation rows) both answer; it is `tuned` in the result.
        other: the other run.
        seed: of the resampling.
        resamples: behind each interval.

    Returns:
        As evaluation.json has it, with the other run's name among the models, and `notes`.

    Raises:
        UserError: a run has no model or writes texts, the labels differ, or there are no rows to measure on.
    """
    from tunesmith.evaluation import measure
    from tunesmith.serving import engine

    if run.folder.resolve() == other.folder.resolve():
        raise UserError("a run cannot be compared with itself", str(run.folder), "name another run with --against")
    found = {one.name: _about(one) for one in (run, other)}
    labels = found[run.name].labels
    if set(labels) != set(found[other.name].labels) or found[run.name].multi_label != found[other.name].multi_label:
        unlike = sorted(set(labels) ^ set(found[other.name].labels))
        what = f"the labels of `{run.name}` and `{other.name}` are not the same ({some(unlike, 5)})"
        what = what if unlike else "only one of the two gives several labels a row"
        raise UserError(what, str(other.folder), "compare runs that learn one task")
    sides = [side for side in ("test", "valid") if (run.folder / "data" / f"{side}.parquet").exists()]
    if not sides:
        raise UserError("it has no test and no validation rows to compare on", str(run.folder), "set data.test")
    split, table = sides[0], rows.read(run.folder / "data" / f"{sides[0]}.parquet")
    models = {}
    for name, one in (("tuned", run), (other.name, other)):
        classifier = engine.load(one.folder / "model")
        order = [classifier.about.labels.index(label) for label in labels]
        logits_NC = classifier.logits(rows.strings(table, "text"), rows.strings(table, "text_pair"))[:, order]
        models[name] = engine.to_probabilities(logits_NC / classifier.temperature, classifier.about.multi_label)
    groups = rows.strings(table, "together")
    result = measure.evaluate(
        models,
        label_array(table, found[run.name]),
        labels,
        groups=groups if any(group is not None for group in groups) else None,
        rows=rows.strings(table, "id"),
        headline="micro_f1" if found[run.name].multi_label else "macro_f1",
        split=split,
        seed=seed,
        resamples=resamples,
    )
    result["notes"] = _learnt(run, other, table, split)
    written: dict[str, Any] = plain(result)
    write_json(run.folder / f"comparison-{other.name}.json", written)
    return written


def _about(run: Run) -> abouts.About:
    about = abouts.read(run.folder / "model")
    if about.writing is not None:
        raise UserError("it writes texts; only classifiers are compared so", str(run.folder), "read the evaluations of both, each against its base")
    return about


def _learnt(run: Run, other: Run, table: Any, split: str) -> list[str]:
    """Said when the other model has learnt from rows that it is measured on here: its figures flatter."""
    path = other.folder / "data" / "train.parquet"
    if not path.exists():
        return []
    measured = {even(text) for text in rows.strings(table, "text")}
    known = sum(int(even(text) in measured) for batch in rows.batches(path, ["text"]) for text in batch.column("text").to_pylist())
    if not known:
        return []
    return [f"{counted(known, 'training row')} of `{other.name}` also among the {split} rows: its figures here flatter; compare runs with one split"]


def said(result: dict[str, Any], run: Run, other: Run) -> list[str]:
    """The comparison as a small table and in sentences."""
    from tunesmith.evaluation import verdict

    split, found = next(iter(result["splits"].items()))
    metrics = list(dict.fromkeys([result["headline"], "accuracy"]))
    lines = [f"{'':24}" + "".join(f"  {metric:>26}" for metric in metrics)]
    for name, model in ((run.name, "tuned"), (other.name, other.name)):
        shown = (found["models"][model][metric] for metric in metrics)
        lines.append(f"{name[:24]:24}" + "".join(f"  {one['value']:.4f} [{one['low']:.4f}, {one['high']:.4f}]".rjust(28) for one in shown))
    _, sentences, _ = verdict(result, split)
    return [*lines, f"({found['rows']:,} {split} rows, 95 % intervals; the tuned model is that of `{run.name}`)", *sentences, *result["notes"]]
