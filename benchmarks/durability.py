"""The same three mishaps on ours and on transformers' Trainer: killed while training, a full disk at a save, one batch that is NaN.

    python benchmarks/durability.py [--n 20] [--only kill disk nan] [--systems ours trainer] [--seed 0]

Needs torch and transformers, with the accelerate that its Trainer wants. Both fine-tune every weight of the same tiny Llama (two layers,
width 32, dropout 0.1 on attention) on the same dialogues for 22 steps of 8 rows in four parts, AdamW, fp32, one thread, and save every third
step, keeping two. Each run is a process of its own, forked from this one.

kill   SIGKILL at a random moment after a random step was told; then the same script again, which goes on from the newest checkpoint: for the
       Trainer `get_last_checkpoint`, as its own `resume_from_checkpoint=True` takes it. The end is compared with that of a run that was left alone.
disk   the checkpoints lie on a tmpfs that has no room for the third of them at the latest; then there is room, and the same script again.
       Needs root, for the mount.
nan    the loss of one part of one random step is NaN.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"  # with more, torch's threads would not survive the fork
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch

ROWS, STEPS, SAVE_STEPS, PARTS = 88, 22, 3, 4
RATE = 1e-2
CAUSES = ("kill", "disk", "nan")


# --- what both learn ----------------------------------------------------------------------------------------------------------


def prepare(folder: Path) -> tuple[Path, Path]:
    """The base and the file of dialogues."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunesmith.models import scratch

    draw = random.Random(0)
    colours = {"red": "apple brick rose cherry ruby", "green": "leaf grass lime moss fern", "blue": "sky sea ink jeans lake"}
    dialogues = []
    for index in range(ROWS):
        colour = draw.choice(sorted(colours))
        turns = (("user", f"what colour is the {draw.choice(colours[colour].split())} of house {index}?"), ("assistant", f"it is {colour}."))
        dialogues.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    data, base = folder / "colours.jsonl", folder / "base"
    data.write_text("".join(json.dumps(one) + "\n" for one in dialogues))
    base.mkdir()
    size = scratch.ScratchSettings(vocabulary=400, width=32, layers=2, heads=4, kv_heads=2, feed_forward=64, max_tokens=128)
    scratch.make(size, iter([[turn["content"] for one in dialogues for turn in one["messages"]]]), base)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base, attention_dropout=0.1, initializer_range=0.1)).save_pretrained(base)
    return base, data


# --- the two systems: begin or go on in a folder, note each step in `steps`, and the end in `end.json` ---------------------------


