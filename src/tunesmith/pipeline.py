"""The one place that chains the stages, and hands a room what lives below it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import recipe as recipes
from tunesmith import runs
from tunesmith.data import prepare as preparation
from tunesmith.data import rows
from tunesmith.errors import GateFailed
from tunesmith.files import read_json, sha256_file, sha256_json, staged_folder, write_bytes, write_json
from tunesmith.models import about as abouts
from tunesmith.models import catalog
from tunesmith.recipe import Recipe
from tunesmith.runs import Run
from tunesmith.settings import write_yaml

if TYPE_CHECKING:
    from tunesmith.objectives.classification import Classification
    from tunesmith.serving.engine import Classifier
    from tunesmith.tokens.examples import TokenExamples
    from tunesmith.tokens.tokenizer import Tokenizer

FORMAT = 1
"""Raised when the meaning of a stage's outputs changes, so that old ones are not reused."""
STAGES = ("prepare", "train", "evaluate", "report")


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what: where runs lie, whether to start anew, the last stage, who listens, who may stop us."""

    runs_dir: Path = Path("runs")
    fresh: bool = False
    until: str = "report"
    listen: runs.Listener | None = None
    stopping: Callable[[], int | None] = field(default=lambda: None)


def run(recipe: Recipe, options: Options = Options()) -> Run:
    """Carry a recipe through to its report, reusing what is done and resuming what is not.

    Args:
        recipe: resolved.
        options: where and how.

    Returns:
        The finished run.

    Raises:
        UserError: input that cannot be used; what was done before stays.
        Interrupted: asked to stop; the same call goes on.
        GateFailed: finished, but a threshold was not met.
    """
    files, base = _inputs(recipe)
    identity = _identity(recipe, files, base)
    facts = {"seed": recipe.train.seed, "versions": versions()}
    one, kin = runs.open_or_create(options.runs_dir, recipe.name, identity, facts, options.fresh, options.listen)
    with runs.working(one):
        write_bytes(one.folder / "recipe.yaml", write_yaml(recipes.dump(recipe)).encode())
        for name in STAGES[: STAGES.index(options.until) + 1]:
            _STAGE[name](one, recipe, base, files, kin, options)
    if options.until == "report":
        _gate(one, recipe)
    return one


def again(one: Run, stage: str, options: Options) -> Run:
    """Carry a run on to a stage with the recipe it was made with.

    Raises:
        UserError: its recipe cannot be read, or its inputs have changed since.
    """
    recipe = recipes.load(one.folder / "recipe.yaml")
    return run(recipe, Options(one.folder.parent, False, stage, options.listen, options.stopping))


def resume(one: Run, changes: list[str], options: Options) -> Run:
    """Go on with a run under changed settings that do not make another run of it (`cli.RESUMABLE`), and record them.

    Raises:
        UserError: its recipe cannot be read.
    """
    recipe = recipes.load(one.folder / "recipe.yaml", changes)
    files, base = _inputs(recipe)
    before = one.state.get("changes", [])
    one.save(identity=_identity(recipe, files, base), changes=[*before, *changes])
    return run(recipe, options)


def check(recipe: Recipe) -> tuple[preparation.Prepared, dict[str, Any]]:
    """Read and check everything a run would, and write nothing.

    Returns:
        The prepared rows with their card, and the token report of the training rows.
    """
    base = catalog.resolve(recipe.model)
    prepared = preparation.prepare(recipe.data)
    reader, limit = _reader(base, recipe)
    texts = rows.strings(prepared.splits["train"], "text")
    return prepared, token_report(_encode(reader, prepared.splits["train"], recipe, limit), texts, recipe, limit)


# --- stages -----------------------------------------------------------------------------------------------------------------


def _prepare(one: Run, recipe: Recipe, base: catalog.Base, files: dict[str, str], kin: list[Run], options: Options) -> None:
    def work() -> None:
        prepared = preparation.prepare(recipe.data, one.folder / "data" / "rejected.jsonl")
        preparation.save(prepared, one.folder / "data")

    inputs = sha256_json({"data": _content(recipe)["data"], "files": files, "format": FORMAT})
    one.stage("prepare", inputs, ["data"], work, kin)
    for text in read_json(one.folder / "data" / "card.json")["notes"]:
        one.emit({"kind": "note", "text": text})


def _train(one: Run, recipe: Recipe, base: catalog.Base, files: dict[str, str], kin: list[Run], options: Options) -> None:
    decides = {key: value for key, value in _content(recipe).items() if key in ("model", "objective", "method", "train")}
    inputs = sha256_json({"settings": decides, "rows": one.output_hash("prepare"), "base": base.sha256, "format": FORMAT})
    # What --resume may change does not part a checkpoint from its run.
    lasting = decides | {"train": {k: v for k, v in decides["train"].items() if k not in ("epochs", "learning_rate", "patience")}}
    belongs = sha256_json({"settings": lasting, "rows": one.output_hash("prepare"), "base": base.sha256, "format": FORMAT})
    one.stage("train", inputs, ["model"], lambda: _train_work(one, recipe, base, belongs, options), kin)


def _train_work(one: Run, recipe: Recipe, base: catalog.Base, belongs: str, options: Options) -> dict[str, Any]:
    from dataclasses import asdict

    import torch

    from tunesmith import methods
    from tunesmith.models import vocabulary
    from tunesmith.tokens.examples import TokenExamples
    from tunesmith.training import device, loop

    names = read_json(one.folder / "data" / "labels.json")
    tables = _tables(one)
    objective = _objective(recipe, names, tables["train"])
    reader, limit = _reader(base, recipe)
    encoded = {side: _encode(reader, tables[side], recipe, limit) for side in ("train", "valid") if side in tables}
    report = token_report(encoded["train"], rows.strings(tables["train"], "text"), recipe, limit)
    one.emit({"kind": "warning" if report["cut_rows"] else "note", "text": report["said"]})
    # Settled once: another precision or number of threads on resuming would give other bits.
    machine = device.Machine(**one.state["machine"]) if one.state.get("machine") else None
    if machine is None:
        t = recipe.train
        machine = device.choose(t.device, t.precision, t.threads)
        one.save(machine=asdict(machine), threads=machine.threads)
    torch.set_num_threads(machine.threads)
    torch.manual_seed(recipe.train.seed)
    method = methods.get(recipe.method.kind)
    head = methods.Head(names["labels"], names["multi_label"], recipe.model.dropout)
    model = method.adapt(base, head, recipe.method)

    def embedded(done: int, of: int) -> None:
        one.emit({"kind": "progress", "task": "embed", "done": done, "of": of})

    examples = {}
    for side, table in tables.items():
        if side in encoded:
            whole = TokenExamples(encoded[side], objective.targets(rows.label_lists(table), table.column("weight").to_pylist()), reader.pad_id)
            examples[side] = method.examples(model, whole, base, embedded)
    kept_table, used = vocabulary.compact(model, list(examples.values()))
    identity = sha256_json({"belongs": belongs, "machine": asdict(machine), "examples": [e.fingerprint() for e in examples.values()]})
    valid = used[1] if "valid" in examples else None
    # Drawn anew here: what adapting consumed of the generator must not depend on a warm or cold cache.
    torch.manual_seed(recipe.train.seed + 1)
    outcome = loop.train(
        model, objective, used[0], valid, recipe.train, machine, one.folder / "checkpoints", identity, one.emit, options.stopping
    )
    vocabulary.restore(model, kept_table, outcome.decay)
    model.to("cpu")
    about = abouts.About("classification", recipe.method.kind, base.name, base.sha256, names["labels"], names["multi_label"], limit, recipe.model.truncation)
    with staged_folder(one.folder / "model") as staging:
        method.save(model, base, staging)
        abouts.write(about, staging)
    state = outcome.state
    training = {
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
        "peak_memory_mb": round(outcome.peak_memory_mb, 1),
        "kept_step": outcome.kept_step,
        "skipped_steps": state.skipped,
        "stopped_early": state.ended == "early",
    }
    one.emit({"kind": "trained", **training})
    return {"training": training, "tokens": report}


def _evaluate(one: Run, recipe: Recipe, base: catalog.Base, files: dict[str, str], kin: list[Run], options: Options) -> None:
    decides = {"evaluate": _content(recipe)["evaluate"], "rows": one.output_hash("prepare"), "model": one.output_hash("train"), "format": FORMAT}
    one.stage("evaluate", sha256_json(decides), ["evaluation.json?"], lambda: _evaluate_work(one, recipe, base), kin)


def _evaluate_work(one: Run, recipe: Recipe, base: catalog.Base) -> None:
    import numpy as np

    from tunesmith.evaluation import baselines, measure
    from tunesmith.serving import engine

    tables = _tables(one)
    split = next((side for side in ("test", "valid") if side in tables), None)
    if split is None:
        one.emit({"kind": "warning", "text": "no test and no validation rows: nothing was measured"})
        return
    if split == "valid":
        one.emit({"kind": "warning", "text": "no test rows: measured on the validation rows that also chose the step, so the figures flatter"})
    classifier = engine.load(one.folder / "model")
    about = classifier.about
    texts = {side: _texts(tables[side]) for side in ("train", split)}
    labels = {side: _label_array(tables[side], about) for side in ("train", split)}
    classes = len(about.labels)
    models: dict[str, Any] = {"tuned": engine.to_probabilities(_logits(one, classifier, tables[split]), about.multi_label)}
    for name in recipe.evaluate.against:
        one.emit({"kind": "note", "text": f"measuring against {name}"})
        if name == "majority":
            models[name] = baselines.majority(labels["train"], len(texts[split]), classes)
        elif name == "tfidf":
            models[name] = baselines.tfidf(texts["train"], labels["train"], texts[split], classes, recipe.evaluate.seed)
        else:
            vectors = {side: _vectors(one, base, recipe, tables[side]) for side in ("train", split)}
            models[name] = baselines.nearest_mean(vectors["train"], labels["train"], vectors[split], classes)
    groups = rows.strings(tables[split], "together")
    result = measure.evaluate(
        models,
        labels[split],
        about.labels,
        groups=groups if any(g is not None for g in groups) else None,
        rows=rows.strings(tables[split], "id"),
        headline="micro_f1" if about.multi_label else "macro_f1",
        split=split,
        seed=recipe.evaluate.seed,
        resamples=recipe.evaluate.resamples,
    )
    write_json(one.folder / "evaluation.json", _plain(result, np))


def _report(one: Run, recipe: Recipe, base: catalog.Base, files: dict[str, str], kin: list[Run], options: Options) -> None:
    decides = {
        "rows": one.output_hash("prepare"),
        "model": one.output_hash("train"),
        "evaluation": one.output_hash("evaluate"),
        "gate": _content(recipe)["gate"],
        "name": one.name,
        "version": version("tunesmith"),
    }
    one.stage("report", sha256_json(decides), ["report.html", "MODEL_CARD.md"], lambda: _report_work(one, recipe, base, files), [])


def _report_work(one: Run, recipe: Recipe, base: catalog.Base, files: dict[str, str]) -> None:
    from tunesmith.report import card, page, run_page

    facts = run_page.Facts(
        run=one.state,
        recipe=recipes.dump(recipe),
        card=read_json(one.folder / "data" / "card.json") | {"tokens": one.state.get("tokens")},
        evaluation=evaluation_of(one),
        events=one.events("step", "valid", "skipped"),
        base={"name": base.name, "sha256": base.sha256, "licence": base.licence, "languages": list(base.languages)},
        files=files,
        texts={row["id"]: row["text"] for row in _measured(one)},
    )
    page_ = run_page.page(facts)
    html = page.render(page_.title, page_.subtitle, page_.verdict, page_.sections, page_.facts)
    write_bytes(one.folder / "report.html", html.encode())
    write_bytes(one.folder / "MODEL_CARD.md", card.model_card(run_page.model_card(facts)).encode())


_STAGE = {"prepare": _prepare, "train": _train, "evaluate": _evaluate, "report": _report}


# --- what the stages share ----------------------------------------------------------------------------------------------------


def evaluation_of(one: Run) -> dict[str, Any] | None:
    """A run's evaluation, or None when nothing was measured."""
    path = one.folder / "evaluation.json"
    return read_json(path) if path.exists() else None


