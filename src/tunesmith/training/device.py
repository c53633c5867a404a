"""Where and in which arithmetic to train: chosen once by measurement, then part of the run."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "fp32", "bf16"]

FASTER = 1.5
"""bf16 must beat fp32 by this factor in a matrix product to be worth its casts."""


@dataclass(frozen=True)
class Machine:
    """device ("cpu", "cuda:0"), its name, precision ("fp32", "bf16") and CPU threads of a run; where `precision: auto` was settled by a timing,
    how many times faster bf16 was."""

    device: str
    name: str
    precision: str
    threads: int
    bf16_gain: float | None = None


def choose(device: str, precision: Precision, threads: int | None) -> Machine:
    """Settle device, precision and threads.

    Args:
        device: auto, cpu, or cuda with an optional index.
        precision: auto measures on a CPU and takes bf16 on a GPU that has it.
        threads: CPU threads; None takes as many as the process may use.

    Returns:
        What the run records and a resumed run must use again.

    Raises:
        UserError: a GPU is asked for and none is there.
    """
    import torch

    from tunesmith.errors import UserError

    threads = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UserError(f"`train.device={device}`, but torch sees no GPU", "recipe", "use cpu or auto, or install a build of torch for your GPU")
        chosen = precision if precision != "auto" else ("bf16" if torch.cuda.is_bf16_supported() else "fp32")
        return Machine(device, torch.cuda.get_device_name(device), chosen, threads)
    if precision != "auto":
        return Machine("cpu", _cpu_name(), precision, threads)
    gain = round(bf16_gain(), 3)
    return Machine("cpu", _cpu_name(), "bf16" if gain >= FASTER else "fp32", threads, gain)


def bf16_gain() -> float:
    """How many times faster a bf16 matrix product of a small encoder's size is than the fp32 one, on this CPU now."""
    import torch

    def seconds(dtype: torch.dtype, rows: int) -> float:
        a, b = torch.randn(rows, 384, dtype=dtype), torch.randn(384, 1536, dtype=dtype)
        best = float("inf")
        for _ in range(4):
            start = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - start)
        return best

    def gain(rows: int) -> float:
        return seconds(torch.float32, rows) / seconds(torch.bfloat16, rows)

    with torch.inference_mode():
        few = gain(16)  # a processor without bf16 units needs seconds for the whole measurement, and this already shows it
        return few if few < 0.25 else gain(512)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "CPU")
    except OSError:
        return "CPU"
