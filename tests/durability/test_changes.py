"""A setting, the data or the base changes in the middle of a training: no checkpoint of the one is ever used for the other (T12)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Change = Callable[[Path], None]


def recipe(section: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "colours.yaml"
        made = json.loads(path.read_text())
        made[section] = {**(made[section] if isinstance(made[section], dict) else {"kind": made[section]}), **values}
        path.write_text(json.dumps(made))

    return change


def text_of(name: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


def weights(folder: Path) -> None:
    """One number of the base's weights, by one bit."""
    path = folder / "base" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def merges(folder: Path) -> None:
    """The tokenizer knows one merge less."""
    path = folder / "base" / "tokenizer.json"
    made = json.loads(path.read_text())
    made["model"]["merges"].pop()
    path.write_text(json.dumps(made))


def last_row(folder: Path) -> None:
    lines = (folder / "colours.jsonl").read_text().splitlines(keepends=True)
    (folder / "colours.jsonl").write_text("".join(lines[:-1]))


CHANGES: dict[str, Change] = {
    "rank": recipe("method", rank=4),
    "the base's template": text_of("base/tokenizer_config.json", "<|im_end|>\\n{% endfor", "<|im_end|>\\n\\n{% endfor"),
    "alpha": recipe("method", alpha=32),
    "targets": recipe("method", targets=["q_proj", "v_proj"]),
    "the adapters' dropout": recipe("method", dropout=0.2),
    "seed": recipe("train", seed=1),
    "schedule": recipe("train", schedule="cosine"),
    "warmup": recipe("train", warmup=0.2),
    "batch_rows": recipe("train", batch_rows=16),
    "max_tokens": recipe("model", max_tokens=40),
    "how dialogues are written": recipe("objective", template="plain"),
    "a word of a row": text_of("colours.jsonl", "what colour", "which colour"),
    "a row less": last_row,
    "the base's weights": weights,
    "the base's tokenizer": merges,
}
REFUSED = ("a word of a row", "a row less", "the base's weights", "the base's tokenizer", "the base's template")
"""Changes of files: also the old run itself can not go on."""
SHORT = ("rank", "the base's template")


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def half(bench: Any) -> Any:
    """Half a training of `sft` with the base in its own folder, where it can be changed."""
    place = bench.place("sft")
    shutil.copytree(bench.writer, place.folder / "base")
    recipe("model", base="base")(place.folder)
    points = bench.points("sft", "train", "backward")
    assert bench.forker.go(place, at=points[int(0.7 * len(points))]) == -9, place.log
    return place


def test_there_are_fifteen() -> None:
    assert len(CHANGES) == 15


@pytest.mark.parametrize("what", [pytest.param(what, marks=[] if what in SHORT else [pytest.mark.slow]) for what in CHANGES])
def test_after_a_change_no_checkpoint_of_before_is_used(bench: Any, half: Any, what: str) -> None:
    place = bench.copy(half)
    steps = place.steps()
    before = content(place.run)
    CHANGES[what](place.folder)
    assert bench.forker.go(place, argv=["prepare", "colours.yaml"]) == 0, place.log
    assert content(place.run) == before  # the old run is left as it is
    new = type(place)(place.folder, place.kind, "colours-2")
    assert new.run.is_dir() and new.state["identity"] != place.state["identity"]
    # Even with the old checkpoints in its folder the new run begins at the beginning, and says why.
    shutil.copytree(place.run / "checkpoints", new.run / "checkpoints")
    assert bench.forker.go(new, argv=["train", "colours-2"]) == 0, place.log
    passed = [event["text"] for event in new.events("warning") if "is passed over" in event["text"]]
    assert passed == [f"checkpoint step-{step:06d} is passed over: it belongs to a training with other settings or data" for step in reversed(steps)]
    assert new.events("resumed") == [] and [event["step"] for event in new.events("began")] == [0]
    assert new.events("step")[0]["step"] == 1
    if what in REFUSED:
        assert bench.forker.go(place, argv=["train", "colours"]) == 2
        assert "its data files, base or recipe are not what they were when it was made" in place.log
        assert content(place.run) == before


def test_nothing_changed_and_it_goes_on(bench: Any, half: Any) -> None:
    """The other side of the tests above: a run in a moved folder with the same content is the same run."""
    place = bench.copy(half)
    assert bench.forker.go(place) == 0, place.log
    assert [event["step"] for event in place.events("resumed")] == half.steps()[-1:] and not (place.run.parent / "colours-2").exists()
    # The model's files name the folder of their base, which is another here than in the run it is compared with.
    found, expected = place.result(), bench.expected("sft")
    assert {**found, "model": 0} == {**expected, "model": 0} and found["model"].keys() == expected["model"].keys()
    assert found["model"]["adapter_model.safetensors"] == expected["model"]["adapter_model.safetensors"]


@pytest.mark.parametrize(
    "change", ["train.batch_rows=4", pytest.param("method.rank=4", marks=pytest.mark.slow), pytest.param("train.seed=1", marks=pytest.mark.slow)]
)
def test_resuming_with_another_setting_is_refused_by_its_name(bench: Any, half: Any, change: str) -> None:
    place = bench.copy(half)
    before = content(place.run)
    assert bench.forker.go(place, argv=["run", "--resume", "colours", change]) == 2, place.log
    assert f"`{change}` cannot change within a run" in place.log and content(place.run) == before
