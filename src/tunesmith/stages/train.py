"""Stage `train`: rows -> batches -> the loop -> `model/`, once for each seed, and the best of them calibrated."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import link_or_copy, sha256_json, staged_folder, write_json
from tunesmith.data import rows
from tunesmith.runs import Run
from tunesmith.stages import FORMAT, Context, content, device_of, label_array, reader

if TYPE_CHECKING:
    from tunesmith.objectives import Objective
    from tunesmith.recipe import Recipe
    from tunesmith.tokens.examples import Examples
    from tunesmith.tokens.reader import Reader
    from tunesmith.training.hardware import Machine

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
    from tunesmith import methods, objectives

    run, recipe = context.run, context.recipe
    data = run.folder / "data"
    objective = objectives.get(recipe.objective.kind).make(recipe.objective, context.base, data)
    if objective.writing is not None and recipe.model.prefix:
        what = f"`model.prefix={recipe.model.prefix!r}` is put before texts that are read, and `{recipe.objective.kind}` learns texts as they are"
        raise UserError(what, "recipe, `model.prefix`", "leave it out, or put it into the rows")
    sides = [side for side in ("train", "valid") if (data / f"{side}.parquet").exists()]
    read = reader(context.base, recipe)
    given = {side: objective.examples(data / f"{side}.parquet", read) for side in sides}
    for side, examples in given.items():
        must_learn(examples, side, read.limit)
    longest = context.base.max_tokens - methods.places(recipe.method)
    report = token_report(given["train"], read, longest, recipe.train.micro_rows or recipe.train.batch_rows)
    run.emit({"kind": "warning" if report["cut_rows"] else "note", "text": report["said"]})
    if (wanted := context.base.prefixes) and objective.writing is None and not recipe.model.prefix:
        shown = ", ".join(f"{text!r} ({name})" for name, text in wanted.items())
        run.emit({"kind": "note", "text": f"{context.base.name} was trained with a text before each text: {shown}; try model.prefix"})
    machine = _machine(context)
    seeds = _seeds(recipe)
    trained = []
    for number, seed in enumerate(seeds):
        if len(seeds) > 1:
            run.emit({"kind": "note", "text": f"seed {seed} ({number + 1} of {len(seeds)})"})
        folder = run.folder / "model" if len(seeds) == 1 else run.folder / "seeds" / f"seed-{seed}"
        trained.append(_one(context, belongs, seed, objective, given, machine, folder, number == 0))
    best = max(trained, key=lambda one: one["score"])
    if len(seeds) > 1:
        link_or_copy(run.folder / "seeds" / f"seed-{best['seed']}", run.folder / "model")
        best = best | {"seeds": {"kept": best["seed"], **_spread([one["valid"] for one in trained])}}
    run.emit({"kind": "trained", **{key: value for key, value in best.items() if isinstance(value, (int, float))}})
    return {"training": {key: value for key, value in best.items() if key not in ("score", "seed", "valid")}, "tokens": report}


def _one(
    context: Context,
    belongs: str,
    seed: int,
    objective: Objective,
    given: dict[str, Examples],
    machine: Machine,
    folder: Path,
    first: bool,
) -> dict[str, Any]:
    """Train with one seed and write its model; only the first seed's steps are told as the run's curve."""
    import torch

    from tunesmith import methods
    from tunesmith.models import layers, loading, metadata, used_embeddings
    from tunesmith.models.fast import llama
    from tunesmith.stages.self_checks import SelfChecks
    from tunesmith.training import convex, loop

    run, recipe, base = context.run, context.recipe, context.base
    settings = recipe.train.model_copy(update={"seed": seed})
    torch.manual_seed(seed)
    method = methods.get(recipe.method.kind)
    head = objective.head(recipe.model.dropout)
    model = method.adapt(base, head, recipe.method)
    for name in loading.require_learned(model, base) if first else []:
        run.emit({"kind": "note", "text": f"{base.name} comes without weights for `{name}`: it begins at random, and is learned with the head"})
    if first and loading.is_slow(model):
        run.emit({"kind": "warning", "text": f"Tunesmith's faster forward does not fit {base.name}: training uses transformers' own"})
    llama.configure(model, settings.noise, settings.recompute, settings.compile)
    checks = SelfChecks(objective, given["train"])
    expected = checks.reference(model)
    model.caches_on = machine.device  # type: ignore[assignment]  # a name beside its parameters, read by the methods that compute states beforehand
    size = sum(layers.cache_bytes(model, one) for one in given.values())
    if size >= layers.LARGE_BYTES:
        text = f"the states below the learning layers take {layers.sized(size)} on the disk while training; method.cache: false keeps none and is slower"
        run.emit({"kind": "note", "text": text})
    examples = {side: method.examples(model, one, base, context.progress("embed")) for side, one in given.items()}
    fingerprints = [one.fingerprint() for one in examples.values()]
    table = used_embeddings.compact(model, list(examples.values()))
    checks.adapted(model, examples["train"], expected)
    checks.require()
    # Seeded anew: what adapting and embedding drew depends on a warm or cold cache, and must not decide dropout.
    torch.manual_seed(seed + 1_000_003)
    learned, valid = examples["train"], examples.get("valid")
    emit = run.emit if first else lambda event: run.emit(event) if event["kind"] in ("progress", "warning") else None
    checkpoints = run.folder / "checkpoints" if first else run.folder / "checkpoints" / f"seed-{seed}"
    logits_NC = None
    if getattr(model, "convex", False):
        outcome = convex.solve(model, objective, learned, valid, settings, machine, emit, context.stopping, _groups(context))
        logits_NC = None if valid is None else convex.logits(model, valid)  # of cached vectors: the base need not read these rows again
    else:
        identity = sha256_json({"belongs": belongs, "seed": seed, "machine": _decisive(machine), "examples": fingerprints})
        outcome = loop.train(model, objective, learned, valid, settings, machine, checkpoints, identity, emit, context.stopping)
    used_embeddings.restore(model, table, outcome.decay)
    model.to("cpu")
    read = reader(base, recipe)
    about = metadata.About(
        recipe.objective.kind,
        recipe.method.kind,
        base.name,
        base.sha256,
        head.labels or [],
        head.multi_label,
        read.limit,
        recipe.model.truncation,
        objective.writing,
        recipe.model.prefix,
        read.tokenizer.pad_id,
    )
    with staged_folder(folder) as staging:
        method.save(model, base, staging)
        metadata.write(about, staging)
        checks.saved(model, learned, method.load(methods.Saved(staging, head, lambda: base)))
        checks.require()
        if "valid" in given and head.labels is not None:
            write_json(staging / metadata.CALIBRATION, _calibrate(context, staging, context.tables()["valid"], logits_NC))
    state = outcome.state
    return {
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
        "peak_memory_mb": round(outcome.peak_memory_mb, 1),
        "kept_step": outcome.kept_step,
        "skipped_steps": state.skipped,
        "self_checks": checks.facts(),
        "stopped_early": state.ended == "early",
        "seed": seed,
        "score": tuple(state.best_score),
        "valid": state.best_figures,
        **outcome.facts,
    }


def _groups(context: Context) -> list[str]:
    """Of each training row what it must not be parted from: the rows of its `together`, or its own repeats and variants."""
    table = rows.read(context.run.folder / "data" / "train.parquet")
    together, ids = rows.strings(table, "together"), rows.strings(table, "id")
    return [f"together {group}" if group is not None else f"row {str(name).partition('~')[0]}" for group, name in zip(together, ids, strict=True)]


def _calibrate(context: Context, folder: Path, table: Any, logits_NC: Any = None) -> dict[str, Any]:
    """Fit on the validation rows (with logits, if known) the temperature, the confidence from which the wanted accuracy can be promised, and the
    cuts of several labels."""
    from tunesmith.evaluation.classification import calibration, cuts
    from tunesmith.models import metadata
    from tunesmith.serving import engine

    about = metadata.read(folder)
    labels = label_array(table, about)
    if logits_NC is None:
        classifier = engine.load(folder, device_of(context))
        logits_NC = classifier.logits(rows.strings(table, "text"), rows.strings(table, "text_pair"), context.progress("calibrate"))
    temperature = calibration.fit_temperature(logits_NC, labels)
    found: dict[str, Any] = {"temperature": float(temperature), "abstention": None}
    if about.multi_label:
        chosen = cuts.choose(labels, calibration.softened(logits_NC, temperature, True), rows.strings(table, "together"))
        found["cuts"] = asdict(chosen)
    target = context.recipe.evaluate.target_accuracy
    if target is not None and not about.multi_label:
        probabilities_NC = calibration.softened(logits_NC, temperature)
        right_N = probabilities_NC.argmax(1) == labels
        together = rows.strings(table, "together")
        groups = together if any(group is not None for group in together) else None
        found["abstention"] = asdict(calibration.fit_abstention(right_N, probabilities_NC.max(1), target, groups=groups))
    return found


def _machine(context: Context) -> Machine:
    """Device, precision and threads: settled once, for another choice on resuming would give other bits."""
    import torch

    from tunesmith.training import hardware

    settings, kept = context.recipe.train, context.run.state.get("machine")
    if kept is None:
        machine = hardware.choose(settings.device, settings.precision, settings.threads)
        context.run.save(machine=asdict(machine), threads=machine.threads)
        return machine
    torch.set_num_threads(kept["threads"])
    return hardware.Machine(**kept)


def _decisive(machine: Machine) -> dict[str, Any]:
    """What of a machine decides a result: all but the timing that chose its precision."""
    return {key: value for key, value in asdict(machine).items() if key != "bf16_gain"}


def _spread(figures: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation of each validation figure over seeds."""
    names = figures[0] if all(figures) else {}
    return {name: {"mean": mean(one[name] for one in figures), "spread": stdev(one[name] for one in figures)} for name in names}


