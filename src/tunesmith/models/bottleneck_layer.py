"""A bottleneck behind a linear layer. Shapes: x any leading shape; D what the layer gives; W the bottleneck's width."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Adapter(nn.Module):
    """A frozen linear layer and the network behind it: h + up(f(down(h))), h = inner(x). Houlsby et al. 2019 (https://arxiv.org/abs/1902.00751).

    Args:
        inner: what was there, giving D numbers.
        size: D.
        width: W.
        activation: gelu or relu.
    """

    def __init__(self, inner: nn.Module, size: int, width: int, activation: str) -> None:
        super().__init__()
        self.inner, self.activation = inner, activation
        self.down, self.up = nn.Linear(size, width), nn.Linear(width, size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x -> (..., D)."""
        h = self.inner(x)
        low = self.down(h)
        added: torch.Tensor = h + self.up(F.gelu(low) if self.activation == "gelu" else F.relu(low))
        return added
