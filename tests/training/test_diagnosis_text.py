"""Curves of language models: each fault is made on purpose, and the diagnosis must call it by its name, with its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tunesmith.training.diagnosis import Finding, diagnose_text, sections

STEPS = 60
TOKENS = {"sequences": 400, "tokens": 20_000, "learnt": 8_000, "left_out": 0, "limit": 128}


def falling(t: float) -> float:
    return 1.2 + 2.8 * math.exp(-5 * t)


def events(train: Callable[[float], float] = falling, valid: Callable[[float], float] | None = None) -> list[dict[str, Any]]:
    """Curves over t in (0, 1]: a training point a step, a validation point every tenth."""
    valid = valid or (lambda t: max(1.4, train(t)))
    out: list[dict[str, Any]] = []
    for step in range(1, STEPS + 1):
        t = step / STEPS
        out.append({"kind": "step", "step": step, "loss": train(t), "token_accuracy": 0.2 + 0.5 * t})
        if step % 10 == 0:
            out.append({"kind": "valid", "step": step, "loss": valid(t), "token_accuracy": 0.2 + 0.4 * t})
    return out


def found(told: list[dict[str, Any]], rows: int = 400, kept: int = STEPS, **tokens: Any) -> dict[str, Finding]:
    return {one.name: one for one in diagnose_text(told, kept, rows, TOKENS | tokens)}


def test_a_sound_run_is_called_steady_and_nothing_else() -> None:
    (one,) = found(events()).values()
    assert one.name == "steady" and one.tone == "good" and f"step {STEPS}" in one.text


def test_what_is_no_fault_by_itself_is_steady_too() -> None:
    """The loss of a text ends far above 0, and an adapter's falls little: neither is a fault."""
    assert set(found(events(lambda t: 2.0 - 0.2 * t, lambda t: 1.9 - 0.01 * t))) == {"steady"}
    assert set(found(events(lambda t: falling(t) * (1 + 0.1 * math.sin(37 * t))))) == {"steady"}


@pytest.mark.parametrize(
    ("loss", "first", "last"), [(lambda t: 3.0 + 0.001 * math.sin(40 * t), "3.00", "3.00"), (lambda t: 3.0 + 2 * t, "3.05", "4.77")], ids=["still", "rising"]
)
def test_a_loss_that_does_not_fall_points_at_the_learning_rate(loss: Callable[[float], float], first: str, last: str) -> None:
    told = diagnose_text(events(loss, lambda t: 3.0), STEPS, 400, TOKENS)
    assert told[0].name == "learning rate" and told[0].tone == "bad"
    assert f"{first} nats a token at the start, {last} over the last quarter" in told[0].text and "train.learning_rate" in told[0].remedy


def test_an_uneven_loss_points_at_the_rows() -> None:
    told = found(events(lambda t: falling(t) * (1 + (0.6 if round(t * STEPS) % 2 else -0.4))))
    assert told["label noise"].tone == "warn" and "half of the late steps lie more than" in told["label noise"].text and "steady" not in told


def test_overfitting_names_the_step_since_when() -> None:
    told = found(events(falling, lambda t: 1.5 + 3 * (t - 0.5) ** 2), kept=30)["overfitting"]
    assert told.tone == "warn" and "since step 30" in told.text and "50 %" in told.text and "step 30" in told.remedy


def test_a_run_cut_short_is_told_to_go_on() -> None:
    told = found(events(falling, lambda t: 3 - 1.5 * t))
    assert told["unfinished"].tone == "plain" and "1.750 to 1.500" in told["unfinished"].text and "steady" in told


def test_a_spike_is_placed() -> None:
    told = found(events(lambda t: 9.0 if abs(t - 0.5) < 1e-9 else falling(t)))["spike"]
    assert "9.00 at step 30" in told.text


def test_skipped_steps_are_bad() -> None:
    told = diagnose_text([{"kind": "skipped", "step": 7, "what": "loss"}, *events()], STEPS, 400, TOKENS)
    assert told[0].name == "not finite" and told[0].tone == "bad" and "step 7" in told[0].text


@pytest.mark.parametrize(("learnt", "warned"), [(1200, True), (1599, True), (1600, False)])
def test_answers_too_short(learnt: int, warned: bool) -> None:
    told = found(events(), learnt=learnt)
    assert ("answers too short" in told) is warned
    if learnt == 1200:
        assert "3.0 tokens on average" in told["answers too short"].text and "objective: classification" in told["answers too short"].remedy


def test_answers_cut_away() -> None:
    told = found(events(), left_out=3)["answers cut away"]
    assert "3 rows left out" in told.text and "limit of 128 tokens" in told.text and "model.truncation: tail" in told.remedy
    assert "1 row left out" in found(events(), left_out=1)["answers cut away"].text


@pytest.mark.parametrize(("rows", "warned"), [(8, True), (49, True), (50, False)])
def test_too_little_data(rows: int, warned: bool) -> None:
    told = found(events(), rows=rows)
    assert ("too little data" in told) is warned and ("steady" in told) is not warned
    assert not warned or f"{rows} training rows" in told["too little data"].text


def test_a_run_of_a_few_steps_is_not_judged_by_its_curve() -> None:
    few = [{"kind": "step", "step": step, "loss": 3.0} for step in range(1, 6)]
    assert set(found(few)) == {"steady"} and set(found([])) == {"steady"}


def test_the_gravest_comes_first() -> None:
    told = diagnose_text([{"kind": "skipped", "step": 7, "what": "loss"}, *events(falling, lambda t: 3 - 1.5 * t)], STEPS, 10, TOKENS | {"left_out": 2})
    tones = [one.tone for one in told]
    assert tones == sorted(tones, key=("bad", "warn", "good", "plain").index) and len(told) == 4


def test_the_section_draws_the_loss_and_the_guessed_tokens() -> None:
    (section,) = sections(events(), 50, diagnose_text(events(), 50, 400, TOKENS))
    lines = [block for block in section.blocks if hasattr(block, "series")]
    assert [len(block.series) for block in lines] == [2, 2] and "next tokens guessed" in str(lines[1]).lower()


def test_a_wide_gap_says_that_rows_are_known_by_heart() -> None:
    one = found(events(lambda t: 3.0 - 2.5 * t, lambda t: 2.0 - 0.01 * t))["gap"]
    assert one.tone == "plain" and "1.99" in one.text and "by heart" in one.text
    assert "gap" not in found(events(lambda t: 3.0 - 1.2 * t, lambda t: 2.2 - 0.01 * t))
