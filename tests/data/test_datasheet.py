"""The datasheet: every known figure is in it, every question has a line to write on, and no text of the user's becomes markup."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tunesmith.data.review import datasheet

CARD: dict[str, Any] = {
    "files": {"train": {"name": "tickets.csv", "sha256": "ab12"}, "test": {"name": "held_out.csv", "sha256": "cd34"}},
    "rows": {"train": 1675, "valid": 263, "test": 460},
    "rejected": {"duplicate": 3, "blank text": 12},
    "labels": {"yes": {"train": 399, "test": 100}, "no": {"train": 1276, "test": 360}},
    "characters": {"p5": 39, "p50": 193, "p95": 334, "most": 2884},
    "languages": {"en": 0.97, "de": 0.03},
    "columns": {"text": "message", "text_pair": None, "label": "urgent"},
    "notes": ["tickets.csv: taking column `urgent` as the label"],
    "warnings": ["the test split is small."],
    "tokens": {"said": "Training rows have 44 tokens at the median."},
}
BIAS = {"findings": [{"kind": "label by attribute", "text": "The label `yes` is 1.9 times as frequent.", "numbers": {}}], "tests": 12}


def parts(text: str) -> dict[str, str]:
    pieces = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def test_what_is_known_is_filled_in_where_it_belongs() -> None:
    found = parts(datasheet.write(CARD, "tickets", BIAS, ["3 regions nearly empty."], {"Cleaning and labelling": {"personal data masked": 1031}}))
    assert list(found) == [*datasheet.QUESTIONS, "Review"]
    for line in (
        "- A row is a text with its label.",
        "- Rows: train 1,675, test 460, valid 263.",
        "- 2 labels; training rows of each: no 1,276, yes 399.",
        "- Characters of the training texts: 5 % have at most 39, half 193, 95 % 334; the longest 2,884.",
        "- Languages of the training texts, as a program sees them: en 97%, de 3%.",
        "- Training rows have 44 tokens at the median.",
    ):
        assert line in found["Composition"].splitlines()
    assert "- Read for test: held\\_out.csv, sha256 cd34." in found["Collection"].splitlines()
    assert "- Columns used: message as text, urgent as label." in found["Collection"].splitlines()
    cleaning = found["Cleaning and labelling"].splitlines()
    assert "- Rows left out, by reason: blank text 12, duplicate 3. All stand in data/rejected.jsonl." in cleaning
    assert "- personal data masked: 1,031" in cleaning
    uses = found["Uses"].splitlines()
    assert [line for line in uses if line.startswith("- ")] == [
        "- The test split is small.", "- 3 regions nearly empty.", "- The label \\`yes\\` is 1.9 times as frequent."]  # fmt: skip


def test_what_was_done_to_the_rows_is_said() -> None:
    card = CARD | {
        "mapped": {"together": "customer_id", "attributes": ["gender", "region"]},
        "split_by": "hash",
        "privacy": "mask",
        "personal": {"email": 31, "phone": 2, "rows": 32},
        "changed": {"html": 12},
        "origins": {"original": 1000, "augmented:typos": 675},
        "corrected": 1,
    }
    found = parts(datasheet.write(card, "tickets"))
    split = "- Sides that have no file of their own are divided by a hash; rows with one \\`customer\\_id\\` stand on one side."
    assert split in found["Composition"].splitlines()
    assert "- Kept beside the rows for audits, never read by the model: gender, region." in found["Collection"].splitlines()
    for line in (
        "- Texts changed by cleaning, by step: html 12.",
        "- Personal data, found by a program in 32 rows (email 31, phone 2): masked.",
        "- Training rows that were made from others: augmented:typos 675.",
        "- 1 row with a label that a person has corrected.",
    ):
        assert line in found["Cleaning and labelling"].splitlines()
    older = {key: value for key, value in card.items() if key not in ("mapped", "privacy")}  # of an earlier version
    assert "- Personal data, found by a program in 32 rows (email 31, phone 2).\n" in datasheet.write(older, "tickets")
    nothing = {"mapped": {}, "personal": {}, "split_by": "time"}
    assert "- A program looked for personal data and found none.\n" in datasheet.write(CARD | nothing | {"privacy": "drop"}, "t")
    unasked = datasheet.write(CARD | nothing | {"privacy": None}, "t")
    assert "- Personal data were not looked for.\n" in unasked
    assert "divided by time, the latest rows measure; no column says which rows belong together.\n" in unasked


def test_only_people_answer_questions() -> None:
    for text in (datasheet.write(CARD, "tickets", BIAS), datasheet.write({"rows": {"train": 9}}, "bare")):
        lines = text.splitlines()
        asked = [line for line in lines if line.startswith("**") and line.endswith("?**")]
        assert asked[:-1] == [f"**{one}**" for questions in datasheet.QUESTIONS.values() for one in questions]
        for at, line in enumerate(lines):
            if line in asked:
                assert lines[at + 1 : at + 3] == ["", datasheet.BLANK]
        assert text.count(datasheet.BLANK) == len(asked)
        assert all(f"{what}: ____" in text for what in ("Name", "Role", "Date", "Signature", "Conditions")) and text.count("- [ ] ") == 3


def test_what_is_unknown_is_not_made_up() -> None:
    found = parts(datasheet.write({"rows": {"train": 9}}, "bare"))
    facts = [line for text in found.values() for line in text.splitlines() if line.startswith("- ") and "[ ]" not in line]
    assert facts == ["- Rows: train 9.", "- No row was left out.", "- Bias was not looked for."]


def test_a_search_for_bias_that_found_nothing_is_said() -> None:
    assert "- 40 comparisons of label rates found no difference beyond chance." in datasheet.write(CARD, "t", {"findings": [], "tests": 40})
    assert "- No label rates could be compared." in datasheet.write(CARD, "t", {"findings": [], "tests": 0})


def test_other_kinds_of_rows() -> None:
    lengths = {"prompts": {"p5": 1, "p50": 2, "p95": 3, "most": 4}, "answers": {"p5": 5, "p50": 6, "p95": 7, "most": 8000}}
    text = datasheet.write(CARD | {"kind": "dialogue", "labels": {}, "characters": lengths}, "chats")
    assert "- A row is a dialogue.\n" in text and "labels; training" not in text
    assert "- Characters of answers: 5 % have at most 5, half 6, 95 % 7; the longest 8,000.\n" in text


def test_long_lists_are_cut_with_a_count_of_the_rest() -> None:
    labels = {f"l{i}": {"train": 100 - i} for i in range(20)}
    assert "l0 100, l1 99" in datasheet.write(CARD | {"labels": labels}, "t") and "l11 89, and 8 more." in datasheet.write(CARD | {"labels": labels}, "t")


@pytest.mark.parametrize("bad", ["# Fine\n\n## Review\n- [x] ok", "[a](javascript:x)", "<script>", "**approved**", "a\u202eb", "| x |"])
def test_no_text_of_the_user_becomes_markup(bad: str) -> None:
    card = json.loads(json.dumps(CARD).replace("duplicate", "REASON"))
    card["labels"] = {bad: {"train": 1}}
    card["files"]["train"]["name"] = bad
    card["notes"], card["warnings"], card["rejected"] = [bad], [bad], {bad: 1}
    bias = {"findings": [{"text": bad, "numbers": {}}], "tests": 1}
    text = datasheet.write(card, bad, bias, [bad], {"Uses": {bad: bad}})
    plain = datasheet.write(CARD, "tickets", BIAS, ["x"], {"Uses": {"k": "v"}})
    assert len(text.splitlines()) == len(plain.splitlines())
    assert not re.search(r"(?<!\\)<script>|(?<!\\)\[a\]|^#+ Fine|\*\*approved|\u202e|(?<!\\)\|", text, re.MULTILINE) and "[x]" not in text
