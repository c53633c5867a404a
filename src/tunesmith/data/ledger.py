"""A few numbers of every row, on disk, by which millions of rows are told apart with a byte of memory each.

Each fact is a file of fixed-size numbers in the order of the rows. What is equal (contents, groups, ids, prompts, answers) has equal hashes;
they are found band by band: rows whose hashes begin alike are read, sorted and compared, then the next ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

FACTS: dict[str, str] = {
    "digest": "<u8",  # the first 64 bits of the content's hash; they name the band
    "rest": "<u8",  # the next 64 bits
    "prompt": "<u8",  # of the first question or the prompt; 0: none
    "answer": "<u8",  # of the last answer; 0: none
    "group": "<u8",  # of the `together` value; 0: none
    "name": "<u8",  # of the user's id; 0: none
    "line": "<i8",
    "prompt_characters": "<u4",
    "answer_characters": "<u4",
    "turns": "<u4",
    "flags": "u1",
    "file": "u1",  # the index of its file
    "side": "u1",  # of SIDES
}
PACKED = Struct("<16sQQQQqIIIBBB")
"""FACTS of one row, in their order; digest and rest are the hash's first 16 bytes."""
SIDES = ("train", "valid", "test")
BAND_ROWS = 500_000
"""Rows compared at once; bounds the memory (about 40 bytes each while they are sorted)."""
BLOCK_ROWS = 1 << 18
"""Numbers read at once."""

KEPT, TWICE, IN_TEST, IN_VALID, GROUP_IN_TEST, GROUP_IN_VALID, SAME_ID = range(7)
"""What becomes of a row."""

Numbers = npt.NDArray[Any]


