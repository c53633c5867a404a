"""Rows: one Arrow table a split, the same columns in memory and in Parquet.

A table, not a list of objects: a million rows stay small, steps work on whole columns, and what is on disk is what is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith.core.errors import UserError
from tunesmith.core.files import staged_file

COMMON: list[tuple[str, pa.DataType]] = [
    ("id", pa.string()),  # the user's, or a hash of the content
    ("source", pa.string()),  # the file it came from, by name
    ("line", pa.int64()),  # 1-based line (text formats) or row number (Parquet)
    ("origin", pa.string()),  # original, repeated, augmented:how, feedback
    ("weight", pa.float32()),  # how much it counts in the loss
    ("together", pa.string()),  # rows with one value stay on one side of a split; null: none
    ("time", pa.string()),  # when it was written, as the user gave it; null: unknown
    ("attributes", pa.map_(pa.string(), pa.string())),  # kept for audits, never an input
]

LABELLED = pa.schema([*COMMON, ("text", pa.string()), ("text_pair", pa.string()), ("labels", pa.list_(pa.string()))])
"""Rows to classify: a text (and a second one for pairs) with one label, or several when `multi_label`."""
DIALOGUE = pa.schema([*COMMON, ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))])
"""Conversations: roles are system, user, assistant and tool; at least one message is the assistant's."""
COMPLETION = pa.schema([*COMMON, ("prompt", pa.string()), ("completion", pa.string())])
"""A text and how it goes on, both as they are: no roles, no template."""
DOCUMENT = pa.schema([*COMMON, ("text", pa.string())])
"""A text to learn the language of."""
PREFERENCE = pa.schema([*DIALOGUE, ("chosen", pa.string()), ("rejected", pa.string()), ("margin", pa.float32())])
"""Messages that wait for an answer, a better and a worse one, and how much better (null: unknown)."""

KINDS: dict[str, pa.Schema] = {
    "labelled": LABELLED,
    "dialogue": DIALOGUE,
    "completion": COMPLETION,
    "document": DOCUMENT,
    "preference": PREFERENCE,
    "prompt": DIALOGUE,
}
"""What a row can be, by the name that `data.rows` gives it."""

BATCH_ROWS = 1024
"""Rows handed on at once: what a reader holds."""
GROUP_ROWS = 4 * BATCH_ROWS
"""Rows of one row group of a streamed file. Writer and reader hold up to 20 kB about each until the end; of 1024 rows that would be 100 MB in 6 million."""
GROUP_BYTES = 4 << 20
"""A row group is closed early beyond this, so that long documents stay bounded too."""


def table(columns: Mapping[str, Any], schema: pa.Schema = LABELLED) -> pa.Table:
    """Make a table of rows; columns that are not given get their default (weight 1, origin "original", else null).

    Args:
        columns: one sequence or array a column, all of one length.
        schema: the row type.

    Returns:
        A table with exactly the schema's columns, in its order.
    """
    rows = len(next(iter(columns.values()))) if columns else 0
    defaults: dict[str, Any] = {"weight": 1.0, "origin": "original"}

    def column(field: pa.Field) -> Any:
        if field.name not in columns:
            one = pa.scalar({} if field.name == "attributes" else defaults.get(field.name), field.type)
            return pa.repeat(one, rows)
        values = columns[field.name]
        return values if isinstance(values, pa.Array) else pa.array(values, type=field.type)

    return pa.Table.from_arrays([column(field) for field in schema], schema=schema)


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


class Writer:
    """Takes batches of any size and writes row groups of GROUP_ROWS rows (fewer beyond GROUP_BYTES); made by `writer`.

    A thread packs and writes a group while the next one is gathered.
    """

    def __init__(self, file: pq.ParquetWriter, thread: Executor) -> None:
        self._file, self._held, self._rows, self._bytes = file, [], 0, 0  # type: ignore[var-annotated]  # pyarrow has no types
        self._thread, self._last = thread, Future[None]()
        self._last.set_result(None)
        self.count = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows behind those written before."""
        self.count += batch.num_rows
        while batch.num_rows:
            part = batch.slice(0, GROUP_ROWS - self._rows)
            batch = batch.slice(part.num_rows)
            self._held.append(part)
            self._rows += part.num_rows
            self._bytes += part.nbytes
            if self._rows == GROUP_ROWS or self._bytes >= GROUP_BYTES:
                self.flush()

    def flush(self) -> None:
        """Close the row group."""
        self.wait()
        if self._rows:
            self._last = self._thread.submit(self._file.write_table, pa.Table.from_batches(self._held).combine_chunks(), row_group_size=GROUP_ROWS)
        self._held, self._rows, self._bytes = [], 0, 0

    def wait(self) -> None:
        """Return, or raise what went wrong, once the groups closed so far are written."""
        self._last.result()


@contextmanager
def writer(path: Path, schema: pa.Schema) -> Iterator[Writer]:
    """Write rows batch by batch; the file takes its name on leaving without an error. The same batches give the same bytes.

    Args:
        path: the final name.
        schema: one of KINDS.

    Raises:
        UserError: no space, no permission.
    """
    # Least and greatest values of every group of rows, texts among them, are read by nobody and would take 60 bytes of memory a row until the end.
    with (
        staged_file(path) as staging,
        pq.ParquetWriter(staging, schema, compression="zstd", write_statistics=False) as file,
        ThreadPoolExecutor(1) as thread,
    ):
        one = Writer(file, thread)
        yield one
        one.flush()
        one.wait()


def batches(path: Path, columns: Sequence[str] | None = None, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Read a file of rows piece by piece, in order, with little more memory than such a piece.

    Args:
        path: what `write` or `writer` wrote.
        columns: those wanted; None is all.
        rows: most rows of a batch.

    Raises:
        UserError: the file is not there or damaged.
    """
    try:
        # What pyarrow reads ahead (pre_buffer, its default) stays in memory until the end: the whole file, 110 bytes a row of 230 characters.
        # One thread unpacks batches of a thousand rows as fast as several, each of which keeps memory of its own (50 MB in all).
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=rows, columns=None if columns is None else list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot be read as rows ({error})", str(path), "run `tunesmith prepare` again") from error


def count(path: Path) -> int:
    """How many rows a file has, without reading them.

    Raises:
        UserError: the file is not there or damaged.
    """
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot be read as rows ({error})", str(path), "run `tunesmith prepare` again") from error


def strings(rows: pa.Table, column: str) -> list[str]:
    """A text column as a Python list."""
    return rows.column(column).to_pylist()  # type: ignore[no-any-return]  # pyarrow has no types


def label_lists(rows: pa.Table) -> list[list[str]]:
    """The labels of each row."""
    return rows.column("labels").to_pylist()  # type: ignore[no-any-return]  # pyarrow has no types
