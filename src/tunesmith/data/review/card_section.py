"""The data card as a section of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tunesmith.core.sections import Bars, Section, Table, Words
from tunesmith.data.preparation.card import NAMES

SAID = {
    "near-duplicate": "of a row of their own side",
    "twin in test": "of a test row, left train or valid",
    "twin in valid": "of a validation row, left train",
}
"""What a near-duplicate was one of, by the reason."""


def sections(card: Mapping[str, Any]) -> list[Section]:
    """Rows by side, why rows were left out, what was changed, lengths, labels, languages and sources, and what a person should look at first."""
    kind = card.get("kind", "labelled")
    counts = [[side, count] for side, count in card["rows"].items()] + [["left out", sum(card["rejected"].values())]]
    what = "" if kind == "labelled" else f" ({NAMES[kind]})"
    how = {"time": ", the latest rows measure", "strata": ", each label with its exact share"}.get(card.get("split_by", "hash"), "")
    blocks: list[Any] = [Table(["side", "rows"], counts, f"Rows after checks{what}{how}; every row read is in one of these")]
    blocks += [Words(text[:1].upper() + text[1:], "warn") for text in card["warnings"]]
    if turns := card.get("turns"):
        with_system = f"{turns['with_system']:.0%} of them with a system message"
        blocks.append(Words(f"A training dialogue has {turns['p50']} messages in the middle and {turns['most']} at most, {with_system}."))
    if kind != "labelled":
        lengths = [[name, *values.values()] for name, values in card["characters"].items()]
        blocks.append(Table(["characters of", "5 %", "half", "95 %", "most"], lengths, "Lengths of the training rows: this share is not longer"))
    blocks += _left_out(card) + _changed(card) + _lengths(card)
    blocks += _labels(card)
    if len(card["languages"]) > 1:
        names, shares = list(card["languages"]), [100 * share for share in card["languages"].values()]
        blocks.append(Bars(names, shares, "% of a sample of the training rows", caption="Languages, as they look"))
    elif card["languages"]:
        blocks.append(Words("Languages of the training texts, as they look: " + ", ".join(f"{n} {s:.0%}" for n, s in card["languages"].items()) + "."))
    if len(sources := card.get("sources", {})) > 1:
        blocks.append(Bars(list(sources), list(sources.values()), "training rows", caption="Rows by file"))
    return [Section("data", "Data", blocks + [Words(text) for text in card["notes"]])]


def _left_out(card: Mapping[str, Any]) -> list[Any]:
    out: list[Any] = []
    if card["rejected"]:
        ranked = Counter(card["rejected"]).most_common()
        caption = "Why rows were left out; all of them stand in data/rejected.jsonl"
        out.append(Bars([reason for reason, _ in ranked], [count for _, count in ranked], "rows", caption=caption))
    twins = {reason: count for reason, count in card.get("twins", {}).items() if reason in SAID}
    if twins:
        said = ", ".join(f"{count:,} {SAID[reason]}" for reason, count in twins.items())
        out.append(Words(f"Near-duplicates left out: {said}."))
    return out


def _changed(card: Mapping[str, Any]) -> list[Any]:
    out: list[Any] = []
    if card.get("changed"):
        caption = "Texts that each step changed; as they were, they stand in data/rejected.jsonl"
        out.append(Table(["cleaned", "texts"], [list(one) for one in Counter(card["changed"]).most_common()], caption))
    if found := {kind: count for kind, count in card.get("personal", {}).items() if kind != "rows"}:
        caption = f"Personal data, found in {card['personal']['rows']:,} rows"
        out.append(Table(["personal data", "found"], [list(one) for one in Counter(found).most_common()], caption))
    origins = {name: count for name, count in card.get("origins", {}).items() if name != "original"}
    if origins:
        counts: list[list[Any]] = [["original", card["origins"].get("original", 0)], *map(list, origins.items())]
        out.append(Table(["training rows that are", "rows"], counts, "Where the training rows come from"))
    if card.get("corrected"):
        out.append(Words(f"{card['corrected']:,} rows bear the label that a person has corrected."))
    return out


def _lengths(card: Mapping[str, Any]) -> list[Any]:
    out: list[Any] = []
    for name, found in card.get("histograms", {}).items():
        if len(found["upto"]) > 2:
            low = [0, *(upto + 1 for upto in found["upto"][:-1])]
            names = [f"{a:,} to {b:,}" for a, b in zip(low, found["upto"], strict=True)]
            names[0], names[-1] = f"up to {found['upto'][0]:,}", f"{low[-1]:,} and more"
            out.append(Bars(names, found["rows"], "training rows", caption=f"Characters of the {name}"))
    return out


def _labels(card: Mapping[str, Any]) -> list[Any]:
    ranked = sorted(card["labels"].items(), key=lambda item: -item[1]["train"])
    if not ranked:
        return []
    if len(ranked) <= 30:
        out: list[Any] = [Bars([name for name, _ in ranked], [by["train"] for _, by in ranked], "training rows", caption="Rows by label")]
    else:
        counts = [[name, *(by.get(side, 0) for side in card["rows"])] for name, by in ranked[:10] + ranked[-10:]]
        out = [Table(["label", *card["rows"]], counts, "The ten largest and ten smallest labels")]
    sides = [side for side in ("train", "valid", "test") if card["rows"].get(side)]
    if len(ranked) <= 30 and len(sides) > 1:
        totals = {side: max(1, sum(by.get(side, 0) for by in card["labels"].values())) for side in sides}
        shares = [[name, *(100 * by.get(side, 0) / totals[side] for side in sides)] for name, by in ranked]
        out.append(Table(["label", *(f"% of {side}" for side in sides)], shares, "Shares of the labels on each side", digits=1))
    return out
