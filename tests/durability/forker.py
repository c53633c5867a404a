"""A process that has imported everything once and forks a child for each command: a run then costs no start.

    python forker.py        reads one JSON object a line on stdin, answers one a line on stdout (a script of the tests, not a test)

{"run": {"argv": [...], "cwd": "...", "env": {...}, "log": "...", "points": "..." or null, "at": k or null, "signal": 9}} -> {"pid": n}
{"wait": n} -> {"code": n}          the exit code, or minus the number of the signal that ended it
{"over": n} -> {"code": n or null}  the same without waiting

The child is the command `tunesmith` itself, in a process of its own that can be killed like any other. It counts *points*: every file it
opens for writing, makes, renames, links, flushes or deletes below its folder, the middle of every safetensors file, and every backward
pass. With `points` it writes them down by number; with `at` it sends itself a signal at that number, so that a test can walk over all
places where a crash could fall.

Three variables of `env` change the child further: DURABILITY_ORDER names a file that gets a line for each optimizer step (its rows and a
hash of what they hold), DURABILITY_POISON spoils losses or gradients (JSON: how, part, steps), DURABILITY_CLOCK sets the clock of the child
forward or back by some seconds after its second step.
"""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"  # with more, torch's threads would not survive the fork

import hashlib
import importlib
import json
import math
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULES = """torch safetensors.torch safetensors.numpy transformers transformers.core_model_loading transformers.models.auto.modeling_auto
    transformers.models.bert.modeling_bert
    transformers.models.llama.modeling_llama jinja2.sandbox peft pyarrow.parquet pyarrow.dataset pyarrow.compute ruamel.yaml rich.progress py3langid.langid
    sklearn.linear_model sklearn.feature_extraction.text scipy.stats scipy.special tunesmith.cli tunesmith.api tunesmith.pipeline
    tunesmith.listeners.progress tunesmith.data.cleaning.languages tunesmith.evaluation.classification.measure
    tunesmith.evaluation.classification.baselines tunesmith.evaluation.classification.findings
    tunesmith.report.run_page tunesmith.report.page tunesmith.report.card tunesmith.report.gate tunesmith.serving.engine
    tunesmith.training.loop tunesmith.training.diagnosis tunesmith.models.features tunesmith.models.used_embeddings tunesmith.models.heads
    tunesmith.models.layers tunesmith.models.loading tunesmith.methods.full tunesmith.methods.freeze tunesmith.methods.lora
    tunesmith.methods.features tunesmith.models.fast.llama tunesmith.models.decode tunesmith.objectives.sft tunesmith.objectives.next_token
    tunesmith.evaluation.generation.measure tunesmith.evaluation.generation.findings tunesmith.serving.generation tunesmith.stages.evaluate_text"""


