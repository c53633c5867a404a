"""What is learnt. One file an objective; this registry is the only other place that knows its name.

The loop asks an objective for a loss in sums, so that accumulation, packing and unequal batches stay exact, and for numbers to show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tunesmith.objectives.classification import ClassificationSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tunesmith.tokens.examples import Batch

ObjectiveSettings = ClassificationSettings
"""Becomes a union over `kind` with the second objective."""


@dataclass(frozen=True)
class Loss:
    """A micro-batch's loss: `total` is a sum with gradient; `sums` are plain sums to add up over batches and then `summary`."""

    total: torch.Tensor
    sums: dict[str, float]


class Objective(Protocol):
    """What the loop needs to know of an objective."""

    def units(self, batch: Batch) -> float:
        """How much the batch counts (weighted rows, learnt tokens), known before the model is run."""

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The training loss, smoothing and class weights included."""

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Sums of the plain loss and counts, without smoothing or weights, for train and validation curves."""

    def summary(self, sums: dict[str, float]) -> dict[str, float]:
        """Added-up sums -> figures to show: `loss`, `accuracy` ..."""

    def score(self, figures: dict[str, float]) -> tuple[float, ...]:
        """Figures -> what decides which step is kept: the larger in order of the tuple's members."""
