"""What rooms share of statistics: the interval of a share, and p-values of several comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson(count: Any, of: Any) -> tuple[Any, Any]:
    """95 % score interval of a share, vectorised; (0, 1) where `of` is 0.

    Preferred to a bootstrap for a share of independent rows: exact in form, never of zero width (40 of 40 gives 0.912 to 1), and it covers well
    from 5 rows on.

    Args:
        count, of: successes and trials. Numbers or arrays, whole or not: those divided by a design effect are not.

    Source: Wilson 1927; recommended by Brown, Cai and DasGupta 2001 (Statistical Science 16).
    """
    count, of = np.asarray(count, np.float64), np.asarray(of, np.float64)
    safe = np.where(of > 0, of, 1)
    centre = (count + Z**2 / 2) / (safe + Z**2)
    half = Z / (safe + Z**2) * np.sqrt(count * (safe - count) / safe + Z**2 / 4)
    # at the ends the formula gives 0 and 1 but for rounding, and an interval has to hold its own value and be of shares
    low, high = np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
    return np.where(count > 0, low, 0.0)[()], np.where(count < of, high, 1.0)[()]


def holm(p_values: Sequence[float] | NDArray[np.float64], tests: int | None = None) -> list[float]:
    """p-values adjusted for having made several comparisons, in the order given.

    Args:
        p_values: of the comparisons.
        tests: how many were made, those not given having a p-value of 1. None: as many as are given.

    Source: Holm 1979 (Scand. J. Statist. 6); holds whatever the dependence of the comparisons.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * ((len(p) if tests is None else tests) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(raised, 1.0)
    return [float(value) for value in adjusted]
