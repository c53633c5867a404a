"""Ours and the peer in turn on the same rows: training speed, loss and prediction of a text classifier.

    python benchmarks/classification.py FOLDER [--rows 3200] [--rounds 3] [--only full lora features predict]

FOLDER holds train.csv and test.csv with columns text,category (Banking77). The peer is transformers' `Trainer` (with PEFT for LoRA)
and `pipeline` at their best CPU settings: fused AdamW, dynamic padding, rows grouped by length, bf16 where this machine is faster with
it, the best of several batch sizes for prediction. Each measurement is a process of its own, A B A B; medians are printed.
Steady state: the first five optimizer steps of each process are not counted, loading is not counted, tokenising is (for `features`).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["HF_HUB_OFFLINE"] = "1"

WARM_STEPS = 5
BATCH_ROWS = 32
RATE = {"full": 3e-4, "lora": 1e-3, "features": 1e-3}
FEATURE_EPOCHS = 20


def read(folder: Path, name: str, most: int | None = None) -> tuple[list[str], list[str]]:
    with open(folder / name, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:most]
    return [row["text"] for row in rows], [row["category"] for row in rows]


def spread(folder: Path, rows: int) -> tuple[list[str], list[int], list[str]]:
    """The first rows of a seeded shuffle (the file is sorted by label), as texts and label numbers, and the label names."""
    import random

    texts, names = read(folder, "train.csv")
    labels = sorted(set(names))
    order = random.Random(0).sample(range(len(texts)), min(rows, len(texts)))
    return [texts[i] for i in order], [labels.index(names[i]) for i in order], labels


# --- ours -----------------------------------------------------------------------------------------------------------------------


def ours_train(folder: Path, rows: int, method: str, work: Path) -> dict[str, Any]:
    from tunesmith import methods
    from tunesmith.data.rows import LABELLED  # noqa: F401  # the same import cost as a run
    from tunesmith.methods.full import FullSettings
    from tunesmith.methods.lora import LoraSettings
    from tunesmith.models import catalog, used_embeddings
    from tunesmith.models.loading import Head
    from tunesmith.objectives.classification import Classification, ClassificationSettings
    from tunesmith.tokens import encode, tokenization
    from tunesmith.tokens.examples import TokenExamples
    from tunesmith.training import hardware, loop
    from tunesmith.training.settings import TrainSettings

    texts, labels, names = spread(folder, rows)
    base = catalog.resolve(catalog.ModelSettings())
    reader = tokenization.load(base.folder)
    objective = Classification(names, False, ClassificationSettings())
    machine = hardware.choose("cpu", "auto", None)
    import torch

    torch.manual_seed(0)
    settings: Any = {"full": FullSettings(), "lora": LoraSettings(rank=8, alpha=16, targets="all-linear")}[method]
    model = methods.get(method).adapt(base, Head(names, False), settings)
    tokens = encode.encode(reader, texts, None, base.max_tokens)
    examples = TokenExamples(tokens, objective.targets([[names[label]] for label in labels]), reader.pad_id)
    used_embeddings.compact(model, [examples])
    times: list[tuple[float, int, float]] = []
    losses: list[float] = []

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "progress":
            times.append((time.perf_counter(), event["tokens"], event["seconds"]))
        elif event["kind"] == "step":
            losses.append(event["loss"])

    train = TrainSettings(epochs=1, learning_rate=RATE[method], batch_rows=BATCH_ROWS, warmup=0.06, checkpoint_seconds=1e9, log_every=1)
    loop.train(model, objective, examples, None, train, machine, work / "checkpoints", "bench", listen)
    (start, first, _), (stop, last, _) = times[WARM_STEPS - 1], times[-1]
    return {"tokens_per_second": (last - first) / (stop - start), "loss": sum(losses[-20:]) / 20, "precision": machine.precision}


def ours_features(folder: Path, rows: int, work: Path) -> dict[str, Any]:
    """The whole road as a user walks it: a recipe on all rows, an empty cache; then again with the cache warm."""
    os.environ["TUNESMITH_CACHE"] = str(work / "cache")
    import tunesmith

    recipe = work / "features.yaml"
    data = {"train": str(folder / "train.csv"), "test": str(folder / "test.csv"), "valid": "none", "text": "text", "label": "category"}
    data["duplicates"] = {"near": None}  # the same rows as the peer
    recipe.write_text(json.dumps({"data": data, "method": "features", "evaluate": {"against": []}}))
    out: dict[str, Any] = {}
    for name in ("cold", "warm"):
        run = tunesmith.run(recipe, runs_dir=work / name)
        stages = {stage["name"]: stage["seconds"] for stage in json.loads((run.folder / "run.json").read_text())["stages"]}
        out[name + "_seconds"] = stages["train"]
        assert run.evaluation is not None
        out["accuracy"] = run.evaluation.test.tuned.accuracy.value
    return out


def ours_predict(folder: Path, rows: int, work: Path) -> dict[str, Any]:
    from tunesmith.serving import engine

    texts, _ = read(folder, "test.csv")
    classifier = engine.load(Path(os.environ["BENCH_MODEL"]))
    classifier.predict(texts[:64])
    start = time.perf_counter()
    answers = classifier.predict(texts)
    return {"rows_per_second": len(texts) / (time.perf_counter() - start), "labels": [answer.label for answer in answers]}


# --- the peer -------------------------------------------------------------------------------------------------------------------


def peer_train(folder: Path, rows: int, method: str, work: Path) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    from tunesmith import starters
    from tunesmith.training import hardware

    texts, labels, names = spread(folder, rows)
    base = starters.base_folder("starter/minilm")
    bf16 = hardware.choose("cpu", "auto", None).precision == "bf16"
    tokenizer = AutoTokenizer.from_pretrained(base)
    encoded = tokenizer(texts, truncation=True, max_length=512)["input_ids"]
    data = [{"input_ids": ids, "labels": label, "length": len(ids)} for ids, label in zip(encoded, labels, strict=True)]
    torch.manual_seed(0)
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(names))
    if method == "lora":
        from peft import LoraConfig, TaskType, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules="all-linear", lora_dropout=0.0))
    elif method == "features":  # a frozen base under the Trainer: the peer's own way to extract features
        model.base_model.requires_grad_(False)
    seen, marks, losses = [0], [], []
    pad = DataCollatorWithPadding(tokenizer)

    def collate(items: list[dict[str, Any]]) -> Any:
        seen[0] += sum(item["length"] for item in items)
        return pad([{key: value for key, value in item.items() if key != "length"} for item in items])

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers' base is untyped
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            marks.append((time.perf_counter(), seen[0]))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            if logs and "loss" in logs:
                losses.append(logs["loss"])

    arguments = TrainingArguments(
        output_dir=str(work / "peer"), per_device_train_batch_size=BATCH_ROWS, num_train_epochs=1, learning_rate=RATE[method], warmup_steps=0.06,
        weight_decay=0.01, bf16=bf16, optim="adamw_torch_fused", train_sampling_strategy="group_by_length", length_column_name="length",
        remove_unused_columns=False, save_strategy="no", eval_strategy="no", logging_steps=10, report_to=[], disable_tqdm=True, use_cpu=True, seed=0,
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate, callbacks=[Clock()]).train()
    (start, first), (stop, last) = marks[WARM_STEPS - 1], marks[-1]
    return {"tokens_per_second": (last - first) / (stop - start), "loss": sum(losses[-2:]) / 2, "precision": "bf16" if bf16 else "fp32"}


def peer_predict(folder: Path, rows: int, work: Path) -> dict[str, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    texts, _ = read(folder, "test.csv")
    place = os.environ["BENCH_MODEL"]
    answer = pipeline("text-classification", model=AutoModelForSequenceClassification.from_pretrained(place), tokenizer=AutoTokenizer.from_pretrained(place))
    answer(texts[:64], batch_size=16)
    best: dict[str, Any] = {"rows_per_second": 0.0}
    for batch in (1, 8, 32, 128):
        start = time.perf_counter()
        labels = [one["label"] for one in answer(texts, batch_size=batch)]
        speed = len(texts) / (time.perf_counter() - start)
        if speed > best["rows_per_second"]:
            best = {"rows_per_second": speed, "labels": labels, "batch": batch}
    return best


# --- in turn --------------------------------------------------------------------------------------------------------------------


def child(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, str(arguments.folder), "--rows", str(arguments.rows), "--one", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def one(name: str, folder: Path, rows: int) -> dict[str, Any]:
    """Run one measurement in this process."""
    side, what = name.split("-")
    with tempfile.TemporaryDirectory() as work:
        if what in ("full", "lora"):
            return (ours_train if side == "ours" else peer_train)(folder, rows, what, Path(work))
        if what == "features":
            return ours_features(folder, rows, Path(work)) if side == "ours" else peer_train(folder, rows, what, Path(work))
        return (ours_predict if side == "ours" else peer_predict)(folder, rows, Path(work))


def table(title: str, ours: list[float], peer: list[float], unit: str) -> None:
    """One line: medians, and the ratio pair by pair."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    spread_ = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"| {title} | {median(ours):,.0f} {unit} | {median(peer):,.0f} {unit} | {median(ratios):.2f} | {spread_} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=3200, help="training rows of a timed epoch (32 a step)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=["full", "lora", "features", "predict"])
    parser.add_argument("--model", type=Path, help="a run's model/ (method full) for `predict`")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.folder, arguments.rows)))
        return
    from tunesmith.training import hardware

    machine = hardware.choose("cpu", "auto", None)
    print(f"{machine.name}, {machine.threads} threads, {machine.precision} (bf16 product {hardware.bf16_gain():.2f} times fp32's speed), {platform.system()}")
    print(f"python benchmarks/classification.py FOLDER --rows {arguments.rows} --rounds {arguments.rounds} --only {' '.join(arguments.only)}\n")
    print("| what | ours | peer | ratio (median) | ratios |\n|---|---|---|---|---|")
    full_peer: list[float] = []
    for what in arguments.only:
        if what in ("full", "lora"):
            pairs = [(child(arguments, f"ours-{what}"), child(arguments, f"peer-{what}")) for _ in range(arguments.rounds)]
            table(f"train, {what}", [a["tokens_per_second"] for a, _ in pairs], [b["tokens_per_second"] for _, b in pairs], "tokens/s")
            print(f"| loss after the epoch, {what} | {median(a['loss'] for a, _ in pairs):.4f} | {median(b['loss'] for _, b in pairs):.4f} | | |")
            full_peer += [b["tokens_per_second"] for _, b in pairs] if what == "full" else []
        elif what == "features":
            features(arguments, full_peer)
        elif what == "predict":
            if arguments.model is None:
                sys.exit("predict needs --model RUN/model of a full run")
            os.environ["BENCH_MODEL"] = str(arguments.model)
            pairs = [(child(arguments, "ours-predict"), child(arguments, "peer-predict")) for _ in range(arguments.rounds)]
            table("predict", [a["rows_per_second"] for a, _ in pairs], [b["rows_per_second"] for _, b in pairs], "rows/s")
            same = sum(x == y for x, y in zip(pairs[0][0]["labels"], pairs[0][1]["labels"], strict=True))
            print(f"| same labels | {same} of {len(pairs[0][0]['labels'])} | best batch {pairs[0][1]['batch']} | | |")


