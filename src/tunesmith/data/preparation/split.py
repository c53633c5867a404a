"""Which side a row is on.

By hash: a hash of its group (or its text) decides, so a row stays on its side when the data grow. By time: the latest rows measure. By strata: each
label has its exact share of every side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from tunesmith.core.errors import UserError, counted
from tunesmith.data.row_index import KEPT, SIDES, UNTIMED, Ledger, Numbers

LATEST = 1e11
"""Seconds since 1970 of the year 5138: beyond it a number has another unit."""


def positions(names: Sequence[str], seed: int) -> Numbers:
    """Numbers in [0, 1) that depend on the names and the seed alone (64 bits of SHA-256): float64 (N,)."""
    seeded = hashlib.sha256(f"{seed}\x1f".encode())

    def digest(name: str) -> bytes:
        found = seeded.copy()
        found.update(name.encode())
        return found.digest()

    return np.frombuffer(b"".join(map(digest, names)), ">u8")[::4] / 2.0**64


def sides(names: Sequence[str], valid: float, test: float, seed: int) -> Numbers:
    """train, valid or test, by where a name's position lies: uint8 (N,) of SIDES. Test is cut first, so a row of test stays there whatever valid is."""
    at = positions(names, seed)
    return np.where(at < test, np.uint8(SIDES.index("test")), np.where(at < test + valid, np.uint8(SIDES.index("valid")), np.uint8(SIDES.index("train"))))


def later(book: Ledger, by: str, valid: float, test: float, seed: int, notes: list[str]) -> None:
    """Divide the kept rows by time or by strata, where the recipe asks for it; by hash each row had its side when it was read.

    Args:
        book: closed, with its repeats dropped.
        by: hash, time or strata.
        valid, test: shares; 0 leaves that side out.
        seed: of the strata.
        notes: gets what is to be said.

    Raises:
        UserError: no row has a time that can be read.
    """
    if by == "hash":
        return
    at = np.flatnonzero((book.verdict == KEPT) & (book.whole("input") == 0))
    sides = book.sides()
    sides[at] = _by_time(book, at, valid, test, notes) if by == "time" else _by_strata(book, at, valid, test, seed)


def _by_time(book: Ledger, at: Numbers, valid: float, test: float, notes: list[str]) -> Numbers:
    """Sides of some rows (M,) so that all of test is later than all of valid, and that than train; rows of one moment stay together."""
    times = book.look("time", at)
    known = times != UNTIMED
    if not known.any():
        raise UserError("no row has a time that can be read", "recipe, `data.time`", "write times as ISO 8601 (2026-03-01T12:00) or seconds since 1970")
    if missing := int((~known).sum()):
        notes.append(f"{counted(missing, 'row')} without a time that can be read: they are training rows")
    out = np.zeros(len(at), np.uint8)
    ordered = np.sort(times[known])
    for name, share in (("valid", valid + test), ("test", test)):
        if share:
            cut = ordered[max(0, len(ordered) - max(1, round(len(ordered) * share)))]
            out[known & (times >= cut)] = SIDES.index(name)
    return out


def _by_strata(book: Ledger, at: Numbers, valid: float, test: float, seed: int) -> Numbers:
    """Sides of some rows (M,) so that each label has its share of each side to within a row; of few rows one at least is learnt from."""
    labels = book.look("answer", at)
    with np.errstate(over="ignore"):  # a place within the label that no order of the rows changes: splitmix64's step and finaliser
        places = book.look("rest", at) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        places = (places ^ (places >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        places = (places ^ (places >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    order = np.lexsort((places, labels))
    begins = np.flatnonzero(np.r_[True, labels[order][1:] != labels[order][:-1]]) if len(order) else order
    sizes = np.diff(np.r_[begins, len(order)])
    rank = np.arange(len(order)) - np.repeat(begins, sizes)
    tests = np.minimum(np.round(sizes * test), sizes - 1)
    valids = np.minimum(np.round(sizes * (valid + test)), sizes - 1)
    out = np.zeros(len(at), np.uint8)
    out[order] = np.where(rank < np.repeat(tests, sizes), SIDES.index("test"), np.where(rank < np.repeat(valids, sizes), SIDES.index("valid"), 0))
    return out


def moment(when: str | None) -> int:
    """A time as milliseconds since 1970, UTC where it names no zone; UNTIMED for what is none.

    Args:
        when: ISO 8601, or seconds since 1970 (or thousandths, millionths or billionths of them, which are told by their size).
    """
    if when is None:
        return UNTIMED
    try:
        found = datetime.fromisoformat(when)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        pass
    try:
        seconds = float(when)
    except ValueError:
        return UNTIMED
    for unit in (1e9, 1e6, 1e3):  # nanoseconds, as pandas writes them, microseconds, milliseconds
        if abs(seconds) > LATEST * unit / 1e3:
            seconds /= unit
            break
    return int(seconds * 1000) if abs(seconds) <= LATEST else UNTIMED
