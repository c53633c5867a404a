"""Data sets of the Hugging Face Hub as sources: files that hold rows, downloaded to the Hub's cache and read one record at a time.

Which files are which split is told as the Hub tells it (https://huggingface.co/docs/hub/datasets-data-files-configuration): by `configs` at
the top of README.md, else by the names of files and folders. We differ in two ways: files of one kind alone are taken, the commonest, and a
data set that is made by a script is never made: its rows come from the Parquet files that the Hub has made of it, where there are any.
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tunesmith.core.errors import UserError, nearest, some
from tunesmith.core.settings import parse_yaml
from tunesmith.data.readers.formats import BadRow
from tunesmith.data.readers.stream import Stream

PREFIX = "hub:"
NAME = re.compile(r"hub:([\w.-]+/[\w.-]+?)(?:/([\w.-]+))?(?:@(\S+))?")
CONVERTED = "refs/convert/parquet"
"""The branch where the Hub keeps CONFIG/SPLIT/0000.parquet of a data set in another form."""
ENDINGS = (".parquet", ".arrow", *(text + packed for text in (".jsonl", ".ndjson", ".json", ".csv", ".tsv") for packed in ("", ".gz", ".zst")))
NO_ROWS = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""JSON files that say something of the data set."""
ALIASES = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation", "testing": "test", "eval": "test", "evaluation": "test"}
SHARD = re.compile(r"(?:^|/)([\w.]+?)-\d{5}-of-\d{5}\.")
WORD = re.compile(rf"(?:^|[/._\- \d])(train|validation|test|{'|'.join(ALIASES)})(?=[/._\- \d]|$)", re.I)

Splits = dict[str, list[str]]