def features(arguments: argparse.Namespace, full_peer: list[float]) -> None:
    """The best head on frozen features against twenty epochs of the peer, the peer's time taken from its measured speed."""
    from tunesmith.models import catalog
    from tunesmith.tokens import encode, tokenization

    texts, _ = read(arguments.folder, "train.csv")
    base = catalog.resolve(catalog.ModelSettings())
    tokens = len(encode.encode(tokenization.load(base.folder), texts, None, 512).ids_T) * FEATURE_EPOCHS
    ours = [child(arguments, "ours-features") for _ in range(arguments.rounds)]
    frozen = [child(arguments, "peer-features")["tokens_per_second"] for _ in range(arguments.rounds)]
    cold, warm = median(o["cold_seconds"] for o in ours), median(o["warm_seconds"] for o in ours)
    for name, speeds in (("full fine-tuning", full_peer), ("a frozen base", frozen)):
        if speeds:
            seconds = tokens / median(speeds)
            title = f"features, cold cache; against {FEATURE_EPOCHS} epochs of the peer: Trainer with {name}"
            print(f"| {title} | {cold:.1f} s | {seconds:,.0f} s (from its speed) | {seconds / cold:.0f} | |")
    print(f"| features, warm cache | {warm:.2f} s | | | |\n| features, test accuracy | {ours[0]['accuracy']:.4f} | | | |")


if __name__ == "__main__":
    main()
