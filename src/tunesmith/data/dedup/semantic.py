"""Rows that mean nearly the same: whose vectors point the same way.

Up to EXACT rows each is compared with all that stay. Beyond that the rows are first sorted into lists around the centres of a sample
(an inverted file: Sivic & Zisserman 2003, https://doi.org/10.1109/ICCV.2003.1238663), each into its PROBES nearest, and compared within a list.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tunesmith.data.dedup.minhash import Numbers, Twins, collected

EXACT = 30_000
"""Rows up to which each is compared with all that stay: 0.17e12 products at 384 numbers a vector, about 4 seconds of one core (measured: 22,000 in 2.3)."""
PROBES = 4
"""Lists of a row."""
SAMPLE = 32
"""Rows of the sample for each centre."""
ROUNDS = 6
"""Rounds in which the centres are found."""
BLOCK = 512
"""Rows compared at once."""
LEADERS = 8192
"""Rows that stay, compared with at once: with BLOCK it bounds the products in memory to 16 MB."""
ROUNDING = 1e-6
"""By which the product of two equal unit vectors may miss 1: 384 roundings of float32, half a unit of 6e-8 each, in a random walk."""


def twins_by_meaning(vectors: npt.NDArray[np.float32], priority: Numbers, threshold: float, wanted: Numbers | None = None) -> tuple[Twins, Twins]:
    """Rows whose vectors are alike: all but the first of them, by (priority, index).

    Args:
        vectors: unit vectors (N, D), in memory or mapped; rows that are not wanted are not read.
        priority: uint8 (N,); of two twins the one with the smaller number stays, and of equals the smaller index. Rows of 0 always stay.
        threshold: the cosine from which two rows are alike.
        wanted: bool (N,), which rows to look at; None is all.

    Returns:
        The rows to drop, and the rows of priority 0 that are twins of another such row, each with its twin and their cosine. Up to EXACT rows
        all are found, and each one's twin stays. Beyond that a few pairs are missed, and a row's twin may itself go as the twin of a third.
    """
    rows = np.arange(len(vectors)) if wanted is None else np.flatnonzero(wanted)
    rows = rows[np.argsort(priority[rows], kind="stable")]
    there, named = np.ones(len(vectors), bool), np.zeros(len(vectors), bool)
    found: list[tuple[Numbers, Numbers, Numbers]] = []
    for group in _lists(vectors, rows) if len(rows) > EXACT else [rows]:
        twin, of, cosine = _alike(vectors, group[there[group]], priority, threshold)
        new = ~named[twin]  # one of priority 0 stays, and is in several lists
        named[twin], there[twin] = True, priority[twin] == 0
        found.append((twin[new], of[new], cosine[new]))
    return collected(found, priority)


def _alike(vectors: Numbers, rows: Numbers, priority: Numbers, threshold: float) -> tuple[Numbers, Numbers, Numbers]:
    """Of rows in their order those that are alike to an earlier one that stays: the rows, the nearest such one of each, their cosine."""
    stays = np.zeros((len(rows), vectors.shape[1]), np.float32)
    names = np.zeros(len(rows), np.int64)
    count = 0
    found: list[tuple[Numbers, Numbers, Numbers]] = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        own = priority[block] == 0
        these = np.asarray(vectors[block], np.float32)
        cosine, nearest = np.full(len(block), -2, np.float32), np.zeros(len(block), np.int64)
        for low in range(0, count, LEADERS):
            products = these @ stays[low : min(count, low + LEADERS)].T
            best = products.argmax(axis=1)
            most = products[np.arange(len(block)), best]
            better = most > cosine
            cosine[better], nearest[better] = most[better], names[best[better] + low]
        staying = (cosine < threshold - ROUNDING) | own
        within = np.tril(these @ these.T, -1)
        for at in np.flatnonzero(staying & (within.max(axis=1) >= threshold - ROUNDING)):
            best_at = int(np.where(staying[:at], within[at, :at], -2).argmax())
            if staying[best_at] and within[at, best_at] > cosine[at]:
                cosine[at], nearest[at] = within[at, best_at], block[best_at]
                staying[at] = own[at] or cosine[at] < threshold - ROUNDING
        hit = cosine >= threshold - ROUNDING
        found.append((block[hit], nearest[hit], np.minimum(cosine[hit], 1)))
        names[count : count + staying.sum()] = block[staying]
        stays[count : count + staying.sum()] = these[staying]
        count += int(staying.sum())
    twin, of, similarity = (np.concatenate([part[at] for part in found]) if found else rows[:0] for at in range(3))
    return twin, of, similarity


def _lists(vectors: Numbers, rows: Numbers) -> list[Numbers]:
    """The rows by the centres they are nearest to, each in PROBES lists, in their order.

    Assigning costs rows times lists, comparing rows squared by PROBES squared over twice the lists: the count of lists makes them equal.
    """
    count = int(PROBES * np.sqrt(len(rows) / 2))
    sample = np.sort(np.random.default_rng(0).choice(rows, min(len(rows), SAMPLE * count), replace=False))
    points = np.asarray(vectors[sample], np.float32)
    centres = points[:: max(1, len(points) // count)][:count].copy()
    for _ in range(ROUNDS):
        nearest = _nearest(points, np.arange(len(points)), centres, 1)[:, 0]
        order = np.argsort(nearest, kind="stable")
        filled, begins = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(points[order], begins, axis=0)
        centres[filled] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    nearest = _nearest(vectors, rows, centres, min(PROBES, count)).ravel()
    order = np.argsort(nearest, kind="stable")
    places = np.repeat(np.arange(len(rows)), min(PROBES, count))[order]
    return [rows[places[part]] for part in np.split(np.arange(len(order)), np.flatnonzero(np.diff(nearest[order])) + 1)]


def _nearest(vectors: Numbers, rows: Numbers, centres: Numbers, most: int) -> Numbers:
    """The `most` centres nearest to each row, int32 (rows, most)."""
    found = np.zeros((len(rows), most), np.int32)
    for start in range(0, len(rows), BLOCK):
        products = np.asarray(vectors[rows[start : start + BLOCK]], np.float32) @ centres.T
        found[start : start + BLOCK] = np.argpartition(products, -most, axis=1)[:, -most:]
    return found
