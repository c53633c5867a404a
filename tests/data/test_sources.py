"""Readers: each record with the line a person finds it on, whatever the line endings, quotes, marks and separators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data import sources

TABLE = [
    ("plain.csv", b"text,label\na,x\nb,y\n", [(2, "a", "x"), (3, "b", "y")]),
    ("noend.csv", b"text,label\na,x\nb,y", [(2, "a", "x"), (3, "b", "y")]),
    ("crlf.csv", b"text,label\r\na,x\r\nb,y\r\n", [(2, "a", "x"), (3, "b", "y")]),
    ("mac.csv", b"text,label\ra;;;,x\rb,y\r", [(2, "a;;;", "x"), (3, "b", "y")]),
    ("bom.csv", b"\xef\xbb\xbftext,label\na,x\n", [(2, "a", "x")]),
    (
        "multi.csv",
        b'text,label\n"one\ntwo\n\nfour",x\nb,y\n"c\r\nd",x\ne,y\n',
        [(2, "one\ntwo\n\nfour", "x"), (6, "b", "y"), (7, "c\r\nd", "x"), (9, "e", "y")],
    ),
    ("quotes.csv", b'text,label\n"say ""no"", then go",x\n', [(2, 'say "no", then go', "x")]),
    ("gaps.csv", b"\n\ntext,label\n\na,x\n\n\nb,y\n", [(5, "a", "x"), (8, "b", "y")]),
    ("semi.csv", b"text;label\na, b;x\n", [(2, "a, b", "x")]),
    ("pipe.csv", b"text|label\na, b|x\n", [(2, "a, b", "x")]),
    ("tabs.csv", b"text\tlabel\na, b\tx\n", [(2, "a, b", "x")]),
    ("tabs.tsv", b"text\tlabel\na;;; b\tx\n", [(2, "a;;; b", "x")]),
    ("spaced.csv", b" text , label\na ,x\n", [(2, "a ", "x")]),
    ("lines.jsonl", b'{"text": "a", "label": "x"}\n\n  \n{"label": "y", "text": "b"}', [(1, "a", "x"), (4, "b", "y")]),
    ("crlf.ndjson", b'{"text": "a", "label": "x"}\r\n{"text": "b", "label": "y"}\r\n', [(1, "a", "x"), (2, "b", "y")]),
    ("bom.jsonl", b'\xef\xbb\xbf{"text": "a\xe2\x80\xa8b", "label": "x"}\n', [(1, "a\u2028b", "x")]),
    ("array.json", b'[\n {"text": "a", "label": "x"},\n\n {"text": "b",\n  "label": "y"}\n]', [(1, "a", "x"), (2, "b", "y")]),
    ("brackets.jsonl", b'{"text": "[]", "label": "x"}\n', [(1, "[]", "x")]),
]


@pytest.mark.parametrize(("name", "content", "rows"), TABLE, ids=[case[0] for case in TABLE])
def test_records_have_their_lines(tmp_path: Path, name: str, content: bytes, rows: list[tuple[int, str, str]]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found = sources.read(path)
    assert [(line, record["text"], record["label"]) for line, record in found.records] == rows
    assert set(found.columns) == {"text", "label"} and found.bad == [] and found.source == name
    assert path.read_bytes() == content


def test_what_was_assumed_is_said(tmp_path: Path) -> None:
    for name, content, note in (
        ("a.csv", b"text;label\na;x\n", "a.csv: fields are separated by ';'"),
        ("a.json", b'[{"text": "a"}]', "a.json: one JSON array; its items are numbered from 1 where lines are named"),
    ):
        (tmp_path / name).write_bytes(content)
        assert sources.read(tmp_path / name).notes == [note]
    (tmp_path / "b.csv").write_bytes(b"text,label\na,x\n")
    assert sources.read(tmp_path / "b.csv").notes == []


def test_a_bad_line_has_its_own_number_and_the_good_keep_theirs(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text,label\n"one\ntwo",x,extra\nb\nc,y\n')
    found = sources.read(tmp_path / "a.csv")
    assert [(bad.line, bad.reason, bad.row) for bad in found.bad] == [(2, "ragged row", ["one\ntwo", "x", "extra"]), (4, "ragged row", ["b"])]
    assert found.records == [(5, {"text": "c", "label": "y"})]
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": \n\n3\n{"text": "b", "more": null}\n')
    found = sources.read(tmp_path / "a.jsonl")
    assert [(bad.line, bad.reason) for bad in found.bad] == [(2, "not JSON"), (4, "not an object")]
    assert [line for line, _ in found.records] == [1, 5] and found.columns == ["text", "more"]


def test_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "year=2024"  # looks like a partition, which must not become a column
    folder.mkdir()
    pq.write_table(
        pa.table({"text": ["a", "b"], "label": pa.array(["x", "y"]).dictionary_encode(), "n": [1, None], "tags": [["p"], []]}), folder / "_a.parquet"
    )
    found = sources.read(folder / "_a.parquet")
    assert found.columns == ["text", "label", "n", "tags"]
    assert found.records == [(1, {"text": "a", "label": "x", "n": 1, "tags": ["p"]}), (2, {"text": "b", "label": "y", "n": None, "tags": []})]
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(sources.UserError, match="column `text` occurs 2 times\n  -> rename one of them"):
        sources.read(tmp_path / "b.parquet")


def test_the_ending_is_read_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "A.CSV").write_bytes(b"text,label\na,x\n")
    assert sources.read(tmp_path / "A.CSV").records == [(2, {"text": "a", "label": "x"})]


def test_a_bound_on_lines_and_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MOST_LINE_CHARACTERS", 100)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 200}))
    bad = sources.read(tmp_path / "a.jsonl").bad[0]
    assert (bad.reason, bad.what, bad.remedy) == ("line too long", "212 characters, the limit is 100", "split the text into several rows")
    (tmp_path / "a.csv").write_text("text,label\n" + "x" * 200 + ",y\n")
    with pytest.raises(sources.UserError, match=r"a.csv:2: not CSV: field larger than field limit \(100\)"):
        sources.read(tmp_path / "a.csv")


def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(sources.UserError, match="not a plain file\n  -> copy what it yields into a file first"):
        sources.read(tmp_path / "a.csv")


KEYS = st.sampled_from(["a", "b", "c:", 'd":', "e :", "{", "[", ""])
VALUES = st.one_of(st.text("a:\"{}[ ,\\", max_size=6), st.integers(), st.none(), st.booleans(), st.lists(st.text("a:\"", max_size=3), max_size=2))
PAIRS = st.lists(st.tuples(KEYS, VALUES), max_size=4)


@settings(max_examples=400, derandomize=True)
@given(PAIRS, st.sampled_from([":", ": ", " : ", "\t:"]), st.sampled_from(["", " ", ",", "}"]))
def test_the_quick_look_at_a_line_takes_nothing_that_the_close_one_refuses(pairs: list[tuple[str, Any]], colon: str, after: str) -> None:
    """Keys given twice, colons and braces in keys and texts, other white space, and rubbish behind the object."""
    line = "{" + ", ".join(json.dumps(key) + colon + json.dumps(value) for key, value in pairs) + "}" + after
    quick = (sources.flat_objects([line]) or [None])[0]
    try:
        close = sources.STRICT.decode(line)
    except ValueError:
        close = None
    assert quick is None or quick == close
    if close is not None and colon == ": " and not after and not any(mark in key + str(value) for key, value in pairs for mark in ':{"'):
        assert quick is not None  # plain lines are not looked at twice


@pytest.mark.parametrize(
    "line", ['{"a": NaN}', '{"a": 1, "a": 2}', '{"a":1,"a" :2}', '{"a": {"b": 1}}', "[1]", "1", "", '{"a": 1} x', '{"a": "' + "[" * 2000 + '"}']
)
def test_lines_that_need_a_close_look(line: str) -> None:
    assert sources.flat_objects([line]) is None and sources.flat_objects(['{"a": 1}', line, '{"a": 1}']) is None


FRAGMENTS = ['{"a": 1}', '{"a": "x}', '{y"}', '{"b": 1},{"c": 2}', '{"a": 1', '"b": 2}', '{"a": [', "{}", '{"b": 2}]}', '{"a": "}', '{"}', '{"é": "[{"}']
FRAGMENTS += ["{", "}", ","]


@settings(max_examples=800, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=5))
def test_lines_read_at_once_are_those_read_one_by_one(lines: list[str]) -> None:
    """Objects that begin in one line and end in another, several on a line, and both so that their number is right."""
    quick = sources.flat_objects(lines)
    try:
        close = [sources.STRICT.decode(line) for line in lines]
    except ValueError:
        close = None
    assert quick is None or quick == close
    if all(line in ('{"a": 1}', "{}") for line in lines):
        assert quick == close
