"""The learning rate of each step: linear warm-up, then linear, cosine or constant.

A pure function of the step, so a resumed run needs no state for it.
"""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["linear", "cosine", "constant"]


def factor(step: int, steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """What the peak learning rate is multiplied by.

    Args:
        step: 0-based index of the optimizer step about to be taken.
        steps: optimizer steps of the whole run.
        warmup_steps: steps of linear growth from 0.
        schedule: linear to 0, half a cosine to 0, or constant.

    Returns:
        A number in [0, 1], the same as transformers' `get_scheduler` gives.
    """
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    if schedule == "constant":
        return 1.0
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    if schedule == "cosine":
        return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
    return max(0.0, 1 - done)
