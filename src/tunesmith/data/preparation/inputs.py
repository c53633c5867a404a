"""What the recipe names -> the files of each side: one file, a folder, a glob, or what is collected into a file."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tunesmith.core.errors import UserError, counted, nearest, some
from tunesmith.core.files import as_user_error, sha256_file, sha256_json
from tunesmith.data.readers import snapshot
from tunesmith.data.readers.formats import ENDINGS, TABLES, ending, kind_of
from tunesmith.data.row_index import SIDES
from tunesmith.data.settings import DataSettings, SourceSettings

ABOUT = frozenset("readme license licence notice citation changelog contributing authors datasheet".split())
"""Texts of these names beside tables are about the data, and are none of it."""
MOST_COMPARED = 1000
"""Names among which the nearest one is looked for: it takes about 10 us each."""


class Part(NamedTuple):
    """One of the files that a name means.

    Attributes: path; name (its path below the folder, divided by /: for messages and the column `source`); weight (of its rows; 1 leaves them as they are).
    """

    path: Path
    name: str
    weight: float


def expand(value: str, weight: float = 1.0, said: list[str] | None = None) -> list[Part]:
    """The files that a name means, in the order of their names.

    Args:
        value: a file; a folder, which is read with the folders in it; or a glob: `*`, `?` and `[...]` within a name, `**` for any folders.
        weight: of the rows of each file.
        said: gets what was left out, but for hidden files and folders: links, endings that cannot be read, texts about the data.

    Returns:
        At least one file; each is a plain file with an ending that can be read.

    Raises:
        UserError: nothing there (with the nearest name), nothing that can be read, or no permission.
    """
    path = Path(value)
    if os.path.lexists(path) or not re.search(r"[*?[]", value):
        if not path.is_dir():
            kind_of(path)
            return [Part(path, _printable(path.name), weight)]
        folder, pattern = path, path.parts[:0]
    else:
        at = next(index for index, name in enumerate(path.parts) if re.search(r"[*?[]", name))
        folder, pattern = Path(*path.parts[:at]), path.parts[at:]
        if not folder.is_dir():
            kind_of(folder)  # says what is there instead, or the nearest name
            raise UserError("not a folder", str(folder), "a glob's first part must be a folder")
    found, links = _walk(folder)
    names = [name for name in found if _matches(name.split("/"), pattern)] if pattern else found
    if pattern and not names:
        near = nearest("/".join(pattern), islice(found, MOST_COMPARED))
        raise UserError(f"no file matches{near}", str(path), "`*` stays within one folder, `**` stands for any folders")
    names = _readable(folder, names, said if said is not None else [])
    if not names:
        raise UserError("no file in it that can be read as rows", str(path), f"give files ending in {', '.join(ENDINGS)}")
    if links and said is not None:
        said.append(f"{folder.name}: {counted(len(links), 'link')} left out ({some(links, 3)}); to read one, name it or what it leads to")
    return [Part(folder / name, _printable(name), weight) for name in names]


def digest(parts: Sequence[Part]) -> str:
    """A hash of names, weights and contents; of a single file its content's alone, whatever its name.

    Raises:
        UserError: a file that cannot be read.
    """
    hashes = []
    for part in parts:
        try:
            hashes.append((part.name, part.weight, sha256_file(part.path)))
        except OSError as error:
            raise as_user_error(error, part.path) from error
    return hashes[0][2] if len(hashes) == 1 else sha256_json(hashes)


def gathered(notes: Iterable[str]) -> list[str]:
    """Remarks, with those that several files share said once: `a.pdf and 2 more: it has 3 pages` rather than three of them.

    Args:
        notes: each `name: what is said`.
    """
    names: dict[str, list[str]] = {}
    for note in notes:
        name, _, what = note.partition(": ")
        names.setdefault(what, []).append(name)
    return [f"{found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {what}" for what, found in names.items()]


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    """The names of all files below a folder but the hidden ones, and those of the links, each sorted: nothing is read twice, or from elsewhere."""

    def refused(error: OSError) -> None:
        raise as_user_error(error, Path(error.filename or folder)) from error

    found, links = [], []
    for place, folders, files in os.walk(folder, onerror=refused):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*files, *folders):
            whole = os.path.join(place, name)
            below = os.path.relpath(whole, folder)
            if name.startswith("."):
                continue
            if os.path.islink(whole):
                links.append(below)
            elif os.path.isfile(whole):
                found.append(below)
    return sorted(found), sorted(links)


def _readable(folder: Path, names: Sequence[str], said: list[str]) -> list[str]:
    """Those of the names whose endings can be read; the rest is counted and said."""
    kinds = {name: ending(Path(name)) for name in names}
    tables = any(kind in TABLES for kind, _ in kinds.values())
    about = [name for name in names if tables and kinds[name][0] in (".md", ".txt") and Path(name).name.partition(".")[0].lower() in ABOUT]
    if about:
        said.append(f"{folder.name}: {some(about, 3)} left out: a text about the data")
    if unknown := Counter("".join(Path(name).suffixes[-1:]) or "none" for name in names if not kinds[name][0]):
        listed = ", ".join(f"{count:,} `{suffix}`" for suffix, count in sorted(unknown.items()))
        said.append(f"{folder.name}: {counted(unknown.total(), 'file')} left out by ending: {listed}")
    return [name for name in names if kinds[name][0] and name not in about]


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path fits a glob, name by name; `**` is any number of folders."""
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(_matches(names[index:], pattern[1:]) for index in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], pattern[0]) and _matches(names[1:], pattern[1:])


