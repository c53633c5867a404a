"""Rows whose texts are nearly the same, found among millions with little memory.

Two texts are alike when the Jaccard similarity of their sets of 5-grams (of the characters of the lower-cased text, white space evened out)
reaches a threshold. MinHash signatures are cut into bands, a file each; rows that share a band are candidates, and every candidate is verified
on its text, so that nothing is dropped on an estimate.

1. One permutation hashing (Li, Owen & Zhang 2012, https://arxiv.org/abs/1208.1259): each gram is hashed once and falls into one of BINS bins,
   of which each keeps its smallest value. Empty bins copy another one's (optimal densification, Shrivastava 2017, https://arxiv.org/abs/1703.04664);
   ours tries the bins in a fixed random order without repetition.
2. Of each value the last eight bits are kept (b-bit minwise hashing, Li & Koenig 2010, https://arxiv.org/abs/0910.3349): the band files then also
   estimate the similarity of two rows, and most that are not alike are passed over without reading their texts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from tunesmith.data.row_index import mapped
from tunesmith.data.texts import even as one_space

GRAM = 5
"""Characters of a gram; shorter texts are one gram."""
BINS = 128
"""Values of a signature. Their standard error at similarity 0.8 is 0.035, and 21 bands of 6 find 99.8 % of such pairs (`bands`)."""
MISSED = 0.005
"""Share of the pairs at the very threshold that the bands may miss; a tenth of the 5 % that we promise."""
MOST_ROWS = 8
"""Values of a band: eight bytes are one number."""
PIECE = 1 << 17
"""Characters hashed at once: the arrays stay in a processor's second cache (measured: 4.5 ns a character, 12 ns at 2 million)."""
BAND_ROWS = 1 << 22
"""Rows of a band compared at once, for which the whole band is looked through; bounds the memory (twenty bytes each, some fifty for each that shares its
band)."""
BUCKET = 16
"""Rows of a bucket up to which all pairs are compared. Of a larger one all are compared with the first, which bounds what rows of one template
cost; those of them that are alike meet in other bands. (Going on while the first takes one in eight found less than 0.1 % more, and was left out.)"""
PAIR_CHARACTERS, PAIR_LEAST = 1 << 19, 16
"""Characters of the pairs verified at once, and what a pair counts beside its own: so they are fewer than 65,536."""
DOUBT = 3.0
"""Standard errors by which an estimate may lie below the threshold before its pair is passed over: each look misses 0.13 % of the pairs at the threshold."""

NO_CHARACTER = "\udfff"
"""Half of a surrogate pair: texts that were checked never hold it, so what it fills up is equal to no text."""
EMPTY, NOWHERE = np.uint32(0xFFFFFFFF), np.uint64(0xFFFFFFFFFFFFFFFF)
# Odd numbers without pattern: the first two of xxHash64 (https://xxhash.com), the third of MurmurHash3's finaliser.
TRIPLE, PAIR, FINAL = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0xFF51AFD7ED558CCD)

Numbers = npt.NDArray[Any]


class Twins(NamedTuple):
    """Rows and what each is a twin of, sorted by row: int64 (M,), int64 (M,), float32 (M,)."""

    rows: Numbers
    of: Numbers
    similarity: Numbers


def even(text: str) -> str:
    """The text as it is compared: lower case, one space for any white space, and at least GRAM characters."""
    return one_space(text.lower()).ljust(GRAM, NO_CHARACTER)


