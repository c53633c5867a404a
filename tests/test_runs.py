"""The run directory: identity, state, events, and what is shared, refused or forgotten."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tunesmith import runs
from tunesmith.core.errors import Interrupted, UserError
from tunesmith.runs import Run


def made(folder: Path, name: str = "a", identity: str = "1", fresh: bool = False) -> Run:
    return runs.open_or_create(folder, name, identity, {"seed": 0}, fresh, None)[0]


HOLD = """
import sys; from pathlib import Path; from tunesmith import runs
with runs.working(runs.Run(Path(sys.argv[1]))):
    print("working", flush=True); sys.stdin.read()
"""


def test_a_killed_run_is_interrupted_and_a_living_one_is_held(tmp_path: Path) -> None:
    one = made(tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(one.folder)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "working\n"
        assert Run(one.folder).status == "running"
        with pytest.raises(UserError) as caught, runs.working(Run(one.folder)):
            raise AssertionError("two processes work on one run")
        assert str(caught.value) == f"{one.folder}: another process is working on this run\n  -> wait for it, or choose another name: name=..."
        with pytest.raises(UserError, match="a process is working on it\n  -> stop that first"):
            runs.delete(Run(one.folder))
    finally:
        holder.kill()
        holder.communicate()
    assert Run(one.folder).state["status"] == "running" and Run(one.folder).status == "interrupted"
    (one.folder / "data").mkdir()
    (one.folder / "data" / ".staging-1-x").write_text("half")
    with runs.working(Run(one.folder)):
        assert list((one.folder / "data").iterdir()) == []
    assert Run(one.folder).status == "finished"


@pytest.mark.parametrize(
    ("error", "status"), [(Interrupted(15), "interrupted"), (UserError("no rows", "d.csv", "add some"), "failed"), (KeyError("x"), "failed")]
)
def test_how_a_run_ended_is_kept(tmp_path: Path, error: Exception, status: str) -> None:
    one = made(tmp_path)
    with pytest.raises(type(error)), runs.working(one):
        raise error
    assert Run(one.folder).status == status
    assert (Run(one.folder).state.get("error") or "") == ("" if status == "interrupted" else str(error))
    with runs.working(one):
        pass
    assert Run(one.folder).status == "finished" and Run(one.folder).state["error"] is None


def test_identity_decides_between_the_same_run_and_a_new_one(tmp_path: Path) -> None:
    first = made(tmp_path)
    assert made(tmp_path).folder == first.folder
    second, kin = runs.open_or_create(tmp_path, "a", "2", {}, False, None)
    assert second.name == "a-2" and [one.name for one in kin] == ["a"]
    third, kin = runs.open_or_create(tmp_path, "a", "1", {}, True, None)
    assert third.name == "a-3" and kin == []
    assert made(tmp_path, "a-b").name == "a-b" and [one.name for one in runs.named(tmp_path, "a")] == ["a-3", "a-2", "a"]


def test_two_commands_at_once_make_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits a moment for the other where a name is found free: without a lock both would find it so."""
    both, named = threading.Barrier(2), runs.named

    def slowly(folder: Path, name: str) -> list[Run]:
        found = named(folder, name)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        return found

    monkeypatch.setattr(runs, "named", slowly)
    with ThreadPoolExecutor(2) as pool:
        assert [one.result().name for one in [pool.submit(made, tmp_path / "runs") for _ in range(2)]] == ["a", "a"]
    assert [one.name for one in runs.every(tmp_path / "runs")] == ["a"]


def test_a_run_that_could_not_be_made_leaves_its_name_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_json", lambda *args: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(UserError, match="no space left"):
            made(tmp_path)
    assert made(tmp_path).name == "a"


