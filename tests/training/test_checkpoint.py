"""A damaged checkpoint is noticed, told and passed over, and the training still ends with the same bits (T5)."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.core.errors import UserError
from tunesmith.training import checkpoint

FILES = [*checkpoint.FILES, "manifest.json"]
SETTINGS = {"evaluate_every": 0.5, "checkpoint_steps": 2, "keep_checkpoints": 30}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Kept for the module: a folder of whole checkpoints stopped at step 12, made by the first test that asks."""
    return {"folder": tmp_path_factory.mktemp("whole")}


@pytest.fixture
def stopped(lab: Any, trained: dict[str, Any]) -> Any:
    """A training stopped at step 12 with checkpoints 2, 4 ... 12, and in `whole` what it would have come to."""
    if "whole" not in trained:
        folder = trained["folder"]
        first = type(lab)(folder / "stopped")
        answers = iter([*[None] * 11, 15])
        first.train(stop=lambda: next(answers, None), **SETTINGS)
        trained["whole"] = type(lab)(folder / "uninterrupted").train(**SETTINGS)
    shutil.copytree(trained["folder"] / "stopped", lab.folder)
    lab.whole = trained["whole"]
    return lab


def flip(path: Path, place: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(path.name).randrange(len(data)) if place is None else place] ^= 0x10
    path.write_bytes(data)


def swap(path: Path) -> None:
    """Exchange a file for that of the step before: whole, valid, and of the right size."""
    other = path.parent.parent / "step-000010" / path.name
    kept = other.read_bytes()
    other.write_bytes(path.read_bytes())
    path.write_bytes(kept)


def edit(change: Any) -> Any:
    def edited(path: Path) -> None:
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return edited


DAMAGES: list[tuple[str, str, Any]] = [
    *[(f"flip {name}", name, flip) for name in FILES],
    *[(f"flip the first byte of {name}", name, lambda path: flip(path, 0)) for name in FILES],
    *[(f"truncate {name}", name, lambda path: path.write_bytes(path.read_bytes()[:-2])) for name in FILES],
    *[(f"empty {name}", name, lambda path: path.write_bytes(b"")) for name in FILES],
    *[(f"delete {name}", name, lambda path: path.unlink()) for name in FILES],
    *[(f"append to {name}", name, lambda path: path.write_bytes(path.read_bytes() + b"}")) for name in FILES],
    *[(f"swap {name}", name, swap) for name in ("weights.safetensors", "moments.safetensors", "random.safetensors", "state.json", "manifest.json")],
    ("symlink", "weights.safetensors", lambda path: (path.rename(path.with_name("elsewhere")), path.symlink_to(path.with_name("elsewhere")))),
    ("another step", "manifest.json", edit(lambda m: m.update(step=10))),
    ("another identity", "manifest.json", edit(lambda m: m.update(identity="x"))),
    ("no identity", "manifest.json", edit(lambda m: m.pop("identity"))),
    ("a file left out", "manifest.json", edit(lambda m: m["files"].pop("moments.safetensors"))),
    ("a file too many", "manifest.json", edit(lambda m: m["files"].update(extra={"bytes": 0, "sha256": ""}))),
    ("another hash", "manifest.json", edit(lambda m: m["files"]["weights.safetensors"].update(sha256="0" * 64))),
    ("another size", "manifest.json", edit(lambda m: m["files"]["weights.safetensors"].update(bytes=3))),
    ("files a list", "manifest.json", edit(lambda m: m.update(files=["weights.safetensors"]))),
    ("not a dict", "manifest.json", lambda path: path.write_text("[]")),
]


@pytest.mark.parametrize(("name", "harm"), [(name, harm) for _, name, harm in DAMAGES], ids=[what for what, _, _ in DAMAGES])
def test_damage_is_passed_over_with_a_warning_and_the_end_is_the_same(stopped: Any, same: Any, name: str, harm: Any) -> None:
    older = [step for step in stopped.steps() if step < 10]
    harm(stopped.folder / "step-000012" / name)
    resumed = stopped.train(**SETTINGS)
    assert resumed.error is None
    warnings = [event["text"] for event in resumed.told("warning")]
    assert warnings and warnings[0].startswith("checkpoint step-000012 is passed over: ")
    # Swapping harms two steps, so the one before both is taken.
    assert resumed.told("resumed")[0]["step"] == (max(older) if len(warnings) > 1 else 10)
    assert same(resumed.weights(), stopped.whole.weights()) and resumed.outcome.kept_step == stopped.whole.outcome.kept_step
    told = {event["step"]: event for event in resumed.told("step")}
    assert told == {event["step"]: event for event in stopped.whole.told("step") if event["step"] in told}
    assert checkpoint.damage(stopped.folder / "step-000012", "lab") == ""  # written again, whole


def test_when_all_are_damaged_it_starts_from_the_beginning(stopped: Any, same: Any) -> None:
    for folder in stopped.folder.iterdir():
        flip(folder / "moments.safetensors")
    resumed = stopped.train(**SETTINGS)
    assert resumed.told("resumed") == [] and len(resumed.told("warning")) == 7  # one for each of 2, 4, 6, 7, 9, 10 and 12
    assert same(resumed.weights(), stopped.whole.weights())


