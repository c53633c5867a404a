"""JSON (lines, arrays, objects one behind the other) -> records, each bad one with its line and a reason."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

from tunesmith.core.errors import UserError
from tunesmith.data.readers import formats
from tunesmith.data.readers.formats import BadRow, ending

DEEPEST_JSON = 32
HEAD_CHARACTERS = 1 << 16
"""Characters by which it is told whether a file is one object."""
WRAPPERS = ("data", "rows", "records", "examples", "instances")
"""Keys under which an object that fills a file holds the rows."""
WRAPPED = re.compile(rf'\s*\{{[^\[{{]*?"(?:{"|".join(WRAPPERS)})"\s*:\s*\[\s*(?=\{{)')
"""How such an object begins: what stands before the rows are plain values."""
OVER_LINES = re.compile(r'\{\s*("[^"]*"\s*:\s*[\[{]\s*)?')
"""A line on which an object begins that goes on in the next."""


def refuse_table(text: str, path: Path) -> None:
    """Say that a file named .jsonl is a table, by how it begins."""
    if _like_csv(next(iter(text.splitlines()), "")):  # a carriage return alone ends a line too, as old Excel for Mac writes
        raise UserError("looks like CSV, not JSON lines", str(path), f"name it {path.name[: path.name.index('.')]}.csv{ending(path)[1]}")


def an_object(value: Any, number: int, source: str) -> dict[str, Any] | BadRow:
    """What a line of JSON holds when that is an object, or already known to be bad; else why it is bad."""
    if isinstance(value, (dict, BadRow)):
        return value
    what = f"expected an object {{...}}, found {json_type(value)}"
    return BadRow(source, number, "not an object", what, "write one object a line", value)


def _like_csv(first: str) -> bool:
    """Whether the first line of a file named .jsonl is the header of a table: divided fields that are not JSON."""
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return not first.startswith("{") and any(mark in first for mark in ",;\t")
    return False


def json_line(line: str, number: int, source: str, last: bool, length: int | None = None) -> Any:
    """The value of one line, or a BadRow.

    Args:
        line: without its end.
        number, source: its 1-based number and its file.
        last: nothing follows it, not even a line feed: it may be cut off.
        length: its characters, when `line` is only its beginning.
    """
    if (length or len(line)) <= formats.MOST_LINE_CHARACTERS and (flat := flat_objects([line])) is not None:
        return flat[0]

    def bad(reason: str, what: str, remedy: str) -> BadRow:
        return BadRow(source, number, reason, what, remedy, line[:1000])

    length = length or len(line)
    if length > formats.MOST_LINE_CHARACTERS:
        return bad("line too long", f"{length:,} characters, the limit is {formats.MOST_LINE_CHARACTERS:,}", "split the text into several rows")
    try:
        value = _decoded(line)
    except json.JSONDecodeError as error:
        if last and (error.pos >= len(line.rstrip()) - 1 or not line.rstrip().endswith("}")):
            return bad("unfinished JSON", "the last line ends in the middle of an object", "copy the file again; it was cut off")
        hint = "use double quotes" if "'" in line[:3] else "check commas and quotes there"
        if error.msg == "Extra data":
            hint = "leave out the comma behind it" if line[error.pos :].strip() == "," else "begin a new line there"
        if line.startswith("\ufeff"):
            hint = "delete the byte order mark in front of it, which comes from joining files"
        return bad("not JSON", f"not JSON at column {error.colno}: {error.msg}", hint)
    except RecursionError:
        return bad("too deep", f"nested deeper than {DEEPEST_JSON}", "flatten the object")
    except ValueError as error:
        if "digits" in str(error):
            return bad("not JSON", "a number of more than 4,300 digits", "write it in quotes")
        return bad("not JSON", str(error), "write each key once, and null for a missing value")
    if line.count("[") + line.count("{") > DEEPEST_JSON and _depth(value) > DEEPEST_JSON:  # the count is quick and spares most lines the walk
        return bad("too deep", f"nested deeper than {DEEPEST_JSON}", "flatten the object")
    return value


def flat_objects(lines: Sequence[str]) -> list[dict[str, Any]] | None:
    """The objects of lines that hold one each, none within another and no key given twice, read at once in half the time; None: look at each.

    Where every line begins with `{` and ends with `}`, there are no more of `{` than lines and as many objects as lines, each line is an object: a string
    or an object that went on in the next line would need a `{` more.
    A key is followed by a colon, so where there are no more colons than keys none is given twice. Nor where there are no more of `":`, with no white space
    before any colon.
    """
    whole = "\n".join(lines)
    if whole.count("{") != len(lines) or whole.count("}\n{") != len(lines) - 1 or whole[:1] != "{" or whole[-1:] != "}":
        return None
    if len(whole) > formats.MOST_LINE_CHARACTERS or (whole.count("[") >= DEEPEST_JSON and any(line.count("[") >= DEEPEST_JSON for line in lines)):
        return None
    try:
        values, end = SCAN_PLAIN("[" + whole.replace("\n", ",") + "]", 0)
    except (StopIteration, ValueError, RecursionError):
        return None
    if end != len(whole) + 2 or len(values) != len(lines) or not all(type(one) is dict for one in values):
        return None
    keys = sum(map(len, values))
    if whole.count(":") == keys or (whole.count('":') == keys and " :" not in whole and "\t:" not in whole and "\r:" not in whole):
        return values  # type: ignore[no-any-return]  # which are dicts
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key `{next(n for n in names if names.count(n) > 1)}` is given twice")
    return out


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _decoded(line: str) -> Any:
    """The value of a line; the decoder itself would look for white space around it by two patterns, which takes as long as a short line."""
    try:
        value, end = SCAN(line, 0)
    except StopIteration:
        return STRICT.decode(line)
    return value if end == len(line) else STRICT.decode(line)


STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
"""Made once: json.loads would make one a line, which takes longer than the line."""
SCAN: Callable[[str, int], tuple[Any, int]] = getattr(STRICT, "scan_once")  # noqa: B009  # which its type does not tell
SCAN_PLAIN: Callable[[str, int], tuple[Any, int]] = getattr(json.JSONDecoder(parse_constant=_no_constant), "scan_once")  # noqa: B009


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


def finite(value: Any) -> Any:
    """A value with null in place of NaN and the infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, (float, Decimal)) and not math.isfinite(float(value)) else value


