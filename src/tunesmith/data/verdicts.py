"""Why a row is not among the others: by the ledger's verdict, and as a line of rejected.jsonl."""

from __future__ import annotations

import json

from tunesmith.data.readers.formats import BadRow
from tunesmith.data.readers.json import finite

UNSTOPPING = ("personal data", "dropped by hand", "nothing left", "too short", "too long", "another language")
"""Reasons that the recipe itself gave: such rows never stop a run; nor do those of texts out of scope, which are only measured."""
NOTHING_LEFT = ("nothing left", "cleaning leaves a text of this row blank", "keep it as it is with fewer steps in data.clean")
ALIKE_WITHOUT = ("nothing left", "without personal data the chosen and the rejected answer are the same", "nothing to do: the row prefers nothing")
REASONS = (
    ("", "", ""),
    ("duplicate", "equal to {first}", "nothing to do: the first is kept"),
    ("in test too", "this {side} row's text is also in test", "nothing to do: it left {side}"),
    ("in valid too", "this {side} row's text is also in valid", "nothing to do: it left {side}"),
    ("its group is in test", "this {side} row has the together value `{together}`, which is also in test", "nothing to do: it left {side}"),
    ("its group is in valid", "this {side} row has the together value `{together}`, which is also in valid", "nothing to do: it left {side}"),
    ("repeated id", "id `{id}` was used before, at {first}", "ids must be unique; correct one"),
    ("label with one row", "label `{label}` has one row; each label needs at least 2", "correct the label, add rows, or set data.on_bad_row: reject"),
    ("conflicting labels", "the same text is also labelled {other}", "decide on one label for this text"),
    ("near-duplicate", "{alike} alike {first}", "nothing to do: that one is kept; set data.duplicates.near: null to keep both"),
    ("twin in test", "this {side} row is {alike} alike the test row at {first}", "nothing to do: it left {side}"),
    ("twin in valid", "this {side} row is {alike} alike the validation row at {first}", "nothing to do: it left {side}"),
    ("thinned", "left out by the weight of its source or the balance of the labels", "nothing to do: the recipe asks for it"),
)
"""By the ledger's verdict: the reason, what was found, the remedy."""


def rejected_line(bad: BadRow, kept: bool = False) -> bytes:
    """A row left out as a line of rejected.jsonl; `kept`: it is not left out, this is how it was."""
    value = {"file": bad.source, "line": bad.line, "reason": bad.reason, "what": bad.what, "remedy": bad.remedy, "row": bad.row}
    if kept:
        value["kept"] = True
    try:
        line = json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:  # NaN, which columns of numbers have and JSON has not
        line = json.dumps(finite(value), ensure_ascii=False, default=str)
    return (line + "\n").encode("utf-8", "backslashreplace")
