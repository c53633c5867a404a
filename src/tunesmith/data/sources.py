"""Files in, records out: CSV, JSON lines and Parquet, each record with its line, each unreadable line with a reason."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tunesmith.errors import UserError
from tunesmith.files import as_user_error

Reader = TypeVar("Reader", bound=Callable[..., Any])

MOST_LINE_CHARACTERS = 10_000_000
DISGUISES = {
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive or Excel file",
    b"%PDF": "a PDF",
    b"PAR1": "Parquet",
    **{bytes([0x80, protocol]): "a pickle" for protocol in (2, 3, 4, 5)},
}
"""First bytes of what is often found under the name of a text file."""
DEEPEST_JSON = 32


@dataclass(frozen=True)
class BadRow:
    """A record that cannot be used, and why.

    Attributes: source (file name), line (1-based), reason (a short key to count by), what (found and rule), remedy, row (as read).
    """

    source: str
    line: int
    reason: str
    what: str
    remedy: str
    row: Any = None

    def error(self) -> UserError:
        """The same as an error for the user."""
        return UserError(self.what, f"{self.source}:{self.line}", self.remedy)


@dataclass
class Records:
    """What a file holds: column names, records as (line, values), the bad ones, remarks to say aloud, and what divides its fields."""

    source: str
    columns: list[str]
    records: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    delimiter: str = ","


def read(path: Path) -> Records:
    """Read a data file by its ending: .csv, .tsv, .jsonl, .ndjson, .json, .parquet.

    Args:
        path: the file; it is only read.

    Returns:
        Its records in order, with 1-based lines.

    Raises:
        UserError: not there, empty, wrong encoding, not what its ending says, or an ending that is not known.
    """
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _jsonl, ".parquet": _parquet}
    records = reader_for(path, readers)(path)
    if not records.records and not records.bad:
        raise UserError("no records in it", str(path), "give a file with at least a few labelled rows")
    return records


def reader_for(path: Path, readers: dict[str, Reader]) -> Reader:
    """What reads a file, by its ending.

    Args:
        path: the file.
        readers: what can be read, by ending.

    Raises:
        UserError: not there, not a plain file, or an ending that is not known.
    """
    reader = readers.get(path.suffix.lower())
    if path.is_dir() or reader is None:
        found = "a folder" if path.is_dir() else f"the ending `{path.suffix}`"
        raise UserError(f"{found} cannot be read as rows", str(path), f"give a file ending in {', '.join(readers)}")
    if not path.exists():
        raise UserError(f"no such file{_neighbour(path)}", str(path), "check the path; it is taken from the recipe's folder")
    if not path.is_file():
        raise UserError("not a plain file", str(path), "copy what it yields into a file first")
    return reader


def _neighbour(path: Path) -> str:
    from tunesmith.errors import nearest

    return nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""


def _decoded(path: Path) -> str:
    """The file's text, or an error that names the encoding found and the line of the first wrong byte."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise as_user_error(error, path) from error
    if not data.strip():
        raise nothing_in(path, len(data))
    refuse_encoding(data[:200], path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise not_utf8(path, data.count(b"\n", 0, error.start) + 1, column, data[error.start]) from error
    if (at := text.find("\0")) >= 0:
        raise nul_in(path, text.count("\n", 0, at) + 1)
    return text


def nothing_in(path: Path, size: int) -> UserError:
    """The error for a file without anything in it but white space."""
    return UserError("only blank lines" if size else "the file is empty", str(path), "give a file with rows")


def not_utf8(path: Path, line: int, column: int, byte: int) -> UserError:
    """The error for a byte (at a 1-based line and column) that no UTF-8 text can have there."""
    remedy = f"if it is Windows or Latin-1 text: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8{path.suffix}"
    return UserError(f"byte 0x{byte:02X} at column {column} is not UTF-8", f"{path}:{line}", remedy)


def nul_in(path: Path, line: int) -> UserError:
    """The error for a NUL character."""
    return UserError("a NUL character", f"{path}:{line}", "export the file again; it is damaged")


def refuse_encoding(head: bytes, path: Path) -> None:
    """Say what a file is when its first bytes are not those of UTF-8 text.

    Raises:
        UserError: UTF-16, or what is often found under the name of a text file.
    """
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or (len(head) > 3 and head[1:2] == b"\0" and head[3:4] == b"\0"):
        raise UserError("encoded as UTF-16, must be UTF-8", str(path), f"iconv -f UTF-16 -t UTF-8 {path.name} > utf8{path.suffix}")
    refuse_disguise(head, path)


def refuse_disguise(head: bytes, path: Path) -> None:
    """Say what a file is when its first bytes do not fit its name."""
    for magic, kind in DISGUISES.items():
        if head.startswith(magic):
            raise UserError(f"named {path.suffix} but holds {kind}", str(path), f"export the rows as {path.suffix}, or name the file by what it is")
    if head.startswith(b"version https://git-lfs"):
        raise UserError("a git-lfs pointer, not the data", str(path), "run `git lfs pull`")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise UserError("looks like an HTML page, perhaps a saved error page", str(path), "download the data file itself")


def _csv(path: Path) -> Records:
    text = _decoded(path)
    out = Records(path.name, [])
    for line, value in csv_values(io.StringIO(text, newline=""), _first_line(text.lstrip("\r\n")), path, out):
        if isinstance(value, BadRow):
            out.bad.append(value)
        else:
            out.records.append((line, value))
    return out


def csv_values(lines: Iterable[str], first: str, path: Path, out: Records) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Records of a table.

    Args:
        lines: with their ends; they begin where the file does.
        first: its first line that is not empty, which says what divides the fields.
        path: the file, for messages.
        out: gets the columns, the notes and the delimiter before the first record is given.

    Yields:
        The 1-based line that a record begins on, and the record, or why it is bad.

    Raises:
        UserError: JSON, a column that occurs twice, or a quote that is never closed.
    """
    if path.suffix.lower() == ".csv" and first.startswith(("{", "[{")):
        raise UserError("looks like JSON, not CSV", str(path), f"name it {path.stem}.jsonl")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=lambda mark: (first.count(mark), mark == ","))
    csv.field_size_limit(MOST_LINE_CHARACTERS)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows = _rows(reader, path)
    header = [name.strip() for name in next(fields for fields in rows if fields)]
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise UserError(f"column `{repeated[0]}` occurs {header.count(repeated[0])} times in the header", f"{path}:1", "rename one of them")
    out.columns, out.delimiter = header, delimiter
    if delimiter != "," and path.suffix.lower() == ".csv":
        out.notes.append(f"{path.name}: fields are separated by {delimiter!r}")
    start = reader.line_num + 1
    for fields in rows:
        line, start = start, reader.line_num + 1
        if not fields:
            continue
        if len(fields) != len(header):
            what = f"{len(fields)} fields, the header has {len(header)}"
            yield line, BadRow(path.name, line, "ragged row", what, f"quote fields that contain {delimiter!r} or line breaks", fields)
        else:
            yield line, dict(zip(header, fields, strict=True))


def _rows(reader: Any, path: Path) -> Iterator[list[str]]:
    start = 1
    while True:
        try:
            start = reader.line_num + 1
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = f"not CSV: {error}"
            if "end of data" in str(error):
                what = f"a quote opened in the row that starts at line {start} is never closed"
            raise UserError(what, f"{path}:{start}", 'close the quote, and write a quote inside a quoted field twice: ""') from error


def _jsonl(path: Path) -> Records:
    text = _decoded(path)
    out = Records(path.name, [])
    stripped = text.lstrip()
    if stripped.startswith("["):
        values = _json_array(stripped, path)
        numbered: list[tuple[int, Any]] = list(enumerate(values, 1))
        out.notes.append(f"{path.name}: one JSON array; its items are numbered from 1 where lines are named")
    else:
        refuse_table(stripped, path)
        last = text.count("\n") + 1
        numbered = [(n, json_line(line, n, path.name, last=n >= last)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    columns: dict[str, None] = {}
    for number, item in numbered:
        value = an_object(item, number, path.name)
        if isinstance(value, BadRow):
            out.bad.append(value)
        else:
            out.records.append((number, value))
            columns.update(dict.fromkeys(value))
    out.columns = list(columns)
    return out


def refuse_table(text: str, path: Path) -> None:
    """Say that a file named .jsonl is a table, by how it begins."""
    if _like_csv(_first_line(text)):
        raise UserError("looks like CSV, not JSON lines", str(path), f"name it {path.stem}.csv")


def an_object(value: Any, number: int, source: str) -> dict[str, Any] | BadRow:
    """What a line of JSON holds when that is an object, or already known to be bad; else why it is bad."""
    if isinstance(value, (dict, BadRow)):
        return value
    what = f"expected an object {{...}}, found {json_type(value)}"
    return BadRow(source, number, "not an object", what, "write one object a line", value)


def _first_line(text: str) -> str:
    """Up to the first line feed, or carriage return as old Excel for Mac writes."""
    return next(iter(text.splitlines()), "")


def _like_csv(first: str) -> bool:
    """Whether the first line of a file named .jsonl is the header of a table: divided fields that are not JSON."""
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return not first.startswith("{") and any(mark in first for mark in ",;\t")
    return False


def _json_array(text: str, path: Path) -> list[Any]:
    try:
        values = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        place = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else str(path)
        raise UserError(f"not JSON: {error}", place, "mend it there, or write one object a line") from error
    assert isinstance(values, list)
    return values


def json_line(line: str, number: int, source: str, last: bool, length: int | None = None) -> Any:
    """The value of one line, or a BadRow.

    Args:
        line: without its end.
        number, source: its 1-based number and its file.
        last: nothing follows it, not even a line feed: it may be cut off.
        length: its characters, when `line` is only its beginning.
    """

    def bad(reason: str, what: str, remedy: str) -> BadRow:
        return BadRow(source, number, reason, what, remedy, line[:1000])

    length = length or len(line)
    if length > MOST_LINE_CHARACTERS:
        return bad("line too long", f"{length:,} characters, the limit is {MOST_LINE_CHARACTERS:,}", "split the text into several rows")
    try:
        value = json.loads(line, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        if last and (error.pos >= len(line.rstrip()) - 1 or not line.rstrip().endswith("}")):
            return bad("unfinished JSON", "the last line ends in the middle of an object", "copy the file again; it was cut off")
        hint = "use double quotes" if "'" in line[:3] else "check commas and quotes there"
        return bad("not JSON", f"not JSON at column {error.colno}: {error.msg}", hint)
    except RecursionError:
        return bad("too deep", f"nested deeper than {DEEPEST_JSON}", "flatten the object")
    except ValueError as error:
        return bad("not JSON", str(error), "write each key once, and null for a missing value")
    if line.count("[") + line.count("{") > DEEPEST_JSON and _depth(value) > DEEPEST_JSON:  # the count is quick and spares most lines the walk
        return bad("too deep", f"nested deeper than {DEEPEST_JSON}", "flatten the object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key `{next(n for n in names if names.count(n) > 1)}` is given twice")
    return out


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= DEEPEST_JSON + 1:
        level = [x for v in level if isinstance(v, (dict, list)) for x in (v.values() if isinstance(v, dict) else v)]
        depth += 1
    return depth


def json_type(value: Any) -> str:
    """What a JSON value is, in words: `text`, `a number`, `a list`, `null` ..."""
    names = {str: "text", bool: "true/false", int: "a number", float: "a number", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _parquet(path: Path) -> Records:
    import pyarrow.parquet as pq

    with parquet_errors(path):
        refuse_no_parquet(path)
        table = pq.read_table(path)
    return Records(path.name, list(table.column_names), list(enumerate(table.to_pylist(), 1)))


def refuse_no_parquet(path: Path) -> None:
    """Say what a file named .parquet is when it is not Parquet, or which of its columns occurs twice."""
    import pyarrow.parquet as pq

    with open(path, "rb") as file:
        head = file.read(4)
        if not head:
            raise nothing_in(path, 0)
        if head != b"PAR1":
            refuse_disguise(head + file.read(196), path)
            raise UserError("named .parquet but is not Parquet", str(path), "name the file by what it is, or export it again")
    names = pq.read_schema(path).names
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"column `{repeated[0]}` occurs {names.count(repeated[0])} times", str(path), "rename one of them")


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """Say what is wrong with a Parquet file in a user's words."""
    import pyarrow as pa

    try:
        yield
    except OSError as error:
        if error.errno:
            raise as_user_error(error, path) from error
        raise UserError(f"damaged or cut off Parquet ({error})", str(path), "copy or export the file again") from error
    except pa.ArrowException as error:
        raise UserError(f"damaged or cut off Parquet ({error})", str(path), "copy or export the file again") from error
