"""What a user sees through `tunesmith check` of forty malformed files and of twelve odd ones, and that none of them is touched.

The list is the one that other tools were measured by: eighteen of the forty pass the most used loader in silence.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunesmith.core.files import sha256_file
from tunesmith.data.readers import json as json_text

Cli = Callable[..., tuple[int, str, str]]
GOOD = [
    {"id": f"r{i}", "messages": [{"role": "user", "content": f"What is {i} and {i}?"}, {"role": "assistant", "content": f"It is {2 * i}."}]} for i in range(20)
]
"""Twenty dialogues that nothing is wrong with."""
TEXTS = [{"text": f"{noun} number {i}", "label": label} for i in range(10) for noun, label in (("apple", "red"), ("leaf", "green"))]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def at_11(line: str | bytes) -> bytes:
    """A file whose eleventh line is this one, between good ones."""
    return lines(GOOD[:10]) + (line if isinstance(line, bytes) else line.encode()) + b"\n" + lines(GOOD[10:])


def saying(*messages: tuple[str, Any], **more: Any) -> str:
    return json.dumps({"id": "x", "messages": [{"role": role, "content": content} for role, content in messages], **more})


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def check(cli_: Cli, path: Path, rows: str = "dialogue", folder: Path | None = None, **more: Any) -> tuple[int, str, str]:
    recipe = (folder or path.parent) / "r.yaml"
    objective = {"objective": "sft", "model": "starter/scribe", "method": "full", "evaluate": {"general": None}} if rows == "dialogue" else {"method": "full"}
    recipe.write_text(json.dumps({"data": {"train": str(path), "rows": rows, **more}, "model": "starter/minilm", **objective}))
    return cli_("check", recipe)


QUESTION, ANSWER = ("user", "Is it?"), ("assistant", "It is so.")
CSV = b"text,label\na rose,red\n"
REFUSED: list[tuple[str, str, bytes, int | None, tuple[str, ...], str]] = [
    # number and what it is, name, bytes, line (None: the file), words that must be said, words of the remedy
    ("1 empty", "d.jsonl", b"", None, ("the file is empty", "no records"), "give a file with rows"),
    ("2 only newlines", "d.jsonl", b"\n" * 5, None, ("only blank lines", "no records"), "give a file with rows"),
    ("3 truncated last line", "d.jsonl", lines(GOOD) + b'{"id": "x", "messages": [{"ro', 21, ("the last line ends in the middle",), "cut off"),
    ("4 bad JSON", "d.jsonl", at_11('{"messages": [}'), 11, ("not JSON at column 15",), "check commas and quotes there"),
    ("5 trailing comma", "d.jsonl", at_11(saying(QUESTION, ANSWER)[:-1] + ",}"), 11, ("not JSON at column ",), "check commas and quotes there"),
    ("6 single quotes", "d.jsonl", at_11("{'messages': []}"), 11, ("not JSON at column 2",), "use double quotes"),
    ("7 NaN", "d.jsonl", at_11(saying(QUESTION, ANSWER, score=float("nan"))), 11, ("NaN is not JSON",), "null for a missing value"),
    ("8 a list", "d.jsonl", at_11("[1, 2]"), 11, ("expected an object", "found a list"), "write one object a line"),
    ("9 a string", "d.jsonl", at_11('"hello"'), 11, ("expected an object", "found text"), "write one object a line"),
    ("10 null", "d.jsonl", at_11("null"), 11, ("expected an object", "found null"), "write one object a line"),
    (
        "12 UTF-16",
        "d.jsonl",
        lines(GOOD).decode().encode("utf-16"),
        None,
        ("encoded as UTF-16, must be UTF-8",),
        "iconv -f UTF-16 -t UTF-8 d.jsonl > utf8.jsonl",
    ),
    ("13 latin-1 byte", "d.jsonl", at_11('{"a": "caf\xe9"}'.encode("latin-1")), 11, ("byte 0xE9 at column 11 is not UTF-8",), "iconv -f WINDOWS-1252"),
    ("14 NUL byte", "d.jsonl", at_11('{"a": "\0"}'), 11, ("a NUL character",), "export the file again"),
    ("15 lone surrogate", "d.jsonl", at_11(saying(QUESTION, ("assistant", "half \ud83d"))), 11, ("half of a surrogate pair",), "repair the escape"),
    ("16 asistant", "d.jsonl", at_11(saying(QUESTION, ("asistant", "Yes."))), 11, ("`asistant` of message 2", "did you mean `assistant`?"), "the roles are"),
    ("17 null answer", "d.jsonl", at_11(saying(QUESTION, ("assistant", None))), 11, ("message 2 (assistant) is null",), "fill it in or delete the row"),
    ("18 number", "d.jsonl", at_11(saying(QUESTION, ("assistant", 7))), 11, ("message 2 (assistant) is a number, expected text",), "write it in quotes"),
    ("19 empty list", "d.jsonl", at_11(saying()), 11, ("the list in column `messages` is empty",), "fill it in or delete the row"),
    ("20 no assistant", "d.jsonl", at_11(saying(QUESTION)), 11, ("no message is from the assistant: nothing to learn",), "add the answer"),
    ("21 two user turns", "d.jsonl", at_11(saying(QUESTION, QUESTION, ANSWER)), 11, ("messages 1 and 2 are both from the user", "must alternate"), "join"),
    (
        "22 key message",
        "d.jsonl",
        at_11('{"id": "x", "message": []}'),
        11,
        ("no `messages` in this row, did you mean `message`?",),
        "name the messages `messages`",
    ),
    ("23 no role", "d.jsonl", at_11('{"messages": [{"content": "a"}]}'), 11, ("message 1 has no `role`",), "say whose it is: system, user, assistant, tool"),
    ("24 blank answer", "d.jsonl", at_11(saying(QUESTION, ("assistant", " "))), 11, ("the assistant's answer in message 2 is blank",), "write it or delete"),
    ("25 key twice", "d.jsonl", at_11('{"id": "a", "id": "b", "messages": []}'), 11, ("key `id` is given twice",), "write each key once"),
    ("28 deep nesting", "d.jsonl", at_11('{"a": ' + "[" * 2000 + "]" * 2000 + "}"), 11, ("nested deeper than 32",), "flatten the object"),
    ("29 a line of 12 MB", "d.jsonl", at_11(saying(QUESTION, ("assistant", "x" * 12_000_000))), 11, ("characters, the limit is 10,000,000",), "split the text"),
    ("31 CSV as JSON lines", "d.jsonl", CSV, None, ("looks like CSV, not JSON lines",), "name it d.csv"),
    (
        "32 HTML error page",
        "d.jsonl",
        b"<!DOCTYPE html><html><body>404</body></html>",
        None,
        ("looks like an HTML page, perhaps a saved error page",),
        "download",
    ),
    (
        "33 git-lfs pointer",
        "d.jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        None,
        ("a git-lfs pointer, not the data",),
        "run `git lfs pull`",
    ),
    ("34 truncated gzip", "d.jsonl.gz", gzip.compress(lines(GOOD))[:-20], None, ("the gzip archive is cut off",), "copy or download the file again"),
    ("35 ragged row", "d.csv", CSV + b"a,b,c,d\n", 3, ("4 fields, the header has 2",), "quote fields that contain ','"),
    (
        "36 unclosed quote",
        "d.csv",
        b'text,label\n"a rose,red\nleaf,green\n',
        2,
        ("a quote opened in the row that starts at line 2 is never closed",),
        "close the quote",
    ),
    ("37 header twice", "d.csv", b"text,text\na,b\n", 1, ("column `text` occurs 2 times in the header",), "rename one of them"),
    ("38 truncated Parquet", "d.parquet", as_parquet(GOOD)[:-30], None, ("damaged or cut off Parquet", "footer"), "copy or export the file again"),
    ("39 Parquet's first bytes", "d.parquet", b"PAR1", None, ("not Parquet but for its first bytes",), "copy or export the file again"),
]
OF_THE_FILE = [case for case in REFUSED if case[3] is None] + [case for case in REFUSED if case[0].split()[0] in ("3", "4", "13", "14", "25", "28")]


def refused(cli_: Cli, tmp_path: Path, kind: str, name: str, content: bytes, line: int | None, said: tuple[str, ...], remedy: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    before = sha256_file(path)
    code, out, err = check(cli_, path, kind)
    assert (code, out) == (2, "")
    first, then = err.split("\n  -> ", 1)
    place = f"{name}:{line}: " if line else f"{path}: "
    assert first.startswith("error: ") and place in first and first.count("\n") == 0
    assert all(words in first for words in said), first
    assert remedy in then.split("\n")[0], then
    assert sha256_file(path) == before and {one.name for one in tmp_path.iterdir()} == {name, "r.yaml"}


@pytest.mark.parametrize(("name", "content", "line", "said", "remedy"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_malformed_dialogues(cli_: Cli, tmp_path: Path, name: str, content: bytes, line: int | None, said: tuple[str, ...], remedy: str) -> None:
    refused(cli_, tmp_path, "labelled" if name.endswith(".csv") else "dialogue", name, content, line, said, remedy)


@pytest.mark.parametrize(("name", "content", "line", "said", "remedy"), [case[1:] for case in OF_THE_FILE], ids=[case[0] for case in OF_THE_FILE])
def test_what_is_wrong_with_the_file_is_the_same_for_labelled_rows(
    cli_: Cli, tmp_path: Path, name: str, content: bytes, line: int | None, said: tuple[str, ...], remedy: str
) -> None:
    texts = content
    for dialogue, row in zip(lines(GOOD).splitlines(), lines(TEXTS).splitlines(), strict=True):
        texts = texts.replace(dialogue, row)
    refused(cli_, tmp_path, "labelled", name, texts, line, said, remedy)


def test_40_a_missing_file_is_named_with_the_nearest(cli_: Cli, tmp_path: Path) -> None:
    (tmp_path / "dialogues.jsonl").write_bytes(lines(GOOD))
    for kind in ("dialogue", "labelled"):
        code, _, err = check(cli_, tmp_path / "dialogue.jsonl", kind)
        assert code == 2 and err.startswith(f"error: {tmp_path / 'dialogue.jsonl'}: no such file, did you mean `dialogues.jsonl`?\n  -> check the path")


def test_all_bad_lines_are_collected(cli_: Cli, tmp_path: Path) -> None:
    wrong = [content.split(b"\n")[10] for _, _, content, line, _, _ in REFUSED if line == 11 and b"\xe9" not in content and b"\0" not in content]
    (tmp_path / "d.jsonl").write_bytes(lines(GOOD) + b"\n".join(wrong) + b"\n")
    code, _, err = check(cli_, tmp_path / "d.jsonl")
    assert code == 2 and len(wrong) == 20
    assert [f"d.jsonl:{21 + i}: " in err for i in range(len(wrong))] == [True] * len(wrong)
    assert err.endswith(f"  -> {len(wrong)} bad rows. Mend them, or go on without them: data.on_bad_row=reject\n")
    code, out, _ = check(cli_, tmp_path / "d.jsonl", on_bad_row="reject")
    assert code == 0 and "20 rows left out" in out


ACCEPTED = [
    ("11 byte order mark", b"\xef\xbb\xbf" + lines(GOOD), {}, "d.jsonl: it begins with a byte order mark, which is no part of its text"),
    ("30 JSON array", json.dumps(GOOD).encode(), {}, "d.jsonl: one JSON array; its items are numbered from 1 where lines are named"),
    ("26 a new column at line 11", at_11(saying(QUESTION, ANSWER, score=1)), {}, ""),
    ("27 an id whose type changes", at_11(saying(QUESTION, ANSWER, id=11).replace('"id": "x", ', "")), {"id": "id"}, ""),
]


@pytest.mark.parametrize(("content", "more", "note"), [case[1:] for case in ACCEPTED], ids=[case[0] for case in ACCEPTED])
def test_what_is_accepted_is_said(cli_: Cli, tmp_path: Path, content: bytes, more: dict[str, Any], note: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    before = sha256_file(path)
    code, out, err = check(cli_, path, **more)
    assert (code, err) == (0, "") and "; 0 rows left out\n" in out
    assert note in out and out.count(note) == 1 if note else "number" not in out
    assert sha256_file(path) == before


# --- twelve odd files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dialogue", "labelled"])
@pytest.mark.parametrize("name", ["d.jsonl", "d.parquet"])
def test_a_pickle_is_never_opened(cli_: Cli, tmp_path: Path, name: str, kind: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "trap"),)

    refused(cli_, tmp_path, kind, name, pickle.dumps(Trap(), 4), None, (f"named {Path(name).suffix} but holds a pickle",), "export the rows as")


def test_links_pipes_folders_and_devices(cli_: Cli, tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(lines(GOOD))
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "rows")
    assert check(cli_, tmp_path / "link.jsonl")[0] == 0  # what a link leads to is read
    (tmp_path / "nowhere.jsonl").symlink_to(tmp_path / "gone")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, said, remedy in (
        ("nowhere.jsonl", "a link to something that is not there", "check the path"),
        ("zero.jsonl", "not a plain file", "copy what it yields into a file first"),
        ("pipe.jsonl", "not a plain file", "copy what it yields into a file first"),
        ("folder.jsonl", "read as rows", "ending in .csv"),
    ):
        for kind in ("dialogue", "labelled"):
            code, _, err = check(cli_, tmp_path / name, kind)
            assert code == 2 and err.startswith(f"error: {tmp_path / name}: ") and said in err and remedy in err
    code, _, err = check(cli_, Path("/dev/zero"), folder=tmp_path)
    assert code == 2 and "/dev/zero: not a plain file" in err


@pytest.mark.parametrize(("kind", "rows"), [("dialogue", GOOD), ("labelled", TEXTS)])
def test_a_file_that_grows_while_it_is_read(cli_: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, rows: list[dict[str, Any]]) -> None:
    path, real = tmp_path / "d.jsonl", json_text.flat_objects
    path.write_bytes(lines(rows))

    def growing(lines: list[str]) -> Any:
        with path.open("a") as file:
            file.write("\n")
        return real(lines)

    monkeypatch.setattr(json_text, "flat_objects", growing)
    code, _, err = check(cli_, path, kind)
    assert code == 2 and err == f"error: {path}: it was changed while it was read\n  -> wait until it is written, then give the same command again\n"


@pytest.mark.parametrize(("kind", "rows"), [("dialogue", GOOD), ("labelled", TEXTS)])
def test_rows_that_are_all_equal(cli_: Cli, tmp_path: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "d.jsonl").write_bytes(lines([rows[0], rows[0]] * 10))
    code, _, err = check(cli_, tmp_path / "d.jsonl", kind)
    assert code == 2 and f"error: {tmp_path / 'd.jsonl'}: 1 usable row (19 duplicates left out); at least 8 are needed" in err


@pytest.mark.parametrize(("kind", "rows"), [("dialogue", GOOD), ("labelled", TEXTS)])
def test_rows_that_are_all_equal_are_said_to_be(cli_: Cli, tmp_path: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "d.jsonl").write_bytes(lines([rows[0], rows[0]] * 10))
    assert "19" in check(cli_, tmp_path / "d.jsonl", kind)[2] and "duplicate" in check(cli_, tmp_path / "d.jsonl", kind)[2]


def test_long_rows_and_marks_are_warned_of(cli_: Cli, tmp_path: Path) -> None:
    long = json.loads(saying(("user", "Tell me all."), ("assistant", "It goes on and on. " * 2000)))
    marks = json.loads(saying(("user", "What does <|im_end|> mean?"), ANSWER))
    (tmp_path / "d.jsonl").write_bytes(lines([*GOOD, long, {**marks, "id": "y"}]))
    code, out, _ = check(cli_, tmp_path / "d.jsonl", valid="none", test="none")
    assert code == 0 and " cuts " in out and "To lose less: " in out
    assert "1 training row with marks like <|end|> in a text: a tokenizer that has such a mark reads it as its own." in out


def test_a_leak_from_train_to_test(cli_: Cli, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(lines(GOOD[15:]))
    (tmp_path / "d.jsonl").write_bytes(lines(GOOD))
    code, out, _ = check(cli_, tmp_path / "d.jsonl", valid="none", test=str(tmp_path / "t.jsonl"))
    assert code == 0 and out.startswith("dialogues: 15 train, 5 test; 5 rows left out\n  left out, in test too: 5\n")
