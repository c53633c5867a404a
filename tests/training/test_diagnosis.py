"""Each fault is made on purpose, and the diagnosis must call it by its name, with its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from tunesmith.training.diagnosis import diagnose, sections

STEPS = 60


def events(train: Callable[[float], float], valid: Callable[[float], float], accuracy: Callable[[float], float] = lambda t: 0.5 + 0.4 * t) -> list[dict]:
    """Curves over t in (0, 1]: a training point a step, a validation point every tenth."""
    out: list[dict] = []
    for step in range(1, STEPS + 1):
        t = step / STEPS
        out.append({"kind": "step", "step": step, "loss": train(t), "accuracy": accuracy(t)})
        if step % 10 == 0:
            out.append({"kind": "valid", "step": step, "loss": valid(t), "accuracy": accuracy(t)})
    return out


def falling(t: float) -> float:
    return 2.0 * math.exp(-4 * t)


def names(found: list) -> set[str]:
    return {one.name for one in found}


def test_a_sound_run_is_called_steady_and_nothing_else() -> None:
    flat_end = lambda t: max(0.3, falling(t))  # noqa: E731
    found = diagnose(events(falling, flat_end), 60, 1000, 8)
    assert names(found) == {"steady"} and "step 60" in found[0].text and found[0].tone == "good"


def test_overfitting_names_the_step_since_when_and_the_rise() -> None:
    found = diagnose(events(falling, lambda t: 0.5 + 3 * (t - 0.5) ** 2, lambda t: 0.9 - 0.3 * abs(t - 0.5)), 30, 1000, 8)
    over = next(one for one in found if one.name == "overfitting")
    assert "since step 30" in over.text and "150 %" in over.text and over.tone == "warn" and "patience" in over.remedy


def test_overconfidence_without_loss_of_accuracy_is_no_alarm() -> None:
    found = diagnose(events(falling, lambda t: 0.5 + 3 * (t - 0.5) ** 2), 60, 1000, 8)
    over = next(one for one in found if one.name == "overfitting")
    assert over.tone == "plain" and "too sure of itself" in over.text


def test_underfitting_compares_with_a_blind_guess() -> None:
    found = diagnose(events(lambda t: 2.0 - 0.5 * t, lambda t: 1.9 - 0.2 * t), 60, 1000, 8)
    under = next(one for one in found if one.name == "underfitting")
    assert "2.08" in under.text and "train.epochs" in under.remedy


@pytest.mark.parametrize("loss", [lambda t: 2.1 + 0.1 * math.sin(40 * t), lambda t: 2.0 + 3 * t])
def test_a_loss_that_does_not_fall_points_at_the_learning_rate(loss: Callable[[float], float]) -> None:
    found = diagnose(events(loss, lambda t: 2.2), 60, 1000, 8)
    assert found[0].name == "learning rate too high" and found[0].tone == "bad" and "train.learning_rate" in found[0].remedy


def test_a_spike_is_placed() -> None:
    found = diagnose(events(lambda t: 6.0 if abs(t - 0.5) < 1e-9 else max(0.4, falling(t)), lambda t: 0.4), 60, 1000, 8)
    spike = next(one for one in found if one.name == "spike")
    assert "6.00 at step 30" in spike.text


def test_skipped_steps_few_rows_a_gap_and_a_run_cut_short() -> None:
    told = [{"kind": "skipped", "step": 7, "what": "loss"}, *events(falling, lambda t: 1 - 0.5 * t)]
    assert {"not finite", "too little data", "unfinished"} <= names(diagnose(told, 60, 50, 10))
    apart = events(falling, lambda t: 0.5)
    for event in apart:
        event["accuracy"] = 0.99 if event["kind"] == "step" else 0.8
    assert "gap" in names(diagnose(apart, 60, 1000, 8))


def test_the_section_draws_both_sides_and_marks_the_kept_step() -> None:
    (section,) = sections(events(falling, falling), 50, diagnose(events(falling, falling), 50, 1000, 8))
    lines = [block for block in section.blocks if hasattr(block, "series")]
    assert [len(block.series) for block in lines] == [2, 2] and lines[0].marks == [(50, "kept")]
