"""The room's one way through: files -> records -> rows -> no duplicates -> sides -> card."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from tunesmith.data import card, duplicates, rows, sources, split
from tunesmith.data.validate import DataSettings, columns_for, lonely, stop_for, texts_alone, validate
from tunesmith.errors import UserError
from tunesmith.files import sha256_file, write_bytes, write_json

SIDES = ("train", "valid", "test", "out_of_scope")
"""The Parquet files of a prepared run, those of them that it has."""
FEWEST_ROWS = 8
"""Below this nothing can be split, learnt and measured."""


@dataclass(frozen=True)
class Prepared:
    """Rows by side (train, valid, test), the label names in order, the card, and what was left out."""

    splits: dict[str, pa.Table]
    labels: list[str]
    multi_label: bool
    card: dict[str, Any]
    rejected: list[sources.BadRow] = field(default_factory=list)


def input_files(settings: DataSettings) -> dict[str, Path]:
    """The files the settings name, by side."""
    sides = {side: getattr(settings, side) for side in SIDES}
    return {side: Path(value) for side, value in sides.items() if isinstance(value, str) and value != "none"}


def prepare(settings: DataSettings, rejected_path: Path | None = None) -> Prepared:
    """Read, check and divide the data.

    Args:
        settings: with paths that exist from here (the recipe has resolved them).
        rejected_path: where every bad row is written, also when they stop the run; None writes nothing.

    Returns:
        The rows of each side and their card.

    Raises:
        UserError: a file that cannot be used, missing columns, bad rows under `on_bad_row: stop`, too few rows or labels.
    """
    notes: list[str] = []
    bad: list[sources.BadRow] = []
    read: dict[str, pa.Table] = {}
    columns: dict[str, dict[str, str | None]] = {}
    files = input_files(settings)
    outside = files.pop("out_of_scope", None)
    for side, path in files.items():
        records = sources.read(path)
        if not records.records:
            raise stop_for(records.bad, None)
        mapped, said = columns_for(settings, records)
        notes += records.notes + said
        columns[side] = {key: getattr(mapped, key) for key in ("text", "text_pair", "label")}
        read[side], wrong = validate(records, mapped)
        bad += wrong
    read["train"], wrong = _without(read["train"], lonely(read["train"]))
    bad += wrong
    if outside is not None:
        beyond, wrong = texts_alone(sources.read(outside), columns["train"]["text"] or "")
        bad += wrong
    if bad and rejected_path:
        write_rejected(rejected_path, bad)
    if bad and settings.on_bad_row == "stop":
        raise stop_for(bad, rejected_path)
    read["train"], twice = duplicates.drop_within(read["train"])
    bad += twice
    if read["train"].num_rows < FEWEST_ROWS:
        raise UserError(f"{read['train'].num_rows} usable rows; at least {FEWEST_ROWS} are needed", str(files["train"]), "add labelled rows")
    shares = {side: float(value) if not isinstance(value, str) else 0.0 for side, value in (("valid", settings.valid), ("test", settings.test))}
    splits = split.assign(read["train"], shares["valid"], shares["test"], settings.split_seed) | {s: t for s, t in read.items() if s != "train"}
    splits, leaks = duplicates.drop_across(splits, frozenset(read) - {"train"})
    bad += leaks
    if {"valid", "test"} <= read.keys() and (shared := len(set(duplicates.keys(splits["valid"])) & set(duplicates.keys(splits["test"])))):
        notes.append(f"{shared} texts stand in both {files['valid'].name} and {files['test'].name}: the kept step is chosen with a look at the test rows")
    names = sorted({label for table in splits.values() for labels in rows.label_lists(table) for label in labels})
    if len(names) < 2:
        raise UserError(f"all rows bear the label `{names[0] if names else ''}`", str(files["train"]), "a classifier needs at least two labels")
    for side, table in splits.items():
        if not table.num_rows:
            raise UserError(f"no row is left for {side}", str(files["train"]), f"add rows, enlarge data.{side}, or check `together`")
    if outside is not None:
        splits["out_of_scope"] = beyond
        files["out_of_scope"] = outside
    made = card.make(splits, {side: {"name": path.name, "sha256": sha256_file(path)} for side, path in files.items()}, bad, notes)
    made["columns"] = columns["train"]
    return Prepared(splits, names, settings.multi_label, made, bad)


def _without(table: pa.Table, bad: list[sources.BadRow]) -> tuple[pa.Table, list[sources.BadRow]]:
    lines = {one.line for one in bad}
    return table.filter(pa.array([line not in lines for line in table.column("line").to_pylist()], pa.bool_())), bad


def write_rejected(path: Path, bad: list[sources.BadRow]) -> None:
    """Write every row left out, one JSON object a line, with the reason and the remedy."""
    write_bytes(path, b"".join(map(rejected_line, bad)))


def rejected_line(bad: sources.BadRow) -> bytes:
    """A row left out as a line of rejected.jsonl."""
    value = {"file": bad.source, "line": bad.line, "reason": bad.reason, "what": bad.what, "remedy": bad.remedy, "row": bad.row}
    return (json.dumps(value, ensure_ascii=False, default=str) + "\n").encode("utf-8", "backslashreplace")


def save(prepared: Prepared, folder: Path) -> None:
    """Write `train.parquet`, `valid.parquet`, `test.parquet`, `rejected.jsonl`, `labels.json` and, last, `card.json`."""
    for side, table in prepared.splits.items():
        rows.write(table, folder / f"{side}.parquet")
    write_rejected(folder / "rejected.jsonl", prepared.rejected)
    write_json(folder / "labels.json", {"labels": prepared.labels, "multi_label": prepared.multi_label})
    write_json(folder / "card.json", prepared.card)
