"""The data room as a whole: what a recipe asks for is done, counted and said, for every kind of row, and nothing is lost."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
import sqlite3
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunesmith.core.errors import Problems, UserError
from tunesmith.data import rows
from tunesmith.data.preparation import inputs
from tunesmith.data.preparation import prepare as room
from tunesmith.data.settings import DataSettings

Row = dict[str, Any]
NOTHING = room.Handed()
WORDS = [a + b for a in "ba de fi go hu ka le mi no pu ra se ti vo wu za".split() for b in "ran lop tik mes dun fal gor bix nev sut".split()]


def sentence(seed: int, words: int = 12) -> str:
    """Words drawn at random: no two sentences are near-duplicates."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def labelled(count: int, start: int = 0) -> list[Row]:
    return [{"text": sentence(start + i), "label": "xyz"[i % 3], "who": f"p{i // 2}", "when": f"2026-01-{1 + i % 28:02d}"} for i in range(count)]


def write(path: Path, data: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in data), "utf-8")
    return path


def prepare(
    folder: Path, data: list[Any] | None = None, kind: str = "labelled", handed: room.Handed = NOTHING, **more: Any
) -> tuple[Row, dict[str, list[Row]], list[Row]]:
    """The card, the rows by side, the lines of rejected.jsonl."""
    if data is not None:
        more = {"train": str(write(folder / "d.jsonl", data))} | more
    card = room.prepare(DataSettings(**more), kind, folder / "out", handed=handed)
    kept = {side: rows.read(folder / "out" / f"{side}.parquet").to_pylist() for side in card["rows"]}
    return card, kept, [json.loads(line) for line in (folder / "out" / "rejected.jsonl").read_text("utf-8").splitlines()]


def everything(folder: Path) -> bytes:
    """All bytes that a preparation left, Parquet decoded."""
    out = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.json*")))
    return out + "".join(str(rows.read(path).to_pylist()) for path in sorted(folder.glob("*.parquet"))).encode()


# --- near-duplicates ------------------------------------------------------------------------------------------------------------


def test_a_test_rows_twin_leaves_train_and_is_reported(tmp_path: Path) -> None:
    base = labelled(60)
    test = write(tmp_path / "test.jsonl", [{**row, "text": row["text"] + "!"} for row in base[:5]] + [{**base[0], "text": base[0]["text"] + "?"}])
    before = test.read_bytes()
    card, _kept, left = prepare(tmp_path, base, test=str(test), valid="none")
    assert card["rows"] == {"train": 55, "test": 6} and card["rejected"] == {"twin in test": 5} and test.read_bytes() == before
    assert {one["line"] for one in left} == {1, 2, 3, 4, 5}
    assert left[0]["what"].endswith("alike the test row at line 1 of test.jsonl") and left[0]["what"].startswith("this train row is 9")
    assert any("1 row of your own valid and test files is nearly the same as another there" in text for text in card["warnings"])


def test_near_duplicates_keep_the_first_and_can_be_kept(tmp_path: Path) -> None:
    base = labelled(40)
    data = [*base, {**base[3], "text": base[3]["text"].upper() + " ok"}]
    _card, kept, left = prepare(tmp_path, data, test="none", valid="none")
    assert (left[0]["line"], left[0]["reason"]) == (41, "near-duplicate") and left[0]["what"].endswith("alike line 4") and len(kept["train"]) == 40
    assert prepare(tmp_path, data, test="none", valid="none", duplicates={"near": None})[0]["rejected"] == {}
    assert prepare(tmp_path, data, test="none", valid="none", duplicates={"near": 0.99})[0]["rejected"] == {}


@pytest.mark.parametrize("kind", ["dialogue", "completion", "document", "preference", "prompt"])
def test_every_kind_of_row_is_cleaned_hidden_and_compared(tmp_path: Path, kind: str) -> None:
    def row(seed: int, more: str = "") -> Row:
        asked = [{"role": "user", "content": f"{sentence(seed)}{more}  "}]
        return {
            "dialogue": {"messages": [*asked, {"role": "assistant", "content": sentence(seed + 5000)}]},
            "completion": {"prompt": asked[0]["content"], "completion": sentence(seed + 5000)},
            "document": {"text": asked[0]["content"]},
            "preference": {"messages": asked, "chosen": sentence(seed + 5000), "rejected": sentence(seed + 9000)},
            "prompt": {"messages": asked},
        }[kind]

    data = [row(i, " ann@example.org" if i < 4 else "") for i in range(40)] + [row(7, " so")]
    more: dict[str, Any] = {"rows": kind, "valid": "none", "test": "none", "clean": {"whitespace": True}, "privacy": {"action": "mask"}}
    card, kept, left = prepare(tmp_path, data, kind, **more)
    assert card["kind"] == kind and card["rows"] == {"train": 40} and card["rejected"] == {"near-duplicate": 1}
    assert card["changed"] == {"whitespace": 41} and card["personal"] == {"email": 4, "rows": 4}
    stored = everything(tmp_path / "out")
    assert b"ann@example.org" not in stored and stored.count(b"[EMAIL]") >= 4
    assert not any(
        text.endswith(" ") for one in kept["train"] for text in ([m["content"] for m in one.get("messages", [])] or [one.get("text") or one["prompt"]])
    )
    assert sum(one.get("kept", False) for one in left) == 41  # as they were, without what was hidden


# --- personal data --------------------------------------------------------------------------------------------------------------

PERSON = ["ann@example.org", "DE89370400440532013000", "4111 1111 1111 1111", "+1 202-555-0156"]


