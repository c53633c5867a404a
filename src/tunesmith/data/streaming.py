"""From files of any size to dialogues, completions or documents on three sides, with little more memory for a larger file.

A first pass reads, checks and stages the rows and notes a few numbers of each (`ledger`); these say which rows repeat others; a second
pass over the staged rows writes the sides. Beside buffers of fixed size there is one byte a row in memory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from tunesmith.data import dialogues, ledger, rows, split, text_card
from tunesmith.data.layouts import Layout, layout
from tunesmith.data.ledger import PACKED, SIDES, Ledger
from tunesmith.data.prepare import FEWEST_ROWS, input_files, rejected_line
from tunesmith.data.sources import BadRow
from tunesmith.data.streams import HEAD_RECORDS, Stream
from tunesmith.data.validate import KEYS, MOST_SHOWN, DataSettings, stop_for
from tunesmith.errors import Problems, UserError, counted, nearest, some
from tunesmith.files import STAGING, SURROUNDINGS, as_user_error, fsync_file, fsync_folder, sha256_file, staged_file, sweep_staging, write_json

BATCH_ROWS = rows.GROUP_ROWS
BATCH_CHARACTERS = 4 << 20
"""A batch of staged rows is closed early beyond this, so that long documents stay bounded too."""
TELL_SECONDS = 0.5
"""Progress is told at most this often."""

Progress = Callable[[int, int], None]


def prepare_stream(settings: DataSettings, kind: str, folder: Path, progress: Progress | None = None, rejected: Path | None = None) -> dict[str, Any]:
    """Read, check, divide and write rows of a kind, a batch at a time.

    Args:
        settings: with paths that exist from here.
        kind: dialogue, completion or document (`layouts.infer`).
        folder: gets train.parquet, valid.parquet, test.parquet (those there are), rejected.jsonl and, last, card.json, all of them or none.
            What an earlier preparation left there is deleted first.
        progress: told (bytes done, bytes in all) from time to time.
        rejected: where bad rows are kept when they stop the run; None keeps and names no place.

    Returns:
        The card.

    Raises:
        UserError: a file that cannot be used, missing columns, bad rows under `on_bad_row: stop`, too few rows.
    """
    assert kind in rows.KINDS and kind != "labelled"
    if wrong := [key for keys in KEYS.values() for key in keys if key not in KEYS[kind] and getattr(settings, key)]:
        raise UserError(f"`data.{wrong[0]}` does not go with {text_card.NAMES[kind]}", "recipe", "leave it out, or set data.rows to what the rows are")
    files = input_files(settings)
    own = {side: index for index, side in enumerate(files) if side != "train"}
    shares = {side: float(value) if not isinstance(value, str) else 0.0 for side, value in (("valid", settings.valid), ("test", settings.test))}
    with _workplace(folder) as work:
        first = _FirstPass(settings, kind, work, shares, _Teller(files, progress))
        with first:
            for index, (side, path) in enumerate(files.items()):
                first.read(index, side, path)
        book = first.book
        book.close()
        if settings.id is not None:
            ledger.same_ids(book)
        left_out = Counter(first.rejected)
        if (book.verdict == ledger.SAME_ID).any():
            left_out["repeated id"] += int((book.verdict == ledger.SAME_ID).sum())
        if left_out and settings.on_bad_row == "stop":
            raise _stopped(first, left_out.total(), rejected)
        shared = ledger.same_contents(book, own)
        usable = _usable(book)
        if usable < FEWEST_ROWS:
            remedy = "add rows" if kind != "document" else "add documents; in a .txt file blank lines, or lines of `<|endoftext|>`, divide them"
            raise UserError(f"{usable} usable rows; at least {FEWEST_ROWS} are needed", str(files["train"]), remedy)
        if own and settings.together:
            ledger.same_groups(book, own)
        sides = [side for side in SIDES if side == "train" or side in own or shares[side]]
        counts = {side: count for side, count in ledger.count_sides(book).items() if side in sides}
        for side, count in counts.items():
            if not count:
                raise UserError(f"no row is left for {side}", str(files["train"]), f"add rows, enlarge data.{side}, or check `together`")
        if shared:
            what = f"{counted(shared, 'row')} in both {files['valid'].name} and {files['test'].name}"
            first.notes.append(f"{what}: the kept step is chosen with a look at the test rows")
        texts, answer = _second_pass(first, sides)
        for number, (reason, _, _) in enumerate(REASONS):
            if number not in (ledger.KEPT, ledger.SAME_ID) and (count := int((book.verdict == number).sum())):
                left_out[reason] += count
        found = {
            "files": {side: {"name": path.name, "sha256": sha256_file(path)} for side, path in files.items()},
            "rows": counts,
            "rejected": dict(left_out),
            "columns": first.columns,
            "notes": first.notes,
        }
        card = text_card.make(kind, book, found, texts, answer)
        for name in [*(f"{side}.parquet" for side in sides), "rejected.jsonl"]:
            os.replace(work / name, folder / name)
        fsync_folder(folder)
        write_json(folder / "card.json", card)
        first.tell.end()
    return card


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A hidden folder in `folder` for what is not finished; `folder` itself is freed of what an earlier preparation left."""
    work: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_staging(folder)
        for name in ("card.json", "labels.json", "rejected.jsonl", *(f"{side}.parquet" for side in (*SIDES, "out_of_scope"))):
            (folder / name).unlink(missing_ok=True)
        work = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder))
        yield work
    except OSError as error:
        if error.errno in SURROUNDINGS:
            raise as_user_error(error, folder) from error
        raise
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