def _grams(texts: Sequence[str]) -> tuple[Numbers, Numbers]:
    """A hash of the five characters from each character on, uint64, and where they reach beyond their text, int64.

    Three code points are 63 bits and the other two 42: both are exact, so only their product mixes, and unequal grams collide by a chance of 2**-64.
    """
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    code = np.frombuffer(("".join(texts) + "\0" * (GRAM - 1)).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    pairs = code[1:] << np.uint64(21)
    pairs |= code[:-1]
    hashes = code[2:] << np.uint64(42)
    hashes |= pairs[:-1]
    hashes = hashes[:-2]
    hashes *= TRIPLE
    rest = pairs[3:]
    rest *= PAIR
    hashes += rest
    return _mixed(hashes), np.ravel(np.cumsum(lengths)[:, None] - np.arange(1, GRAM))


def _mixed(numbers: Numbers) -> Numbers:
    """The numbers, uint64, in place, with all their bits in the upper ones."""
    numbers ^= numbers >> np.uint64(32)
    numbers *= FINAL
    return numbers


@cache
def _donors() -> Numbers:
    """Which bin an empty bin looks into, by attempt: int64 (BINS - 1, BINS)."""
    keys = _mixed(np.arange(1, BINS * BINS + 1, dtype=np.uint64) * TRIPLE).reshape(BINS, BINS)
    np.fill_diagonal(keys, NOWHERE)  # itself comes last, and is left out
    return np.argsort(keys, axis=0, kind="stable")[:-1]


def sketch(texts: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The signatures of texts that are even, uint8 (N, BINS): the share of equal bytes of two estimates their similarity."""
    minima = np.full(len(texts) * BINS, EMPTY)
    for rows, pieces in _pieces(texts):
        hashes, beyond = _grams(pieces)
        values = (hashes >> np.uint64(25)).astype(np.uint32)  # the 32 bits below those that name the bin
        values[beyond] = EMPTY
        at = (hashes >> np.uint64(57)).view(np.int64)
        at += np.repeat(np.asarray(rows) * BINS, [len(piece) for piece in pieces])
        np.minimum.at(minima, at, values)
    empty, dense = np.flatnonzero(minima == EMPTY), minima.copy()
    for donors in _donors():
        if not len(empty):
            break
        bins = empty % BINS
        dense[empty] = found = minima[empty - bins + donors[bins]]
        empty = empty[found == EMPTY]
    return dense.astype(np.uint8).reshape(-1, BINS)


def _pieces(texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
    """The texts in groups of about PIECE characters, with their indices; a longer text in parts that overlap, so that no gram is lost."""
    rows: list[int] = []
    pieces: list[str] = []
    size = 0
    for row, text in enumerate(texts):
        for start in range(0, max(1, len(text) - GRAM + 1), PIECE):
            rows.append(row)
            pieces.append(text[start : start + PIECE + GRAM - 1])
            size += len(pieces[-1])
            if size >= PIECE:
                yield rows, pieces
                rows, pieces, size = [], [], 0
    if pieces:
        yield rows, pieces


def bands(threshold: float) -> tuple[int, int]:
    """How many values make a band, and how many bands there are.

    A pair of similarity s shares one of b bands of r values with probability 1 - (1 - s**r)**b (Leskovec, Rajaraman & Ullman, Mining of Massive
    Datasets, section 3.4.2). Long bands make few candidates: the longest is taken that misses at most MISSED at the threshold. At 0.8 these
    are 21 bands of 6, with probability 0.9983 at 0.8, 0.93 at 0.7, 0.63 at 0.6, 0.28 at 0.5, 0.08 at 0.4 and 0.001 at 0.2.
    """
    assert 0 < threshold <= 1
    width = max((r for r in range(1, MOST_ROWS + 1) if (1 - threshold**r) ** (BINS // r) <= MISSED), default=1)
    return width, BINS // width


def signed(texts: Sequence[str], width: int) -> list[bytes]:
    """What the files of Signatures get for some texts: each band of their signatures; the evened texts, in UTF-8; their characters; and their bytes."""
    evened = [even(text) for text in texts]
    whole = sketch(evened)
    pieces = [whole[:, start : start + width].tobytes() for start in range(0, BINS // width * width, width)]
    raw = [text.encode("utf-8", "surrogatepass") for text in evened]
    return [*pieces, b"".join(raw), *(np.fromiter(map(len, one), "<u4", len(texts)).tobytes() for one in (evened, raw))]


class Signatures:
    """The signatures of all rows, appended in order: a file a band, and the texts as they are compared, so that few of millions are read alone.

    Args:
        folder: where the files lie.
        threshold: the Jaccard similarity from which two rows are alike, in (0, 1].

    Attributes: rows (how many there are), threshold, width (values of a band), bands (how many there are).
    """

    def __init__(self, folder: Path, threshold: float = 0.8) -> None:
        self.rows, self.threshold = 0, threshold
        self.width, self.bands = bands(threshold)
        self._paths = [folder / f"band-{band:03}" for band in range(self.bands)]
        self._texts, self._lengths, self._ends, self._stack = folder / "texts", folder / "lengths", folder / "ends", ExitStack()
        names = (*self._paths, self._texts, self._lengths, self._ends)
        self._files: list[BinaryIO] = [self._stack.enter_context(open(path, "wb")) for path in names]
        self._size = 0

    def append(self, pieces: Sequence[bytes], rows: int) -> None:
        """Add rows, as `signed` gives them. A full disk raises OSError."""
        ends = np.cumsum(np.frombuffer(pieces[-1], "<u4"), dtype="<i8") + self._size
        self._size += len(pieces[-3])
        for file, piece in zip(self._files, [*pieces[:-1], ends.tobytes()], strict=True):
            file.write(piece)
        self.rows += rows

    def close(self) -> None:
        """Say that all rows are in; from here on they can be compared. A full disk raises OSError."""
        self._stack.close()

    def texts(self, rows: Numbers) -> list[str]:
        """The evened texts of some rows, int64 (M,)."""
        if not len(rows):
            return []
        ends = mapped(self._ends, "<i8")
        starts = np.where(rows > 0, ends[rows - 1], 0)
        with open(self._texts, "rb", buffering=0) as file:
            places = zip((ends[rows] - starts).tolist(), starts.tolist(), strict=True)
            return [os.pread(file.fileno(), size, start).decode("utf-8", "surrogatepass") for size, start in places]

    def blocks(self, band: int) -> Iterator[tuple[int, Numbers]]:
        """A band in blocks, uint8 (n, width), each with the index of its first row."""
        with open(self._paths[band], "rb") as file:
            for start in range(0, self.rows, 1 << 18):
                yield start, np.fromfile(file, np.uint8, self.width << 18).reshape(-1, self.width)

    def lengths(self, rows: Numbers) -> Numbers:
        """Characters of some rows, int64."""
        return mapped(self._lengths, "<u4")[rows].astype(np.int64)

    def estimate(self, left: Numbers, right: Numbers, count: int) -> Numbers:
        """The similarity of pairs of rows as the first `count` bands have it, float64."""
        equal = np.zeros(len(left), np.int64)
        for path in self._paths[:count]:
            band = mapped(path, "u1").reshape(-1, self.width)  # one at a time: what was read of it leaves the memory with it
            equal += np.einsum("ij->i", (band.take(left, axis=0) == band.take(right, axis=0)).view(np.uint8))
        return equal / (count * self.width)


def jaccard(left: Sequence[str], right: Sequence[str]) -> npt.NDArray[np.float32]:
    """The similarity of fewer than 65,536 pairs of texts that are even: grams that both have over grams that either has, float32.

    Of each gram 47 bits of its hash are compared: of two texts of 1,000 grams two unequal ones count as equal in one of 100 million pairs.
    """
    texts = [*left, *right]
    hashes, beyond = _grams(texts)
    pair, side = np.arange(len(texts), dtype=np.uint64) % np.uint64(len(left)), np.repeat(np.arange(2, dtype=np.uint64), len(left))
    hashes >>= np.uint64(17)
    hashes <<= np.uint64(1)
    hashes |= np.repeat(pair << np.uint64(48) | side, [len(text) for text in texts])
    hashes[beyond] = NOWHERE
    hashes.sort()
    keys = hashes[np.r_[hashes[1:] != hashes[:-1], False]]  # each once, without NOWHERE, which is the last
    shared = keys[1:][keys[1:] >> np.uint64(1) == keys[:-1] >> np.uint64(1)]
    both, either = (np.bincount((one >> np.uint64(48)).view(np.int64), minlength=len(left)) for one in (shared, keys))
    return (both / (either - both)).astype(np.float32)


def _verified(signatures: Signatures, left: Numbers, right: Numbers) -> Numbers:
    """The similarity of pairs of rows, float32: exact where it may reach the threshold, else 0."""
    threshold, lengths = signatures.threshold, np.stack([signatures.lengths(left), signatures.lengths(right)])
    filled = BINS * (1 - np.exp(-(lengths.min(axis=0) - GRAM + 1) / BINS))  # bins with a value of their own
    near = np.arange(len(left))
    for count in (-(-signatures.bands // 4), signatures.bands):  # a quarter of the bands settles most pairs
        doubt = DOUBT * np.sqrt(threshold * (1 - threshold) / (filled[near] * count / signatures.bands))
        near = near[signatures.estimate(left[near], right[near], count) >= threshold - doubt]
    similarity = np.zeros(len(left), np.float32)
    sizes = lengths.sum(axis=0) + PAIR_LEAST
    for chunk in _divided(near, sizes[near], PAIR_CHARACTERS):
        pairs = signatures.texts(np.r_[left[chunk], right[chunk]])
        similarity[chunk] = jaccard(pairs[: len(chunk)], pairs[len(chunk) :])
    return similarity


def _divided(pairs: Numbers, sizes: Numbers, most: int) -> list[Numbers]:
    """Pairs in groups of about so many characters."""
    return np.split(pairs, np.flatnonzero(np.diff(np.cumsum(sizes) // most)) + 1) if len(pairs) else []


def _buckets(signatures: Signatures, band: int, priority: Numbers, wanted: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """The wanted rows that share a band, int64 (M,): each bucket's rows in the order of (priority, index), and where one begins, bool (M,)."""
    bits = max(0, int(np.ceil(np.log2(max(1, signatures.rows / BAND_ROWS)))))
    for part in range(1 << bits):
        yield _bucketed(signatures, band, priority, wanted, part, bits)


def _bucketed(signatures: Signatures, band: int, priority: Numbers, wanted: Numbers, part: int, bits: int) -> tuple[Numbers, Numbers]:
    """The rows of one of 2**bits parts."""
    # A hash of the band, 3 bits of the priority, and the row: one number sorts faster than several. Bands that share a hash fail the estimate.
    of_row = max(1, signatures.rows.bit_length())
    low, high = np.uint64(of_row), np.uint64(of_row + 3)
    ordered, count = np.empty(signatures.rows, np.uint64), 0
    for start, block in signatures.blocks(band):
        mask = wanted[start : start + len(block)]
        at = np.flatnonzero(mask & (block[:, 0] >> (8 - bits) == part) if bits else mask)
        keys = np.zeros((len(at), 8), np.uint8)
        keys[:, : signatures.width] = block[at]
        key = _mixed(keys.view("<u8")[:, 0]) >> high << np.uint64(3) | priority[at + start]
        ordered[count : count + len(at)] = key << low | (at + start).astype(np.uint64)
        count += len(at)
    ordered = ordered[:count]
    ordered.sort()
    begins = np.ones(count, bool)
    np.greater(ordered[1:] ^ ordered[:-1], (np.uint64(1) << high) - np.uint64(1), out=begins[1:])
    together = ~(begins & np.r_[begins[1:], True][:count])
    return (ordered[together] & ((np.uint64(1) << low) - np.uint64(1))).view(np.int64), begins[together]


def collected(found: list[tuple[Numbers, Numbers, Numbers]], priority: Numbers) -> tuple[Twins, Twins]:
    """What was found, sorted by row, apart for the rows that go and for those of priority 0, which stay."""
    rows, of, similarity = (np.concatenate([part[at] for part in found]) if found else np.zeros(0, np.int64) for at in range(3))
    order = np.argsort(rows, kind="stable")
    goes, stays = (order[(priority[rows[order]] == 0) == own] for own in (False, True))
    return Twins(rows[goes], of[goes], similarity[goes]), Twins(rows[stays], of[stays], similarity[stays])


def twins(signatures: Signatures, priority: Numbers, wanted: Numbers | None = None) -> tuple[Twins, Twins]:
    """Rows that are alike: all but the first of them, by (priority, index).

    The rows of a bucket are compared with its first; the others, up to BUCKET of them, with the first of themselves, and so on. A row that has
    gone is not compared again, so the twin named for a row may itself go later, as the twin of a third.

    Args:
        signatures: closed.
        priority: uint8 (N,), below 8; of two twins the one with the smaller number stays, and of equals the smaller index. Rows of 0 always stay.
        wanted: bool (N,), which rows to look at; None is all.

    Returns:
        The rows to drop, and the rows of priority 0 that are twins of another such row, each with its twin and their exact similarity.
    """
    there = np.ones(signatures.rows, bool) if wanted is None else wanted.copy()
    named = np.zeros(signatures.rows, bool)
    found: list[tuple[Numbers, Numbers, Numbers]] = []
    for band in range(signatures.bands):
        for bucketed in _buckets(signatures, band, priority, there):
            rows, begins = bucketed
            while len(rows):
                group = np.cumsum(begins) - 1
                first = rows[begins][group]
                at = np.flatnonzero(~begins & ~(named[rows] & (priority[first] == 0)))
                similarity = _verified(signatures, first[at], rows[at])
                alike = similarity >= np.float32(signatures.threshold)
                at = at[alike]
                found.append((rows[at], first[at], similarity[alike]))
                own = priority[rows[at]] == 0
                named[rows[at[own]]] = True
                there[rows[at[~own]]] = False
                left = ~begins & there[rows]
                sizes = np.bincount(group[left], minlength=group[-1] + 1)
                left &= ((sizes > 1) & (sizes <= BUCKET))[group]
                rows, group = rows[left], group[left]
                begins = np.diff(group, prepend=-1) != 0
    return collected(found, priority)
