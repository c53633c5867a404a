"""The data card of dialogues, completions and documents: what went in, what was left out and why, how long and how alike the rows are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tunesmith.data import dialogues, languages, ledger
from tunesmith.data.card import few_test_rows
from tunesmith.data.ledger import KEPT, SIDES, Ledger
from tunesmith.errors import counted
from tunesmith.sections import Section, Table, Words

SAMPLE = 2000
"""Rows whose language is looked at."""
SAMPLE_CHARACTERS = 1000
EXACT = 1 << 16
"""Lengths below this are counted one by one, longer ones to within 1.1 %."""
BOILERPLATE = 0.05
"""One answer in more than this share of the rows is worth a warning; so are short answers. Both are conventions of ours."""
UNLIKE = 20
"""The 95th percentile of the lengths is this many times the median: a few long rows fill the batches. A convention of ours."""
NAMES = {"dialogue": "dialogues", "completion": "prompts with completions", "document": "documents"}


class Lengths:
    """A histogram of lengths: bounded memory, exact percentiles up to EXACT."""

    def __init__(self) -> None:
        self._counts, self._most, self._rows = np.zeros(EXACT + 64 * 16 + 1, np.int64), 0, 0

    def add(self, lengths: ledger.Numbers) -> None:
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


def make(
    kind: str,
    one: Ledger,
    found: Mapping[str, Any],
    texts: Sequence[str],
    answer: str,
) -> dict[str, Any]:
    """Describe streamed rows.

    Args:
        kind: dialogue, completion or document.
        one: the facts and the verdicts of all rows.
        found: `files`, `rows`, `rejected`, `columns` and `notes` of the card.
        texts: of the sampled training rows.
        answer: the commonest last answer; empty without one.

    Returns:
        The card as JSON. `labels` is empty; `characters` has `prompts` and `answers`, or `texts` of documents.
    """
    prompts, answers, turns = Lengths(), Lengths(), Lengths()
    flags = np.zeros(8, np.int64)
    for start, (said, learnt, count, bits, side) in one.blocks("prompt_characters", "answer_characters", "turns", "flags", "side"):
        train = (one.verdict[start : start + len(side)] == KEPT) & (side == SIDES.index("train"))
        prompts.add(said[train])
        answers.add(learnt[train])
        turns.add(count[train])
        flags += np.unpackbits(bits[train, None], axis=1, bitorder="little").sum(0, np.int64)
    rows = found["rows"]["train"]
    marked = {name: int(flags[getattr(dialogues, name).bit_length() - 1]) for name in ("SYSTEM", "BEYOND", "OPENS", "SHORT", "MARKS", "NO_SYSTEM")}
    card: dict[str, Any] = {"kind": kind, **found, "labels": {}, "notes": list(found["notes"])}
    lengths = {"texts": answers} if kind == "document" else {"prompts": prompts, "answers": answers}
    card["characters"] = {name: counts.summary() for name, counts in lengths.items()}
    if kind == "dialogue":
        card["turns"] = {"p50": turns.at(50), "most": turns.summary()["most"], "with_system": round(marked["SYSTEM"] / max(1, rows), 4)}
    card["languages"] = languages.shares([text[:SAMPLE_CHARACTERS] for text in texts], SAMPLE)
    alike = ledger.commonest_answer(one)[0] if kind != "document" else 0
    card["same_prompt"] = ledger.same_prompts(one) if "test" in found["rows"] else 0
    if card["same_prompt"]:
        what = f"{counted(card['same_prompt'], 'training row')} share{'' if card['same_prompt'] > 1 else 's'} the prompt of a test row, with another answer"
        card["notes"].append(f"{what}: map data.together to keep such rows on one side")
    if marked["OPENS"]:
        card["notes"].append(f"{counted(marked['OPENS'], 'training row')} with the assistant's message first, before any of a user")
    if marked["NO_SYSTEM"]:
        card["notes"].append(f"{counted(marked['NO_SYSTEM'], 'training row')} with a blank system message, which was left out of the row")
    card["warnings"] = _warnings(found["rows"], marked, alike, answer, lengths)
    return card


def _warnings(rows: Mapping[str, int], marked: Mapping[str, int], alike: int, answer: str, lengths: Mapping[str, Lengths]) -> list[str]:
    out, train = [], max(1, rows["train"])
    if marked["BEYOND"]:
        out.append(f"{counted(marked['BEYOND'], 'training row')} with messages behind the assistant's last one: what follows it is not learnt.")
    if marked["SHORT"] > BOILERPLATE * train:
        share = f"{marked['SHORT'] / train:.0%} of the training rows have an answer of fewer than {dialogues.FEW_WORDS} words"
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


def text_of(row: Mapping[str, Any], kind: str) -> str:
    """A row's texts as one, to tell the language by."""
    if kind == "dialogue":
        return "\n".join(message["content"][:SAMPLE_CHARACTERS] for message in row["messages"] if message["role"] != "system")
    return "\n".join(row[name][:SAMPLE_CHARACTERS] for name in ("prompt", "completion", "text") if name in row)


def answer_of(row: Mapping[str, Any], kind: str) -> str:
    """A row's last answer, shortened for a sentence."""
    text = row["completion"] if kind == "completion" else [m["content"] for m in row["messages"] if m["role"] == "assistant"][-1]
    even = dialogues.even(text)
    return even if len(even) <= 80 else even[:79] + "…"


def columns_for_text(kind: str) -> list[str]:
    """The columns that hold a row's texts."""
    return {"dialogue": ["messages"], "completion": ["prompt", "completion"], "document": ["text"]}[kind]


def pick(batch: pa.RecordBatch, at: ledger.Numbers, kind: str) -> list[dict[str, Any]]:
    """Some rows of a batch as plain data, their texts alone."""
    found: list[dict[str, Any]] = batch.select(columns_for_text(kind)).take(pa.array(at, pa.int64())).to_pylist()
    return found


def sections(card: Mapping[str, Any]) -> list[Section]:
    """The card as a section of the report."""
    counts = [[side, count] for side, count in card["rows"].items()] + [["left out", sum(card["rejected"].values())]]
    blocks: list[Any] = [Table(["side", "rows"], counts, f"Rows after checks ({NAMES[card['kind']]}); every row read is in one of these")]
    if turns := card.get("turns"):
        with_system = f"{turns['with_system']:.0%} of them with a system message"
        blocks.append(Words(f"A training dialogue has {turns['p50']} messages in the middle and {turns['most']} at most, {with_system}."))
    lengths = [[name, *values.values()] for name, values in card["characters"].items()]
    blocks.append(Table(["characters of", "5 %", "half", "95 %", "most"], lengths, "Lengths of the training rows: this share is not longer"))
    if card["languages"]:
        blocks.append(Words("Languages of the training texts, as they look: " + ", ".join(f"{n} {s:.0%}" for n, s in card["languages"].items()) + "."))
    if card["rejected"]:
        reasons = sorted(([reason, count] for reason, count in card["rejected"].items()), key=lambda item: -item[1])
        blocks.append(Table(["why left out", "rows"], reasons, "All of them stand in data/rejected.jsonl"))
    if tokens := card.get("tokens"):
        blocks.append(Words(tokens["said"], "warn" if tokens["cut_rows"] else "plain"))
    blocks += [Words(text, "warn") for text in card["warnings"]] + [Words(text) for text in card["notes"]]
    return [Section("data", "Data", blocks)]
