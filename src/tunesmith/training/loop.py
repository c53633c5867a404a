"""The loop: plan, forward, backward, guard, update, measure, save. It knows no objective's and no method's name.

A run that is killed anywhere and started again ends with the same bits: the order of batches is a function of the seed and the epoch, the
learning rate a function of the step, and a checkpoint holds weights, moments, random state and the few counters below.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tunesmith.core.errors import Interrupted, UserError
from tunesmith.objectives import Objective, Sums, numbers
from tunesmith.tokens import batching
from tunesmith.tokens.examples import Batch, Examples, windows
from tunesmith.training import checkpoint, schedule
from tunesmith.training.hardware import Machine
from tunesmith.training.optimizer import Optimizer
from tunesmith.training.settings import TrainSettings

MOST_SKIPPED = 3
"""Non-finite steps in a row after which going on would be pretence."""
LOG_POINTS = 60
"""Points of the training curve: each the mean of enough steps to show a trend rather than the luck of a batch."""
MEASURE_TOKENS, MEASURE_TOKENS_DEVICE = 4096, 65_536
"""Padded tokens of a batch when only measuring, on a CPU and elsewhere. A GPU needs many at once to be busy; the second is an estimate, not measured."""

Emit = Callable[[dict[str, Any]], None]


@dataclass
class State:
    """The counters of a training, as a checkpoint's state.json holds them."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    """Batches of this epoch already used."""
    best_step: int | None = None
    best_score: list[float] = field(default_factory=list)
    best_figures: dict[str, float] = field(default_factory=dict)
    without_gain: int = 0
    """Evaluations since the best one."""
    skipped: int = 0
    skipped_in_a_row: int = 0
    tokens: int = 0
    seconds: float = 0.0
    decay: float = 1.0
    norm: float = 0.0
    """Gradient norm of the last step that was learnt."""
    sums: dict[str, float] = field(default_factory=dict)
    """Training sums since the last logged step."""
    ended: Literal["", "finished", "early"] = ""


@dataclass(frozen=True)
class Outcome:
    """What a finished training was: its counters, the step whose weights the model now holds, and the peak memory in MB."""

    state: State
    kept_step: int
    decay: float
    peak_memory_mb: float
    facts: dict[str, Any] = field(default_factory=dict)
    """More that run.json records of this training."""


