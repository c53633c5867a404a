"""Files in, records out one at a time, with no more memory for a larger file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tunesmith.core.errors import UserError
from tunesmith.core.files import as_user_error
from tunesmith.data.readers import csv, documents, formats, json
from tunesmith.data.readers.formats import BadRow, Item, Records

HEAD_RECORDS = 100
"""The first records, by which a file's columns and layout are told."""
BLOCK_CHARACTERS = 1 << 16
"""Characters of JSON lines read at once."""
BATCH_ROWS = 256
"""Rows of a table's columns decoded at once."""

Line = tuple[int, str, bool, int]
"""A line's number, its text without its end, whether it has one, and how many characters it has."""


class BrokenFile(UserError):
    """A file that cannot be read, or not to its end: bad as a row is, where there are others."""


class Stream:
    """The records of a file as (1-based line, record or BadRow), in order; each iteration reads the file anew.

    A table's line is its row, an array's its item; a document that fills a file (Markdown, HTML, PDF, Word) is on line 1. A document has the columns
    `text` and, where its file is named with the folder that it lies in, `folder`.

    Args:
        path: the file.
        name: what messages about rows call it; empty for the file's name.

    Attributes:
        path, name.
        columns: those met so far, in order; of a table all of them from the first record on, of documents at once.
        notes: remarks to say aloud, each `name: remark`.
        at: bytes of the file read so far, to tell the progress by.
        delimiter: what divides a table's fields, known from the first record on.
        plain: whether the records hold nothing that JSON has not, known from the first record on.

    Raises, here and while it is read, a UserError for what makes a whole file useless; a BrokenFile where it is the file's contents.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        kind, _ = formats.kind_of(path)
        columns = {".parquet": self._parquet, ".arrow": self._arrow, ".feather": self._arrow}
        tables = {".csv": self._table, ".tsv": self._table, ".jsonl": self._objects, ".ndjson": self._objects, ".json": self._objects}
        readers: dict[str, Callable[[], Iterator[Item]]] = columns | tables | {".txt": self._texts}
        self._reader = readers.get(kind) or partial(self._document, kind)
        self.path, self.name = path, name or path.name
        folder = self.name.rpartition("/")[0].rpartition("/")[2]
        self._beside = {"folder": folder} if folder else {}
        self._documents = kind in formats.DOCUMENTS
        self.columns = self._first_columns()
        self.notes: list[str] = []
        self.at = 0
        self.delimiter, self.plain = ",", True

    def __iter__(self) -> Iterator[Item]:
        self.columns, self.notes, self.at = self._first_columns(), [], 0
        empty, before = True, self._stamp()
        try:
            for one in self._reader():
                empty = False
                yield one
        except UserError as error:
            raise BrokenFile(error.what, error.where, error.remedy) from error
        if empty:
            raise BrokenFile("no records in it", str(self.path), "give a file with at least a few rows")
        if self._stamp() != before:
            raise UserError("it was changed while it was read", str(self.path), "wait until it is written, then give the same command again")
        self.at = before[0]

    def _first_columns(self) -> dict[str, None]:
        return dict.fromkeys(("text", *self._beside)) if self._documents else {}

    def _stamp(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except OSError as error:
            raise as_user_error(error, self.path) from error
        return found.st_size, found.st_mtime_ns

    @contextmanager
    def _text(self, newline: str | None) -> Iterator[tuple[TextIO, BinaryIO]]:
        with formats.text(self.path, newline) as (file, raw, marked):
            note = f"{self.name}: it begins with a byte order mark, which is no part of its text"
            self.notes += [note] if marked and note not in self.notes else []
            yield file, raw

    def _lines(self, newline: str | None) -> Iterator[tuple[str, int]]:
        """Lines with their ends, and how many characters they have without: of a line beyond the limit only its beginning is given."""
        with self._text(newline) as (file, raw):
            yield from self._checked(file, raw)

    def _checked(self, file: TextIO, raw: BinaryIO) -> Iterator[tuple[str, int]]:
        number, count, blank, limit = 1, 0, True, formats.MOST_LINE_CHARACTERS + 2
        while line := file.readline(limit):
            length = len(line) - line.endswith("\n")
            if length == limit:
                while rest := file.readline(1 << 20):
                    length += len(rest) - rest.endswith("\n")
                    if rest.endswith("\n"):
                        break
                line += "\n" if rest else ""
            if "\0" in line:
                raise formats.nul_in(self.path, number)
            if blank and line.strip():
                blank = False
                formats.refuse_encoding(line[:200].encode(), self.path)
            number += line.endswith("\n")
            count += 1
            if count % 64 == 0 or length > 10_000:
                self.at = raw.tell()
            yield line, length
        if blank:
            raise formats.nothing_in(self.path, raw.tell())

    def _json_blocks(self) -> Iterator[list[Line]]:
        """The lines of each block that are not blank; of one beyond the limit only its beginning is given. Read in blocks, which takes a third of the time
        of line by line."""
        number, rest, gone, blank = 1, "", 0, True  # the line that a block ended in, and how many characters of it were let go
        with self._text("\n") as (file, raw):
            while block := file.read(BLOCK_CHARACTERS):
                if "\0" in block:
                    raise formats.nul_in(self.path, number + block.count("\n", 0, block.index("\0")))
                self.at = raw.tell()
                lines = block.split("\n")
                lines[0] = rest + lines[0]
                rest = lines.pop()
                if not lines and number == 1 and rest.lstrip()[:1] == "[":  # an array, which `_array` reads: its first line may be all of it
                    blank = self._begun(rest)
                    yield [(1, rest, False, len(rest))]
                found = [(at, line, True, len(line)) for at, line in enumerate(lines, number) if line and not line.isspace()]
                if gone and found and found[0][0] == number:
                    found[0] = (number, lines[0], True, len(lines[0]) + gone)
                number, gone = number + len(lines), 0 if lines else gone
                if found:
                    blank = blank and self._begun(found[0][1])
                    yield found
                if (over := len(rest) - formats.MOST_LINE_CHARACTERS - 1) > 0:
                    rest, gone = rest[:-over], gone + over
            if rest and not rest.isspace():
                blank = blank and self._begun(rest)
                yield [(number, rest, False, len(rest) + gone)]
            if blank:
                raise formats.nothing_in(self.path, raw.tell())

    def _begun(self, line: str) -> bool:
        """Look at the first line that is not blank; False, for the lines before were."""
        formats.refuse_encoding(line[:200].encode(errors="surrogatepass"), self.path)
        return False

    def _objects(self) -> Iterator[Item]:
        with self._text("\n") as (file, _):
            if begin := json.wrapped(file):
                yield from self._array("one JSON object that holds the rows", begin)
                return
        begun = False
        for lines in self._json_blocks():
            if not begun:
                first = lines[0][1]
                if first.lstrip().startswith("["):
                    yield from self._array("one JSON array", 1)
                    return
                if json.OVER_LINES.fullmatch(first.strip()) and not any(line.startswith("{") for _, line, _, _ in lines[1:2]):
                    yield from self._array("JSON objects over several lines", 0)
                    return
                json.refuse_table(first.lstrip(), self.path)
                begun = True
            quick = json.flat_objects([line for _, line, _, _ in lines])
            for one in quick or ():
                if not one.keys() <= self.columns.keys():
                    self._meet(one)
            if quick is not None:
                yield from zip([number for number, _, _, _ in lines], quick, strict=True)
                continue
            for number, line, ended, length in lines:
                value = json.an_object(json.json_line(line, number, self.name, not ended, length), number, self.name)
                self._meet(value)
                yield number, value

    def _meet(self, value: dict[str, Any] | BadRow) -> None:
        if isinstance(value, dict) and not value.keys() <= self.columns.keys():
            self.columns |= dict.fromkeys(value)

    def _array(self, what: str, begin: int) -> Iterator[Item]:
        """Items that are not one a line; `begin` as for `json_text.items`."""
        self.notes.append(f"{self.name}: {what}; {'its items' if begin else 'they'} are numbered from 1 where lines are named")
        with self._text("\n") as (file, raw):
            for number, item in enumerate(json.items(iter(partial(file.read, 1 << 20), ""), self.path, begin), 1):
                value = json.an_object(json.json_line(item, number, self.name, last=False), number, self.name)
                self._meet(value)
                self.at = raw.tell()
                yield number, value

    def _table(self) -> Iterator[Item]:
        out = Records(self.name, [])
        head = [line.strip("\r\n") for line, _ in islice((one for one in self._lines("") if one[0].strip("\r\n")), 2)]
        values = csv.csv_values(self._fields(), head, self.path, out)
        for number, (line, value) in enumerate(values):
            if not number:
                self.columns, self.delimiter = dict.fromkeys(out.columns), out.delimiter
                self.notes += out.notes
            yield line, value

    def _fields(self) -> Iterator[str]:
        """Lines for the reader of tables, which holds a whole field at once."""
        for number, (line, length) in enumerate(self._lines(""), 1):
            if length > formats.MOST_LINE_CHARACTERS:
                raise csv.too_long(self.path, number)
            yield line

    def _parquet(self) -> Iterator[Item]:
        import pyarrow.parquet as pq

        with _columns_of("Parquet", self.path):
            _refuse_disguise(self.path, b"PAR1", "Parquet")
            size = self.path.stat().st_size
            with pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False) as file:  # reading ahead would hold the whole file
                of = max(1, file.metadata.num_rows)
                for number, value in self._rows(file.schema_arrow, file.iter_batches(batch_size=BATCH_ROWS, use_threads=False)):
                    self.at = size * number // of
                    yield number, value

    def _arrow(self) -> Iterator[Item]:
        """Arrow's file and its stream; a batch is held as its writer made it."""
        import pyarrow as pa

        with _columns_of("Arrow", self.path), pa.OSFile(str(self.path), "rb") as raw:
            head = raw.read(6)
            raw.seek(0)
            if head.startswith(b"FEA1"):
                raise UserError("Feather of version 1", str(self.path), "write it again: pyarrow.feather.write_feather(table, path)")
            if not head.startswith(b"\xff\xff\xff\xff"):
                _refuse_disguise(self.path, b"ARROW1", "Arrow")
            is_file = head == b"ARROW1"
            with pa.ipc.open_file(raw) if is_file else pa.ipc.open_stream(raw) as reader:
                batches = (reader.get_batch(index) for index in range(reader.num_record_batches)) if is_file else reader
                for number, value in self._rows(reader.schema, map(_sound, batches)):
                    self.at = raw.tell()
                    yield number, value

    def _rows(self, schema: Any, batches: Iterable[Any]) -> Iterator[Item]:
        names, number = schema.names, 0
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"column `{repeated[0]}` occurs {names.count(repeated[0])} times", str(self.path), "rename one of them")
        self.columns, self.plain = dict.fromkeys(names), all(map(_plain, schema.types))
        for batch in batches:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                for value in _decoded(batch.slice(start, BATCH_ROWS)):
                    number += 1
                    yield number, value if isinstance(value, dict) else BadRow(self.name, number, *value)

    def _texts(self) -> Iterator[Item]:
        for line, value in documents.divided(partial(self._lines, None), self.name, self.notes):
            yield line, value | self._beside if isinstance(value, dict) else value

    def _document(self, kind: str) -> Iterator[Item]:
        found, remarks = documents.whole(self.path, kind, self.name)
        self.notes = [f"{self.name}: {remark}" for remark in remarks]
        yield (found.line, found) if isinstance(found, BadRow) else (1, {"text": found, **self._beside})


