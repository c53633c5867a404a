"""The learning rate of each step: linear warm-up, then linear, cosine, constant or warmup-stable-decay.

A pure function of the step, so a resumed run needs no state for it.
"""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["linear", "cosine", "constant", "wsd"]

WSD_DECAY = 0.2
"""Share of all steps in which warmup-stable-decay falls (Haegele et al. 2024, https://arxiv.org/abs/2405.18392: 20 % match a cosine)."""


def factor(step: int, steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """What the peak learning rate is multiplied by.

    Args:
        step: 0-based index of the optimizer step about to be taken.
        steps: optimizer steps of the whole run.
        warmup_steps: steps of linear growth, the first of them above 0: step k of w has (k + 1) / (w + 1).
        schedule: linear to 0, half a cosine to 0, constant, or wsd: constant, then in the last WSD_DECAY of all steps linear to 0.

    Returns:
        A number in [0, 1]; for linear, cosine and constant the same as transformers' `get_scheduler` gives, but in the warm-up: there
        transformers begins at 0, so that the first step learns nothing, and neither does a run of one step.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        falling = max(1, round(WSD_DECAY * steps))
        return max(0.0, min(1.0, (steps - step) / falling))
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    if schedule == "cosine":
        return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
    return max(0.0, 1 - done)
