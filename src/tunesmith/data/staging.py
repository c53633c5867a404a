"""The first pass: files -> checked and mended rows in one staged file, and a few numbers of each in the ledger.

A row's way: record -> row (or why it is bad) -> cleaned -> wanted (or not) -> personal data hidden -> staged. Each step after the first works on a
batch; what it drops or changes is counted by reason and stands in rejected.jsonl.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from tunesmith.data import clean, dialogues, labelled, ledger, privacy, rows, split, texts
from tunesmith.data.layouts import Layout, layout
from tunesmith.data.ledger import PACKED, SIDES, Ledger
from tunesmith.data.parts import Part
from tunesmith.data.reasons import NOTHING_LEFT, REASONS, UNSTOPPING, rejected_line
from tunesmith.data.sources import DOCUMENTS, BadRow, ending
from tunesmith.data.streams import HEAD_RECORDS, Stream
from tunesmith.data.telling import Teller
from tunesmith.data.texts import Row, Wrong
from tunesmith.data.validate import BROKEN, MOST_SHOWN, DataSettings, common, encodable, stop_for
from tunesmith.errors import Problems, UserError, nearest, some

if TYPE_CHECKING:
    from tunesmith.data.near import Signatures

BATCH_ROWS = rows.BATCH_ROWS
BATCH_CHARACTERS = 4 << 20
"""A batch of staged rows is closed early beyond this, so that long documents stay bounded too."""
RECURRING_ROWS, RECURRING_CHARACTERS = 20_000, 32 << 20
"""The first training rows, by which lines that recur are told."""

MOST_NAMES = 100_000
"""Names whose marks are held at once."""
FILLED = ("source", "line", "origin", "weight")
"""Columns that the pass fills in itself."""
SHARED = ("together", "time", "attributes")
"""Columns that only some recipes fill."""
NOT_SHARED: dict[str, Any] = {"id": None, "together": None, "time": None, "attributes": []}
"""What every kind of row has, for rows that are only measured."""



class _Pending(NamedTuple):
    """A row on its way: its line, the row, and the columns that every kind has; its id is the user's or None."""

    line: int
    row: Row
    shared: dict[str, Any]


