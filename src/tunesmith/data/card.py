"""The data card: what went in, what was left out and why, how the labels lie, as one JSON and one section of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from tunesmith.data import languages, rows
from tunesmith.data.sources import BadRow
from tunesmith.errors import counted
from tunesmith.sections import Bars, Section, Table, Words

FEW_ROWS = 10
"""Fewer training rows than this for a label is worth a warning: few-shot territory."""
FEW_TEST_ROWS = 100
"""Below this a 95 % interval of an accuracy is wider than about +-8 points."""


def make(splits: dict[str, pa.Table], files: dict[str, dict[str, str]], rejected: list[BadRow], notes: list[str]) -> dict[str, Any]:
    """Describe prepared rows.

    Args:
        splits: the rows of each side.
        files: side -> name and sha256 of its input file.
        rejected: every record that was left out.
        notes: remarks of the readers.

    Returns:
        The card as JSON; `labels` holds the counts by side, `warnings` what a person should look at.
    """
    labels = {side: Counter(label for one in rows.label_lists(table) for label in one) for side, table in splits.items()}
    names = sorted(set().union(*labels.values()))
    counts = {name: {side: labels[side][name] for side in splits} for name in names}
    lengths = sorted(len(text) for text in rows.strings(splits["train"], "text")) or [0]
    return {
        "files": files,
        "rows": {side: table.num_rows for side, table in splits.items()},
        "rejected": dict(Counter(one.reason for one in rejected)),
        "labels": counts,
        "characters": {f"p{q}": lengths[min(len(lengths) - 1, len(lengths) * q // 100)] for q in (5, 50, 95)} | {"most": lengths[-1]},
        "languages": languages.shares(rows.strings(splits["train"], "text")),
        "notes": notes,
        "warnings": _warnings(splits, counts),
    }


def _warnings(splits: dict[str, pa.Table], counts: dict[str, dict[str, int]]) -> list[str]:
    out = []
    unseen = [name for name, by in counts.items() if by["train"] == 0]
    if unseen:
        out.append(f"{counted(len(unseen), 'label')} without a training row ({', '.join(unseen[:5])}): they cannot be predicted. Add rows or merge them.")
    few = [name for name, by in counts.items() if 0 < by["train"] < FEW_ROWS]
    if few:
        out.append(f"{counted(len(few), 'label')} with fewer than {FEW_ROWS} training rows ({', '.join(few[:5])}): expect them to be weak.")
    out += few_test_rows({side: table.num_rows for side, table in splits.items()}, "Label")
    train = [by["train"] for by in counts.values() if by["train"]]
    if train and max(train) > 10 * min(train):
        out.append(f"the largest label has {max(train) / min(train):.0f} times the rows of the smallest: read macro F1, and see objective.class_weights.")
    return out


def few_test_rows(rows: Mapping[str, int], add: str = "Add") -> list[str]:
    """A warning when the test side is small: rows by side, and what one does to have more of them."""
    if rows.get("test", FEW_TEST_ROWS) >= FEW_TEST_ROWS:
        return []
    return [f"the test split has only {rows['test']} rows: intervals will be wide. {add} more rows before trusting small differences."]


def sections(card: dict[str, Any]) -> list[Section]:
    """The card as a section of the report, for rows of any kind."""
    if "kind" in card:
        from tunesmith.data import text_card  # it takes from here

        return text_card.sections(card)
    sides = list(card["rows"])
    blocks: list[Any] = [
        Table(
            ["side", "rows"],
            [[side, count] for side, count in card["rows"].items()] + [["left out", sum(card["rejected"].values())]],
            "Rows after checks; every row read is in one of these",
        )
    ]
    if card["languages"]:
        blocks.append(Words("Languages of the training texts, as they look: " + ", ".join(f"{n} {s:.0%}" for n, s in card["languages"].items()) + "."))
    if card["rejected"]:
        reasons = [list(item) for item in Counter(card["rejected"]).most_common()]
        blocks.append(Table(["why left out", "rows"], reasons, "All of them stand in data/rejected.jsonl"))
    tokens = card.get("tokens")
    if tokens:
        blocks.append(Words(tokens["said"], "warn" if tokens["cut_rows"] else "plain"))
    blocks += [Words(text, "warn") for text in card["warnings"]] + [Words(text) for text in card["notes"]]
    ranked = sorted(card["labels"].items(), key=lambda item: -item[1]["train"])
    if len(ranked) <= 30:
        blocks.append(Bars([name for name, _ in ranked], [by["train"] for _, by in ranked], "training rows", caption="Rows by label"))
    else:
        counts = [[name, *(by[side] for side in sides)] for name, by in ranked[:10] + ranked[-10:]]
        blocks.append(Table(["label", *sides], counts, "The ten largest and ten smallest labels"))
    return [Section("data", "Data", blocks)]