def _plain(kind: Any) -> bool:
    """Whether values of an Arrow type are the same after JSON: no times, bytes, decimals, maps and the like."""
    from pyarrow import types

    if types.is_struct(kind):
        return all(_plain(kind.field(at).type) for at in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _plain(kind.value_type)
    tests = (types.is_null, types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string)
    return any(test(kind) for test in tests)


def _refuse_disguise(path: Path, magic: bytes, kind: str) -> None:
    """Say what a file is when it does not begin as its kind does."""
    with open(path, "rb") as file:
        head = file.read(200)
    if not head:
        raise formats.nothing_in(path, 0)
    if not head.startswith(magic):
        formats.refuse_disguise(head, path)
        raise UserError(f"named {path.suffix} but is not {kind}", str(path), "name the file by what it is, or export it again")
    if len(head) < 12:  # two marks and a length between them are the least that either kind has
        raise UserError(f"not {kind} but for its first bytes", str(path), "copy or export the file again")


@contextmanager
def _columns_of(kind: str, path: Path) -> Iterator[None]:
    """Say what is wrong with a file of columns in a user's words."""
    import pyarrow as pa

    try:
        yield
    except (OSError, MemoryError, UnicodeDecodeError, pa.ArrowException) as error:  # damaged bytes may name any size, and columns in any bytes
        if isinstance(error, OSError) and formats.of_the_system(error):
            raise as_user_error(error, path) from error
        raise UserError(f"damaged or cut off {kind} ({' '.join(str(error).split())})", str(path), "copy or export the file again") from error


def _sound(batch: Any) -> Any:
    """The batch, once its offsets are known to stay inside it: Arrow takes a file's word for them, and would read other memory."""
    batch.validate(full=True)
    return batch


def _decoded(batch: Any) -> list[dict[str, Any] | tuple[str, str, str]]:
    """The rows of a batch, each a record, or why it is bad: one value that Python cannot hold spoils its own row alone.

    Times in nanoseconds become microseconds, which Python's own types can hold.
    """
    import pyarrow as pa

    for index, field in enumerate(batch.schema):
        if getattr(field.type, "unit", "") == "ns":
            kind = pa.timestamp("us", field.type.tz) if pa.types.is_timestamp(field.type) else {"d": pa.duration("us")}.get(str(field.type)[0], pa.time64("us"))
            batch = batch.set_column(index, field.name, batch.column(index).cast(kind, safe=False))
    try:
        return batch.to_pylist()  # type: ignore[no-any-return]  # pyarrow has no types
    except (ValueError, OverflowError):
        return [_decoded_row(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _decoded_row(row: Any) -> dict[str, Any] | tuple[str, str, str]:
    values = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            values[name] = column[0].as_py()
        except (ValueError, OverflowError) as error:
            return "unreadable value", f"column `{name}` holds a value that cannot be read ({error})", "correct it, or write the column as text"
    return values
