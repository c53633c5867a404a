"""Every kind of file gives back what was written, in any packing; what is broken is refused in words, and never in any other way."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather

from tunesmith.core.errors import UserError
from tunesmith.data.readers import formats, stream
from tunesmith.data.readers import json as json_text
from tunesmith.data.readers.formats import BadRow
from tunesmith.data.readers.stream import Stream

Record = dict[str, Any]
few = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
many = settings(few, max_examples=40, deadline=5000)


def as_jsonl(rows: list[Record]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_table(rows: list[Record], delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_parquet(rows: list[Record]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=3)
    return out.getvalue()


def as_feather(rows: list[Record], compression: str = "lz4") -> bytes:
    out = io.BytesIO()
    feather.write_feather(pa.Table.from_pylist(rows), out, compression=compression)
    return out.getvalue()


def as_arrow(rows: list[Record], stream: bool = True) -> bytes:
    out, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)  # type: ignore[no-any-return]


FORMATS: dict[str, Callable[[list[Record]], bytes]] = {
    "a.jsonl": as_jsonl,
    "a.NDJSON": lambda rows: b"\xef\xbb\xbf" + as_jsonl(rows)[:-1],
    "a.json": lambda rows: json.dumps(rows).encode(),
    "b.json": lambda rows: json.dumps(rows, indent=2, ensure_ascii=False).encode(),
    "a.csv": as_table,
    "b.csv": lambda rows: as_table(rows, ";"),
    "a.tsv": lambda rows: as_table(rows, "\t"),
    "a.parquet": as_parquet,
    "a.feather": as_feather,
    "b.feather": lambda rows: as_feather(rows, "uncompressed"),
    "a.arrow": as_arrow,
    "b.arrow": lambda rows: as_arrow(rows, stream=False),
}
PACKED = {".gz": gzip.compress, ".zst": zstd}
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


def wrong(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(Stream(path))
    return str(caught.value)


@given(st.lists(st.tuples(texts, texts).map(lambda pair: {"text": pair[0], "label": pair[1]}), min_size=1, max_size=8))
@few
def test_what_is_written_comes_back(rows: list[Record]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, write in FORMATS.items():
            data = write(rows)
            variants = {name: data}
            if Path(name).suffix.lower() not in formats.BINARY:
                variants |= {name + ending: pack(data) for ending, pack in PACKED.items()}
                half = len(data) // 2
                variants |= {f"2{name}{ending}": pack(data[:half]) + pack(data[half:]) for ending, pack in PACKED.items()}  # of several members
            for file, content in variants.items():
                path = Path(folder, file)
                path.write_bytes(content)
                stream = Stream(path, "some/name")
                found = list(stream)
                assert [value for _, value in found] == rows, file
                assert list(stream.columns) == ["text", "label"] and stream.at == len(content)
                lines = [line for line, _ in found]
                assert lines == sorted(set(lines)) and lines[0] >= 1
                assert all(note.startswith("some/name: ") for note in stream.notes)


@given(
    st.lists(
        st.one_of(texts.map(lambda text: json.dumps({"text": text})), st.text(st.characters(codec="ascii", exclude_characters="\0\r"), max_size=9)), max_size=20
    )
)
@many
def test_in_is_records_and_bad_rows(lines: list[str]) -> None:
    content = '{"text": "first"}\n' + "".join(line.replace("\n", " ") + "\n" for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        path.write_text(content, newline="")
        found = list(Stream(path))
        assert [line for line, _ in found] == [number for number, line in enumerate(content.split("\n"), 1) if line.strip()]
        assert all(value.line == line and value.what and value.remedy for line, value in found if isinstance(value, BadRow))
        rows = [[*line.split(), "x"] for line in content.split("\n")]
        path = Path(folder, "a.csv")
        path.write_bytes(
            as_table([{"a": 1, "b": 2}]) + b"".join(",".join('"' + one.replace('"', '""') + '"' for one in row).encode() + b"\r\n" for row in rows)
        )
        assert len(list(Stream(path))) == 1 + len(rows)


# --- JSON arrays ----------------------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=3), one, max_size=3),
    max_leaves=8,
)


def items(text: str, size: int) -> tuple[list[str], str]:
    """The items of an array whose text comes in pieces of this size, and the error behind them."""
    found, pieces = [], (text[at : at + size] for at in range(0, len(text), size))
    try:
        for one in json_text.items(pieces, Path("a.json")):
            found.append(one)
    except UserError as error:
        return found, str(error)
    return found, ""


@given(st.lists(values, max_size=5), st.sampled_from([None, 0, 3]), st.integers(1, 40))
@many
def test_an_array_is_the_same_however_it_is_divided(array: list[Any], indent: int | None, size: int) -> None:
    text = " \n" + json.dumps(array, indent=indent, ensure_ascii=False) + "\n"
    found, error = items(text, size)
    assert [json.loads(one) for one in found] == array and not error
    assert items(text, 1000) == (found, "")


@given(st.text('[]{},:"\\ \n1e-.tn', max_size=25), st.integers(1, 7))
@settings(many, max_examples=300)
def test_a_broken_array_is_refused_at_the_same_place_however_it_is_divided(text: str, size: int) -> None:
    whole = "[" + text
    found, error = items(whole, 1000)
    assert items(whole, size) == (found, error)
    try:
        assert [json.loads(one) for one in found] == json.loads(whole)
        assert not error
    except ValueError:
        assert "not JSON: " in error or "ends in the middle of its rows" in error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": 1},\n {"b": ', "a.json:2: the file ends in the middle of its rows\n  -> copy the file again; it was cut off"),
        ('[{"a": 1},\n {"b": 1}', "a.json:2: the file ends in the middle of its rows\n  -> copy the file again; it was cut off"),
        ('\n\n[{"a": 1},]', "a.json:3: not JSON: Expecting value: line 3 column 11 (char 12)"),
        ('[{"a": 1}]\n{"b": 1}', "a.json:2: not JSON: Extra data: line 2 column 1 (char 11)"),
        ('[{"a": 1},\n{"b": "x\n"}]', "a.json:2: not JSON: Invalid control character at: line 2 column 9 (char 19)"),
        ('[{"a": 1},\n' + "[" * 100_000, "a.json:2: nested deeper than 32\n  -> flatten the object"),
    ],
)
def test_the_place_of_an_arrays_fault(text: str, said: str) -> None:
    for size in (1, 5, 1 << 20):
        assert items(text, size)[1].startswith(said) or (size == 1 and "nested" in said)  # one by one would take long there
        if "nested" in said:
            assert items(text, 1 << 20)[1] == said
            break


def test_an_item_of_an_array_is_checked_as_a_line_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}, {"a": 1, "a": 2}, {"a": NaN}, 3, {"a": ' + "[" * 40 + "]" * 40 + '}, {"a": "\u00e9"}]')
    found = [(line, value if isinstance(value, dict) else (value.reason, value.line)) for line, value in Stream(tmp_path / "a.json")]
    assert found == [(1, {"a": 1}), (2, ("not JSON", 2)), (3, ("not JSON", 3)), (4, ("not an object", 4)), (5, ("too deep", 5)), (6, {"a": "\u00e9"})]
    monkeypatch.setattr(formats, "MOST_LINE_CHARACTERS", 100)
    assert "a.json:1: an item of more than 100 characters\n  -> split the text" in wrong(tmp_path / "a.json", b'[{"a": "' + b"x" * (3 << 20) + b'"}]')


OBJECTS = [{"text": f"a {{ \"{i}\" ]", "n": [i], "more": {"a": None}} for i in range(40)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("key", ["data", "rows"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_rows_in_an_object_that_fills_the_file(tmp_path: Path, indent: int | None, key: str, name: str) -> None:
    path = tmp_path / name
    path.write_text(json.dumps({"version": "1.0", "n": 3, key: OBJECTS, "licence": "x", "info": {"by": ["me"]}}, indent=indent))
    stream = Stream(path)
    assert list(stream) == list(enumerate(OBJECTS, 1)) and list(stream.columns) == ["text", "n", "more"]
    assert stream.notes == [f"{name}: one JSON object that holds the rows; its items are numbered from 1 where lines are named"]


def test_an_object_with_rows_that_is_cut_off_or_holds_others_too_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    whole = json.dumps({"data": OBJECTS})
    for cut in (whole[:-1], whole[:-2], whole[:-30], whole[:200]):
        assert wrong(path, cut.encode()) == f"{path}:1: the file ends in the middle of its rows\n  -> copy the file again; it was cut off"
    two = wrong(path, json.dumps({"data": OBJECTS, "rows": OBJECTS}).encode())
    assert two == f"{path}:1: an object with several lists of rows, one of them `rows`\n  -> write each list into a file of its own"
    assert "the object that holds the rows does not end as one: line 1 column" in wrong(path, (whole + "{}").encode())


def test_lines_with_a_column_of_objects_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for items in (1, 6000):  # a line may be longer than what is looked at first
        rows = [{"data": [{"role": "user"}] * items, "n": i} for i in range(3)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert list(Stream(path)) == list(enumerate(rows, 1))
        path.write_text(json.dumps(rows[0]) + "\n\n")
        assert len(list(Stream(path))) == items


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_objects_over_several_lines_are_read_one_behind_the_other(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(one, indent=2) for one in OBJECTS))
    stream = Stream(path)
    assert list(stream) == list(enumerate(OBJECTS, 1))
    assert stream.notes == [f"{name}: JSON objects over several lines; they are numbered from 1 where lines are named"]
    path.write_text(json.dumps({"messages": [{"role": "user"}]}, indent=2))
    assert list(Stream(path)) == [(1, {"messages": [{"role": "user"}]})]
    assert "a.json" in str(path) and wrong(path, b'{\n"a": 1\n}\noops\n').startswith(f"{path}:4: not JSON: Expecting value: line 4 column 1")
    assert wrong(path, b'{\n"a": 1\n}\n{\n"b": ').startswith(f"{path}:5: the file ends in the middle of its rows\n")
    path.write_text('{"a": [\n{"a": 1}\n{"a": 2}\n')  # one line that is broken, not an object over several
    assert [(line, isinstance(value, dict)) for line, value in Stream(path)] == [(1, False), (2, True), (3, True)]


@given(st.lists(st.dictionaries(st.text(max_size=3), values, max_size=3), max_size=5), st.sampled_from([None, 0, 3]), st.integers(1, 40))
@many
def test_objects_are_the_same_however_they_are_divided(objects: list[Any], indent: int | None, size: int) -> None:
    text = " \n" + "\n".join(json.dumps(one, indent=indent, ensure_ascii=False) for one in objects) + "\n"
    pieces = iter([text[at : at + size] for at in range(0, len(text), size)])
    assert [json.loads(one) for one in json_text.items(pieces, Path("a.json"), 0)] == objects


# --- archives -------------------------------------------------------------------------------------------------------------------

ROWS = [{"text": f"text {i}", "label": "x"} for i in range(200)]


@pytest.mark.parametrize(("ending", "kind", "pack"), [(".gz", "gzip", gzip.compress), (".zst", "zstd", zstd)])
def test_archives_that_are_cut_damaged_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, kind: str, pack: Callable[[bytes], bytes]) -> None:
    path, packed = tmp_path / f"a.jsonl{ending}", pack(as_jsonl(ROWS))
    for content in (packed[:-3], packed[: len(packed) // 2], packed[:6], packed + packed[:-1]):
        assert wrong(path, content) == f"{path}: the {kind} archive is cut off\n  -> copy or download the file again"
    assert wrong(path, b"") == f"{path}: the file is empty: no records in it\n  -> give a file with rows"
    assert wrong(path, as_jsonl(ROWS)) == f"{path}: named {ending} but is not a {kind} archive\n  -> name the file by what it is"
    assert f"{path}: the {kind} archive is damaged (" in wrong(path, packed + b"rest")
    assert f"{path}: the {kind} archive is damaged (" in wrong(path, packed[:-2] + bytes([packed[-2] ^ 1]) + packed[-1:])
    assert wrong(tmp_path / f"b.csv{ending}", pack(b"PAR1rest")).startswith(f"{tmp_path / f'b.csv{ending}'}: named .csv but holds Parquet\n")
    said = wrong(tmp_path / f"b.csv{ending}", pack("text,label\na,x\ncaf\xe9,y\n".encode("latin-1")))
    assert said.split("\n")[0].endswith(f"b.csv{ending}:3: byte 0xE9 at column 4 is not UTF-8")
    assert said.endswith(f"dc b.csv{ending} | iconv -f WINDOWS-1252 -t UTF-8 > utf8.csv")
    assert wrong(tmp_path / f"b.jsonl{ending}", pack(as_table(ROWS))).endswith(f"looks like CSV, not JSON lines\n  -> name it b.csv{ending}")
    bomb = pack((json.dumps({"text": "a" * 5000}) + "\n").encode() * 200)
    path.write_bytes(bomb)
    assert len(list(Stream(path))) == 200  # small enough to be harmless
    monkeypatch.setattr(formats, "SMALL", 1 << 18)
    assert wrong(path, bomb).startswith(f"{path}: the {kind} archive unpacks to more than 200 times its size\n  -> if it is what you want, unpack it")
    assert wrong(tmp_path / "b.jsonl", packed).startswith(f"{tmp_path / 'b.jsonl'}: named .jsonl but holds a {kind} archive\n")


def test_progress_of_an_archive_is_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    rows = [{"text": str(i * 7919 % 99_991) * 3} for i in range(30_000)]
    path.write_bytes(gzip.compress(as_jsonl(rows)))
    stream, at = Stream(path), []
    for _ in stream:
        at.append(stream.at)
    assert at == sorted(at) and 0 < at[10_000] < at[20_000] <= at[-1] <= path.stat().st_size == stream.at


# --- Arrow and Parquet ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_values_become_pythons_and_one_that_cannot_spoils_its_row_alone(tmp_path: Path, name: str) -> None:
    times = pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns", "UTC"))
    table = pa.table(
        {
            "text": pa.array(["a", "b"]).dictionary_encode(),
            "when": times,
            "took": pa.array([1500, None], pa.duration("ns")),
            "at": pa.array([1500, None], pa.time64("ns")),
            "day": pa.array([0, 2**31 - 1], pa.date32()),
            "list": [["p"], []],
        }
    )
    if name == "a.parquet":
        pq.write_table(table, tmp_path / name, version="2.6")
    else:
        with pa.OSFile(str(tmp_path / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    (one, first), (two, second) = Stream(tmp_path / name, "n")
    when = datetime.datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=datetime.UTC)
    assert (one, first) == (
        1,
        {
            "text": "a",
            "when": when,
            "took": datetime.timedelta(microseconds=1),
            "at": datetime.time(0, 0, 0, 1),
            "day": datetime.date(1970, 1, 1),
            "list": ["p"],
        },
    )
    assert type(first["when"]) is datetime.datetime  # whether or not pandas is installed
    assert two == 2 and isinstance(second, BadRow) and (second.source, second.line, second.reason) == ("n", 2, "unreadable value")
    assert second.what.startswith("column `day` holds a value that cannot be read (") and second.remedy == "correct it, or write the column as text"


def test_what_is_no_arrow(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    again = "copy or export the file again"
    assert wrong(path, b"") == f"{path}: the file is empty: no records in it\n  -> give a file with rows"
    assert wrong(path, b"FEA1rest") == f"{path}: Feather of version 1\n  -> write it again: pyarrow.feather.write_feather(table, path)"
    assert wrong(path, as_parquet(ROWS)) == f"{path}: named .arrow but holds Parquet\n  -> export the rows as .arrow, or name the file by what it is"
    assert wrong(path, as_jsonl(ROWS)) == f"{path}: named .arrow but is not Arrow\n  -> name the file by what it is, or export it again"
    assert wrong(tmp_path / "a.parquet", as_arrow(ROWS, stream=False)).startswith(f"{tmp_path / 'a.parquet'}: named .parquet but holds Arrow\n")
    for content in (as_arrow(ROWS, stream=False)[:-50], as_arrow(ROWS)[:-300], as_feather(ROWS)[:300], as_arrow(ROWS).replace(b"text", b"te\xff\xff", 1)):
        said = wrong(path, content)
        assert said.startswith(f"{path}: damaged or cut off Arrow (") and said.endswith(f")\n  -> {again}") and said.count("\n") == 1
    assert wrong(path, b"ARROW1") == f"{path}: not Arrow but for its first bytes\n  -> {again}"
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, twice.schema) as writer:
        writer.write_table(twice)
    assert wrong(path, path.read_bytes()) == f"{path}: column `text` occurs 2 times\n  -> rename one of them"


def test_offsets_that_lead_out_of_a_column_are_not_followed(tmp_path: Path) -> None:
    data = bytearray(as_arrow(ROWS[:2]))
    at = data.index(b"text 0text 1") - 64 - 0
    offsets = data.index((6).to_bytes(4, "little") + (12).to_bytes(4, "little"), max(0, at - 64))
    data[offsets + 4 : offsets + 8] = (1 << 30).to_bytes(4, "little")
    assert "damaged or cut off Arrow (" in wrong(tmp_path / "a.arrow", bytes(data))


# --- any bytes ------------------------------------------------------------------------------------------------------------------

SEEDS = {name: write(ROWS[:5]) for name, write in FORMATS.items()}
SEEDS |= {"a.txt": b"one\n\ntwo\n", "a.md": b"# one\n", "a.html": b"<p>one<p>two"}
SEEDS |= {name + ending: pack(SEEDS[name]) for ending, pack in PACKED.items() for name in ("a.jsonl", "a.csv", "a.html")}


@pytest.mark.parametrize("name", SEEDS)
@given(st.data())
@many
def test_any_bytes_are_records_or_refused_in_words(name: str, data: st.DataObject) -> None:
    content = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    cut = data.draw(st.sampled_from([len(content), data.draw(st.integers(0, len(content)))]))
    other = data.draw(st.binary(max_size=60))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data.draw(st.sampled_from([bytes(content[:cut]), bytes(content), other])))
        stream = Stream(path)
        try:
            for line, value in stream:
                assert line >= 1 and (isinstance(value, dict) or (isinstance(value, BadRow) and value.what and value.remedy))
        except UserError as error:
            assert error.what and error.remedy and str(path) in error.where


LINES = ['{"a": 1}', '{"a": "\u00e9\u6771"}', "", " \t", '{"a": 2', "x" * 60, '{"a": "\r \u2028"}']


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(LINES), max_size=12), st.integers(1, 40), st.booleans())
def test_lines_are_the_same_however_the_file_is_read(lines: list[str], size: int, ended: bool) -> None:
    """Against lines one by one: numbers, ends, lengths, and of a line beyond the limit its beginning."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(("\n".join(lines) + "\n" * ended).encode())
        patch.setattr(stream, "BLOCK_CHARACTERS", size)
        patch.setattr(formats, "MOST_LINE_CHARACTERS", 50)
        if not any(line.strip() for line in lines):
            with pytest.raises(UserError, match="no records in it"):
                [line for block in Stream(path)._json_blocks() for line in block]
            return
        found = [line for block in Stream(path)._json_blocks() for line in block]
    last = len(lines) - (not ended)
    expected = [(number, line, number <= last, len(line)) for number, line in enumerate(lines, 1) if line.strip()]
    assert [(number, at_end, length) for number, _, at_end, length in found] == [(number, at_end, length) for number, _, at_end, length in expected]
    for (_, got, _, length), (_, line, _, _) in zip(found, expected, strict=True):
        assert got == line if length <= 50 else line.startswith(got[:40])


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_a_nul_has_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(stream, "BLOCK_CHARACTERS", size)
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n\n{"a": "\0"}\n')
    with pytest.raises(UserError, match=r"rows.jsonl:3: a NUL character"):
        list(Stream(tmp_path / "rows.jsonl"))