class Ledger:
    """The facts of all rows, appended in order, and a verdict for each.

    Attributes:
        rows: how many there are.
        verdict: uint8 (rows,), one of KEPT ... SAME_ID; there once `close` was called.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack = folder, ExitStack()
        self._files: dict[str, BinaryIO] = {name: self._stack.enter_context(open(folder / name, "wb")) for name in FACTS}
        self.rows = 0
        self.verdict: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)

    def append(self, packed: bytearray) -> None:
        """Add rows, each as PACKED."""
        facts = np.frombuffer(bytes(packed), np.dtype(list(FACTS.items())))
        for name in FACTS:
            self._files[name].write(facts[name].tobytes())  # not tofile, which says nothing when the disk is full
        self.rows += len(facts)

    def close(self) -> None:
        """Say that all rows are in; from here on they can be read."""
        self._stack.close()
        self.verdict = np.zeros(self.rows, np.uint8)
        # Its room is taken now: a write into a mapped file that finds the disk full would kill the process.
        with open(self._folder / "first", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 8 * max(1, self.rows))

    def blocks(self, *names: str) -> Iterator[tuple[int, list[Numbers]]]:
        """Some facts in blocks of up to BLOCK_ROWS rows, each with the index of its first row."""
        with ExitStack() as stack:
            files = [(stack.enter_context(open(self._folder / name, "rb")), np.dtype(FACTS[name])) for name in names]
            for start in range(0, self.rows, BLOCK_ROWS):
                yield start, [np.fromfile(file, kind, BLOCK_ROWS) for file, kind in files]

    def look(self, name: str, rows: Numbers) -> Numbers:
        """A fact of some rows, by index."""
        return np.asarray(np.memmap(self._folder / name, FACTS.get(name, "<i8"), "r")[rows]) if len(rows) else np.zeros(0, np.int64)

    def first(self) -> Numbers:
        """The line that each dropped row repeats, mapped from disk: int64 (rows,), 0 where it repeats none."""
        return np.memmap(self._folder / "first", "<i8", "r+", shape=(max(1, self.rows),))

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

    def repeat(self, rows: Numbers, firsts: Numbers, why: int) -> None:
        """Drop rows that repeat others."""
        self.verdict[rows] = why
        self.first()[rows] = self.look("line", firsts)


def runs_with(begins: Numbers, has: Numbers) -> Numbers:
    """For each row whether any row of its run has something: bool (M,) from `begins` (M,) and `has` (M,)."""
    if not len(has):
        return has
    starts = np.flatnonzero(begins)
    return np.asarray(np.repeat(np.logical_or.reduceat(has, starts), np.diff([*starts, len(has)])))


def same_ids(ledger: Ledger) -> None:
    """Drop rows whose id was used before in their file."""
    for rows, begins in ledger.equal("name"):
        files = ledger.look("file", rows)
        for file in np.unique(files) if len(rows) else ():
            mine = files == file
            own, run = rows[mine], np.cumsum(begins)[mine]
            repeats = np.flatnonzero(np.r_[False, run[1:] == run[:-1]])
            firsts = own[np.searchsorted(run, run[repeats])]
            ledger.repeat(own[repeats], firsts, SAME_ID)


def same_contents(ledger: Ledger, own: Mapping[str, int]) -> int:
    """Drop all but the first of equal rows of the training file, and what also stands in files that measure.

    Args:
        ledger: closed.
        own: side -> index of the user's file for it; the training file has index 0. Such files are never altered.

    Returns:
        How many contents stand in both the user's valid and the user's test file.
    """
    shared = 0
    for rows, begins in ledger.equal("digest", lambda start, verdict: verdict == KEPT):
        files, sides = ledger.look("file", rows), ledger.look("side", rows)
        run = np.cumsum(begins)
        mine = np.flatnonzero(files == 0)
        repeats = mine[np.r_[False, run[mine][1:] == run[mine][:-1]]] if len(mine) else mine
        ledger.repeat(rows[repeats], rows[mine[np.searchsorted(run[mine], run[repeats])]], TWICE)
        in_valid, in_test = (runs_with(begins, files == own[side]) if side in own else np.zeros(len(rows), bool) for side in ("valid", "test"))
        first = np.zeros(len(rows), bool)
        first[mine] = True
        first[repeats] = False
        train, valid = first & (sides == SIDES.index("train")), first & (sides == SIDES.index("valid"))
        ledger.verdict[rows[train & in_valid]] = IN_VALID
        ledger.verdict[rows[(train | valid) & in_test]] = IN_TEST
        shared += int((begins & in_valid & in_test).sum())
    return shared


def same_groups(ledger: Ledger, own: Mapping[str, int]) -> None:
    """Drop rows of the training file whose group also stands in a file of the user's that measures."""
    for rows, begins in ledger.equal("group", lambda start, verdict: verdict == KEPT):
        files, sides = ledger.look("file", rows), ledger.look("side", rows)
        in_valid, in_test = (runs_with(begins, files == own[side]) if side in own else np.zeros(len(rows), bool) for side in ("valid", "test"))
        train, valid = ((files == 0) & (sides == SIDES.index(side)) for side in ("train", "valid"))
        ledger.verdict[rows[train & in_valid]] = GROUP_IN_VALID
        ledger.verdict[rows[(train | valid) & in_test]] = GROUP_IN_TEST


def same_prompts(ledger: Ledger) -> int:
    """How many training rows that are kept share their prompt with a test row."""
    count = 0
    for rows, begins in ledger.equal("prompt", lambda start, verdict: verdict == KEPT):
        sides = ledger.look("side", rows)
        count += int((runs_with(begins, sides == SIDES.index("test")) & (sides == SIDES.index("train"))).sum())
    return count


def commonest_answer(ledger: Ledger) -> tuple[int, int]:
    """How many kept training rows have the commonest last answer, and the index of the first of them; (0, -1) without any."""
    best = (0, -1)
    for rows, begins in ledger.equal("answer", lambda start, verdict: verdict == KEPT):
        train = ledger.look("side", rows) == SIDES.index("train")
        if not train.any():
            continue
        own, run = rows[train], np.cumsum(begins)[train]
        starts = np.flatnonzero(np.r_[True, run[1:] != run[:-1]])
        sizes = np.diff([*starts, len(own)])
        most = int(sizes.max())
        found = (most, -int(own[starts[sizes == most]].min()))  # of equals the one that comes first
        best = max(best, found) if best[0] else found
    return best[0], -best[1] if best[0] else -1


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
