"""What is no file (a query to a database, a data set of the Hub) -> one file of JSON lines, which is then read like any other.

The file's hash stands for the rows in the run's identity: the same rows, the same run; other rows, a new one. So equal rows give equal bytes,
whatever the time zone, the version of a library, or the order in which a database happens to find them.

 !! Secrets. A password stands in the recipe as ${NAME} alone. It is looked up here, when the rows are collected, and is kept nowhere:
 !! not in the snapshot or its name, and every message passes `_hidden` before it leaves.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tunesmith.core.errors import UserError
from tunesmith.core.files import STAGING, sha256_json, staged_file
from tunesmith.data.readers import hub, sql
from tunesmith.data.readers.json import finite

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
PASSWORDS = re.compile(r"(://[^:/@]*:)(.*)@|([?&](?:ssl)?password=)([^&]*)", re.I)
"""The password of a URL: all before the last @, so that one with @ or / in it is found whole; or a parameter."""
SORTED_BYTES = 64 << 20
"""Lines sorted in memory at once; more than that is merged from the disk. A convention of ours."""
TOLD_ROWS = 1000
INTEGER_DIGITS = 38
"""A whole decimal of up to this many digits, the most that SQL's decimals commonly have, is written as an integer, exactly."""


def is_remote(value: str) -> bool:
    """Whether a source is no file: a URL (sqlite:///shop.db), hub:OWNER/NAME, or ${NAME} where the whole URL is in the environment."""
    return value.startswith(hub.PREFIX) or VARIABLE.fullmatch(value) is not None or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value) is not None


def shown(value: str) -> str:
    """The source for messages and files: *** in place of a password."""
    return PASSWORDS.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[3]}***", value)


def placed(value: str, folder: Path) -> str:
    """The source with the path of a database's file made absolute from a folder; anything else as it is."""
    found = re.fullmatch(r"(sqlite|duckdb):///([^/$~].*)", value)
    return f"{found[1]}:///{(folder / found[2]).absolute()}" if found else value


def refuse_password(value: str) -> None:
    """Say so when a password itself stands in the source, not the name of a variable: the recipe is kept in the run's folder.

    Raises:
        UserError: it does; the message does not repeat it.
    """
    for password in _passwords(value):
        if not VARIABLE.fullmatch(password):
            remedy = "write ${DATABASE_PASSWORD} in its place and set that variable before the run; change the password, since others may have read it"
            raise UserError("a password stands in the URL; it would be kept in the run's files", shown(value), remedy)


