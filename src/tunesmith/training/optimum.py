"""The exact optimum of an objective's loss over a linear layer on fixed vectors, under one L2 penalty toward an anchor.

    minimize  sum of the rows' losses  +  penalty / 2 * (|W - A|^2 + |b - a|^2)

1. The loss and its gradient by the logits are the objective's own, over all rows as one batch. The problem is convex, so no learning
   rate, batch or order of rows has a part in the result.
2. Vectors are centered and scaled to a mean square length of 1. Both are folded back into the layer: the model takes vectors as they are.
3. A and a are one of two anchors. `zero`: A is 0 and `a` is the best constant. `means`: A is the nearest class mean, one direction a label
   times one factor, fitted on rows that leave themselves out. A strong penalty then gives the nearest class mean, which is hard to beat
   with few rows, and a weak one gives logistic regression.
4. L-BFGS (Liu and Nocedal 1989, https://doi.org/10.1007/BF01589116) runs in the vectors' principal axes, each scaled by the root of its
   curvature.

Source: penalty toward a known classifier instead of zero, Kuzborskij and Orabona 2013 (https://proceedings.mlr.press/v28/kuzborskij13.html).

Shapes: N rows, H other rows, M some of the rows, D width, R axes, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from tunesmith.models.heads import Output
from tunesmith.objectives import Objective, numbers
from tunesmith.tokens.examples import Batch

Anchor = Literal["zero", "means"]

SINGLE_FROM = 30_000_000
"""Products (rows x width x labels) from which they are computed in float32 instead of float64, in half the time, and on all threads."""
MOST_AXES = 2048
"""Widest vectors that are turned to their principal axes; that costs time with the third power of the width."""
TOLERANCE, MOST_STEPS = 1e-6, 500
"""Largest scaled gradient at which a solution ends, and the most steps. In float32 it is 1e-5 at least, near the rounding of its gradients."""
BLIND = 0.1
"""Penalty on the best constant, so that a label without rows has a finite one."""
SEEN = 1e-3
"""Share of the largest pull of one row from which a label counts as seen; below it are rounding and smoothing."""
FACTOR = 10.0
"""Factor of the class means where no label has two rows to fit it on: `evaluation.baselines.nearest_mean`'s in that case."""
BLIND_STEPS = 100
"""Most steps to the best constant."""


class _Identity(nn.Module):
    """The objective asks a model for logits; this one has them."""

    def forward(self, logits: torch.Tensor) -> Output:
        return Output(logits)


