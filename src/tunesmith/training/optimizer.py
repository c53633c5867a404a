"""AdamW with fp32 master weights where the model computes in bf16. The only `optimizer.step()` of the repository is in here.

Loshchilov and Hutter 2019 (https://arxiv.org/abs/1711.05101), algorithm 2, by torch's fused kernel.
Matrices and tables decay; vectors (biases, norms) do not.
"""

from __future__ import annotations

import torch
from torch import nn


class Optimizer:
    """Updates a model's trainable parameters.

    Args:
        model: parameters that require grad are updated; others are never touched.
        weight_decay: decoupled decay per unit of learning rate.
        betas: decay rates of the two moments.
        masters: keep an fp32 copy of every trainable parameter and update that; the model's own are its rounding.

    Attributes:
        decay: what a weight that only ever decayed has been multiplied by so far; rows of a table that were left out
            of the model (`models/vocabulary.py`) are brought up to date with it.
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
        decays = [m for m in self.masters if m.ndim >= 2]
        others = [m for m in self.masters if m.ndim < 2]
        groups = [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._adamw = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, eps=1e-8, fused=True)
        self._weight_decay = weight_decay
        self.decay = 1.0

    def gradient_norm(self) -> float:
        """The Euclidean norm of all gradients together; infinite or NaN when any of them is."""
        if self.masters is not self.parameters:
            for master, parameter in zip(self.masters, self.parameters, strict=True):
                master.grad = None if parameter.grad is None else parameter.grad.float()
        return float(torch.nn.utils.get_total_norm([m.grad for m in self.masters if m.grad is not None]))

    def step(self, learning_rate: float, shrink: float) -> None:
        """Update every parameter once.

        Args:
            learning_rate: of this step.
            shrink: factor on all gradients, below 1 when they are clipped.
        """
        if shrink < 1:
            torch._foreach_mul_([m.grad for m in self.masters if m.grad is not None], shrink)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self.decay *= 1 - learning_rate * self._weight_decay
        if self.masters is not self.parameters:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.masters)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for one in (*self.parameters, *self.masters):
            one.grad = None

    def tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """(weights by name in fp32, moments by name) for a checkpoint."""
        moments = {}
        for name, master in zip(self.names, self.masters, strict=True):
            for key, value in self._adamw.state[master].items():
                moments[f"{name}:{key}"] = value
        return {name: m.detach() for name, m in zip(self.names, self.masters, strict=True)}, moments

    def load(self, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor]) -> None:
        """Put back what `tensors` gave; moments may be empty when only the weights are wanted."""
        with torch.no_grad():
            for name, master, parameter in zip(self.names, self.masters, self.parameters, strict=True):
                master.copy_(weights[name])
                parameter.copy_(master)
                if f"{name}:step" in moments:
                    keys = ("step", "exp_avg", "exp_avg_sq")
                    self._adamw.state[master] = {key: moments[f"{name}:{key}"].to(master.device) for key in keys}