def test_a_damaged_best_checkpoint_takes_those_that_need_it_along(lab: Any, scripted: Any, same: Any) -> None:
    """The best step is not the newest: without it the training could not end as it should, so an older start is taken."""
    scores = [0.1, 0.9, 0.3, 0.2, 0.2, 0.2]
    whole = lab.elsewhere("whole").train(scripted(scores), **SETTINGS)
    answers = iter([*[None] * 11, 15])
    lab.train(scripted(scores), stop=lambda: next(answers, None), **SETTINGS)
    flip(lab.folder / "step-000007" / "weights.safetensors")
    resumed = lab.train(scripted(scores[1:]), **SETTINGS)
    texts = [event["text"] for event in resumed.told("warning")]
    assert texts[0] == (
        "checkpoint step-000012 is passed over: the best step's checkpoint, step-000007, goes with it, and "
        "weights.safetensors is not what was written (size or hash differs)"
    )
    assert resumed.told("resumed")[0]["step"] == 6 and resumed.outcome.kept_step == 7
    assert same(resumed.weights(), whole.weights())


def test_a_best_checkpoint_that_is_lost_while_training_is_said_and_mended_by_the_same_call(lab: Any, scripted: Any, same: Any) -> None:
    scores = [0.1, 0.9, 0.3, 0.2, 0.2, 0.2]
    whole = lab.elsewhere("whole").train(scripted(scores), **SETTINGS)

    def lose() -> None:
        if 17 in lab.steps():
            shutil.rmtree(lab.folder / "step-000007", ignore_errors=True)

    failed = lab.train(scripted(scores), stop=lose, **SETTINGS)
    assert isinstance(failed.error, UserError) and "the best checkpoint cannot be used: it is gone" in str(failed.error)
    assert "give the same command again" in str(failed.error)
    mended = lab.train(scripted(scores[1:]), **SETTINGS)
    assert mended.error is None and same(mended.weights(), whole.weights()) and mended.outcome.kept_step == 7


def test_after_damage_the_new_checkpoints_are_not_tidied_away(stopped: Any) -> None:
    """With one checkpoint to keep, the damaged later one must not count as the newest."""
    flip(stopped.folder / "step-000012" / "weights.safetensors")
    answers = iter([15])
    stopped.train(stop=lambda: next(answers, None), **{**SETTINGS, "keep_checkpoints": 1, "checkpoint_steps": 1})
    found, warnings = checkpoint.newest(stopped.folder, "lab")
    assert found is not None and found.state["step"] == 11 and warnings == []


def test_steps_beyond_a_million_are_ordered_by_number(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000, 1_000_001):
        checkpoint.save(tmp_path, step, "i", {"w": torch.zeros(1)}, {}, {}, {"step": step, "best_step": None})
    found, _ = checkpoint.newest(tmp_path, "i")
    assert found is not None and found.state["step"] == 1_000_001
    checkpoint.tidy(tmp_path, 1_000_001, 1, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1000001"]


def test_strange_names_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, "i", {"w": torch.zeros(1)}, {}, {}, {"step": 3, "best_step": None})
    (tmp_path / "step-notes").mkdir()
    (tmp_path / "step-000009").write_text("a file")
    found, warnings = checkpoint.newest(tmp_path, "i")
    assert found is not None and found.state["step"] == 3 and warnings == []
    checkpoint.tidy(tmp_path, 3, 1, None, None)
    assert {path.name for path in tmp_path.iterdir()} == {"step-000003", "step-notes", "step-000009"}


def test_there_is_no_pickle_and_nothing_beyond_the_manifest(stopped: Any) -> None:
    for folder in stopped.folder.glob("step-*"):
        assert {path.name for path in folder.iterdir()} == set(FILES)


def test_a_save_that_fails_leaves_the_others_as_they_were(stopped: Any, monkeypatch: pytest.MonkeyPatch, same: Any) -> None:
    """No space left, told by safetensors in its own words at any of the three files: one line for the user, and the same call goes on."""
    import safetensors.torch

    real = safetensors.torch.save_file
    for file in range(3):
        calls = iter(range(100))

        def full(tensors: Any, path: Any, file: int = file, calls: Any = calls) -> None:
            if next(calls) == file:
                path.write_bytes(b"half")
                raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
            real(tensors, path)

        monkeypatch.setattr(safetensors.torch, "save_file", full)
        before = {path: path.stat().st_mtime_ns for path in stopped.folder.rglob("*")}
        failed = stopped.train(**SETTINGS)
        assert isinstance(failed.error, UserError) and "no space left on the disk" in str(failed.error) and "it resumes" in str(failed.error)
        assert {path: path.stat().st_mtime_ns for path in stopped.folder.rglob("*")} == before
    monkeypatch.setattr(safetensors.torch, "save_file", real)
    assert same(stopped.train(**SETTINGS).weights(), stopped.whole.weights())