@pytest.mark.parametrize("action", ["mask", "pseudonymise", "drop"])
def test_nothing_that_was_hidden_stays_in_clear(tmp_path: Path, action: str) -> None:
    data = labelled(60)
    for at, value in enumerate(PERSON):
        data[at]["text"] += f" write to {value}"
        data[at + 10]["who"] = data[at + 11]["who"] = "ann@example.org"  # a group is named by an address
    data += [{"text": "", "label": "x", "who": PERSON[0], "when": ""}, {"text": 5, "label": f"ask {PERSON[1]}", "who": "p", "when": ""}]
    path = write(tmp_path / "d.jsonl", data)
    with open(path, "a") as file:
        file.write(f'{{"text": "cut {PERSON[2]}"\n')
    more: dict[str, Any] = {"train": str(path), "together": "who", "time": "when", "on_bad_row": "reject", "privacy": {"action": action}}
    more["attributes"] = ["who"]
    card, kept, _left = prepare(tmp_path, **more)
    stored = everything(tmp_path / "out")
    assert not [value for value in PERSON if value.encode() in stored]
    assert card["personal"]["rows"] == 4 and sum(card["personal"].values()) == 8
    count = sum(card["rows"].values())
    assert (count, card["rejected"].get("personal data", 0)) == ((56, 4) if action == "drop" else (60, 0))
    sides = [{one["together"] for one in kept[side]} for side in kept]
    assert sum(map(len, sides)) == len(set().union(*sides))  # groups are still whole
    with pytest.raises(Problems) as caught:
        prepare(tmp_path, **(more | {"on_bad_row": "stop"}))
    assert not [value for value in PERSON if value in str(caught.value)]


def test_a_report_counts_and_leaves_the_texts(tmp_path: Path) -> None:
    data = labelled(30)
    data[0]["text"] += " ann@example.org"
    card, _kept, _ = prepare(tmp_path, data, privacy={"action": "report"})
    assert card["personal"] == {"email": 1, "rows": 1} and b"ann@example.org" in everything(tmp_path / "out")
    assert card["warnings"][-1].startswith("1 row with personal data (1 email), left as they are")


def test_with_a_key_the_marks_are_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = labelled(30)
    data[0]["text"] += " ann@example.org"
    monkeypatch.setenv("MARKS", "k" * 32)
    more: dict[str, Any] = {"privacy": {"action": "pseudonymise", "key": "MARKS"}}
    first, second = (prepare(tmp_path, data, **more)[1] for _ in range(2))
    assert first == second
    other = prepare(tmp_path, data, privacy={"action": "pseudonymise"})[1]
    assert first != other and {r["line"]: s for s in first for r in first[s]} == {r["line"]: s for s in other for r in other[s]}  # sides do not move


# --- cleaning -------------------------------------------------------------------------------------------------------------------


def test_cleaning_is_counted_and_can_be_taken_back(tmp_path: Path) -> None:
    data = labelled(40)
    data[0]["text"] = f"<p>{data[0]['text']}</p>"
    data[1]["text"] = data[1]["text"] + "  \n\n\n\n schÃ¶n"
    data[2]["text"] = "<script>alert(1)</script><p></p>"
    data[3]["text"] = "kurz"
    card, kept, left = prepare(tmp_path, data, clean={"html": True, "unicode": True, "whitespace": True, "least_characters": 10}, valid="none", test="none")
    found = {one["line"]: one["text"] for one in kept["train"]}
    assert found[1] == data[0]["text"][3:-4] and found[2].endswith("\n\n schön") and {3, 4}.isdisjoint(found)
    assert card["rejected"] == {"nothing left": 1, "too short": 1} and card["changed"]["html"] == 2 and card["changed"]["unicode"] == 1
    assert {one["line"]: one["row"] for one in left if one.get("kept")} == {1: [data[0]["text"]], 2: [data[1]["text"]]}
    assert sum(card["rows"].values()) + sum(card["rejected"].values()) == 40


def test_equal_texts_are_found_after_cleaning(tmp_path: Path) -> None:
    data = labelled(30)
    data.append({**data[0], "text": f"<b>{data[0]['text']}</b>"})
    assert prepare(tmp_path, data, clean={"html": True})[0]["rejected"] == {"duplicate": 1}


def test_lines_that_recur_are_found_by_themselves(tmp_path: Path) -> None:
    data = [{**row, "text": f"{row['text']}\nSent from my pocket telephone"} for row in labelled(40)]
    card, kept, _ = prepare(tmp_path, data, clean={"boilerplate": True})
    assert card["changed"] == {"boilerplate": 40} and "pocket" not in str(kept)


# --- division -------------------------------------------------------------------------------------------------------------------


def test_by_time_the_latest_rows_measure(tmp_path: Path) -> None:
    data = labelled(140)
    _, kept, _ = prepare(tmp_path, data, time="when", split_by="time", valid=0.1, test=0.2)
    times = {side: [one["time"] for one in kept[side]] for side in kept}
    assert max(times["train"]) < min(times["valid"]) <= max(times["valid"]) < min(times["test"])
    assert len(times["test"]) == 30 and len(times["valid"]) == 15  # whole days
    data[5]["when"] = "soon"
    card, kept, _ = prepare(tmp_path, data, time="when", split_by="time")
    assert "1 row without a time that can be read: they are training rows" in card["notes"] and 6 in [one["line"] for one in kept["train"]]
    with pytest.raises(UserError, match=r"no row has a time that can be read\n  -> write times as ISO 8601"):
        prepare(tmp_path, [{**row, "when": "soon"} for row in data], time="when", split_by="time")


