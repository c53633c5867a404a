"""What else can happen around a run: a second one, a folder that may not be written or goes away, a clock that jumps (T13)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Root may write anywhere, so the folder becomes a read-only mount of itself; others lose the permission."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(0o755)
        return
    bound = subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True, text=True, check=False)
    if bound.returncode:
        pytest.skip(f"a read-only folder cannot be made for root here: {bound.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True, capture_output=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def when(bench: Any, place: Any, pid: int, seen: Callable[[], bool]) -> None:
    """Wait until something is seen of a living run."""
    deadline = time.monotonic() + 120
    while not seen():
        assert bench.forker.over(pid) is None and time.monotonic() < deadline, place.log
        time.sleep(0.001)


def paused(bench: Any, place: Any, share: float = 0.5) -> int:
    """A run that stands still in the middle of its training (SIGSTOP); its id."""
    points = bench.points(place.kind, "train", "backward")
    pid: int = bench.forker.start(place, at=points[int(share * len(points))], signal=signal.SIGSTOP)
    when(bench, place, pid, lambda: "\nState:\tT" in Path(f"/proc/{pid}/status").read_text())
    return pid


def error(place: Any) -> str:
    """The one error of the log, its remedy with it."""
    assert place.log.count("error: ") == 1 and "Traceback" not in place.log and "\n  -> " in place.log, place.log
    return str(place.log[place.log.index("error: ") :])


def test_a_second_process_on_the_same_run_is_refused_and_the_first_does_not_notice(bench: Any) -> None:
    place = bench.place("sft")
    pid = paused(bench, place)
    assert bench.forker.go(place) == 2, place.log
    assert "another process is working on this run" in error(place) and "runs/colours" in error(place)
    os.kill(pid, signal.SIGCONT)
    assert bench.forker.wait(pid) == 0, place.log
    assert place.result() == bench.expected("sft")


@pytest.mark.slow
def test_runs_of_two_recipes_in_one_folder_at_once_do_not_meet(bench: Any) -> None:
    place, other = bench.place("sft"), bench.place("full")
    shutil.copy(other.folder / "colours.csv", place.folder / "colours.csv")
    (place.folder / "other.yaml").write_text((other.folder / "colours.yaml").read_text().replace('"data"', '"name": "colours", "data"', 1))
    pids = [bench.forker.start(place), bench.forker.start(place, argv=["run", "other.yaml"])]
    assert [bench.forker.wait(pid) for pid in pids] == [0, 0], place.log
    found = [type(place)(place.folder, place.kind, name) for name in ("colours", "colours-2")]
    first = 0 if "sft" in (found[0].run / "recipe.yaml").read_text() else 1
    assert found[first].result() == bench.expected("sft") and found[1 - first].result() == bench.expected("full")


@pytest.mark.slow
def test_a_folder_of_runs_that_may_not_be_written_is_said(bench: Any) -> None:
    place = bench.place("full")
    place.run.parent.mkdir()
    with read_only(place.run.parent):
        assert bench.forker.go(place) == 2, place.log
        assert "no permission to read or write here" in error(place) and error(place).startswith("error: runs")
        assert list(place.run.parent.iterdir()) == []
    assert bench.forker.go(place) == 0, place.log
    assert place.result() == bench.expected("full")


def test_half_a_run_that_may_not_be_written_any_more_is_said_and_goes_on_later(bench: Any) -> None:
    place = bench.copy(bench.stopped("sft"))
    with read_only(place.run):
        assert bench.forker.go(place) == 2, place.log
        assert "no permission to read or write here" in error(place) and "runs/colours" in error(place)
    assert bench.forker.go(place) == 0, place.log
    assert place.events("resumed") and place.result() == bench.expected("sft")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "full"])
def test_a_run_whose_folder_goes_away_says_so_and_the_same_command_begins_anew(bench: Any, kind: str) -> None:
    place = bench.place(kind)
    pid = paused(bench, place)
    shutil.rmtree(place.run)
    os.kill(pid, signal.SIGCONT)
    assert bench.forker.wait(pid) == 2, place.log
    assert "runs/colours" in error(place) and "no such file or folder" in error(place)
    assert not (place.run / "model").exists() and not (place.run / "run.json").exists()
    assert bench.forker.go(place) == 0, place.log
    assert place.result() == bench.expected(kind)


@pytest.mark.slow
def test_checkpoints_that_go_away_cost_at_most_another_start(bench: Any) -> None:
    place = bench.place("sft")
    pid = paused(bench, place)
    shutil.rmtree(place.run / "checkpoints")
    os.kill(pid, signal.SIGCONT)
    code = bench.forker.wait(pid)
    assert code in (0, 2), place.log
    assert code == 0 or "the same command again" in error(place)
    assert bench.forker.go(place) == 0, place.log
    assert place.result() == bench.expected("sft")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_clock_that_jumps_changes_nothing(bench: Any, seconds: int) -> None:
    """In a living run, and again between a kill and the next start."""
    place = bench.place("sft")
    points = bench.points("sft", "train", "backward")
    env = {"DURABILITY_CLOCK": str(seconds)}
    assert bench.forker.go(place, at=points[len(points) // 2], env=env) == -9, place.log
    assert bench.forker.go(place, env={"DURABILITY_CLOCK": str(2 * seconds)}) == 0, place.log
    assert place.result() == bench.expected("sft")
    assert all(0 <= stage["seconds"] < 600 for stage in place.state["stages"]) and 0 < place.state["training"]["seconds"] < 600


@pytest.mark.slow
def test_data_that_goes_away_between_two_starts_is_said(bench: Any) -> None:
    place = bench.copy(bench.stopped("sft"))
    (place.folder / "colours.jsonl").rename(place.folder / "elsewhere")
    assert bench.forker.go(place) == 2, place.log
    assert "colours.jsonl" in error(place)
    (place.folder / "elsewhere").rename(place.folder / "colours.jsonl")
    assert bench.forker.go(place) == 0, place.log
    assert place.events("resumed") and place.result() == bench.expected("sft")
