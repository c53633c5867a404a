"""Loss and gradient norm of every step, as they were when a person last looked: a change in them is meant, or a mistake.

    TUNESMITH_GOLDEN=write pytest tests/golden        writes the files anew; the diff goes into the commit that explains it

Tolerance: relative 1e-4. On one machine the figures are the same to the last bit; another processor sums in another order, which alone
moves these figures by up to 3e-7 (seen with torch held to its plain and its AVX2 kernels, oneDNN and MKL to SSE 4 and AVX2), and Adam's
normalised updates make more of it the longer a run is. What a mistake does is larger: a learning rate off by one in a hundred, or a
hundredth of label smoothing, shows in most steps.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import tunesmith

TOLERANCE = 1e-4
GOLDEN = Path(__file__).parent
RECIPES: dict[str, dict[str, Any]] = {
    "full": {"train__epochs": 2, "train__learning_rate": 1e-3},
    "lora": {"train__epochs": 2, "train__learning_rate": 5e-3},
    "features": {},  # its points are solutions along a path of penalties, not steps
    "freeze": {"train__epochs": 2, "train__learning_rate": 2e-3},
    "bottleneck": {"train__epochs": 2, "train__learning_rate": 5e-3},
    "prefix": {"train__epochs": 2, "train__learning_rate": 1e-2},
}


def curve(recipe_file: Path, folder: Path, method: str, **changes: Any) -> list[dict[str, float]]:
    """Every step and every measurement of a run with dropout, one thread, fp32."""
    settings = {"train__log_every": 1, "train__evaluate_every": 0.5, "evaluate__against": ["majority"], "evaluate__resamples": 100, "data__test": "none"}
    run = tunesmith.run(recipe_file, runs_dir=folder, method=method, **(settings | RECIPES[method] | changes))
    events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    shown = ("kind", "step", "loss", "gradient_norm", "accuracy")
    return [{name: event[name] for name in shown if name in event} for event in events if event["kind"] in ("step", "valid")]


def differences(ours: list[dict[str, Any]], golden: list[dict[str, Any]]) -> list[str]:
    """What differs, in words; empty when all agrees within the tolerance."""
    if [(e["kind"], e["step"]) for e in ours] != [(e["kind"], e["step"]) for e in golden]:
        return ["the steps are others"]
    return [
        f"{event['kind']} {event['step']}: {name} {event[name]!r} in place of {before[name]!r}"
        for event, before in zip(ours, golden, strict=True)
        for name in ("loss", "gradient_norm")
        if name in before and event[name] != pytest.approx(before[name], rel=TOLERANCE)
    ]


@pytest.mark.parametrize("method", RECIPES)
def test_a_recipe_still_learns_as_it_did(recipe_file: Path, tmp_path: Path, method: str) -> None:
    ours = curve(recipe_file, tmp_path / "runs", method)
    path = GOLDEN / f"{method}.json"
    if os.environ.get("TUNESMITH_GOLDEN") == "write":
        path.write_text("[\n" + ",\n".join(json.dumps(event) for event in ours) + "\n]\n")
    golden = json.loads(path.read_text())
    assert golden[-1]["kind"] == "valid" and len(golden) > 20
    assert differences(ours, golden) == []


RATE, LOSS = {"train__learning_rate": 1.01}, {"objective": {"kind": "classification", "label_smoothing": 0.01}}


@pytest.mark.parametrize(
    ("method", "change"),
    [*((method, change) for method in ("full", "lora", "bottleneck", "prefix") for change in (RATE, LOSS)), ("features", LOSS)],
    ids=lambda one: one if isinstance(one, str) else ("rate" if one is RATE else "loss"),
)
def test_a_mistake_would_show(recipe_file: Path, tmp_path: Path, method: str, change: dict[str, Any]) -> None:
    """A learning rate off by one in a hundred, or a loss with a hundredth of smoothing: the comparison fails."""
    changes = dict(change)
    if "train__learning_rate" in changes:
        changes["train__learning_rate"] *= RECIPES[method]["train__learning_rate"]
    ours = curve(recipe_file, tmp_path / "runs", method, **changes)
    found = differences(ours, json.loads((GOLDEN / f"{method}.json").read_text()))
    assert len(found) > 5 or found == ["the steps are others"]  # a path of penalties may end elsewhere