def ours(folder: Path, base: Path, data: Path, bad: int | None, until: str = "train") -> None:
    """`tunesmith run` up to its trained model; its checkpoints lie in folder/runs/it/checkpoints."""
    from safetensors.torch import load_file

    from tunesmith import pipeline
    from tunesmith import recipe as recipes
    from tunesmith.objectives import Loss, next_token

    os.environ["TUNESMITH_CACHE"] = str(folder / "cache")
    recipe = {
        "name": "it",
        "data": {"train": str(data), "valid": "none", "test": "none", "duplicates": {"near": None}},
        "model": str(base),
        "objective": "sft",
        "method": "full",
        "train": {
            **{"epochs": 2, "learning_rate": RATE, "batch_rows": 8, "micro_rows": 8 // PARTS, "precision": "fp32", "threads": 1},
            **{"checkpoint_steps": SAVE_STEPS, "keep_checkpoints": 2, "log_every": 1},
        },
    }
    (folder / "it.yaml").write_text(json.dumps(recipe))
    if bad is not None:
        right, calls = next_token.NextToken.loss, iter(range(1, 10_000))

        def spoilt(self: Any, model: Any, batch: Any) -> Any:
            loss = right(self, model, batch)
            return Loss(loss.total * math.nan, {**loss.sums, "loss": math.nan}) if next(calls) == bad * PARTS else loss

        next_token.NextToken.loss = spoilt  # type: ignore[method-assign]
    losses: list[float] = []

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            losses.append(event.get("loss", math.nan))
            _note(folder, event["step"])

    run = pipeline.run(recipes.load(folder / "it.yaml"), pipeline.Options(folder / "runs", until=until, listen=listen))
    if until == "train":
        _end(folder, load_file(run.folder / "model" / "model.safetensors"), losses, run.state["training"]["skipped_steps"])


def trainer(folder: Path, base: Path, data: Path, bad: int | None) -> None:
    """transformers' Trainer, as its documentation says to write it; its checkpoints lie in folder/out."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments, set_seed
    from transformers.trainer_utils import get_last_checkpoint

    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    rows = [tokenizer.apply_chat_template(json.loads(line)["messages"], return_dict=False) for line in data.read_text().splitlines()]

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(one["input_ids"]) for one in batch)
        padded = [one["input_ids"] + [0] * (longest - len(one["input_ids"])) for one in batch]
        seen = [[1] * len(one["input_ids"]) + [0] * (longest - len(one["input_ids"])) for one in batch]
        ids, mask = torch.tensor(padded), torch.tensor(seen)
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}

    class Told(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            _note(folder, state.global_step)

    class Spoilt(Trainer):  # type: ignore[misc]
        calls = 0

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            self.calls += 1
            return loss * math.nan if bad is not None and self.calls == bad * PARTS else loss

    settings = TrainingArguments(
        output_dir=str(folder / "out"),
        num_train_epochs=2,
        learning_rate=RATE,
        per_device_train_batch_size=8 // PARTS,
        gradient_accumulation_steps=PARTS,
        save_steps=SAVE_STEPS,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    one = Spoilt(model=model, args=settings, train_dataset=[{"input_ids": ids} for ids in rows], data_collator=collate, callbacks=[Told()])
    last = get_last_checkpoint(str(folder / "out")) if (folder / "out").is_dir() else None
    one.train(resume_from_checkpoint=last)
    _end(folder, model.state_dict(), [told["loss"] for told in one.state.log_history if "loss" in told], 0)


def _note(folder: Path, step: int) -> None:
    with open(folder / "steps", "a") as file:
        file.write(f"{step}\n")


def _end(folder: Path, tensors: dict[str, torch.Tensor], losses: list[float], skipped: int) -> None:
    import hashlib

    digest = hashlib.sha256(b"".join(name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors)))
    spoilt = sum(not bool(torch.isfinite(one).all()) for one in tensors.values())
    found = {"weights": digest.hexdigest(), "tensors": len(tensors), "not_finite": spoilt, "losses": losses, "skipped": skipped}
    (folder / "end.json").write_text(json.dumps(found))


def prepared(folder: Path, base: Path, data: Path, bad: int | None) -> None:
    """Ours up to its prepared rows: the run's folder is there, its checkpoints are not."""
    ours(folder, base, data, bad, "prepare")


Script = Callable[[Path, Path, Path, int | None], None]
SYSTEMS: dict[str, tuple[Script, str, Script | None]] = {"ours": (ours, "runs/it/checkpoints", prepared), "trainer": (trainer, "out", None)}
"""The script, where its checkpoints lie, and what comes before that folder can become a disk of its own."""


# --- a process ----------------------------------------------------------------------------------------------------------------


class Case:
    """One system in a folder of its own."""

    def __init__(self, system: str, folder: Path, base: Path, data: Path) -> None:
        self.script, checkpoints, self.before = SYSTEMS[system]
        self.checkpoints = folder / checkpoints
        self.folder, self.base, self.data = folder, base, data
        folder.mkdir()

    def start(self, bad: int | None = None, script: Script | None = None) -> int:
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            torch.set_num_threads(1)
            (script or self.script)(self.folder, self.base, self.data, bad)
            code = 0
        except BaseException:  # noqa: BLE001  # a fork must never come back into the parent's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def go(self, bad: int | None = None, script: Script | None = None) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.start(bad, script), 0)[1])

    def kill(self, step: int, later: float) -> None:
        """Start, wait until a step is told and a moment more, kill."""
        pid = self.start()
        while True:
            ended, _ = os.waitpid(pid, os.WNOHANG)
            if ended:
                return
            told = (self.folder / "steps").read_text().split() if (self.folder / "steps").exists() else []
            if told and int(told[-1]) >= step:
                break
            time.sleep(0.001)
        time.sleep(later)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def end(self) -> dict[str, Any] | None:
        path = self.folder / "end.json"
        found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
        return found

    def words(self) -> str:
        """The last line of its log."""
        lines = [line.strip() for line in (self.folder / "log").read_text().splitlines() if line.strip()]
        return next((line for line in reversed(lines) if "->" not in line), "")[:150]

    def against(self, whole: dict[str, Any]) -> str:
        """Go on, and compare with a run that was left alone."""
        if self.go():
            return "crashed on resume"
        end = self.end()
        assert end is not None
        return "identical" if end["weights"] == whole["weights"] else "different"


# --- the mishaps ----------------------------------------------------------------------------------------------------------------


def mount(folder: Path, size: int, again: bool) -> bool:
    """A disk of its own for a folder; False where that may not be made."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ("remount," if again else "") + f"size={size}"
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False).returncode == 0


def size_of(folder: Path) -> int:
    """Bytes in whole pages, as a tmpfs counts them."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=CAUSES, default=CAUSES)
    parser.add_argument("--systems", nargs="+", choices=tuple(SYSTEMS), default=tuple(SYSTEMS))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    import transformers
    import transformers.trainer

    import tunesmith.pipeline
    import tunesmith.training.loop  # noqa: F401  # imported once, here, so that a fork costs no start

    transformers.utils.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {asked.n} of each\n")
    print(f"{'mishap':8}{'system':10}{'identical':>11}{'different':>11}{'crashed on resume':>20}   what was said")
    with tempfile.TemporaryDirectory(prefix="durability-") as name:
        root = Path(name)
        base, data = prepare(root)
        for system in asked.systems:
            alone = Case(system, root / f"{system}-alone", base, data)
            if alone.go():
                sys.exit(f"{system} does not run:\n" + (alone.folder / "log").read_text()[-3000:])
            whole = alone.end()
            assert whole is not None
            for cause in asked.only:
                said = CAUSE[cause](system, root, base, data, whole, alone, random.Random(f"{asked.seed} {cause}"), asked.n)
                print(f"{cause:8}{system:10}{said}", flush=True)


def counts(found: list[str]) -> str:
    """The three columns."""
    of = Counter(found)
    return f"{of['identical']:>11}{of['different']:>11}{of['crashed on resume']:>20}   "


def killing(system: str, root: Path, base: Path, data: Path, whole: dict[str, Any], alone: Case, draw: random.Random, n: int) -> str:
    found, words = [], ""
    for number in range(n):
        case = Case(system, root / f"{system}-kill-{number}", base, data)
        case.kill(draw.randint(1, STEPS - 1), draw.uniform(0, 0.05))
        found.append(case.against(whole))
        words = case.words() if found[-1] != "identical" else words
    return counts(found) + words


def filling(system: str, root: Path, base: Path, data: Path, whole: dict[str, Any], alone: Case, draw: random.Random, n: int) -> str:
    each = max(size_of(folder) for folder in alone.checkpoints.iterdir() if folder.is_dir())
    found, said = [], Counter[str]()
    for number in range(n):
        case = Case(system, root / f"{system}-disk-{number}", base, data)
        assert case.before is None or case.go(script=case.before) == 0, case.words()
        # Two checkpoints are kept and the third is written before the first goes, so this is never room enough.
        if not mount(case.checkpoints, int(each * draw.uniform(1.1, 2.9)), False):
            return "skipped: a small disk cannot be made here, which takes root"
        try:
            assert case.go() != 0, "the disk was not full"
            said[case.words()] += 1
            assert mount(case.checkpoints, 1 << 28, True)
            found.append(case.against(whole))
            if found[-1] == "crashed on resume":
                said[case.words()] += 1
        finally:
            subprocess.run(["umount", "--lazy", str(case.checkpoints)], check=True)
    return counts(found) + (said.most_common(1)[0][0] if said else "")


def spoiling(system: str, root: Path, base: Path, data: Path, whole: dict[str, Any], alone: Case, draw: random.Random, n: int) -> str:
    lost, stopped, last = 0, 0, math.nan
    ends = []
    for number in range(n):
        case = Case(system, root / f"{system}-nan-{number}", base, data)
        if case.go(draw.randint(2, STEPS - 2)):
            stopped += 1
            continue
        end = case.end()
        assert end is not None
        ends.append(end)
        lost += end["not_finite"] > 0
        last = end["losses"][-1]
    of = f"{max((end['not_finite'] for end in ends), default=0)} of {ends[0]['tensors'] if ends else 0} tensors"
    counted = f"{sum(end['skipped'] for end in ends)} steps skipped and counted"
    return f"{'-':>11}{'-':>11}{'-':>20}   {lost} of {n} models not finite ({of} at most), {stopped} stopped, {counted}, last loss told {last:.3g}"


CAUSE = {"kill": killing, "disk": filling, "nan": spoiling}

if __name__ == "__main__":
    main()
