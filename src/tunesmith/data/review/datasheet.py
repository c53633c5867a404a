"""A datasheet that a reviewer can sign: what is known of the data is filled in, what only people know is asked, nothing is made up.

The parts and the questions' intent are those of Gebru et al. 2021, "Datasheets for Datasets" (https://arxiv.org/abs/1803.09010).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tunesmith.core.errors import counted

BLANK = "Answer: " + "_" * 60
MOST = 12
"""Entries of a list; the card has them all."""

QUESTIONS: dict[str, Sequence[str]] = {
    "Motivation": (
        "For what purpose was the data set made, and which gap was it to fill?",
        "Who made it, on whose behalf, and who paid for it?",
    ),
    "Composition": (
        "What does one row stand for, and are the rows all there are, or a sample? Of what, and how was it drawn?",
        "Who or what is missing that should be there?",
        "Do the rows speak of people? Can any be identified, and is anything confidential or sensitive (health, beliefs, origin)?",
        "Might the texts offend, insult, threaten or frighten a reader?",
        "Do rows depend on each other (one author, one conversation), and does the split respect it?",
    ),
    "Collection": (
        "How were the rows obtained, by whom, over which time, and how were these people paid?",
        "Did those who wrote the texts know and consent, and how can they withdraw?",
        "Was there an ethical review, or an assessment of the impact on data protection?",
    ),
    "Cleaning and labelling": (
        "Who gave the labels or wrote the answers, by which instructions, and how far do two of them agree?",
        "What was done to the data before Tunesmith read them, and is the raw state kept?",
    ),
    "Uses": (
        "What have the data been used for, and what should they be used for?",
        "What must they not be used for, and who could be harmed, or treated unfairly?",
    ),
    "Distribution": (
        "Under which licence or terms may they be used, and who else gets them?",
        "Do rights of others, export rules or other regulations apply?",
    ),
    "Maintenance": (
        "Who keeps the data, and how can that person be reached?",
        "When will they be corrected or deleted, and how long may rows about people be kept?",
    ),
}
KINDS = {"dialogue": "a dialogue", "completion": "a prompt with its completion", "document": "a document"}


def write(
    card: Mapping[str, Any],
    name: str,
    bias: Mapping[str, Any] | None = None,
    coverage: Sequence[str] = (),
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Write a datasheet.

    Args:
        card: the data card; what it does not have is left out.
        name: of the data set or the run.
        bias: from `bias.report`, or None where it was not looked for.
        coverage: sentences from `diversity.findings`.
        more: facts beyond the card, by a part of QUESTIONS, then by name, such as {"Cleaning and labelling": {"personal data masked": 31}}.

    Returns:
        Markdown. Texts of the user's are escaped, so that none becomes markup. Every question of QUESTIONS is followed by a line to write on.
    """
    known = {
        "Composition": _composition(card),
        "Collection": _files(card),
        "Cleaning and labelling": _cleaning(card),
        "Uses": _warnings(card, bias, coverage),
    }
    for part, facts in (more or {}).items():
        assert part in QUESTIONS
        known[part] = [*known.get(part, ()), *(f"{escape(key)}: {_value(value)}" for key, value in facts.items())]
    lines = [f"# Datasheet: {escape(name)}", "", "In the form of Gebru et al., [Datasheets for Datasets](https://arxiv.org/abs/1803.09010). "
             "The points were counted by Tunesmith; the answers are to be written by people who know the data. An empty line is an open question."]  # fmt: skip
    for part, questions in QUESTIONS.items():
        lines += ["", f"## {part}", "", *(f"- {fact}" for fact in known.get(part, ()))]
        for question in questions:
            lines += ["", f"**{question}**", "", BLANK]
    return "\n".join([*lines, *_signature()]).replace("\n\n\n", "\n\n") + "\n"


def escape(text: str) -> str:
    """A text as a part of a line of Markdown that reads as it is written."""
    plain = "".join(character for character in text if character.isprintable() or character.isspace())
    return re.sub(r"([\\`*_\[\]<>|#~$&!])", r"\\\1", " ".join(plain.split()))


