"""Where and in which arithmetic to train: chosen once by measurement, then part of the run."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import Literal

from tunesmith.core.errors import UserError, some

Precision = Literal["auto", "fp32", "bf16"]

NAMES = re.compile(r"cpu|mps|cuda(:\d+)?")
"""What devices are called."""
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
        device: auto, cpu, cuda with an optional index, or mps.
        precision: auto measures on a CPU and takes bf16 on a GPU that has it.
        threads: CPU threads; None takes as many as the process may use.

    Returns:
        What the run records and a resumed run must use again.

    Raises:
        UserError: the device is none of these, or not here.
    """
    import torch

    threads = threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)  # macOS has no affinity
    torch.set_num_threads(threads)
    if device == "auto":
        device = next((one for one in here() if one != "cpu"), "cpu")
    check(device, f"`train.device={device}`", "recipe")
    if device.startswith("cuda"):
        # Without the argument torch counts bf16 that is emulated, which is slower than fp32.
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        return Machine(device, torch.cuda.get_device_name(device), precision if precision != "auto" else "bf16" if able else "fp32", threads)
    if device == "mps":
        return Machine(device, "Apple GPU", precision if precision != "auto" else "fp32", threads)
    if precision != "auto":
        return Machine("cpu", _cpu_name(), precision, threads)
    gain = round(bf16_gain(), 3)
    return Machine("cpu", _cpu_name(), "bf16" if gain >= FASTER else "fp32", threads, gain)


def here() -> list[str]:
    """The devices that torch sees: GPUs first, and always `cpu`."""
    import torch

    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*gpus, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def is_here(device: str) -> bool:
    """Whether torch sees a device."""
    return (f"{device}:0" if device == "cuda" else device) in here()


def check(device: str, what: str, where: str) -> None:
    """Refuse a device that is unknown or not here.

    Args:
        device: cpu, cuda, cuda:N or mps.
        what: the setting with its value, as the user wrote it.
        where: where it stands.

    Raises:
        UserError: torch does not see it. The message names the devices that it sees.
    """
    if is_here(device):
        return
    found = here()
    if NAMES.fullmatch(device):
        raise UserError(f"{what}, but torch sees only {some(found)}", where, "use one of these, or install a build of torch for your GPU")
    raise UserError(f"{what} is not a device; they are cpu, cuda, cuda:N and mps", where, f"use one of those that are here: {some(found)}")


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
