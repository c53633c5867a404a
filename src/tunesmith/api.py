"""The Python face: `tunesmith.run("recipe.yaml", train__epochs=1)` gives a run whose figures and predictions are a dot away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tunesmith import pipeline, recipe, runs
from tunesmith.core.errors import UserError, nearest, some

if TYPE_CHECKING:
    from tunesmith.models.decode import Sampling
    from tunesmith.serving.engine import Prediction
    from tunesmith.serving.generation import Answer
    from tunesmith.tokens.chat_template import Message


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

    def predict(self, texts: Sequence[str], pairs: Sequence[str | None] | None = None, **sampling: Any) -> list[Prediction] | list[Answer]:
        """The answer for each text.

        Args:
            texts: a list of them.
            pairs: second texts, for classifiers of pairs.
            sampling: for language models, fields of `models.decode.Sampling`: max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed.

        Returns:
            Of a classifier `.label`, `.probability`, `.probabilities`; of a language model `.text`, `.ended`, `.tokens`.

        Raises:
            UserError: what does not go with the run's model.
        """
        from tunesmith.serving import answering

        if isinstance(texts, str):
            raise UserError("predict takes a list of texts, found one text", "predict", "write run.predict([text])")
        engine = self._loaded()
        given, what = (sampling, "sampling") if hasattr(engine, "probabilities") else (pairs, "pairs")
        if given:
            kind = "gives labels" if what == "sampling" else "writes texts"
            raise UserError(f"this run's model {kind} and takes no {what}", "predict", "leave it out")
        answers: list[Prediction] | list[Answer]
        if what == "sampling":
            answers = engine.predict(texts, pairs)
        else:
            answers = engine.answer([answering.question(text) for text in texts], _sampling(sampling))
        return answers

    def chat(self, messages: Sequence[Message], **sampling: Any) -> Answer:
        """The next turn of a dialogue.

        Args:
            messages: {"role": ..., "content": ...}; the last is the user's.
            sampling: as `predict`.

        Raises:
            UserError: the run's model gives labels.
        """
        engine = self._loaded()
        if hasattr(engine, "probabilities"):
            raise UserError("this run's model gives labels, it does not talk", "chat", "use run.predict([text])")
        answer: Answer = engine.answer([messages], _sampling(sampling))[0]
        return answer

    def _loaded(self) -> Any:
        """The run's classifier or writer, loaded at the first call."""
        from tunesmith.models import metadata
        from tunesmith.serving import engine, generation

        if self._engine is None:
            folder = self.folder / "model"
            self._engine = (engine if metadata.read(folder).writing is None else generation).load(folder)
        return self._engine

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


def _sampling(given: dict[str, Any]) -> Sampling:
    from tunesmith.models.decode import Sampling

    known = [one.name for one in fields(Sampling)]
    wrong = next((name for name in given if name not in known), None)
    if wrong is not None:
        raise UserError(f"`{wrong}` is nothing that sampling knows{nearest(wrong, known)}", "predict", f"there are {some(known)}")
    return Sampling(**given)


def _dots(value: Any) -> Any:
    return SimpleNamespace(**{name: _dots(one) for name, one in value.items()}) if isinstance(value, dict) else value
