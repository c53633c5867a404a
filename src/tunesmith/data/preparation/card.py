"""The data card: what went in, what was left out or changed and why, how long, how alike and how balanced the rows are, as one JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.core.errors import counted
from tunesmith.data import row_index, texts
from tunesmith.data.cleaning import languages
from tunesmith.data.dedup import exact
from tunesmith.data.kinds import dialogue
from tunesmith.data.preparation.inputs import gathered
from tunesmith.data.row_index import KEPT, SIDES

if TYPE_CHECKING:
    from tunesmith.data.preparation.first_pass import FirstPass
    from tunesmith.data.preparation.second_pass import Written

FEW_ROWS = 10
"""Fewer training rows than this for a label is worth a warning: few-shot territory."""
FEW_TEST_ROWS = 100
"""Below this a 95 % interval of an accuracy is wider than about +-8 points."""
SAMPLE = 1000
"""Rows whose language is looked at, at 0.2 ms each; a share is known to within three points."""
SAMPLE_CHARACTERS = 1000
EXACT = 1 << 16
"""Lengths below this are counted one by one, longer ones to within 1.1 %."""
BOILERPLATE = 0.05
"""One answer in more than this share of the rows is worth a warning; so are short answers. Both are conventions of ours."""
UNLIKE = 20
"""The 95th percentile of the lengths is this many times the median: a few long rows fill the batches. A convention of ours."""
MANY_TWINS = 0.3
"""A warning is due when near-duplicates are more than this share of the rows: such rows are made from templates."""
MOST_SOURCES = 30
"""Files that the card names; the others are counted together."""
ONE_TEXT = ("prompt", "completion", "text", "text_pair", "chosen", "rejected")
"""Columns that hold one text each."""
NAMES = {
    "labelled": "texts with labels",
    "dialogue": "dialogues",
    "completion": "prompts with completions",
    "document": "documents",
    "preference": "preferences",
    "prompt": "prompts",
}
OFF = 1.5
"""A side with this many times the share that was asked for, or its inverse, is worth a warning. A convention of ours."""
STEEP = 10
"""A 99th percentile this many times the median leaves bars of equal width empty but for the first. A convention of ours."""


class Lengths:
    """A histogram of lengths: bounded memory, exact percentiles up to EXACT."""

    def __init__(self) -> None:
        self._counts, self._most, self._rows = np.zeros(EXACT + 64 * 16 + 1, np.int64), 0, 0

    def add(self, lengths: row_index.Numbers) -> None:
        """Count some more."""
        if len(lengths):
            bins = np.where(lengths < EXACT, lengths, EXACT + ((np.log2(np.maximum(lengths, 1)) - 16) * 64).astype(np.int64))
            self._counts += np.bincount(bins, minlength=len(self._counts))
            self._most, self._rows = max(self._most, int(lengths.max())), self._rows + len(lengths)

    def at(self, percent: int) -> int:
        """The length that this share of the rows is not longer than."""
        if not self._rows:
            return 0
        found = int(np.searchsorted(np.cumsum(self._counts), min(self._rows - 1, self._rows * percent // 100), side="right"))
        return found if found < EXACT else min(self._most, round(2 ** (16 + (found - EXACT + 0.5) / 64)))

    def summary(self) -> dict[str, int]:
        """p5, p50, p95 and the most."""
        return {f"p{q}": self.at(q) for q in (5, 50, 95)} | {"most": self._most}

    def histogram(self, bars: int = 16) -> dict[str, list[int]]:
        """Rows by length, from the first to the 99th percentile; the first bar holds all that is shorter too, the last all that is longer. The bars are
        of equal width, or each so many times as wide as the one before where some rows are STEEP times as long as the one in the middle.

        Returns:
            `upto`: the longest length of each bar; `rows`: how many.
        """
        if not self._rows:
            return {"upto": [], "rows": []}
        low, top = self.at(1), max(1, self.at(99))
        steep = top > STEEP * max(1, self.at(50))
        ends = np.geomspace(max(1, low), top, bars + 1) if steep else np.linspace(low, top, bars + 1)
        edges = np.unique(np.ceil(ends[1:] - 1e-6).astype(np.int64))
        bins = np.where(np.arange(len(self._counts)) < EXACT, np.arange(len(self._counts)), 2.0 ** (16 + (np.arange(len(self._counts)) - EXACT) / 64))
        where = np.minimum(np.searchsorted(edges, bins), len(edges) - 1)
        return {"upto": edges.tolist(), "rows": np.bincount(where, self._counts, len(edges)).astype(int).tolist()}


def make(first: FirstPass, written: Written, files: Mapping[str, Mapping[str, str]], left_out: Mapping[str, int], twins: Mapping[str, int]) -> dict[str, Any]:
    """Describe prepared rows.

    Args:
        first: with the facts and the verdicts of all rows.
        written: what became of them.
        files: side -> name and sha256 of its input.
        left_out: rows by the reason why they were.
        twins: near-duplicates dropped, by reason.

    Returns:
        The card as JSON. `mapped` has the columns that rows of every kind may have; `privacy` what became of personal data (null: not looked for);
        `labels` the counts by side (empty for rows without any); `characters` the percentiles of labelled texts, or by `prompts` and `answers`, or
        `texts`; `warnings` what a person should look at.
    """
    book, kind = first.book, first.kind
    prompts, answers, turns = Lengths(), Lengths(), Lengths()
    flags, sources = np.zeros(8, np.int64), np.zeros(len(first.parts), np.int64)
    for start, (said, learnt, count, bits, side, part) in book.blocks("prompt_characters", "answer_characters", "turns", "flags", "side", "part"):
        train = (book.verdict[start : start + len(side)] == KEPT) & (side == SIDES.index("train"))
        prompts.add(said[train])
        answers.add(learnt[train])
        turns.add(count[train])
        flags += np.unpackbits(bits[train, None], axis=1, bitorder="little").sum(0, np.int64)
        sources += np.bincount(part[train], minlength=len(sources))
    rows = written.rows
    marked = {name: int(flags[getattr(dialogue, name).bit_length() - 1]) for name in ("SYSTEM", "BEYOND", "OPENS", "SHORT", "MARKS", "NO_SYSTEM")}
    lengths = {"texts": answers} if kind in ("labelled", "document") else {"prompts": prompts} if kind == "prompt" else {"prompts": prompts, "answers": answers}
    names = sorted(set().union(*written.labels.values()))
    card: dict[str, Any] = {
        "kind": kind,
        "files": dict(files),
        "rows": rows,
        "rejected": dict(left_out),
        "mapped": {key: value for key in ("id", "together", "time", "attributes") if (value := getattr(first.settings, key))},
        "privacy": first.settings.privacy.action,
        "columns": first.columns if kind != "labelled" else {key: first.columns.get(key) for key in ("text", "text_pair", "label")},
        "labels": {name: {side: counts[name] for side, counts in written.labels.items()} for name in names},
        "characters": answers.summary() if kind == "labelled" else {name: counts.summary() for name, counts in lengths.items()},
        "histograms": {name: counts.histogram() for name, counts in lengths.items()},
        "split_by": first.settings.split_by,
        "twins": dict(twins),
        "changed": dict(sorted(first.changed.items())),
        "personal": dict(sorted(first.personal.items())),
        "corrected": len(first.corrected),
        "origins": dict(written.origins),
        "sources": _sources(first, sources),
        "languages": languages.shares([text[:SAMPLE_CHARACTERS] for text in written.texts], SAMPLE),
        "notes": gathered(first.notes),
    }
    if kind in ("dialogue", "preference", "prompt"):
        card["turns"] = {"p50": turns.at(50), "most": turns.summary()["most"], "with_system": round(marked["SYSTEM"] / max(1, rows["train"]), 4)}
    if kind not in ("labelled", "document"):
        card["same_prompt"] = exact.same_prompts(book) if "test" in rows else 0
        _note_prompts(card, marked)
    if kind == "labelled":
        own = {name: by | {"train": first.learnt.get(name, 0)} for name, by in card["labels"].items()}  # repeats and variants are no new rows
        card["warnings"] = _label_warnings(rows, own, first.settings.multi_label)
    else:
        alike = exact.commonest_answer(book)[0] if kind in ("dialogue", "completion") else 0
        card["warnings"] = _text_warnings(rows, marked, alike, written.answer, lengths)
    card["warnings"] += _share_warnings(first, card, sum(twins.values())) + _twin_warnings(twins, rows) + _personal_warnings(first)
    if first.corrected and (missing := len(first.corrections) - len(first.corrected)):
        card["notes"].append(f"{counted(missing, 'corrected row')} of data.corrections not found among the rows")
    return card


def _sources(first: FirstPass, kept: row_index.Numbers) -> dict[str, int]:
    """Kept training rows by file, the largest first."""
    counts: Counter[str] = Counter()
    for part, count in zip(first.parts, kept, strict=True):
        counts[part.name] += int(count)
    found = (+counts).most_common()
    return dict(found[:MOST_SOURCES]) | ({"others": sum(count for _, count in found[MOST_SOURCES:])} if len(found) > MOST_SOURCES else {})


def _note_prompts(card: dict[str, Any], marked: Mapping[str, int]) -> None:
    if count := card["same_prompt"]:
        what = f"{counted(count, 'training row')} share{'' if count > 1 else 's'} the prompt of a test row, with another answer"
        card["notes"].append(f"{what}: map data.together to keep such rows on one side")
    if marked["OPENS"]:
        card["notes"].append(f"{counted(marked['OPENS'], 'training row')} with the assistant's message first, before any of a user")
    if marked["NO_SYSTEM"]:
        card["notes"].append(f"{counted(marked['NO_SYSTEM'], 'training row')} with a blank system message, which was left out of the row")


def _label_warnings(rows: Mapping[str, int], counts: Mapping[str, Mapping[str, int]], multi_label: bool) -> list[str]:
    out = []
    unseen = [name for name, by in counts.items() if by["train"] == 0]
    if unseen:
        out.append(f"{counted(len(unseen), 'label')} without a training row ({', '.join(unseen[:5])}): they cannot be predicted. Add rows or merge them.")
    for side, lost in (("test", "nothing is measured of them"), ("valid", "the kept step and the calibration do not heed them")):
        if rows.get(side) and (without := [name for name, by in counts.items() if by["train"] and not by.get(side, 0)]):
            out.append(f"{counted(len(without), 'label')} without a {side} row ({', '.join(without[:5])}): {lost}. Add rows or merge them.")
    few = [name for name, by in counts.items() if 0 < by["train"] < FEW_ROWS]
    if few:
        out.append(f"{counted(len(few), 'label')} with fewer than {FEW_ROWS} training rows ({', '.join(few[:5])}): expect them to be weak.")
    out += few_test_rows(rows, "Label")
    train = [by["train"] for by in counts.values() if by["train"]]
    if train and max(train) > 10 * min(train):
        what = f"the largest label has {max(train) / min(train):.0f} times the rows of the smallest: read macro F1, and see objective.class_weights"
        out.append(what + ("." if multi_label else " and data.balance."))
    return out


def _share_warnings(first: FirstPass, card: Mapping[str, Any], near: int) -> list[str]:
    """A side with another share of the rows than was asked for: many rows of one moment, few large groups, `near` near-duplicates left out, or few rows."""
    rows, asked = card["rows"], {side: share for side, share in first.shares.items() if share and side in card["rows"]}
    divided = card["origins"].get("original", 0) + sum(rows[side] for side in asked)
    if divided < FEW_TEST_ROWS or "thinned" in card["rejected"]:
        return []
    out, anew, settings = [], "Another data.split_seed divides them anew", first.settings
    for side, share in asked.items():
        if share / OFF <= rows[side] / divided <= share * OFF:
            continue
        why, remedy = "the rows are few", anew
        if settings.split_by == "time":
            why, remedy = f"rows with one `{settings.time}` are not divided", "Give data.time more precisely"
        elif settings.together:
            why = f"rows with one `{settings.together}` are not divided"
        elif near > rows[side]:
            why, remedy = "near-duplicates left the other sides", "See data.duplicates.near"
        out.append(f"{side} has {rows[side] / divided:.0%} of the rows, {share:.0%} was asked for: {why}. {remedy}.")
    return out


def few_test_rows(rows: Mapping[str, int], add: str = "Add") -> list[str]:
    """A warning when the test side is small: rows by side, and what one does to have more of them."""
    if rows.get("test", FEW_TEST_ROWS) >= FEW_TEST_ROWS:
        return []
    return [f"the test split has only {counted(rows['test'], 'row')}: intervals will be wide. {add} more rows before trusting small differences."]


def _text_warnings(rows: Mapping[str, int], marked: Mapping[str, int], alike: int, answer: str, lengths: Mapping[str, Lengths]) -> list[str]:
    out, train = [], max(1, rows["train"])
    if marked["BEYOND"]:
        out.append(f"{counted(marked['BEYOND'], 'training row')} with messages behind the assistant's last one: what follows it is not learnt.")
    if marked["SHORT"] > BOILERPLATE * train:
        share = f"{marked['SHORT'] / train:.0%} of the training rows have an answer of fewer than {dialogue.FEW_WORDS} words"
        out.append(f"{share}: answers too short to learn from. Write what a good answer says, or classify with labels.")
    if alike > max(1, BOILERPLATE * train):
        out.append(f"{alike / train:.0%} of the training rows end with the same answer (`{answer}`): boilerplate that the model will repeat. Keep a few.")
    for name, counts in lengths.items():
        if counts.at(95) > UNLIKE * max(1, counts.at(50)):
            what = f"the lengths of the {name} are very unlike: {counts.at(50):,} characters in the middle, {counts.at(95):,} at the 95th percentile"
            out.append(f"{what}. A few long rows decide memory and time: cut them, or set train.batch_tokens.")
    if marked["MARKS"]:
        out.append(f"{counted(marked['MARKS'], 'training row')} with marks like <|end|> in a text: a tokenizer that has such a mark reads it as its own.")
    return out + few_test_rows(rows)


def _twin_warnings(twins: Mapping[str, int], rows: Mapping[str, int]) -> list[str]:
    dropped = sum(count for reason, count in twins.items() if reason not in (exact.OWN_FILES, exact.OTHER_ANSWER))
    out = []
    if count := twins.get(exact.OTHER_ANSWER, 0):
        out.append(f"{counted(count, 'pair')} of rows with nearly the same text and another label or answer, left as they are: see whether one is wrong.")
    if dropped > MANY_TWINS * (dropped + sum(rows.values())):
        what = f"{dropped / (dropped + sum(rows.values())):.0%} of the rows were left out as near-duplicates: they look as if made from templates"
        out.append(f"{what}. If they are meant to differ in a word or a number, set data.duplicates.near: null.")
    if count := twins.get(exact.OWN_FILES, 0):
        what = f"{counted(count, 'row')} of your own valid and test files {'is' if count == 1 else 'are'} nearly the same as another there"
        out.append(f"{what}; files that measure are left as they are.")
    return out


def _personal_warnings(first: FirstPass) -> list[str]:
    found, action = first.personal, first.settings.privacy.action
    if action != "report" or not found["rows"]:
        return []
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in Counter({k: v for k, v in found.items() if k != "rows"}).most_common())
    return [f"{counted(found['rows'], 'row')} with personal data ({kinds}), left as they are: set data.privacy.action to mask, pseudonymise or drop."]


def text_of(row: Mapping[str, Any]) -> str:
    """A row's texts as one, the beginning of each, but what the system says: to tell the language by, or the words."""
    said = [message["content"] for message in row["messages"] if message["role"] != "system"] if "messages" in row else []
    return "\n".join(text[:SAMPLE_CHARACTERS] for text in [*said, *(row.get(name) for name in ONE_TEXT)] if text)


def answer_of(row: Mapping[str, Any], kind: str) -> str:
    """A row's last answer, shortened for a sentence."""
    text = row["completion"] if kind == "completion" else [m["content"] for m in row["messages"] if m["role"] == "assistant"][-1]
    even = texts.even(text)
    return even if len(even) <= 80 else even[:79] + "…"
