"""Runs in processes of their own that are killed, and what they must come to all the same."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TRAIN = {
    "batch_rows": 8,
    "micro_rows": 3,
    "precision": "fp32",
    "threads": 1,
    "checkpoint_steps": 3,
    "evaluate_every": 0.5,
    "log_every": 1,
    "keep_checkpoints": 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "train": {"epochs": 2, "learning_rate": 2e-3}},
    "lora": {"method": {"kind": "lora", "dropout": 0.1}, "train": {"epochs": 2, "learning_rate": 1e-2}},
    "freeze": {"method": {"kind": "freeze", "layers": 1}, "train": {"epochs": 2, "learning_rate": 2e-3}},
    "bottleneck": {"method": {"kind": "bottleneck", "width": 8}, "train": {"epochs": 2, "learning_rate": 5e-3}},
    "prefix": {"method": {"kind": "prefix", "tokens": 4}, "train": {"epochs": 2, "learning_rate": 1e-2}},
    "features": {"method": "features", "train": {"epochs": 3, "learning_rate": 2e-3}},
    "several": {"method": "features", "train": {"epochs": 3, "learning_rate": 2e-3}, "data": {"multi_label": True}},
    # A language model: dialogues in packed rows, four parts to a step.
    "sft": {"method": {"kind": "lora", "dropout": 0.1}, "train": {"epochs": 2, "learning_rate": 1e-2, "micro_rows": 2}, "objective": "sft"},
}
QUICK = {
    "labels": {"resamples": 100, "against": ["majority"]},
    "dialogues": {"resamples": 100, "against": [], "general": None, "most_rows": 4, "max_new_tokens": 8},
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long forms run only when asked for with `-m slow`."""
    if "slow" not in config.getoption("-m"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "gone"


@dataclass
class Place:
    """A folder with a recipe, its data, and its own cache of vectors; `name` is the run's."""

    folder: Path
    kind: str
    name: str = "colours"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / self.name

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        path = self.run / "events.jsonl"
        out = []
        for line in path.read_text().splitlines() if path.exists() else []:
            event = json.loads(line) if line.endswith("}") else {"kind": "torn"}
            event.pop("time", None)
            if event["kind"] in kinds:
                out.append(event)
        return out

    @property
    def state(self) -> dict[str, Any]:
        """What run.json says."""
        read: dict[str, Any] = json.loads((self.run / "run.json").read_text())
        return read

    def steps(self) -> list[int]:
        """The steps that have a checkpoint."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.run.glob("checkpoints/step-*"))

    def done(self, stage: str) -> bool:
        """Whether run.json says that a stage is finished."""
        return any(one["name"] == stage and one["status"] == "finished" for one in self.state["stages"])

    def halves(self) -> list[str]:
        """What has a final name and is not whole: checkpoints that do not fit their manifest, outputs of stages that are finished."""
        found = []
        for folder in self.run.glob("checkpoints/step-*"):
            manifest = folder / "manifest.json"
            files = json.loads(manifest.read_text())["files"] if manifest.exists() else {"manifest.json": {"sha256": ""}}
            found += [f"{folder.name}/{name}" for name, about in files.items() if _hash(folder / name) != about["sha256"]]
        if (self.run / "model").exists():
            found += [name for name in ("model/tunesmith.json",) if not (self.run / name).exists()]
        for path in self.run.rglob("*.json"):
            try:
                json.loads(path.read_text())
            except ValueError:
                found.append(str(path.relative_to(self.run)))
        return found

    def not_finite(self) -> list[str]:
        """Tensors with a number that is not finite, in all checkpoints and the model."""
        import torch
        from safetensors.torch import load_file

        paths = [path for path in self.run.rglob("*.safetensors") if path.name != "random.safetensors"]
        return [f"{path.name}:{name}" for path in paths for name, value in load_file(path).items() if not torch.isfinite(value.float()).all()]

    def result(self) -> dict[str, Any]:
        """All that a kill must not change."""
        from safetensors.torch import load_file

        newest = sorted((self.run / "checkpoints").glob("step-*"))[-1:]
        assert bool(newest) == (KINDS[self.kind]["method"] != "features")  # its head is solved for, again after a kill
        tensors = {
            f"{path.name}:{name}": hashlib.sha256(value.numpy().tobytes()).hexdigest()
            for path in (newest[0].glob("*.safetensors") if newest else ())
            for name, value in load_file(path).items()
        }
        state = json.loads((self.run / "run.json").read_text())
        return {
            "status": state["status"],
            "training": {k: v for k, v in state["training"].items() if k in ("steps", "tokens", "kept_step", "skipped_steps", "stopped_early")},
            "model": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((self.run / "model").iterdir())},
            "data": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((self.run / "data").glob("*.parquet"))},
            "newest checkpoint": [folder.name for folder in newest],
            "tensors": tensors,
            "events": self.events("step", "valid", "skipped"),
            "evaluation": json.loads((self.run / "evaluation.json").read_text()),
            "leftovers": [str(path) for path in self.run.rglob(".staging-*")],
        }


@dataclass
class Forker:
    """Talks to forker.py."""

    process: subprocess.Popen[str]

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the forker has died"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def start(
        self,
        place: Place,
        at: int | None = None,
        signal: int = 9,
        points: Path | None = None,
        argv: list[str] | None = None,
        env: dict[str, str] | None = None,
    ) -> int:
        """Begin `tunesmith run` in a process of its own; its id. `env` are variables beside the cache's."""
        run = {
            "argv": argv or ["run", "colours.yaml"],
            "cwd": str(place.folder),
            "env": {"TUNESMITH_CACHE": str(place.folder / "cache"), **(env or {})},
            "log": str(place.folder / "log"),
            "points": str(points) if points else None,
            "at": at,
            "signal": signal,
        }
        return int(self.ask({"run": run})["pid"])

    def wait(self, pid: int) -> int:
        return int(self.ask({"wait": pid})["code"])

    def over(self, pid: int) -> int | None:
        """The exit code of one that has ended, None while it works. Not to be asked again once it has ended."""
        code = self.ask({"over": pid})["code"]
        return None if code is None else int(code)

    def go(self, place: Place, **how: Any) -> int:
        """Run to the end, whichever it is; its exit code."""
        return self.wait(self.start(place, **how))


@dataclass
class Bench:
    """Makes places, knows what an undisturbed run comes to, and where its points lie."""

    forker: Forker
    base: Path
    data: str
    writer: Path
    """The base of kinds that write texts, and `dialogues` their rows."""
    dialogues: str
    root: Path
    count: int = 0
    whole: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)
    pages: dict[str, int] = field(default_factory=dict)
    """Pages of 4096 bytes that the folder of an undisturbed run fills in the end."""
    halted: dict[str, Place] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """How long an undisturbed run took."""

    def folder(self, kind: str) -> Path:
        self.count += 1
        return self.root / f"{kind}-{self.count}"

    def place(self, kind: str, **train: Any) -> Place:
        """A new one; `train` changes settings of training."""
        folder = self.folder(kind)
        folder.mkdir()
        made = KINDS[kind]
        writes = "objective" in made
        name = "colours.jsonl" if writes else "colours.csv"
        recipe = {
            "data": {"train": name, "duplicates": {"near": None}, **({} if writes else {"text": "text", "label": "label"}), **made.get("data", {})},
            "model": {"base": str(self.writer)} if writes else {"base": str(self.base), "dropout": 0.1},
            "method": made["method"],
            "train": TRAIN | made["train"] | train,
            "evaluate": QUICK["dialogues" if writes else "labels"],
            **({"objective": made["objective"]} if writes else {}),
        }
        (folder / "colours.yaml").write_text(json.dumps(recipe))
        rows = self.dialogues if writes else self.data
        (folder / name).write_text(rows.replace(",red,", ",red|green,") if kind == "several" else rows)
        return Place(folder, kind)

    def copy(self, place: Place) -> Place:
        """The same place once more, whatever it has come to."""
        folder = self.folder(place.kind)
        shutil.copytree(place.folder, folder, symlinks=True)
        (folder / "log").unlink(missing_ok=True)
        for path in folder.glob("runs/*/recipe.yaml"):  # it names the data and the base where they lay
            path.write_text(path.read_text().replace(str(place.folder), str(folder)))
        return Place(folder, place.kind)

    def stopped(self, kind: str, share: float = 0.7) -> Place:
        """A run that was killed at this share of its training, the same for all who ask. It is not to be touched: make a copy."""
        key = f"{kind} {share}"
        if key not in self.halted:
            points = self.points(kind, "train", "backward")
            place = self.halted[key] = self.place(kind)
            assert self.forker.go(place, at=points[int(share * len(points))]) == -9, place.log
            assert len(place.steps()) >= 2
        return self.halted[key]

    def expected(self, kind: str, **train: Any) -> dict[str, Any]:
        """What a run comes to that nobody disturbs."""
        key = kind + (json.dumps(train, sort_keys=True) if train else "")
        if key not in self.whole:
            place = self.place(kind, **train)
            record = place.folder / "points"
            started = time.monotonic()
            code = self.forker.go(place, points=record)
            self.seconds[key] = time.monotonic() - started
            assert code == 0, place.log
            self.whole[key] = place.result()
            self.pages[key] = sum(-(-path.stat().st_size // 4096) for path in place.run.rglob("*") if path.is_file())
            assert self.whole[key]["status"] == "finished" and self.whole[key]["leftovers"] == []
            lines = [line.split("\t") for line in record.read_text().splitlines()]
            self.told[key] = [(int(number), stage, what) for number, stage, what in lines]
        return self.whole[key]

    def points(self, kind: str, stage: str = "", what: str = "") -> list[int]:
        """Numbers of the points of an undisturbed run, in a stage and of a kind."""
        self.expected(kind)
        return [number for number, s, w in self.told[kind] if stage in ("", s) and what in w]

    def saves(self, kind: str) -> list[int]:
        """The steps after which an undisturbed run saves."""
        self.expected(kind)
        found = [re.search(r"^mkdir .*staging-step-(\d+)$", what) for _, _, what in self.told[kind]]
        return list(dict.fromkeys(int(one[1]) for one in found if one))

    def a_save(self, kind: str, step: int) -> list[int]:
        """Every point of one checkpoint's save, its deletion of old ones included: from its first folder to the next thing."""
        self.expected(kind)
        told = self.told[kind]
        first = next(i for i, (_, _, what) in enumerate(told) if what.startswith("mkdir") and what.endswith(f"staging-step-{step:06d}"))
        last = next(i for i in range(first, len(told)) if told[i][2] == "backward")
        return [number for number, _, _ in told[first : last + 1]]

    def dies_and_goes_on(self, kind: str, *at: int) -> Place:
        """Kill a run at points, one after another, then let it end."""
        place = self.place(kind)
        for number in at:
            assert self.forker.go(place, at=number) == -9, f"point {number} was not reached\n{place.log}"
        assert self.forker.go(place) == 0, place.log
        return place


@pytest.fixture(scope="session")
def forker() -> Iterator[Forker]:
    script = Path(__file__).with_name("forker.py")
    process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None and "ready" in process.stdout.readline()
    yield Forker(process)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(120)


@pytest.fixture(scope="session")
def bench(forker: Forker, tiny_base: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    draw = random.Random(0)
    words = {"red": "apple brick rose cherry ruby", "green": "leaf grass lime moss fern", "blue": "sky sea ink jeans lake"}
    lines = ["text,label,who"]
    for index in range(100):
        label = draw.choice(sorted(words))
        said = draw.sample("the old man saw one very near his big house on that day".split(), draw.randint(2, 6)) + draw.sample(words[label].split(), 2)
        lines.append(f"{' '.join(said)} {index},{label},p{index % 30}")
    dialogues = []
    for index in range(120):
        colour = draw.choice(sorted(words))
        thing, other = draw.sample(words[colour].split(), 2)
        turns = [("user", f"what colour is the {thing} of house {index}?"), ("assistant", f"it is {colour}.")]
        if index % 3 == 0:
            turns += [("user", f"and the {other}?"), ("assistant", f"{colour} as well.")]
        dialogues.append(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}))
    root = tmp_path_factory.mktemp("durability")
    return Bench(forker, tiny_base, "\n".join(lines) + "\n", tiny_llama, "\n".join(dialogues) + "\n", root)
