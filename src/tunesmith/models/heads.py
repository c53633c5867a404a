"""Heads of our own. Shapes: B rows, D hidden size, C labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from tunesmith.models.catalog import Pooling
from tunesmith.models.fast.dropout import dropout
from tunesmith.models.features import pool


@dataclass(frozen=True)
class Output:
    """What a head gives, under the name that transformers' classifiers use."""

    logits: torch.Tensor


class LinearHead(nn.Module):
    """A linear layer on vectors of length 1, which it sees times sqrt(D)."""

    small = True
    """Too small to gain from bf16 or from a second thread (on two cores a step takes three times as long with two threads); its inputs are fp32."""

    convex = True
    """Its loss has one optimum, which `training.convex` solves for."""

    def __init__(self, width: int, labels: int, chance: float, pooling: Pooling) -> None:
        super().__init__()
        self.dropout = chance
        self.linear = nn.Linear(width, labels)
        self.scale = width**0.5
        self.pooling = pooling

    def place(self, weight_CD: torch.Tensor, bias_C: torch.Tensor) -> None:
        """Give logits `vectors @ weight.T + bias` from now on."""
        with torch.no_grad():
            self.linear.weight.copy_(weight_CD / self.scale)
            self.linear.bias.copy_(bias_C)

    def forward(self, vectors: torch.Tensor) -> Output:
        """vectors_BD -> logits_BC."""
        return Output(self.linear(dropout(vectors, self.dropout, self.training) * self.scale))


class FeatureClassifier(nn.Module):
    """A frozen base and its head as one model that takes tokens."""

    def __init__(self, base: nn.Module, head: LinearHead) -> None:
        super().__init__()
        self.base, self.head = base, head

    def forward(self, **inputs: torch.Tensor) -> Output:
        """Token inputs (B, L) -> logits_BC."""
        output: Output = self.head(pool(self.base, inputs, self.head.pooling))
        return output
