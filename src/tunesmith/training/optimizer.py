"""AdamW with fp32 master weights where the model computes in bf16. The only `optimizer.step()` of the repository is in here.

Loshchilov and Hutter 2019 (https://arxiv.org/abs/1711.05101), algorithm 2, by torch's fused kernel.
Matrices and tables decay; vectors (biases, norms) do not.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.adamw import adamw

EPSILON = 1e-8
"""Added to the root of the second moment; torch's and the paper's default."""


class Optimizer:
    """Updates a model's trainable parameters.

    Args:
        model: parameters that require grad are updated; others are never touched.
        weight_decay: decoupled decay per unit of learning rate.
        betas: decay rates of the two moments.
        masters: keep an fp32 copy of every trainable parameter and update that; the model's own are its rounding.

    Attributes:
        decay: what a weight that only ever decayed has been multiplied by so far; rows of a table that were left out
            of the model (`models/used_embeddings.py`) are brought up to date with it.
    """

    def __init__(self, model: nn.Module, weight_decay: float, betas: tuple[float, float], masters: bool) -> None:
        self.model = model
        self.names: list[str] = []
        self.parameters: list[torch.Tensor] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.names.append(name)
                self.parameters.append(parameter)
        self.masters = [p.detach().float().clone() for p in self.parameters] if masters else self.parameters
        self.betas, self.weight_decay, self.decay = betas, weight_decay, 1.0
        self.moments = {key: [torch.zeros_like(m, requires_grad=False) for m in self.masters] for key in ("exp_avg", "exp_avg_sq")}
        self.moments["step"] = [torch.zeros((), device=m.device) for m in self.masters]

    def gradient_norm(self) -> float:
        """The Euclidean norm of all gradients together; infinite or NaN when any of them is."""
        if self.masters is not self.parameters:
            for master, parameter in zip(self.masters, self.parameters, strict=True):
                master.grad = None if parameter.grad is None else parameter.grad.float()
        norms = torch._foreach_norm([m.grad for m in self.masters if m.grad is not None])
        return float(torch.linalg.vector_norm(torch.stack(norms)))

    @torch.no_grad()
    def step(self, learning_rate: float, shrink: float) -> None:
        """Update every parameter that has a gradient, once.

        Args:
            learning_rate: of this step.
            shrink: factor on all gradients, below 1 when they are clipped.
        """
        scale = torch.tensor(1 / shrink, device=self.masters[0].device) if shrink < 1 else None
        for matrices in (True, False):
            chosen = [i for i, m in enumerate(self.masters) if (m.ndim >= 2) is matrices and m.grad is not None]
            if not chosen:
                continue
            masters = [self.masters[i] for i in chosen]
            average, square, steps = ([self.moments[key][i] for i in chosen] for key in ("exp_avg", "exp_avg_sq", "step"))
            # torch.optim's function, not its class: the class imports torch's compiler on its first step, 1.7 s for nothing.
            adamw(
                masters,
                [m.grad for m in masters if m.grad is not None],
                average,
                square,
                [],
                steps,
                fused=True,
                grad_scale=scale,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=learning_rate,
                weight_decay=self.weight_decay if matrices else 0.0,
                eps=EPSILON,
                maximize=False,
            )
        self.decay *= 1 - learning_rate * self.weight_decay
        if self.masters is not self.parameters:
            torch._foreach_copy_(self.parameters, self.masters)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for one in (*self.parameters, *self.masters):
            one.grad = None

    def tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """(weights by name in fp32, moments by name) for a checkpoint."""
        moments = {f"{name}:{key}": one for key, many in self.moments.items() for name, one in zip(self.names, many, strict=True)}
        return {name: m.detach() for name, m in zip(self.names, self.masters, strict=True)}, moments

    @torch.no_grad()
    def load(self, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor]) -> None:
        """Put back what `tensors` gave; moments may be empty when only the weights are wanted."""
        for index, name in enumerate(self.names):
            self.masters[index].copy_(weights[name])
            self.parameters[index].copy_(self.masters[index])
            for key, many in self.moments.items():
                if moments:
                    many[index].copy_(moments[f"{name}:{key}"])