def must_learn(examples: Examples, side: str, limit: int) -> None:
    """Refuse rows of which nothing is left.

    Raises:
        UserError: the limit cut away all that was to be learnt.
    """
    if not len(examples):
        what = f"no {side} row has anything to learn within {limit} tokens"
        raise UserError(what, "recipe, `model.max_tokens`", "raise it, shorten the rows, or set model.truncation: tail")


def token_report(examples: Examples, read: Reader, longest: int | None = None, batch_rows: int = 32) -> dict[str, Any]:
    """How long the training rows are in tokens before anything is cut, what the limit cuts, and what to do about it.

    Args:
        examples: of the training rows, before a method changes them.
        read: how they were read.
        longest: most tokens that the base could read; None: no more than it reads now.
        batch_rows: rows that are computed at once.

    Returns:
        `lengths.report`; of texts that are learnt word by word also `sequences`, `tokens` (places of all of them), `learnt` and `left_out`.
    """
    from tunesmith.tokens import lengths
    from tunesmith.tokens.sequences import TextExamples

    longest = longest or read.limit
    if not isinstance(examples, TextExamples):
        tokens: Any = getattr(examples, "tokens")  # noqa: B009  # the other kind of examples a training begins with
        special = len(read.tokenizer.prefix) + len(read.tokenizer.suffix)
        how: lengths.How = read.truncation if tokens.types_T is None else "pairs"
        return lengths.report(tokens.whole_N, read.limit, how, None, longest, special, batch_rows)
    whole_N, answers_N = examples.whole()
    report = lengths.report(whole_N, read.limit, "pieces" if answers_N is None else read.truncation, answers_N, longest, batch_rows=batch_rows)
    count, learnt, left_out = int(examples.lengths_N.sum()), int(examples.learnt_N.sum()), examples.left_out
    if learnt < count:
        report["said"] += f" {learnt:,} of {count:,} tokens are learnt."
    if left_out:
        report["said"] += f" Rows left out, as the limit cuts away all that was to be learnt: {left_out:,}."
    return report | {"sequences": len(examples), "tokens": count, "learnt": learnt, "left_out": left_out}
