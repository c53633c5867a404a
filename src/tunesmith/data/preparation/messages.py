"""What is said of settings that do nothing, of data of which too little is left, and of labels and dialogues that look wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tunesmith.core.errors import UserError, counted, some
from tunesmith.core.settings import Settings
from tunesmith.data.kinds import labelled
from tunesmith.data.row_index import GROUP_IN_TEST, GROUP_IN_VALID, IN_TEST, IN_VALID, TWICE, Ledger
from tunesmith.data.settings import DataSettings
from tunesmith.data.verdicts import UNSTOPPING

MISSING = ("nan", "none", "null", "na", "n/a", "#n/a", "undefined", "-", "?")
"""How programs and people write that there is no value; compared in lower case."""


def idle(settings: DataSettings) -> Iterator[str]:
    """Settings that do nothing, as what they go with is off."""
    for name, switch in (("privacy", "action"), ("balance", "how"), ("augment", "steps")):
        group: Settings = getattr(settings, name)
        if not getattr(group, switch) and (unused := [key for key, one in type(group).model_fields.items() if getattr(group, key) != one.default]):
            yield f"data.{name}.{switch} is not set: {some(f'data.{name}.{key}' for key in unused)} {'does' if len(unused) == 1 else 'do'} nothing"
    for key, step in (("synonyms", "synonyms"), ("masked", "replace"), ("writer", "paraphrase")):
        if settings.augment.steps and getattr(settings.augment, key) and step not in settings.augment.steps:
            yield f"data.augment.steps has no `{step}`: data.augment.{key} does nothing"


def too_few(usable: int, fewest: int, book: Ledger, kind: str, left_out: Counter[str], place: str) -> UserError:
    """The error where fewer rows are left than a run needs.

    Args:
        usable, fewest: rows that are left, and rows that are needed.
        book: of the rows.
        kind: of rows.KINDS.
        left_out: rows by reason.
        place: where the rows are from.
    """
    without = f" ({counted(again, 'duplicate')} left out)" if (again := int((book.verdict == TWICE).sum())) else ""
    if asked := [f"{left_out[reason]:,} {reason}" for reason in UNSTOPPING if left_out[reason]]:
        without += f" (the recipe left out {', '.join(asked)})"
    if bad := [f"{count:,} {reason}" for reason, count in left_out.items() if reason not in UNSTOPPING]:
        without += f" (bad rows: {', '.join(bad)})"
    add = {"labelled": "add labelled rows", "document": "add documents; in a .txt file blank lines, or lines of `<|endoftext|>`, divide them"}
    return UserError(f"{counted(usable, 'usable row')}{without}; at least {fewest} are needed", place, add.get(kind, "add rows"))


def none_left(side: str, settings: DataSettings, book: Ledger, left_out: Counter[str], twins: Mapping[str, int], place: str) -> UserError:
    """The error where a side has no row.

    Args:
        side: which.
        settings: of the data.
        book: of the rows.
        left_out: rows by reason, but for near-duplicates.
        twins: these.
        place: where the rows are from.
    """
    also = int(np.isin(book.verdict, (IN_TEST, IN_VALID, GROUP_IN_TEST, GROUP_IN_VALID)).sum())
    if side == "train" and also:
        what = f"no row is left for train: {counted(also, 'row')} of it, or of the same `together` value, are also in valid or test"
        return UserError(what, place, "give data.train rows of its own, or take valid and test from it: data: {valid: 0.1, test: 0.2}")
    enlarge = "lower data.valid and data.test" if side == "train" else f"enlarge data.{side}"
    remedy = f"add rows, {enlarge}, or check `together`"
    if settings.split_by == "time":
        remedy = f"add rows, {enlarge}, or give data.time more precisely: rows of one moment stay on one side"
    if settings.split_by == "strata":
        remedy = f"add rows, or {enlarge}: no label has enough of them for its share"
    if max(twins.values(), default=0) > sum(left_out.values()):
        remedy += "; most were left out as near-duplicates: see data.duplicates.near"
    return UserError(f"no row is left for {side}", place, remedy)


def openings(count: int) -> list[str]:
    """Of training rows that begin with a test row."""
    if not count:
        return []
    what = f"{counted(count, 'training row')} begin{'s' if count == 1 else ''} with the question and the answer of a test row"
    return [f"{what}, which is so learnt before it is measured: map data.together to keep the parts of one dialogue on one side."]


def labels(names: Sequence[str]) -> list[str]:
    """Of labels that are probably one, or none."""
    apart = "differ only in case, spaces, hyphens, underscores or how Unicode writes a letter: write them alike if they are one."
    alike = [f"the labels {some(same)} {apart}" for same in labelled.alike(names)]
    missing = [label for label in names if label.strip().lower() in MISSING]
    return alike + [f"the label `{label}` is learnt as any other: leave such rows out if it stands for a missing one." for label in missing]
