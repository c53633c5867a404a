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

from tunesmith.data.readers import formats
from tunesmith.data.readers import json as json_text

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
    ("excel.csv", b"sep=;\r\ntext;label\r\na, b;x\r\n", [(3, "a, b", "x")]),
    ("behind.csv", b'text, label\n"a, b", "x"\nc, "d, e"\n', [(2, "a, b", "x"), (3, "c", "d, e")]),
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
    found = formats.read(path)
    assert [(line, record["text"], record["label"]) for line, record in found.records] == rows
    assert set(found.columns) == {"text", "label"} and found.bad == [] and found.source == name
    assert path.read_bytes() == content


def test_what_was_assumed_is_said(tmp_path: Path) -> None:
    for name, content, note in (
        ("a.csv", b"text;label\na;x\n", "a.csv: fields are separated by ';'"),
        ("a.json", b'[{"text": "a"}]', "a.json: one JSON array; its items are numbered from 1 where lines are named"),
    ):
        (tmp_path / name).write_bytes(content)
        assert formats.read(tmp_path / name).notes == [note]
    (tmp_path / "b.csv").write_bytes(b"text,label\na,x\n")
    assert formats.read(tmp_path / "b.csv").notes == []


def test_a_bad_line_has_its_own_number_and_the_good_keep_theirs(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text,label\n"one\ntwo",x,extra\nb\nc,y\n')
    found = formats.read(tmp_path / "a.csv")
    assert [(bad.line, bad.reason, bad.row) for bad in found.bad] == [(2, "ragged row", ["one\ntwo", "x", "extra"]), (4, "ragged row", ["b"])]
    assert found.records == [(5, {"text": "c", "label": "y"})]
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": \n\n3\n{"text": "b", "more": null}\n')
    found = formats.read(tmp_path / "a.jsonl")
    assert [(bad.line, bad.reason) for bad in found.bad] == [(2, "not JSON"), (4, "not an object")]
    assert [line for line, _ in found.records] == [1, 5] and found.columns == ["text", "more"]


def found(path: Path, content: str) -> tuple[list[tuple[int, str]], list[tuple[int, Any]]]:
    """Lines and reasons of the bad rows, and the good ones with their lines."""
    path.write_text(content, "utf-8", newline="")
    one = formats.read(path)
    return [(bad.line, bad.reason) for bad in one.bad], [(line, record["text"]) for line, record in one.records]


def test_a_misplaced_quote_spoils_its_own_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    content = 'text,label\n"one\ntwo",x\n"abc" def,x\nsay "b",x\n"c" "d",x\n"e",y\n'
    assert found(path, content) == ([(4, "misplaced quote"), (6, "misplaced quote")], [(2, "one\ntwo"), (5, 'say "b"'), (7, "e")])
    bad = formats.read(path).bad[0]
    assert (bad.what, bad.row) == ("not CSV: ',' expected after '\"'", '"abc" def,x')
    assert bad.remedy == 'write a field with quotes whole in quotes, and each quote in it twice: """No"", he said"'
    for rest in ('"he said "hi" and\nleft",x\n', '"one\ntwo" more,x\n'):  # it may go on in the next line
        with pytest.raises(formats.UserError, match=r"a\.csv:2: not CSV: ',' expected after '\"'\n  -> close the quote; write a field"):
            found(path, "text,label\n" + rest)
    with pytest.raises(formats.UserError, match=r"a\.csv:1: not CSV: "):
        found(path, '"text" x,label\na,b\n')


def test_a_quote_that_swallows_the_rows_of_a_tsv_is_said(tmp_path: Path) -> None:
    content = 'text\tlabel\na\tx\n"The film\tx\nreally was good"\ty\n"two\nlines"\ty\nb\tz\n'
    assert found(tmp_path / "a.tsv", content) == ([(3, "field over several rows")], [(2, "a"), (5, "two\nlines"), (7, "b")])
    assert formats.read(tmp_path / "a.tsv").bad[0].what == "a quote opened here is closed in line 4, in another row: there are tabs between"
    assert found(tmp_path / "b.tsv", 'text\tlabel\n"if x:\n\tgo()"\ty\nb\tz\n') == ([], [(2, "if x:\n\tgo()"), (4, "b")])  # its lines are no rows


def test_a_header_in_the_middle_comes_from_joined_files(tmp_path: Path) -> None:
    content = "text, label\na,x\ntext, label\nb,y\n\ufefftext, label\ntext,x\n"
    assert found(tmp_path / "a.csv", content) == ([(3, "header again"), (5, "header again")], [(2, "a"), (4, "b"), (6, "text")])
    assert formats.read(tmp_path / "a.csv").bad[0].error().remedy == "delete the line"
    assert found(tmp_path / "b.csv", "text\na\ntext\n") == ([], [(2, "a"), (3, "text")])  # of one column it may be a text


def test_what_divides_the_fields_is_counted_outside_of_quotes(tmp_path: Path) -> None:
    assert found(tmp_path / "a.csv", '"n, m, o, p";text;label\n1;a, b;x\n') == ([], [(2, "a, b")])
    assert found(tmp_path / "a.csv", '"a;b;c",text,label\n1,a; b,x\n') == ([], [(2, "a; b")])


def test_a_table_of_nothing_but_what_divides_it_has_no_records(tmp_path: Path) -> None:
    with pytest.raises(formats.UserError, match=r"a\.csv: no records in it"):
        found(tmp_path / "a.csv", "sep=;\n\n")


def test_columns_without_a_name_may_be_several(tmp_path: Path) -> None:
    assert found(tmp_path / "a.csv", "text,label,,\na,x,,\n") == ([], [(2, "a")])


def test_a_ragged_row_says_what_else_may_be_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n'a, b',x\nonly\n")
    one, two = formats.read(tmp_path / "a.csv").bad
    assert (one.what, one.remedy) == ("3 fields, the header has 2", "quote fields that contain ',' or line breaks, with \", for ' holds nothing together")
    assert (two.what, two.remedy) == ("1 field, the header has 2", "quote fields that contain ',' or line breaks")


def test_utf_32_is_not_taken_for_utf_16(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_bytes("text,label\na,x\n".encode("utf-32"))
        with pytest.raises(formats.UserError, match=f"encoded as UTF-32, must be UTF-8\n  -> iconv -f UTF-32 -t UTF-8 {name}"):
            formats.read(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "what", "remedy"),
    [
        ('{"text": "a"},', "not JSON at column 14: Extra data", "leave out the comma behind it"),
        ('{"text": "a"} {"text": "b"}', "not JSON at column 15: Extra data", "begin a new line there"),
        ('\ufeff{"text": "a"}', "not JSON at column 1: Expecting value", "delete the byte order mark in front of it, which comes from joining files"),
        ('{"n": ' + "9" * 5000 + "}", "a number of more than 4,300 digits", "write it in quotes"),
    ],
)
def test_a_bad_line_has_the_remedy_that_fits(tmp_path: Path, line: str, what: str, remedy: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "c"}\n' + line + '\n{"text": "d"}\n', "utf-8")
    (bad,) = formats.read(tmp_path / "a.jsonl").bad
    assert (bad.line, bad.what, bad.remedy) == (2, what, remedy)


def test_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "year=2024"  # looks like a partition, which must not become a column
    folder.mkdir()
    pq.write_table(
        pa.table({"text": ["a", "b"], "label": pa.array(["x", "y"]).dictionary_encode(), "n": [1, None], "tags": [["p"], []]}), folder / "_a.parquet"
    )
    found = formats.read(folder / "_a.parquet")
    assert found.columns == ["text", "label", "n", "tags"]
    assert found.records == [(1, {"text": "a", "label": "x", "n": 1, "tags": ["p"]}), (2, {"text": "b", "label": "y", "n": None, "tags": []})]
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(formats.UserError, match="column `text` occurs 2 times\n  -> rename one of them"):
        formats.read(tmp_path / "b.parquet")


def test_the_ending_is_read_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "A.CSV").write_bytes(b"text,label\na,x\n")
    assert formats.read(tmp_path / "A.CSV").records == [(2, {"text": "a", "label": "x"})]


