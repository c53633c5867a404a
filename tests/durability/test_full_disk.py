"""A disk that is full, at 20 sizes: one line that says so, nothing half, and the same command goes on once there is room (T4)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SIZES = 20


@pytest.fixture
def small() -> Iterator[Callable[[Path, int], None]]:
    """Makes a folder a disk of its own of some pages, or gives it another size."""
    mounted: list[Path] = []

    def disk(folder: Path, pages: int) -> None:
        folder.mkdir(exist_ok=True)
        again = "remount," if folder in mounted else ""
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"{again}size={pages * 4096}", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
        if made.returncode and not mounted:
            pytest.skip(f"a small disk cannot be made here, which takes root: {made.stderr.strip()}")
        assert made.returncode == 0, made.stderr
        if folder not in mounted:
            mounted.append(folder)

    yield disk
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


SAID = re.compile(r"error: (?P<place>\S+): no space left on the disk \([\d.,]+ MB free\)\n  -> free some space .*, then give the same command again")


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        pytest.param(("sft", "full")[size % 2], size, marks=[] if size in (8, 13) else [pytest.mark.slow])  # 20 sizes, evenly from nothing to nearly enough
        for size in range(SIZES)
    ],
)
def test_a_full_disk_is_told_leaves_no_halves_and_loses_nothing(bench: Any, small: Any, kind: str, size: int) -> None:
    expected = bench.expected(kind)
    place = bench.place(kind)
    small(place.run.parent, max(1, bench.pages[kind] * (size + 1) // (SIZES + 1)))
    assert bench.forker.go(place) == 2, place.log
    found = SAID.findall(place.log)
    assert len(found) == 1 and found[0].startswith(("runs", str(place.folder))) and "Traceback" not in place.log, place.log
    assert place.halves() == [] and list(place.folder.rglob("runs/**/.staging-*")) == []
    newest = place.steps()[-1:]
    trained = newest and place.done("train")
    small(place.run.parent, 1 << 16)
    assert bench.forker.go(place) == 0, place.log
    assert [event["step"] for event in place.events("resumed")] == ([] if trained else newest)
    assert place.result() == expected
