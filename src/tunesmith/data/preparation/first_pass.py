"""The first pass: files -> checked and mended rows (data/preparation/batch.py) in one staged file, and a few numbers of each in the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from tunesmith.core.errors import Problems, UserError, nearest, some
from tunesmith.core.files import reserve
from tunesmith.core.workers import Crew, helpers
from tunesmith.data import row_index, rows, texts
from tunesmith.data.cleaning import clean, personal_data
from tunesmith.data.dedup.minhash import Signatures
from tunesmith.data.kinds.layout import Layout, layout
from tunesmith.data.preparation.batch import Mended, Origin, Steps, maker
from tunesmith.data.preparation.inputs import Part
from tunesmith.data.preparation.progress import Teller
from tunesmith.data.readers.formats import DOCUMENTS, BadRow, Item, ending
from tunesmith.data.readers.stream import HEAD_RECORDS, BrokenFile, Stream
from tunesmith.data.row_index import SIDES, Ledger
from tunesmith.data.settings import MOST_SHOWN, DataSettings, stop_for
from tunesmith.data.texts import Row
from tunesmith.data.verdicts import REASONS

PIECE_ROWS, PIECE_BYTES = 2 * rows.BATCH_ROWS, 1 << 19
"""Records mended at once, and bytes of their file, so that long documents stay bounded too."""
BROKEN_FILE = "broken file"
"""The reason of a bad row that stands for the rest of a file."""
LEAST_BYTES = 8 << 20
"""Data below this are mended by this process alone: a helper takes 0.6 s to begin."""
RECURRING_ROWS, RECURRING_CHARACTERS = 20_000, 32 << 20
"""The first training rows, by which lines that recur are told."""


class FirstPass:
    """Reads, checks, mends and stages the rows of one file after another; a context in which its files are open.

    Attributes: book (facts of the staged rows), shares (of valid and test), rejected (bad rows by reason), stopping (how many of them
    stop a run under `on_bad_row: stop`), shown (the first of these), notes,
    columns (of train), staged, changed (texts changed, by step), personal (findings by kind), corrections (by id) and those that were
    corrected, labels (of rows to be divided: name -> how often, and the index of the first), learnt (kept
    training rows by label), helped (whether other processes mend rows too).
    """

    def __init__(
        self,
        settings: DataSettings,
        kind: str,
        work: Path,
        tell: Teller,
        notes: list[str],
        named: personal_data.Named | None = None,
        corrections: Mapping[str, tuple[str, ...] | None] | None = None,
    ) -> None:
        self.settings, self.kind, self.work, self.tell, self.notes = settings, kind, work, tell, notes
        self.book, self.staged = Ledger(work), work / "staged.arrow"
        self.parts: list[Part] = []
        self.rejected: Counter[str] = Counter()
        self.stopping = 0
        self.shown: list[BadRow] = []
        self.columns: dict[str, str] = {}
        self.changed: Counter[str] = Counter()
        self.personal: Counter[str] = Counter()
        self.labels: dict[str, list[int]] = {}
        self.learnt: dict[str, int] = {}
        self.corrected: dict[str, tuple[str, ...] | None] = {}
        self.given: set[str] = set()
        self.signatures: Signatures | None = None
        self.corrections, self._named = corrections or {}, named
        self.shares = {side: value if isinstance(value, float) else 0.0 for side, value in (("valid", settings.valid), ("test", settings.test))}
        self._schema, self._stack = rows.KINDS[kind], ExitStack()
        self.helped = named is None and tell.read >= LEAST_BYTES and helpers() > 0  # a user's model is held once
        self._starts: list[int] = []  # of the staged batches: the index of the first row
        self._answers: dict[int, str] = {}

    def __enter__(self) -> FirstPass:
        settings = self.settings
        key = personal_data.key_of(settings.privacy) if settings.privacy.action else b""
        steps = Steps(settings, self.kind, key, self.corrections, self._named)
        self.hidden = steps.hidden
        if settings.duplicates.near is not None:
            self.signatures = Signatures(self.work, settings.duplicates.near)
            self._stack.callback(self.signatures.close)
        self._bad: BinaryIO = self._stack.enter_context(open(self.work / "rejected.jsonl", "wb"))
        file = self._stack.enter_context(pa.OSFile(str(self.staged), "wb"))
        self._rows = self._stack.enter_context(pa.ipc.new_file(file, self._schema))
        given = {"settings": settings.model_dump(mode="json"), "kind": self.kind, "key": key.hex(), "corrections": self.corrections}
        self._crew = self._stack.enter_context(Crew(steps, "tunesmith.data.preparation.batch:helper", given, helpers() if self.helped else 0))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, index: int, side: str, parts: Sequence[Part]) -> None:
        """Stage the rows of one side's files.

        Args:
            index: of the side among those with files; 0 is what is to be divided.
            side: of the rows otherwise.
            parts: the files.
        """
        lines: frozenset[str] = frozenset()
        if side == "train" and self.settings.clean.boilerplate is True:
            sample, room = [], RECURRING_CHARACTERS
            for text in islice(self._sample(parts), RECURRING_ROWS):
                sample.append(text)
                room -= len(text)
                if room < 0:
                    break
            lines = clean.boilerplate(sample, self.settings.clean)
        if side == "train" and self.kind == "document":
            self.notes += _folders(parts)
        for mended in self._crew.each(self._pieces(index, side, parts, lines)):
            self._take(mended)

    def _pieces(self, index: int, side: str, parts: Sequence[Part], lines: frozenset[str]) -> Iterator[tuple[Origin, list[Item]]]:
        """The records of files, some at a time."""
        for part in parts:
            stream = Stream(part.path, part.name)
            found = self._layout(stream, side, len(parts) == 1)
            origin = Origin(part.name, len(self.parts), index, side, found, lines, stream.plain)
            self.parts.append(part)
            items: list[Item] = []
            begun = 0
            for one in _records(stream, len(parts) == 1):
                items.append(one)
                if len(items) == PIECE_ROWS or stream.at - begun > PIECE_BYTES:
                    yield origin, items
                    items, begun = [], stream.at
                    self.tell.reading(begun, self.book.rows)
            if items:
                yield origin, items
                self.tell.reading(stream.at, self.book.rows)
            self.notes += [text for text in stream.notes if text not in self.notes]
            self.tell.finished(stream.at, self.book.rows)
            if found.columns():
                _check_seen(self.settings, stream, side)

    def _take(self, mended: Mended) -> None:
        """Keep what became of a piece."""
        self._bad.writelines(mended.lines)
        self.rejected += mended.rejected
        self.stopping += mended.stopping
        self.shown += mended.shown[: MOST_SHOWN - len(self.shown)]
        broken = [bad for bad in mended.shown if bad.reason == BROKEN_FILE]
        self.notes += [f"{bad.source}:{bad.line}: {bad.what}{'; the rows before it are taken' if bad.line > 1 else ''}" for bad in broken]
        self.changed += mended.changed
        self.personal += mended.personal
        self.given |= mended.given
        self.corrected |= mended.corrected
        self._answers |= mended.answers
        for label, (count, first) in mended.labels.items():
            self.labels.setdefault(label, [0, self.book.rows + first])[0] += count
        if mended.rows is None:
            return
        (batch,) = mended.rows.combine_chunks().to_batches()
        self._rows.write_batch(batch)
        self._starts.append(self.book.rows)
        self.book.append(mended.facts)
        if self.signatures is not None:
            self.signatures.append(mended.signatures, mended.rows.num_rows)

    def _sample(self, parts: Sequence[Part]) -> Iterator[str]:
        """The texts of rows from the beginning of the files, a row's as one."""
        notes = list(self.notes)
        for part in parts:
            stream = Stream(part.path, part.name)
            found = self._layout(stream, "train", len(parts) == 1)
            make = maker(found, self.settings) if found.columns() else None
            for _, value in _records(stream, len(parts) == 1):
                row = make(value) if make is not None and isinstance(value, dict) else value
                if isinstance(row, Row):
                    yield "\n".join(texts.of(row.values, self.kind))
        self.notes[:] = notes

    def _layout(self, stream: Stream, side: str, alone: bool) -> Layout:
        """The layout of a file, by its first records; one without columns where it has none, and is not the only file."""
        if ending(stream.path)[0] in DOCUMENTS:  # each would be parsed twice, and has one column
            return self._found(stream, side, [])
        records, bad, count = [], [], 0
        for number, (_, value) in enumerate(_records(stream, alone)):
            if isinstance(value, dict):
                records.append(value)
            else:
                count += 1
                bad += [value] if count <= MOST_SHOWN else []
            if records and number >= HEAD_RECORDS:
                break
        if not records and not alone:
            return Layout(self.kind, "text")
        if not records:
            raise stop_for(bad, None, count)
        return self._found(stream, side, records)

    def _found(self, stream: Stream, side: str, records: list[dict[str, Any]]) -> Layout:
        settings, kind = self.settings, self.kind
        if side == "out_of_scope":
            column = "text" if ending(stream.path)[0] in DOCUMENTS else self.columns.get("text")
            settings, kind = settings.model_copy(update={"text": column}), "outside"
        found, said = layout(settings, kind, stream.path, stream.columns, records, stream.name)
        if ending(stream.path)[0] not in (".jsonl", ".ndjson", ".json") and kind != "outside":
            _check_seen(self.settings, stream, side)
        self.notes += [text for text in (*stream.notes, *said) if text not in self.notes]
        if side == "train" and not self.columns:
            self.columns = found.columns()
        return found

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The staged rows, each batch with the index of its first row."""
        start = 0
        with pa.OSFile(str(self.staged), "rb") as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                yield start, batch
                start += batch.num_rows

    def answers_at(self, indices: row_index.Numbers) -> list[str]:
        """The last answers of some staged rows, by sorted index (M,)."""
        out: list[str] = []
        wanted = pa.ipc.IpcReadOptions(included_fields=[self._schema.get_field_index(name) for name in texts.COLUMNS[self.kind]])
        with pa.OSFile(str(self.staged), "rb") as file, pa.ipc.open_file(file, options=wanted) as reader:
            of, begins = np.unique(np.searchsorted(self._starts, indices, side="right") - 1, return_index=True)
            for number, at in zip(of.tolist(), np.split(indices, begins[1:]), strict=True):
                batch = reader.get_batch(number).take(pa.array(at - self._starts[number], pa.int64()))
                out += [texts.answer(values) for values in self.sampled(batch)]
        return out

    def vectors(self, make: Callable[[Sequence[str]], row_index.Numbers]) -> row_index.Numbers:
        """Vectors of all staged rows, on disk: float32 (N, D)."""
        file: Any = None
        for start, batch in self.batches():
            found = np.asarray(make(self.texts_of(batch)), np.float32)
            if file is None:
                shape = (self.book.rows, found.shape[1])
                with open(self.work / "vectors", "wb") as empty:
                    reserve(empty.fileno(), shape[0] * shape[1] * found.itemsize)
                file = row_index.mapped(self.work / "vectors", "f4", write=True).reshape(shape)
            file[start : start + len(found)] = found
            self.tell.writing(0)
        return np.asarray(file)

    def texts_of(self, batch: pa.RecordBatch) -> list[str]:
        """The texts by which staged rows are compared, a row's as one."""
        return [texts.compared(values, self.kind) for values in self.sampled(batch)]

    def sampled(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        """The columns with texts of some staged rows."""
        found: list[dict[str, Any]] = batch.select(list(texts.COLUMNS[self.kind])).to_pylist()
        return found

    def left_out(self, start: int, batch: pa.RecordBatch, mask: row_index.Numbers) -> Iterator[BadRow]:
        """Why rows of a batch were dropped, those of a mask."""
        at = np.flatnonzero(mask)
        picked = batch.select([*texts.COLUMNS[self.kind], *(["labels"] if self.kind == "labelled" else [])]).take(pa.array(at, pa.int64())).to_pylist()
        shared = batch.select(["id", "source", "line", "together"]).take(pa.array(at, pa.int64())).to_pylist()
        sides = self.book.look("side", at + start)
        firsts, alike = self.book.first()[at + start] - 1, self.book.alike()[at + start]
        lines, parts, answers = (self.book.look(name, np.maximum(firsts, 0)) for name in ("line", "part", "answer"))
        for index, values, row, side, line, part, answer, share in zip(at, picked, shared, sides, lines, parts, answers, alike, strict=True):
            reason, what, remedy = REASONS[int(self.book.verdict[start + index])]
            other = self.parts[int(part)].name
            place = f"line {line}" + (f" of {other}" if other != row["source"] else "")
            names = {"side": SIDES[side], "first": place, "id": row["id"], "together": row["together"]}
            names["label"] = next((label for label in values.get("labels") or () if self.labels[label][0] == 1), "")
            names["other"] = f"`{one}`" if (one := self._answers.get(int(answer), "")) else "with nothing"
            names["alike"] = f"{share:.0%}"
            given = {name: value for name, value in values.items() if value is not None}
            yield self.hidden(BadRow(row["source"], row["line"], reason, what.format(**names), remedy.format(**names), given))


def _records(stream: Stream, alone: bool) -> Iterator[Item]:
    """The records of a file; of one among several that cannot be read, or not to its end, the last is a bad row that says so."""
    line = 0
    try:
        for line, value in stream:
            yield line, value
    except BrokenFile as error:
        if alone:
            raise
        place = error.where.removeprefix(f"{stream.path}:")
        line = int(place) if place.isdigit() else line + 1
        yield line, BadRow(stream.name, line, BROKEN_FILE, error.what, error.remedy)


def _folders(parts: Sequence[Part]) -> list[str]:
    """What to say of documents in several folders, whose names may be labels."""
    inside = [part for part in parts if "/" in part.name and ending(part.path)[0] in DOCUMENTS]
    folders = {part.name.split("/")[-2] for part in inside}
    if len(folders) < 2:
        return []
    top = inside[0].path.parents[inside[0].name.count("/")].name
    return [f"{top}: the documents lie in {len(folders)} folders, whose names are the column `folder`; if they are labels: data.label=folder"]


def _check_seen(settings: DataSettings, stream: Stream, side: str) -> None:
    """Columns that a row may lack must occur at least once, or their names are mistakes."""
    if side == "out_of_scope" or ending(stream.path)[0] in DOCUMENTS:
        return
    errors = []
    for key, name in [("time", settings.time), *((f"attributes.{name}", name) for name in settings.attributes)]:
        if name is not None and name not in stream.columns:
            what = f"no column `{name}`{nearest(name, stream.columns)}"
            errors.append(UserError(what, f"{stream.name}:1", f"the columns are {some(stream.columns)}; set data.{key} to one of them"))
    if errors:
        raise Problems(errors)