def test_by_time_a_group_of_test_leaves_train(tmp_path: Path) -> None:
    data = [{**row, "who": "p0" if i in (0, 139) else f"q{i}", "when": str(i)} for i, row in enumerate(labelled(140))]
    card, _kept, left = prepare(tmp_path, data, time="when", together="who", split_by="time")
    assert card["rejected"] == {"its group is in test": 1} and left[0]["line"] == 1


def test_strata_are_exact_on_request(tmp_path: Path) -> None:
    data = [{"text": sentence(i), "label": "a" if i < 100 else "b" if i < 130 else "c"} for i in range(134)]
    card, kept, _ = prepare(tmp_path, data, split_by="strata", valid=0.1, test=0.2)
    assert card["labels"] == {"a": {"train": 70, "valid": 10, "test": 20}, "b": {"train": 21, "valid": 3, "test": 6}, "c": {"train": 3, "valid": 0, "test": 1}}
    shuffled = list(data)
    random.Random(1).shuffle(shuffled)
    again = prepare(tmp_path, shuffled, split_by="strata", valid=0.1, test=0.2)[1]
    assert {one["text"]: side for side in kept for one in kept[side]} == {one["text"]: side for side in again for one in again[side]}


# --- several sources ------------------------------------------------------------------------------------------------------------


def test_sources_are_mixed_with_weights(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", labelled(100)), write(tmp_path / "b.jsonl", labelled(100, 1000))
    more: dict[str, Any] = {"train": [{"source": str(first), "weight": 2.5}, {"source": str(second), "weight": 0.5}], "valid": "none", "test": 0.2}
    card, kept, left = prepare(tmp_path, **more)
    train = Counter(one["source"] for one in kept["train"])
    whole = card["rows"]["test"]
    assert 2.2 < train["a.jsonl"] / (100 - sum(one["source"] == "a.jsonl" for one in kept["test"])) < 2.8
    assert 0.3 < train["b.jsonl"] / (100 - sum(one["source"] == "b.jsonl" for one in kept["test"])) < 0.7
    assert len({one["id"] for one in kept["train"]}) == len(kept["train"]) and whole == len({one["text"] for one in kept["test"]})
    assert card["rejected"] == {"thinned": sum(one["reason"] == "thinned" for one in left)} and card["origins"]["repeated"] > 50


def test_a_folder_of_files_is_one_source(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "a.jsonl", labelled(30))
    with open(folder / "b.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label", "who", "when"])
        writer.writeheader()
        writer.writerows(labelled(30, 100))
    card, kept, _ = prepare(tmp_path, train=str(folder), valid="none", test="none")
    assert card["sources"] == {"a.jsonl": 30, "b.csv": 30} and {one["source"] for one in kept["train"]} == {"a.jsonl", "b.csv"}
    write(folder / "c.jsonl", [labelled(30)[4]])
    _, _, left = prepare(tmp_path, train=str(folder), valid="none", test="none")
    assert left[0]["what"] == "equal to line 5 of a.jsonl"


def test_broken_files_of_several_are_named_together_or_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "a.jsonl", labelled(200))
    lines = [json.dumps(row) for row in labelled(150, 1000)]
    (folder / "cut.json").write_text("[" + ",".join(lines)[:-5], "utf-8")
    (folder / "nul.jsonl").write_text("\n".join([*lines[:120], "a\0b", *lines[120:]]).replace("1000", "2000"), "utf-8")
    (folder / "empty.csv").write_bytes(b"")
    (folder / "packed.jsonl.gz").write_bytes(b"no archive")
    with pytest.raises(Problems) as caught:
        prepare(tmp_path, train=str(folder), valid="none", test="none", on_bad_row="stop")
    said = [str(one).partition("\n")[0].partition(" (")[0] for one in caught.value.errors]
    assert said[1:] == [
        "empty.csv:1: the file is empty: no records in it",
        "nul.jsonl:121: a NUL character",
        "packed.jsonl.gz:1: named .gz but is not a gzip archive",
    ]
    assert said[0] == "cut.json:1: the file ends in the middle of its rows"
    card, _, left = prepare(tmp_path, train=str(folder), valid="none", test="none", on_bad_row="reject", duplicates={"near": None})
    assert card["rejected"]["broken file"] == 4 and card["sources"]["a.jsonl"] == 200
    assert "nul.jsonl:121: a NUL character; the rows before it are taken" in card["notes"]
    assert card["sources"]["cut.json"] == 149 and "packed.jsonl.gz" not in card["sources"]  # what stands before the break is read
    assert [one["file"] for one in left if one["reason"] == "broken file"] == ["cut.json", "empty.csv", "nul.jsonl", "packed.jsonl.gz"]
    with pytest.raises(UserError, match="the file is empty"):
        prepare(tmp_path, train=str(folder / "empty.csv"), valid="none", test="none", on_bad_row="reject")


def test_a_database_is_a_source(tmp_path: Path) -> None:
    place = tmp_path / "shop.db"
    with sqlite3.connect(place) as base:
        base.execute("create table tickets (text, label)")
        base.executemany("insert into tickets values (?, ?)", [(row["text"], row["label"]) for row in labelled(40)])
    source = {"source": f"sqlite:///{place}", "query": "select text, label from tickets order by rowid"}
    inputs.forget()
    card, _, _ = prepare(tmp_path, train=[source], valid="none", test=0.2)
    assert sum(card["rows"].values()) == 40
    with pytest.raises(UserError, match=r"`query` does not go with a file"):
        prepare(tmp_path, train=[{"source": "d.jsonl", "query": "select 1"}])


# --- labels, balance, variants --------------------------------------------------------------------------------------------------


