"""Dropout for CPUs: masks from 16-bit lanes of a fast generator, seeded from torch's own so that a resumed run draws the same.

Srivastava et al. 2014 (https://jmlr.org/papers/v15/srivastava14a.html). torch's kernel draws one element at a time with a Mersenne twister,
a tenth of a small encoder's training step; four lanes of one 64-bit draw cost a third of it, with the chance kept to 1 / 65,536.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

SMALL = 65536
"""Elements below which NumPy makes the same mask in less time than torch needs to begin."""


class _Drop(torch.autograd.Function):
    """x * mask with a mask of 0 and 1 / (1 - p)."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * context.saved_tensors[0], None


def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Dropout whose mask costs a third of torch's on a CPU.

    Args:
        x: any shape.
        p: chance of a zero, kept to 16 bits.
        training: no dropout when False.
    """
    if not training or p == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    seed = int(torch.randint(2**62, ()))
    lanes = np.random.SFC64(seed).random_raw(-(-x.numel() // 4)).view(np.int16)[: x.numel()]
    least = round(p * 65536) - 32768
    if x.numel() < SMALL:
        mask = torch.from_numpy((lanes >= least) * np.float32(1 / (1 - p))).view(x.shape).to(x.dtype)
    else:
        mask = (torch.from_numpy(lanes).view(x.shape) >= least).to(x.dtype).mul_(1 / (1 - p))
    dropped: torch.Tensor = _Drop.apply(x, mask)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return dropped