class _Teller:
    """Tells how many bytes are done; the second pass counts as a quarter of the files."""

    def __init__(self, files: Mapping[str, Path], progress: Progress | None) -> None:
        self._progress, self._told = progress, time.monotonic()
        sizes = [path.stat().st_size if path.is_file() else 0 for path in files.values()]
        self._before = [sum(sizes[:index]) for index in range(len(sizes))]
        self.read, self.of = sum(sizes), sum(sizes) + sum(sizes) // 4

    def reading(self, index: int, at: int) -> None:
        self._tell(self._before[index] + at)

    def writing(self, share: float) -> None:
        self._tell(self.read + int((self.of - self.read) * share))

    def _tell(self, done: int) -> None:
        if self._progress and time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            self._progress(min(done, self.of), self.of)

    def end(self) -> None:
        if self._progress:
            self._progress(self.of, self.of)


class _FirstPass:
    """Reads, checks and stages the rows of one file after another; a context in which its files are open.

    Attributes: book (facts of the staged rows), rejected (bad rows by reason), shown (the first of them), notes, columns (of train), staged.
    """

    def __init__(self, settings: DataSettings, kind: str, work: Path, shares: Mapping[str, float], tell: _Teller) -> None:
        self.settings, self.kind, self.work, self.tell = settings, kind, work, tell
        self.book, self.staged = Ledger(work), work / "staged.arrow"
        self.rejected: Counter[str] = Counter()
        self.shown: list[BadRow] = []
        self.notes: list[str] = []
        self.columns: dict[str, str] = {}
        self._shares, self._schema, self._stack = shares, rows.KINDS[kind], ExitStack()
        self._empty()

    def __enter__(self) -> _FirstPass:
        self._bad: BinaryIO = self._stack.enter_context(open(self.work / "rejected.jsonl", "wb"))
        file = self._stack.enter_context(pa.OSFile(str(self.staged), "wb"))
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._rows = self._stack.enter_context(pa.ipc.new_stream(file, self._schema, options=options))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _empty(self) -> None:
        names = [field.name for field in self._schema if field.name not in ("origin", "weight")]
        self._values: dict[str, list[Any]] = {name: [] for name in names}
        self._facts = bytearray()
        self._characters = 0

    def read(self, index: int, side: str, path: Path) -> None:
        """Stage the rows of a file.

        Args:
            index: of the file; 0 is the training file, whose rows are divided.
            side: of the file's rows otherwise.
            path: the file.
        """
        stream = Stream(path)
        found = self._layout(stream, side)
        make, source = dialogues.reader(found, self.settings), path.name
        for line, value in stream:
            row = make(value) if isinstance(value, dict) else value
            if isinstance(row, dialogues.Row):
                self._add(row, index, side, source, line)
            else:
                bad = row if isinstance(row, BadRow) else BadRow(source, line, *row, row=value)
                self.rejected[bad.reason] += 1
                self._bad.write(rejected_line(bad))
                if len(self.shown) < MOST_SHOWN:
                    self.shown.append(bad)
            self.tell.reading(index, stream.at)
        self._flush()
        _check_seen(self.settings, stream)

    def _layout(self, stream: Stream, side: str) -> Layout:
        """The layout of a file, by its first records."""
        records, bad, count = [], [], 0
        for number, (_, value) in enumerate(stream):
            if isinstance(value, dict):
                records.append(value)
            else:
                count += 1
                bad += [value] if count <= MOST_SHOWN else []
            if records and number >= HEAD_RECORDS:
                break
        if not records:
            raise stop_for(bad, None, count)
        found, said = layout(self.settings, self.kind, stream.path, stream.columns, records)
        if stream.path.suffix.lower() not in (".jsonl", ".ndjson", ".json"):
            _check_seen(self.settings, stream)
        self.notes += [*stream.notes, *said]
        if side == "train":
            self.columns = found.columns()
        return found

    def _add(self, row: dialogues.Row, index: int, side: str, source: str, line: int) -> None:
        values, settings = row.values, self.settings
        group, name = values["together"], values["id"]
        digest = hashlib.sha256(row.key.encode()).digest()
        if not index:
            side = split.side(group if group is not None else row.key, self._shares["valid"], self._shares["test"], settings.split_seed)
        columns = self._values
        columns["source"].append(source)
        columns["line"].append(line)
        values["id"] = name or digest[:8].hex()
        for column, value in values.items():
            columns[column].append(value)
        ends = (row.prompt_characters, row.answer_characters, row.turns, row.flags, index, SIDES.index(side))
        self._facts += PACKED.pack(digest[:16], _hash(row.prompt), _hash(row.answer), _hash(group or ""), _hash(name or ""), line, *ends)
        self._characters += row.prompt_characters + row.answer_characters
        if len(columns["line"]) == BATCH_ROWS or self._characters > BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        if self._values["line"]:
            for batch in rows.table(self._values, self._schema).to_batches():
                self._rows.write_batch(batch)
            self.book.append(self._facts)
            self._empty()

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The staged rows, each batch with the index of its first row."""
        start = 0
        with pa.OSFile(str(self.staged), "rb") as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                yield start, batch
                start += batch.num_rows

    def left_out(self, start: int, batch: pa.RecordBatch, mask: ledger.Numbers) -> Iterator[BadRow]:
        """Why rows of a batch were dropped, those of a mask."""
        at = np.flatnonzero(mask)
        texts = text_card.pick(batch, at, self.kind)
        shared = batch.select(["id", "source", "line", "together"]).take(pa.array(at, pa.int64())).to_pylist()
        sides, firsts = self.book.look("side", at + start), self.book.look("first", at + start)
        for index, text, row, side, line in zip(at, texts, shared, sides, firsts, strict=True):
            reason, what, remedy = REASONS[int(self.book.verdict[start + index])]
            names = {"side": SIDES[side], "first": int(line), "id": row["id"], "together": row["together"]}
            yield BadRow(row["source"], row["line"], reason, what.format(**names), remedy.format(**names), text)


REASONS = (
    ("", "", ""),
    ("duplicate", "equal to line {first}", "nothing to do: the first is kept"),
    ("in test too", "this {side} row's text is also in test", "nothing to do: it left {side}"),
    ("in valid too", "this {side} row's text is also in valid", "nothing to do: it left {side}"),
    ("its group is in test", "this {side} row has the together value `{together}`, which is also in test", "nothing to do: it left {side}"),
    ("its group is in valid", "this {side} row has the together value `{together}`, which is also in valid", "nothing to do: it left {side}"),
    ("repeated id", "id `{id}` was used before, at line {first}", "ids must be unique; correct one"),
)
"""By the ledger's verdict: the reason, what was found, the remedy."""


