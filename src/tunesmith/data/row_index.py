"""A few numbers of every row, on disk, by which millions of rows are told apart with a byte of memory each.

Each fact is a file of fixed-size numbers in the order of the rows. What is equal (contents, groups, ids, prompts, answers) has equal hashes;
they are found band by band: rows whose hashes begin alike are read, sorted and compared, then the next ones.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tunesmith.core.files import reserve

FACTS: dict[str, str] = {
    "digest": "<u8",  # the first 64 bits of the content's hash; they name the band
    "rest": "<u8",  # the next 64 bits
    "prompt": "<u8",  # of the first question or the prompt; 0: none
    "opening": "<u8",  # of a dialogue's beginning, up to the answer to its first question; 0: none
    "answer": "<u8",  # of the last answer; 0: none
    "group": "<u8",  # of the `together` value; 0: none
    "name": "<u8",  # of the user's id; 0: none
    "line": "<i8",
    "prompt_characters": "<u4",
    "answer_characters": "<u4",
    "turns": "<u4",
    "flags": "u1",
    "part": "<u4",  # the index of its file among all files read
    "time": "<i8",  # when it was written, in milliseconds since 1970; UNTIMED: unknown
    "input": "u1",  # 0: rows to be divided; else the index of the user's own side
    "side": "u1",  # of SIDES
}
PACKED = np.dtype(list(FACTS.items()))
"""FACTS of one row, in their order."""
SIDES = ("train", "valid", "test", "out_of_scope")
UNTIMED = -(1 << 63)
BAND_ROWS = 2_000_000
"""Rows compared at once, for which all are looked through; bounds the memory (about 40 bytes each while they are sorted)."""
BLOCK_ROWS = 1 << 18
"""Numbers read at once."""

KEPT, TWICE, IN_TEST, IN_VALID, GROUP_IN_TEST, GROUP_IN_VALID, SAME_ID, LONELY, CONFLICT, NEAR, NEAR_IN_TEST, NEAR_IN_VALID, THINNED = range(13)
"""What becomes of a row."""

Numbers = npt.NDArray[Any]


def mapped(path: Path, kind: str, write: bool = False) -> Numbers:
    """A file of numbers, read where it is looked at, and changed where it is written to. (numpy.memmap takes several times as long to open.)"""
    with open(path, "r+b" if write else "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return np.zeros(0, kind)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE if write else mmap.ACCESS_READ), kind)


class Ledger:
    """The facts of all rows, appended in order, and a verdict for each.

    Attributes:
        rows: how many there are.
        verdict: uint8 (rows,), one of KEPT ... THINNED; there once `close` was called.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack = folder, ExitStack()
        self._files: dict[str, BinaryIO] = {name: self._stack.enter_context(open(folder / name, "wb")) for name in FACTS}
        self.rows = 0
        self.verdict: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)

    def append(self, facts: Numbers) -> None:
        """Add rows: PACKED (N,)."""
        for name in FACTS:
            self._files[name].write(facts[name].tobytes())  # not tofile, which says nothing when the disk is full
        self.rows += len(facts)

    def close(self) -> None:
        """Say that all rows are in; from here on they can be read."""
        self._stack.close()
        self.verdict = np.zeros(self.rows, np.uint8)
        # Its room is taken now: a write into a mapped file that finds the disk full would kill the process.
        for name, size in (("first", 8), ("alike", 4)):
            with open(self._folder / name, "wb") as file:
                reserve(file.fileno(), size * max(1, self.rows))

    def blocks(self, *names: str) -> Iterator[tuple[int, list[Numbers]]]:
        """Some facts in blocks of up to BLOCK_ROWS rows, each with the index of its first row."""
        with ExitStack() as stack:
            files = [(stack.enter_context(open(self._folder / name, "rb")), np.dtype(FACTS[name])) for name in names]
            for start in range(0, self.rows, BLOCK_ROWS):
                yield start, [np.fromfile(file, kind, BLOCK_ROWS) for file, kind in files]

    def whole(self, name: str) -> Numbers:
        """A fact of all rows, in memory: for those of a byte."""
        return np.fromfile(self._folder / name, FACTS[name])

    def look(self, name: str, rows: Numbers) -> Numbers:
        """A fact of some rows, by index."""
        return mapped(self._folder / name, FACTS[name])[rows] if len(rows) else np.zeros(0, np.int64)

    def first(self) -> Numbers:
        """The row that each dropped row repeats, by index and plus one, mapped from disk: int64 (rows,), 0 where it repeats none."""
        return mapped(self._folder / "first", "<i8", write=True)

    def sides(self) -> Numbers:
        """The side of each row, mapped from disk to be changed: uint8 (rows,)."""
        return mapped(self._folder / "side", "u1", write=True)

    def equal(self, name: str, wanted: Callable[[int, Numbers], Numbers] | None = None) -> Iterator[tuple[Numbers, Numbers]]:
        """Rows that share a fact, band by band.

        Args:
            name: the fact; rows where it is 0 are passed over, but for `digest`, which is compared with `rest`.
            wanted: (first index, its block of verdicts) -> a mask of the rows to compare; None is all.

        Yields:
            Row indices (M,) sorted so that equal rows are neighbours in their order, and where each run of equal rows begins, bool (M,).
        """
        bits = max(0, int(np.ceil(np.log2(max(1, self.rows / BAND_ROWS)))))
        names = ("digest", "rest") if name == "digest" else (name,)
        for band in range(1 << bits):
            parts: list[list[Numbers]] = []
            for start, found in self.blocks(*names):
                mask = (found[0] >> np.uint64(64 - bits)) == band if bits else np.ones(len(found[0]), bool)
                if name != "digest":
                    mask &= found[0] != 0
                if wanted is not None:
                    mask &= wanted(start, self.verdict[start : start + len(mask)])
                at = np.flatnonzero(mask)
                parts.append([at + start, *(one[at] for one in found)])
            indices, *keys = (np.concatenate(one) for one in zip(*parts, strict=True)) if parts else [np.zeros(0, np.int64), np.zeros(0, np.uint64)]
            order = np.lexsort((indices, *reversed(keys)))
            begins = np.ones(len(order), bool)
            for number, key in enumerate(keys):
                ordered = key[order]
                changes = ordered[1:] != ordered[:-1]
                begins[1:] = changes if not number else begins[1:] | changes
            yield indices[order], begins

    def alike(self) -> Numbers:
        """How alike each near-duplicate is to the row that it repeats, mapped from disk: float32 (rows,)."""
        return mapped(self._folder / "alike", "<f4", write=True)

    def repeat(self, rows: Numbers, firsts: Numbers, why: int) -> None:
        """Drop rows that repeat others."""
        self.verdict[rows] = why
        self.first()[rows] = firsts + 1


def count_sides(ledger: Ledger) -> dict[str, int]:
    """Kept rows by side."""
    counts = np.zeros(len(SIDES), np.int64)
    for start, (sides,) in ledger.blocks("side"):
        counts += np.bincount(sides[ledger.verdict[start : start + len(sides)] == KEPT], minlength=len(SIDES))
    return dict(zip(SIDES, counts.tolist(), strict=True))


def sample(ledger: Ledger, most: int) -> Numbers:
    """Indices of up to `most` kept training rows, those of the smallest hashes: the same rows whatever their order in the file. Sorted."""
    keys, found = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    for start, (digests, sides) in ledger.blocks("rest", "side"):
        at = np.flatnonzero((ledger.verdict[start : start + len(sides)] == KEPT) & (sides == SIDES.index("train")))
        keys, found = np.concatenate([keys, digests[at]]), np.concatenate([found, at + start])
        order = np.argsort(keys, kind="stable")[:most]
        keys, found = keys[order], found[order]
    return np.sort(found)
