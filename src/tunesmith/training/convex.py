"""A linear head on fixed vectors, solved instead of stepped: the exact optimum of the objective's loss plus an L2 penalty.

    minimize  sum of the rows' losses  +  penalty / 2 * (|W - A|^2 + |b - a|^2)

1. The loss and its gradient by the logits are the objective's own, over all rows as one batch. The problem is convex, so no learning
   rate, batch or order of rows has a part in the result.
2. Vectors are centered and scaled to a mean square length of 1. Both are folded back into the layer: the model takes vectors as they are.
3. A and a are one of two anchors. `zero`: A is 0 and `a` is the best constant. `means`: A is the nearest class mean, one direction a label
   times one factor, fitted on rows that leave themselves out. A strong penalty then gives the nearest class mean, which is hard to beat
   with few rows, and a weak one gives logistic regression.
4. The penalty is chosen on held-out rows by their mean loss at the best temperature, since a temperature is fitted afterward in any case.
   A normal prior on the log temperature keeps it near 1 where rows are few. Of the path toward the means, the strongest penalty within one
   standard error of the best is taken (Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3).
   Held-out rows are the validation rows and, where these are few, folds of the training rows.
5. L-BFGS (Liu and Nocedal 1989, https://doi.org/10.1007/BF01589116) runs in the vectors' principal axes, each scaled by the root of its
   curvature, from strong penalties to weak ones, each from the last one's optimum.

Source: regularized path, Friedman et al. 2010 (https://doi.org/10.18637/jss.v033.i01); penalty toward a known classifier instead of
zero, Kuzborskij and Orabona 2013 (https://proceedings.mlr.press/v28/kuzborskij13.html).

Shapes: N rows, H held-out rows, D width, R axes, C labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from tunesmith.errors import Interrupted, some
from tunesmith.models.heads import Output
from tunesmith.objectives import Objective, numbers
from tunesmith.tokens.examples import Batch, Examples
from tunesmith.training.device import Machine
from tunesmith.training.loop import Emit, Outcome, State, measure, peak_memory_mb
from tunesmith.training.settings import TrainSettings

Anchor = Literal["zero", "means"]

PENALTIES = tuple(10 ** (1.5 - 4.5 * step / 11) for step in range(12))
"""Strengths tried for each anchor, from 32 to 0.001, strong ones first. 1 / penalty is scikit-learn's C."""
WORSE = 2
"""A path ends after this many strengths without a better one: weaker ones cost the most and were never better in benchmarks/features.py."""
MANY_ROWS_A_LABEL = 50
"""Rows a label from which the path toward the class means is left out: with 60 rows a label, macro F1 was 0.3 to 0.9 points higher without."""
BLOCKS = 20
"""Parts of the held-out rows whose losses give the standard error of a difference."""
ENOUGH_VALID = 200
"""Validation rows from which they alone choose. With fewer, folds join them: at 71 validation rows macro F1 rose by up to 1.6 points."""
FOLDS = 5
"""Parts of the training rows, each held out once."""
ENOUGH_HELD = 1000
"""Held-out rows after which no further fold is solved: with many rows one fold says enough."""
MOST_ROWS = 20_000
"""Training rows that the choice is made with, drawn by the seed; the final solution always has all rows."""
SINGLE_FROM = 30_000_000
"""Products (rows x width x labels) from which they are computed in float32 instead of float64, in half the time, and on all threads."""
MOST_AXES = 2048
"""Widest vectors that are turned to their principal axes; that costs time with the third power of the width."""
TEMPERATURE_SPREAD = 0.3
"""Standard deviation of the log temperature that is expected; one further from 0 costs loss. So few rows cannot excuse a head that is too sure."""
PATH_TOLERANCE, PATH_STEPS = 1e-3, 100
"""Largest scaled gradient at which a strength's solution ends, and the most steps: enough to rank strengths."""
TOLERANCE, MOST_STEPS = 1e-6, 500
"""The same for the final solution. In float32 it is 1e-5, near the rounding of its gradients."""
BLIND = 0.1
"""Penalty on the best constant, so that a label without rows has a finite one."""
FACTOR = 10.0
"""Factor of the class means where no label has two rows to fit it on: `evaluation.baselines.nearest_mean`'s in that case."""
USED = ("seed", "seeds", "threads")
"""Settings of `train` that matter here."""
TRUE_ANYWAY = {"device": "cpu", "precision": "fp32"}
"""Values of other settings that describe what happens here."""