def _hash(text: str) -> int:
    """64 bits that are never 0; 0 for no text."""
    return (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1) if text else 0


def _check_seen(settings: DataSettings, stream: Stream) -> None:
    """Columns that a row may lack must occur at least once, or their names are mistakes."""
    errors = []
    for key, name in [("time", settings.time), *((f"attributes.{name}", name) for name in settings.attributes)]:
        if name is not None and name not in stream.columns:
            what = f"no column `{name}`{nearest(name, stream.columns)}"
            errors.append(UserError(what, f"{stream.path.name}:1", f"the columns are {some(stream.columns)}; set data.{key} to one of them"))
    if errors:
        raise Problems(errors)


def _stopped(first: _FirstPass, count: int, rejected: Path | None) -> Problems:
    """The error for bad rows when the recipe says stop; all of them are written to `rejected`."""
    shown = list(first.shown)
    with open(first.work / "rejected.jsonl", "ab") as file:
        for start, batch in first.batches():
            mask = first.book.verdict[start : start + batch.num_rows] == ledger.SAME_ID
            for bad in first.left_out(start, batch, mask) if mask.any() else ():
                file.write(rejected_line(bad))
                shown += [bad] if len(shown) < MOST_SHOWN else []
    if rejected is not None:
        with staged_file(rejected) as staging:
            shutil.copyfile(first.work / "rejected.jsonl", staging)
    return stop_for(shown, rejected, count)


