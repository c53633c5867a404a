"""Which rows go into which batch: rows of like length together, in an order that only the seed and the epoch decide.

The plan of an epoch is a pure function of (lengths, settings, seed, epoch), so a resumed run needs no more than a position in it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

BUCKET_BATCHES = 200
"""Rows are shuffled, then sorted by length within runs of this many batches. transformers' LengthGroupedSampler has 50; on Banking77 in
32-row batches 50 leave 6 % of padding, 200 leave 2 %."""

WINDOW_TOKENS = 16_384
"""Padded tokens computed at once where long texts are read in windows, whatever a batch may hold: 32 sequences of 512 tokens, which is what a usual
batch of rows without windows takes at most."""

Rows = npt.NDArray[Any]
"""Indices of the rows of a batch."""


@dataclass(frozen=True)
class Cuts(Sequence[Rows]):
    """An order of rows, cut into batches where they are asked for: a list of 450,000 arrays would take 54 MB.

    Attributes: order_N (uint32), starts (where each batch begins in it).
    """

    order_N: npt.NDArray[np.uint32]
    starts: Sequence[int]

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Rows: ...
    @overload
    def __getitem__(self, index: slice) -> list[Rows]: ...
    def __getitem__(self, index: int | slice) -> Rows | list[Rows]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self.order_N[self.starts[index] : self.starts[index + 1] if index + 1 < len(self) else None]


def plan(
    lengths_N: npt.NDArray[Any],
    batch_rows: int,
    batch_tokens: int | None,
    seed: int,
    epoch: int,
    packed: bool = False,
    windows_N: npt.NDArray[Any] | None = None,
) -> Sequence[Rows]:
    """Divide an epoch's rows into batches; every row is in exactly one.

    Args:
        lengths_N: tokens of each row, or of its longest window.
        batch_rows: most rows of a batch.
        batch_tokens: most padded tokens of a batch, or None; a single longer row still gets a batch of its own.
        packed: batches have no padding, so their tokens are the plain sum of their rows', and rows of any length share one.
        seed, epoch: decide the order, and nothing else does.
        windows_N: sequences of each row, each of which is padded; None: one.

    Returns:
        Row indices of each batch.
    """
    random = np.random.Generator(np.random.PCG64([seed, epoch]))
    order: Rows = np.arange(len(lengths_N), dtype=np.uint32 if packed else np.int64)
    random.shuffle(order)  # the same order as `permutation` has, which would take three times the memory of 32 bits
    run = batch_rows * BUCKET_BATCHES
    if packed:  # nothing is gained by rows of like length, and a batch of them alone would be a biased sample
        return _packed(order, lengths_N, batch_rows, batch_tokens)
    batches: list[Rows] = []
    for start in range(0, len(order), run):
        bucket = order[start : start + run]
        bucket = bucket[np.argsort(lengths_N[bucket], kind="stable")]
        batches += cut(bucket, lengths_N, batch_rows, batch_tokens, windows_N)
    return [batches[index] for index in random.permutation(len(batches))]


def in_order(
    lengths_N: npt.NDArray[Any], batch_rows: int, batch_tokens: int | None, packed: bool = False, windows_N: npt.NDArray[Any] | None = None
) -> Sequence[Rows]:
    """Batches for measuring and predicting: shortest rows first, no randomness. Arguments as in `plan`."""
    order = np.argsort(lengths_N, kind="stable")
    if packed:
        return _packed(order.astype(np.uint32), lengths_N, batch_rows, batch_tokens)
    return cut(order, lengths_N, batch_rows, batch_tokens, windows_N)


def cut(
    rows_in_order: Rows, lengths_N: npt.NDArray[Any], batch_rows: int, batch_tokens: int | None, windows_N: npt.NDArray[Any] | None = None
) -> list[Rows]:
    """Neighbours of an order together, while rows and padded tokens allow; arguments as in `plan`."""
    if batch_tokens is None:
        return [rows_in_order[start : start + batch_rows] for start in range(0, len(rows_in_order), batch_rows)]
    lengths = lengths_N[rows_in_order].tolist()
    windows = [1] * len(lengths) if windows_N is None else windows_N[rows_in_order].tolist()
    out, start, longest, sequences = [], 0, 0, 0
    for stop, (length, count) in enumerate(zip(lengths, windows, strict=True)):
        longest, sequences = max(longest, length), sequences + count
        if stop > start and (stop - start >= batch_rows or sequences * longest > batch_tokens):
            out.append(rows_in_order[start:stop])
            start, longest, sequences = stop, length, count
    return [*out, rows_in_order[start:]] if len(lengths) else out


def _packed(order_N: npt.NDArray[np.uint32], lengths_N: npt.NDArray[Any], batch_rows: int, batch_tokens: int | None) -> Cuts:
    if batch_tokens is None:
        return Cuts(order_N, range(0, len(order_N), batch_rows))
    starts, start = array("I"), 0
    while start < len(order_N):
        starts.append(start)
        some = order_N[start : start + batch_rows]
        fits = int(np.searchsorted(np.cumsum(lengths_N[some], dtype=np.int64), batch_tokens, side="right"))
        start += max(1, fits)
    return Cuts(order_N, starts)
