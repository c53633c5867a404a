"""Equal rows: one of each stays, and no text of the test rows is left in train."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

from tunesmith.data import rows
from tunesmith.data.sources import BadRow


def key(text: str, pair: str | None = None) -> str:
    """What makes two texts equal: the same characters, white space aside."""
    return " ".join(text.split()) + ("\x1f" + " ".join(pair.split()) if pair is not None else "")


def keys(table: pa.Table) -> list[str]:
    """The key of each row."""
    return [key(text, pair) for text, pair in zip(rows.strings(table, "text"), rows.strings(table, "text_pair"), strict=True)]


def drop_within(table: pa.Table) -> tuple[pa.Table, list[BadRow]]:
    """Keep the first of equal rows; where equal texts bear different labels keep the majority's, and none on a tie.

    Returns:
        The rows kept, in order, and the dropped ones with the line they repeat.
    """
    table_keys, labels = keys(table), [tuple(one) for one in rows.label_lists(table)]
    votes: dict[str, Counter[tuple[str, ...]]] = {}
    for name, label in zip(table_keys, labels, strict=True):
        votes.setdefault(name, Counter())[label] += 1
    first: dict[str, int] = {}
    keep, dropped = [], []
    for index, (name, label) in enumerate(zip(table_keys, labels, strict=True)):
        ranked = votes[name].most_common(2)
        if len(ranked) > 1 and (ranked[0][1] == ranked[1][1] or label != ranked[0][0]):
            others = sorted({"|".join(one) for one in votes[name] if one != label})
            what = f"the same text is also labelled `{others[0]}`"
            dropped.append(_bad(table, index, "conflicting labels", what, "decide on one label for this text"))
        elif name in first:
            line = table.column("line")[first[name]].as_py()
            dropped.append(_bad(table, index, "duplicate", f"equal to line {line}", "nothing to do: the first is kept"))
        else:
            first[name] = index
            keep.append(index)
    return table.take(pa.array(keep, pa.int64())), dropped


def drop_across(splits: dict[str, pa.Table], kept: frozenset[str] = frozenset()) -> tuple[dict[str, pa.Table], list[BadRow]]:
    """Take out of train what also stands in valid or test, and out of valid what stands in test: equal texts, and rows of one `together` value.

    The row leaves the side that learns, never the side that measures. Groups straddle only where a side is a file of the user's.

    Args:
        splits: the rows of each side.
        kept: sides that are files of the user's to measure with, which are never altered.
    """
    out, dropped = dict(splits), []
    for side, against in (("valid", ["test"]), ("train", ["valid", "test"])):
        if side not in out or side in kept:
            continue
        held = {name: other for other in against if other in out for name in keys(out[other])}
        groups = {name: other for other in against if other in out for name in rows.strings(out[other], "together") if name is not None}
        stays = []
        for index, (name, group) in enumerate(zip(keys(out[side]), rows.strings(out[side], "together"), strict=True)):
            stays.append(name not in held and group not in groups)
            remedy = f"nothing to do: it left {side}"
            if name in held:
                dropped.append(_bad(out[side], index, f"in {held[name]} too", f"this {side} row's text is also in {held[name]}", remedy))
            elif group in groups:
                what = f"this {side} row has the together value `{group}`, which is also in {groups[group]}"
                dropped.append(_bad(out[side], index, f"its group is in {groups[group]}", what, remedy))
        out[side] = out[side].filter(pa.array(stays, pa.bool_()))
    return out, dropped


def _bad(table: pa.Table, index: int, reason: str, what: str, remedy: str) -> BadRow:
    row: dict[str, Any] = table.select(["source", "line", "text", "labels"]).slice(index, 1).to_pylist()[0]
    return BadRow(row["source"], row["line"], reason, what, remedy, {"text": row["text"], "labels": row["labels"]})
