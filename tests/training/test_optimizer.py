"""The optimizer against torch's AdamW on the same gradients, with and without fp32 masters, and across a save."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tunesmith.training.optimizer import Optimizer

DECAY, BETAS = 0.1, (0.8, 0.95)


def net(seed: int = 0) -> nn.Module:
    """A matrix, a vector, a table, and a layer that does not learn."""
    torch.manual_seed(seed)
    model = nn.ModuleDict({"table": nn.Embedding(5, 4), "layer": nn.Linear(4, 3), "norm": nn.LayerNorm(3), "frozen": nn.Linear(3, 3)})
    model["frozen"].requires_grad_(False)
    return model


def reference(weights: list[torch.Tensor], weight_decay: float = DECAY) -> torch.optim.AdamW:
    """torch's default AdamW over fp32 weights: matrices decay, vectors do not."""
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=1e-8, foreach=False, fused=False)


def learnt(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def test_masters_follow_fp32_adamw_and_weights_are_their_rounding() -> None:
    model = net()
    frozen = model["frozen"].weight.detach().clone()
    optimizer = Optimizer(model, DECAY, BETAS, masters=True)
    model.to(torch.bfloat16)
    expected = {name: p.detach().clone() for name, p in learnt(net()).items()}
    adamw = reference(list(expected.values()))
    for step in range(6):
        draw = torch.Generator().manual_seed(step)
        for name, p in learnt(model).items():
            p.grad = torch.randn(p.shape, generator=draw).to(torch.bfloat16)
            expected[name].grad = p.grad.float()
        norm = optimizer.gradient_norm()
        assert norm == pytest.approx(float(torch.cat([e.grad.flatten() for e in expected.values()]).norm()), rel=1e-6)
        for group in adamw.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        optimizer.step(1e-2 / (step + 1), 1.0)
        adamw.step()
        optimizer.zero_grad()
        masters, _ = optimizer.tensors()
        for name, p in learnt(model).items():
            assert masters[name].dtype == torch.float32 and p.dtype == torch.bfloat16 and p.grad is None
            assert torch.allclose(masters[name], expected[name], rtol=1e-6, atol=1e-6)
            assert torch.equal(p, masters[name].to(torch.bfloat16))
    assert torch.equal(model["frozen"].weight, frozen.to(torch.bfloat16))
    drift = max(float((p.float() - expected[name]).abs().max()) for name, p in learnt(model).items())
    assert drift > 1e-4  # bf16 alone would have lost this much: the masters are what keeps it


def test_small_updates_are_not_lost_in_bf16() -> None:
    """A hundred steps, each a tenth of bf16's spacing at 1: without masters the weight would stand still."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    optimizer = Optimizer(model, 0.0, BETAS, masters=True)
    model.to(torch.bfloat16)
    for _ in range(100):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.gradient_norm()
        optimizer.step(4e-4, 1.0)
    assert float(optimizer.tensors()[0]["weight"]) == pytest.approx(0.96, abs=1e-4)
    assert float(model.weight) == pytest.approx(0.96, abs=4e-3)


def test_shrink_scales_the_gradient_and_decay_counts_what_was_missed() -> None:
    a, b = net(), net()
    ours = {name: Optimizer(model, DECAY, BETAS, masters=False) for name, model in (("clipped", a), ("scaled", b))}
    for step, rate in enumerate((1e-2, 5e-3)):
        for factor, model in ((1.0, a), (0.25, b)):
            draw = torch.Generator().manual_seed(step)
            for p in learnt(model).values():
                p.grad = torch.randn(p.shape, generator=draw) * factor
        ours["clipped"].step(rate, 0.25)
        ours["scaled"].step(rate, 1.0)
    assert all(torch.equal(p, learnt(b)[name]) for name, p in learnt(a).items())
    assert ours["clipped"].decay == (1 - 1e-2 * DECAY) * (1 - 5e-3 * DECAY)


@pytest.mark.parametrize("masters", [False, True])
def test_saved_and_loaded_it_goes_on_to_the_same_bits(masters: bool) -> None:
    def steps(optimizer: Optimizer, model: nn.Module, which: range) -> None:
        for step in which:
            draw = torch.Generator().manual_seed(step)
            for p in learnt(model).values():
                p.grad = torch.randn(p.shape, generator=draw).to(p.dtype)
            optimizer.gradient_norm()
            optimizer.step(1e-2, 1.0)
            optimizer.zero_grad()

    def made(seed: int) -> tuple[Optimizer, nn.Module]:
        model = net(seed)
        optimizer = Optimizer(model, DECAY, BETAS, masters)
        return optimizer, model.to(torch.bfloat16) if masters else model

    whole, _ = made(0)
    steps(whole, whole.model, range(6))
    half, _ = made(0)
    steps(half, half.model, range(3))
    weights, moments = ({k: v.clone() for k, v in part.items()} for part in half.tensors())
    other, model = made(1)
    other.load(weights, moments)
    steps(other, model, range(3, 6))
    for part, expected in zip(other.tensors(), whole.tensors(), strict=True):
        assert part.keys() == expected.keys() and all(torch.equal(part[name], expected[name]) for name in expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("masters", [False, True])
def test_the_norm_shows_a_gradient_that_is_not_finite(bad: float, masters: bool) -> None:
    model = net()
    optimizer = Optimizer(model, DECAY, BETAS, masters)
    for p in learnt(model).values():
        p.grad = torch.zeros_like(p)
    model["norm"].weight.grad[1] = bad
    assert not torch.isfinite(torch.tensor(optimizer.gradient_norm()))
