"""The plan where batches have no padding: every row once, tokens by their plain sum, rows of any length together."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.tokens import batching

lengths = st.lists(st.integers(1, 300), min_size=1, max_size=200).map(np.array)


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(1, 40), st.one_of(st.none(), st.integers(1, 2000)), st.integers(0, 3), st.integers(0, 3))
def test_every_row_is_in_one_batch_within_the_limits(lengths_N: np.ndarray, rows: int, tokens: int | None, seed: int, epoch: int) -> None:
    for plan in (batching.plan(lengths_N, rows, tokens, seed, epoch, packed=True), batching.in_order(lengths_N, rows, tokens, packed=True)):
        assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths_N)))
        for batch in plan:
            assert 1 <= len(batch) <= rows
            assert tokens is None or len(batch) == 1 or lengths_N[batch].sum() <= tokens
        for batch, later in zip(plan, plan[1:], strict=False):  # a batch is closed only where the next row does not fit
            assert len(batch) == rows or (tokens is not None and lengths_N[batch].sum() + lengths_N[later[0]] > tokens)
    again = batching.plan(lengths_N, rows, tokens, seed, epoch, packed=True)
    assert [b.tolist() for b in again] == [b.tolist() for b in batching.plan(lengths_N, rows, tokens, seed, epoch, packed=True)]


def test_by_hand() -> None:
    plan = batching.in_order(np.array([5, 1, 4, 2, 30, 3]), 3, 7, packed=True)
    assert [b.tolist() for b in plan] == [[1, 3, 5], [2], [0], [4]]  # 1+2+3, then 4 (with 5 it were 9), 5, and 30 alone
    assert [b.tolist() for b in batching.in_order(np.array([2, 2, 2, 2]), 9, 4, packed=True)] == [[0, 1], [2, 3]]
    assert list(batching.plan(np.array([], np.int64), 4, 10, 0, 0, packed=True)) == []


def test_the_seed_and_the_epoch_decide_the_order() -> None:
    lengths_N = np.random.default_rng(0).integers(5, 60, 300)
    plans = {str([b.tolist() for b in batching.plan(lengths_N, 16, 400, seed, epoch, packed=True)]) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(plans) == 6


@pytest.mark.parametrize("tokens", [None, 2000])
def test_a_batch_is_a_fair_sample_of_lengths(tokens: int | None) -> None:
    """Rows of like length together would save nothing here, and their mean length would swing from batch to batch."""
    lengths_N = np.random.default_rng(0).integers(10, 200, 2000)
    plan = batching.plan(lengths_N, 16, tokens, 0, 0, packed=True)
    means = np.array([lengths_N[b].mean() for b in plan[:-1]])
    assert means.std() < 25  # 55 / sqrt(16) = 14 is chance; sorted within runs it would be above 50
    sorted_means = np.array([lengths_N[b].mean() for b in batching.plan(lengths_N, 16, tokens, 0, 0)[:-1]])
    assert sorted_means.std() > 45


@pytest.mark.parametrize("tokens", [None, 100])
def test_a_plan_takes_five_bytes_a_row(tokens: int | None) -> None:
    """A list of arrays would take fourteen more, in batches of eight rows."""
    lengths_N = np.full(80_000, 12, np.uint32)
    tracemalloc.start()
    plan = batching.plan(lengths_N, 8, tokens, 0, 0, packed=True)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 5 * len(lengths_N) and peak < 6 * len(lengths_N)
    assert len(plan) == 10_000 and plan[-1].tolist() == plan[9_999].tolist() and [len(one) for one in plan[:2]] == [8, 8]
    with pytest.raises(IndexError):
        plan[10_000]


def test_the_order_is_a_permutation_drawn_by_the_seed_and_the_epoch() -> None:
    """As `Generator.permutation` draws it: checkpoints of earlier runs go on with the same rows."""
    order = np.random.Generator(np.random.PCG64([7, 2])).permutation(5000)
    assert np.concatenate(list(batching.plan(np.ones(5000), 16, None, 7, 2, packed=True))).tolist() == order.tolist()
