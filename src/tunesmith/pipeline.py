"""The one place that chains the stages: a recipe in, a finished run out."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tunesmith import recipe as recipes
from tunesmith import runs
from tunesmith.data import prepare as preparation
from tunesmith.errors import GateFailed
from tunesmith.files import sha256_file, sha256_json, write_bytes
from tunesmith.models import catalog
from tunesmith.recipe import Recipe
from tunesmith.runs import Run
from tunesmith.settings import write_yaml
from tunesmith.stages import FORMAT, Context, content, encode, evaluate, prepare, reader, report, train

STAGES = {"prepare": prepare.stage, "train": train.stage, "evaluate": evaluate.stage, "report": report.stage}
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
    files, base = _inputs(recipe)
    facts = {"seed": recipe.train.seed, "versions": versions()}
    one, kin = runs.open_or_create(options.runs_dir, recipe.name, _identity(recipe, files, base), facts, options.fresh, options.listen)
    if options.tensorboard:
        from tunesmith.tensorboard import writer

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
        UserError: its recipe cannot be read.
    """
    recipe = recipes.load(one.folder / "recipe.yaml")
    return run(recipe, Options(one.folder.parent, False, stage, options.listen, options.stopping))


def resume(one: Run, changes: list[str], options: Options) -> Run:
    """Go on with a run under changed settings that do not make another run of it (`stages.train.RESUMABLE`), and record them.

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
    tokenizer, limit = reader(base, recipe)
    return prepared, train.token_report(encode(tokenizer, prepared.splits["train"], recipe, limit), recipe, limit)


def versions() -> dict[str, str]:
    """Versions of all that decides a result."""
    out = {"tunesmith": version("tunesmith"), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def _gate(one: Run, recipe: Recipe) -> None:
    from tunesmith.report import gate

    results = gate.judge({name: bound.model_dump() for name, bound in recipe.gate.items()}, runs.evaluation_of(one))
    one.save(gate=[result.__dict__ for result in results])
    failed = [result for result in results if not result.passed]
    if failed:
        raise GateFailed("\n".join(result.said for result in failed))


def _inputs(recipe: Recipe) -> tuple[dict[str, str], catalog.Base]:
    """Hashes of the data files, and the base."""
    return {side: _hash_of(path) for side, path in preparation.input_files(recipe.data).items()}, catalog.resolve(recipe.model)


def _identity(recipe: Recipe, files: dict[str, str], base: catalog.Base) -> str:
    return sha256_json({"recipe": content(recipe), "files": files, "base": base.sha256, "format": FORMAT})


def _hash_of(path: Path) -> str:
    if not path.is_file():
        from tunesmith.data import sources

        sources.read(path)  # raises the right error for what it is
    return sha256_file(path)