def idle(settings: TrainSettings, dropout: float) -> str | None:
    """What to tell about settings that have no meaning here; None where every such setting has its default."""
    fields = TrainSettings.model_fields
    given = {name: getattr(settings, name) for name in fields if name not in USED}
    names = [
        f"train.{name}" for name, value in given.items() if value not in (None, fields[name].default) and TRUE_ANYWAY.get(name) != value
    ] + (["method.dropout"] if dropout else [])
    if not names:
        return None
    return f"{some(names)} {'has' if len(names) == 1 else 'have'} no effect: this method solves for the best head, without steps; remove from the recipe"


class Layer(nn.Module):
    """What a model must offer to be solved for."""

    def place(self, weight_CD: torch.Tensor, bias_C: torch.Tensor) -> None:
        """Give logits `vectors @ weight.T + bias` from now on."""
        raise NotImplementedError


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
        means_RC = torch.where(lengths_C > 1e-12, sums_RC.double() / lengths_C.clamp(min=1e-12), 0.0)
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

        found = minimize(loss, np.zeros(C), jac=True, method="L-BFGS-B", options={"maxiter": PATH_STEPS, "gtol": 1e-5})
        return torch.from_numpy(found.x)

    def _factor(self, pull_NC: torch.Tensor, sums_RC: torch.Tensor, bias_C: torch.Tensor) -> float:
        """The factor of the class means under which rows are likeliest, each row left out of the means that it is held against."""
        from scipy.optimize import minimize_scalar

        squares_N1 = self.rows_NR.square().sum(1, keepdim=True)
        products_NC = self.rows_NR @ sums_RC
        lengths_NC = (sums_RC.square().sum(0) - 2 * pull_NC * products_NC + pull_NC.square() * squares_N1).clamp(min=0).sqrt()
        cosines_NC = torch.where(lengths_NC > 1e-12, (products_NC - pull_NC * squares_N1) / lengths_NC.clamp(min=1e-12), 0.0)
        own_NC = pull_NC.clamp(min=0)
        alone_NC = (own_NC > 0) & (own_NC.sum(0) - own_NC <= 1e-9 * own_NC.sum(0))
        fair_M = torch.nonzero(~alone_NC.any(1)).squeeze(1)  # the only row of its label has no mean left to be held against
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


@dataclass
class _Part:
    """Rows to solve for, the rows held out from them, and where the path has come to."""

    space: Space
    held: Problem
    held_HR: torch.Tensor
    blocks: list[tuple[torch.Tensor, Problem]]
    last: Solution | None = None


@dataclass
class _Try:
    """One strength: its loss, the sums of blocks of held-out rows behind it, and its place on the path."""

    step: int
    anchor: Anchor
    penalty: float
    loss: float = float("inf")
    blocks_B: Any = None
    at_end: str = ""


