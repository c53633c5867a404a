"""What a file is by its name and its first bytes, how it is opened, and what it holds: records, each bad one with its line and a reason."""

from __future__ import annotations

import codecs
import errno
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tunesmith.core.errors import UserError
from tunesmith.core.files import as_user_error

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather")
DOCUMENTS = (".txt", ".md", ".html", ".htm", ".pdf", ".docx")
ENDINGS = TABLES + DOCUMENTS
BINARY = (".parquet", ".arrow", ".feather", ".pdf", ".docx")
CODECS = {".gz": ("gzip", rb"\x1f\x8b"), ".zst": ("zstd", rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")}
"""Archives of one file, behind the ending of any text (.jsonl.gz), and how they begin: RFC 1952, RFC 8878 (a frame, or one to be skipped)."""
INSTEAD = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as .csv"),
    **dict.fromkeys((".doc", ".odt", ".rtf"), "save it as .docx or .txt"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), "unpack it, and give the folder"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), "write it as a URL with a query: sqlite:///FILE"),
    **dict.fromkeys((".duckdb", ".ddb"), "write it as a URL with a query: duckdb:///FILE"),
    **dict.fromkeys((".bz2", ".xz"), "unpack it, or pack it again with gzip or zstd"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".npy"), "write the rows as .jsonl or .parquet; a pickle can run code and is never opened"),
}
"""What to do with files of endings that are often met, and cannot be read."""
MOST_LINE_CHARACTERS = 10_000_000
MOST_EXPANSION = 200
SMALL = 256 << 20
"""An archive that unpacks to more than SMALL bytes and MOST_EXPANSION times its size is refused: text shrinks to a third or a twentieth. Our conventions."""
DISGUISES = {
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"ARROW1": "Arrow",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"PK\x03\x04": "a zip archive or Excel file",
    b"%PDF": "a PDF",
    b"PAR1": "Parquet",
    **{bytes([0x80, protocol]): "a pickle" for protocol in (2, 3, 4, 5)},
}
"""First bytes of what is often found under the name of a text file."""


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


Item = tuple[int, dict[str, Any] | BadRow]
"""What a file gives one after the other: the 1-based line, and the record or why it is none."""


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
    """All records of a file at once, as `streams.Stream` gives them one by one.

    Args:
        path: the file; it is only read.

    Returns:
        Its records in order, with 1-based lines.

    Raises:
        UserError: not there, empty, wrong encoding, not what its ending says, or an ending that is not known.
    """
    from tunesmith.data.readers.stream import Stream  # which opens files by what is below

    stream, records, bad = Stream(path), [], []
    for line, value in stream:
        if isinstance(value, BadRow):
            bad.append(value)
        else:
            records.append((line, value))
    return Records(path.name, list(stream.columns), records, bad, stream.notes, stream.delimiter)


def kind_of(path: Path) -> tuple[str, str]:
    """A file's ending and its archive's, as `ending` tells them, of a file that is there and can be read.

    Raises:
        UserError: not there, not a plain file, or an ending that is not known.
    """
    if path.is_dir():
        raise UserError("a folder cannot be read as rows", str(path), f"give a file ending in {', '.join(ENDINGS)}")
    if not path.exists():
        what = "a link to something that is not there" if path.is_symlink() else f"no such file{_neighbour(path)}"
        raise UserError(what, str(path), "check the path; it is taken from the recipe's folder")
    if not path.is_file():
        raise UserError("not a plain file", str(path), "copy what it yields into a file first")
    kind, archive = ending(path)
    if not kind:
        inner = Path(path.stem).suffix.lower() if archive else path.suffix.lower()
        remedy = INSTEAD.get(inner, f"give a file ending in {', '.join(ENDINGS)}")
        if archive and not inner:
            remedy = f"name it by what is in it: {path.stem}.jsonl{archive}"
        if archive and inner in BINARY:
            remedy = f"unpack it, and give the {inner} file"
        named = f"the ending `{''.join(path.suffixes[-2:]) if archive else path.suffix}`" if path.suffix else "a file without an ending"
        raise UserError(f"{named} cannot be read as rows", str(path), remedy)
    return kind, archive


def ending(path: Path) -> tuple[str, str]:
    """What a file's name says is in it, in lower case: the ending, and that of the archive around it: `.jsonl` and `.gz`, or `.csv` and nothing.

    The first is empty where the file cannot be read.
    """
    archive = path.suffix.lower() if path.suffix.lower() in CODECS else ""
    kind = Path(path.stem).suffix.lower() if archive else path.suffix.lower()
    return kind if kind in ENDINGS and not (archive and kind in BINARY) else "", archive


def _neighbour(path: Path) -> str:
    from tunesmith.core.errors import nearest

    return nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""


@contextmanager
def opened(path: Path) -> Iterator[tuple[io.BufferedReader, BinaryIO]]:
    """A file's bytes, unpacked where it is an archive, and the file itself, whose `tell` says how much of it is read.

    Raises:
        UserError: here or while it is read: no permission, no such file, or an archive that is none, cut off, damaged, or would fill the disk.
    """
    archive = ending(path)[1]
    try:
        with open(path, "rb") as raw:
            yield io.BufferedReader(_Unpacked(raw, path, *CODECS[archive]), 1 << 16) if archive else raw, raw
    except OSError as error:
        raise as_user_error(error, path) from error


def of_the_system(error: BaseException | None) -> bool:
    """Whether an error comes from the system (no permission, a broken disk), not from bytes that lead a parser astray.

    Some libraries raise OSError without a number for the latter; a place before the file's beginning, which damaged bytes may name, is EINVAL.
    """
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


