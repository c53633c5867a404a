"""Rows that any method learns in seconds."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

COLOURS = {"red": "apple brick rose cherry ruby", "green": "leaf grass lime moss fern", "blue": "sky sea ink jeans lake"}


def colour_rows(count: int = 120, seed: int = 0) -> list[dict[str, str]]:
    """Sentences whose words give away one of three labels: learnable by anything, in seconds."""
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        label = draw.choice(sorted(COLOURS))
        words = draw.sample(COLOURS[label].split(), 2)
        filler = draw.sample("the old man saw one very near his big house on that day with some great joy".split(), draw.randint(2, 6))
        text = " ".join([*filler[:2], *words, *filler[2:], str(index)])
        rows.append({"text": text, "label": label, "who": f"p{draw.randint(0, count // 3)}"})
    return rows


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    """Rows as a CSV file."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def llama_folder(path: Path, max_tokens: int = 128) -> Path:
    """A Llama of two layers and width 32 with random weights, a byte-level tokenizer and a chat template, in a folder as transformers saves it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunesmith.models import scratch

    path.mkdir(parents=True, exist_ok=True)
    size = scratch.ScratchSettings(vocabulary=400, width=32, layers=2, heads=4, kv_heads=2, feed_forward=48, max_tokens=max_tokens)
    scratch.make(size, iter([[row["text"] for row in colour_rows()]]), path)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path, initializer_range=0.1), attn_implementation="sdpa")
    model.save_pretrained(path)
    return path


def trained(folder: Path, base: Path, rows: list[dict[str, Any]], **recipe: Any) -> Path:
    """The folder of a language model's run over some rows."""
    import tunesmith

    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quick = {"epochs": 6, "learning_rate": 1e-2, "batch_rows": 8, "precision": "fp32", "threads": 1}
    made = {
        "data": {"train": "d.jsonl", "valid": "none", "test": 0.2, "duplicates": {"near": None}},
        "model": str(base),
        "method": "full",
        "train": quick,
        "evaluate": {"against": [], "general": None, "resamples": 100, "max_new_tokens": 8, "most_rows": 4},
    }
    (folder / "r.yaml").write_text(json.dumps({**made, **recipe}))
    return tunesmith.run(folder / "r.yaml", runs_dir=folder / "runs").folder
