"""Rows that nearly repeat others, by their characters or by their meaning, and which of each two goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data.dedup import exact
from tunesmith.data.preparation.first_pass import FirstPass
from tunesmith.data.row_index import KEPT, NEAR, NEAR_IN_TEST, NEAR_IN_VALID, SIDES, Ledger, Numbers
from tunesmith.data.verdicts import REASONS

if TYPE_CHECKING:
    from tunesmith.data.dedup import minhash

PAIRS = 4096
"""Pairs of near-duplicates whose answers are compared at once."""


def leave_out(first: FirstPass, vectors: Callable[[Sequence[str]], Numbers] | None) -> dict[str, int]:
    """Mark near-duplicates, and rows that mean the same.

    Args:
        first: the rows, divided.
        vectors: of texts, where nearness by meaning is asked for.

    Returns:
        How many, by reason.
    """
    book, settings = first.book, first.settings.duplicates
    if settings.near is None and settings.meaning is None:
        return {}
    from tunesmith.data.dedup import minhash, semantic

    sides_, inputs_ = book.whole("side"), book.whole("input")
    # What measures is not altered for what learns: a file of the user's comes first, then test, then valid.
    priority = np.where(inputs_ == 0, np.uint8(3) - sides_, np.uint8(0))
    out: Counter[str] = Counter()
    if settings.near is not None and first.signatures is not None:
        found, shared = minhash.twins(first.signatures, priority, (book.verdict == KEPT) & (sides_ != exact.OUTSIDE))
        found, apart = _alike_in_answer(first, found, settings.near)
        out += _mark(book, found, sides_)
        out[exact.OTHER_ANSWER] += apart
        out[exact.OWN_FILES] += len(shared.rows)
    if settings.meaning is not None and vectors is not None:
        found, _ = semantic.twins_by_meaning(first.vectors(vectors), priority, settings.meaning, (book.verdict == KEPT) & (sides_ != exact.OUTSIDE))
        out += _mark(book, found, sides_)
    return dict(+out)


def _alike_in_answer(first: FirstPass, found: minhash.Twins, threshold: float) -> tuple[minhash.Twins, int]:
    """Those of the pairs whose answers are alike too, and how many are not.

    Texts that differ in a word and bear different labels contradict each other rather than repeat, but for a text that measures: its twin leaves train
    whatever its label. Long prompts from one template, with answers of their own, are no repeats at all.
    """
    rows, of, similarity = found
    if first.kind == "labelled":
        answers_, sides_ = (first.book.look(name, np.r_[rows, of]).reshape(2, -1) for name in ("answer", "side"))
        alike = (answers_[0] == answers_[1]) | (sides_[0] != sides_[1])
    elif first.kind in ("dialogue", "completion", "preference"):
        from tunesmith.data.dedup import minhash

        alike = np.ones(len(rows), bool)
        for start in range(0, len(rows), PAIRS):
            names = np.unique(np.concatenate([rows[start : start + PAIRS], of[start : start + PAIRS]]))
            answers = dict(zip(names.tolist(), map(minhash.even, first.answers_at(names)), strict=True))
            left, right = ([answers[int(row)] for row in side[start : start + PAIRS]] for side in (rows, of))
            alike[start : start + PAIRS] = minhash.jaccard(left, right) >= threshold
    else:
        alike = np.ones(len(rows), bool)
    return type(found)(rows[alike], of[alike], similarity[alike]), int((~alike).sum())


def _mark(book: Ledger, found: Any, sides_: Numbers) -> Counter[str]:
    rows, of, alike = found
    out: Counter[str] = Counter()
    for why, mask in (
        (NEAR, sides_[rows] == sides_[of]),
        (NEAR_IN_TEST, (sides_[rows] != sides_[of]) & (sides_[of] == SIDES.index("test"))),
        (NEAR_IN_VALID, (sides_[rows] != sides_[of]) & (sides_[of] == SIDES.index("valid"))),
    ):
        book.repeat(rows[mask], of[mask], why)
        book.alike()[rows[mask]] = alike[mask]
        out[REASONS[why][0]] += int(mask.sum())
    return out
