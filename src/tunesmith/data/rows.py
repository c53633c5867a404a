"""Rows: one Arrow table a split, the same columns in memory and in Parquet.

A table, not a list of objects: a million rows stay small, steps work on whole columns, and what is on disk is what is in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith.errors import UserError
from tunesmith.files import staged_file

COMMON: list[tuple[str, pa.DataType]] = [
    ("id", pa.string()),  # the user's, or a hash of the content
    ("source", pa.string()),  # the file it came from, by name
    ("line", pa.int64()),  # 1-based line (text formats) or row number (Parquet)
    ("origin", pa.string()),  # original, augmented:how, feedback
    ("weight", pa.float32()),  # how much it counts in the loss
    ("together", pa.string()),  # rows with one value stay on one side of a split; null: none
    ("time", pa.string()),  # when it was written, as the user gave it; null: unknown
    ("attributes", pa.map_(pa.string(), pa.string())),  # kept for audits, never an input
]

LABELLED = pa.schema([*COMMON, ("text", pa.string()), ("text_pair", pa.string()), ("labels", pa.list_(pa.string()))])
"""Rows to classify: a text (and a second one for pairs) with one label, or several when `multi_label`."""


def table(columns: Mapping[str, Sequence[Any]], schema: pa.Schema = LABELLED) -> pa.Table:
    """Make a table of rows; columns that are not given get their default (weight 1, origin "original", else null).

    Args:
        columns: one sequence a column, all of one length.
        schema: the row type.

    Returns:
        A table with exactly the schema's columns, in its order.
    """
    rows = len(next(iter(columns.values()))) if columns else 0
    defaults: dict[str, Any] = {"weight": 1.0, "origin": "original", "attributes": {}}
    arrays = [pa.array(columns.get(field.name, [defaults.get(field.name)] * rows), type=field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def write(rows: pa.Table, path: Path) -> None:
    """Write rows as Parquet, whole or not at all; the same rows give the same bytes."""
    with staged_file(path) as staging:
        pq.write_table(rows, staging, compression="zstd")


def read(path: Path) -> pa.Table:
    """Read rows that `write` wrote.

    Raises:
        UserError: the file is not there or damaged.
    """
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot be read as rows ({error})", str(path), "run `tunesmith prepare` again") from error


def strings(rows: pa.Table, column: str) -> list[str]:
    """A text column as a Python list."""
    return rows.column(column).to_pylist()  # type: ignore[no-any-return]  # pyarrow has no types


def label_lists(rows: pa.Table) -> list[list[str]]:
    """The labels of each row."""
    return rows.column("labels").to_pylist()  # type: ignore[no-any-return]  # pyarrow has no types
