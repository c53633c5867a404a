"""A finished checkpoint is damaged: it is noticed, told and passed over, and the run ends as if nothing had happened (T5).

What single parts of the check do is in tests/training/test_checkpoint.py; here the whole command meets the damage.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FILES = ("weights.safetensors", "moments.safetensors", "random.safetensors", "state.json", "manifest.json")
Harm = Callable[[Path, Path, random.Random], None]


def flip(path: Path, older: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, older: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def zeros(path: Path, older: Path, draw: random.Random) -> None:
    """As many disks leave a block that was never written."""
    size = path.stat().st_size
    start = draw.randrange(size)
    data = path.read_bytes()
    path.write_bytes(data[:start] + bytes(size - start) if any(data[start:]) else bytes(size))


def swap(path: Path, older: Path, draw: random.Random) -> None:
    """Exchange a file for that of an older checkpoint: whole, valid, of the right kind."""
    kept = older.read_bytes()
    older.write_bytes(path.read_bytes())
    path.write_bytes(kept)


def edited(change: Callable[[dict[str, Any]], Any]) -> Harm:
    def edit(path: Path, older: Path, draw: random.Random) -> None:
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return edit


def folder_in_its_place(path: Path, older: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


HARMS: list[tuple[str, str, Harm]] = [
    *((f"flip {name} {n}", name, flip) for n in range(6) for name in FILES),
    *((f"truncate {name} {n}", name, truncate) for n in range(2) for name in FILES),
    *((f"zeros in {name}", name, zeros) for name in FILES),
    *((f"delete {name}", name, lambda path, older, draw: path.unlink()) for name in FILES),
    *((f"append to {name}", name, lambda path, older, draw: path.write_bytes(path.read_bytes() + b" }")) for name in FILES),
    *((f"swap {name}", name, swap) for name in FILES),
    *((f"another's {name}", name, lambda path, older, draw: path.write_bytes(older.read_bytes())) for name in FILES),
    *((f"a folder for {name}", name, folder_in_its_place) for name in FILES),
    ("the manifest says another step", "manifest.json", edited(lambda m: m.update(step=m["step"] + 1))),
    ("the manifest says another training", "manifest.json", edited(lambda m: m.update(identity="0" * 64))),
    ("the manifest has no identity", "manifest.json", edited(lambda m: m.pop("identity"))),
    ("the manifest leaves out a file", "manifest.json", edited(lambda m: m["files"].pop("random.safetensors"))),
    ("the manifest names a file too many", "manifest.json", edited(lambda m: m["files"].update(more={"bytes": 0, "sha256": ""}))),
    ("the manifest has another hash", "manifest.json", edited(lambda m: m["files"]["moments.safetensors"].update(sha256="0" * 64))),
    ("the manifest has another size", "manifest.json", edited(lambda m: m["files"]["state.json"].update(bytes=1))),
    ("the manifest's files are a list", "manifest.json", edited(lambda m: m.update(files=list(m["files"])))),
    ("the manifest is a list", "manifest.json", lambda path, older, draw: path.write_text("[]")),
    ("all is gone but the name", "", lambda path, older, draw: [one.unlink() for one in path.iterdir()]),
]
CASES = [(("sft", "full")[number % 2], what, name, harm) for number, (what, name, harm) in enumerate(HARMS)]
SHORT = ("flip weights.safetensors 0", "truncate moments.safetensors 0", "delete random.safetensors", "swap state.json")
SHORT_EDITS = ("the manifest leaves out a file", "all is gone but the name")


def test_there_are_eighty() -> None:
    assert len({what for _, what, _, _ in CASES}) == 80


@pytest.mark.parametrize(
    ("kind", "what", "name", "harm"),
    [pytest.param(*case, id=case[1], marks=[] if case[1] in SHORT + SHORT_EDITS else [pytest.mark.slow]) for case in CASES],
)
def test_damage_is_told_and_the_one_before_is_used(bench: Any, kind: str, what: str, name: str, harm: Harm) -> None:
    place = bench.copy(bench.stopped(kind))
    *others, before, newest = place.steps()
    folder, older = (place.run / "checkpoints" / f"step-{step:06d}" for step in (newest, before))
    told = len(place.events("step"))
    harm(folder / name, older / name, random.Random(what))
    assert bench.forker.go(place) == 0, place.log
    passed = [event["text"] for event in place.events("warning") if "is passed over: " in event["text"]]
    assert passed and passed[0].startswith(f"checkpoint step-{newest:06d} is passed over: "), place.log
    assert " ".join(passed[0].split()) in " ".join(place.log.split())  # the user sees it, whatever the width of a line
    harmed = [newest, before] if what.startswith("swap") else [newest]
    assert len(passed) == len(harmed)
    left = max((step for step in [*others, before] if step not in harmed), default=0)
    assert [event["step"] for event in place.events("resumed")][-1:] == ([left] if left else [])
    assert told and place.result() == bench.expected(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "full"])
def test_when_all_are_damaged_the_run_begins_anew(bench: Any, kind: str) -> None:
    place = bench.copy(bench.stopped(kind))
    steps = place.steps()
    for step in steps:
        shutil.copy(place.run / "checkpoints" / f"step-{steps[0]:06d}" / "state.json", place.run / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")
    assert bench.forker.go(place) == 0, place.log
    assert len([event for event in place.events("warning") if "is passed over: " in event["text"]]) == len(steps)
    assert place.events("resumed") == [] and place.result() == bench.expected(kind)
