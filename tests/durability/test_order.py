"""Which rows each step learns, in which order: the same after kills as without, and each row once an epoch (T7, one process)."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

EPOCHS = 3
# `sft` has packed rows, `full` padded ones of like length.
CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "packed, by rows": ("sft", {}),
    "packed, by tokens": ("sft", {"batch_rows": 64, "batch_tokens": 200}),
    "padded, by rows": ("full", {}),
    "padded, by tokens": ("full", {"batch_rows": 64, "batch_tokens": 90}),
}


def noted(path: Path) -> dict[int, dict[str, Any]]:
    """What each step learnt; a step done twice, because its first time was lost in a kill, must have learnt the same."""
    found: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        step = json.loads(line)
        assert found.setdefault(step["step"], step) == step, "a step was repeated with other rows"
    assert sorted(found) == list(range(1, len(found) + 1))
    return found


def chain(steps: dict[int, dict[str, Any]]) -> str:
    """A hash over all steps in order, each with the one before in it."""
    value = ""
    for number in sorted(steps):
        value = hashlib.sha256((value + json.dumps(steps[number], sort_keys=True)).encode()).hexdigest()
    return value


def trains(bench: Any, place: Any, order: Path, **how: Any) -> int:
    """Start the stage `train`, or go on with it; its exit code."""
    code: int = bench.forker.go(place, argv=["train", "colours"], env={"DURABILITY_ORDER": str(order)}, **how)
    return code


@pytest.mark.parametrize(
    ("cell", "seed"),
    [pytest.param(cell, seed, marks=[] if (cell, seed) == ("packed, by tokens", 0) else [pytest.mark.slow]) for cell in CELLS for seed in range(6)],
)
def test_the_order_of_rows_survives_kills(bench: Any, cell: str, seed: int) -> None:
    kind, settings = CELLS[cell]
    draw = random.Random(f"{cell} {seed}")
    place = bench.place(kind, epochs=EPOCHS, **settings)
    assert bench.forker.go(place, argv=["prepare", "colours.yaml"]) == 0, place.log
    left_alone = bench.copy(place)
    points = left_alone.folder / "points"
    assert trains(bench, left_alone, left_alone.folder / "order", points=points) == 0, left_alone.log
    count = len(points.read_text().splitlines())
    whole = noted(left_alone.folder / "order")
    # The first kill comes soon after a save in the middle of the second epoch; the others come as they may.
    saves = {int(found[1]): at for at, line in enumerate(points.read_text().splitlines(), 1) if (found := re.search(r"rename \S*/\.staging-step-(\d+)$", line))}
    middle = [at for step, at in saves.items() if step + 1 in whole and whole[step]["epoch"] == whole[step + 1]["epoch"] == 1]
    assert trains(bench, place, place.folder / "order", at=draw.choice(middle) + draw.randint(1, 10)) == -9, place.log
    for _ in range(1 if seed == 0 else 3):
        assert trains(bench, place, place.folder / "order", at=draw.randint(20, count // 3)) in (0, -9), place.log
    assert trains(bench, place, place.folder / "order") == 0, place.log
    after = noted(place.folder / "order")
    assert chain(after) == chain(whole)
    everything = sorted(set().union(*(set(one["rows"]) for one in whole.values())))
    assert everything == list(range(len(everything))) and len(everything) > 50
    for epoch in range(EPOCHS):
        assert sorted(row for one in after.values() if one["epoch"] == epoch for row in one["rows"]) == everything, f"epoch {epoch}"
    firsts = [min(number for number, one in after.items() if one["epoch"] == epoch) for epoch in range(EPOCHS)]
    assert len({tuple(after[first]["rows"]) for first in firsts}) == EPOCHS  # each epoch has an order of its own
    resumed = [event["step"] for event in place.events("resumed")]
    assert any(whole[step]["epoch"] == whole[step + 1]["epoch"] for step in resumed), "never in the middle of an epoch"
    assert place.events("step") == left_alone.events("step")