def records(value: str, split: str | None, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The rows of one split of a data set.

    Args:
        value: hub:OWNER/NAME, hub:OWNER/NAME/CONFIG, either with @REVISION behind it (a branch, a tag or a commit).
        split: its name; `valid` and the like mean what the Hub calls `validation`. None takes `train`, or the only one.
        say: told what was taken.

    Yields:
        Column -> value.

    Raises:
        UserError: no such data set, revision, configuration or split, no access, no network and not in the cache, or a file that cannot be read.
    """
    if not (found := NAME.fullmatch(value)):
        raise UserError("not the name of a data set", value, "write hub:OWNER/NAME, hub:OWNER/NAME/CONFIG or hub:OWNER/NAME@REVISION")
    repo, config, revision = found.groups()
    folder, names = _listing(repo, revision, value, say)
    splits = choose(names, _configs(folder, value), config, value) if any(map(holds_rows, names)) else {}
    if not splits and revision is None:
        folder, names = _listing(repo, CONVERTED, value, say)
        splits = converted(names, config, value)
    if not splits:
        ends = some(sorted({PurePosixPath(name).suffix or name for name in names}))
        raise UserError(f"no files of rows in it, only {ends}", value, "choose a data set with Parquet, JSON lines or CSV; scripts of data sets are not run")
    taken = wanted(splits, split, value)
    folder = _download(repo, folder.name, [glob.escape(name) for name in splits[taken]], value)
    files = f"{len(splits[taken])} file{'s' if len(splits[taken]) > 1 else ''}"
    say(f"{value}: {files} of the split `{taken}` at commit {folder.name[:12]}" + ("" if found[3] else "; a name with @COMMIT stays at one commit"))
    for name in splits[taken]:
        for line, record in Stream(folder / name):
            if isinstance(record, BadRow):
                raise UserError(record.what, f"{value}: {name}:{line}", "choose another revision or data set; nothing was kept")
            yield record


def holds_rows(name: str) -> bool:
    """Whether a file's name is that of a file of rows."""
    path = PurePosixPath(name)
    return name.lower().endswith(ENDINGS) and path.name.lower() not in NO_ROWS and not any(part.startswith((".", "__")) for part in path.parts)


def choose(names: Sequence[str], configs: Sequence[dict[str, Any]], config: str | None, place: str) -> Splits:
    """Which files are which split.

    Args:
        names: the data set's files, from its root.
        configs: the entries of `configs` in README.md, if there are any.
        config: the configuration asked for. None takes the one marked default, the one named so, or the only one.
        place: the data set, for messages.

    Returns:
        Split -> files in order; empty where no file holds rows.

    Raises:
        UserError: no such configuration, or several to choose from.
    """
    rows = sorted(filter(holds_rows, names))
    if named := [one for one in configs if "data_files" in one or "data_dir" in one]:
        known = {str(one.get("config_name", "default")): one for one in named}
        marked = [name for name, one in known.items() if one.get("default") is True]
        entry = known[_one(config, list(known), marked, "configuration", place)]
        folder = str(entry.get("data_dir") or "").strip("./")
        rows = [name for name in rows if name.startswith(f"{folder}/")] if folder else rows
        if given := entry.get("data_files"):
            pairs = [(str(one.get("split", "train")), one.get("path")) for one in given] if _entries(given) else list(_pairs(given))
            found = {split: [name for name in rows if any(_glob(str(one), folder).fullmatch(name) for one in _listed(paths))] for split, paths in pairs}
            return {split: files for split, files in found.items() if files}
    elif config is not None:
        folders = sorted({name.partition("/")[0] for name in rows if "/" in name})
        chosen = _one(config, folders, [], "configuration", place)
        rows = [name for name in rows if name.startswith(f"{chosen}/")]
    kinds = Counter(PurePosixPath(name).suffix.lower() for name in rows)
    if not kinds:
        return {}
    kind = max(kinds, key=lambda ending: (kinds[ending], ending == ".parquet"))  # the same rows often lie there in two forms
    splits: Splits = {}
    for name in rows:
        if name.lower().endswith(kind) and (split := _split_of(name)):
            splits.setdefault(split, []).append(name)
    return splits or {"train": [name for name in rows if name.lower().endswith(kind)]}


def converted(names: Sequence[str], config: str | None, place: str) -> Splits:
    """The same for the Hub's own Parquet files: CONFIG/SPLIT/0000.parquet, or CONFIG/partial-SPLIT/0000.parquet where it stopped at 5 GB."""
    parts = [(name, name.split("/")) for name in sorted(names) if name.endswith(".parquet") and name.count("/") == 2]
    if not parts:
        return {}
    chosen = _one(config, sorted({path[0] for _, path in parts}), [], "configuration", place)
    splits: Splits = {}
    for name, path in parts:
        if path[0] == chosen:
            splits.setdefault(path[1].removeprefix("partial-"), []).append(name)
    return splits


def wanted(splits: Splits, split: str | None, place: str) -> str:
    """The split that is meant.

    Raises:
        UserError: there is none of that name, or several and none is asked for.
    """
    same = [name for name in splits if _plain(name) == _plain(split or "train")]
    return split if split in splits else same[0] if same else _one(split, list(splits), [], "split", place)


def _one(name: str | None, known: list[str], marked: list[str], thing: str, place: str) -> str:
    if name is not None and name not in known:
        raise UserError(f"no {thing} `{name}`{nearest(name, known)}", place, f"it has {some(known)}" if known else f"it has no {thing}s; leave the name out")
    usual = [*marked, *(one for one in known if one == "default"), *(known if len(known) == 1 else [])]
    if name is None and not usual:
        remedy = "write hub:OWNER/NAME/CONFIG" if thing == "configuration" else "name it beside the source: split: ..."
        raise UserError(f"it has {len(known)} {thing}s: {some(known)}", place, f"choose one: {remedy}")
    return name or usual[0]


def _plain(split: str) -> str:
    return ALIASES.get(split.lower(), split.lower())


def _split_of(name: str) -> str | None:
    """The split that a file's name tells: data/NAME-00000-of-00003.parquet, else the first of the usual words in it."""
    if shard := SHARD.search(name):
        return shard[1]
    word = WORD.search(name[: -len(PurePosixPath(name).suffix)])
    return _plain(word[1]) if word else None


def _entries(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(one, dict) for one in given)


def _pairs(given: Any) -> Iterator[tuple[str, Any]]:
    yield from ((str(split), paths) for split, paths in given.items()) if isinstance(given, dict) else [("train", given)]


def _listed(paths: Any) -> list[Any]:
    return paths if isinstance(paths, list) else [paths]


def _glob(pattern: str, folder: str) -> re.Pattern[str]:
    """A pattern of README.md: * stays within a folder, ** does not; a folder means all in it."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    full = f"{folder}/{pattern.removeprefix('./')}" if folder else pattern.removeprefix("./")
    return re.compile("".join(parts.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*\*|\*|\?)", full.rstrip("/"))) + "(?:/.*)?")


def _configs(folder: Path, place: str) -> list[dict[str, Any]]:
    """`configs` at the top of README.md."""
    card = folder / "README.md"
    top = re.match(r"---\r?\n(.*?)\r?\n---", card.read_text("utf-8", "replace").lstrip("\ufeff"), re.S) if card.is_file() else None
    value = parse_yaml(top[1], f"{place}: README.md") if top else None
    found = value.get("configs") if isinstance(value, dict) else None
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _listing(repo: str, revision: str | None, place: str, say: Callable[[str], None]) -> tuple[Path, list[str]]:
    """The folder of a revision in the Hub's cache, with README.md alone downloaded, and the names of all its files."""
    folder = _download(repo, revision, ["README.md"], place)
    from huggingface_hub import errors, get_cached_repo_tree

    try:
        return folder, [file.path for file in get_cached_repo_tree(repo, repo_type="dataset", revision=folder.name)]
    except errors.CachedRepoTreeNotFoundError:
        say(f"{place}: without a network, and the cache does not say which files there are: the rows are those of the files in it")
        return folder, [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _download(repo: str, revision: str | None, patterns: list[str], place: str) -> Path:
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise UserError("the package `huggingface_hub` is not installed", place, "pip install 'tunesmith[hub]'") from None
    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError:
        remedy = f"accept its terms at https://huggingface.co/datasets/{repo}, then set HF_TOKEN to a token of yours"
        raise UserError("its owner gives access on request", place, remedy) from None
    except errors.RepositoryNotFoundError:
        raise UserError("no such data set on the Hub, or a private one", place, "check the name; for a private one set HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        if revision == CONVERTED:
            what = "no files of rows in it, and the Hub has made no Parquet of it"
            raise UserError(what, place, "choose a data set with Parquet, JSON lines or CSV; scripts of data sets are not run") from None
        raise UserError(f"it has no revision `{revision}`", place, "give a branch, a tag or a commit that is there") from None
    except (errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError):
        what = "the Hub cannot be reached, and not all of it is in the cache"
        raise UserError(what, place, "connect, unset HF_HUB_OFFLINE and try again; or give a file") from None
    except errors.HfHubHTTPError as error:
        raise UserError(f"the Hub answered: {' '.join(str(error).split())[:300]}", place, "try again later; HF_TOKEN is used where it is set") from None
