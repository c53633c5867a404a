"""A training that takes a tenth of a second: a linear head with dropout on random vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.core.errors import Interrupted, UserError
from tunesmith.models.heads import LinearHead
from tunesmith.objectives import Loss
from tunesmith.objectives.classification import Classification, ClassificationSettings
from tunesmith.tokens.examples import VectorExamples
from tunesmith.training import loop
from tunesmith.training.hardware import Machine
from tunesmith.training.settings import TrainSettings

LABELS = ["a", "b", "c"]
Poison = Callable[[int, torch.Tensor], torch.Tensor | None]


class Scripted(Classification):
    """The real objective, but what it thinks of a step, and losses of chosen calls, can be dictated."""

    def __init__(self, scores: Sequence[float] = (), poison: Poison = lambda call, total: None) -> None:
        super().__init__(LABELS, False, ClassificationSettings())
        self._scores, self._poison, self.calls = iter(scores), poison, 0

    def score(self, figures: dict[str, float]) -> tuple[float, ...]:
        given = next(self._scores, None)
        return super().score(figures) if given is None else (given,)

    def loss(self, model: torch.nn.Module, batch: Any) -> Loss:
        loss = super().loss(model, batch)
        self.calls += 1
        total = self._poison(self.calls, loss.total)
        return loss if total is None else Loss(total, {**loss.sums, "loss": float(total.detach())})


@dataclass
class Training:
    """What a training left."""

    model: LinearHead
    outcome: loop.Outcome | None
    events: list[dict[str, Any]]
    seen: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    """The weights at each measurement, by step."""
    error: Exception | None = None

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def told(self, *kinds: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] in kinds]


@dataclass
class Lab:
    """Trains in its own folder: 50 rows in steps of 8, so that every epoch ends in a batch of 2."""

    folder: Path
    rows: int = 50

    def data(self, rows: int, seed: int) -> VectorExamples:
        draw = torch.Generator().manual_seed(seed)
        vectors = torch.nn.functional.normalize(torch.randn(rows, 12, generator=draw), dim=-1)
        labels = (vectors[:, :3] + 0.1 * torch.randn(rows, 3, generator=draw)).argmax(-1)
        return VectorExamples(vectors, Scripted().targets([[LABELS[int(one)]] for one in labels]))

    def train(
        self,
        objective: Classification | None = None,
        stop: Callable[[], int | None] = lambda: None,
        valid: bool = True,
        identity: str = "lab",
        model: Any = None,
        precision: str = "fp32",
        **settings: Any,
    ) -> Training:
        """A training from the newest checkpoint in the folder; an error that it ends with is kept in `error`."""
        torch.manual_seed(7)
        model = model or LinearHead(12, 3, 0.1, "mean")
        made = TrainSettings.model_validate(
            {"epochs": 3, "batch_rows": 8, "learning_rate": 2e-2, "log_every": 1, "micro_rows": 3, "checkpoint_steps": 4, "weight_decay": 0.1} | settings
        )
        out = Training(model, None, [])

        def emit(event: dict[str, Any]) -> None:
            out.events.append(event)
            if event["kind"] == "valid":
                out.seen[event["step"]] = out.weights()

        torch.manual_seed(8)
        side = self.data(30, 1) if valid else None
        machine = Machine("cpu", "test", precision, 1)
        try:
            out.outcome = loop.train(model, objective or Scripted(), self.data(self.rows, 0), side, made, machine, self.folder, identity, emit, stop)
        except (UserError, Interrupted) as error:
            out.error = error
        return out

    def steps(self) -> list[int]:
        """The steps that have a checkpoint."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def elsewhere(self, name: str) -> Lab:
        return Lab(self.folder.parent / name, self.rows)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    torch.set_num_threads(1)
    yield Lab(tmp_path / "checkpoints")


@pytest.fixture
def same() -> Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], bool]:
    """Whether two sets of tensors are the same to the last bit."""
    return lambda a, b: a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted
