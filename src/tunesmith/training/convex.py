"""Solving for a linear head instead of training it: a path of penalties (`training.optimum` solves each), and the choice of one.

1. The path goes from strong penalties to weak ones, each begun at the last one's solution, once for each anchor.
2. The penalty is chosen on held-out rows by their mean loss at the best temperature, since a temperature is fitted afterward in any case.
   A normal prior on the log temperature keeps it near 1 where rows are few. Of the path toward the means, the strongest penalty within one
   standard error of the best is taken (Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3).
3. Held-out rows are the validation rows and, where these are few, folds of the training rows.

Source: regularized path, Friedman et al. 2010 (https://doi.org/10.18637/jss.v033.i01); temperature, Guo et al. 2017
(https://arxiv.org/abs/1706.04599), section 4.2.

Shapes: N rows, M kept rows, H held-out rows, D width, R axes, C labels, B blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from tunesmith.core.errors import Interrupted, some
from tunesmith.objectives import Objective
from tunesmith.tokens.examples import Examples
from tunesmith.training.hardware import Machine
from tunesmith.training.loop import Emit, Outcome, State, measure, peak_memory_mb
from tunesmith.training.optimum import SINGLE_FROM, Anchor, Problem, Solution, Space
from tunesmith.training.settings import TrainSettings

PENALTIES = tuple(10 ** (1.5 - 4.5 * step / 11) for step in range(12))
"""Strengths tried for each anchor, from 32 to 0.001, strong ones first. 1 / penalty is scikit-learn's C."""
WORSE = 2
"""A path ends after this many strengths without a better one: weaker ones cost the most. A convention of ours: what they would gain was not measured."""
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
TEMPERATURE_SPREAD = 0.3
"""Standard deviation of the log temperature that is expected; one further from 0 costs loss. So few rows cannot excuse a head that is too sure."""
PATH_TOLERANCE, PATH_STEPS = 1e-3, 100
"""Largest scaled gradient at which a strength's solution ends, and the most steps: enough to rank strengths."""
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