@dataclass
class Problem:
    """The loss of some rows as a function of their logits.

    Args:
        objective: whose loss it is.
        batch: the rows, as one batch; its input `vectors` is (N, D).
    """

    objective: Objective
    batch: Batch

    def __post_init__(self) -> None:
        self.units = self.objective.units(self.batch)
        self.identity = _Identity()

    def rows(self, keep_M: torch.Tensor) -> Problem:
        """The problem of some of its rows."""
        one = self.batch
        assert one.targets is not None
        weights_M = None if one.weights_B is None else one.weights_B[keep_M]
        return Problem(self.objective, Batch({"vectors": one.inputs["vectors"][keep_M]}, one.targets[keep_M], weights_M, None, len(keep_M), len(keep_M)))

    def given(self, logits_NC: torch.Tensor) -> Batch:
        """The batch with logits in place of vectors."""
        one = self.batch
        return Batch({"logits": logits_NC}, one.targets, one.weights_B, None, one.rows, one.tokens)

    def gradient(self, logits_NC: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The mean training loss and its gradient by the logits (N, C)."""
        leaf = logits_NC.detach().requires_grad_()
        total = self.objective.loss(self.identity, self.given(leaf)).total / self.units
        total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        assert leaf.grad is not None
        return float(total.detach()), leaf.grad

    def measure(self, logits_NC: torch.Tensor) -> dict[str, float]:
        """Sums of the plain loss and hits."""
        with torch.inference_mode():
            return numbers(self.objective.measure(self.identity, self.given(logits_NC)))


@dataclass
class Start:
    """An anchor in a space's axes: directions (R, C) and constants (C,)."""

    name: Anchor
    weight_RC: torch.Tensor
    bias_C: torch.Tensor


@dataclass
class Solution:
    """Weights in a space's axes, and evaluations of the loss that they took."""

    weight_RC: torch.Tensor
    bias_C: torch.Tensor
    evaluations: int = 0


class Space:
    """Rows' vectors centered, scaled and turned to their principal axes.

    Args:
        problem: of the rows.
        labels: C.
        multi_label: whether each label has its own sigmoid.
    """

    def __init__(self, problem: Problem, labels: int, multi_label: bool) -> None:
        vectors_ND = problem.batch.inputs["vectors"]
        N, D = vectors_ND.shape
        self.problem, self.labels, self.multi_label = problem, labels, multi_label
        self.dtype = torch.float32 if N * D * labels >= SINGLE_FROM else torch.float64
        self.center_D = vectors_ND.mean(0, dtype=torch.float64)
        centered_ND = vectors_ND.to(self.dtype) - self.center_D.to(self.dtype)
        self.scale = float(centered_ND.square().sum(dtype=torch.float64).div(N).sqrt()) or 1.0  # all rows the same text: any scale will do
        centered_ND /= self.scale
        self.axes_DR, self.power_R = _axes(centered_ND)
        self.rows_NR = centered_ND if self.axes_DR is None else centered_ND @ self.axes_DR.to(self.dtype)
        self.curvature = 0.25 / labels
        self.anchors = self._anchors()

    def project(self, vectors_HD: torch.Tensor) -> torch.Tensor:
        """Other rows in the same axes (H, R)."""
        centered_HD = (vectors_HD.to(self.dtype) - self.center_D.to(self.dtype)) / self.scale
        return centered_HD if self.axes_DR is None else centered_HD @ self.axes_DR.to(self.dtype)

    def layer(self, found: Solution) -> tuple[torch.Tensor, torch.Tensor]:
        """A solution as weight_CD and bias_C for vectors as they are, float64."""
        weight_RC = found.weight_RC.double()
        weight_CD = (weight_RC if self.axes_DR is None else self.axes_DR @ weight_RC).T / self.scale
        return weight_CD, found.bias_C.double() - weight_CD @ self.center_D

    def solve(self, start: Start, penalty: float, begin: Solution | None = None, tolerance: float = TOLERANCE, steps: int = MOST_STEPS) -> Solution:
        """The optimum at one penalty.

        Args:
            start: the anchor.
            penalty: in units of a row's loss.
            begin: where to begin; None: at the anchor.
            tolerance: largest gradient, scaled by the curvature.
            steps: the most.

        Returns:
            The solution; it is the anchor moved.
        """
        from scipy.optimize import minimize

        strength, shape = penalty / self.problem.units, start.weight_RC.shape
        scale_R1 = (self.power_R * self.curvature + strength).rsqrt()[:, None]
        bias_scale = (self.curvature + strength) ** -0.5
        cut = shape[0] * shape[1]
        anchor_RC = start.weight_RC.to(self.dtype)

        def unpacked(values: Any) -> tuple[torch.Tensor, torch.Tensor]:
            """Distances from the anchor, of weights and bias."""
            whole = torch.from_numpy(values)
            return whole[:cut].reshape(shape) * scale_R1, whole[cut:] * bias_scale

        def loss(values: Any) -> tuple[float, Any]:
            move_RC, move_C = unpacked(values)
            logits_NC = self.rows_NR @ (anchor_RC + move_RC.to(self.dtype)) + (start.bias_C + move_C).to(self.dtype)
            mean, slope_NC = self.problem.gradient(logits_NC)
            total = mean + strength / 2 * float(move_RC.square().sum() + move_C.square().sum())
            slope_RC = ((self.rows_NR.T @ slope_NC).double() + strength * move_RC) * scale_R1
            slope_C = (slope_NC.sum(0, dtype=torch.float64) + strength * move_C) * bias_scale
            return total, torch.cat([slope_RC.reshape(-1), slope_C]).numpy()

        first = torch.zeros(cut + shape[1], dtype=torch.float64)
        if begin is not None:
            first = torch.cat([((begin.weight_RC - start.weight_RC) / scale_R1).reshape(-1), (begin.bias_C - start.bias_C) / bias_scale])
        exact = self.dtype == torch.float64
        options = {"maxiter": steps, "maxfun": 2 * steps, "gtol": tolerance if exact else max(tolerance, 1e-5), "ftol": 0.0 if exact else 1e-7}
        found = minimize(loss, first.numpy(), jac=True, method="L-BFGS-B", options=options)
        move_RC, move_C = unpacked(found.x)
        return Solution(start.weight_RC + move_RC, start.bias_C + move_C, int(found.nfev))

    def _anchors(self) -> dict[Anchor, Start]:
        """Both anchors, from these rows alone."""
        N, R, C = len(self.rows_NR), self.rows_NR.shape[1], self.labels
        zero_RC = torch.zeros(R, C, dtype=torch.float64)
        blind_C = self._blind()
        zero = Start("zero", zero_RC, blind_C)
        # The gradient at the best constant points from all rows' mean to each label's, times its rows: the classes' means, whatever the loss.
        _, slope_NC = self.problem.gradient(blind_C.to(self.dtype).expand(N, C))
        pull_NC = -slope_NC
        sums_RC = self.rows_NR.T @ pull_NC
        lengths_C = sums_RC.double().norm(dim=0)
        seen_C = (pull_NC.clamp(min=0).sum(0) > SEEN * pull_NC.max()) & (lengths_C > 1e-12)
        means_RC = torch.where(seen_C, sums_RC.double() / lengths_C.clamp(min=1e-12), 0.0)
        # With a softmax the labels are compared with each other, and few rows say little of their shares; a sigmoid alone needs its share.
        bias_C = blind_C if self.multi_label else torch.zeros_like(blind_C)
        return {"zero": zero, "means": Start("means", means_RC * self._factor(pull_NC, sums_RC, bias_C), bias_C)}

    def _blind(self) -> torch.Tensor:
        """The constants (C,) that a model without vectors would give."""
        from scipy.optimize import minimize

        N, C, strength = len(self.rows_NR), self.labels, BLIND / self.problem.units

        def loss(values: Any) -> tuple[float, Any]:
            bias_C = torch.from_numpy(values)
            mean, slope_NC = self.problem.gradient(bias_C.to(self.dtype).expand(N, C))
            slope_C = slope_NC.sum(0, dtype=torch.float64) + strength * bias_C
            return mean + strength / 2 * float(bias_C.square().sum()), slope_C.numpy()

        found = minimize(loss, np.zeros(C), jac=True, method="L-BFGS-B", options={"maxiter": BLIND_STEPS, "gtol": 1e-5})
        return torch.from_numpy(found.x)

    def _factor(self, pull_NC: torch.Tensor, sums_RC: torch.Tensor, bias_C: torch.Tensor) -> float:
        """The factor of the class means under which rows are likeliest, each row left out of the means that it is held against."""
        from scipy.optimize import minimize_scalar

        squares_N1 = self.rows_NR.square().sum(1, keepdim=True)
        products_NC = self.rows_NR @ sums_RC
        lengths_NC = (sums_RC.square().sum(0) - 2 * pull_NC * products_NC + pull_NC.square() * squares_N1).clamp(min=0).sqrt()
        own_NC = pull_NC.clamp(min=0)
        bare_NC = (own_NC.sum(0) - own_NC <= SEEN * pull_NC.max()) | (lengths_NC <= 1e-12)  # no other row has the label
        cosines_NC = torch.where(bare_NC, 0.0, (products_NC - pull_NC * squares_N1) / lengths_NC.clamp(min=1e-12))
        alone_N = (bare_NC & (own_NC > SEEN * pull_NC.max())).any(1)
        fair_M = torch.nonzero(~alone_N).squeeze(1)  # the only row of its label has no mean left to be held against
        if not len(fair_M):
            return FACTOR
        fair, fair_MC, constant_C = self.problem.rows(fair_M), cosines_NC[fair_M], bias_C.to(self.dtype)

        def loss(log_factor: float) -> float:
            return fair.gradient(float(np.exp(log_factor)) * fair_MC + constant_C)[0]

        return float(np.exp(minimize_scalar(loss, bounds=(-2, 5), method="bounded", options={"xatol": 1e-2}).x))


def _axes(centered_ND: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Principal axes (D, R) of centered rows and the mean square (R,) along each, float64; None in place of axes: the vectors' own."""
    N, D = centered_ND.shape
    if min(N, D) > MOST_AXES:
        return None, centered_ND.square().mean(0, dtype=torch.float64)
    if N <= D:
        wide_ND = centered_ND.double()
        powers, turned = torch.linalg.eigh(wide_ND @ wide_ND.T)
        kept = powers > 1e-9 * powers[-1]
        return wide_ND.T @ turned[:, kept] / powers[kept].sqrt(), powers[kept] / N
    powers, turned = torch.linalg.eigh((centered_ND.T @ centered_ND).double())
    return turned, powers.clamp(min=0) / N
