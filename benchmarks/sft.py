"""Ours and TRL's SFTTrainer in turn on the same rows: speed, memory and loss of supervised fine-tuning with LoRA.

    python benchmarks/sft.py FOLDER [--rows 160] [--rounds 3] [--steps 20] [--peer-python VENV/bin/python] [--only ours peer peer-best]
    python benchmarks/sft.py FOLDER --check-loss     the losses of ten steps in fp32, which must agree within 1e-4
    python benchmarks/sft.py FOLDER --profile        where a step of ours spends its time
    python benchmarks/sft.py FOLDER --memory [500]   peak memory of a whole run on 20 MB of rows and on so many

FOLDER holds GSM8K's train.jsonl (question, answer). The model is a Llama of random weights in SmolLM-135M's proportions (12 layers, width
576, 49,152 tokens, tied embeddings), the tokenizer a byte-level BPE trained on the rows. LoRA of rank 8 on all linear layers, batches of
8 rows, AdamW, a constant rate, loss on completions alone; both begin with the same weights and adapters and take the same rows.
Each measurement is a process of its own, A B A B; medians are printed. The first WARM_STEPS steps of a process are not counted.

The peer's settings are parts of its name, as in `peer-packed-micro1-half`:
    grouped     train_sampling_strategy="group_by_length" in place of the order of the file
    free        padding_free=True: rows flattened into one sequence, kept apart by positions
    packed      packing=True, strategy bfd (which is padding-free too), as many packs a step as hold about 8 rows
    wrapped     packing=True, strategy wrapped: cuts rows and lets them see each other, so it is no like for like, and no candidate
    microN      N rows (or packs) computed at once, gradients accumulated to the whole batch
    half        the frozen base in bf16, adapters in fp32 under autocast (else, in bf16, autocast alone over fp32 weights)
    compiled    torch_compile=True
    eager       attn_implementation="eager" in place of sdpa
    spin        without OMP_WAIT_POLICY=PASSIVE
Always: fused AdamW, no gradient checkpointing, no progress bar, no loader workers (collating is measured: a worker could save no more
than that), and on a GPU flash attention and Liger where they are installed. `peer-best` tries CANDIDATES once each and takes the fastest.
Of ours there is `ours`, `ours-compiled` and `ours-microN` (train.micro_rows: N).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
# This process imports nothing heavy: what a parent holds counts in the ru_maxrss of its children.

WARM_STEPS = 5
BATCH_ROWS = 8
MAX_TOKENS = 512
RATE = 1e-3
RANK, ALPHA = 8, 16
SMALL_MB = 20
CANDIDATES = ("peer", "peer-grouped", "peer-grouped-micro4", "peer-free", "peer-free-micro2", "peer-packed", "peer-packed-micro1")
"""Settings of TRL that work on a CPU; in bf16 each also with `half`."""


def shape(arguments: argparse.Namespace) -> dict[str, int]:
    """The model's config, as transformers names it."""
    head = 64 if arguments.width % 64 == 0 and arguments.width >= 192 else arguments.width // 4
    heads = arguments.width // head
    return {
        "vocab_size": arguments.vocabulary,
        "hidden_size": arguments.width,
        "intermediate_size": arguments.width * 8 // 3,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 3 if heads % 3 == 0 else heads // 2,
        "max_position_embeddings": 2048,
    }


