"""Linear layers of one input as one product, LoRA merged in: the fast forwards of bert.py and llama.py share it.

Shapes: x (..., D) any leading shape; W (out, D); A (rank, D), B (out, rank).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

FEW_TOKENS = 64
"""Below this many tokens, and without gradient, layers of one input stay separate products. A convention of ours."""


def at_least_fp32(x: torch.Tensor) -> torch.Tensor:
    """bf16 and fp16 become fp32; fp32 stays, and so does float64, in which tests compare formulas to nine digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def linear(module: Any, x: torch.Tensor) -> torch.Tensor:
    """What the module gives for x; LoRA layers of the plain kind without PEFT's detours."""
    return linears([module], x)[0]


def linears(modules: list[Any], x: torch.Tensor) -> list[torch.Tensor]:
    """Several linear layers of one input as one product, LoRA included: a list of their outputs."""
    if all(type(module) is nn.Linear for module in modules):
        # For few tokens one product gains less than laying the weights together costs.
        if len(modules) == 1 or (not torch.is_grad_enabled() and x.numel() < FEW_TOKENS * x.shape[-1]):
            return [F.linear(x, module.weight, module.bias) for module in modules]
        weight = torch.cat([module.weight for module in modules])
        bias = None if modules[0].bias is None else torch.cat([module.bias for module in modules])
        return list(torch.split(F.linear(x, weight, bias), [module.out_features for module in modules], -1))
    lows = [_plain_lora(module) for module in modules]
    plain = [low for low in lows if low is not None]
    if len(plain) < len(modules):
        return [linear(module, x) for module in modules] if len(modules) > 1 else [modules[0](x)]
    bases = [module.base_layer for module in modules]
    thin = [tensor for A, B, _ in plain for tensor in (A, B)]
    whole: torch.Tensor = _LowRank.apply(x, bases, [scale for _, _, scale in plain], *thin)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return list(torch.split(whole, [base.out_features for base in bases], -1))


class _LowRank(torch.autograd.Function):
    """Frozen linear layers with LoRA on one input, as a single product with the merged weight.

    y = x (W + s B A)^T + b. Merging costs rank x weights, whatever the number of tokens; only the gradients of A and B need thin products:
    dA = s (dy B)^T x and dB = s dy^T (x A^T), while dx = dy (W + s B A). Hu et al. 2021, equation 3, differentiated by hand.
    """

    @staticmethod
    def forward(context: Any, x: torch.Tensor, bases: list[Any], scales: list[float], *thin: torch.Tensor) -> torch.Tensor:
        bias = None if bases[0].bias is None else torch.cat([base.bias for base in bases])
        context.save_for_backward(x, *thin)
        context.bases, context.scales, context.widths = bases, scales, [base.out_features for base in bases]
        if torch.finfo(x.dtype).bits >= 32:
            return F.linear(x, _merged(bases, scales, thin), bias)
        # In bf16 a sum of both weights would round most of B A away: the thin products stay apart.
        flat_x = x.reshape(-1, x.shape[-1])
        flat_y = F.linear(flat_x, torch.cat([base.weight for base in bases]), bias)
        narrow = torch.split(flat_x @ torch.cat(thin[::2]).T, [len(A) for A in thin[::2]], -1)
        for part, y, scale, B in zip(narrow, torch.split(flat_y, context.widths, -1), scales, thin[1::2], strict=True):
            y.addmm_(part, B.T, alpha=scale)
        return flat_y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *thin = context.saved_tensors
        flat_x = x.reshape(-1, x.shape[-1])
        flat_y = gradients[0].reshape(flat_x.shape[0], -1)
        # Merged again rather than kept: the merged weights of all layers would be another copy of the base in memory.
        to_x: torch.Tensor | None = None
        if context.needs_input_grad[0] and torch.finfo(x.dtype).bits >= 32:
            to_x = (flat_y @ _merged(context.bases, context.scales, thin)).view_as(x)
        elif context.needs_input_grad[0]:
            flat_to_x = flat_y @ torch.cat([base.weight for base in context.bases])
            for dy, scale, A, B in zip(torch.split(flat_y, context.widths, -1), context.scales, thin[::2], thin[1::2], strict=True):
                flat_to_x.addmm_(dy @ B, A, alpha=scale)
            to_x = flat_to_x.view_as(x)
        out: list[torch.Tensor | None] = [to_x, None, None]
        narrow = torch.split(flat_x @ torch.cat(thin[::2]).T, [len(A) for A in thin[::2]], -1)
        for part, dy, scale, B in zip(narrow, torch.split(flat_y, context.widths, -1), context.scales, thin[1::2], strict=True):
            out += [((dy @ B).T @ flat_x).mul_(scale), (dy.T @ part).mul_(scale)]
        return tuple(out)


def _merged(bases: list[Any], scales: list[float], thin: Sequence[torch.Tensor]) -> torch.Tensor:
    """W + s B A of several layers, one below the other."""
    weight = torch.cat([base.weight for base in bases])
    start = 0
    for base, scale, A, B in zip(bases, scales, thin[::2], thin[1::2], strict=True):
        weight[start : start + base.out_features].addmm_(B, A, alpha=scale)
        start += base.out_features
    return weight


def _plain_lora(module: Any) -> tuple[torch.Tensor, torch.Tensor, float] | None:
    """(A, B, scale) of a PEFT LoRA layer on a frozen linear one, with one active adapter and nothing else to it; None for all other modules."""
    active = getattr(module, "active_adapters", None)
    if not active or len(active) != 1 or not hasattr(module, "lora_A") or active[0] not in module.lora_A:
        return None
    name = active[0]
    odd = module.merged or module.disable_adapters or module.use_dora.get(name) or not isinstance(module.lora_dropout[name], nn.Identity)
    learns = type(module.base_layer) is not nn.Linear or any(one.requires_grad for one in module.base_layer.parameters())
    if odd or learns or module.lora_A[name].bias is not None or module.lora_B[name].bias is not None:
        return None
    return module.lora_A[name].weight, module.lora_B[name].weight, float(module.scaling[name])
