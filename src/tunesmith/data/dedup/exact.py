"""Rows that repeat others: which one stays, told by the ledger alone, band by band.

A row leaves the side that learns, never the side that measures, and never a file of the user's that measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tunesmith.data.row_index import CONFLICT, GROUP_IN_TEST, GROUP_IN_VALID, IN_TEST, IN_VALID, KEPT, SAME_ID, SIDES, TWICE, Ledger, Numbers

OUTSIDE = SIDES.index("out_of_scope")
OTHER_ANSWER = "with another label or answer"
"""Near-duplicates that contradict each other, or share a template: counted, never dropped."""
OWN_FILES = "in your own files"
"""Near-duplicates among rows of the user's own files that measure: counted, never dropped."""


def runs_with(begins: Numbers, has: Numbers) -> Numbers:
    """For each row whether any row of its run has something: bool (M,) from `begins` (M,) and `has` (M,)."""
    if not len(has):
        return has
    starts = np.flatnonzero(begins)
    return np.asarray(np.repeat(np.logical_or.reduceat(has, starts), np.diff([*starts, len(has)])))


def same_ids(ledger: Ledger) -> None:
    """Drop rows whose id was used before in their file."""
    for rows, begins in ledger.equal("name"):
        inputs = ledger.look("input", rows)
        for one in np.unique(inputs) if len(rows) else ():
            mine = inputs == one
            own, run = rows[mine], np.cumsum(begins)[mine]
            repeats = np.flatnonzero(np.r_[False, run[1:] == run[:-1]])
            firsts = own[np.searchsorted(run, run[repeats])]
            ledger.repeat(own[repeats], firsts, SAME_ID)


def within(ledger: Ledger, labelled: bool) -> None:
    """Drop all but the first of equal rows to be divided.

    Args:
        ledger: closed.
        labelled: whether the answer is a label: then equal texts must agree in it. The majority's stays, and none on a tie.
    """
    for found, begins in ledger.equal("digest", _divided(ledger)):
        rows, run = _agreed(ledger, found, np.cumsum(begins)) if labelled else (found, np.cumsum(begins))
        again = np.flatnonzero(np.r_[False, run[1:] == run[:-1]]) if len(rows) else rows
        ledger.repeat(rows[again], rows[np.searchsorted(run, run[again])], TWICE)


def _agreed(ledger: Ledger, rows: Numbers, run: Numbers) -> tuple[Numbers, Numbers]:
    """Of equal rows (M,) in runs (M,) those that bear their run's label; the others are dropped as conflicts."""
    answers = ledger.look("answer", rows)
    starts = np.flatnonzero(np.r_[True, run[1:] != run[:-1]]) if len(rows) else rows
    agrees = np.ones(len(rows), bool)
    mixed = np.flatnonzero(np.minimum.reduceat(answers, starts) != np.maximum.reduceat(answers, starts)) if len(rows) else rows
    for number in mixed:
        here = np.arange(starts[number], starts[number + 1] if number + 1 < len(starts) else len(rows))
        names, votes = np.unique(answers[here], return_counts=True)
        best = names[votes == votes.max()]
        agrees[here] = answers[here] == best[0] if len(best) == 1 else False
        for at in here[~agrees[here]]:
            other = here[answers[here] != answers[at]][0]
            ledger.repeat(rows[at : at + 1], rows[other : other + 1], CONFLICT)
    return rows[agrees], run[agrees]


def _divided(ledger: Ledger) -> Callable[[int, Numbers], Numbers]:
    """Kept rows that are to be divided, as a mask for `Ledger.equal`."""
    return lambda start, verdict: (verdict == KEPT) & (ledger.look("input", np.arange(start, start + len(verdict))) == 0)


def across(ledger: Ledger, own: Mapping[str, int]) -> int:
    """Drop rows to be divided whose contents also stand in a file of the user's that measures.

    Args:
        ledger: with its repeats dropped.
        own: side -> index of the user's input for it. Such files are never altered.

    Returns:
        How many contents stand in both the user's valid and the user's test file.
    """
    shared = 0
    for rows, begins in ledger.equal("digest", _measured(ledger)):
        inputs, sides = ledger.look("input", rows), ledger.look("side", rows)
        in_valid, in_test = (runs_with(begins, inputs == own[side]) if side in own else np.zeros(len(rows), bool) for side in ("valid", "test"))
        train, valid, test = ((inputs == 0) & (sides == SIDES.index(side)) for side in ("train", "valid", "test"))
        ledger.verdict[rows[(train | test) & in_valid]] = IN_VALID
        ledger.verdict[rows[(train | valid) & in_test]] = IN_TEST
        shared += int((begins & in_valid & in_test).sum())
    return shared


def _measured(ledger: Ledger) -> Callable[[int, Numbers], Numbers]:
    """Kept rows of the sides that learn and measure, as a mask for `Ledger.equal`."""
    return lambda start, verdict: (verdict == KEPT) & (ledger.look("side", np.arange(start, start + len(verdict))) != OUTSIDE)


def outside(ledger: Ledger) -> int:
    """How many contents of the texts out of scope also stand among the kept training rows."""
    count = 0
    for rows, begins in ledger.equal("digest", lambda start, verdict: verdict == KEPT):
        sides = ledger.look("side", rows)
        count += int((begins & runs_with(begins, sides == OUTSIDE) & runs_with(begins, sides == SIDES.index("train"))).sum())
    return count


def same_groups(ledger: Ledger) -> None:
    """Drop rows to be divided whose group also stands on a side that measures: in a file of the user's, or behind a cut in time."""
    for rows, begins in ledger.equal("group", _measured(ledger)):
        inputs, sides = ledger.look("input", rows), ledger.look("side", rows)
        in_valid, in_test = (runs_with(begins, sides == SIDES.index(side)) for side in ("valid", "test"))
        own_valid = runs_with(begins, (sides == SIDES.index("valid")) & (inputs != 0))
        train, valid, test = ((inputs == 0) & (sides == SIDES.index(side)) for side in ("train", "valid", "test"))
        ledger.verdict[rows[(train & in_valid) | (test & own_valid)]] = GROUP_IN_VALID
        ledger.verdict[rows[(train | valid) & in_test]] = GROUP_IN_TEST


def same_prompts(ledger: Ledger) -> int:
    """How many training rows that are kept share their prompt with a test row, but not the answer to it."""
    return _shared(ledger, "prompt") - same_openings(ledger)


def same_openings(ledger: Ledger) -> int:
    """How many training dialogues that are kept begin with the question and the answer of a test row: of two such one may be the beginning of the other."""
    return _shared(ledger, "opening")


def _shared(ledger: Ledger, fact: str) -> int:
    """Kept training rows that have a fact in common with a test row."""
    count = 0
    for rows, begins in ledger.equal(fact, lambda start, verdict: verdict == KEPT):
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