def texts_of(folder: Path) -> list[tuple[str, str]]:
    """Prompts and completions. The line break between them is a token's edge for any byte-level BPE, so both sides see the same prompt."""
    with open(folder / "train.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(row["question"].strip() + "\n", row["answer"].strip()) for row in rows]


# --- the same beginning for both ------------------------------------------------------------------------------------------------


def make(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write tokenizer, random base, adapters and rows into the work folder."""
    import random

    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts = texts_of(arguments.folder)
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=arguments.vocabulary, special_tokens=["<pad>", "<end>"], initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator((prompt + completion for prompt, completion in texts), trainer)
    base = arguments.work / "base"
    PreTrainedTokenizerFast(tokenizer_object=library, eos_token="<end>", pad_token="<pad>").save_pretrained(base)
    lengths = [len(one.ids) + 1 for one in library.encode_batch([prompt + completion for prompt, completion in texts])]
    fitting = [i for i, length in enumerate(lengths) if length <= MAX_TOKENS]
    chosen = random.Random(0).sample(fitting, min(arguments.rows, len(fitting)))
    with open(arguments.work / "rows.jsonl", "w", encoding="utf-8") as file:
        for i in chosen:
            file.write(json.dumps({"prompt": texts[i][0], "completion": texts[i][1], "tokens": lengths[i]}) + "\n")
    torch.manual_seed(0)
    config = LlamaConfig(**shape(arguments), tie_word_embeddings=True, pad_token_id=0, bos_token_id=None, eos_token_id=1)
    model = LlamaForCausalLM(config)
    model.save_pretrained(base)
    torch.manual_seed(1)
    adapted = get_peft_model(model, lora_config(LoraConfig))
    learnt = {name: p.detach().clone() for name, p in adapted.named_parameters() if p.requires_grad}
    save_file(learnt, arguments.work / "adapters.safetensors")
    weights = sum(p.numel() for p in model.parameters())
    return {"weights": weights, "learnt": sum(p.numel() for p in learnt.values()), "tokens": library.get_vocab_size(), "rows": len(chosen)}


def lora_config(kind: Any) -> Any:
    return kind(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=0.0)


def begin_alike(model: Any, work: Path) -> None:
    """Give an adapted model the adapters that both sides begin with."""
    import torch
    from safetensors.torch import load_file

    first = load_file(work / "adapters.safetensors")
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert learnt.keys() == first.keys()
    with torch.no_grad():
        for name, parameter in learnt.items():
            parameter.copy_(first[name])


def chosen_rows(work: Path) -> list[dict[str, Any]]:
    with open(work / "rows.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def steps_of(arguments: argparse.Namespace) -> int:
    return 10 if arguments.check_loss else WARM_STEPS + arguments.steps


def memory_mb() -> float:
    """Peak memory: of this process, or on a GPU of torch's allocator."""
    import resource

    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def now() -> float:
    """Seconds, once the GPU has done what it was given."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def measured(marks: list[float], steps: list[list[tuple[int, int]]], losses: list[float], **more: Any) -> dict[str, Any]:
    """What a process tells: seconds and rows of the steps that count.

    Args:
        marks: when each step ended.
        steps: of each step, each row's tokens and learnt tokens.
        losses: of each step.
    """
    counted = [row for step in steps[WARM_STEPS : len(marks)] for row in step]
    return {
        "seconds": marks[-1] - marks[WARM_STEPS - 1],
        "lengths": [tokens for tokens, _ in counted],
        "learnt": sum(learnt for _, learnt in counted),
        "losses": losses,
        "seen": [[sum(tokens for tokens, _ in step), sum(learnt for _, learnt in step)] for step in steps[: len(marks)]],
        "memory_mb": memory_mb(),
        **more,
    }


# --- ours -----------------------------------------------------------------------------------------------------------------------


def ours(arguments: argparse.Namespace, parts: list[str]) -> dict[str, Any]:
    import numpy as np

    from tunesmith import methods
    from tunesmith.methods.lora import LoraSettings
    from tunesmith.models import catalog, used_embeddings
    from tunesmith.models.fast import llama
    from tunesmith.objectives import sft
    from tunesmith.tokens import batching, chat_template, sequences, tokenization
    from tunesmith.tokens import dialogues as answers
    from tunesmith.training import hardware, loop
    from tunesmith.training.settings import TrainSettings

    machine = hardware.choose(arguments.device, arguments.precision, None)
    settings = sft.SftSettings(template="none")
    base = catalog.resolve(catalog.ModelSettings(base=str(arguments.work / "base"), max_tokens=MAX_TOKENS))
    objective = sft.make(settings, base, arguments.work)
    model: Any = methods.get("lora").adapt(base, objective.head(None), LoraSettings(rank=RANK, alpha=ALPHA, targets="all-linear"))
    begin_alike(model, arguments.work)
    llama.configure(model, 0.0, False, "compiled" in parts)
    reader, written = tokenization.load(base.folder), chat_template.load(base.folder, "none")
    dialogues = [[("user", row["prompt"]), ("assistant", row["completion"])] for row in chosen_rows(arguments.work)]
    messages = [[{"role": role, "content": said} for role, said in turns] for turns in dialogues]
    losses = sequences.Losses()
    pieces = answers.answers(reader, written, iter([messages]), sequences.end_of(reader, base.config, written), MAX_TOKENS, "head", "every", losses)
    examples = sequences.TextExamples(pieces, arguments.work, losses)
    assert len(examples) == len(dialogues) and max(losses.lengths) <= MAX_TOKENS
    used_embeddings.compact(model, [examples])
    # In the order of the file, as the peer takes them; a run would shuffle, which costs nothing.
    plan = [np.arange(start, min(start + BATCH_ROWS, len(examples))) for start in range(0, len(examples), BATCH_ROWS)]
    batching.plan = lambda *given, **more: plan
    steps = steps_of(arguments)
    taken = [plan[step % len(plan)] for step in range(steps)]
    learnt_N = examples.learnt_N
    stats = [[(int(examples.lengths_N[row]) + 1, int(learnt_N[row])) for row in rows] for rows in taken]
    marks: list[float] = []
    curve: list[float] = []
    profiler = _profiler() if arguments.profile else None

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            curve.append(event["loss"])
        elif event["kind"] == "progress":
            marks.append(now())
            if profiler and event["done"] == WARM_STEPS:
                profiler.start()

    train = TrainSettings(
        epochs=-(-steps // len(plan)), steps=steps, learning_rate=RATE, batch_rows=BATCH_ROWS, warmup=0, schedule="constant", log_every=1,
        checkpoint_seconds=1e9, micro_rows=micro_rows(parts),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        loop.train(model, objective, examples, None, train, machine, Path(folder), "bench", listen)
    if profiler:
        profiler.stop()
        return {"table": _top(profiler, arguments.steps)}
    return measured(marks, stats, curve, precision=machine.precision)


def micro_rows(parts: list[str]) -> int | None:
    """Rows computed at once, where a name says so."""
    return next((int(part[5:]) for part in parts if part.startswith("micro")), None)


def _profiler() -> Any:
    import torch
    from torch.profiler import ProfilerActivity, profile

    cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    return profile(activities=[ProfilerActivity.CPU, *cuda])


def _top(profiler: Any, steps: int) -> list[str]:
    """The operations that take most of a step, as lines of a table."""
    on_gpu = any(event.self_device_time_total for event in profiler.key_averages())
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, key))
    whole = sum(getattr(event, key) for event in events)
    lines = [f"| operation ({'GPU' if on_gpu else 'CPU'} time of its own) | share | ms a step | calls a step |", "|---|---|---|---|"]
    for event in events[:15]:
        own = getattr(event, key)
        lines.append(f"| {event.key[:70]} | {100 * own / whole:.1f} % | {own / steps / 1e3:.2f} | {event.count / steps:.0f} |")
    return [*lines, f"| all | 100 % | {whole / steps / 1e3:.1f} | |"]


# --- the peer: imports nothing of ours, for it may run in a virtual environment without it ----------------------------------------


def peer(arguments: argparse.Namespace, parts: list[str]) -> dict[str, Any]:
    import torch
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = chosen_rows(arguments.work)
    bf16, cuda = arguments.precision == "bf16", arguments.device.startswith("cuda")
    micro = micro_rows(parts)
    packs, free = "packed" in parts or "wrapped" in parts, "free" in parts
    # As many packs as hold about as many rows as a batch of ours.
    batch = max(1, round(BATCH_ROWS * sum(row["tokens"] for row in rows) / MAX_TOKENS / len(rows))) if packs else BATCH_ROWS
    micro = min(micro or batch, batch)
    flash = cuda and find_spec("flash_attn") is not None
    model: Any = AutoModelForCausalLM.from_pretrained(
        arguments.work / "base",
        dtype=torch.bfloat16 if "half" in parts else torch.float32,
        attn_implementation="eager" if "eager" in parts else "flash_attention_2" if flash else "sdpa",
    )
    model = get_peft_model(model, lora_config(LoraConfig))
    begin_alike(model, arguments.work)
    stats: list[list[tuple[int, int]]] = []
    marks: list[float] = []
    losses: list[float] = []
    ends: list[int] = []
    collating = [0.0]

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers' base is untyped
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            marks.append(now())
            ends.append(trainer.taken)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            if logs and "loss" in logs:
                losses.append(logs["loss"])

    class Counted(SFTTrainer):  # type: ignore[misc]  # TRL's is untyped
        taken = 0

        def training_step(self, *given: Any, **more: Any) -> Any:
            self.taken += 1
            return super().training_step(*given, **more)

    config = SFTConfig(
        output_dir=str(arguments.work / "peer"), per_device_train_batch_size=micro, gradient_accumulation_steps=max(1, batch // micro),
        max_steps=steps_of(arguments), learning_rate=RATE, lr_scheduler_type="constant", weight_decay=0.01, max_grad_norm=1.0,
        optim="adamw_torch_fused", bf16=bf16, gradient_checkpointing=False, completion_only_loss=True, packing=packs,
        packing_strategy="wrapped" if "wrapped" in parts else "bfd", padding_free=free, max_length=None if free else MAX_TOKENS,
        train_sampling_strategy="group_by_length" if "grouped" in parts else "sequential", torch_compile="compiled" in parts,
        use_liger_kernel=cuda and find_spec("liger_kernel") is not None, dataloader_num_workers=0, dataloader_pin_memory=cuda, use_cpu=not cuda,
        logging_steps=1, report_to=[], disable_tqdm=True, save_strategy="no", eval_strategy="no", seed=0,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": row["prompt"], "completion": row["completion"]} for row in rows])
    words = AutoTokenizer.from_pretrained(arguments.work / "base")
    trainer: Any = Counted(model=model, args=config, train_dataset=data, processing_class=words, callbacks=[Clock()])
    trainer.remove_callback(PrinterCallback)
    collate = trainer.data_collator

    def counting(items: list[dict[str, Any]]) -> Any:
        start = time.perf_counter()
        made = collate(items)
        collating[0] += time.perf_counter() - start
        stats.append(rows_of(made))
        return made

    trainer.data_collator = counting
    trainer.train()
    # By steps: the loader is ahead of them, so what was collated last may not have been learnt.
    steps = [[row for one in stats[start:stop] for row in one] for start, stop in zip([0, *ends], ends, strict=False)]
    return measured(marks, steps, losses, precision="bf16" if bf16 else "fp32", collating=collating[0] / len(ends))


def rows_of(made: Any) -> list[tuple[int, int]]:
    """Tokens and learnt tokens of each row of a collated batch of the peer's, padding not counted."""
    if "attention_mask" in made:
        lengths = made["attention_mask"].sum(1).tolist()
        return list(zip(lengths, (made["labels"] != -100).sum(1).tolist(), strict=True))
    bounds = made["cu_seq_lens_q"].tolist()
    learnt = (made["labels"][0] != -100).cumsum(0).tolist()
    return [(stop - start, learnt[stop - 1] - (learnt[start - 1] if start else 0)) for start, stop in zip(bounds, bounds[1:], strict=False)]


def peer_versions() -> dict[str, Any]:
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in ("trl", "transformers", "peft", "accelerate", "datasets", "torch")}


# --- what the machine can do ----------------------------------------------------------------------------------------------------


def machine_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Device, the precision that is chosen on it, the rate of large matrix products, and versions."""
    import importlib.metadata

    import torch

    from tunesmith.training import hardware

    machine = hardware.choose(arguments.device, arguments.precision, None)
    where = torch.device(machine.device)
    size = 8192 if where.type == "cuda" else 2048 if arguments.width >= 512 else 512
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(size, size, device=where, dtype=dtype) for _ in range(2))
        times = []
        for _ in range(7):
            start = now()
            a @ b.T
            times.append(now() - start)
            if sum(times) > 15:  # a processor without bf16 units
                break
        rates[name] = 2 * size**3 / min(times) / 1e9
    versions = {name: importlib.metadata.version(name) for name in ("tunesmith", "transformers", "peft", "torch")}
    return {"name": machine.name, "threads": machine.threads, "precision": machine.precision, "rates": rates, "versions": versions}


def useful(arguments: argparse.Namespace, lengths: list[int], learnt: int) -> float:
    """Operations that steps over these rows cannot do without.

    A weight costs 2 operations a token forward and 2 for the gradient of its input; LoRA's A and B 2 each forward and 4 each backward;
    attention 2 products forward and 4 backward over the causal half; the vocabulary's weights 2 and 2, at learnt tokens alone. The
    inputs of the first layer's query, key and value need no gradient. A row of n tokens has n - 1 places, for nothing follows its last.
    """
    s = shape(arguments)
    D, F, V = s["hidden_size"], s["intermediate_size"], s["vocab_size"]
    narrow = D // s["num_attention_heads"] * s["num_key_value_heads"]
    first, rest = [(D, D), (D, narrow), (D, narrow)], [(D, D), (D, F), (D, F), (F, D)]
    layers = s["num_hidden_layers"]
    a_token = layers * sum(4 * i * o + 6 * RANK * (i + o) for i, o in first + rest) - sum(2 * i * o + 2 * RANK * i for i, o in first)
    places = sum(n - 1 for n in lengths)
    attention = layers * 6 * 2 * D * sum((n - 1) * n / 2 for n in lengths)
    return float(a_token * places + attention + 4 * D * V * learnt)


# --- memory of a whole run --------------------------------------------------------------------------------------------------------


def generated(arguments: argparse.Namespace, megabytes: int) -> Iterator[str]:
    """Different rows of so many MB: each question with one answer after the other."""
    texts = texts_of(arguments.folder)
    written = number = 0
    while written < megabytes * 1e6:
        prompt, completion = texts[number % len(texts)][0], texts[(number + number // len(texts)) % len(texts)][1]
        prompt = f"Case {number}. {prompt}"
        row = {"prompt": prompt, "completion": completion} if arguments.objective == "sft" else {"text": prompt + completion}
        line = json.dumps(row) + "\n"
        written, number = written + len(line), number + 1
        yield line


def whole_run(arguments: argparse.Namespace, megabytes: int) -> dict[str, Any]:
    """A recipe from files to a model, five steps of training, as a user runs it."""
    import resource

    os.environ["TUNESMITH_CACHE"] = str(arguments.work / "cache")
    import tunesmith

    objective = {"kind": arguments.objective} | ({"template": "none"} if arguments.objective == "sft" else {})
    recipe = arguments.work / f"memory-{megabytes}.yaml"
    values = {
        "data": {"train": str(arguments.work / f"rows-{megabytes}.jsonl"), "valid": "none", "test": "none", "duplicates": {"near": None}},
        "model": {"base": str(arguments.work / "base"), "max_tokens": MAX_TOKENS},
        "objective": objective,
        "method": {"kind": "lora", "rank": RANK, "alpha": ALPHA},
        "train": {"steps": 5, "epochs": 1, "batch_rows": BATCH_ROWS, "device": arguments.device, "precision": arguments.precision},
        "evaluate": {"against": [], "general": None},
    }
    recipe.write_text(json.dumps(values))
    start = time.perf_counter()
    run = tunesmith.run(recipe, runs_dir=arguments.work / f"runs-{megabytes}")
    seconds = time.perf_counter() - start
    assert run.training.steps == 5
    stages = {stage["name"]: stage["seconds"] for stage in json.loads((run.folder / "run.json").read_text())["stages"]}
    own, children = (resource.getrusage(who).ru_maxrss / 1e3 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"memory_mb": max(own, children), "seconds": seconds, "stages": stages}


def memory(arguments: argparse.Namespace) -> None:
    print(f"recipe, {arguments.objective}: peak memory of the whole run (ru_maxrss), five steps\n")
    print("| rows | peak memory | beside the smallest | seconds | of them |\n|---|---|---|---|---|")
    least = None
    for megabytes in (SMALL_MB, *(arguments.memory or [500])):
        path = arguments.work / f"rows-{megabytes}.jsonl"
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(generated(arguments, megabytes))
        found = child(arguments, f"memory-{megabytes}")
        path.unlink()
        least = least or found["memory_mb"]
        stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in found["stages"].items())
        line = f"| {megabytes:,} MB | {found['memory_mb']:,.0f} MB | {found['memory_mb'] - least:+,.0f} MB | {found['seconds']:.0f} | {stages} |"
        print(line, flush=True)


# --- in turn --------------------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """A measurement that did not come to an end; its text is what the process wrote."""


def child(arguments: argparse.Namespace, name: str, **changes: Any) -> dict[str, Any]:
    """One measurement in a process of its own."""
    given = {key: value for key, value in vars(arguments).items() if key not in ("only", "one")} | changes | {"one": name}
    python = arguments.peer_python if name.startswith("peer") else sys.executable
    environment = dict(os.environ)
    if "spin" in name.split("-"):
        environment["OMP_WAIT_POLICY"] = ""
    command = [str(python), __file__, str(arguments.folder), "--child", json.dumps(given, default=str)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise Failed(done.stderr.strip() or f"exit code {done.returncode}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def one(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one measurement in this process."""
    if os.environ.get("OMP_WAIT_POLICY") == "":
        del os.environ["OMP_WAIT_POLICY"]
    who, *parts = arguments.one.split("-")
    if who == "memory":
        return whole_run(arguments, int(parts[0]))
    if who == "ours":
        return ours(arguments, parts)
    if who == "peer":
        return peer_versions() if parts == ["versions"] else peer(arguments, parts)
    return make(arguments) if who == "make" else machine_of(arguments)


def tokens_per_second(result: dict[str, Any]) -> float:
    return float(sum(result["lengths"]) / result["seconds"])


def line(arguments: argparse.Namespace, name: str, results: list[dict[str, Any]], rates: dict[str, float]) -> None:
    """One side's medians."""
    tokens, rows = median(tokens_per_second(r) for r in results), median(len(r["lengths"]) / r["seconds"] for r in results)
    done = median(useful(arguments, r["lengths"], r["learnt"]) / r["seconds"] / 1e9 for r in results)
    share = f"{done:,.0f} GFLOP/s, {100 * done / rates[results[0]['precision']]:.0f} %"
    loss = " / ".join(f"{sum(part) / len(part):.4f}" for part in (results[0]["losses"][:5], results[0]["losses"][-5:]))
    print(f"| {name} | {tokens:,.0f} | {rows:.1f} | {median(r['memory_mb'] for r in results):,.0f} MB | {loss} | {share} |", flush=True)


HEAD = "| | tokens/s | rows/s | peak memory | loss (first 5 / last 5) | useful operations |\n|---|---|---|---|---|---|"


def fastest(arguments: argparse.Namespace, precision: str, rates: dict[str, float]) -> str:
    """TRL's best settings here: each candidate once."""
    names = [*CANDIDATES, *(f"{name}-half" for name in CANDIDATES)] if precision == "bf16" else list(CANDIDATES)
    print(f"TRL's settings, once each, {arguments.trial_steps} steps\n\n{HEAD}", flush=True)
    speeds = {}
    for name in [*names, *arguments.also]:
        try:
            found = child(arguments, name, steps=arguments.trial_steps)
        except Failed as error:
            print(f"| {name} | fails: {str(error).splitlines()[-1][:160]} | | | | |", flush=True)
            continue
        line(arguments, name, [found], rates)
        speeds[name] = tokens_per_second(found)
    if not speeds:
        sys.exit("none of the peer's settings works here")
    print()
    return max(speeds, key=lambda name: speeds[name])


def compare(arguments: argparse.Namespace) -> None:
    """Rounds of all sides in turn; the ratio of ours to each other, round by round."""
    machine = child(arguments, "machine")
    precision, rates = machine["precision"], machine["rates"]
    arguments.precision = precision
    made = child(arguments, "make")
    peers = any(name.startswith("peer") for name in arguments.only)
    versions = [" ".join(f"{k} {v}" for k, v in one.items()) for one in (machine["versions"], child(arguments, "peer-versions") if peers else {}) if one]
    load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
    print(f"{machine['name']}, {machine['threads']} threads, {precision}; {platform.system()}, Python {platform.python_version()}; load {load}")
    print(f"matrix products: {rates['fp32']:,.0f} GFLOP/s in fp32, {rates['bf16']:,.0f} in bf16")
    print("; peer: ".join(versions))
    print(f"{made['weights']:,} weights, {made['learnt']:,} learnt; {made['rows']} rows in batches of {BATCH_ROWS}; {made['tokens']:,} tokens in use")
    print(f"python benchmarks/sft.py FOLDER --rows {arguments.rows} --rounds {arguments.rounds} --steps {arguments.steps} --device {arguments.device}\n")
    names = list(dict.fromkeys(fastest(arguments, precision, rates) if name == "peer-best" else name for name in arguments.only))
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            results[name].append(child(arguments, name))
    print(f"{arguments.rounds} rounds in turn, {arguments.steps} steps after {WARM_STEPS}\n\n{HEAD}")
    for name in names:
        line(arguments, name, results[name], rates)
    if peers:
        taken = max(one.get("collating", 0.0) * arguments.steps / one["seconds"] for many in results.values() for one in many)
        print(f"\nThe peer spends {100 * taken:.1f} % of its time at most on collating: what a loader's worker could save.")
    if "ours" not in names or len(names) == 1:
        return
    print("\n| ours beside | speed (median) | rounds | memory |\n|---|---|---|---|")
    for name in names:
        if name != "ours":
            ratios = [tokens_per_second(a) / tokens_per_second(b) for a, b in zip(results["ours"], results[name], strict=True)]
            held = median(a["memory_mb"] / b["memory_mb"] for a, b in zip(results["ours"], results[name], strict=True))
            print(f"| {name} | {median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} | {held:.2f} |")


def check_loss(arguments: argparse.Namespace) -> None:
    """The same rows in the same order in fp32: losses step by step."""
    arguments.precision = "fp32"
    child(arguments, "make")
    a, b = child(arguments, "ours"), child(arguments, "peer")
    print("| step | ours | peer | difference | tokens (learnt), ours | peer |\n|---|---|---|---|---|---|")
    for step, (mine, other, mine_n, other_n) in enumerate(zip(a["losses"], b["losses"], a["seen"], b["seen"], strict=True), 1):
        counts = " | ".join(f"{tokens} ({learnt})" for tokens, learnt in (mine_n, other_n))
        print(f"| {step} | {mine:.6f} | {other:.6f} | {mine - other:+.1e} | {counts} |")
    most = max(abs(x - y) for x, y in zip(a["losses"], b["losses"], strict=True))
    print(f"\nlargest difference {most:.1e}; tokens {'the same' if a['seen'] == b['seen'] else 'NOT the same'}")
    if most > 1e-4 or a["seen"] != b["seen"]:
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="steps that count; rows / 8 of them see each row once")
    parser.add_argument("--trial-steps", type=int, default=10, help="steps that count of each candidate of peer-best")
    parser.add_argument("--only", nargs="*", default=["ours", "peer", "peer-best"])
    parser.add_argument("--also", nargs="*", default=[], help="more candidates of peer-best, such as peer-packed-compiled")
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), help="the Python of a virtual environment with TRL")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--work", type=Path, help="keep model and rows here; otherwise they go with the process")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--check-loss", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--memory", nargs="*", type=int, metavar="MB")
    parser.add_argument("--objective", default="sft", choices=("sft", "pretraining"), help="of --memory")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        given = json.loads(arguments.child)
        arguments = argparse.Namespace(**given | {"folder": Path(given["folder"]), "work": Path(given["work"])})
        print("\n" + json.dumps(one(arguments)))
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            arguments.work = arguments.work or Path(folder)
            arguments.work.mkdir(parents=True, exist_ok=True)
            if arguments.check_loss:
                check_loss(arguments)
            elif arguments.profile:
                child(arguments, "make")
                print("\n".join(child(arguments, "ours")["table"]))
            elif arguments.memory is not None:
                child(arguments, "make")
                memory(arguments)
            else:
                compare(arguments)
    except Failed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
