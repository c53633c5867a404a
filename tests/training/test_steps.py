"""`train.steps` ends a training in the middle of an epoch; warmup-stable-decay falls at its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tunesmith.core.errors import Interrupted
from tunesmith.training import checkpoint, schedule


def after(steps: int) -> Any:
    """A `stopping` that asks to stop after some steps."""
    answers: Iterator[int | None] = iter([*[None] * (steps - 1), 15])
    return lambda: next(answers, None)


def test_the_last_step_is_in_the_middle_of_an_epoch(lab: Any) -> None:
    """Seven steps an epoch: ten are one and three sevenths of the second."""
    trained = lab.train(steps=10)
    state = trained.outcome.state
    assert (state.step, state.epoch, state.position, state.ended) == (10, 1, 3, "finished")
    assert [event["step"] for event in trained.told("valid")] == [7, 10]
    assert [event["step"] for event in trained.told("step")] == list(range(1, 11)) and trained.told("step")[-1]["epoch"] == pytest.approx(10 / 7, abs=1e-3)
    assert lab.steps()[-1] == 10
    assert trained.told("progress")[-1]["of"] == 10


@pytest.mark.parametrize(
    ("steps", "every", "expected"), [(10, 0.5, [4, 7, 10]), (7, 1.0, [7]), (3, 1.0, [3]), (1, 0.1, [1]), (21, 1.0, [7, 14, 21]), (99, 1.0, [7, 14, 21])]
)
def test_validation_is_measured_at_the_last_step_too(lab: Any, steps: int, every: float, expected: list[int]) -> None:
    trained = lab.train(steps=steps, evaluate_every=every)
    assert [event["step"] for event in trained.told("valid")] == expected
    assert trained.outcome.state.step == expected[-1] and trained.outcome.state.ended == "finished"


def test_more_steps_than_the_epochs_have_change_nothing(lab: Any, same: Any) -> None:
    whole = lab.elsewhere("whole").train()
    more = lab.train(steps=500)
    assert same(more.weights(), whole.weights()) and more.told("step") == whole.told("step")


def test_the_rate_is_planned_for_the_steps_there_are(lab: Any) -> None:
    rates = [event["learning_rate"] for event in lab.train(steps=10, warmup=0.15, valid=False).told("step")]
    assert rates == pytest.approx([2e-2 * schedule.factor(step, 10, 2, "linear") for step in range(10)])  # two steps are 15 % of ten, rounded up
    assert rates[0] == pytest.approx(2e-2 / 3) and rates[-1] == pytest.approx(2e-2 / 8)  # two steps of warm-up


def test_the_steps_before_are_those_of_the_whole_training(lab: Any) -> None:
    whole = lab.elsewhere("whole").train(schedule="constant", warmup=0)
    part = lab.train(schedule="constant", warmup=0, steps=10)
    shown = ("step", "loss", "gradient_norm", "learning_rate")
    assert [[e[k] for k in shown] for e in part.told("step")] == [[e[k] for k in shown] for e in whole.told("step")[:10]]


@pytest.mark.parametrize("step", [1, 6, 7, 8, 9, 10])
def test_a_stop_anywhere_changes_nothing(lab: Any, same: Any, step: int) -> None:
    whole = lab.elsewhere("whole").train(steps=10, schedule="wsd")
    stopped = lab.train(steps=10, schedule="wsd", stop=after(step))
    assert isinstance(stopped.error, Interrupted) and max(lab.steps()) == step
    resumed = lab.train(steps=10, schedule="wsd")
    assert resumed.told("resumed") == [{"kind": "resumed", "step": step}]
    assert same(resumed.weights(), whole.weights()) and resumed.outcome.kept_step == whole.outcome.kept_step
    assert stopped.told("step", "valid") + resumed.told("step", "valid") == whole.told("step", "valid")
    ends = [checkpoint.at(one.folder, 10, "lab") for one in (lab, lab.elsewhere("whole"))]
    for kind in ("weights", "moments", "random"):
        assert same(ends[0].tensors(kind), ends[1].tensors(kind))


def test_the_same_call_on_a_finished_training_learns_nothing(lab: Any, same: Any) -> None:
    first = lab.train(steps=10)
    again = lab.train(steps=10)
    assert again.told("step") == [] and same(first.weights(), again.weights()) and again.outcome.kept_step == first.outcome.kept_step


# --- warmup, stable, decay ----------------------------------------------------------------------------------------------------


def test_wsd_at_its_corners() -> None:
    """100 steps: 10 up, 70 at the top, and in the last 20 a line to 0 that the step after the last would reach."""
    factors = [schedule.factor(step, 100, 10, "wsd") for step in range(100)]
    assert factors[0] == 1 / 11 and factors[1] == 2 / 11 and factors[9] == 10 / 11
    assert factors[10:81] == [1.0] * 71
    assert factors[81] == 0.95 and factors[90] == 0.5 and factors[99] == pytest.approx(1 / 20)
    assert all(later < earlier for earlier, later in zip(factors[80:], factors[81:], strict=False))


@pytest.mark.parametrize(("steps", "expected"), [(1, [1.0]), (2, [1.0, 1.0]), (5, [1.0] * 5), (10, [1.0] * 9 + [0.5])])
def test_wsd_of_few_steps(steps: int, expected: list[float]) -> None:
    assert [schedule.factor(step, steps, 0, "wsd") for step in range(steps)] == expected


def test_wsd_where_the_warmup_reaches_into_the_fall() -> None:
    factors = [schedule.factor(step, 10, 9, "wsd") for step in range(10)]
    assert factors == [(step + 1) / 10 for step in range(9)] + [0.5]


def test_a_step_beyond_the_plan_learns_nothing() -> None:
    assert schedule.factor(9, 6, 2, "wsd") == schedule.factor(6, 6, 2, "wsd") == 0