def _printable(name: str) -> str:
    """A file's name as UTF-8 can hold it: names of other encodings come from the system as half surrogates."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def sources_of(settings: DataSettings, side: str) -> tuple[SourceSettings, ...]:
    """The sources that the settings name for a side; none where it is a share of train, or `none`."""
    value = getattr(settings, side)
    if isinstance(value, (tuple, SourceSettings)):
        return value if isinstance(value, tuple) else (value,)
    return (SourceSettings(source=value),) if isinstance(value, str) and value != "none" else ()


def inputs(settings: DataSettings, said: list[str] | None = None) -> dict[str, list[Part]]:
    """The files of each side that has any; what is no file is collected into one first.

    Args:
        settings: with paths that exist from here.
        said: gets remarks.

    Raises:
        UserError: what is named is not there or cannot be read.
    """
    found: dict[str, list[Part]] = {}
    for side in SIDES:
        for one in sources_of(settings, side):
            wrong = next((key for key in ("query", "split") if getattr(one, key) is not None), None)
            if wrong and not snapshot.is_remote(one.source):
                remedy = f"leave {wrong} out, or give a database's URL or hub:OWNER/NAME"
                raise UserError(f"`{wrong}` does not go with a file", f"recipe, `data.{side}`", remedy)
            value = _collected(one, said) if snapshot.is_remote(one.source) else one.source
            files = expand(value, one.weight, said)
            found.setdefault(side, []).extend(files)
            if side == "train" and said is not None:
                said += _other_sides(Path(value).name, files)
    return found


def _other_sides(name: str, files: Sequence[Part]) -> list[str]:
    """What to say of training rows in a file (or a folder) that is named as another side, beside one that is named train."""
    named = {word: part.name for part in reversed(files) for word in re.split(r"[^a-z]+", part.name.lower())}
    other = next((side for side in ("test", "validation", "valid", "val", "dev", "eval") if side in named), None)
    if "train" not in named or other is None or named[other] == named["train"]:
        return []
    side = "test" if other == "test" else "valid"
    return [f"{name}: `{named[other]}` is read as rows to learn from, as all here are; to keep such files apart name them: data.train=..., data.{side}=..."]


_snapshots: dict[tuple[str, str | None, str | None], tuple[str, list[str]]] = {}
_place: list[tempfile.TemporaryDirectory[str]] = []
"""Where they lie until the process ends: the rows of a database may hold what privacy removes later, so no copy of them stays."""


def _collected(source: SourceSettings, said: list[str] | None) -> str:
    """The file with the rows of what is no file, taken once until `forget` is called."""
    key = (source.source, source.query, source.split)
    if key not in _snapshots:
        if not _place:
            _place.append(tempfile.TemporaryDirectory(prefix="tunesmith-"))
        told: list[str] = []
        path = snapshot.collect(source.source, source.query, Path(_place[0].name), None, source.split, told.append)
        _snapshots[key] = (str(path), told)
    if said is not None:
        said += _snapshots[key][1]
    return _snapshots[key][0]


def forget() -> None:
    """Ask databases and the Hub again from here on."""
    _snapshots.clear()
