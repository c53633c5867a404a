"""Stage `train`: rows -> batches -> the loop -> `model/`, once for each seed, and the best of them calibrated."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from tunesmith.data import rows
from tunesmith.files import link_or_copy, sha256_json, staged_folder, write_json
from tunesmith.runs import Run
from tunesmith.stages import FORMAT, Context, content, encode, label_array, reader

if TYPE_CHECKING:
    from tunesmith.recipe import Recipe
    from tunesmith.tokens.encode import Tokens
    from tunesmith.training.device import Machine

RESUMABLE = ("epochs", "learning_rate", "patience")
"""Settings of `train` that `--resume` may change: they do not part a checkpoint from its run."""


def stage(context: Context, kin: list[Run]) -> None:
    """Train, or reuse what is trained."""
    values = content(context.recipe)
    decides = {key: values[key] for key in ("model", "objective", "method", "train")}
    decides["target_accuracy"] = values["evaluate"]["target_accuracy"]
    shared = {"rows": context.run.output_hash("prepare"), "base": context.base.sha256, "format": FORMAT}
    lasting = decides | {"train": {key: value for key, value in decides["train"].items() if key not in RESUMABLE}}
    belongs = sha256_json({"settings": lasting, **shared})
    outputs = ["model", *(f"seeds/seed-{seed}" for seed in _seeds(context.recipe)[1:])]
    context.run.stage("train", sha256_json({"settings": decides, **shared}), outputs, lambda: _work(context, belongs), kin)


def _seeds(recipe: Recipe) -> list[int]:
    return [recipe.train.seed + k for k in range(recipe.train.seeds)]


def _work(context: Context, belongs: str) -> dict[str, Any]:
    run, recipe = context.run, context.recipe
    tables = context.tables()
    tokenizer, limit = reader(context.base, recipe)
    encoded: dict[str, Tokens] = {side: encode(tokenizer, tables[side], recipe, limit) for side in ("train", "valid") if side in tables}
    report = token_report(encoded["train"], recipe, limit)
    run.emit({"kind": "warning" if report["cut_rows"] else "note", "text": report["said"]})
    machine = _machine(context)
    seeds = _seeds(recipe)
    trained = []
    for number, seed in enumerate(seeds):
        if len(seeds) > 1:
            run.emit({"kind": "note", "text": f"seed {seed} ({number + 1} of {len(seeds)})"})
        folder = run.folder / "model" if len(seeds) == 1 else run.folder / "seeds" / f"seed-{seed}"
        trained.append(_one(context, belongs, seed, tables, encoded, machine, folder, number == 0))
    best = max(trained, key=lambda one: one["score"])
    if len(seeds) > 1:
        link_or_copy(run.folder / "seeds" / f"seed-{best['seed']}", run.folder / "model")
        best = best | {"seeds": {"kept": best["seed"], **_spread([one["valid"] for one in trained])}}
    run.emit({"kind": "trained", **{key: value for key, value in best.items() if isinstance(value, (int, float))}})
    return {"training": {key: value for key, value in best.items() if key not in ("score", "seed", "valid")}, "tokens": report}


def _one(
    context: Context, belongs: str, seed: int, tables: dict[str, Any], encoded: dict[str, Tokens], machine: Machine, folder: Path, first: bool
) -> dict[str, Any]:
    """Train with one seed and write its model; only the first seed's steps are told as the run's curve."""
    import torch

    from tunesmith import methods
    from tunesmith.models import about as abouts
    from tunesmith.models import vocabulary
    from tunesmith.objectives.classification import Classification
    from tunesmith.tokens.examples import TokenExamples
    from tunesmith.training import loop

    run, recipe, base = context.run, context.recipe, context.base
    labels, multi_label = context.labels()
    settings = recipe.train.model_copy(update={"seed": seed})
    objective = Classification(labels, multi_label, recipe.objective, rows.label_lists(tables["train"]))
    tokenizer, limit = reader(base, recipe)
    torch.manual_seed(seed)
    method = methods.get(recipe.method.kind)
    model = method.adapt(base, methods.Head(labels, multi_label, recipe.model.dropout), recipe.method)
    examples = {}
    for side, tokens in encoded.items():
        targets = objective.targets(rows.label_lists(tables[side]), tables[side].column("weight").to_pylist())
        examples[side] = method.examples(model, TokenExamples(tokens, targets, tokenizer.pad_id), base, context.progress("embed"))
    fingerprints = [one.fingerprint() for one in examples.values()]
    table, used = vocabulary.compact(model, list(examples.values()))
    # Seeded anew: what adapting and embedding drew depends on a warm or cold cache, and must not decide dropout.
    torch.manual_seed(seed + 1_000_003)
    outcome = loop.train(
        model,
        objective,
        used[0],
        used[1] if "valid" in examples else None,
        settings,
        machine,
        run.folder / "checkpoints" if first else run.folder / "checkpoints" / f"seed-{seed}",
        sha256_json({"belongs": belongs, "seed": seed, "machine": asdict(machine), "examples": fingerprints}),
        run.emit if first else lambda event: run.emit(event) if event["kind"] in ("progress", "warning") else None,
        context.stopping,
    )
    vocabulary.restore(model, table, outcome.decay)
    model.to("cpu")
    about = abouts.About("classification", recipe.method.kind, base.name, base.sha256, labels, multi_label, limit, recipe.model.truncation)
    with staged_folder(folder) as staging:
        method.save(model, base, staging)
        abouts.write(about, staging)
        if "valid" in tables:
            write_json(staging / abouts.CALIBRATION, _calibrate(context, staging, tables["valid"]))
    state = outcome.state
    return {
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
        "peak_memory_mb": round(outcome.peak_memory_mb, 1),
        "kept_step": outcome.kept_step,
        "skipped_steps": state.skipped,
        "stopped_early": state.ended == "early",
        "seed": seed,
        "score": tuple(state.best_score),
        "valid": state.best_figures,
    }


def _calibrate(context: Context, folder: Path, table: Any) -> dict[str, Any]:
    """Fit the temperature, and the confidence from which the wanted accuracy can be promised, on the validation rows."""
    from tunesmith.evaluation import calibration
    from tunesmith.serving import engine

    classifier = engine.load(folder)
    labels = label_array(table, classifier.about)
    logits_NC = classifier.logits(rows.strings(table, "text"), rows.strings(table, "text_pair"), context.progress("calibrate"))
    temperature = calibration.fit_temperature(logits_NC, labels)
    found: dict[str, Any] = {"temperature": float(temperature), "abstention": None}
    target = context.recipe.evaluate.target_accuracy
    if target is not None and not classifier.about.multi_label:
        probabilities_NC = calibration.softened(logits_NC, temperature)
        right_N = probabilities_NC.argmax(1) == labels
        found["abstention"] = asdict(calibration.fit_abstention(right_N, probabilities_NC.max(1), target))
    return found


def _machine(context: Context) -> Machine:
    """Device, precision and threads: settled once, for another choice on resuming would give other bits."""
    import torch

    from tunesmith.training import device

    settings, kept = context.recipe.train, context.run.state.get("machine")
    if kept is None:
        machine = device.choose(settings.device, settings.precision, settings.threads)
        context.run.save(machine=asdict(machine), threads=machine.threads)
        return machine
    torch.set_num_threads(kept["threads"])
    return device.Machine(**kept)


def _spread(figures: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation of each validation figure over seeds."""
    names = figures[0] if all(figures) else {}
    return {name: {"mean": mean(one[name] for one in figures), "spread": stdev(one[name] for one in figures)} for name in names}


