"""The interval of a share and Holm's correction, against other computations of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tunesmith.core.statistics import Z, holm, wilson


def test_wilson_equals_scipys() -> None:
    for right, n in [(0, 1), (40, 40), (39, 40), (500, 1000), (0, 7), (7, 31), (1, 400), (399, 400)]:
        expected = binomtest(right, n).proportion_ci(method="wilson")
        assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert wilson(np.array([right, 1.0]), np.array([n, 2.0]))[0][0] == wilson(float(right), float(n))[0]
    assert wilson(40, 40)[0] == pytest.approx(0.912, abs=1e-3)
    assert wilson(0, 0) == (0, 1)


@example(0.001, 2**-24)  # of which the formula makes -5e-17
@settings(max_examples=100, deadline=None)
@given(st.floats(1e-3, 1e6), st.floats(0, 1))
def test_the_ends_are_where_the_score_test_just_rejects(of: float, share: float) -> None:
    """Also for counts that are not whole, and below 1, as a design effect leaves them."""
    low, high = wilson(share * of, of)
    assert 0 <= low <= share * of / of + 1e-12 and share * of / of - 1e-12 <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(share - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / of), rel=1e-6, abs=1e-9)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] == holm(np.array([]), 4)
    # three of five p-values are given, the others are 1: 0.01 x 5, 0.02 x 4 and 0.03 x 3, none below the one before
    assert holm(np.array([0.03, 0.01, 0.02]), 5) == pytest.approx([0.09, 0.05, 0.08])
    assert holm(np.array([0.02, 0.021]), 2) == pytest.approx([0.04, 0.04])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(0, 3))
def test_holm_never_lowers_nor_reorders(p_values: list[float], more: int) -> None:
    adjusted = holm(p_values, len(p_values) + more)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
    assert adjusted == holm([*p_values, *[1.0] * more])[: len(p_values)]  # those not given are 1