def collect(
    value: str,
    query: str | None,
    folder: Path,
    progress: Callable[[int], None] | None = None,
    split: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Write the rows of a source that is no file into one.

    Args:
        value: sqlite:///PATH, duckdb:///PATH, postgresql://USER:${PASSWORD}@HOST/DATABASE, ${NAME} of such a URL, or hub:OWNER/NAME.
        query: of a database, one statement that reads. Without an ORDER BY its rows are sorted as lines, so that their order says nothing.
        folder: gets NAME-HASH.jsonl; the hash is of the source, the query and the split, so that two sides do not meet.
        progress: told the rows so far, every TOLD_ROWS and at the end.
        split: of a data set of the Hub, the split's name.
        say: told what a person should know of how the rows were taken.

    Returns:
        The file, whole: one JSON object a row, columns in the order of the query. Memory does not grow with the rows.

    Raises:
        UserError: whatever keeps the rows from being read, no rows, or binary values; nothing is left behind.
    """
    refuse_password(value)
    tell, secrets = say or (lambda _: None), set[str]()
    place = shown(value)
    path = folder / f"{stem(value)}-{sha256_json([place, query, split])[:8]}.jsonl"
    try:
        from_hub = value.startswith(hub.PREFIX)
        if (query if from_hub else split) is not None:
            key, goes = ("query", "databases") if from_hub else ("split", "data sets of the Hub")
            raise UserError(f"`{key}` goes with {goes} alone", place, f"leave {key} out")
        records = hub.records(value, split, tell) if from_hub else sql.records(_whole(value, place, secrets), query, place, _lookup(place, secrets))
        ordered = from_hub or sql.ordered(query or "")
        lines = _lines(records, place, tell if from_hub else None)
        with staged_file(path) as staging:
            if not _write(_counted(lines, progress) if progress else lines, staging, ordered):
                raise UserError("the source gave no rows", place, "check what the query asks for" if query else "choose another split")
    except UserError as error:
        raise UserError(*(_hidden(text, secrets) for text in (error.what, error.where, error.remedy))) from None
    if not ordered:
        also = "; its LIMIT may choose other rows each time" if re.search(r"\blimit\b", query or "", re.I) else ""
        tell(f"{path.name}: the query has no ORDER BY, so the rows are put in the order of their contents{also}")
    return path


def stem(value: str) -> str:
    """A readable beginning of the snapshot's name: the database's or the data set's; a URL that is one variable gives its name."""
    last = value.removeprefix(hub.PREFIX).partition("@")[0].replace("/", "--") if value.startswith(hub.PREFIX) else Path(value.partition("?")[0]).stem
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or "rows"


def _passwords(value: str) -> set[str]:
    return {found[2] if found[1] else found[4] for found in PASSWORDS.finditer(value)} - {""}


def _lookup(place: str, secrets: set[str]) -> Callable[[str], str]:
    """What puts the environment's values in place of variables, and remembers them so that they can be hidden."""

    def one(found: re.Match[str]) -> str:
        if not (content := os.environ.get(found[1])):
            raise UserError(f"the environment variable `{found[1]}` is not set", place, f"set it before the run: export {found[1]}=...")
        secrets.add(content)
        return content

    return lambda text: VARIABLE.sub(one, text)


def _whole(value: str, place: str, secrets: set[str]) -> str:
    """The URL that one variable holds, as hosts hand it out in DATABASE_URL; any other value as it is."""
    if not VARIABLE.fullmatch(value):
        return value
    url = _lookup(place, secrets)(value)
    if "://" not in url:
        raise UserError("the variable holds no URL", place, "set it to postgresql://USER:PASSWORD@HOST/DATABASE")
    secrets |= {form for password in _passwords(url) for form in (password, unquote(password))}
    return url


def _hidden(text: str, secrets: set[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _lines(records: Iterator[dict[str, Any]], place: str, leave_out: Callable[[str], None] | None) -> Iterator[bytes]:
    """The records as lines. A column with binary values is refused, or left out where `leave_out` is there to be told its message."""
    without: set[str] = set()
    for number, record in enumerate(records, 1):
        kept = {column: value for column, value in record.items() if column not in without} if without else record
        try:
            yield _line(kept)
        except TypeError:
            for column in (column for column, value in kept.items() if _binary(value)):
                what = f"column `{column}` holds binary data (row {number})"
                if leave_out is None:
                    raise UserError(what, place, "leave the column out of the query, or turn it into text there") from None
                without.add(column)
                leave_out(f"{place}: {what} and is left out")
            yield _line({column: value for column, value in kept.items() if column not in without})


def _counted(lines: Iterator[bytes], progress: Callable[[int], None]) -> Iterator[bytes]:
    count = 0
    for count, line in enumerate(lines, 1):
        yield line
        if count % TOLD_ROWS == 0:
            progress(count)
    if count % TOLD_ROWS:
        progress(count)


def _line(record: dict[str, Any]) -> bytes:
    """A record as a line of JSON. NaN and the infinities, which JSON does not have, become null.

    Raises:
        TypeError: a value is binary.
    """
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:
        text = json.dumps(finite(record), ensure_ascii=False, allow_nan=False, default=_plain)
    return text.encode("utf-8", "backslashreplace") + b"\n"  # half of a surrogate pair becomes its escape in JSON, which the reader then refuses by row


def _plain(value: Any) -> Any:
    """What JSON has no type for: decimals as numbers, all else (dates, UUIDs, addresses) as its text."""
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value.adjusted() < INTEGER_DIGITS and value == value.to_integral_value() else float(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError("binary")
    return str(value)


def _binary(value: Any) -> bool:
    try:
        json.dumps(value, default=_plain)
    except TypeError:
        return True
    return False


def _write(lines: Iterator[bytes], path: Path, ordered: bool) -> int:
    """Write the lines as they come, or sorted: in memory as far as SORTED_BYTES go, beyond that by merging sorted files. Returns how many."""
    count = size = 0
    held: list[bytes] = []
    with tempfile.TemporaryDirectory(prefix=STAGING, dir=path.parent) as work, open(path, "wb") as out:
        parts: list[Path] = []
        for line in lines:
            count += 1
            if ordered:
                out.write(line)
                continue
            held.append(line)
            size += len(line)
            if size >= SORTED_BYTES:
                parts.append(Path(work) / str(len(parts)))
                parts[-1].write_bytes(b"".join(sorted(held)))
                held, size = [], 0
        held.sort()
        with ExitStack() as opened:
            out.writelines(heapq.merge(*(opened.enter_context(open(part, "rb")) for part in parts), held))
    return count
