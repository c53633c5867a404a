"""A loss or a gradient that is not finite: the step is skipped and counted, nothing of it is saved, three in a row stop the run (T8)."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

EVERY = {"checkpoint_steps": 1, "keep_checkpoints": 99}
"""Every step's weights and moments stay to be looked at."""
CELLS = [(how, part) for how in ("nan loss", "inf loss", "nan gradient", "inf gradient") for part in ("first", "middle", "last")]
SHORT = [("sft", "nan loss", "middle"), ("full", "inf gradient", "last")]


def poisoned(how: str, part: str, steps: list[int]) -> dict[str, str]:
    return {"DURABILITY_POISON": json.dumps({"how": how, "part": part, "steps": steps})}


@pytest.mark.parametrize(
    ("kind", "how", "part"),
    [pytest.param(kind, how, part, marks=[] if (kind, how, part) in SHORT else [pytest.mark.slow]) for kind in ("sft", "full") for how, part in CELLS],
)
def test_a_bad_step_is_skipped_counted_and_never_saved(bench: Any, kind: str, how: str, part: str) -> None:
    place = bench.place(kind, **EVERY)
    assert bench.forker.go(place, env=poisoned(how, part, [6])) == 0, place.log
    what = how.split()[1]
    assert place.events("skipped") == [{"kind": "skipped", "step": 6, "what": what}]
    assert place.state["training"]["skipped_steps"] == 1 and place.state["status"] == "finished"
    steps = place.state["training"]["steps"]
    assert place.steps() == list(range(1, steps + 1)) and steps == bench.expected(kind)["training"]["steps"]
    assert place.not_finite() == []
    five, six, seven = (place.run / "checkpoints" / f"step-{step:06d}" for step in (5, 6, 7))
    for name in ("weights.safetensors", "moments.safetensors"):
        assert (five / name).read_bytes() == (six / name).read_bytes() != (seven / name).read_bytes(), name
    told = [event for event in place.events("step", "valid") if "loss" in event]
    assert len(told) > steps and all(math.isfinite(event["loss"]) and event["loss"] > 0 for event in told)  # no "loss 0.0"
    assert "skipped" in (place.run / "report.html").read_text()


@pytest.mark.parametrize(
    ("kind", "how"),
    [pytest.param("sft", "nan gradient"), *(pytest.param(*cell, marks=pytest.mark.slow) for cell in (("sft", "inf loss"), ("full", "nan loss")))],
)
def test_three_in_a_row_stop_the_run_and_the_last_finite_checkpoint_stays(bench: Any, kind: str, how: str) -> None:
    place = bench.place(kind, checkpoint_steps=1, keep_checkpoints=1)
    assert bench.forker.go(place, env=poisoned(how, "first", list(range(8, 99)))) == 2, place.log
    what = how.split()[1]
    assert f"the {what} was not finite in 3 steps in a row, the last is step 10; nothing of them was learnt" in place.log
    assert "  -> try train.learning_rate=" in place.log and "Traceback" not in place.log
    assert [event["step"] for event in place.events("skipped")] == [8, 9, 10]
    assert place.state["status"] == "failed" and place.steps() and place.not_finite() == [] and place.halves() == []
    assert not (place.run / "model").exists()
    # What was bad is mended: the same command goes on from there.
    assert bench.forker.go(place) == 0, place.log
    assert [event["step"] for event in place.events("resumed")] == [9] and place.state["status"] == "finished" and place.not_finite() == []