def token_report(tokens: Any, texts: list[str], recipe: Recipe, limit: int) -> dict[str, Any]:
    """How long the training texts are in tokens, what the limit cuts, and what to do about it."""
    import numpy as np

    lengths_N = tokens.lengths_N
    p50, p95, most = (int(np.percentile(lengths_N, q)) for q in (50, 95, 100))
    report = {"limit": limit, "p50": p50, "p95": p95, "most": most, "cut_rows": tokens.cut_rows, "cut_tokens": tokens.cut_tokens}
    if tokens.cut_rows:
        share = 100 * tokens.cut_rows / max(1, len(tokens))
        report["said"] = (
            f"{tokens.cut_rows} of {len(tokens)} training texts ({share:.1f} %) are longer than the limit of {limit} tokens and lose "
            f"{tokens.cut_tokens} tokens. To read all of them set model.truncation: windows; to keep other parts, tail or head_tail."
        )
    else:
        report["said"] = f"Training texts have {p50} tokens at the median, {p95} at the 95th percentile, {most} at most; the limit of {limit} cuts none."
    return report


def versions() -> dict[str, str]:
    """Versions of all that decides a result."""
    out = {"tunesmith": version("tunesmith"), "python": platform.python_version()}
    for name in ("torch", "transformers", "tokenizers", "peft", "safetensors", "numpy", "scikit-learn", "pyarrow"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def _gate(one: Run, recipe: Recipe) -> None:
    from tunesmith.report import gate

    evaluation = evaluation_of(one)
    results = gate.judge({name: bound.model_dump() for name, bound in recipe.gate.items()}, evaluation)
    one.save(gate=[result.__dict__ for result in results])
    failed = [result for result in results if not result.passed]
    if failed:
        raise GateFailed("\n".join(result.said for result in failed))


def _inputs(recipe: Recipe) -> tuple[dict[str, str], catalog.Base]:
    """Hashes of the data files, and the base."""
    return {side: _hash_of(path) for side, path in preparation.input_files(recipe.data).items()}, catalog.resolve(recipe.model)


def _identity(recipe: Recipe, files: dict[str, str], base: catalog.Base) -> str:
    return sha256_json({"recipe": _content(recipe), "files": files, "base": base.sha256, "format": FORMAT})


def _hash_of(path: Path) -> str:
    if not path.is_file():
        from tunesmith.data import sources

        sources.read(path)  # raises the right error for what it is
    return sha256_file(path)


def _content(recipe: Recipe) -> dict[str, Any]:
    """The recipe as data without what does not decide a result: the name, and paths (their hashes count)."""
    values = recipes.dump(recipe)
    del values["name"]
    for side in preparation.input_files(recipe.data):
        values["data"][side] = "file"
    values["model"]["base"] = "base"
    return values


def _tables(one: Run) -> dict[str, Any]:
    return {side: rows.read(path) for side in ("train", "valid", "test") if (path := one.folder / "data" / f"{side}.parquet").exists()}


def _measured(one: Run) -> list[dict[str, Any]]:
    tables = _tables(one)
    table = tables.get("test", tables.get("valid"))
    return [] if table is None else table.select(["id", "text"]).to_pylist()


def _objective(recipe: Recipe, names: dict[str, Any], train: Any) -> Classification:
    from tunesmith.objectives.classification import Classification

    return Classification(names["labels"], names["multi_label"], recipe.objective, rows.label_lists(train))


def _reader(base: catalog.Base, recipe: Recipe) -> tuple[Tokenizer, int]:
    from tunesmith.tokens import tokenizer

    return tokenizer.load(base.folder), recipe.model.max_tokens or base.max_tokens


def _encode(reader: Tokenizer, table: Any, recipe: Recipe, limit: int) -> Any:
    from tunesmith.tokens import encode

    return encode.encode(reader, rows.strings(table, "text"), rows.strings(table, "text_pair"), limit, recipe.model.truncation)


def _vectors(one: Run, base: catalog.Base, recipe: Recipe, table: Any) -> Any:
    from tunesmith.models import features
    from tunesmith.tokens.examples import Targets, TokenExamples

    def embedded(done: int, of: int) -> None:
        one.emit({"kind": "progress", "task": "embed", "done": done, "of": of})

    reader, limit = _reader(base, recipe)
    whole: TokenExamples = TokenExamples(_encode(reader, table, recipe, limit), Targets(None), reader.pad_id)
    return features.vectors(base, whole, "mean", embedded).vectors_ND.numpy()


def _logits(one: Run, classifier: Classifier, table: Any) -> Any:
    def measured(done: int, of: int) -> None:
        one.emit({"kind": "progress", "task": "evaluate", "done": done, "of": of})

    return classifier.logits(rows.strings(table, "text"), rows.strings(table, "text_pair"), measured)


def _texts(table: Any) -> list[str]:
    pairs = rows.strings(table, "text_pair")
    return [text if pair is None else f"{text} {pair}" for text, pair in zip(rows.strings(table, "text"), pairs, strict=True)]


def _label_array(table: Any, about: abouts.About) -> Any:
    """int64 (N,), or bool (N, C) with several labels."""
    import numpy as np

    index = {name: number for number, name in enumerate(about.labels)}
    lists = rows.label_lists(table)
    if not about.multi_label:
        return np.array([index[one[0]] for one in lists])
    out_NC = np.zeros((len(lists), len(index)), bool)
    for row, one in enumerate(lists):
        out_NC[row, [index[name] for name in one]] = True
    return out_NC


def _plain(value: Any, np: Any) -> Any:
    """NumPy numbers and arrays as JSON has them; a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(one, np) for key, one in value.items()}
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return [_plain(one, np) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
