"""A run killed at any moment and started again ends as if nothing had happened: the same model files, tensors, curves and evaluation.

The short forms run with all other tests; the long ones, marked slow, walk over every point of a save and kill at random steps, in random
saves and at random moments: `make durability`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# --- at chosen places -----------------------------------------------------------------------------------------------------------


PLACES = [
    ("several", "prepare", "rename", 0.5),
    ("features", "train", "rename /cache", 0.5),  # between two segments of vectors, while embedding
    pytest.param("full", "train", "backward", 0.08),  # before the first checkpoint, in the middle of a step
    ("full", "train", "backward", 0.55),
    ("lora", "train", "backward", 0.9),
    ("sft", "train", "backward", 0.57),  # between two of the four parts of a step
    ("bottleneck", "train", "backward", 0.6),
    ("prefix", "train", "backward", 0.6),
    ("features", "train", "backward", 0.5),  # in the middle of a path of penalties
    ("features", "train", "rename runs/colours/.staging-model", 1.0),  # trained, but the model has not its name yet
    ("full", "evaluate", "rename", 0.5),
]


@pytest.mark.parametrize(("kind", "stage", "what", "share"), PLACES)
def test_killed_and_started_again_it_ends_the_same(bench: Any, kind: str, stage: str, what: str, share: float) -> None:
    points = bench.points(kind, stage, what)
    place = bench.dies_and_goes_on(kind, points[min(len(points) - 1, int(share * len(points)))])
    assert place.result() == bench.expected(kind)


def test_killed_again_and_again(bench: Any) -> None:
    """Three kills in one run, each at another count of points from where it went on."""
    place = bench.dies_and_goes_on("full", 150, 150, 120)
    assert place.result() == bench.expected("full")
    assert len([event["step"] for event in place.events("resumed")]) >= 2


# --- in a save (T2b) --------------------------------------------------------------------------------------------------------------

SAVE = {"full": 7, "lora": 7, "sft": 9}
"""The save of this step is walked through: it is not the first, and it deletes an older checkpoint."""


def test_a_save_has_all_its_points(bench: Any) -> None:
    """The walk below goes over the middle of each tensor file, every flush and rename, and the deletion of the old checkpoint."""
    told = {number: what for number, _, what in bench.told["full"]} if bench.expected("full") else {}
    step = SAVE["full"]
    whats = [told[number] for number in bench.a_save("full", step)]
    assert whats.count("middle of a safetensors file") == 3
    assert whats.count("fsync") >= 2 * 2 + 5 + 1 + 1  # two JSON files with their folder, five files, the staging folder, the folder above
    assert sum(what.startswith("rename") for what in whats) == 3 and sum(what.startswith("remove") for what in whats) >= 5
    assert any(what.startswith("rmdir") for what in whats)
    # The order that a loss of power needs: all is flushed, then renamed, then the folder is flushed, and only then the old one goes.
    rename = next(i for i, what in enumerate(whats) if what == f"rename runs/colours/checkpoints/.staging-step-{step:06d}")
    assert set(whats[rename - 6 : rename]) == {"fsync"} and whats[rename + 1] == "fsync"
    assert next(i for i, what in enumerate(whats) if what == "remove weights.safetensors") > rename + 1


@pytest.mark.parametrize(("kind", "share"), [("full", 0.05), ("full", 0.8), ("sft", 0.62)])
def test_killed_in_a_save(bench: Any, kind: str, share: float) -> None:
    points = bench.a_save(kind, SAVE[kind])
    assert bench.dies_and_goes_on(kind, points[int(share * len(points))]).result() == bench.expected(kind)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
@pytest.mark.parametrize("kind", ["full", "lora", "sft"])
def test_killed_at_every_point_of_a_save(bench: Any, kind: str, part: int) -> None:
    points = bench.a_save(kind, SAVE[kind])
    assert len(points) > 30
    assert any(what.startswith("rmdir") for number, _, what in bench.told[kind] if number in points)  # it deletes an older one
    for number in points[part::6]:
        assert bench.dies_and_goes_on(kind, number).result() == bench.expected(kind), f"point {number}"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["start", "prepare", "evaluate", "report"])
def test_killed_at_every_point_of_a_stage(bench: Any, stage: str) -> None:
    for number in bench.points("features", stage):
        assert bench.dies_and_goes_on("features", number).result() == bench.expected("features"), f"point {number}"


@pytest.mark.slow
def test_killed_at_every_point_after_training(bench: Any) -> None:
    """From the last backward pass to the end of the stage: the last save, the model, its calibration, the state of the run."""
    points = bench.points("full", "train")
    for number in range(bench.points("full", "train", "backward")[-1], points[-1] + 1):
        assert bench.dies_and_goes_on("full", number).result() == bench.expected("full"), f"point {number}"


# --- from outside, at random steps and moments (T1, T2a, T6) ------------------------------------------------------------------------


def until(bench: Any, pid: int, seen: Callable[[], bool], most: float = 300.0) -> int | None:
    """Wait until something is seen; the exit code when the process has ended before."""
    deadline = time.monotonic() + most
    while not seen():
        code: int | None = bench.forker.over(pid)
        if code is not None:
            return code
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return None


def killed(bench: Any, place: Any, seen: Callable[[], bool], later: float) -> None:
    """Start a run, wait until something is seen and a moment more, and kill it."""
    pid = bench.forker.start(place)
    if until(bench, pid, seen) is None:
        time.sleep(later)
        os.kill(pid, signal.SIGKILL)
        assert bench.forker.wait(pid) in (0, -9), place.log  # 0: it ended in that moment


def killed_at_a_step(bench: Any, kind: str, seed: int) -> None:
    """Killed when a random step has been told, and again at a later one in half of the cases."""
    draw = random.Random(f"step {kind} {seed}")
    total = bench.expected(kind)["training"]["steps"]
    place = bench.place(kind)
    for step in sorted(draw.sample(range(1, total), draw.randint(1, 2))):
        killed(bench, place, lambda step=step: any(event["step"] >= step for event in place.events("step")), draw.uniform(0, 0.06))
    assert bench.forker.go(place) == 0, place.log
    assert place.result() == bench.expected(kind)


@pytest.mark.parametrize("kind", ["full", "sft"])
def test_killed_at_a_random_step(bench: Any, kind: str) -> None:
    killed_at_a_step(bench, kind, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), [*(("sft", seed) for seed in range(1, 51)), *(("full", seed) for seed in range(1, 26))])
def test_killed_at_random_steps(bench: Any, kind: str, seed: int) -> None:
    killed_at_a_step(bench, kind, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), [(("sft", "full")[seed % 2], seed) for seed in range(50)])
def test_killed_in_a_random_save(bench: Any, kind: str, seed: int) -> None:
    """Some milliseconds after the hidden folder of a random checkpoint has appeared."""
    draw = random.Random(f"save {kind} {seed}")
    expected = bench.expected(kind)
    place = bench.place(kind)
    step = draw.choice(bench.saves(kind))
    killed(bench, place, lambda: any((place.run / "checkpoints").glob(f".staging-*-step-{step:06d}")), draw.uniform(0, 0.02))
    assert bench.forker.go(place) == 0, place.log
    assert place.result() == expected


def signalled(bench: Any, kind: str, seed: int, number: int) -> None:
    """Start, wait a random while, send a signal; up to three times, then let it end."""
    draw = random.Random(f"{kind} {seed}")
    expected = bench.expected(kind)
    usual = max(0.5, min(3.0, bench.seconds[kind]))
    place = bench.place(kind)
    said = []
    for _ in range(draw.randint(1, 3)):
        pid = bench.forker.start(place)
        time.sleep(draw.uniform(0.05, usual))
        os.kill(pid, number)
        sent = time.monotonic()
        said.append(bench.forker.wait(pid))
        assert time.monotonic() - sent < 10, "it took ten seconds to stop"
        steps = [event["step"] for event in place.events("step")]
        if said[-1] == 128 + number and steps:
            assert steps[-1] - max(place.steps(), default=0) <= 1, "more than a step was lost"
    if number == signal.SIGKILL:
        assert set(said) <= {0, -9}, f"{said}\n{place.log}"
    else:
        # 0: it had ended; minus the number: before the command could listen to signals.
        assert set(said) <= {0, 128 + number, -number}, f"{said}\n{place.log}"
    assert bench.forker.go(place) == 0, place.log
    assert place.result() == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("kind", ["lora", "features or several"])
def test_killed_at_random_moments(bench: Any, kind: str, seed: int) -> None:
    signalled(bench, ("features", "several")[seed % 2] if " or " in kind else kind, seed + 1, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_asked_to_stop_at_random_moments(bench: Any, seed: int) -> None:
    kind = ("sft", "full", "sft", "lora", "sft", "features", "sft", "freeze")[seed % 8]
    signalled(bench, kind, seed, (signal.SIGTERM, signal.SIGINT)[(seed // 2 + seed // 8) % 2])


# --- asked to stop (T6) -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "stage", "what", "number"),
    [
        ("lora", "train", "backward", signal.SIGTERM),
        ("full", "evaluate", "open", signal.SIGINT),
        ("full", "train", "rename runs/colours/.staging-model", signal.SIGTERM),
        ("sft", "train", "backward", signal.SIGINT),
    ],
    ids=["in a step", "while evaluating", "while the model is written", "in a part of a step"],
)
def test_asked_to_stop_it_says_how_to_go_on(bench: Any, kind: str, stage: str, what: str, number: int) -> None:
    points = bench.points(kind, stage, what)
    place = bench.place(kind)
    assert bench.forker.go(place, at=points[len(points) // 2], signal=number) == 128 + number, place.log
    assert "the same command goes on from here" in place.log
    assert json.loads((place.run / "run.json").read_text())["status"] == "interrupted"
    if what == "backward":  # at most the step in which the signal came is behind the checkpoint
        last = place.events("checkpoint")[-1]["step"]
        assert last == place.events("step")[-1]["step"]
    assert bench.forker.go(place) == 0, place.log
    assert place.result() == bench.expected(kind)


def test_the_real_command_is_stopped_goes_on_and_equals_a_fork(bench: Any) -> None:
    """`python -m tunesmith`, started as a user does, with another seed for Python's hashes: stopped while training, then carried on."""
    place = bench.place("full")
    env = {**os.environ, "TUNESMITH_CACHE": str(place.folder / "cache"), "PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "1"}
    with open(place.folder / "log", "ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "tunesmith", "run", "colours.yaml"], cwd=place.folder, env=env, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not place.events("step") and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143, place.log
    assert "stopped; the same command goes on from here" in place.log
    assert 0 < place.events("step")[-1]["step"] < bench.expected("full")["training"]["steps"]
    assert bench.forker.go(place) == 0, place.log
    assert place.result() == bench.expected("full")


# --- a run is a run -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "lora", "features"])
def test_a_run_equals_a_run(bench: Any, kind: str) -> None:
    """Twice from scratch: the same bytes."""
    place = bench.dies_and_goes_on(kind)
    assert place.result() == bench.expected(kind)
    assert Path(place.run / "model").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora", "features", "freeze", "bottleneck", "prefix", "sft"])
def test_a_run_in_a_fresh_process_equals_a_run(bench: Any, kind: str) -> None:
    """With another seed for Python's hashes, which decides the order of sets of names."""
    for seed in ("1", "2"):
        place = bench.place(kind)
        env = {**os.environ, "TUNESMITH_CACHE": str(place.folder / "cache"), "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "tunesmith", "run", "colours.yaml"], cwd=place.folder, env=env, check=True, capture_output=True)
        result = place.result()
        # The fork cuts vectors into smaller batches; everything else is the same command.
        if kind != "features":
            assert result == bench.expected(kind)
        if seed == "1":
            first = result
    assert result == first
