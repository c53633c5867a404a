"""The Python face: `tunesmith.run("recipe.yaml", train__epochs=1)` gives a run whose figures and predictions are a dot away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tunesmith import pipeline, recipe, runs
from tunesmith.errors import UserError

if TYPE_CHECKING:
    from tunesmith.serving.engine import Prediction


class Finished:
    """A run on disk, for reading and predicting.

    Attributes: folder; status; training (steps, seconds, tokens_per_second ...); evaluation (`.test.tuned.macro_f1.value`, or None).
    """

    def __init__(self, one: runs.Run) -> None:
        self.folder, self.name, self.status = one.folder, one.name, one.status
        self.training = _dots(one.state.get("training", {}))
        found = runs.evaluation_of(one)
        self.evaluation = None
        if found:
            splits = {side: {**split["models"], "rows": split["rows"], "comparisons": split["comparisons"]} for side, split in found["splits"].items()}
            self.evaluation = _dots({"headline": found["headline"], **splits})
        self._engine: Any = None

    @property
    def report(self) -> Path:
        """Path of report.html."""
        return self.folder / "report.html"

    def predict(self, texts: Sequence[str], pairs: Sequence[str | None] | None = None) -> list[Prediction]:
        """The answer for each text: `.label`, `.probability`, `.probabilities`."""
        from tunesmith.serving import engine

        if isinstance(texts, str):
            raise UserError("predict takes a list of texts, found one text", "predict", "write run.predict([text])")
        self._engine = self._engine or engine.load(self.folder / "model")
        answers: list[Prediction] = self._engine.predict(texts, pairs)
        return answers

    def __repr__(self) -> str:
        return f"<tunesmith run {self.name}: {self.status}>"


def run(source: str | Path, *, runs_dir: str | Path = "runs", fresh: bool = False, **changes: Any) -> Finished:
    """Carry a recipe through to its report.

    Args:
        source: the recipe's file.
        runs_dir: where runs lie.
        fresh: start anew although a run of the same recipe and data is there.
        changes: settings by path with double underscores: `train__epochs=1`.

    Returns:
        The finished run; a reused or resumed one when recipe and data are the same.

    Raises:
        UserError, GateFailed: as the command line.
    """
    overrides = [f"{path.replace('__', '.')}={json.dumps(value)}" for path, value in changes.items()]
    options = pipeline.Options(runs_dir=Path(runs_dir), fresh=fresh)
    return Finished(pipeline.run(recipe.load(Path(source), overrides), options))


def load(folder: str | Path) -> Finished:
    """A run by its folder.

    Raises:
        UserError: there is none.
    """
    return Finished(runs.find(Path(folder).parent, Path(folder).name))


def _dots(value: Any) -> Any:
    return SimpleNamespace(**{name: _dots(one) for name, one in value.items()}) if isinstance(value, dict) else value