def _value(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else escape(str(value))


def _counts(counts: Mapping[str, int]) -> str:
    """`a` 3, `b` 2 and how many are not shown, largest first."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    rest = f", and {len(ranked) - MOST} more" if len(ranked) > MOST else ""
    return ", ".join(f"{escape(name)} {count:,}" for name, count in ranked[:MOST]) + rest


def _composition(card: Mapping[str, Any]) -> list[str]:
    labels = card.get("labels") or {}
    kind = KINDS.get(card.get("kind", ""), "a text with its label" if labels else "")
    facts = [f"A row is {kind}."] if kind else []
    facts.append(f"Rows: {_counts(card['rows'])}.")
    if "mapped" in card:
        how = {"time": "by time, the latest rows measure", "strata": "by label, each with its exact share"}.get(card.get("split_by", ""), "by a hash")
        together = card["mapped"].get("together")
        grouped = f"rows with one `{together}` stand on one side" if together else "no column says which rows belong together"
        facts.append(escape(f"Sides that have no file of their own are divided {how}; {grouped}."))
    if labels:
        facts.append(f"{len(labels)} labels; training rows of each: {_counts({label: by.get('train', 0) for label, by in labels.items()})}.")
    for what, lengths in _lengths(card.get("characters") or {}):
        shares = f"5 % have at most {lengths['p5']:,}, half {lengths['p50']:,}, 95 % {lengths['p95']:,}; the longest {lengths['most']:,}"
        facts.append(f"Characters of {what}: {shares}.")
    if languages := card.get("languages"):
        shown = ", ".join(f"{escape(code)} {share:.0%}" for code, share in languages.items())
        facts.append(f"Languages of the training texts, as a program sees them: {shown}.")
    if tokens := card.get("tokens"):
        facts.append(escape(tokens["said"]))
    return facts


def _lengths(characters: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, int]]]:
    """Lengths by what is measured: a card of labelled rows has one kind, others have several."""
    return [("the training texts", characters)] if "p50" in characters else [(escape(what), lengths) for what, lengths in characters.items()]


def _files(card: Mapping[str, Any]) -> list[str]:
    facts = [f"Read for {escape(side)}: {escape(file['name'])}, sha256 {file['sha256']}." for side, file in (card.get("files") or {}).items()]
    columns = {key: column for key, column in (card.get("columns") or {}).items() if column}
    facts += [f"Columns used: {', '.join(f'{escape(column)} as {escape(key)}' for key, column in columns.items())}."] if columns else []
    if kept := card.get("mapped", {}).get("attributes"):
        facts.append(f"Kept beside the rows for audits, never read by the model: {', '.join(map(escape, kept))}.")
    return facts


HIDDEN = {
    "report": "left as they are",
    "mask": "masked",
    "pseudonymise": "replaced by pseudonyms",
    "drop": "left out",
}
"""What became of personal data, by `data.privacy.action`."""


def _cleaning(card: Mapping[str, Any]) -> list[str]:
    rejected = card.get("rejected") or {}
    facts = [f"Rows left out, by reason: {_counts(rejected)}. All stand in data/rejected.jsonl."] if rejected else ["No row was left out."]
    if changed := card.get("changed"):
        facts.append(f"Texts changed by cleaning, by step: {_counts(changed)}.")
    if found := {kind: count for kind, count in (card.get("personal") or {}).items() if kind != "rows"}:
        became = f": {HIDDEN[card['privacy']]}" if card.get("privacy") else ""
        facts.append(f"Personal data, found by a program in {counted(card['personal']['rows'], 'row')} ({_counts(found)}){became}.")
    elif "privacy" in card:
        facts.append("A program looked for personal data and found none." if card["privacy"] else "Personal data were not looked for.")
    if made := {name: count for name, count in (card.get("origins") or {}).items() if name != "original"}:
        facts.append(f"Training rows that were made from others: {_counts(made)}.")
    if corrected := card.get("corrected"):
        facts.append(f"{counted(corrected, 'row')} with a label that a person has corrected.")
    return facts + [escape(note) + ("" if note.endswith(".") else ".") for note in card.get("notes") or ()]


def _warnings(card: Mapping[str, Any], bias: Mapping[str, Any] | None, coverage: Sequence[str]) -> list[str]:
    """What may make a use wrong: warnings, what the texts do not cover, and differences of label rates."""
    facts = [escape(text[:1].upper() + text[1:]) for text in (*(card.get("warnings") or ()), *coverage)]
    if bias is None:
        return [*facts, "Bias was not looked for."]
    facts += [escape(one["text"]) for one in bias["findings"][:MOST]]
    if len(bias["findings"]) > MOST:
        facts.append(f"{len(bias['findings']) - MOST} more findings of this kind are in the data card.")
    if not any("numbers" in one for one in bias["findings"]):
        none = f"{bias['tests']:,} comparisons of label rates found no difference beyond chance" if bias["tests"] else "No label rates could be compared"
        facts.append(f"{none}.")
    return facts


def _signature() -> list[str]:
    """What a reviewer fills in and signs."""
    line = "_" * 40
    decisions = ("may be used as it is", "may be used under these conditions", "must not be used")
    return ["", "## Review", "", "**What was looked at, and what must be done before the data are used?**", "", BLANK, "",
            "**Decision**", "", *(f"- [ ] {decision}" for decision in decisions), "",
            *(part for what in ("Conditions", "Name", "Role", "Date", "Signature") for part in (f"{what}: {line}", ""))][:-1]  # fmt: skip
