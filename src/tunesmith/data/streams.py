"""Files in, records out one at a time: as `sources.read`, with the same checks and words, and no more memory for a larger file.

The exception is one JSON array, which is read whole; JSON lines are not. Here alone a plain text file is read: as documents.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from tunesmith.data import sources
from tunesmith.data.sources import BadRow, Records
from tunesmith.errors import UserError
from tunesmith.files import as_user_error

HEAD_RECORDS = 100
"""The first records, by which a file's columns and layout are told."""
HEAD_CHARACTERS = 1 << 20
PARQUET_ROWS = 256
"""Rows decoded at once."""
END_OF_DOCUMENT = "<|endoftext|>"
"""A line that holds only this ends a document, as in the corpora of GPT-2."""

Item = tuple[int, dict[str, Any] | BadRow]


class Stream:
    """The records of a file as (1-based line, record or BadRow), in order; each iteration reads the file anew.

    Attributes:
        columns: those met so far, in order; of a table all of them from the first record on.
        notes: remarks to say aloud.
        at: bytes read so far, to tell the progress by.

    Raises, while it is read, a UserError for what makes a whole file useless.
    """

    def __init__(self, path: Path) -> None:
        readers = {".csv": self._table, ".tsv": self._table, ".jsonl": self._objects, ".ndjson": self._objects, ".json": self._objects}
        self._reader = sources.reader_for(path, readers | {".parquet": self._parquet, ".txt": self._documents})
        self.path = path
        self.columns: dict[str, None] = {}
        self.notes: list[str] = []
        self.at = 0

    def __iter__(self) -> Iterator[Item]:
        self.columns, self.notes, self.at = {}, [], 0
        empty, before = True, self._stamp()
        for one in self._reader():
            empty = False
            yield one
        if empty:
            raise UserError("no records in it", str(self.path), "give a file with at least a few rows")
        if self._stamp() != before:
            raise UserError("it was changed while it was read", str(self.path), "wait until it is written, then give the same command again")

    def _stamp(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except OSError as error:
            raise as_user_error(error, self.path) from error
        return found.st_size, found.st_mtime_ns

    def _lines(self, newline: str | None) -> Iterator[tuple[str, int]]:
        """Lines with their ends, and how many characters they have without: of a line beyond the limit only its beginning is given."""
        try:
            with open(self.path, "rb") as raw:
                head = raw.read(200)
            if head.strip():
                sources.refuse_encoding(head, self.path)
            with open(self.path, encoding="utf-8-sig", newline=newline) as file:
                yield from self._checked(file)
        except UnicodeDecodeError as error:
            raise _first_wrong_byte(self.path) from error
        except OSError as error:
            raise as_user_error(error, self.path) from error

    def _checked(self, file: TextIO) -> Iterator[tuple[str, int]]:
        number, count, blank, limit = 1, 0, True, sources.MOST_LINE_CHARACTERS + 2
        while line := file.readline(limit):
            length = len(line) - line.endswith("\n")
            if length == limit:
                while rest := file.readline(1 << 20):
                    length += len(rest) - rest.endswith("\n")
                    if rest.endswith("\n"):
                        break
                line += "\n" if rest else ""
            if "\0" in line:
                raise sources.nul_in(self.path, number)
            if blank and line.strip():
                blank = False
                sources.refuse_encoding(line[:200].encode(), self.path)
            number += line.endswith("\n")
            count += 1
            if count % 64 == 0 or length > 10_000:
                self.at = file.buffer.tell()
            yield line, length
        self.at = self.path.stat().st_size
        if blank:
            raise sources.nothing_in(self.path, self.at)

    def _objects(self) -> Iterator[Item]:
        begun, source = False, self.path.name
        for number, (line, length) in enumerate(self._lines("\n"), 1):
            if not line.strip():
                continue
            if not begun:
                if line.lstrip().startswith("["):
                    yield from self._array()
                    return
                sources.refuse_table(line.lstrip(), self.path)
                begun = True
            ended = line.endswith("\n")
            value = sources.an_object(sources.json_line(line[:-1] if ended else line, number, source, not ended, length), number, source)
            if isinstance(value, dict) and not value.keys() <= self.columns.keys():
                self.columns |= dict.fromkeys(value)
            yield number, value

    def _array(self) -> Iterator[Item]:
        read = sources.read(self.path)
        self.columns, self.notes = dict.fromkeys(read.columns), read.notes
        items: Iterator[Item] = chain(read.records, ((bad.line, bad) for bad in read.bad))
        yield from sorted(items, key=lambda item: item[0])

    def _table(self) -> Iterator[Item]:
        out = Records(self.path.name, [])
        first = next((line for line, _ in self._lines("") if line.strip("\r\n")), "")
        values = sources.csv_values(self._fields(), next(iter(first.splitlines()), ""), self.path, out)
        for number, (line, value) in enumerate(values):
            if not number:
                self.columns, self.notes = dict.fromkeys(out.columns), out.notes
            yield line, value

    def _fields(self) -> Iterator[str]:
        """Lines for the reader of tables, which holds a whole field at once."""
        for number, (line, length) in enumerate(self._lines(""), 1):
            if length > sources.MOST_LINE_CHARACTERS:
                what = f"not CSV: field larger than field limit ({sources.MOST_LINE_CHARACTERS})"
                raise UserError(what, f"{self.path}:{number}", 'close the quote, and write a quote inside a quoted field twice: ""')
            yield line

    def _parquet(self) -> Iterator[Item]:
        import pyarrow.parquet as pq

        with sources.parquet_errors(self.path):
            sources.refuse_no_parquet(self.path)
            size = self.path.stat().st_size
            with pq.ParquetFile(self.path, buffer_size=1 << 20) as file:
                self.columns = dict.fromkeys(file.schema_arrow.names)
                number, of = 0, max(1, file.metadata.num_rows)
                for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                    for record in batch.to_pylist():
                        number += 1
                        yield number, record
                    self.at = size * number // of

    def _documents(self) -> Iterator[Item]:
        """A text file's documents: divided by lines of END_OF_DOCUMENT where there are any, else by blank lines, else each line is one."""
        by = self._division()
        said = {
            "mark": f"each part between lines of `{END_OF_DOCUMENT}` is one document",
            "blank": f"each block between blank lines is one document; to divide it otherwise put lines of `{END_OF_DOCUMENT}` between documents",
            "line": f"without blank lines each line is one document; to divide it otherwise put lines of `{END_OF_DOCUMENT}` between documents",
        }
        self.columns, self.notes = {"text": None}, [f"{self.path.name}: {said[by]}"]
        held: list[str] = []
        start, length = 1, 0
        for number, (line, size) in enumerate(self._lines(None), 1):
            text = line.strip()
            ends = text == END_OF_DOCUMENT if by == "mark" else not text
            if not ends and (held or text):  # blank lines in front of a document are no part of it
                start, length = (start, length + size + 1) if held else (number, size)
                if length <= sources.MOST_LINE_CHARACTERS or not held:
                    held.append(line)
            if held and (ends or by == "line"):
                yield start, self._document(held, start, length)
                held = []
        if held:
            yield start, self._document(held, start, length)

    def _division(self) -> str:
        """mark, blank or line: what divides the documents."""
        text_before, blank, divided = False, False, False
        for line, _ in self._lines(None):
            text = line.strip()
            if text == END_OF_DOCUMENT:
                return "mark"
            divided = divided or (blank and bool(text))
            text_before = text_before or bool(text)
            blank = text_before and not text
        return "blank" if divided else "line"

    def _document(self, held: list[str], start: int, length: int) -> dict[str, Any] | BadRow:
        text = "".join(held).rstrip()
        if length > sources.MOST_LINE_CHARACTERS:
            what = f"a document of {length:,} characters, the limit is {sources.MOST_LINE_CHARACTERS:,}"
            return BadRow(self.path.name, start, "document too long", what, f"divide it with lines of `{END_OF_DOCUMENT}`", {"text": text[:1000]})
        return {"text": text}


def array_head(path: Path) -> list[dict[str, Any]] | None:
    """The first objects of a JSON array, from the beginning of the file; None for what is not one."""
    if path.suffix.lower() not in (".json", ".jsonl", ".ndjson") or not path.is_file():
        return None
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            text = file.read(HEAD_CHARACTERS)
    except OSError as error:
        raise as_user_error(error, path) from error
    at = len(text) - len(text.lstrip())
    if text[at : at + 1] != "[":
        return None
    found: list[dict[str, Any]] = []
    decoder = json.JSONDecoder()
    while len(found) < HEAD_RECORDS:
        at += 1
        at += len(text[at:]) - len(text[at:].lstrip())
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        found += [value] if isinstance(value, dict) else []
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def _first_wrong_byte(path: Path) -> UserError:
    """Where a file stops being UTF-8, found by reading it again in pieces."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, column, before = 1, 1, b""
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            try:
                decoder.decode(piece)
            except UnicodeDecodeError as error:
                good = error.object[: error.start]
                line += good.count(b"\n")
                column = len(good) - good.rfind(b"\n") if b"\n" in good else column + len(good)
                return sources.not_utf8(path, line, column, error.object[error.start])
            pending = decoder.getstate()[0]
            done = (before + piece)[: len(before) + len(piece) - len(pending)]
            line += done.count(b"\n")
            column = len(done) - done.rfind(b"\n") if b"\n" in done else column + len(done)
            before = pending
    byte = before[0] if before else 0
    return sources.not_utf8(path, line, column, byte)