def test_events_outlive_a_cut_line(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    one = Run(made(tmp_path).folder, heard.append)
    one.emit({"kind": "step", "step": 1, "text": "é \ud83d"})
    one.emit({"kind": "progress", "done": 1})
    with open(one.folder / "events.jsonl", "ab") as file:
        file.write('{"time": 3, "kind": "step", "text": "caf\u00e9'.encode()[:-1])  # a kill in the middle of a line, and of a character
    assert [e["step"] for e in one.events("step")] == [1]
    with runs.working(one):
        one.emit({"kind": "step", "step": 2})
    assert [e["step"] for e in one.events("step")] == [1, 2] and one.events("valid") == []
    assert [e["kind"] for e in heard] == ["step", "progress", "step"] and all(e["time"] > 1e9 for e in one.events())


def test_resumed_takes_back_what_the_kill_undid(tmp_path: Path) -> None:
    one = made(tmp_path)
    for event in ({"kind": "stage", "stage": "train"}, *({"kind": "step", "step": n} for n in (1, 2, 3)), {"kind": "valid", "step": 3}):
        one.emit(event)
    one.emit({"kind": "resumed", "step": 2})
    one.emit({"kind": "step", "step": 3})
    assert [(e["kind"], e.get("step")) for e in one.events()] == [("stage", None), ("step", 1), ("step", 2), ("resumed", 2), ("step", 3)]
    one.emit({"kind": "resumed", "step": 0})
    assert [(e["kind"], e.get("step")) for e in one.events()] == [("stage", None), ("resumed", 2), ("resumed", 0)]


def test_a_stage_is_done_once_shared_and_done_again_when_damaged(tmp_path: Path) -> None:
    did: list[str] = []

    def work(one: Run) -> None:
        did.append(one.name)
        (one.folder / "out").write_text("made")

    first, second = made(tmp_path), made(tmp_path, identity="2")
    first.stage("prepare", "in", ["out", "rest?"], lambda: work(first), [])
    first.stage("prepare", "in", ["out", "rest?"], lambda: work(first), [])
    second.stage("prepare", "in", ["out", "rest?"], lambda: work(second), [first])
    assert did == ["a"] and (second.folder / "out").read_text() == "made" and second.state["stages"][0]["shared_from"] == "a"
    assert [e["status"] for e in first.events("stage")] == ["started", "finished", "reused"]
    assert second.output_hash("prepare") == first.output_hash("prepare")
    second.stage("prepare", "other", ["out", "rest?"], lambda: work(second), [first])
    assert did == ["a", "a-2"]
    (first.folder / "out").unlink()
    (first.folder / "out").write_text("damaged")
    first.stage("prepare", "in", ["out", "rest?"], lambda: work(first), [])
    assert did == ["a", "a-2", "a"] and (first.folder / "out").read_text() == "made"
    third = made(tmp_path, identity="3")
    (first.folder / "out").write_text("damaged")
    third.stage("prepare", "in", ["out", "rest?"], lambda: work(third), [first])
    assert did[-1] == "a-3" and (third.folder / "out").read_text() == "made"


def test_a_stage_made_with_other_libraries_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []

    def work(one: Run) -> None:
        did.append(one.name)
        (one.folder / "out").write_text("made")

    first = made(tmp_path)
    first.stage("train", "in", ["out"], lambda: work(first), [])
    assert first.state["stages"][0]["versions"] == runs.libraries() and "torch" in runs.libraries()
    with monkeypatch.context() as patch:
        patch.setattr(runs, "libraries", lambda: {"torch": "9.9", "tokenizers": "0"})
        second = made(tmp_path, identity="2")
        second.stage("train", "in", ["out"], lambda: work(second), [first])
        first.stage("train", "in", ["out"], lambda: work(first), [])  # what a run has finished stays, whatever is installed later
    assert did == ["a", "a-2"] and "shared_from" not in second.state["stages"][0]
    (told,) = second.events("note")
    assert told["text"].startswith("train of a is not shared: it was made with ") and "(here 9.9)" in told["text"]
    third = made(tmp_path, identity="3")
    third.stage("train", "in", ["out"], lambda: work(third), [second, first])
    assert did == ["a", "a-2"] and third.state["stages"][0]["shared_from"] == "a"
    del first.state["stages"][0]["versions"]  # a run of an older tunesmith: its own versions count
    first.save(versions={**runs.libraries(), "peft": "0.1"})
    fourth = made(tmp_path, identity="4")
    fourth.stage("train", "in", ["out"], lambda: work(fourth), [first])
    assert did[-1] == "a-4"


def test_find_names_the_nearest_and_takes_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        runs.find(tmp_path, "a")
    assert str(caught.value) == f"command line: no run `a` in {tmp_path}\n  -> start one: tunesmith run RECIPE"
    one = made(tmp_path, "tickets")
    assert runs.find(tmp_path, "tickets").folder == runs.find(Path("elsewhere"), str(one.folder)).folder == one.folder
    with pytest.raises(UserError) as caught:
        runs.find(tmp_path, "tikcets")
    assert str(caught.value) == f"command line: no run `tikcets` in {tmp_path}, did you mean `tickets`?\n  -> there are `tickets`"


def test_what_is_no_run_is_left_out_of_the_list_and_said_when_asked_for(tmp_path: Path) -> None:
    made(tmp_path)
    for name, text in (("cut", '{"sta'), ("other", "[1]"), (".staging-deleted-b", json.dumps(made(tmp_path).state))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    (tmp_path / "file").write_text("x")
    assert [one.name for one in runs.every(tmp_path)] == ["a"]
    with pytest.raises(UserError, match=r"other/run.json: not the state of a run\n  -> restore it, or delete the folder and run again"):
        runs.find(tmp_path, "other")
    with pytest.raises(UserError, match="not readable as JSON"):
        runs.find(tmp_path, "cut")


def test_delete_is_whole_and_the_name_is_free_again(tmp_path: Path) -> None:
    one = made(tmp_path)
    (tmp_path / ".staging-deleted-a").mkdir()
    (tmp_path / ".staging-deleted-a" / "left").write_text("by a delete that was killed")
    runs.delete(one)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [] and made(tmp_path).name == "a"