def solve(
    model: nn.Module,
    objective: Objective,
    examples: Examples,
    valid: Examples | None,
    settings: TrainSettings,
    machine: Machine,
    emit: Emit,
    stopping: Callable[[], int | None] = lambda: None,
    groups: Sequence[str] | None = None,
) -> Outcome:
    """Solve for a model's linear layer. A run that is killed solves again, to the same bits.

    Args:
        model: has `place`, as `Layer` has it; on return it holds the solution, in eval mode.
        objective: gives the loss and figures.
        examples, valid: rows with the input `vectors`.
        settings: only `seed` matters; it draws the folds.
        machine: its threads.
        emit: takes events: began, progress, step and valid (one of each a strength, with `penalty` and `anchor`), note.
        stopping: polled between two solutions; a signal number ends the work.
        groups: of the training rows; rows of one group are in one fold. None: each row alone.

    Returns:
        The outcome: `step` counts strengths, `kept_step` is the chosen one, `facts` say which and on what it was chosen.

    Raises:
        Interrupted: `stopping` said so.
    """
    started = time.perf_counter()
    head = objective.head(None)
    assert head.labels is not None
    whole = Problem(objective, examples.batch(np.arange(len(examples))))
    products = whole.batch.inputs["vectors"].numel() * len(head.labels)
    torch.set_num_threads(machine.threads if products >= SINGLE_FROM else 1)
    emit({"kind": "began", "step": 0})
    for text in filter(None, [idle(settings, getattr(model, "dropout", 0.0))]):
        emit({"kind": "warning", "text": text})
    parts = _parts(whole, valid, len(head.labels), head.multi_label, settings.seed, groups)
    held = sum(part.held.batch.rows for part in parts)
    tried: list[_Try] = []
    evaluations = 0
    # A strong penalty toward zero gives class means too, with the labels' shares beside them; the first path has these solutions.
    paths: dict[Anchor, tuple[float, ...]] = {"means": PENALTIES, "zero": PENALTIES[2:]}
    if len(examples) >= MANY_ROWS_A_LABEL * len(head.labels):
        del paths["means"]
    total = sum(len(penalties) for penalties in paths.values()) + 1
    for anchor, penalties in paths.items() if parts else ():
        without_gain, lowest = 0, float("inf")
        for part in parts:
            part.last = None
        for number, penalty in enumerate(penalties):
            if (signal := stopping()) is not None:
                raise Interrupted(signal)
            train: dict[str, float] = {}
            scores = []
            for part in parts:
                part.last = part.space.solve(part.space.anchors[anchor], penalty, part.last, PATH_TOLERANCE, PATH_STEPS)
                evaluations += part.last.evaluations
                bias_C = part.last.bias_C.to(part.space.dtype)
                weight_RC = part.last.weight_RC.to(part.space.dtype)
                _add(train, part.space.problem.measure(part.space.rows_NR @ weight_RC + bias_C))
                scores.append(part.held_HR @ weight_RC + bias_C)
            one_try = _Try(len(tried) + 1, anchor, penalty, *_at_best_temperature(parts, scores), {0: "strong", len(penalties) - 1: "weak"}.get(number, ""))
            sums: dict[str, float] = {}
            for part, one in zip(parts, scores, strict=True):
                _add(sums, part.held.measure(one))
            figures = objective.summary(sums)
            loss = one_try.loss
            better = loss < min((other.loss for other in tried), default=float("inf"))
            tried.append(one_try)
            without_gain, lowest = (0, loss) if loss < lowest else (without_gain + 1, lowest)
            told = {"step": one_try.step, "anchor": anchor, "penalty": penalty}
            emit({"kind": "step", **told, **objective.summary(train)})
            emit({"kind": "valid", **told, "best": better, "tempered_loss": loss, **figures})
            done = number + 1 + (len(paths["means"]) if anchor == "zero" and "means" in paths else 0)
            emit({"kind": "progress", "task": "train", "done": done, "of": total})
            if without_gain >= WORSE:
                break
    if (signal := stopping()) is not None:
        raise Interrupted(signal)
    best = _chosen(tried) if tried else _Try(0, "means", PENALTIES[0])
    final = next((part.space for part in parts if part.space.problem is whole), None) or Space(whole, len(head.labels), head.multi_label)
    found = final.solve(final.anchors[best.anchor], best.penalty)
    evaluations += found.evaluations
    cast(Layer, model).place(*final.layer(found))
    model.eval()
    emit({"kind": "progress", "task": "train", "done": total, "of": total})
    figures = {} if valid is None else measure(model, objective, valid, torch.device("cpu"))
    state = State(
        step=len(tried),
        best_step=best.step,
        best_score=list(objective.score(figures)) if figures else [],
        best_figures=figures,
        tokens=evaluations * len(examples),
        seconds=time.perf_counter() - started,
        ended="finished",
    )
    facts = {"penalty": best.penalty, "anchor": best.anchor, "evaluations": evaluations, "held_rows": held, "path_end": best.at_end}
    torch.set_num_threads(machine.threads)
    return Outcome(state, best.step, 1.0, peak_memory_mb(torch.device("cpu")), facts)


