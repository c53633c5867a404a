"""What this machine's arithmetic allows, and where a training step's time goes.

    python benchmarks/arithmetic.py FOLDER

FOLDER holds Banking77's train.csv. Prints matrix rates, the cost of dropout masks, the padding left by bucket sizes, and a profile of
full fine-tuning of the starter: the share of matrix products, and the rate at which useful operations are done.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from classification import spread
from torch.nn import functional as F


def best(work: Callable[[], Any], times: int = 40) -> float:
    """Lower quartile of the seconds a piece of work takes."""
    for _ in range(5):
        work()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[times // 4]


def rates() -> None:
    print("matrix products, GFLOP/s (rows x 384 times 384 x 1536; forward, input gradient, weight gradient)")
    for dtype in (torch.float32, torch.bfloat16):
        for rows in (256, 512, 1024):
            x, w, g = (torch.randn(*shape, dtype=dtype) for shape in ((rows, 384), (1536, 384), (rows, 1536)))
            work = 2 * rows * 384 * 1536 / 1e9
            few = 40 if dtype is torch.float32 else 5
            shown = [work / best(product, few) for product in (lambda x=x, w=w: x @ w.T, lambda g=g, w=w: g @ w, lambda g=g, x=x: g.T @ x)]
            print(f"  {str(dtype)[6:]:9} {rows:5} rows: " + " ".join(f"{rate:6.0f}" for rate in shown))


def masks() -> None:
    from tunesmith.models.fast.dropout import dropout

    x = torch.randn(32, 16, 384)
    print(f"dropout of 32 x 16 x 384: torch {1e3 * best(lambda: F.dropout(x, 0.1)):.2f} ms, ours {1e3 * best(lambda: dropout(x, 0.1, True)):.2f} ms")


def step(folder: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    from tunesmith import methods
    from tunesmith.methods.full import FullSettings
    from tunesmith.models import catalog, used_embeddings
    from tunesmith.models.loading import Head
    from tunesmith.objectives.classification import Classification, ClassificationSettings
    from tunesmith.tokens import batching, encode, tokenization
    from tunesmith.tokens.examples import TokenExamples
    from tunesmith.training.optimizer import Optimizer

    texts, labels, names = spread(folder, 100_000)
    base = catalog.resolve(catalog.ModelSettings())
    reader = tokenization.load(base.folder)
    tokens = encode.encode(reader, texts, None, 512)
    for size in (50, 200, 1000):
        batching.BUCKET_BATCHES = size
        padded = sum(int(tokens.lengths_N[rows].max()) * len(rows) for rows in batching.plan(tokens.lengths_N, 32, None, 0, 0))
        print(f"padding with runs of {size} batches: {100 * (padded / len(tokens.ids_T) - 1):.1f} %")
    batching.BUCKET_BATCHES = 200
    objective = Classification(names, False, ClassificationSettings())
    examples = TokenExamples(tokens, objective.targets([[names[label]] for label in labels]), reader.pad_id)
    model = methods.get("full").adapt(base, Head(names, False), FullSettings()).train()
    used_embeddings.compact(model, [examples])
    optimizer = Optimizer(model, 0.01, (0.9, 0.999), False)
    plan = batching.plan(examples.lengths_N, 32, None, 0, 0)

    def one(rows: Any) -> int:
        batch = examples.batch(rows)
        (objective.loss(model, batch).total / batch.rows).backward()
        optimizer.step(1e-4, min(1.0, 1 / optimizer.gradient_norm()))
        optimizer.zero_grad()
        return batch.tokens

    for rows in plan[:5]:
        one(rows)
    start = time.perf_counter()
    done = sum(one(rows) for rows in plan[5:45])
    seconds = time.perf_counter() - start
    encoder = sum(p.numel() for name, p in model.named_parameters() if "encoder" in name)
    rate = 6 * encoder * done / seconds / 1e9
    print(f"full fine-tuning: {done / seconds:,.0f} tokens/s; at 6 operations for each of {encoder:,} encoder weights, {rate:.0f} GFLOP/s")
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for rows in plan[45:65]:
            one(rows)
    events = sorted(profiled.key_averages(), key=lambda e: -e.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events)
    for event in events[:12]:
        print(f"  {event.key:38} {100 * event.self_cpu_time_total / whole:5.1f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    rates()
    masks()
    step(arguments.folder)