def train(
    model: nn.Module,
    objective: Objective,
    examples: Examples,
    valid: Examples | None,
    settings: TrainSettings,
    machine: Machine,
    checkpoints: Path,
    identity: str,
    emit: Emit,
    stopping: Callable[[], int | None] = lambda: None,
) -> Outcome:
    """Train a model, from the newest whole checkpoint if there is one.

    Args:
        model: parameters that require grad learn; on return it holds the kept step's weights, on the CPU and in eval mode.
        objective: gives losses and figures.
        examples, valid: rows to learn from and to choose the kept step by; without `valid` the last step is kept.
        settings: with numbers in place of every `auto`.
        machine: device, precision and threads.
        checkpoints: folder for them; other trainings' are ignored by `identity`.
        identity: hash of all that decides the result.
        emit: takes events: began or resumed, progress, step, valid, skipped, checkpoint, warning.
        stopping: polled after each step; a signal number makes the loop save and stop.

    Returns:
        The outcome.

    Raises:
        Interrupted: `stopping` said so; a checkpoint of this very step is on disk.
        UserError: the loss or gradient was not finite `MOST_SKIPPED` times in a row, or a checkpoint could not be written.
    """
    device = torch.device(machine.device)
    small = getattr(model, "small", False)
    torch.set_num_threads(1 if small else machine.threads)
    masters = machine.precision == "bf16" and not small
    # What does not learn is rounded before it moves: a device needs room for it in bf16 alone. A base in four bits keeps its bytes.
    frozen = {name: p.detach() for name, p in model.named_parameters() if masters and not p.requires_grad and p.is_floating_point()}
    for name in frozen:
        _round(model.get_parameter(name))
    model.to(device)
    optimizer = Optimizer(model, settings.weight_decay, settings.betas, masters)
    if masters:  # parameters alone: a rotary embedding's frequencies, which are buffers, lose too much in bf16
        for parameter in optimizer.parameters:
            _round(parameter)
    state = State()
    found, warnings = checkpoint.newest(checkpoints, identity, settings.keep_best)
    for text in warnings:
        emit({"kind": "warning", "text": text})
    if found:
        state = _restore(found, optimizer, device)
        emit({"kind": "resumed", "step": state.step})
    else:
        emit({"kind": "began", "step": 0})  # what a run killed before its first checkpoint has told is void
    plans = _Plans(examples, settings)
    total = plans.steps()
    marks = _evaluation_steps(plans, settings)
    model.train()
    loop = _Loop(model, objective, optimizer, settings, device, state, total, sum(plans.sizes), checkpoints, identity, emit)
    log_every = settings.log_every or max(1, total // LOG_POINTS)
    while not state.ended:
        if state.step >= total or (settings.patience is not None and state.without_gain >= settings.patience):
            state.ended = "finished" if state.step >= total else "early"
            break
        started = time.perf_counter()
        rows = plans.of(state.epoch)[state.position]
        loop.step([examples.batch(part) for one in _micro(rows, settings.micro_rows) for part in plans.bounded(one)])
        state.position += 1
        if state.position == len(plans.of(state.epoch)):
            state.epoch, state.position = state.epoch + 1, 0
        state.seconds += time.perf_counter() - started
        if state.step % log_every == 0 or state.step in marks or state.step == total:
            loop.log()
        emit({"kind": "progress", "task": "train", "done": state.step, "of": total, "tokens": state.tokens, "seconds": state.seconds})
        if valid is not None and state.step in marks:
            started = time.perf_counter()
            better = loop.evaluate(valid)
            state.seconds += time.perf_counter() - started
            if settings.patience is not None and state.without_gain >= settings.patience:
                state.ended = "early"
            if better or state.ended:
                loop.save()
        if state.step == total and not state.ended:
            state.ended = "finished"
        number = stopping()
        if loop.save_is_due() or number is not None or (state.ended and loop.saved_step != state.step):
            loop.save()
        if number is not None:
            raise Interrupted(number)
    kept = state.step
    if state.best_step is not None and settings.keep_best and state.best_step != state.step:
        best = checkpoint.at(checkpoints, state.best_step, identity)
        optimizer.load(best.tensors("weights"), {})
        optimizer.decay = State(**best.state).decay
        kept = state.best_step
    memory = peak_memory_mb(device)
    model.to("cpu")  # before the frozen weights are whole again, for which the device may have no room
    if masters:
        for name, whole in (*frozen.items(), *zip(optimizer.names, optimizer.masters, strict=True)):
            model.get_parameter(name).data = whole.detach().to("cpu")
    torch.set_num_threads(machine.threads)
    model.eval()
    return Outcome(state, kept, optimizer.decay, memory)


def _round(parameter: torch.Tensor) -> None:
    """Have a model compute with the bf16 rounding of one of its parameters."""
    parameter.data = parameter.data.to(torch.bfloat16)


class _Plans:
    """The batches of each epoch, the current one kept."""

    def __init__(self, examples: Examples, settings: TrainSettings) -> None:
        assert isinstance(settings.epochs, int)
        self._lengths_N, self._settings, self._packed, self.epochs = examples.lengths_N, settings, packed(examples), settings.epochs
        self._windows_N, self._epoch = windows(examples), -1
        self._plan: Sequence[batching.Rows] = []
        self.sizes = [len(self.of(epoch)) for epoch in range(self.epochs)]

    def of(self, epoch: int) -> Sequence[batching.Rows]:
        if epoch != self._epoch:
            s, self._plan = self._settings, []  # one plan at a time
            self._epoch, self._plan = epoch, batching.plan(
                self._lengths_N, s.batch_rows, s.batch_tokens, s.seed, epoch, self._packed, self._windows_N
            )
        return self._plan

    def bounded(self, rows_B: batching.Rows) -> list[batching.Rows]:
        """Rows computed at once, in parts where they have so many windows that they exceed `WINDOW_TOKENS`."""
        if self._windows_N is None:
            return [rows_B]
        return batching.cut(rows_B, self._lengths_N, len(rows_B), batching.WINDOW_TOKENS, self._windows_N)

    def steps(self) -> int:
        return min(sum(self.sizes), self._settings.steps or sum(self.sizes))


def _evaluation_steps(plans: _Plans, settings: TrainSettings) -> set[int]:
    """Steps after which validation is measured: every `evaluate_every` epochs, and the last."""
    ends = np.concatenate([[0], np.cumsum(plans.sizes)])
    points = np.arange(settings.evaluate_every, plans.epochs + 1e-9, settings.evaluate_every)
    total = plans.steps()
    return {step for x in np.interp(points, np.arange(plans.epochs + 1), ends) if (step := max(1, round(float(x)))) < total} | {total}


def _micro(rows_B: npt.NDArray[np.int64], micro_rows: int | None) -> list[npt.NDArray[np.int64]]:
    size = micro_rows or len(rows_B)
    return [rows_B[start : start + size] for start in range(0, len(rows_B), size)]


class _Loop:
    """One training's moving parts, so that each thing a step does has a name."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer,
        settings: TrainSettings,
        device: torch.device,
        state: State,
        total: int,
        all_steps: int,
        checkpoints: Path,
        identity: str,
        emit: Emit,
    ) -> None:
        self.model, self.objective, self.optimizer, self.settings = model, objective, optimizer, settings
        self.device, self.state, self.total, self.all_steps, self.emit = device, state, total, all_steps, emit
        self.checkpoints, self.identity = checkpoints, identity
        self.saved_step, self.saved_at = state.step, time.monotonic()
        self.warmup_steps = math.ceil(settings.warmup * total)
        self.rate = 0.0

    def step(self, micro: list[Batch]) -> None:
        """One optimizer step over micro-batches whose losses are averaged by units, exactly."""
        state, settings = self.state, self.settings
        units = sum(self.objective.units(batch) for batch in micro)
        told = []
        for batch in micro:
            loss = self.objective.loss(self.model, batch if self.device.type == "cpu" else batch.to(self.device))
            (loss.total / units).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            told.append(loss.sums)
            state.tokens += batch.tokens
        norm = self.optimizer.gradient_norm()  # here, once a step, this process waits for the device
        sums = _added(told)
        finite = math.isfinite(sums["loss"])
        norm = norm if finite else math.nan
        assert isinstance(settings.learning_rate, float)
        self.rate = settings.learning_rate * schedule.factor(state.step, self.total, self.warmup_steps, settings.schedule)
        state.step += 1
        # +-------------------------------------------------------------------------------------------------------+
        # | A non-finite loss or gradient must never reach the weights: one such step makes every weight NaN, and  |
        # | every checkpoint after it worthless. The step is skipped, counted, and three in a row stop the run.    |
        # +-------------------------------------------------------------------------------------------------------+
        if math.isfinite(norm):
            state.norm = norm
            shrink = min(1.0, settings.clip_norm / (norm + 1e-6)) if settings.clip_norm else 1.0
            self.optimizer.step(self.rate, shrink)
            state.skipped_in_a_row = 0
            for name, value in sums.items():
                state.sums[name] = state.sums.get(name, 0.0) + value
        else:
            state.skipped, state.skipped_in_a_row = state.skipped + 1, state.skipped_in_a_row + 1
            what = "loss" if not finite else "gradient"
            self.emit({"kind": "skipped", "step": state.step, "what": what})
        self.optimizer.zero_grad()
        if state.skipped_in_a_row >= MOST_SKIPPED:
            raise UserError(
                f"the {what} was not finite in {MOST_SKIPPED} steps in a row, the last is step {state.step}; nothing of them was learnt",
                f"training at learning rate {self.rate:.2g}",
                f"try train.learning_rate={settings.learning_rate / 3:.1g} or train.precision=fp32, and look for odd rows in data/",
            )

    def log(self) -> None:
        """Emit the mean of the training figures since the last time."""
        state = self.state
        figures = self.objective.summary(state.sums) if state.sums else {}
        state.sums = {}
        self.emit({"kind": "step", "step": state.step, "epoch": self.epochs_done(), "learning_rate": self.rate, "gradient_norm": state.norm, **figures})

    def epochs_done(self) -> float:
        """Epochs behind us, with fractions."""
        assert isinstance(self.settings.epochs, int)
        return round(self.state.step / self.all_steps * self.settings.epochs, 4)

    def evaluate(self, valid: Examples) -> bool:
        """Measure on validation rows; True when this is the best step so far."""
        figures = measure(self.model, self.objective, valid, self.device)
        self.model.train()
        score = list(self.objective.score(figures))
        better = all(map(math.isfinite, score)) and (self.state.best_step is None or score > self.state.best_score)
        if better:
            self.state.best_step, self.state.best_score, self.state.best_figures = self.state.step, score, figures
            self.state.without_gain = 0
        else:
            self.state.without_gain += 1
        self.emit({"kind": "valid", "step": self.state.step, "epoch": self.epochs_done(), "best": better, **figures})
        return better

    def save_is_due(self) -> bool:
        """Whether enough steps or seconds have gone by since the last checkpoint."""
        s = self.settings
        if s.checkpoint_steps is not None:
            return self.state.step - self.saved_step >= s.checkpoint_steps
        return time.monotonic() - self.saved_at >= s.checkpoint_seconds

    def save(self) -> None:
        """Write a checkpoint of this step and delete old ones."""
        if self.saved_step == self.state.step and checkpoint.folder_of(self.checkpoints, self.state.step).exists():
            return
        self.state.decay = self.optimizer.decay
        weights, moments = self.optimizer.tensors()
        random = {"cpu": torch.get_rng_state()} | ({"cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {})
        random |= {"mps": torch.mps.get_rng_state()} if self.device.type == "mps" else {}
        checkpoint.save(self.checkpoints, self.state.step, self.identity, weights, moments, random, asdict(self.state))
        self.saved_step, self.saved_at = self.state.step, time.monotonic()
        self.emit({"kind": "checkpoint", "step": self.state.step})
        gigabytes = self.settings.checkpoint_gigabytes
        best = self.state.best_step if self.settings.keep_best else None
        checkpoint.tidy(self.checkpoints, self.state.step, self.settings.keep_checkpoints, best, gigabytes * 1e9 if gigabytes else None)


def _restore(found: checkpoint.Checkpoint, optimizer: Optimizer, device: torch.device) -> State:
    optimizer.load(found.tensors("weights"), found.tensors("moments"))
    state = State(**found.state)
    state.ended = ""  # it ends again by itself, or goes on when epochs or patience were raised
    optimizer.decay = state.decay
    random = found.tensors("random")
    torch.set_rng_state(random["cpu"])
    if "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"], device)
    if "mps" in random:
        torch.mps.set_rng_state(random["mps"])
    return state


def measure(model: nn.Module, objective: Objective, examples: Examples, device: torch.device) -> dict[str, float]:
    """An objective's figures over all examples, in eval mode and without gradients."""
    model.eval()
    told: list[Sums] = []
    most = MEASURE_TOKENS if device.type == "cpu" else MEASURE_TOKENS_DEVICE
    with torch.inference_mode():
        for rows in batching.in_order(examples.lengths_N, most // 16, most, packed(examples), windows(examples)):
            told.append(objective.measure(model, examples.batch(rows).to(device)))
    return objective.summary(_added(told))


def _added(told: Sequence[Sums]) -> dict[str, float]:
    """Sums of batches added up in order, as numbers of Python."""
    sums: dict[str, float] = {}
    for one in told:
        for name, value in numbers(one).items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def packed(examples: Examples) -> bool:
    """Whether batches of these examples have no padding."""
    return getattr(examples, "packed", False)


def peak_memory_mb(device: torch.device) -> float:
    """The most memory this process (or, on a GPU, torch on it) has held, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)  # macOS counts bytes, Linux kB
