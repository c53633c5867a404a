"""A bench for oracles: the tiny base, a few rows as tokens, and trainings of ours that remember each step's gradients."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact import double

from tunesmith import methods
from tunesmith.models import catalog
from tunesmith.models.loading import Head
from tunesmith.objectives.classification import Classification, ClassificationSettings
from tunesmith.recipe import Recipe
from tunesmith.tokens import encode, tokenization
from tunesmith.tokens.examples import TokenExamples
from tunesmith.training import loop
from tunesmith.training.hardware import Machine
from tunesmith.training.optimizer import Optimizer
from tunesmith.training.settings import TrainSettings

LABELS = ["blue", "green", "red"]
ONE_THREAD = Machine("cpu", "test", "fp32", 1)


@dataclass
class Trained:
    """What a training left: the model, the gradients before each update by name, and the events."""

    model: torch.nn.Module
    gradients: list[dict[str, torch.Tensor]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    outcome: loop.Outcome | None = None

    def apart(self, others: dict[str, torch.Tensor]) -> float:
        """The largest difference of weights, none left out.

        AdamW's first updates are rate * g / (|g| + 1e-8). Where the exact gradient is zero (an attention's key bias, which softmax cancels), g is
        rounding noise: of about 1e-10 in fp32, which moves the weight at random, and of about 1e-18 in float64, which does not.
        """
        weights = self.weights()
        assert weights.keys() == others.keys()
        assert all(one.dtype == torch.float64 for one in (*weights.values(), *others.values()))
        return max(float((ours - others[name].detach()).abs().max()) for name, ours in weights.items())

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.model.named_parameters()}


@dataclass
class Bench:
    """The tiny base with rows: texts, each row's labels, and the folder that trainings may use."""

    base: catalog.Base
    reader: tokenization.Tokenizer
    texts: list[str]
    labels: list[str]
    folder: Path
    runs: int = 0

    def adapt(self, method: str, seed: int = 0, multi_label: bool = False, dropout: float = 0.0, **settings: Any) -> torch.nn.Module:
        """The base as a method adapts it, its head drawn by the seed, in float64."""
        torch.manual_seed(seed)
        made = Recipe.model_validate({"data": {"train": "x"}, "method": {"kind": method, **settings}}).method
        model: torch.nn.Module = double(methods.get(method).adapt(self.base, Head(LABELS, multi_label, dropout), made))
        return model

    def objective(self, multi_label: bool = False, **settings: Any) -> Classification:
        return Classification(LABELS, multi_label, ClassificationSettings(**settings), [[one] for one in self.labels])

    def examples(self, rows: int, weights: list[float] | None = None, objective: Classification | None = None, **reading: Any) -> TokenExamples:
        """The first rows as tokens with their targets."""
        tokens = encode.encode(self.reader, self.texts[:rows], None, reading.get("max_tokens", 64), reading.get("truncation", "head"))
        targets = (objective or self.objective()).targets([[one] for one in self.labels[:rows]], weights)
        return TokenExamples(tokens, targets, self.reader.pad_id)

    def train(self, model: torch.nn.Module, objective: Any, examples: Any, watch: Callable[[], Any] | None = None, **settings: Any) -> Trained:
        """Train without validation rows: the last step is kept. Gradients are taken as they are before clipping and update."""
        self.runs += 1
        out = Trained(model)
        step = Optimizer.step

        def watched(self: Optimizer, learning_rate: float, shrink: float) -> None:
            out.gradients.append({n: m.grad.detach().clone() for n, m in zip(self.names, self.masters, strict=True) if m.grad is not None})
            step(self, learning_rate, shrink)

        Optimizer.step = watched  # type: ignore[method-assign]
        try:
            made = TrainSettings.model_validate({"epochs": 1, "batch_rows": 8, "precision": "fp32", "threads": 1, "log_every": 1, **settings})
            out.outcome = loop.train(model, objective, examples, None, made, ONE_THREAD, self.folder / str(self.runs), "bench", out.events.append)
        finally:
            Optimizer.step = step  # type: ignore[method-assign]
        return out


@pytest.fixture
def bench(tiny_base: Path, colours: Path, tmp_path: Path) -> Bench:
    torch.set_num_threads(1)
    with open(colours, newline="") as file:
        rows = list(csv.DictReader(file))
    base = catalog.resolve(catalog.ModelSettings(base=str(tiny_base)))
    return Bench(base, tokenization.load(base.folder), [r["text"] for r in rows], [r["label"] for r in rows], tmp_path / "checkpoints")


@pytest.fixture
def largest() -> Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], float]:
    """The largest difference of two sets of tensors; their names must be the same."""

    def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
        assert ours.keys() == theirs.keys()
        return max(float((ours[name].detach().double() - theirs[name].detach().double()).abs().max()) for name in ours)

    return difference


@pytest.fixture
def plan() -> Callable[..., list[np.ndarray]]:
    """The rows of each step, as the loop will take them."""
    from tunesmith.tokens import batching

    return lambda examples, rows=8, epochs=1, tokens=None: [b for e in range(epochs) for b in batching.plan(examples.lengths_N, rows, tokens, 0, e)]
