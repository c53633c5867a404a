"""The text of a table -> records, each bad one with its line and a reason."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError, counted
from tunesmith.data.readers import formats
from tunesmith.data.readers.formats import BadRow, Records, ending

QUOTED = re.compile(r'"(?:[^"]|"")*"?')
WHOLE = 'write a field with quotes whole in quotes, and each quote in it twice: """No"", he said"'
CLOSE = f"close the quote; {WHOLE}"


def csv_values(lines: Iterable[str], head: list[str], path: Path, out: Records) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Records of a table.

    Args:
        lines: with their ends; they begin where the file does.
        head: its first two lines that are not empty, which say what divides the fields. A first one like `sep=;`, as Excel reads it, is no row.
        path: the file, for messages.
        out: has the source for them, and gets the columns, the notes and the delimiter before the first record is given.

    Yields:
        The 1-based line that a record begins on, and the record, or why it is bad.

    Raises:
        UserError: JSON, a column that occurs twice, or a quote that is never closed.
    """
    kind, archive = ending(path)
    first = head[0] if head else ""
    if kind == ".csv" and first.startswith(("{", "[{")):
        raise UserError("looks like JSON, not CSV", str(path), f"name it {path.name[: path.name.index('.')]}.jsonl{archive}")
    told = re.fullmatch(r"sep=([^\w\s\"]|\t)", first)
    bare = QUOTED.sub('""', first)  # a comma in quotes divides nothing
    delimiter = told[1] if told else "\t" if kind == ".tsv" else max(",;\t|", key=lambda mark: (bare.count(mark), mark == ","))
    spaced = delimiter != "\t" and any(re.search(rf'{re.escape(delimiter)} +"', QUOTED.sub('""', line)) for line in head)
    csv.field_size_limit(formats.MOST_LINE_CHARACTERS)
    rows = _rows(lines, path, delimiter, spaced)
    if told:
        next(fields for _, fields in rows if fields)
    top, named = next(((line, fields) for line, fields in rows if fields), (0, []))
    if not named:  # nothing but `sep=;`
        return
    if isinstance(named, tuple):
        raise UserError(named[1], f"{path}:{top}", named[2])
    header = [name.strip() for name in named]
    repeated = sorted({name for name in header if name and header.count(name) > 1})  # a spreadsheet may write several columns without names
    if repeated:
        raise UserError(f"column `{repeated[0]}` occurs {header.count(repeated[0])} times in the header", f"{path}:{top}", "rename one of them")
    out.columns, out.delimiter = header, delimiter
    if delimiter != "," and kind == ".csv":
        out.notes.append(f"{out.source}: fields are separated by {delimiter!r}")
    if spaced:
        out.notes.append(f"{out.source}: spaces in front of a field are no part of it")
    for line, fields in rows:
        if isinstance(fields, tuple):
            yield line, BadRow(out.source, line, *fields)
        elif not fields:
            continue
        elif len(fields) != len(header):
            remedy = f"quote fields that contain {delimiter!r} or line breaks"
            remedy += ', with ", for \' holds nothing together' if any(field.lstrip().startswith("'") for field in fields) else ""
            yield line, BadRow(out.source, line, "ragged row", f"{counted(len(fields), 'field')}, the header has {len(header)}", remedy, fields)
        elif fields[-1] == named[-1] and len(named) > 1 and [fields[0].removeprefix("\ufeff"), *fields[1:]] == named:
            yield line, BadRow(out.source, line, "header again", "the header once more, as where files were joined", "delete the line", fields)
        else:
            yield line, dict(zip(header, fields, strict=True))


def _rows(lines: Iterable[str], path: Path, delimiter: str, spaced: bool) -> Iterator[tuple[int, list[str] | tuple[str, str, str, Any]]]:
    """The 1-based line that a row begins on, and its fields, or why it is bad: reason, what, remedy, what was read."""
    read: list[str] = []  # the first line of a row, and the last

    def kept() -> Iterator[str]:
        for line in lines:
            read[1:] = [line]
            yield line

    reader = csv.reader(kept(), delimiter=delimiter, strict=True, skipinitialspace=spaced)
    while True:
        start = reader.line_num + 1
        read.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):
                raise UserError(f"a quote opened in the row that starts at line {start} is never closed", f"{path}:{start}", CLOSE) from error
            if "field larger" in str(error):
                raise too_long(path, start) from error
            what = f"not CSV: {error}"
            if start != reader.line_num or read[-1].count('"') % 2:  # the field may go on in the next line
                raise UserError(what, f"{path}:{start}", CLOSE) from error
            yield start, ("misplaced quote", what, WHOLE, read[-1].rstrip("\r\n"))
            continue
        # The lines that it opens and closes in are as wide as each other, so rows of their own; of an indented text, say, they would not be.
        alike = delimiter == "\t" and len(read) > 1 and read[0].count("\t") == read[-1].count("\t")
        if alike and any("\t" in field for field in fields):
            what = f"a quote opened here is closed in line {reader.line_num}, in another row: there are tabs between"
            yield start, ("field over several rows", what, CLOSE, fields)
            continue
        yield start, fields


def too_long(path: Path, line: int) -> UserError:
    """The error for a field, of one line or of several, that is too long for a record."""
    what = f"not CSV: a field of more than {formats.MOST_LINE_CHARACTERS:,} characters"
    return UserError(what, f"{path}:{line}", "divide the text; or close the quote in front of it, if it is not meant to be that long")
