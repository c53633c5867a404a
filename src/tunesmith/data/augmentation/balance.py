"""Labels with few training rows and labels with many: how often each row is to be taken.

Only training rows are repeated or left out. What a label's rows are taken on average, each of them is, up to one more by a hash of its id: with the
same factor the same rows are chosen, whatever their order and whatever else is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from tunesmith.core.settings import Settings


class BalanceSettings(Settings):
    """Whether training rows are repeated or left out by their labels."""

    how: Literal["over", "under"] | None = None
    """over: rows of rare labels are repeated. under: rows of frequent labels are left out. null: neither."""
    ratio: float = Field(1.0, gt=0, le=1)
    """over: each label gets at least this share of the largest label's rows. under: at most the smallest label's rows divided by this. 1 makes all alike."""
    most_repeats: int = Field(10, ge=1)
    """How often a row stands in train at most, under `over`: a label of two rows, repeated a hundred times, is learnt by heart. A convention of ours."""


def factors(counts: Mapping[str, int], settings: BalanceSettings) -> dict[str, float]:
    """How often each training row of a label is taken.

    A row of several labels is taken as often as its neediest label asks, so the others may get more than they need (repeat factors, Gupta et al. 2019,
    https://arxiv.org/abs/1908.03195).

    Args:
        counts: training rows by label.
        settings: how.

    Returns:
        label -> factor, those that are not 1; empty where nothing is balanced.
    """
    sizes = [count for count in counts.values() if count]
    if settings.how is None or not sizes:
        return {}
    if settings.how == "over":
        found = {label: min(settings.most_repeats, max(1.0, settings.ratio * max(sizes) / count)) for label, count in counts.items() if count}
    else:
        found = {label: min(1.0, min(sizes) / settings.ratio / count) for label, count in counts.items() if count}
    return {label: factor for label, factor in found.items() if factor != 1}
