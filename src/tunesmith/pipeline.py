"""The one place that chains the stages: a recipe in, a finished run out."""

from __future__ import annotations

import hashlib
import hmac
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tunesmith import methods, objectives, runs
from tunesmith import recipe as recipes
from tunesmith.core.errors import GateFailed, UserError, nearest, some
from tunesmith.core.files import sha256_file, sha256_json, staged_file, write_bytes
from tunesmith.core.settings import write_yaml
from tunesmith.data.cleaning import languages, personal_data
from tunesmith.data.preparation import inputs
from tunesmith.data.preparation import prepare as preparation
from tunesmith.data.preparation.progress import Progress
from tunesmith.data.readers import formats
from tunesmith.data.settings import InspectSettings
from tunesmith.models import catalog
from tunesmith.recipe import Recipe
from tunesmith.runs import Run
from tunesmith.stages import FORMAT, GENERAL, Context, content, evaluate, evaluate_text, inspect, prepare, reader, report, scratch, train

STAGES = {"prepare": prepare.stage, "inspect": inspect.stage, "begin": scratch.stage, "train": train.stage, "evaluate": evaluate.stage, "report": report.stage}
MODEL_FILES = (".json", ".safetensors", ".jinja", ".txt")
"""What decides what a model does."""
PACKAGES = ("torch", "transformers", "tokenizers", "peft", "safetensors", "numpy", "scikit-learn", "pyarrow")


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what: where runs lie, whether to start anew, the last stage, who listens, who may stop us."""

    runs_dir: Path = Path("runs")
    fresh: bool = False
    until: str = "report"
    listen: runs.Listener | None = None
    stopping: Callable[[], int | None] = field(default=lambda: None)
    tensorboard: bool = False


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
    _check_measuring(recipe)
    files, base = _inputs(recipe)
    facts = {"seed": recipe.train.seed, "versions": versions()}
    one, kin = runs.open_or_create(options.runs_dir, recipe.name, _identity(recipe, files, base), facts, options.fresh, options.listen)
    return _carry(one, kin, recipe, files, base, options)


def _carry(one: Run, kin: list[Run], recipe: Recipe, files: dict[str, str], base: catalog.Base, options: Options) -> Run:
    """Take this very run through its stages."""
    if options.tensorboard:
        from tunesmith.listeners.tensorboard import writer

        one.also(writer(one.folder / "tensorboard"))
    with runs.working(one):
        write_bytes(one.folder / "recipe.yaml", write_yaml(recipes.dump(recipe)).encode())
        context = Context(one, recipe, base, files, options.stopping)
        for name, stage in STAGES.items():
            stage(context, kin)
            if name == options.until:
                break
    if options.until == "report":
        _gate(one, recipe)
    return one


def again(one: Run, stage: str, options: Options) -> Run:
    """Carry a run on to a stage with the recipe it was made with.

    Raises:
        UserError: its recipe cannot be read, or its data or base have changed since.
    """
    recipe = recipes.load(one.folder / "recipe.yaml")
    files, base = _inputs(recipe)
    if _identity(recipe, files, base) != one.state["identity"]:
        what = "its data files, base or recipe are not what they were when it was made"
        raise UserError(what, str(one.folder), "give the recipe again, for a new run: tunesmith run RECIPE")
    return _carry(Run(one.folder, options.listen), [], recipe, files, base, replace(options, until=stage))


def resume(one: Run, changes: list[str], options: Options) -> Run:
    """Go on with a run under changed settings that do not make another run of it (`stages.train.RESUMABLE`), and record them.

    Raises:
        UserError: its recipe cannot be read.
    """
    recipe = recipes.load(one.folder / "recipe.yaml", changes)
    files, base = _inputs(recipe)
    before = one.state.get("changes", [])
    one.save(identity=_identity(recipe, files, base), changes=[*before, *changes])
    return _carry(Run(one.folder, options.listen), [], recipe, files, base, options)


Checked = tuple[dict[str, Any], dict[str, Any], list[str]]


def check(recipe: Recipe, rejected: Path | None = None, progress: Progress | None = None) -> Checked:
    """Read and check everything that a recipe's run would.

    Args:
        recipe: resolved.
        rejected: gets every row left out; None writes nothing.
        progress: told how far the reading is.

    Returns:
        The data card, the token report of the training rows, and what to look at first.
    """
    _check_measuring(recipe)
    base = catalog.resolve(recipe.model)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        card, seen = _prepared(recipe, data, rejected, prepare.handed(recipe, base), progress)
        if recipe.model.scratch is not None:
            (data / "base").mkdir()
            scratch.into(recipe.model.scratch, data / "train.parquet", data / "base")
            base = catalog.made(recipe.model.scratch, data / "base")
        read = reader(base, recipe)
        examples = objectives.get(recipe.objective.kind).make(recipe.objective, base, data).examples(data / "train.parquet", read)
        train.must_learn(examples, "train", read.limit)
        longest = base.max_tokens - methods.places(recipe.method)
        return card, train.token_report(examples, read, longest, recipe.train.micro_rows or recipe.train.batch_rows), seen


def check_data(recipe: Recipe, rejected: Path | None = None, progress: Progress | None = None) -> Checked:
    """Read and check data before there is a base to learn them.

    Args:
        recipe: of `recipe.of_data`.
        rejected: gets every row left out; None writes nothing.
        progress: told how far the reading is.

    Returns:
        As `check`, without a token report: that takes a base.
    """
    with tempfile.TemporaryDirectory() as folder:
        if recipe.data.duplicates.meaning is not None:
            raise UserError("`data.duplicates.meaning` takes a base, which a check of data alone has none of", "command line", "check a recipe")
        card, seen = _prepared(recipe, Path(folder), rejected, prepare.handed(recipe, None), progress)
    return card, {}, seen


def _prepared(
    recipe: Recipe, folder: Path, rejected: Path | None, handed: preparation.Handed, progress: Progress | None
) -> tuple[dict[str, Any], list[str]]:
    assert recipe.data.rows is not None
    card = preparation.prepare(recipe.data, recipe.data.rows, folder, progress, rejected, handed)
    languages.forget()  # nothing asks for it from here on
    if rejected is not None:
        with staged_file(rejected) as staging:
            shutil.copyfile(folder / "rejected.jsonl", staging)
    # Vectors are asked of a run alone: a check answers in seconds.
    return card, inspect.findings(inspect.into(folder, recipe.name, InspectSettings(terms=recipe.data.inspect.terms), None))


def versions() -> dict[str, str]:
    """Versions of all that decides a result."""
    out = {"tunesmith": version("tunesmith"), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def _check_measuring(recipe: Recipe) -> None:
    """A gate that names no figure, or a general text that holds none, is said before an hour of training, not after."""
    from tunesmith.evaluation.classification.metrics import MULTI_LABEL, SINGLE_LABEL
    from tunesmith.evaluation.generation.metrics import GENERATED, LIKELIHOOD

    figures: Sequence[str] = MULTI_LABEL if recipe.data.multi_label else SINGLE_LABEL
    if recipe.data.rows != "labelled":
        answers = () if recipe.data.rows == "document" else GENERATED
        figures = [*answers, *LIKELIHOOD, *(["forgetting"] if evaluate_text.general_text(recipe) else [])]
    if general := evaluate_text.general_file(recipe):
        evaluate_text.documents(general, 2)
    for name in recipe.gate:
        if name not in figures:
            what = f"the gate names an unknown figure `{name}`{nearest(name, figures)}"
            raise UserError(what, "recipe, `gate`", f"choose from {some(figures, 20)}")


def _gate(one: Run, recipe: Recipe) -> None:
    from tunesmith.report import gate

    results = gate.judge({name: bound.model_dump() for name, bound in recipe.gate.items()}, runs.evaluation_of(one))
    one.save(gate=[result.__dict__ for result in results])
    failed = [result for result in results if not result.passed]
    if failed:
        raise GateFailed("\n".join(result.said for result in failed))


def _inputs(recipe: Recipe) -> tuple[dict[str, str], catalog.Base]:
    """Hashes of the data files, and the base."""
    hashes = {side: inputs.digest(found) for side, found in inputs.inputs(recipe.data).items()}
    beside = {key: getattr(getattr(recipe.data, section), key) for section, key in recipes.BESIDE}
    beside |= {"corrections": recipe.data.corrections, GENERAL: evaluate_text.general_file(recipe)}
    hashes |= {name: _hash_of(Path(path)) for name, path in beside.items() if path is not None}
    if recipe.data.privacy.action == "pseudonymise" and recipe.data.privacy.key is not None:  # other marks, another run; 64 bits do not give the key away
        hashes["key"] = hmac.new(personal_data.key_of(recipe.data.privacy), b"identity", hashlib.sha256).hexdigest()[:16]
    return hashes, catalog.resolve(recipe.model)


def _identity(recipe: Recipe, files: dict[str, str], base: catalog.Base) -> str:
    return sha256_json({"recipe": content(recipe), "files": files, "base": base.sha256, "format": FORMAT})


def _hash_of(path: Path) -> str:
    """Of a file, or of a model: a run's, or a folder's."""
    if path.is_dir():
        folder = path / "model" if (path / "model").is_dir() else path
        return sha256_json({str(one.relative_to(folder)): sha256_file(one) for one in sorted(folder.rglob("*")) if one.suffix in MODEL_FILES and one.is_file()})
    formats.kind_of(path)  # raises the right error for what it is
    return sha256_file(path)