def test_corrected_labels_replace_those_given(tmp_path: Path) -> None:
    data = [{**row, "key": i} for i, row in enumerate(labelled(40))]
    fixes = tmp_path / "fixes.csv"
    fixes.write_text("id,text,label,suggested,score,correct\n0,a,x,z,0.9,+\n1,b,y,x,0.8,-\n2,c,z,x,0.7,\n99,d,x,y,0.6,y\n")
    card, kept, _left = prepare(tmp_path, data, id="key", corrections=str(fixes), valid="none", test="none")
    found = {one["id"]: one["labels"] for one in kept["train"]}
    assert found["0"] == ["z"] and "1" not in found and found["2"] == ["z"] and card["corrected"] == 2
    assert card["rejected"] == {"dropped by hand": 1} and "1 corrected row of data.corrections not found among the rows" in card["notes"]
    fixes.write_text("id,text,label,suggested,score,correct\n0,a,x,z,0.9,zz\n")
    with pytest.raises(UserError, match=r"`zz` in column `correct` is not a label of the data, did you mean `z`\?\n  -> the labels are `x`, `y`, `z`"):
        prepare(tmp_path, data, id="key", corrections=str(fixes))


@pytest.mark.parametrize(("how", "least", "most"), [("over", 60, 100), ("under", 9, 14)])
def test_train_alone_is_balanced(tmp_path: Path, how: str, least: int, most: int) -> None:
    data = [{"text": sentence(i), "label": "rare" if i % 10 == 0 else "common"} for i in range(150)]
    plain, _, _ = prepare(tmp_path, data, test=0.2)
    card, kept, _ = prepare(tmp_path, data, test=0.2, balance={"how": how})
    assert least <= card["labels"]["rare"]["train"] <= most and least <= card["labels"]["common"]["train"] <= 120
    assert all(card["labels"][label][side] == plain["labels"][label][side] for label in ("rare", "common") for side in ("valid", "test"))
    assert {one["origin"] for side in ("valid", "test") for one in kept[side]} == {"original"}
    assert sum(card["rows"].values()) - card["origins"].get("repeated", 0) + sum(card["rejected"].values()) == 150


def test_variants_are_of_train_alone_and_marked(tmp_path: Path) -> None:
    data = labelled(60)
    settings = {"steps": ["typos", "swap"], "variants": 2, "labels": ["x"]}
    card, kept, _ = prepare(tmp_path, data, augment=settings)
    made = [one for one in kept["train"] if one["origin"] != "original"]
    assert {one["origin"] for one in made} == {"augmented:typos", "augmented:swap"} and {tuple(one["labels"]) for one in made} == {("x",)}
    assert {one["origin"] for side in ("valid", "test") for one in kept[side]} == {"original"}
    assert prepare(tmp_path, data, augment=settings)[1] == kept
    texts = [one["text"] for one in kept["train"]]
    assert len(set(texts)) == len(texts)
    with pytest.raises(UserError, match=r"step `paraphrase` of `data.augment.steps` needs a model\n  -> name it in data.augment.writer"):
        prepare(tmp_path, data, augment={"steps": ["paraphrase"]})
    told: list[str] = []
    models = {"paraphrase": lambda asked: [told.append(one) or "said in quite other words" for one in asked]}
    card, kept, _ = prepare(tmp_path, data, handed=room.Handed(models=models), augment={"steps": ["paraphrase"]}, valid="none", test="none")
    assert card["origins"]["augmented:paraphrase"] == 1 and len(told) == 60  # all answers are equal: one is new


def test_rows_that_mean_the_same_are_found_by_vectors(tmp_path: Path) -> None:
    data = labelled(40)
    place = {row["text"]: at for at, row in enumerate(data)}

    def vectors(asked: Any) -> np.ndarray:
        out = np.eye(64, dtype=np.float32)[[place[text] for text in asked]]
        out[[at for at, text in enumerate(asked) if place[text] == 9]] = np.eye(64, dtype=np.float32)[3]
        return out

    card, _kept, left = prepare(tmp_path, data, handed=room.Handed(vectors=vectors), duplicates={"near": None, "meaning": 0.9}, valid="none", test="none")
    assert card["rejected"] == {"near-duplicate": 1} and left[0]["line"] == 10 and left[0]["what"] == "100% alike line 4"


# --- preferences and prompts ----------------------------------------------------------------------------------------------------

ASKED = [{"role": "user", "content": "Which is better?"}]
GOOD, WORSE = {"role": "assistant", "content": "This one."}, {"role": "assistant", "content": "That one."}


@pytest.mark.parametrize(
    ("row", "reason", "what"),
    [
        ({"prompt": "a?", "chosen": "b", "rejected": "b "}, "equal answers", "the chosen and the rejected answer are the same"),
        ({"prompt": "a?", "chosen": "", "rejected": "b"}, "no chosen", "the chosen in column `chosen` is blank"),
        (
            {"chosen": [*ASKED, GOOD], "rejected": ASKED, "prompt": ASKED},
            "no rejected answer",
            "the last message of `rejected` is from the user, expected the assistant's",
        ),
        ({"prompt": [*ASKED, GOOD], "chosen": "b", "rejected": "c"}, "nothing asked", "the last message is the assistant's, expected a user's"),
        (
            {"prompt": ASKED, "chosen": [*ASKED, GOOD, *ASKED, GOOD], "rejected": "c"},
            "answers of several messages",
            "`chosen` and `rejected` differ in more than their last answer",
        ),
        ({"prompt": "a?", "chosen": "b", "rejected": 3}, "rejected of another type", "column `rejected` holds a number, expected text"),
    ],
)
def test_a_bad_preference_is_said(tmp_path: Path, row: Row, reason: str, what: str) -> None:
    good = [{"prompt": sentence(i), "chosen": sentence(i + 100), "rejected": sentence(i + 200)} for i in range(20)]
    _, _, left = prepare(tmp_path, [*good, row], "preference", rows="preference", on_bad_row="reject", valid="none", test="none")
    assert [(one["line"], one["reason"], one["what"]) for one in left] == [(21, reason, what)]