def token_report(tokens: Tokens, recipe: Recipe, limit: int) -> dict[str, Any]:
    """How long the training texts are in tokens, what the limit cuts, and what to do about it."""
    import numpy as np

    p50, p95, most = (int(np.percentile(tokens.lengths_N, q)) for q in (50, 95, 100))
    windows = len(tokens.offsets_Q) - len(tokens.rows_N)
    report: dict[str, Any] = {"limit": limit, "p50": p50, "p95": p95, "most": most, "cut_rows": tokens.cut_rows, "cut_tokens": tokens.cut_tokens}
    if tokens.cut_rows:
        share = 100 * tokens.cut_rows / max(1, len(tokens))
        report["said"] = (
            f"{tokens.cut_rows} of {len(tokens)} training texts ({share:.1f} %) are longer than the limit of {limit} tokens and lose "
            f"{tokens.cut_tokens} tokens. To read all of them set model.truncation: windows; to keep other parts, tail or head_tail."
        )
    elif windows:
        report["said"] = f"Texts longer than {limit} tokens are read in overlapping windows, {windows} more than there are texts; nothing is cut."
    else:
        report["said"] = f"Training texts have {p50} tokens at the median, {p95} at the 95th percentile, {most} at most; the limit of {limit} cuts none."
    return report