def _usable(book: Ledger) -> int:
    """Rows of the training file that are no repeats."""
    good = (book.verdict != ledger.TWICE) & (book.verdict != ledger.SAME_ID)
    return sum(int((good[start : start + len(file)] & (file == 0)).sum()) for start, (file,) in book.blocks("file"))


def _second_pass(first: _FirstPass, sides: Sequence[str]) -> tuple[list[str], str]:
    """Write the sides and the rest of the rejected rows into the work folder.

    Returns:
        Texts of the sampled training rows, and the commonest last answer.
    """
    book, kind = first.book, first.kind
    sampled = ledger.sample(book, text_card.SAMPLE)
    common = ledger.commonest_answer(book)[1] if kind != "document" else -1
    texts, answer = [], ""
    with ExitStack() as stack:
        writers = {side: stack.enter_context(rows.writer(first.work / f"{side}.parquet", rows.KINDS[kind])) for side in sides}
        file = stack.enter_context(open(first.work / "rejected.jsonl", "ab"))
        for start, batch in first.batches():
            end = start + batch.num_rows
            verdict, side = book.verdict[start:end], book.look("side", np.arange(start, end))
            for number, name in enumerate(SIDES):
                mask = (verdict == ledger.KEPT) & (side == number)
                if mask.any():
                    writers[name].write(batch if mask.all() else batch.filter(pa.array(mask)))
            if (dropped := verdict != ledger.KEPT).any():
                file.writelines(rejected_line(bad) for bad in first.left_out(start, batch, dropped))
            at = sampled[np.searchsorted(sampled, start) : np.searchsorted(sampled, end)] - start
            texts += [text_card.text_of(row, kind) for row in text_card.pick(batch, at, kind)]
            if start <= common < end:
                answer = text_card.answer_of(text_card.pick(batch, np.array([common - start]), kind)[0], kind)
            first.tell.writing(end / max(1, book.rows))
    fsync_file(first.work / "rejected.jsonl")
    return texts, answer