@pytest.mark.parametrize("form", ["texts", "messages", "whole"])
def test_preferences_of_three_layouts(tmp_path: Path, form: str) -> None:
    def row(i: int) -> Row:
        asked, better, worse = (
            [{"role": "user", "content": sentence(i)}],
            {"role": "assistant", "content": sentence(i + 100)},
            {"role": "assistant", "content": sentence(i + 200)},
        )
        if form == "texts":
            return {"prompt": sentence(i), "chosen": sentence(i + 100), "rejected": sentence(i + 200), "by": 2}
        return {"chosen": [*asked, better], "rejected": [*asked, worse], "by": 2} | ({"prompt": asked} if form == "messages" else {})

    _, kept, _ = prepare(tmp_path, [row(i) for i in range(20)], "preference", valid="none", test="none", margin="by")
    one = kept["train"][0]
    assert one["messages"] == [{"role": "user", "content": sentence(0)}] and (one["chosen"], one["rejected"], one["margin"]) == (
        sentence(100),
        sentence(200),
        2.0,
    )


def test_what_needs_labels_is_refused_without_them(tmp_path: Path) -> None:
    data = [{"text": sentence(i)} for i in range(20)]
    asks: list[tuple[Row, str]] = [({"split_by": "strata"}, "split_by: strata"), ({"balance": {"how": "over"}}, "balance.how")]
    for more, key in [*asks, ({"inspect": {"labels": True}}, "inspect.labels")]:
        with pytest.raises(UserError, match=f"`data.{key}` does not go with documents, which have no labels"):
            prepare(tmp_path, data, "document", **more)


def test_a_bad_row_out_of_scope_stops_nothing(tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", [{"text": "something else"}, {"text": ""}])
    card, kept, left = prepare(tmp_path, labelled(40), out_of_scope=str(other))
    assert (
        card["rows"]["out_of_scope"] == 1
        and card["rejected"] == {"no text": 1}
        and left[0]["file"] == "other.jsonl"
        and kept["out_of_scope"][0]["labels"] == []
    )


def test_names_that_only_a_model_finds_are_hidden_everywhere(tmp_path: Path) -> None:
    data = labelled(30)
    data[0]["text"] += " says Ann"
    data[1] = {**data[1], "text": "", "who": "Ann"}

    def named(asked: Any) -> list[list[tuple[int, int, str]]]:
        return [[(at, at + 3, "name")] if (at := text.find("Ann")) >= 0 else [] for text in asked]

    settings = {"action": "mask", "names": str(tmp_path)}
    prepare(tmp_path, data, handed=room.Handed(named=named), privacy=settings, on_bad_row="reject")
    assert b"Ann" not in everything(tmp_path / "out")


def test_rows_that_only_share_a_frame_are_no_repeats(tmp_path: Path) -> None:
    frame = sentence(1, 80)
    talks = [
        {"messages": [{"role": "system", "content": frame}, {"role": "user", "content": sentence(i, 6)}, {"role": "assistant", "content": sentence(i + 99, 6)}]}
        for i in range(30)
    ]
    assert prepare(tmp_path, talks, "dialogue", valid="none", test="none")[0]["rejected"] == {}
    asked = [{"prompt": f"{frame} {i}", "completion": sentence(i, 6)} for i in range(30)]
    card, _, _ = prepare(tmp_path, asked, "completion", valid="none", test="none")
    assert card["rejected"] == {} and "with nearly the same text and another label or answer" in " ".join(card["warnings"])


def test_a_twin_with_another_label_is_kept_and_said(tmp_path: Path) -> None:
    data = labelled(40)
    data += [{**data[0], "text": data[0]["text"] + "!", "label": "y"}, {**data[1], "text": data[1]["text"] + "!"}]
    card, _, left = prepare(tmp_path, data, valid="none", test="none")
    assert card["rejected"] == {"near-duplicate": 1} and left[0]["line"] == 42
    assert "1 pair of rows with nearly the same text and another label or answer, left as they are: see whether one is wrong." in card["warnings"]
    test = write(tmp_path / "test.jsonl", data[40:])
    card, _, left = prepare(tmp_path, data[:40], test=str(test), valid="none")  # what measures has no twin in train, whatever its label
    assert card["rejected"] == {"twin in test": 2} and {one["line"] for one in left} == {1, 2}


@pytest.mark.parametrize(
    ("text", "shown"),
    [("write to ann&#64;example.org now please", {"html": True}), ("write to a\u200bnn@exam\u200bple.org now please", {"control": True})],
)
def test_what_cleaning_uncovers_is_hidden_too(tmp_path: Path, text: str, shown: dict[str, bool]) -> None:
    data = labelled(30)
    data[0]["text"] = f"<p>{text}</p>" if "html" in shown else text
    data[1]["label"] = "ask ann@example.org"
    data[2]["label"] = "ask ann@example.org"
    prepare(tmp_path, data, clean=shown, privacy={"action": "mask"})
    stored = everything(tmp_path / "out")
    assert b"ann@example.org" not in stored and b"&#64;" not in stored and "\u200b".encode() not in stored and b"[EMAIL]" in stored


def test_texts_that_masking_makes_equal_are_duplicates(tmp_path: Path) -> None:
    data = [*labelled(30), *({"text": f"please write to user{i}@example.org", "label": "x"} for i in range(5))]
    more: dict[str, Any] = {"duplicates": {"near": None}, "valid": "none", "test": "none"}
    assert prepare(tmp_path, data, privacy={"action": "mask"}, **more)[0]["rejected"] == {"duplicate": 4}
    assert prepare(tmp_path, data, privacy={"action": "pseudonymise"}, **more)[0]["rejected"] == {}


def test_the_users_data_are_not_written_over(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", labelled(30))
    before = path.read_bytes()
    with pytest.raises(UserError, match="the rows left out would be written over the data"):
        room.prepare(DataSettings(train=str(path)), "labelled", tmp_path / "out", rejected=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("when", "moment"),
    [
        ("2026-03-01", 1772323200000),
        ("20260301", 1772323200000),
        ("1772323200", 1772323200000),
        ("1772323200000", 1772323200000),
        ("1772323200000000000", 1772323200000),
        ("2026-03-01T02:00+02:00", 1772323200000),
        ("1e30", None),
        ("soon", None),
        ("nan", None),
    ],
)
def test_times_are_read_in_their_units(when: str, moment: int | None) -> None:
    from tunesmith.data.preparation.split import moment as read
    from tunesmith.data.row_index import UNTIMED

    assert read(when) == (UNTIMED if moment is None else moment)


def test_a_users_valid_file_keeps_its_rows_from_train_and_from_test(tmp_path: Path) -> None:
    data = labelled(100)
    valid = write(tmp_path / "valid.jsonl", data[:30])
    card, kept, _ = prepare(tmp_path, data, valid=str(valid), test=0.2)
    assert card["rejected"] == {"in valid too": 30} and len(kept["valid"]) == 30


def test_the_line_of_a_broken_file_is_the_one_behind_the_last_row(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "a.jsonl", labelled(60))
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in labelled(6000, 1000)).encode())
    (folder / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "c.csv").write_bytes(b"")
    card, _, left = prepare(tmp_path, train=str(folder), valid="none", test="none", on_bad_row="reject", duplicates={"near": None})
    (broken,) = (one for one in left if one["file"] == "b.jsonl.gz")
    assert broken["line"] == card["sources"]["b.jsonl.gz"] + 1 > 1000
    assert f"b.jsonl.gz:{broken['line']}: the gzip archive is cut off; the rows before it are taken" in card["notes"]
    assert "c.csv:1: the file is empty: no records in it" in card["notes"]


