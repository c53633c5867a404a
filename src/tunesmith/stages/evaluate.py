"""Stage `evaluate`: the saved model and its baselines on rows it has not seen -> evaluation.json and data/reference/."""

from __future__ import annotations

from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.core.files import sha256_json, staged_folder, write_json
from tunesmith.data import rows
from tunesmith.models import metadata
from tunesmith.runs import Run
from tunesmith.stages import FORMAT, GENERAL, Context, content, device_of, evaluate_text, label_array, plain, unlabelled

if TYPE_CHECKING:
    from tunesmith.serving.engine import Classifier

MEAN_ROWS = 100
"""Rows of a label behind its mean vector in the `base` baseline: more would cost time and hardly move the mean."""
REFERENCE_ROWS = 2000
"""Vectors kept for drift checks: enough for a two-sample test, 3 MB of a small base."""


def stage(context: Context, kin: list[Run]) -> None:
    """Measure, or reuse what is measured."""
    run = context.run
    decides = {"evaluate": content(context.recipe)["evaluate"], "rows": run.output_hash("prepare"), "model": run.output_hash("train"), "format": FORMAT}
    if general := context.files.get(GENERAL):
        decides["general"] = general
    run.stage("evaluate", sha256_json(decides), ["evaluation.json?", "data/reference?"], lambda: _work(context), kin)


def _work(context: Context) -> None:
    from tunesmith.evaluation.classification import baselines, cuts, measure
    from tunesmith.evaluation.classification.calibration import Abstention
    from tunesmith.serving import engine

    run, recipe = context.run, context.recipe
    split = next((side for side in ("test", "valid") if (run.folder / "data" / f"{side}.parquet").exists()), None)
    if split is None:
        run.emit({"kind": "warning", "text": "no test and no validation rows: nothing was measured"})
        return
    if split == "valid":
        run.emit({"kind": "warning", "text": "no test rows: measured on the validation rows that also chose the step, so the figures flatter"})
    if metadata.read(run.folder / "model").writing is not None:
        evaluate_text.measure(context, split)
        return
    tables = context.tables()
    classifier = engine.load(run.folder / "model", device_of(context))
    about = classifier.about
    # Of several labels a row the baselines' cuts are chosen as the model's are: on the same validation rows, by the same rule.
    measured = [split, "valid"] if classifier.chosen and split != "valid" else [split]
    texts = {side: _texts(tables[side]) for side in ("train", *measured)}
    labels = {side: label_array(tables[side], about) for side in ("train", *measured)}
    classes = len(about.labels)
    logits_NC = _logits(context, classifier, tables[split])
    models: dict[str, Any] = {"tuned": engine.to_probabilities(logits_NC / classifier.temperature, about.multi_label)}
    thresholds: dict[str, Any] = {"tuned": classifier.cuts}
    vectors: dict[str, Any] = {}
    for name in recipe.evaluate.against:
        run.emit({"kind": "note", "text": f"measuring against {name}"})
        if name == "majority":
            models[name] = baselines.majority(labels["train"], len(texts[split]), classes)
            continue
        if name == "tfidf":
            asked = [text for side in measured for text in texts[side]]
            answered = baselines.tfidf(texts["train"], labels["train"], asked, classes, recipe.evaluate.seed, **_as_tuned(context, tables, about))
        else:
            some_N = _some_of_each(labels["train"], recipe.evaluate.seed)
            vectors = {"train": _vectors(context, tables["train"].take(some_N))} | {side: _vectors(context, tables[side]) for side in measured}
            asked_MD = np.concatenate([vectors[side] for side in measured])
            answered = baselines.nearest_mean(vectors["train"], labels["train"][some_N], asked_MD, classes)
        models[name] = answered[: len(texts[split])]
        if classifier.chosen:
            _, thresholds[name] = cuts.fit(labels["valid"], answered[-len(labels["valid"]) :])
    outside = tables.get("out_of_scope")
    groups = rows.strings(tables[split], "together")
    result = measure.evaluate(
        models,
        labels[split],
        about.labels,
        groups=groups if any(group is not None for group in groups) else None,
        rows=rows.strings(tables[split], "id"),
        headline="micro_f1" if about.multi_label else "macro_f1",
        thresholds=thresholds,
        uncalibrated=engine.to_probabilities(logits_NC, about.multi_label) if classifier.temperature != 1 else None,
        abstention=Abstention(**classifier.abstention) if classifier.abstention else None,
        out_of_scope=None if outside is None else engine.to_probabilities(_logits(context, classifier, outside) / classifier.temperature, about.multi_label),
        split=split,
        seed=recipe.evaluate.seed,
        resamples=recipe.evaluate.resamples,
    )
    if classifier.chosen:
        result["splits"][split]["cuts"] = cuts.shown(classifier.chosen, labels[split], models["tuned"])
    if recipe.train.seeds > 1:
        result["splits"][split]["seeds"] = _seeds(context, tables[split], labels[split])
    write_json(run.folder / "evaluation.json", plain(result))
    _reference(context, texts, labels["train"], vectors, models["tuned"], about.labels)


