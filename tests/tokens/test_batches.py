"""The plan of an epoch: every row once, within limits, decided by seed and epoch, with little padding."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.tokens import batching

lengths = st.lists(st.integers(1, 300), min_size=1, max_size=200).map(np.array)


@settings(max_examples=40, deadline=None)
@given(lengths, st.integers(1, 40), st.one_of(st.none(), st.integers(1, 2000)), st.integers(0, 3), st.integers(0, 3))
def test_every_row_is_in_one_batch_within_the_limits(lengths_N: np.ndarray, rows: int, tokens: int | None, seed: int, epoch: int) -> None:
    for plan in (batching.plan(lengths_N, rows, tokens, seed, epoch), batching.in_order(lengths_N, rows, tokens)):
        assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths_N)))
        for batch in plan:
            assert 1 <= len(batch) <= rows
            assert tokens is None or len(batch) == 1 or len(batch) * lengths_N[batch].max() <= tokens
    again = batching.plan(lengths_N, rows, tokens, seed, epoch)
    assert [b.tolist() for b in again] == [b.tolist() for b in batching.plan(lengths_N, rows, tokens, seed, epoch)]


@settings(max_examples=40, deadline=None)
@given(lengths, st.integers(1, 40), st.integers(1, 2000), st.integers(0, 3))
def test_every_window_of_a_row_counts(lengths_N: np.ndarray, rows: int, tokens: int, seed: int) -> None:
    """Windows times the longest stay within the limit, unless one row alone exceeds it; no two neighbours would have fitted together."""
    windows_N = np.random.default_rng(seed).integers(1, 30, len(lengths_N))

    def places(batch: np.ndarray) -> int:
        return int(windows_N[batch].sum() * lengths_N[batch].max())

    plans = (batching.plan(lengths_N, rows, tokens, seed, 0, windows_N=windows_N), batching.in_order(lengths_N, rows, tokens, windows_N=windows_N))
    for plan in plans:
        assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths_N)))
        assert all(1 <= len(batch) <= rows and (len(batch) == 1 or places(batch) <= tokens) for batch in plan)
    for one, following in pairwise(plans[1]):
        assert len(one) == rows or places(np.append(one, following[:1])) > tokens


def test_the_seed_and_the_epoch_decide_the_order() -> None:
    lengths_N = np.random.default_rng(0).integers(5, 60, 300)
    plans = {(seed, epoch): str([b.tolist() for b in batching.plan(lengths_N, 16, None, seed, epoch)]) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(set(plans.values())) == 6


def test_in_order_is_shortest_first() -> None:
    plan = batching.in_order(np.array([5, 1, 4, 1, 3]), 2, None)
    assert [b.tolist() for b in plan] == [[1, 3], [4, 2], [0]]


def test_a_limit_in_tokens_fills_the_batches() -> None:
    plan = batching.in_order(np.full(100, 10), 1000, 250)
    assert [len(b) for b in plan] == [25] * 4
    assert [len(b) for b in batching.in_order(np.array([300, 300]), 8, 250)] == [1, 1]  # longer than the limit: each alone


@pytest.mark.parametrize("rows", [8, 32])
def test_padding_is_little(rows: int) -> None:
    """Texts of 10 to 200 tokens: batches in random order would pad about 40 % of the places."""
    lengths_N = np.random.default_rng(0).integers(10, 200, 3000)
    plan = batching.plan(lengths_N, rows, None, 0, 0)
    places = sum(len(b) * lengths_N[b].max() for b in plan)
    assert 1 - lengths_N.sum() / places < 0.06
    order = np.concatenate([b[:1] for b in plan])
    assert abs(np.corrcoef(np.arange(len(order)), lengths_N[order])[0, 1]) < 0.3  # the batches themselves come in no order of length