class FirstPass:
    """Reads, checks, mends and stages the rows of one file after another; a context in which its files are open.

    Attributes: book (facts of the staged rows), shares (of valid and test), rejected (bad rows by reason), stopping (how many of them
    stop a run under `on_bad_row: stop`), shown (the first of these), notes,
    columns (of train), staged, changed (texts changed, by step), personal (findings by kind), corrections (by id) and those that were
    corrected, labels (of rows to be divided: name -> how often, and the index of the first), learnt (kept
    training rows by label).
    """

    def __init__(
        self,
        settings: DataSettings,
        kind: str,
        work: Path,
        tell: Teller,
        notes: list[str],
        named: privacy.Named | None = None,
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
        self._hides = settings.privacy.action not in (None, "report")
        self._marked: dict[str, str] = {}
        self.corrected: dict[str, tuple[str, ...] | None] = {}
        self.given: set[str] = set()
        self.signatures: Signatures | None = None
        self.corrections, self._named = corrections or {}, named
        self.shares = {side: value if isinstance(value, float) else 0.0 for side, value in (("valid", settings.valid), ("test", settings.test))}
        self._schema, self._stack = rows.KINDS[kind], ExitStack()
        self._key = privacy.key_of(settings.privacy) if settings.privacy.action else b""
        self._lines: frozenset[str] = frozenset()
        self._cleans = settings.clean != clean.CleanSettings()
        self._pending: list[_Pending] = []
        self._starts: list[int] = []
        self._answers: dict[int, str] = {}
        self._hashes: dict[str, int] = {}
        self._characters = 0
        self._input, self._side, self._source, self._shares = 0, "train", "", True

    def __enter__(self) -> FirstPass:
        if self.settings.duplicates.near is not None:
            from tunesmith.data.near import Signatures
            from tunesmith.data.signer import LEAST_BYTES

            self.signatures = Signatures(self.work, self.settings.duplicates.near, self.tell.read >= LEAST_BYTES and (os.cpu_count() or 1) > 1)
        self._bad: BinaryIO = self._stack.enter_context(open(self.work / "rejected.jsonl", "wb"))
        file = self._stack.enter_context(pa.OSFile(str(self.staged), "wb"))
        self._rows = self._stack.enter_context(pa.ipc.new_file(file, self._schema))
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        try:
            self._stack.close()
            if self.signatures is not None and kind is None:
                self.signatures.close()
        finally:
            if self.signatures is not None:
                self.signatures.drop()

    def read(self, index: int, side: str, parts: Sequence[Part]) -> None:
        """Stage the rows of one side's files.

        Args:
            index: of the side among those with files; 0 is what is to be divided.
            side: of the rows otherwise.
            parts: the files.
        """
        self._input, self._side, settings = index, side, self.settings
        self._shares = side != "out_of_scope" and bool(settings.id or settings.together or settings.time or settings.attributes)
        if side == "train" and self.settings.clean.boilerplate is True:
            sample, room = [], RECURRING_CHARACTERS
            for text in islice(self._sample(parts), RECURRING_ROWS):
                sample.append(text)
                room -= len(text)
                if room < 0:
                    break
            self._lines = clean.boilerplate(sample, self.settings.clean)
        for part in parts:
            self.parts.append(part)
            self._source = part.name
            stream = Stream(part.path, part.name)
            make, told = self._maker(stream, side), 0
            for line, value in stream:
                if isinstance(value, BadRow):
                    self.reject(value)
                else:
                    row = make(value)
                    shared = common(value, settings) if self._shares else NOT_SHARED
                    if isinstance(row, Row) and isinstance(shared, dict):
                        self._add(line, row, shared)
                    else:
                        reason, what, remedy = row if not isinstance(row, Row) else shared
                        self.reject(BadRow(part.name, line, reason, what, remedy, value))
                if stream.at != told:
                    told = stream.at
                    self.tell.reading(told, self.book.rows + len(self._pending))
            self._flush()
            self.notes += [text for text in stream.notes if text not in self.notes]
            self.tell.finished(stream.at, self.book.rows)
            _check_seen(self.settings, stream, side)

    def _maker(self, stream: Stream, side: str) -> Callable[[dict[str, Any]], Row | Wrong]:
        found = self._layout(stream, side)
        return labelled.reader(found, self.settings) if found.kind == "labelled" else dialogues.reader(found, self.settings)

    def _sample(self, parts: Sequence[Part]) -> Iterator[str]:
        """The texts of rows from the beginning of the files, a row's as one."""
        notes = list(self.notes)
        for part in parts:
            stream = Stream(part.path, part.name)
            make = self._maker(stream, "train")
            for _, value in stream:
                row = make(value) if isinstance(value, dict) else value
                if isinstance(row, Row):
                    yield "\n".join(texts.of(row.values, self.kind))
        self.notes[:] = notes

    def _layout(self, stream: Stream, side: str) -> Layout:
        """The layout of a file, by its first records."""
        if ending(stream.path)[0] in DOCUMENTS:  # each would be parsed twice, and has one column
            stream.columns = {"text": None}
            return self._found(stream, side, [])
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
        return self._found(stream, side, records)

    def _found(self, stream: Stream, side: str, records: list[dict[str, Any]]) -> Layout:
        settings, kind = self.settings, self.kind
        if side == "out_of_scope":
            column = "text" if ending(stream.path)[0] in DOCUMENTS else self.columns.get("text")
            settings, kind = settings.model_copy(update={"text": column}), "outside"
        found, said = layout(settings, kind, stream.path, stream.columns, records)
        if ending(stream.path)[0] not in (".jsonl", ".ndjson", ".json") and kind != "outside":
            _check_seen(self.settings, stream, side)
        self.notes += [text for text in (*stream.notes, *said) if text not in self.notes]
        if side == "train" and not self.columns:
            self.columns = found.columns()
        return found

    def reject(self, bad: BadRow) -> None:
        """Leave a row out."""
        self.rejected[bad.reason] += 1
        self.stopping += bad.reason not in UNSTOPPING and self._side != "out_of_scope"
        hidden = self.hidden(bad)
        self._bad.write(rejected_line(hidden))
        if len(self.shown) < MOST_SHOWN and bad.reason not in UNSTOPPING and self._side != "out_of_scope":
            self.shown.append(hidden)

    def hidden(self, bad: BadRow) -> BadRow:
        """The same without the personal data that the recipe says shall go."""
        if not self._hides:
            return bad
        what, row = (privacy.hide_in(value, self.settings.privacy, self._key, self._named) for value in (bad.what, bad.row))
        return BadRow(bad.source, bad.line, bad.reason, what, bad.remedy, row)

    def _add(self, line: int, row: Row, shared: dict[str, Any]) -> None:
        if not encodable(row.key):
            what = "a text holds half of a surrogate pair"
            self.reject(BadRow(self._source, line, BROKEN[0], what, BROKEN[2], row=row.values))
            return
        self._pending.append(_Pending(line, row, shared))
        self._characters += row.prompt_characters + row.answer_characters
        if len(self._pending) == BATCH_ROWS or self._characters > BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        """Mend and stage what is pending."""
        pending, self._pending, self._characters = self._pending, [], 0
        if self._cleans:
            pending = self._cleaned(pending)
        pending, values = self._identified(pending)
        if self.settings.privacy.action:
            kept = self._unseen(pending, values)
            pending, values = [pending[at] for at in kept], [values[at] for at in kept]
        if not pending:
            return
        names = [field.name for field in self._schema if field.name not in FILLED and (self._shares or field.name not in SHARED)]
        columns: dict[str, Any] = {name: [one.get(name) for one in values] for name in names}
        columns |= {"source": pa.repeat(self._source, len(values)), "line": [one.line for one in pending]}
        facts = b"".join(self._facts(pending))
        (batch,) = rows.table(columns, self._schema).combine_chunks().to_batches()
        self._rows.write_batch(batch)
        self._starts.append(self.book.rows)
        self.book.append(facts)
        if self.signatures is not None:
            self.signatures.append([texts.compared(one, self.kind) for one in values])

    def _identified(self, pending: list[_Pending]) -> tuple[list[_Pending], list[dict[str, Any]]]:
        """The rows with the labels that a person has corrected, without those that he dropped, and all their columns, an id each."""
        out, values = [], []
        labelled_, corrections = self.kind == "labelled", self.corrections
        for one in pending:
            row, name = one.row, one.shared["id"]
            if name is None:
                content = row.key
                if labelled_:
                    content = "\x1f".join([row.values["text"], row.values["text_pair"] or "", *row.values["labels"]])
                name = hashlib.sha256(content.encode()).hexdigest()[:16]
            given = row
            if self._hides and labelled_:
                row = labelled.row(row.values["text"], row.values["text_pair"], sorted({self._mark(label) for label in row.values["labels"]}))
            if corrections:
                self.given.update(row.values["labels"])
                if name in corrections and not self._input:
                    better = self.corrected[name] = corrections[name]
                    if better is None:
                        self.reject(BadRow(self._source, one.line, "dropped by hand", "data.corrections says drop", "nothing to do", row.values))
                        continue
                    row = labelled.row(row.values["text"], row.values["text_pair"], sorted(better))
            out.append(one if row is given else one._replace(row=row))
            values.append({**row.values, **one.shared, "id": name})
        return out, values

    def _cleaned(self, pending: list[_Pending]) -> list[_Pending]:
        """The rows that are wanted, with cleaned texts."""
        settings = self.settings.clean
        before = [texts.of(one.row.values, self.kind) for one in pending]
        flat = clean.clean([text for one in before for text in one], settings, self._lines)
        self.changed += flat.counts
        filters = bool(settings.least_characters or settings.most_characters or settings.languages)
        if not (flat.counts or filters):
            return pending
        out, at = [], 0
        for one, old in zip(pending, before, strict=True):
            new, at = flat.texts[at : at + len(old)], at + len(old)
            changed = new != old
            if not (changed or filters):
                out.append(one)
                continue
            row: Row | Wrong = one.row
            if changed:
                row = remade(self.kind, texts.put(one.row.values, self.kind, new)) if all(text.strip() for text in new) else NOTHING_LEFT
            wrong = row if not isinstance(row, Row) else clean.unwanted("\n".join(new), settings)
            was = self._as_it_was(old, new) if changed else old
            if wrong is not None:
                self.reject(BadRow(self._source, one.line, *wrong, row=texts.put(one.row.values, self.kind, was)))
                continue
            if changed:
                self._bad.write(rejected_line(self.hidden(BadRow(self._source, one.line, "cleaned", "its texts before cleaning", "", was)), kept=True))
            assert isinstance(row, Row)
            out.append(one if row is one.row else one._replace(row=row))
        return out

    def _as_it_was(self, old: list[str], new: list[str]) -> list[str]:
        """Texts before cleaning; or after it, hidden, where cleaning shows personal data that nobody would find before (`&#64;` becomes `@`)."""
        if not self._hides:
            return old
        after = privacy.hide(new, self.settings.privacy, self._key, self._named)
        return list(after.texts) if any(after.found) else old

    def _unseen(self, pending: list[_Pending], values: list[dict[str, Any]]) -> list[int]:
        """Hide personal data in the values, in place; the indices of the rows that stay."""
        settings = self.settings.privacy
        before = [texts.of(one.row.values, self.kind) for one in pending]
        flat = privacy.hide([text for one in before for text in one], settings, self._key, self._named)
        rest = iter(zip(flat.texts, flat.found, strict=True))
        kept = []
        for at, (one, old) in enumerate(zip(pending, before, strict=True)):
            new = [next(rest) for _ in old]
            found: Counter[str] = Counter()
            for _, counts in new:
                found.update(counts)
            self.personal += found
            if found:
                self.personal["rows"] += 1
            if found and settings.action == "drop":
                what = "personal data: " + ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
                self.reject(BadRow(self._source, one.line, "personal data", what, "nothing to do: the recipe says drop", one.row.values))
                continue
            kept.append(at)
            if settings.action == "report":
                continue
            if found:
                values[at] = texts.put(values[at], self.kind, [text for text, _ in new])
                row = remade(self.kind, values[at])
                if settings.action == "mask" and isinstance(row, Row):  # texts that differed in what is masked are equal now
                    pending[at] = one._replace(row=row)
                if one.shared["id"] is None:  # a plain hash of a text could be guessed back to what was hidden in it
                    values[at]["id"] = hashlib.blake2b(one.row.key.encode(), digest_size=8, key=self._key[:64]).hexdigest()
            for name in ("id", "together", "time"):
                if values[at][name] is not None and (name != "id" or one.shared["id"] is not None):
                    values[at][name] = self._mark(values[at][name])
            values[at]["attributes"] = [(name, self._mark(value)) for name, value in values[at]["attributes"]]
        return kept

    def _mark(self, name: str) -> str:
        """A name (an id, a group, a label) without personal data; names that differ stay told apart."""
        if name not in self._marked:
            if len(self._marked) >= MOST_NAMES:
                self._marked.clear()
            settings = self.settings.privacy.model_copy(update={"action": "pseudonymise"})
            self._marked[name] = privacy.hide([name], settings, self._key, self._named).texts[0]
        return self._marked[name]

    def _facts(self, pending: list[_Pending]) -> Iterator[bytes]:
        """The rows' facts, each packed."""
        labelled_, divided, part, side = self.kind == "labelled", not self._input, len(self.parts) - 1, SIDES.index(self._side)
        valid, test, seed = self.shares["valid"], self.shares["test"], self.settings.split_seed
        for index, one in enumerate(pending, self.book.rows):
            row, shared = one.row, one.shared
            group = shared["together"]
            answer = self._hashes.get(row.answer) if labelled_ else _hash(row.answer)
            if answer is None:  # labels recur: hashed once
                answer = self._hashes[row.answer] = _hash(row.answer)
            if divided:
                side = SIDES.index(split.side(group if group is not None else row.key, valid, test, seed))
                if labelled_:
                    self._answers[answer] = "|".join(row.values["labels"])
                    for label in row.values["labels"]:
                        self.labels.setdefault(label, [0, index])[0] += 1
            digest = hashlib.sha256(row.key.encode()).digest()
            hashes = (_hash(row.prompt), answer, _hash(group), _hash(shared["id"]))
            yield PACKED.pack(digest[:16], *hashes, one.line, *row[4:], part, split.moment(shared["time"]), self._input, side)

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The staged rows, each batch with the index of its first row."""
        start = 0
        with pa.OSFile(str(self.staged), "rb") as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                yield start, batch
                start += batch.num_rows

    def texts_at(self, indices: ledger.Numbers, answers: bool = False) -> list[str]:
        """The texts of some staged rows, by sorted index (M,), a row's as one; or the last answers alone."""
        out: list[str] = []
        wanted = pa.ipc.IpcReadOptions(included_fields=[self._schema.get_field_index(name) for name in texts.COLUMNS[self.kind]])
        with pa.OSFile(str(self.staged), "rb") as file, pa.ipc.open_file(file, options=wanted) as reader:
            of = np.searchsorted(self._starts, indices, side="right") - 1
            for number in np.unique(of):
                at = indices[of == number] - self._starts[number]
                batch = reader.get_batch(int(number)).take(pa.array(at, pa.int64()))
                out += [texts.answer(values) for values in self.sampled(batch)] if answers else self.texts_of(batch)
        return out

    def vectors(self, make: Callable[[Sequence[str]], ledger.Numbers]) -> ledger.Numbers:
        """Vectors of all staged rows, on disk: float32 (N, D)."""
        file: Any = None
        for start, batch in self.batches():
            found = np.asarray(make(self.texts_of(batch)), np.float32)
            if file is None:
                file = np.lib.format.open_memmap(self.work / "vectors.npy", "w+", np.float32, (self.book.rows, found.shape[1]))
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

    def left_out(self, start: int, batch: pa.RecordBatch, mask: ledger.Numbers) -> Iterator[BadRow]:
        """Why rows of a batch were dropped, those of a mask."""
        at = np.flatnonzero(mask)
        picked = batch.select([*texts.COLUMNS[self.kind], *(["labels"] if self.kind == "labelled" else [])]).take(pa.array(at, pa.int64())).to_pylist()
        shared = batch.select(["id", "source", "line", "together"]).take(pa.array(at, pa.int64())).to_pylist()
        sides = self.book.look("side", at + start)
        firsts, alike = np.asarray(self.book.first()[at + start]) - 1, np.asarray(self.book.alike()[at + start])
        lines, parts, answers = (self.book.look(name, np.maximum(firsts, 0)) for name in ("line", "part", "answer"))
        for index, values, row, side, line, part, answer, share in zip(at, picked, shared, sides, lines, parts, answers, alike, strict=True):
            reason, what, remedy = REASONS[int(self.book.verdict[start + index])]
            other = self.parts[int(part)].name
            place = f"line {line}" + (f" of {other}" if other != row["source"] else "")
            names = {"side": SIDES[side], "first": place, "id": row["id"], "together": row["together"]}
            names["label"] = next((label for label in values.get("labels") or () if self.labels[label][0] == 1), "")
            names["other"] = self._answers.get(int(answer), "")
            names["alike"] = f"{share:.0%}"
            given = {name: value for name, value in values.items() if value is not None}
            yield self.hidden(BadRow(row["source"], row["line"], reason, what.format(**names), remedy.format(**names), given))


def remade(kind: str, values: Mapping[str, Any]) -> Row | Wrong:
    """A row anew from its columns, whose texts have changed."""
    if kind == "labelled":
        return labelled.row(values["text"], values["text_pair"], values["labels"])
    return dialogues.again(kind, values)


def _hash(text: str | None) -> int:
    """64 bits that are never 0; 0 for no text."""
    return (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1) if text else 0


def _check_seen(settings: DataSettings, stream: Stream, side: str) -> None:
    """Columns that a row may lack must occur at least once, or their names are mistakes."""
    if side == "out_of_scope" or ending(stream.path)[0] in DOCUMENTS:
        return
    errors = []
    for key, name in [("time", settings.time), *((f"attributes.{name}", name) for name in settings.attributes)]:
        if name is not None and name not in stream.columns:
            what = f"no column `{name}`{nearest(name, stream.columns)}"
            errors.append(UserError(what, f"{stream.path.name}:1", f"the columns are {some(stream.columns)}; set data.{key} to one of them"))
    if errors:
        raise Problems(errors)
