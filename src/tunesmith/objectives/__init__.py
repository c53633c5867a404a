"""What is learnt. One file an objective; this registry is the only other place that knows its name.

An objective's module has its Settings, ROWS (the kinds of rows it takes) and make(settings, base, data) -> Objective. The loop asks the
objective for a loss in sums, so that accumulation, packing and unequal batches stay exact, and for numbers to show.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field, TypeAdapter

from tunesmith.core.errors import UserError, some
from tunesmith.objectives.classification import ClassificationSettings
from tunesmith.objectives.pretraining import PretrainingSettings
from tunesmith.objectives.sft import SftSettings

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from tunesmith.models.catalog import Base
    from tunesmith.models.loading import Head
    from tunesmith.models.metadata import Writing
    from tunesmith.tokens.examples import Batch, Examples
    from tunesmith.tokens.reader import Reader

ObjectiveSettings = Annotated[ClassificationSettings | SftSettings | PretrainingSettings, Field(discriminator="kind")]
NAMES = ("classification", "sft", "pretraining")


Sums = dict[str, "torch.Tensor | float"]
"""Plain sums by name. A tensor without gradient may still be on its way from the device: whoever needs the number waits for it."""


def numbers(sums: Sums) -> dict[str, float]:
    """The sums as numbers of Python: waits for the device that has them."""
    return {name: float(value) for name, value in sums.items()}


@dataclass(frozen=True)
class Loss:
    """A micro-batch's loss: `total` is a sum with gradient; `sums` are plain sums to add up over batches and then `summary`."""

    total: torch.Tensor
    sums: Sums


class Objective(Protocol):
    """What the loop and the training stage need to know of an objective."""

    @property
    def writing(self) -> Writing | None:
        """How a language model's texts are written; None where it writes none."""

    def head(self, dropout: float | None) -> Head:
        """What the model must give."""

    def examples(self, path: Path, reader: Reader) -> Examples:
        """The rows of a prepared file as examples."""

    def units(self, batch: Batch) -> float:
        """How much the batch counts (weighted rows, learnt tokens), known before the model is run."""

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The training loss, smoothing and class weights included."""

    def measure(self, model: nn.Module, batch: Batch) -> Sums:
        """Sums of the plain loss and counts, without smoothing or weights, for train and validation curves."""

    def scores(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The numbers that the loss is computed from, row by row, in eval mode. The self-checks compare them."""

    def reference(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """`scores` of a batch of one row by transformers' own forward."""

    def summary(self, sums: dict[str, float]) -> dict[str, float]:
        """Added-up sums -> figures to show: `loss`, `accuracy` ..."""

    def score(self, figures: dict[str, float]) -> tuple[float, ...]:
        """Figures -> what decides which step is kept: the larger in order of the tuple's members."""


class Module(Protocol):
    """What an objective's module offers; see the top of this file."""

    ROWS: tuple[str, ...]

    def make(self, settings: Any, base: Base, data: Path) -> Objective: ...


def get(name: str) -> Module:
    """The objective's module of a name in `NAMES`."""
    assert name in NAMES
    module: Any = import_module(f"tunesmith.objectives.{name}")
    return module  # type: ignore[no-any-return]  # a module is the protocol's instance


def for_rows(kind: str) -> str:
    """The objective that takes a kind of rows.

    Raises:
        UserError: none does.
    """
    for name in NAMES:
        if kind in get(name).ROWS:
            return name
    takes = sorted({row for name in NAMES for row in get(name).ROWS})
    what = f"no objective learns from rows of the kind `{kind}`"
    raise UserError(what, "recipe, `data`", f"to train, give {some(takes)} rows; these can only be checked")


def settings(name: str) -> ObjectiveSettings:
    """An objective's settings as they are by default."""
    made: ObjectiveSettings = TypeAdapter(ObjectiveSettings).validate_python({"kind": name})
    return made
