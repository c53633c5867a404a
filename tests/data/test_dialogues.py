"""What a row of a language model can be, what is recognised, and each way in which it is wrong, with its words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from tunesmith.core.errors import Problems, UserError
from tunesmith.data import rows
from tunesmith.data.kinds import layout
from tunesmith.data.kinds.dialogue import reader
from tunesmith.data.preparation.prepare import prepare as prepare_stream
from tunesmith.data.settings import DataSettings
from tunesmith.data.texts import Row

U, A, S = ({"role": role, "content": f"some text of the {role}"} for role in ("user", "assistant", "system"))


def numbered(make: Any, count: int = 40) -> list[dict[str, Any]]:
    return [make(i) for i in range(count)]


def talk(i: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"a full answer of words {i}"}]}


def write(path: Path, data: list[Any]) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in data), "utf-8")
    return path


def prepared(path: Path, **more: Any) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """The card, and all kept rows by line."""
    settings = DataSettings(**{"train": str(path), "on_bad_row": "reject", "duplicates": {"near": None}} | more)
    folder = path.parent / "out"
    card = prepare_stream(settings, layout.infer(settings, Path(settings.train)), folder)
    assert json.loads((folder / "card.json").read_text()) == card
    kept = [row for side in card["rows"] for row in rows.read(folder / f"{side}.parquet").to_pylist()]
    assert {(row["source"], row["origin"], row["weight"]) for row in kept} == {(path.name, "original", 1.0)}
    return card, {row["line"]: row for row in kept}


FILL = "fill it in or delete the row"
ROLES = "the roles are system, user, assistant, tool"
BAD: list[tuple[str, Any, str, str, str]] = [
    # name, messages (or a whole record), reason, what, remedy
    ("null", {"messages": None}, "no messages", "column `messages` is null", FILL),
    (
        "key",
        {"message": [U, A]},
        "no messages",
        "no `messages` in this row, did you mean `message`?",
        "name the messages `messages`, as in the other rows",
    ),
    (
        "text",
        "hello",
        "messages of another type",
        "column `messages` holds text, expected a list of messages",
        'write the rows as JSON lines: {"messages": [{"role": "user", "content": "..."}, ...]}',
    ),
    ("empty", [], "empty conversation", "the list in column `messages` is empty", FILL),
    ("string", [U, "hello"], "message of another type", "message 2 is text, expected an object", "write each as {role: ..., content: ...}"),
    (
        "norole",
        [U, {"rol": "assistant", "content": "x"}],
        "no role",
        "message 2 has no `role`, did you mean `rol`?",
        "say whose it is: system, user, assistant, tool",
    ),
    (
        "numrole",
        [U, {"role": 3, "content": "x"}],
        "no role",
        "the role of message 2 is a number, expected text",
        "say whose it is: system, user, assistant, tool",
    ),
    ("role", [U, {"role": "asistant", "content": "x"}], "unknown role", "role `asistant` of message 2 is not known, did you mean `assistant`?", ROLES),
    (
        "from",
        [{"from": "humman", "value": "x"}],
        "unknown role",
        "role `humman` of message 1 is not known, did you mean `human`?",
        "the roles are human, user, gpt, chatgpt, assistant, system, tool, observation, bing, bard",
    ),
    ("nocontent", [U, {"role": "assistant", "contnet": "x"}], "no content", "message 2 (assistant) has no `content`, did you mean `contnet`?", FILL),
    ("nullcontent", [U, {"role": "assistant", "content": None}], "no content", "`content` of message 2 (assistant) is null", FILL),
    (
        "number",
        [U, {"role": "assistant", "content": 7}],
        "content of another type",
        "`content` of message 2 (assistant) is a number, expected text",
        "write it in quotes",
    ),
    (
        "parts",
        [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "x"}}]}, A],
        "content of another type",
        "`content` of message 1 (user) has a part of type `image_url`, expected text",
        "leave that part out",
    ),
    (
        "parts without",
        [{"role": "user", "content": [{"type": "text", "text": 5}]}, A],
        "content of another type",
        "`content` of message 1 (user) has a part without a type or a text",
        "leave that part out",
    ),
    (
        "words",
        [{"role": "user", "content": ["x"]}, A],
        "content of another type",
        "`content` of message 1 (user) is a list, expected text",
        "join its texts into one",
    ),
    (
        "call",
        [U, {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}],
        "tool call",
        "message 2 (assistant) calls a tool beside its text, which is not read",
        "write the call as text in its `content`",
    ),
    ("blankuser", [{"role": "user", "content": " "}, A], "no content", "message 1 (user) is blank", FILL),
    ("blank", [U, {"role": "assistant", "content": "\n"}], "blank answer", "the assistant's answer in message 2 is blank", "write it or delete the row"),
    (
        "none",
        [S, U],
        "no assistant turn",
        "no message is from the assistant: nothing to learn",
        "add the answer or delete the row",
    ),
    ("systems", [S, S, U, A], "two system messages", "message 2 is a second system message", "join the two into one"),
    ("late", [U, S, A], "late system message", "the system message is message 2, it must be the first", "move it to the front"),
    (
        "users",
        [S, U, U, A],
        "roles do not alternate",
        "messages 2 and 3 are both from the user; user and assistant must alternate",
        "join the two into one",
    ),
    (
        "answers",
        [U, A, A],
        "roles do not alternate",
        "messages 2 and 3 are both from the assistant; user and assistant must alternate",
        "join the two into one",
    ),
    (
        "half",
        [U, {"role": "assistant", "content": "half \ud83d"}],
        "broken character",
        "a text holds half of a surrogate pair",
        "repair the escape \\ud8xx in it",
    ),
    ("json", '{"messages": [', "unfinished JSON", "the last line ends in the middle of an object", "copy the file again; it was cut off"),
    ("list", "[1]", "not an object", "expected an object {...}, found a list", "write one object a line"),
    ("twice", '{"messages": [], "messages": []}', "not JSON", "key `messages` is given twice", "write each key once, and null for a missing value"),
]


@pytest.mark.parametrize(("name", "bad", "reason", "what", "remedy"), BAD, ids=[case[0] for case in BAD])
def test_a_bad_dialogue_is_said_with_its_line(tmp_path: Path, name: str, bad: Any, reason: str, what: str, remedy: str) -> None:
    raw = isinstance(bad, str) and bad != "hello"
    data = [*numbered(talk), bad if raw or isinstance(bad, dict) else {"messages": bad}]
    path = write(tmp_path / "d.jsonl", data)
    path.write_text(path.read_text().rstrip("\n"))
    before = path.read_bytes()
    card, kept = prepared(path)
    assert card["rejected"] == {reason: 1} and sorted(kept) == list(range(1, 41))
    (line,) = (tmp_path / "out" / "rejected.jsonl").read_text("utf-8").splitlines()
    found = json.loads(line)
    assert (found["file"], found["line"], found["reason"], found["what"], found["remedy"]) == ("d.jsonl", 41, reason, what, remedy)
    with pytest.raises(Problems) as caught:
        prepare_stream(DataSettings(train=str(path)), "dialogue", tmp_path / "out", None, tmp_path / "out" / "rejected.jsonl")
    place = tmp_path / "out" / "rejected.jsonl"
    end = f"1 bad row; all are in {place}. Mend them, or go on without them: data.on_bad_row=reject"
    assert str(caught.value) == f"d.jsonl:41: {what}\n  -> {remedy}\n  -> {end}"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["rejected.jsonl"] and place.read_text("utf-8").splitlines() == [line]
    assert path.read_bytes() == before


BAD_PAIRS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"prompt": "x"}, "no completion", "the completion in column `completion` is missing", FILL),
    ({"prompt": "x", "completion": " "}, "no completion", "the completion in column `completion` is blank", FILL),
    ({"prompt": None, "completion": "x"}, "no prompt", "the prompt in column `prompt` is blank", FILL),
    ({"prompt": 3, "completion": "x"}, "prompt of another type", "column `prompt` holds a number, expected text", "write it in quotes"),
    ({"prompt": [U], "completion": "x"}, "prompt of another type", "column `prompt` holds a list, expected text", "map it as data.messages"),
    ({"prompt": "x", "completion": "x \ud83d"}, "broken character", "a text holds half of a surrogate pair", "repair the escape \\ud8xx in it"),
]


@pytest.mark.parametrize(("bad", "reason", "what", "remedy"), BAD_PAIRS, ids=[case[2][:40] for case in BAD_PAIRS])
@pytest.mark.parametrize("kind", ["completion", "dialogue"])
def test_a_bad_pair(tmp_path: Path, kind: str, bad: dict[str, Any], reason: str, what: str, remedy: str) -> None:
    data = [*numbered(lambda i: {"prompt": f"go on {i}", "completion": f"and so it went {i}"}), bad]
    card, kept = prepared(write(tmp_path / "d.jsonl", data), rows=kind)
    assert card["rejected"] == {reason: 1} and len(kept) == 40
    found = json.loads((tmp_path / "out" / "rejected.jsonl").read_text("utf-8"))
    assert (found["line"], found["what"], found["remedy"]) == (41, what, remedy)


def test_a_bad_document(tmp_path: Path) -> None:
    card, kept = prepared(
        write(tmp_path / "d.jsonl", [*numbered(lambda i: {"text": f"text {i}"}), {"text": " "}, {"text": ["a"]}, {"txt": "a"}]), rows="document"
    )
    assert card["rejected"] == {"no text": 2, "text of another type": 1} and len(kept) == 40
    said = [json.loads(line)["what"] for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    missing = "the text in column `text` is missing, did you mean `txt`?"
    assert said == ["the text in column `text` is blank", "column `text` holds a list, expected text", missing]


def sharegpt(i: int) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"question {i}"}, {"from": "gpt", "value": f"a full answer of words {i}"}]
    return {"system": f"be kind {i}" if i % 2 else "", "conversations": turns}


def alpaca(i: int) -> dict[str, Any]:
    return {"instruction": f"say it {i}", "input": f"loudly {i}" if i % 2 else "", "output": f"it, in many words {i}", "text": "all of it"}


def turns(*contents: str, system: str = "") -> dict[str, Any]:
    first = [{"role": "system", "content": system}] if system else []
    return {"messages": [*first, *({"role": ["user", "assistant"][n % 2], "content": content} for n, content in enumerate(contents))]}


def pair(first: str, last: str) -> Any:
    return lambda i: {first: f"question {i}", last: f"a full answer of words {i}"}


ANSWERED: Any = lambda i: turns(f"question {i}", f"a full answer of words {i}")  # noqa: E731
LAYOUTS: list[tuple[str, Any, dict[str, Any], str, list[str], Any]] = [
    # name, record i, settings, kind, notes, row i
    ("messages", talk, {}, "dialogue", ["messages layout: role and content of each item in `messages`"], talk),
    ("mapped", lambda i: {"chat": talk(i)["messages"]}, {"messages": "chat"}, "dialogue", [], talk),
    (
        "sharegpt",
        sharegpt,
        {},
        "dialogue",
        ["ShareGPT layout: from and value of each item in `conversations`; human is the user, gpt the assistant", "column `system` becomes the system message"],
        lambda i: turns(f"question {i}", f"a full answer of words {i}", system=f"be kind {i}" if i % 2 else ""),
    ),
    (
        "alpaca",
        alpaca,
        {},
        "dialogue",
        ["alpaca layout: instruction and input become the user's message, output the answer"],
        lambda i: turns(f"say it {i}" + (f"\n\nloudly {i}" if i % 2 else ""), f"it, in many words {i}"),
    ),
    (
        "short alpaca",
        lambda i: {"instruction": f"question {i}", "output": f"a full answer of words {i}", "history": []},
        {},
        "dialogue",
        [
            "alpaca layout: instruction becomes the user's message, output the answer",
            "column `history` is not read; dialogues of several turns go into `messages`",
        ],
        ANSWERED,
    ),
    (
        "dolly",
        lambda i: {"instruction": f"say it {i}", "context": f"loudly {i}", "response": f"a full answer of words {i}", "category": "qa"},
        {},
        "dialogue",
        ["alpaca layout: instruction and context become the user's message, response the answer"],
        lambda i: turns(f"say it {i}\n\nloudly {i}", f"a full answer of words {i}"),
    ),
    (
        "alpaca as it is",
        alpaca,
        {"rows": "completion"},
        "completion",
        ["alpaca layout: instruction and input become the prompt, output the completion"],
        lambda i: {"prompt": f"say it {i}" + (f"\n\nloudly {i}" if i % 2 else ""), "completion": f"it, in many words {i}"},
    ),
    *(
        (
            first,
            pair(first, last),
            {},
            "completion",
            [f"taking column `{first}` as the prompt", f"taking column `{last}` as the completion"],
            pair("prompt", "completion"),
        )
        for first, last in (("prompt", "completion"), ("question", "answer"), ("prompt", "response"), ("input", "output"), ("Q", "A"), ("query", "answer"))
    ),
    ("named pair", pair("ask", "say"), {"prompt": "ask", "completion": "say"}, "completion", [], pair("prompt", "completion")),
    (
        "pair in turns",
        pair("prompt", "completion"),
        {"rows": "dialogue"},
        "dialogue",
        ["`prompt` becomes the user's message, `completion` the answer"],
        ANSWERED,
    ),
    (
        "OpenOrca",
        lambda i: pair("question", "response")(i) | {"system_prompt": f"be kind {i}" if i % 2 else ""},
        {},
        "dialogue",
        ["`question` becomes the user's message, `response` the answer", "column `system_prompt` becomes the system message"],
        lambda i: turns(f"question {i}", f"a full answer of words {i}", system=f"be kind {i}" if i % 2 else ""),
    ),
    (
        "context",
        lambda i: pair("question", "answer")(i) | {"context": "x"},
        {},
        "completion",
        [
            *("taking column `question` as the prompt", "taking column `answer` as the completion"),
            "column `context` is not read; put it into `question` where the completion needs it",
        ],
        pair("prompt", "completion"),
    ),
    (
        "KTO",
        lambda i: pair("prompt", "completion")(i) | {"label": i % 2 == 0},
        {},
        "completion",
        [
            *("taking column `prompt` as the prompt", "taking column `completion` as the completion"),
            "column `label` is not read; where it says which completions are good, keep these rows alone: all are learnt",
        ],
        pair("prompt", "completion"),
    ),
    (
        "chat with tools",
        lambda i: {"chat": talk(i)["messages"], "tools": []},
        {},
        "dialogue",
        ["messages layout: role and content of each item in `chat`", "column `tools` is not read; calls of tools are not learnt"],
        talk,
    ),
    (
        "other names",
        lambda i: {
            "messages": [
                {"role": "developer", "content": "be kind"},
                {"role": "human", "content": [{"type": "text", "text": f"question {i}"}, {"type": "input_text", "text": "please"}]},
                {"role": "model", "content": f"a full answer of words {i}"},
            ]
        },
        {},
        "dialogue",
        ["messages layout: role and content of each item in `messages`"],
        lambda i: turns(f"question {i}\nplease", f"a full answer of words {i}", system="be kind"),
    ),
    (
        "messages as JSON",
        lambda i: {"messages": json.dumps(talk(i)["messages"])},
        {},
        "dialogue",
        ["messages layout: role and content of each item in `messages`"],
        talk,
    ),
    (
        "HH-RLHF",
        lambda i: {name: f"\n\nHuman: question {i}\n\nAssistant: yes\n\nHuman: why?\n\nAssistant: {name} {i}" for name in ("chosen", "rejected")},
        {},
        "preference",
        [
            "preferences: `chosen` is better than `rejected`, both answer what they have in common",
            "HH-RLHF layout: each text is a dialogue, `Human:` and `Assistant:` begin its turns",
        ],
        lambda i: turns(f"question {i}", "yes", "why?") | {"chosen": f"chosen {i}", "rejected": f"rejected {i}", "margin": None},
    ),
    (
        "preferences of alpaca",
        lambda i: {"system": "be kind", "instruction": f"say it {i}", "input": f"loudly {i}" if i % 2 else "", "chosen": f"yes {i}", "rejected": f"no {i}"},
        {},
        "preference",
        ["preferences: `chosen` is better than `rejected`, both answer `instruction` and `input`", "column `system` becomes the system message"],
        lambda i: turns(f"say it {i}" + (f"\n\nloudly {i}" if i % 2 else ""), system="be kind") | {"chosen": f"yes {i}", "rejected": f"no {i}", "margin": None},
    ),
    (
        "preferences of LLaMA-Factory",
        lambda i: {
            "conversations": [{"from": "human", "value": f"question {i}"}],
            **{name: {"from": "gpt", "value": f"{name} {i}"} for name in ("chosen", "rejected")},
        },
        {},
        "preference",
        ["preferences: `chosen` is better than `rejected`, both answer `conversations`"],
        lambda i: turns(f"question {i}") | {"chosen": f"chosen {i}", "rejected": f"rejected {i}", "margin": None},
    ),
    (
        "prompts",
        lambda i: {"instruction": f"tell it {i}", "input": f"loudly {i}", "system_prompt": "be kind"},
        {"rows": "prompt"},
        "prompt",
        ["taking column `instruction` and `input` as the prompt", "column `system_prompt` becomes the system message"],
        lambda i: turns(f"tell it {i}\n\nloudly {i}", system="be kind"),
    ),
    (
        "document",
        lambda i: {"id": i, "text": f"text {i}", "url": ""},
        {},
        "document",
        ["taking column `text` of each row as a document"],
        lambda i: {"text": f"text {i}"},
    ),
    ("content", lambda i: {"Content": f"text {i}"}, {}, "document", ["taking column `Content` of each row as a document"], lambda i: {"text": f"text {i}"}),
    ("named text", lambda i: {"body": f"text {i}", "mood": "x"}, {"rows": "document", "text": "body"}, "document", [], lambda i: {"text": f"text {i}"}),
]


@pytest.mark.parametrize(("name", "record", "more", "kind", "notes", "row"), LAYOUTS, ids=[case[0] for case in LAYOUTS])
def test_layouts_are_recognised_aloud(tmp_path: Path, name: str, record: Any, more: dict[str, Any], kind: str, notes: list[str], row: Any) -> None:
    path = write(tmp_path / "x.jsonl", numbered(record))
    assert layout.infer(DataSettings(train=str(path), **more), path) == kind
    card, kept = prepared(path, **more)
    assert card["kind"] == kind and card["notes"] == [f"x.jsonl: {note}" for note in notes] and card["rejected"] == {} and card["labels"] == {}
    common = {field for field, _ in rows.COMMON}
    assert {line: {k: v for k, v in one.items() if k not in common} for line, one in kept.items()} == {i + 1: row(i) for i in range(40)}
    assert rows.read(tmp_path / "out" / "train.parquet").schema.names == rows.KINDS[kind].names


@pytest.mark.parametrize("form", ["csv", "parquet", "json"])
def test_the_same_rows_from_other_files(tmp_path: Path, form: str) -> None:
    data = numbered(pair("prompt", "completion")) if form == "csv" else numbered(talk)
    path = tmp_path / f"x.{form}"
    if form == "csv":
        path.write_text("prompt,completion\n" + "".join(f'{one["prompt"]},"{one["completion"]}"\n' for one in data))
    elif form == "json":
        path.write_text(json.dumps(data, indent=1))
    else:
        pq.write_table(pa.Table.from_pylist(data), path)
    card, kept = prepared(path)
    assert card["kind"] == ("completion" if form == "csv" else "dialogue") and len(kept) == 40
    first = kept[2 if form == "csv" else 1]
    assert {name: first[name] for name in data[0]} == data[0]
    if form == "json":
        assert card["notes"][0] == "x.json: one JSON array; its items are numbered from 1 where lines are named"


def test_answers_to_nothing_are_bad_rows() -> None:
    alone = [{"chosen": "yes", "rejected": "no"}, {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}]
    both = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    made = reader(layout.Layout("preference", "answers", chosen="chosen", rejected="rejected"), DataSettings(train="d.jsonl"))
    for one in alone:
        what = "`chosen` and `rejected` begin with nothing that both answer"
        assert made(one) == ("no prompt", what, "name the column of what they answer: data.prompt or data.messages")
    row = made(both)
    assert isinstance(row, Row) and row.values == {"messages": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c", "margin": None}


def test_messages_as_text_that_is_no_json_are_a_bad_row() -> None:
    made = reader(layout.Layout("dialogue", "messages", messages="messages"), DataSettings(train="d.csv"))
    for text in (str([U, A]), "[" * 100_000, '[{"role": "user", "role": "user"}]'):
        reason, what, remedy = made({"messages": text})[:3]
        assert reason == "messages of another type" and str(what).startswith("column `messages` holds text that is not JSON: ")
        assert remedy == "write a list of messages as JSON"


def test_what_is_labelled_stays_so(tmp_path: Path) -> None:
    def inferred(record: dict[str, Any], **more: Any) -> str:
        path = write(tmp_path / "d.jsonl", [record])
        return layout.infer(DataSettings(train=str(path), **more), path)

    assert inferred({"text": "a", "label": "b"}) == inferred({"question": "a", "answer": "b", "topic": "c"}) == "labelled"
    assert inferred({"text": "a", "label": "b", **talk(1)}) == inferred({"text": "a", "mood": "b"}) == inferred({"a": "b"}) == "labelled"
    assert inferred({"text": "a", "mood": "b"}, label="mood") == inferred({"a": 1, "b": 2}, text_pair="b") == "labelled"
    assert inferred({"title": "a", "topic": "b", **talk(1)}) == inferred({"message": [U, A]}) == inferred({"a": []}, messages="a") == "dialogue"
    assert inferred({"a": "b"}, prompt="a") == inferred({"a": "b"}, completion="a") == "completion"
    assert layout.infer(DataSettings(train=str(tmp_path / "absent.jsonl")), tmp_path / "absent.jsonl") == "labelled"
    assert layout.infer(DataSettings(train=str(tmp_path / "absent.txt")), tmp_path / "absent.txt") == "document"
    (tmp_path / "broken.jsonl").write_bytes(b"\xff\xfe\0")
    assert layout.infer(DataSettings(train=str(tmp_path / "broken.jsonl")), tmp_path / "broken.jsonl") == "labelled"


def test_missing_columns_are_named_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"message": [U, A]}])

    def said(**more: Any) -> str:
        with pytest.raises(UserError) as caught:
            prepared(path, **more)
        return str(caught.value)

    columns = "the columns are `message`; set data."
    assert (
        said() == "d.jsonl:1: no column for the messages was found among `message`, did you mean `message`?\n"
        "  -> name it: data.messages=COLUMN, or in the recipe data: {messages: COLUMN}"
    )
    assert said(messages="mesage") == f"d.jsonl:1: no column `mesage`, did you mean `message`?\n  -> {columns}messages to one of them"
    found = [
        f"d.jsonl:1: no column for the {key} was found among `message`\n  -> name it: data.{key}=COLUMN, or in the recipe data: {{{key}: COLUMN}}"
        for key in ("prompt", "completion")
    ]
    assert said(rows="completion") == "\n".join(found)
    assert said(messages="message", together="who") == f"d.jsonl:1: no column `who`\n  -> {columns}together to one of them"
    assert said(messages="message", attributes=("sex",)) == f"d.jsonl:1: no column `sex`\n  -> {columns}attributes.sex to one of them"
    write(path, [{"a": "b"}])
    naming = "name it: data.text=COLUMN, or in the recipe data: {text: COLUMN}"
    assert said(rows="document") == f"d.jsonl:1: no column for the text was found among `a`\n  -> {naming}"


def test_keys_of_two_kinds_are_refused() -> None:
    def said(**keys: Any) -> str:
        with pytest.raises(ValidationError) as caught:
            DataSettings(train="d.csv", **keys)
        return str(caught.value.errors()[0]["msg"])

    assert said(rows="dialogue", label="x") == "Value error, rows=dialogue does not go with `label`; leave one of the two out"
    assert said(label="x", messages="y") == "Value error, `label` and `messages` belong to different kinds of rows; leave one of the two out"
    assert said(text="x", completion="y") == "Value error, `text` and `completion` belong to different kinds of rows; leave one of the two out"
    with pytest.raises(UserError, match=r"recipe: `data.out_of_scope` does not go with documents\n  -> leave it out, or set data.rows to what the rows are"):
        prepare_stream(DataSettings(train="d.txt", out_of_scope="o.csv"), "document", Path("nowhere"))


TEXTS = [
    (
        "blank",
        "one\ntwo\n\n \nthree  \n\n\n  four\n",
        {1: "one\ntwo", 5: "three", 8: "  four"},
        "each block between blank lines is one document; to divide it otherwise",
    ),
    ("crlf", "one\r\ntwo\r\n\r\nthree", {1: "one\ntwo", 4: "three"}, "each block between blank lines is one document; to divide it otherwise"),
    (
        "mark",
        "\none\n\ntwo\n<|endoftext|>\n\n<|endoftext|>\nthree\n",
        {2: "one\n\ntwo", 8: "three"},
        "each part between lines of `<|endoftext|>` is one document",
    ),
    ("line", "\none\ntwo\nthree\n\n", {2: "one", 3: "two", 4: "three"}, "without blank lines each line is one document; to divide it otherwise"),
]


@pytest.mark.parametrize(("name", "content", "documents", "note"), TEXTS, ids=[case[0] for case in TEXTS])
def test_a_text_file_is_documents(tmp_path: Path, name: str, content: str, documents: dict[int, str], note: str) -> None:
    more = {"mark": "\n<|endoftext|>\n", "line": "\n"}.get(name, "\n\n")
    path = tmp_path / "b.txt"
    path.write_bytes((content.rstrip("\r\n") + more + more.join(f"more {i}" for i in range(30))).encode())
    card, kept = prepared(path)
    assert card["kind"] == "document" and card["notes"][0].startswith(f"b.txt: {note}") and len(kept) == 30 + len(documents)
    assert {line: row["text"] for line, row in kept.items() if not row["text"].startswith("more")} == documents


def test_oddities_are_counted_and_warned_of(tmp_path: Path) -> None:
    data = [{"messages": [*talk(i)["messages"], {"role": "user", "content": "and then?"}]} for i in range(30)]
    data += [{"messages": [{"role": "system", "content": " "}, *talk(i)["messages"]]} for i in range(100, 130)]
    data += [{"messages": [A, *talk(i)["messages"]]} for i in range(200, 230)]
    data += [turns(f"hello {i} <|im_end|>", "Sure!") for i in range(60)]
    data += [turns(f"why {i % 5}", f"because of the answer {i} " + "x" * (5000 if i < 12 else 0)) for i in range(50)]
    data += [{"messages": [U, A, {"role": "tool", "content": f"42 {i}"}, {"role": "tool", "content": "43"}, A]} for i in range(2)]
    card, kept = prepared(write(tmp_path / "d.jsonl", data), valid="none")
    train = [row for row in rows.read(tmp_path / "out" / "train.parquet").to_pylist()]
    assert len(kept) == len(data) and "valid" not in card["rows"] and card["rows"]["train"] == len(train)
    count = {
        "beyond": sum(row["messages"][-1]["role"] == "user" for row in train),
        "opens": sum(row["messages"][0]["role"] == "assistant" for row in train),
        "short": sum(row["messages"][-1]["content"] == "Sure!" for row in train),
        "blank": sum(101 <= row["line"] - 30 + 100 <= 130 for row in train),
        "shared": card["same_prompt"],
    }
    assert f"{count['beyond']} training rows with messages behind the assistant's last one: what follows it is not learnt." in card["warnings"]
    assert f"{count['opens']} training rows with the assistant's message first, before any of a user" in card["notes"]
    assert f"{count['blank']} training rows with a blank system message, which was left out of the row" in card["notes"]
    tests = {one["content"] for row in rows.read(tmp_path / "out" / "test.parquet").to_pylist() for one in row["messages"] if one["role"] == "user"}
    first = [next(one["content"] for one in row["messages"] if one["role"] == "user") for row in train]
    assert count["shared"] == sum(one in tests for one in first if one.startswith("why")) + sum(one == U["content"] in tests for one in first) > 0
    said = f"{count['shared']} training rows share the prompt of a test row, with another answer: map data.together to keep such rows on one side"
    assert said in card["notes"]
    share = f"{count['short'] / len(train):.0%}"
    short = "have an answer of fewer than 3 words: answers too short to learn from. Write what a good answer says, or classify with labels."
    assert f"{share} of the training rows {short}" in card["warnings"]
    assert f"{share} of the training rows end with the same answer (`Sure!`): boilerplate that the model will repeat. Keep a few." in card["warnings"]
    assert f"{count['short']} training rows with marks like <|end|> in a text: a tokenizer that has such a mark reads it as its own." in card["warnings"]
    small = f"the test split has only {card['rows']['test']} rows: intervals will be wide. Add more rows before trusting small differences."
    assert small in card["warnings"]
    assert any(text.startswith("the lengths of the answers are very unlike: ") for text in card["warnings"])
    turn_counts = sorted(len(row["messages"]) for row in train)
    assert card["turns"] == {"p50": turn_counts[len(turn_counts) // 2], "most": 5, "with_system": 0.0}
