"""Models in float64, so that two ways to one result agree to nine digits on every processor.

fp32 holds seven digits, and each processor sums in another order: a difference of 1e-6 between two fp32 results says nothing. In float64 the
rounding is a billion times smaller, so a difference above `TIGHT` is a mistake.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

TIGHT = 1e-9
"""Largest difference of two float64 results of the same formula, for values of about 1."""
CLIPPED = 1e-8
"""The same of weights after steps with clipped gradients: torch's fused AdamW takes the factor of clipping in fp32, to seven digits. A learning
rate that is off by one part in a hundred gives 1e-5."""


def double(model: Any) -> Any:
    """The model in float64 throughout. transformers' RMS norms and rotary embeddings compute in fp32 whatever the model is: theirs are replaced."""
    model.double()
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            module.forward = partial(_rms_norm, module)
        elif kind.endswith("RotaryEmbedding") and hasattr(module, "inv_freq"):
            if module.rope_type == "default":
                K = 2 * len(module.inv_freq)
                module.inv_freq = float(module.config.rope_parameters["rope_theta"]) ** (-torch.arange(0, K, 2, dtype=torch.float64) / K)
            module.forward = partial(_rotary, module)
    return model


def _rms_norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Zhang and Sennrich 2019 (https://arxiv.org/abs/1910.07467), equation 4. Gemma's weights are distances from 1."""
    gemma = type(module).__name__.startswith("Gemma")
    epsilon, weight = (module.eps, 1 + module.weight) if gemma else (module.variance_epsilon, module.weight)
    normed: torch.Tensor = x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight
    return normed


def _rotary(module: Any, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Su et al. 2021 (https://arxiv.org/abs/2104.09864), equation 34: cosines and sines of every place, each half twice."""
    angles = position_ids[..., None].double() * module.inv_freq.double()
    whole = torch.cat((angles, angles), dim=-1)
    return whole.cos() * module.attention_scaling, whole.sin() * module.attention_scaling