class Points:
    """Counts the places where a crash could fall, and falls at one of them."""

    def __init__(self, folder: Path, record: Path | None, at: int | None, number: int) -> None:
        self.folder, self.at, self.number = str(folder), at, number
        self.count, self.stage = 0, "start"
        self.record = None if record is None else os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def point(self, what: str, half: Callable[[], None] | None = None) -> None:
        """One more place. `half` makes what a crash in the middle of a write would leave."""
        self.count += 1
        if self.record is not None:
            os.write(self.record, f"{self.count}\t{self.stage}\t{what}\n".encode())
        if self.count == self.at:
            if half:
                half()
            os.kill(os.getpid(), self.number)

    def heard(self, event: str, args: tuple[Any, ...]) -> None:
        """Python's own audit events: all files that are opened, renamed, linked, made or deleted by it."""
        if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link"):
            return
        if not isinstance(args[0], (str, bytes, os.PathLike)):
            return
        place = os.fsdecode(args[0])
        if os.path.isabs(place) and not place.startswith(self.folder):
            return  # a relative name is below the folder, where the child stands
        if event == "open" and not (args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        self.point(f"{event.removeprefix('os.')} {re.sub('staging-(old-)?[0-9]+', 'staging', place.removeprefix(self.folder))}")

    def install(self) -> None:
        import safetensors.numpy
        import safetensors.torch
        import torch

        from tunesmith.runs import Run

        sys.addaudithook(self.heard)
        flush, backward, emit = os.fsync, torch.Tensor.backward, Run.emit

        def fsync(descriptor: int) -> None:
            self.point("fsync")
            flush(descriptor)

        def back(tensor: Any, *args: Any, **kwargs: Any) -> None:
            self.point("backward")
            backward(tensor, *args, **kwargs)

        def told(run: Run, event: dict[str, Any]) -> None:
            if event["kind"] == "stage" and event["status"] == "started":
                self.stage = event["stage"]
            emit(run, event)

        def half_way(save: Any) -> Any:
            def save_file(tensors: Any, path: Any, *args: Any, **kwargs: Any) -> None:
                def half() -> None:
                    save(tensors, path, *args, **kwargs)
                    os.truncate(path, os.path.getsize(path) // 2)

                self.point("middle of a safetensors file", half)
                save(tensors, path, *args, **kwargs)

            return save_file

        os.fsync, torch.Tensor.backward, Run.emit = fsync, back, told  # type: ignore[assignment, method-assign]
        safetensors.torch.save_file = half_way(safetensors.torch.save_file)
        safetensors.numpy.save_file = half_way(safetensors.numpy.save_file)


def note_order(path: str) -> None:
    """Write down which rows each optimizer step learns, and what they hold."""
    from tunesmith.training import loop

    cut, step = loop._micro, loop._Loop.step
    rows: list[int] = []

    def micro(rows_B: Any, micro_rows: int | None) -> Any:
        rows[:] = rows_B.tolist()
        return cut(rows_B, micro_rows)

    def noted(self: Any, batches: Any) -> None:
        digest = hashlib.sha256()
        for batch in batches:
            for name in sorted(batch.inputs):
                digest.update(batch.inputs[name].numpy().tobytes())
            digest.update(batch.targets.numpy().tobytes())
        line = {"step": self.state.step + 1, "epoch": self.state.epoch, "rows": list(rows), "holds": digest.hexdigest()}
        step(self, batches)
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")

    loop._micro, loop._Loop.step = micro, noted  # type: ignore[assignment, method-assign]


def poison(how: str, part: str, steps: list[int]) -> None:
    """Make the loss or the gradient of some steps' first, middle or last part NaN or infinite."""
    import torch

    from tunesmith.objectives import Loss
    from tunesmith.training import loop

    step = loop._Loop.step
    value = math.nan if "nan" in how else math.inf

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, total: torch.Tensor) -> torch.Tensor:
            return total.clone()

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return gradient * value

    def spoilt(self: Any, batches: Any) -> None:
        if self.state.step + 1 not in steps:
            return step(self, batches)
        at = {"first": 0, "middle": len(batches) // 2, "last": len(batches) - 1}[part]
        calls = iter(range(len(batches)))
        right = self.objective.loss

        def wrong(model: Any, batch: Any) -> Any:
            loss = right(model, batch)
            if next(calls) != at:
                return loss
            if "gradient" in how:
                return Loss(Gradient.apply(loss.total), loss.sums)
            return Loss(loss.total * value, {**loss.sums, "loss": value})

        self.objective.loss = wrong
        try:
            step(self, batches)
        finally:
            self.objective.loss = right

    loop._Loop.step = spoilt  # type: ignore[method-assign]


def set_clock(seconds: float) -> None:
    """After the second step of this process the clock on the wall says another time."""
    import time

    from tunesmith.training import loop

    step, clock = loop._Loop.step, time.time
    count = 0

    def stepped(self: Any, batches: Any) -> None:
        nonlocal count
        step(self, batches)
        count += 1
        if count == 2:
            time.time = lambda: clock() + seconds

    loop._Loop.step = stepped  # type: ignore[method-assign]


def child(wanted: dict[str, Any]) -> int:
    os.chdir(wanted["cwd"])
    os.environ.update(wanted["env"])
    log = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from tunesmith import cli
    from tunesmith.models import features

    features.BATCH_TOKENS, features.CHUNK_BATCHES = 64, 2  # many segments, so that a crash can fall between them
    if place := os.environ.get("DURABILITY_ORDER"):
        note_order(place)
    if spoilt := os.environ.get("DURABILITY_POISON"):
        poison(**json.loads(spoilt))
    if seconds := os.environ.get("DURABILITY_CLOCK"):
        set_clock(float(seconds))
    Points(Path(wanted["cwd"]), wanted["points"] and Path(wanted["points"]), wanted["at"], wanted["signal"]).install()
    sys.argv = ["tunesmith", *wanted["argv"]]
    try:
        cli.main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def main() -> None:
    for name in MODULES.split():
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer: dict[str, int | None] = {"code": os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])}
        elif "over" in asked:
            ended, status = os.waitpid(asked["over"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if ended else None}
        else:
            pid = os.fork()
            if pid == 0:
                code = 99
                try:
                    code = child(asked["run"])
                except BaseException:  # noqa: BLE001  # a fork must never come back into this loop
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
