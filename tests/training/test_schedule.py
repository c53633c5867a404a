"""The learning rate of each step, against transformers' own schedulers and by hand."""

from __future__ import annotations

import pytest
import torch

from tunesmith.training import schedule


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (7, 0), (20, 3), (20, 19), (5, 5)])
@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_factor_equals_transformers_behind_the_warm_up(kind: str, steps: int, warmup: int) -> None:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_scheduler("constant_with_warmup" if kind == "constant" else kind, optimizer, warmup, steps)
    for step in range(steps):
        expected = theirs.get_last_lr()[0]
        if step < warmup:  # transformers' k / w begins at 0
            expected = (expected * warmup + 1) / (warmup + 1)
        assert schedule.factor(step, steps, warmup, kind) == pytest.approx(expected, abs=1e-12)
        optimizer.step()
        theirs.step()


def test_factor_by_hand() -> None:
    assert [schedule.factor(step, 6, 2, "linear") for step in range(6)] == [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]
    assert [round(schedule.factor(step, 6, 2, "cosine"), 6) for step in range(2, 6)] == [1, 0.853553, 0.5, 0.146447]
    assert [schedule.factor(step, 4, 1, "constant") for step in range(4)] == [0.5, 1, 1, 1]


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "wsd"])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_every_step_learns_something(kind: str, steps: int) -> None:
    """A run of one step with the default warm-up of 6 % has one warm-up step."""
    assert all(schedule.factor(step, steps, 1, kind) > 0 for step in range(steps))


def test_a_step_beyond_the_plan_learns_nothing() -> None:
    assert schedule.factor(9, 6, 2, "linear") == schedule.factor(6, 6, 2, "cosine") == 0