def test_folders_may_be_labels(tmp_path: Path) -> None:
    for i in range(40):
        place = tmp_path / "mails" / "in" / "xy"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.txt").write_text(sentence(i))
        (place / f"{i}.md").write_text(sentence(i + 100))
    card, kept, _ = prepare(tmp_path, train=str(tmp_path / "mails"), label="folder", valid="none", test="none")
    assert card["labels"].keys() == {"x", "y"} and {(one["source"].split("/")[1], *one["labels"]) for one in kept["train"]} == {("x", "x"), ("y", "y")}
    assert len(kept["train"]) == 80
    said = "mails: the documents lie in 2 folders, whose names are the column `folder`; if they are labels: data.label=folder"
    card, _, _ = prepare(tmp_path, kind="document", train=str(tmp_path / "mails"))
    assert said in card["notes"]
    card, _, _ = prepare(tmp_path, kind="document", train=str(tmp_path / "mails" / "in" / "x"))
    assert not any("folder" in note for note in card["notes"])


def test_files_named_as_other_sides_are_said(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, start in (("train", 0), ("test", 100), ("latest", 200)):
        write(tmp_path / "data" / f"{name}.jsonl", labelled(30, start))
    said = "data: `test.jsonl` is read as rows to learn from, as all here are; to keep such files apart name them: data.train=..., data.test=..."
    assert said in prepare(tmp_path, train=str(tmp_path / "data"))[0]["notes"]
    (tmp_path / "data" / "test.jsonl").rename(tmp_path / "data" / "more.jsonl")
    assert not any("to learn from" in note for note in prepare(tmp_path, train=str(tmp_path / "data"))[0]["notes"])


def test_a_message_names_the_file_with_its_folder(tmp_path: Path) -> None:
    for name in "xy":
        (tmp_path / "data" / name).mkdir(parents=True)
    write(tmp_path / "data" / "x" / "a.jsonl", labelled(30))
    write(tmp_path / "data" / "y" / "a.jsonl", [{"txt": "a", "label": "b"}])
    with pytest.raises(UserError, match=r"y/a\.jsonl:1: no column for the text was found among `txt`, `label`"):
        prepare(tmp_path, train=str(tmp_path / "data"))


def test_training_rows_that_are_all_in_test_are_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        prepare(tmp_path, labelled(30), test=str(tmp_path / "d.jsonl"), valid="none")
    what = "no row is left for train: 30 rows of it, or of the same `together` value, are also in valid or test"
    remedy = "give data.train rows of its own, or take valid and test from it: data: {valid: 0.1, test: 0.2}"
    assert str(caught.value) == f"{tmp_path / 'd.jsonl'}: {what}\n  -> {remedy}"


def test_rows_left_out_are_json_whatever_they_hold(tmp_path: Path) -> None:
    data = labelled(30)
    table = pa.table({"text": [one["text"] for one in data], "label": [float("nan"), *(float(i % 2) for i in range(29))], "n": [[float("inf")]] * 30})
    pq.write_table(table, tmp_path / "d.parquet")
    card, _, left = prepare(tmp_path, train=str(tmp_path / "d.parquet"), on_bad_row="reject")
    assert card["rejected"] == {"no label": 1} and left[0]["row"] == {"text": data[0]["text"], "label": None, "n": [None]}
    assert not {"NaN", "Infinity"} & set((tmp_path / "out" / "rejected.jsonl").read_text().replace(",", " ").replace("}", " ").split())


def test_rows_left_out_go_into_a_file_not_a_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", labelled(30))
    with pytest.raises(UserError, match=r"a folder, and the rows left out are written into a file\n  -> name the file: .*left_out\.jsonl"):
        room.prepare(DataSettings(train=str(path)), "labelled", tmp_path / "out", None, tmp_path)


@pytest.mark.parametrize("near", [0.8, None])
def test_a_text_is_the_same_however_unicode_writes_its_accents(tmp_path: Path, near: float | None) -> None:
    data = [{"text": f"tôi muốn đổi mật khẩu của tài khoản này được không {sentence(i, 4)}", "label": "xyz"[i % 3]} for i in range(40)]
    test = write(tmp_path / "test.jsonl", [{**row, "text": unicodedata.normalize("NFD", row["text"])} for row in data[:10]])
    card, _kept, _left = prepare(tmp_path, data, test=str(test), valid="none", duplicates={"near": near})
    assert card["rejected"] == {"in test too": 10}


@pytest.mark.parametrize("key", [None, "MARKS_KEY"])
def test_rows_that_pseudonyms_make_equal_are_duplicates(tmp_path: Path, key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKS_KEY", "0123456789abcdef")
    data = [{"text": f"write to jane@example.org about {sentence(i)}", "label": "xyz"[i % 3]} for i in range(40)]
    again = [{**row, "text": row["text"].replace("jane", "Jane")} for row in data[:10]]
    more: Row = {"privacy": {"action": "pseudonymise", "key": key}, "duplicates": {"near": None}, "valid": "none"}
    test = write(tmp_path / "test.jsonl", again)
    assert prepare(tmp_path, data, test=str(test), **more)[0]["rejected"] == {"in test too": 10}
    card, kept, _ = prepare(tmp_path, data + again, test=0.5, **more)
    assert card["rejected"] == {"duplicate": 10}
    sides = {one["line"]: side for side, found in kept.items() for one in found}
    _, kept, _ = prepare(tmp_path, data + again, test=0.5, **more)  # another random key moves no row
    assert {one["line"]: side for side, found in kept.items() for one in found} == sides


def test_no_variant_equals_a_pseudonymised_test_row(tmp_path: Path) -> None:
    data = [{"text": "alpha beta please write to me jane@example.org", "label": "x"}, *labelled(40)]
    test = write(tmp_path / "test.jsonl", [{"text": "beta alpha please write to me jane@example.org", "label": "x"}])
    more: Row = {"privacy": {"action": "pseudonymise"}, "duplicates": {"near": None}, "augment": {"steps": ["swap"], "variants": 20}}
    _, kept, _ = prepare(tmp_path, data, test=str(test), valid="none", **more)
    assert kept["test"][0]["text"] not in {one["text"] for one in kept["train"]} and len(kept["train"]) > 100


def test_no_id_can_be_guessed_back_to_a_hidden_label(tmp_path: Path) -> None:
    data = [{"text": sentence(i), "label": ["jane@example.org", "x"][i % 2]} for i in range(40)]
    _, kept, _ = prepare(tmp_path, data, privacy={"action": "mask"}, valid="none", test="none")
    plain = {hashlib.sha256("\x1f".join([one["text"], "", one["label"]]).encode()).hexdigest()[:16] for one in data if "@" in one["label"]}
    assert not plain & {one["id"] for one in kept["train"]} and len({one["id"] for one in kept["train"]}) == 40


@pytest.mark.parametrize("action", ["mask", "pseudonymise"])
def test_a_preference_whose_answers_hiding_makes_equal_is_left_out(tmp_path: Path, action: str) -> None:
    ask = [{"prompt": sentence(i), "chosen": sentence(100 + i), "rejected": sentence(200 + i)} for i in range(20)]
    ask += [{"prompt": sentence(50), "chosen": "ask Jane@example.org please", "rejected": "ask jane@example.org please"}]
    card, _, left = prepare(tmp_path, ask, "preference", rows="preference", privacy={"action": action}, valid="none", test="none")
    assert card["rejected"] == {"nothing left": 1} and card["rows"] == {"train": 20}
    assert left[0]["what"] == "without personal data the chosen and the rejected answer are the same" and "@" not in str(left)


def test_a_report_counts_what_stands_beside_the_texts_too(tmp_path: Path) -> None:
    data = [{**row, "who": f"p{i}@example.org"} for i, row in enumerate(labelled(40))]
    card, _, _ = prepare(tmp_path, data, together="who", privacy={"action": "report"}, valid="none", test="none")
    assert card["personal"] == {"email": 40, "rows": 40} and "40 rows with personal data (40 email)" in " ".join(card["warnings"])


def test_settings_that_do_nothing_are_said(tmp_path: Path) -> None:
    idle: Row = {"balance": {"ratio": 0.3}, "augment": {"variants": 3, "writer": "m"}, "privacy": {"countries": ["DE"]}}
    notes = prepare(tmp_path, labelled(40), **idle)[0]["notes"]
    assert "data.balance.how is not set: `data.balance.ratio` does nothing" in notes
    assert "data.augment.steps is not set: `data.augment.variants`, `data.augment.writer` do nothing" in notes
    assert "data.privacy.action is not set: `data.privacy.countries` does nothing" in notes
    notes = prepare(tmp_path, labelled(40), augment={"steps": ["typos"], "masked": "m", "fewer_than": 1})[0]["notes"]
    assert "data.augment.steps has no `replace`: data.augment.masked does nothing" in notes
    assert any(text.startswith("data.augment made no variant") for text in notes)
    assert not any("nothing" in text for text in prepare(tmp_path, labelled(40), augment={"steps": ["typos"]})[0]["notes"])


def test_labels_that_differ_only_in_writing_are_said(tmp_path: Path) -> None:
    data = [{"text": sentence(i), "label": ["Bill ing", "billing", "Übung", "U\u0308bung", "a_b", "a b", "c", "c+"][i % 8]} for i in range(80)]
    said = [text for text in prepare(tmp_path, data)[0]["warnings"] if "differ only" in text]
    how = " differ only in case, spaces, hyphens, underscores or how Unicode writes a letter: write them alike if they are one."
    pairs = [text.removesuffix(how) for text in said]
    assert pairs == ["the labels `Bill ing`, `billing`", "the labels `U\u0308bung`, `Übung`", "the labels `a b`, `a_b`"]


def test_labels_that_look_like_missing_ones_are_said(tmp_path: Path) -> None:
    data = [{"text": sentence(i), "label": ["a", "NaN", "banana"][i % 3]} for i in range(60)]
    said = [text for text in prepare(tmp_path, data)[0]["warnings"] if "missing" in text]
    assert said == ["the label `NaN` is learnt as any other: leave such rows out if it stands for a missing one."]


@pytest.mark.parametrize(
    ("more", "remedy"),
    [
        ({"split_by": "time", "time": "same"}, "add rows, lower data.valid and data.test, or give data.time more precisely: rows of one moment"),
        ({"split_by": "strata", "label": "own"}, "add rows, or enlarge data.test: no label has enough of them for its share"),
    ],
)
def test_an_empty_side_is_explained_by_how_rows_are_divided(tmp_path: Path, more: Row, remedy: str) -> None:
    data = [{**row, "same": "2026-01-01", "own": f"l{i // 2}"} for i, row in enumerate(labelled(40))]
    with pytest.raises(UserError) as caught:
        prepare(tmp_path, data, **more)
    assert caught.value.remedy.startswith(remedy)


def test_no_label_is_a_label_in_words(tmp_path: Path) -> None:
    data = [{"text": sentence(i), "label": [["a"], ["b"], []][i % 3]} for i in range(30)] + [{"text": sentence(2), "label": ["a"]}]
    _, _, left = prepare(tmp_path, data, multi_label=True, valid="none", test="none")
    assert {one["what"] for one in left} == {"the same text is also labelled with nothing", "the same text is also labelled `a`"}


def test_corrections_without_a_word_are_said(tmp_path: Path) -> None:
    fixes = tmp_path / "fixes.csv"
    fixes.write_text("id,text,label,suggested,score,correct\n0,a,x,z,0.9,\n")
    notes = prepare(tmp_path, [{**row, "key": i} for i, row in enumerate(labelled(40))], id="key", corrections=str(fixes))[0]["notes"]
    assert f"nothing stands in column `correct` of {fixes}: no label is corrected" in notes


def test_dialogues_that_begin_like_a_test_row_are_said(tmp_path: Path) -> None:
    def turns(i: int, count: int) -> list[Row]:
        return [{"role": role, "content": sentence(j + 10 * i + k)} for k in range(count) for role, j in (("user", 0), ("assistant", 5000))]

    data = [{"messages": turns(i, count), "talk": i} for i in range(40) for count in (1, 2, 3)]
    card, kept, _ = prepare(tmp_path, data, "dialogue", rows="dialogue", valid="none")
    openings = {str(one["messages"][:2]) for one in kept["test"]}
    count = sum(str(one["messages"][:2]) in openings for one in kept["train"])
    assert f"{count} training rows begin with the question and the answer of a test row" in " ".join(card["warnings"]) and count > 20
    assert card["same_prompt"] == 0 and not any("with another answer" in text for text in card["notes"])
    card, _, _ = prepare(tmp_path, data, "dialogue", rows="dialogue", valid="none", together="talk")
    assert not any("begin with" in text for text in card["warnings"])


def test_an_error_names_no_hidden_value(tmp_path: Path) -> None:
    path = tmp_path / "headless.csv"
    path.write_text("".join(f"jane@example.org,{sentence(i)},red\n" for i in range(20)))
    with pytest.raises(Problems) as caught:
        prepare(tmp_path, train=str(path), privacy={"action": "mask"})
    assert "among `[EMAIL]`, " in str(caught.value) and "jane" not in str(caught.value) and "headless.csv:1: " in str(caught.value)


def test_a_row_whose_id_is_hidden_can_be_corrected_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKS_KEY", "0123456789abcdef")
    data = [{"text": f"{sentence(i)} jane@example.org", "label": "xyz"[i % 3], "key": f"p{i}@example.org"} for i in range(40)]
    fixes = tmp_path / "fixes.csv"
    for name in ("key", None):
        more: Row = {"id": name, "valid": "none", "test": "none", "privacy": {"action": "mask", "key": "MARKS_KEY"}}
        first = prepare(tmp_path, data, **more)[1]["train"][0]
        fixes.write_text(f"id,suggested,correct\n{first['id']},z,+\n")
        card, kept, _ = prepare(tmp_path, data, corrections=str(fixes), **more)
        assert card["corrected"] == 1 and kept["train"][0]["labels"] == ["z"] != first["labels"]
        with pytest.raises(UserError, match=r"none of its 1 id is in the data\n.*; an id in which something was hidden is another in each preparation"):
            prepare(tmp_path, data, corrections=str(fixes), **more | {"privacy": {"action": "mask"}})
