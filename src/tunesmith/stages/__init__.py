"""The stages of a run, one file each. Here alone a room is handed what lives below it: data gets vectors, evaluation gets probabilities."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith import methods, starters
from tunesmith import recipe as recipes
from tunesmith.core.files import cache, read_json
from tunesmith.data import rows
from tunesmith.data.preparation import inputs
from tunesmith.data.readers.formats import ending
from tunesmith.data.row_index import SIDES
from tunesmith.models import catalog
from tunesmith.models.catalog import Base
from tunesmith.recipe import Recipe
from tunesmith.runs import Run

if TYPE_CHECKING:
    from tunesmith.models.metadata import About
    from tunesmith.tokens.examples import TokenExamples
    from tunesmith.tokens.reader import Reader

FORMAT = 4
"""Raised when the meaning of a stage's outputs changes, so that old ones are not reused."""

GENERAL = "general"
"""Among the hashed files the one on which forgetting is measured: no side of the data, so preparing does not depend on it."""


@dataclass(frozen=True)
class Context:
    """What every stage needs: the run and its recipe, the base, the hashes of the data files, and who may stop us."""

    run: Run
    recipe: Recipe
    found: Base
    files: dict[str, str]
    stopping: Callable[[], int | None]

    @property
    def base(self) -> Base:
        """The base, or what stage `begin` made in its place."""
        size = self.recipe.model.scratch
        return self.found if size is None else catalog.made(size, self.run.folder / "base")

    def tables(self) -> dict[str, Any]:
        """The prepared rows by side."""
        folder = self.run.folder / "data"
        return {side: rows.read(path) for side in SIDES if (path := folder / f"{side}.parquet").exists()}

    def labels(self) -> tuple[list[str], bool]:
        """Label names in order, and whether a row has any number of them."""
        names = read_json(self.run.folder / "data" / "labels.json")
        return names["labels"], names["multi_label"]

    def counting(self, task: str) -> Callable[[int, int, int], None]:
        """A callback that tells how far a task is in bytes, and how many rows it has had."""
        begun = time.monotonic()

        def tell(done: int, of: int, count: int) -> None:
            self.run.emit({"kind": "progress", "task": task, "done": done, "of": of, "rows": count, "seconds": time.monotonic() - begun})

        return tell

    def progress(self, task: str) -> Callable[[int, int], None]:
        """A callback that tells how far a task is."""
        return lambda done, of: self.run.emit({"kind": "progress", "task": task, "done": done, "of": of})


def content(recipe: Recipe) -> dict[str, Any]:
    """The recipe as data without what does not decide a result: the name, and paths (their hashes count)."""
    values = recipes.dump(recipe)
    del values["name"]
    for side in SIDES:
        if named := inputs.sources_of(recipe.data, side):
            values["data"][side] = [f"file{ending(Path(one.source))[0]}, weight {one.weight:g}" for one in named]
    if recipe.data.corrections is not None:
        values["data"]["corrections"] = "file"
    for section, key in recipes.BESIDE:
        if values["data"][section][key] is not None:
            values["data"][section][key] = "file"
    values["model"]["base"] = "base"
    if recipe.evaluate.general and not recipe.evaluate.general.startswith(starters.PREFIX):
        values["evaluate"]["general"] = "file"
    return values


def reader(base: Base, recipe: Recipe) -> Reader:
    """How the base reads texts under this recipe."""
    from tunesmith.tokens import tokenization
    from tunesmith.tokens.reader import Reader

    # A prefix takes places of the base's limit.
    limit = min(recipe.model.max_tokens or base.max_tokens, base.max_tokens - methods.places(recipe.method))
    return Reader(tokenization.load(base.folder, recipe.model.prefix), limit, recipe.model.truncation, cache())


def device_of(context: Context) -> str:
    """The device of the run's training, if it is here; else the CPU."""
    from tunesmith.training import hardware

    wanted = str((context.run.state.get("machine") or {}).get("device", "cpu"))
    return wanted if wanted == "cpu" or hardware.is_here(wanted) else "cpu"


def embedder(base: Base, recipe: Recipe, progress: Callable[[int, int], None] = lambda done, of: None) -> Callable[[Sequence[str]], Any]:
    """Texts -> the base's unit vectors, float32 (N, D), from the cache where they are there."""

    def vectors(texts: Sequence[str]) -> Any:
        from tunesmith.models import features
        from tunesmith.tokens import encode
        from tunesmith.tokens.examples import Targets, TokenExamples

        read = reader(base, recipe)
        tokens = encode.encode(read.tokenizer, list(texts), None, read.limit, read.truncation)
        return features.vectors(base, TokenExamples(tokens, Targets(None), read.tokenizer.pad_id), None, progress).vectors_ND.numpy()

    return vectors


def unlabelled(context: Context, table: Any) -> TokenExamples:
    """A table's texts as examples without targets."""
    from tunesmith.tokens import encode
    from tunesmith.tokens.examples import Targets, TokenExamples

    read = reader(context.base, context.recipe)
    tokens = encode.encode(read.tokenizer, rows.strings(table, "text"), rows.strings(table, "text_pair"), read.limit, read.truncation)
    return TokenExamples(tokens, Targets(None), read.tokenizer.pad_id)


def label_array(table: Any, about: About) -> Any:
    """A table's labels: int64 (N,), or bool (N, C) when a row has any number."""
    import numpy as np

    index = {name: number for number, name in enumerate(about.labels)}
    lists = rows.label_lists(table)
    if not about.multi_label:
        return np.array([index[one[0]] for one in lists], np.int64)
    out_NC = np.zeros((len(lists), len(index)), bool)
    for row, one in enumerate(lists):
        out_NC[row, [index[name] for name in one]] = True
    return out_NC


def plain(value: Any) -> Any:
    """NumPy numbers and arrays as JSON has them; a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return [plain(one) for one in value]
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