def test_a_bound_on_lines_and_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MOST_LINE_CHARACTERS", 100)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 200}))
    bad = formats.read(tmp_path / "a.jsonl").bad[0]
    assert (bad.reason, bad.what, bad.remedy) == ("line too long", "212 characters, the limit is 100", "split the text into several rows")
    (tmp_path / "a.csv").write_text("text,label\n" + "x" * 200 + ",y\n")
    said = r"a.csv:2: not CSV: a field of more than 100 characters\n  -> divide the text; or close the quote in front of it"
    with pytest.raises(formats.UserError, match=said):
        formats.read(tmp_path / "a.csv")


def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(formats.UserError, match="not a plain file\n  -> copy what it yields into a file first"):
        formats.read(tmp_path / "a.csv")


KEYS = st.sampled_from(["a", "b", "c:", 'd":', "e :", "{", "[", ""])
VALUES = st.one_of(st.text("a:\"{}[ ,\\", max_size=6), st.integers(), st.none(), st.booleans(), st.lists(st.text("a:\"", max_size=3), max_size=2))
PAIRS = st.lists(st.tuples(KEYS, VALUES), max_size=4)


@settings(max_examples=400)
@given(PAIRS, st.sampled_from([":", ": ", " : ", "\t:"]), st.sampled_from(["", " ", ",", "}"]))
def test_the_quick_look_at_a_line_takes_nothing_that_the_close_one_refuses(pairs: list[tuple[str, Any]], colon: str, after: str) -> None:
    """Keys given twice, colons and braces in keys and texts, other white space, and rubbish behind the object."""
    line = "{" + ", ".join(json.dumps(key) + colon + json.dumps(value) for key, value in pairs) + "}" + after
    quick = (json_text.flat_objects([line]) or [None])[0]
    try:
        close = json_text.STRICT.decode(line)
    except ValueError:
        close = None
    assert quick is None or quick == close
    if close is not None and colon == ": " and not after and not any(mark in key + str(value) for key, value in pairs for mark in ':{"'):
        assert quick is not None  # plain lines are not looked at twice


@pytest.mark.parametrize(
    "line", ['{"a": NaN}', '{"a": 1, "a": 2}', '{"a":1,"a" :2}', '{"a": {"b": 1}}', "[1]", "1", "", '{"a": 1} x', '{"a": "' + "[" * 2000 + '"}']
)
def test_lines_that_need_a_close_look(line: str) -> None:
    assert json_text.flat_objects([line]) is None and json_text.flat_objects(['{"a": 1}', line, '{"a": 1}']) is None


FRAGMENTS = ['{"a": 1}', '{"a": "x}', '{y"}', '{"b": 1},{"c": 2}', '{"a": 1', '"b": 2}', '{"a": [', "{}", '{"b": 2}]}', '{"a": "}', '{"}', '{"é": "[{"}']
FRAGMENTS += ["{", "}", ","]


@settings(max_examples=800, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=5))
def test_lines_read_at_once_are_those_read_one_by_one(lines: list[str]) -> None:
    """Objects that begin in one line and end in another, several on a line, and both so that their number is right."""
    quick = json_text.flat_objects(lines)
    try:
        close = [json_text.STRICT.decode(line) for line in lines]
    except ValueError:
        close = None
    assert quick is None or quick == close
    if all(line in ('{"a": 1}', "{}") for line in lines):
        assert quick == close