class _Unpacked(io.RawIOBase):
    """What an archive holds, of one member or several (io's protocol asks for a class)."""

    def __init__(self, raw: io.BufferedReader, path: Path, codec: str, begins: bytes) -> None:
        import pyarrow as pa

        head = raw.peek(4)
        if head and not re.match(begins, head):
            raise UserError(f"named {path.suffix} but is not a {codec} archive", str(path), "name the file by what it is")
        self._raw, self._path, self._codec, self._size = raw, path, codec, 0
        self._stream = pa.CompressedInputStream(raw, codec)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._stream.read(len(buffer))
        except OSError as error:
            if of_the_system(error):
                raise
            if "Truncated" in str(error):
                raise UserError(f"the {self._codec} archive is cut off", str(self._path), "copy or download the file again") from error
            raise UserError(f"the {self._codec} archive is damaged ({error})", str(self._path), "copy or download the file again") from error
        buffer[: len(piece)] = piece
        self._size += len(piece)
        if self._size > SMALL and self._size > MOST_EXPANSION * self._raw.tell():
            what = f"the {self._codec} archive unpacks to more than {MOST_EXPANSION} times its size"
            raise UserError(what, str(self._path), f"if it is what you want, unpack it and give the {Path(self._path.stem).suffix} file")
        return len(piece)


@contextmanager
def text(path: Path, newline: str | None = None) -> Iterator[tuple[TextIO, BinaryIO, bool]]:
    """A file's text, the file itself, whose `tell` says how much of it is read, and whether it begins with a byte order mark (which is left out).

    Args:
        path: the file.
        newline: as for `open`.

    Raises:
        UserError: here or while it is read: what `opened` raises, not UTF-8, or other bytes than a text has.
    """
    try:
        with opened(path) as (data, raw):
            head = data.peek(200)[:200]
            if head.strip():
                refuse_encoding(head, path)
            yield io.TextIOWrapper(data, "utf-8-sig", newline=newline), raw, head.startswith(codecs.BOM_UTF8)
    except UnicodeDecodeError as error:
        raise _first_wrong_byte(path) from error


def _first_wrong_byte(path: Path) -> UserError:
    """Where a file stops being UTF-8, found by reading it again in pieces."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, column, before = 1, 1, b""
    with opened(path) as (file, _):
        while piece := file.read(1 << 20):
            try:
                decoder.decode(piece)
            except UnicodeDecodeError as error:
                good = error.object[: error.start]
                line += good.count(b"\n")
                column = len(good) - good.rfind(b"\n") if b"\n" in good else column + len(good)
                return not_utf8(path, line, column, error.object[error.start])
            pending = decoder.getstate()[0]
            done = (before + piece)[: len(before) + len(piece) - len(pending)]
            line += done.count(b"\n")
            column = len(done) - done.rfind(b"\n") if b"\n" in done else column + len(done)
            before = pending
    return not_utf8(path, line, column, before[0] if before else 0)


def nothing_in(path: Path, size: int) -> UserError:
    """The error for a file without anything in it but white space."""
    return UserError(f"{'only blank lines' if size else 'the file is empty'}: no records in it", str(path), "give a file with rows")


def not_utf8(path: Path, line: int, column: int, byte: int, encoding: str = "utf-8") -> UserError:
    """The error for a byte (at a 1-based line and column) that no UTF-8 text, or text of the encoding that the file names, can have there."""
    utf8 = encoding.startswith("utf-8")
    remedy = f"if it is Windows or Latin-1 text: {_iconv('WINDOWS-1252', path)}" if utf8 else "correct the name, or save the page as UTF-8"
    rule = "is not UTF-8" if utf8 else f"is not {encoding}, which the file names as its encoding"
    return UserError(f"byte 0x{byte:02X} at column {column} {rule}", f"{path}:{line}", remedy)


def _iconv(encoding: str, path: Path) -> str:
    """The command that writes a file's text as UTF-8."""
    kind, archive = ending(path)
    unpack = {"": "", ".gz": f"gzip -dc {path.name} | ", ".zst": f"zstd -dc {path.name} | "}[archive]
    return f"{unpack}iconv -f {encoding} -t UTF-8 {'' if archive else path.name + ' '}> utf8{kind}"


def nul_in(path: Path, line: int) -> UserError:
    """The error for a NUL character."""
    return UserError("a NUL character", f"{path}:{line}", "export the file again; it is damaged")


def refuse_encoding(head: bytes, path: Path) -> None:
    """Say what a file is when its first bytes are not those of UTF-8 text.

    Raises:
        UserError: UTF-16, or what is often found under the name of a text file.
    """
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise UserError("encoded as UTF-32, must be UTF-8", str(path), _iconv("UTF-32", path))
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or (len(head) > 3 and head[1:2] == b"\0" and head[3:4] == b"\0"):
        raise UserError("encoded as UTF-16, must be UTF-8", str(path), _iconv("UTF-16", path))
    refuse_disguise(head, path)


def refuse_disguise(head: bytes, path: Path) -> None:
    """Say what a file is when its first bytes do not fit its name."""
    kind = ending(path)[0]
    for magic, found in DISGUISES.items():
        if head.startswith(magic):
            raise UserError(f"named {kind} but holds {found}", str(path), f"export the rows as {kind}, or name the file by what it is")
    if head.startswith(b"version https://git-lfs"):
        raise UserError("a git-lfs pointer, not the data", str(path), "run `git lfs pull`")
    if kind not in (".html", ".htm") and head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise UserError("looks like an HTML page, perhaps a saved error page", str(path), "download the data file itself")