def wrapped(file: TextIO) -> int:
    """How much stands in front of the rows of a file that is one object, with the rows under one of its keys; 0 for any other file.

    Args:
        file: at its beginning; how far it is read depends on what stands there.
    """
    head = file.read(HEAD_CHARACTERS)
    if (found := WRAPPED.match(head)) is None:
        return 0
    first, ended, rest = (head + file.readline(formats.MOST_LINE_CHARACTERS)).lstrip().partition("\n")
    if ended and (rest or file.read(HEAD_CHARACTERS)).strip() and _whole(first):  # each line may have such a column
        return 0
    return found.end()


def _whole(line: str) -> bool:
    try:
        return json.loads(line) is not None
    except (ValueError, RecursionError):
        return False


def items(pieces: Iterator[str], path: Path, begin: int = 1) -> Iterator[str]:
    """The text of each item of a JSON array, of an array in an object, or of objects one behind the other.

    Args:
        pieces: the file's text in pieces of any size.
        path: the file, for messages.
        begin: how many characters there are up to the first item: 1, white space aside, for an array, more for one in an object; 0 without an array.

    Raises:
        UserError: no JSON (with the line), or an item longer than sources.MOST_LINE_CHARACTERS.
    """
    decoder, space, number = json.JSONDecoder(), re.compile(r"[ \t\n\r]*"), re.compile(r"[\d.eE+-]*\Z")
    held, at = "", 0  # text that is read, and where in it we are
    gone, lines, start = 0, 1, 0  # characters before it, the line it begins on, and where in the file that line begins

    def more() -> bool:
        nonlocal held, at, gone, lines, start
        piece = next(pieces, "")
        start = gone + held.rfind("\n", 0, at) + 1 if "\n" in held[:at] else start
        lines += held.count("\n", 0, at)
        held, gone, at = held[at:] + piece, gone + at, 0
        return bool(piece)

    def mark() -> str:
        """The next character that is no white space; nothing at the end."""
        nonlocal at
        while True:
            at = space.match(held, at).end()  # type: ignore[union-attr]  # it matches nothing too
            if at < len(held) or not more():
                return held[at : at + 1]

    def line(place: int) -> int:
        return lines + held.count("\n", 0, place)

    def wrong(message: str, place: int) -> UserError:
        column = place - held.rfind("\n", 0, place) if "\n" in held[:place] else gone + place + 1 - start
        what = f"not JSON: {message}: line {line(place)} column {column} (char {gone + place})"
        return UserError(what, f"{path}:{line(place)}", "mend it there, or write one object a line")

    def cut() -> UserError:
        return UserError("the file ends in the middle of its rows", f"{path}:{line(len(held.rstrip()))}", "copy the file again; it was cut off")

    while len(held) < begin and more():
        pass
    if begin > 1:
        at = begin
    else:
        mark()
        at += begin
    ended = mark() == ("]" if begin else "")
    at += ended and begin > 0
    while not ended:
        mark()
        if len(held) - at > formats.MOST_LINE_CHARACTERS + (1 << 20):
            what = f"an item of more than {formats.MOST_LINE_CHARACTERS:,} characters"
            raise UserError(what, f"{path}:{line(at)}", "split the text into several rows")
        try:
            end = decoder.raw_decode(held, at)[1]
        except json.JSONDecodeError as error:
            problem, into = wrong(error.msg, error.pos), error.pos - at
            short = error.pos >= len(held) - 12 or error.msg.startswith("Unterminated string")  # 12: an escaped pair of surrogates
            if short and more():
                continue
            open_text = error.msg.startswith("Unterminated string") and not held.rstrip().endswith(("]", "}"))
            raise (cut() if open_text or at + into >= len(held.rstrip()) else problem) from error
        except RecursionError as error:
            what = f"nested deeper than {DEEPEST_JSON}"
            raise UserError(what, f"{path}:{line(at)}", "flatten the object") from error
        size = end - at  # `more` moves both
        if held[end - 1] not in '"}]' and number.match(held, end) and more():
            continue  # it may go on
        yield held[at : at + size]
        at += size
        found = mark()
        if not begin:
            ended = not found
            continue
        if not found:
            raise cut()
        if found not in (",", "]"):
            raise wrong("Expecting ',' delimiter", at)
        at += 1
        ended = found == "]"
    if begin > 1:  # what stands behind the rows of the object
        while len(held) - at <= formats.MOST_LINE_CHARACTERS and more():
            pass
        if not held[at:].strip():
            raise cut()
        try:
            beside = json.loads('{"": 0' + held[at:])
        except (ValueError, RecursionError) as error:
            raise wrong("the object that holds the rows does not end as one", at) from error
        if other := next((key for key, value in beside.items() if isinstance(value, list) and value and isinstance(value[0], dict)), None):
            raise UserError(f"an object with several lists of rows, one of them `{other}`", f"{path}:{line(at)}", "write each list into a file of its own")
    elif mark():
        raise wrong("Extra data", at)