def _seeds(context: Context, table: Any, labels: Any) -> dict[str, Any]:
    """Every seed's model on the same rows: mean and standard deviation of each figure."""
    from tunesmith.evaluation.classification import metrics
    from tunesmith.serving import engine

    figures = []
    for folder in sorted((context.run.folder / "seeds").glob("seed-*")):
        classifier = engine.load(folder, device_of(context))
        probabilities_NC = engine.to_probabilities(_logits(context, classifier, table) / classifier.temperature, classifier.about.multi_label)
        figures.append(metrics.scores(labels, probabilities_NC, classifier.cuts))
    spread = {name: {"mean": mean(f[name] for f in figures), "spread": stdev(f[name] for f in figures)} for name in figures[0]}
    return {"count": len(figures), **spread}


def _reference(context: Context, texts: dict[str, list[str]], labels: Any, vectors: dict[str, Any], tuned_NC: Any, names: list[str]) -> None:
    """What drift will be measured against: lengths, label shares, confidences, and the base's vectors of some training rows."""
    from safetensors.numpy import save_file

    lengths = np.array([len(text) for text in texts["train"]])
    counts_C = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(names))
    facts = {
        "rows": len(lengths),
        "characters": {"edges": (edges := np.unique(np.percentile(lengths, np.arange(0, 101, 10)))), "counts": np.histogram(lengths, edges)[0]},
        "labels": dict(zip(names, counts_C / max(1, len(lengths)), strict=True)),
        "predicted": dict(zip(names, tuned_NC.mean(0), strict=True)),
        "confidence": {"edges": np.linspace(0, 1, 21), "counts": np.histogram(tuned_NC.max(1), np.linspace(0, 1, 21))[0]},
        "base_sha256": context.base.sha256,
    }
    with staged_folder(context.run.folder / "data" / "reference") as staging:
        write_json(staging / "reference.json", plain(facts))
        if vectors:
            every = max(1, len(vectors["train"]) // REFERENCE_ROWS)
            save_file({"vectors": np.ascontiguousarray(vectors["train"][::every][:REFERENCE_ROWS])}, staging / "vectors.safetensors")


def _as_tuned(context: Context, tables: dict[str, Any], about: Any) -> dict[str, Any]:
    """What the tuned model is given beside its rows: their weights, its labels' weights, and validation rows for a temperature."""
    weights_N = tables["train"].column("weight").to_numpy()
    valid = tables.get("valid")
    return {
        "weights": None if (weights_N == 1).all() else weights_N,
        "balanced": getattr(context.recipe.objective, "class_weights", "none") == "balanced",
        "held": None if valid is None else (_texts(valid), label_array(valid, about)),
        "tell": lambda text: context.run.emit({"kind": "warning", "text": text}),
    }


def _some_of_each(labels: Any, seed: int) -> Any:
    """Indices of MEAN_ROWS training rows of each label, drawn by the seed, in order; of fewer, all. Rows are often sorted, so the first would be alike."""
    drawn_N = np.random.default_rng(seed).permutation(len(labels))
    rows_P, labels_P = np.nonzero(labels[drawn_N]) if labels.ndim == 2 else (np.arange(len(labels)), labels[drawn_N])
    order_P = np.argsort(labels_P, kind="stable")
    counts_C = np.bincount(labels_P)
    place_P = np.arange(len(order_P)) - np.repeat(np.cumsum(counts_C) - counts_C, counts_C)
    return np.unique(drawn_N[rows_P[order_P[place_P < MEAN_ROWS]]])


def _vectors(context: Context, table: Any) -> Any:
    from tunesmith.models import features

    return features.vectors(context.base, unlabelled(context, table), None, context.progress("embed"), device_of(context)).vectors_ND.numpy()


def _logits(context: Context, classifier: Classifier, table: Any) -> Any:
    return classifier.logits(rows.strings(table, "text"), rows.strings(table, "text_pair"), context.progress("evaluate"))


def _texts(table: Any) -> list[str]:
    pairs = rows.strings(table, "text_pair")
    return [text if pair is None else f"{text} {pair}" for text, pair in zip(rows.strings(table, "text"), pairs, strict=True)]
