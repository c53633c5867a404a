"""The run directory: who a run is, which stages are done, what happened when, and what another run may share.

`runs/<name>/run.json` is the state, written whole after every change; `events.jsonl` is the story, one line an event. A lock held while
a run works tells a killed run from a living one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError, nearest, some
from tunesmith.core.files import (
    STAGING,
    as_user_error,
    link_or_copy,
    locked,
    read_json,
    sha256_file,
    sha256_json,
    staged_folder,
    sweep_staging,
    write_bytes,
    write_json,
)

Listener = Callable[[dict[str, Any]], None]
STATE, EVENTS, LOCK = "run.json", "events.jsonl", ".lock"
LIBRARIES = ("torch", "transformers", "peft", "tokenizers")
"""Libraries whose versions part a stage from one of the same inputs: another version may give other tokens, weights or figures."""
NOT_KEPT = ("progress",)
"""Events that only listeners see: they come many times a second."""


class Run:
    """One run on disk.

    Args:
        folder: `runs/<name>`; its run.json is read.
        listen: hears every event, also those that are not kept.
    """

    def __init__(self, folder: Path, listen: Listener | None = None) -> None:
        self.folder = folder
        self.state: dict[str, Any] = read_json(folder / STATE)
        if not isinstance(self.state, dict) or not {"status", "identity", "stages"} <= self.state.keys():
            raise UserError("not the state of a run", str(folder / STATE), "restore it, or delete the folder and run again")
        self._listen = listen or (lambda event: None)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def status(self) -> str:
        """created, running, interrupted, failed or finished; a run that says running but holds no lock was killed."""
        status = str(self.state["status"])
        return "interrupted" if status == "running" and not busy(self.folder) else status

    def also(self, listen: Listener) -> None:
        """Let another listener hear every event."""
        before = self._listen

        def both(event: dict[str, Any]) -> None:
            before(event)
            listen(event)

        self._listen = both

    def save(self, **changes: Any) -> None:
        """Change the state and write it whole.

        Raises:
            UserError: the run's folder is gone, which writing would bring back as a ghost with nothing else in it; or it cannot be written.
        """
        if not self.folder.is_dir():
            raise UserError("no such file or folder: the run was deleted while it ran", str(self.folder), "give the same command again: it begins anew")
        self.state.update(changes)
        write_json(self.folder / STATE, self.state)

    def emit(self, event: dict[str, Any]) -> None:
        """Tell an event: one line of events.jsonl, and the listener. `began` and `resumed` first take back what a kill undid."""
        if event["kind"] in ("began", "resumed"):
            self._forget_after(event["step"])
        if event["kind"] not in NOT_KEPT:
            line = json.dumps({"time": round(time.time(), 3), **event}, ensure_ascii=False) + "\n"
            try:
                with open(self.folder / EVENTS, "ab") as file:
                    file.write(line.encode("utf-8", "backslashreplace"))
            except OSError as error:
                raise as_user_error(error, self.folder / EVENTS) from error
        self._listen(event)

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """The kept events, all or of some kinds; a line that a kill cut off is passed over."""
        path = self.folder / EVENTS
        out = []
        for line in path.read_bytes().split(b"\n") if path.exists() else []:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if not kinds or event["kind"] in kinds:
                out.append(event)
        return out

    def _forget_after(self, step: int) -> None:
        kept = [event for event in self.events() if event.get("step", 0) <= step or event["kind"] == "resumed"]
        write_bytes(self.folder / EVENTS, "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in kept).encode("utf-8", "backslashreplace"))

    def stage(self, name: str, inputs: str, outputs: list[str], work: Callable[[], dict[str, Any] | None], siblings: list[Run]) -> None:
        """Do a stage, unless it is done or another run has done the same.

        Args:
            name: prepare, inspect, begin, train, evaluate, report.
            inputs: hash of all that decides its outputs.
            outputs: files and folders it makes, by name in the run folder; `?` at the end marks one that may be absent.
            work: does it; what it returns is merged into run.json.
            siblings: runs whose finished stage of the same inputs may be shared.
        """
        done = self._done(name, inputs)
        if done and self._whole(done):
            self.emit({"kind": "stage", "stage": name, "status": "reused"})
            return
        for other in siblings:
            theirs = other._done(name, inputs)
            if theirs and (others := _another_version(theirs, other)):
                self.emit({"kind": "note", "text": f"{name} of {other.name} is not shared: it was made with {others}"})
            elif theirs and other._whole(theirs):
                for output in theirs["outputs"]:
                    link_or_copy(other.folder / output, self.folder / output)
                self._record({**theirs, "shared_from": other.name})
                if name == "train":
                    self.save(**{key: other.state[key] for key in ("training", "tokens", "machine", "threads") if key in other.state})
                    told = [e for e in other.events("step", "valid", "skipped")]
                    for event in told:
                        self.emit(event)
                self.emit({"kind": "stage", "stage": name, "status": "shared", "from": other.name})
                return
        self.emit({"kind": "stage", "stage": name, "status": "started"})
        before = next((s["seconds"] for s in self.state["stages"] if s["name"] == name and s["status"] == "running" and s["inputs"] == inputs), 0.0)
        started = time.perf_counter()
        self._record({"name": name, "status": "running", "seconds": before, "inputs": inputs, "outputs": {}})
        try:
            result = work() or {}
        finally:
            seconds = round(before + time.perf_counter() - started, 3)
            self._record({"name": name, "status": "running", "seconds": seconds, "inputs": inputs, "outputs": {}})
        made = {n.rstrip("?"): _digest(self.folder / n.rstrip("?")) for n in outputs if not n.endswith("?") or (self.folder / n.rstrip("?")).exists()}
        self.state.update(result)
        self._record({"name": name, "status": "finished", "seconds": seconds, "inputs": inputs, "outputs": made, "versions": libraries()})
        self.emit({"kind": "stage", "stage": name, "status": "finished", "seconds": seconds})

    def output_hash(self, stage: str) -> str:
        """Hash of all that a finished stage has made: an input of the next."""
        entry = next(s for s in self.state["stages"] if s["name"] == stage)
        return sha256_json(entry["outputs"])

    def _done(self, name: str, inputs: str) -> dict[str, Any] | None:
        return next((s for s in self.state["stages"] if s["name"] == name and s["inputs"] == inputs and s["status"] == "finished"), None)

    def _whole(self, stage: dict[str, Any]) -> bool:
        return all((self.folder / name).exists() and _digest(self.folder / name) == digest for name, digest in stage["outputs"].items())

    def _record(self, entry: dict[str, Any]) -> None:
        stages = [s for s in self.state["stages"] if s["name"] != entry["name"]]
        order = ("prepare", "inspect", "begin", "train", "evaluate", "report")
        self.save(stages=sorted([*stages, entry], key=lambda s: order.index(s["name"])))


def libraries() -> dict[str, str]:
    """Versions of the `LIBRARIES` that are installed."""
    out = {}
    for name in LIBRARIES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def _another_version(stage: dict[str, Any], run: Run) -> str:
    """The libraries that made a stage and are others now, in words; empty where none is. Stages of older runs have the versions of their run."""
    now, then = libraries(), stage.get("versions") or run.state.get("versions") or {}
    return some([f"{name} {then.get(name, 'missing')} (here {now.get(name, 'missing')})" for name in LIBRARIES if then and then.get(name) != now.get(name)])


def _digest(path: Path) -> str:
    if path.is_dir():
        return sha256_json({str(p.relative_to(path)): sha256_file(p) for p in sorted(path.rglob("*")) if p.is_file()})
    return sha256_file(path)


def busy(folder: Path) -> bool:
    """Whether a living process works on a run."""
    try:
        with locked(folder / LOCK, lambda: UserError("busy")):
            return False
    except UserError:
        return True


@contextmanager
def working(run: Run) -> Iterator[None]:
    """Hold a run while working on it; on leaving, run.json says how it ended.

    Raises:
        UserError: another process works on it.
    """
    from tunesmith.core.errors import Interrupted

    def held() -> UserError:
        return UserError("another process is working on this run", str(run.folder), "wait for it, or choose another name: name=...")

    with locked(run.folder / LOCK, held):
        sweep_staging(run.folder)
        for inner in ("data", "checkpoints"):
            sweep_staging(run.folder / inner)
        _end_last_line(run.folder / EVENTS)
        run.save(status="running")
        try:
            yield
        except Interrupted:
            run.save(status="interrupted")
            raise
        except BaseException as error:
            _try_save(run, "failed", str(error)[:2000])
            raise
        run.save(status="finished", error=None)


def _end_last_line(path: Path) -> None:
    """End a line that a kill cut off, so that the next event is not glued to it."""
    try:
        with open(path, "r+b") as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n":
                file.write(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise as_user_error(error, path) from error


def _try_save(run: Run, status: str, error: str) -> None:
    """A full disk must not hide the error that told of it."""
    try:
        run.save(status=status, error=error)
    except UserError:
        pass


def open_or_create(runs: Path, name: str, identity: str, facts: dict[str, Any], fresh: bool, listen: Listener | None) -> tuple[Run, list[Run]]:
    """The run of this identity: the one that is there, or a new one.

    Args:
        runs: the folder of all runs.
        name: wanted; a number is added when another run has it.
        identity: hash of recipe and inputs.
        facts: kept in a new run's run.json.
        fresh: make a new one in any case, and share nothing.
        listen: hears its events.

    Returns:
        The run, and the others of the same name, newest first, whose stages it may share.
    """
    with locked(runs / LOCK):  # two commands at once must not both find the name free
        kin = named(runs, name)
        for one in kin:
            if one.state["identity"] == identity and not fresh:
                return Run(one.folder, listen), [other for other in kin if other.folder != one.folder]
        taken = {one.name for one in runs.iterdir()}
        number = 2
        chosen = name
        while chosen in taken:
            chosen, number = f"{name}-{number}", number + 1
        folder = runs / chosen
        created = datetime.now(UTC).isoformat(timespec="seconds")
        with staged_folder(folder) as staging:
            write_json(staging / STATE, {"name": chosen, "status": "created", "created": created, "identity": identity, "stages": [], **facts})
    return Run(folder, listen), [] if fresh else kin


def named(runs: Path, name: str) -> list[Run]:
    """The runs `name`, `name-2`, `name-3` ..., newest first."""
    out = []
    for run in every(runs):
        rest = run.name.removeprefix(name)
        if run.name == name or (run.name.startswith(name + "-") and rest[1:].isdigit()):
            out.append(run)
    return sorted(out, key=lambda run: (len(run.name), run.name), reverse=True)


def every(runs: Path) -> list[Run]:
    """All runs in a folder, by name; what cannot be read is left out."""
    out = []
    try:
        folders = sorted(runs.iterdir()) if runs.is_dir() else []
    except OSError as error:
        raise as_user_error(error, runs) from error
    for folder in folders:
        if folder.name.startswith("."):  # unfinished, or half deleted
            continue
        try:
            out.append(Run(folder))
        except UserError:
            continue
    return out


def find(runs: Path, name: str, listen: Listener | None = None) -> Run:
    """A run by its name or folder.

    Raises:
        UserError: there is none, with the nearest name.
    """
    for folder in (runs / name, Path(name)):
        if (folder / STATE).is_file():
            return Run(folder, listen)
    names = [run.name for run in every(runs)]
    remedy = f"there are {some(names)}" if names else "start one: tunesmith run RECIPE"
    raise UserError(f"no run `{name}` in {runs}{nearest(name, names)}", "command line", remedy)


def evaluation_of(run: Run) -> dict[str, Any] | None:
    """A run's evaluation, or None when nothing was measured."""
    path = run.folder / "evaluation.json"
    found: dict[str, Any] | None = read_json(path) if path.exists() else None
    return found


def delete(run: Run) -> None:
    """Delete a run's folder.

    Raises:
        UserError: it is at work, or the system refuses.
    """
    if busy(run.folder):
        raise UserError("a process is working on it", str(run.folder), "stop that first")
    try:
        trash = run.folder.parent / f"{STAGING}deleted-{run.name}"
        shutil.rmtree(trash, ignore_errors=True)
        run.folder.rename(trash)  # a half-deleted run must not look like a run
        shutil.rmtree(trash)
    except OSError as error:
        raise as_user_error(error, run.folder) from error