def logits(model: nn.Module, examples: Examples) -> Any:
    """A solved model's logits (N, C) as a NumPy array."""
    with torch.inference_mode():
        return model(**examples.batch(np.arange(len(examples))).inputs).logits.numpy()


def _parts(whole: Problem, valid: Examples | None, labels: int, multi_label: bool, seed: int, groups: Sequence[str] | None) -> list[_Part]:
    """What the penalty is chosen with: validation rows held out from the training rows, and as many folds as are needed besides."""
    draw, N = np.random.default_rng(seed), whole.batch.rows
    used = whole if N <= MOST_ROWS else whole.rows(torch.from_numpy(np.sort(draw.permutation(N)[:MOST_ROWS])))
    names = [str(row) for row in range(N)] if groups is None else list(groups)
    parts, held = [], 0
    if valid is not None:
        parts.append(_part(used, Problem(whole.objective, valid.batch(np.arange(len(valid)))), labels, multi_label, 0))
        held = len(valid)
    if held >= ENOUGH_VALID:
        return parts
    for all_M, out_H in _folds(names, draw):
        if held >= ENOUGH_HELD:
            break
        kept_M = all_M if len(all_M) <= MOST_ROWS else np.sort(draw.permutation(all_M)[:MOST_ROWS])
        parts.append(_part(whole.rows(torch.from_numpy(kept_M)), whole.rows(torch.from_numpy(out_H)), labels, multi_label, held))
        held += len(out_H)
    return parts


def _part(learned: Problem, held: Problem, labels: int, multi_label: bool, before: int) -> _Part:
    """`before`: held-out rows of the parts before this one, so that all parts' rows fill the blocks evenly."""
    space = Space(learned, labels, multi_label)
    block_H = (torch.arange(held.batch.rows) + before) % BLOCKS
    indices = [torch.nonzero(block_H == block).squeeze(1) for block in range(BLOCKS)]
    return _Part(space, held, space.project(held.batch.inputs["vectors"]), [(index, held.rows(index)) for index in indices])


def _folds(names: Sequence[str], draw: np.random.Generator) -> Iterator[tuple[Any, Any]]:
    """(kept rows, held-out rows) for each fold; rows of one name are never on both sides. None where there is one name alone."""
    numbers: dict[str, int] = {}
    group_N = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    if len(numbers) < 2:
        return
    folds = min(FOLDS, len(numbers))
    fold_N = (draw.permutation(len(numbers)) % folds)[group_N]
    for fold in range(folds):
        yield np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)


def _at_best_temperature(parts: Sequence[_Part], scores: Sequence[torch.Tensor]) -> tuple[float, Any]:
    """The mean plain loss of held-out rows under the one temperature that makes it least (Guo et al. 2017, section 4.2), and what that costs.

    Also the sums of the blocks of rows at that temperature.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_factor: float) -> float:
        sums: dict[str, float] = {}
        for part, one in zip(parts, scores, strict=True):
            _add(sums, part.held.measure(one * float(np.exp(log_factor))))
        return (sums["loss"] + (log_factor / TEMPERATURE_SPREAD) ** 2 / 2) / sums["units"]

    found = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-2})
    factor, blocks_B = float(np.exp(found.x)), np.zeros(BLOCKS)
    for part, one in zip(parts, scores, strict=True):
        for number, (index, block) in enumerate(part.blocks):
            if len(index):
                blocks_B[number] += block.measure(one[index] * factor)["loss"]
    return float(found.fun), blocks_B


def _chosen(tried: Sequence[_Try]) -> _Try:
    """The strongest penalty toward the means that is within one standard error of the best, or else the best."""
    best = min(tried, key=lambda one: one.loss)
    for one in tried:
        further_B = one.blocks_B - best.blocks_B
        if one.anchor == "means" and further_B.sum() <= further_B.std(ddof=1) * BLOCKS**0.5:
            return one
    return best


def _add(sums: dict[str, float], more: dict[str, float]) -> None:
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value
