"""The second pass: staged rows -> train, valid and test as Parquet, and the rest of rejected.jsonl.

Here alone training rows multiply: by the weight of their source, by the balance of the labels, by variants. What measures stays as it is.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tunesmith.core.files import fsync_file
from tunesmith.data import row_index, rows, texts
from tunesmith.data.augmentation import augment, balance, noise
from tunesmith.data.dedup import exact
from tunesmith.data.preparation import card, split
from tunesmith.data.preparation.batch import remade
from tunesmith.data.preparation.first_pass import FirstPass
from tunesmith.data.row_index import KEPT, SIDES, THINNED, Numbers
from tunesmith.data.verdicts import rejected_line


class Written(NamedTuple):
    """What the second pass wrote: rows by side, labels by side, origins of the training rows, texts of some, and the commonest last answer."""

    rows: dict[str, int]
    labels: dict[str, Counter[str]]
    origins: Counter[str]
    texts: list[str]
    answer: str


def write(first: FirstPass, sides: Sequence[str], counts: Mapping[str, int], models: Mapping[str, augment.Generate]) -> Written:
    """Write the sides and the rest of the rejected rows into the work folder.

    Args:
        first: whose ledger has a verdict for each row.
        sides: those to be written.
        counts: training rows by label; empty for rows without.
        models: the user's, for variants that a model writes: step -> function.
    """
    book, kind = first.book, first.kind
    sampled = row_index.sample(book, card.SAMPLE)
    common = exact.commonest_answer(book)[1] if kind in ("dialogue", "completion") else -1
    found, answer = [], ""
    labels: dict[str, Counter[str]] = {side: Counter() for side in sides}
    origins: Counter[str] = Counter()
    factors = balance.factors(counts, first.settings.balance)
    changes = bool(factors) or any(part.weight != 1 for part in first.parts) or bool(first.settings.augment.steps)
    multiply = _Multiplier(first, counts, factors, models) if changes else None
    with ExitStack() as stack:
        writers = {side: stack.enter_context(rows.writer(first.work / f"{side}.parquet", rows.KINDS[kind])) for side in sides}
        file = stack.enter_context(open(first.work / "rejected.jsonl", "ab"))
        for start, batch in first.batches():
            end = start + batch.num_rows
            side = book.look("side", np.arange(start, end))
            at = sampled[np.searchsorted(sampled, start) : np.searchsorted(sampled, end)] - start
            found += [card.text_of(row) for row in first.sampled(batch.take(pa.array(at, pa.int64())))] if len(at) else []
            if start <= common < end:
                answer = card.answer_of(batch.slice(common - start, 1).to_pylist()[0], kind)
            if multiply is not None:
                train = (book.verdict[start:end] == KEPT) & (side == SIDES.index("train"))
                book.verdict[start:end][train & (multiply.copies(start, batch) == 0)] = THINNED
            verdict = book.verdict[start:end]
            for number, name in enumerate(SIDES):
                mask = (verdict == KEPT) & (side == number)
                if not mask.any():
                    continue
                mine = batch if mask.all() else batch.filter(pa.array(mask))
                parts = multiply.all_of(np.flatnonzero(mask), mine) if multiply is not None and name == "train" else (mine,)
                for part in parts:
                    writers[name].write(part)
                    if kind == "labelled":
                        labels[name] += count_labels(part)
                    if name == "train":
                        origins += _count(part.column("origin"))
            if (dropped := verdict != KEPT).any():
                file.writelines(rejected_line(bad) for bad in first.left_out(start, batch, dropped))
            first.tell.writing(end / max(1, book.rows))
        counts = {side: one.count for side, one in writers.items()}
    fsync_file(first.work / "rejected.jsonl")
    return Written(counts, labels, origins, found, answer)


def count_labels(batch: pa.RecordBatch, mask: Numbers | None = None) -> Counter[str]:
    """Rows by label, those of a mask; a row of several labels counts for each."""
    return _count(pc.list_flatten((batch if mask is None else batch.filter(pa.array(mask))).column("labels")))


def _count(values: Any) -> Counter[str]:
    return Counter({one["values"]: one["counts"] for one in pc.value_counts(values).to_pylist()})


class _Multiplier:
    """How often each training row is taken, and its variants; a row's share is drawn by a hash of its id, so it stays the same when the data grow."""

    def __init__(self, first: FirstPass, counts: Mapping[str, int], factors: Mapping[str, float], models: Mapping[str, augment.Generate]) -> None:
        self._first, self._counts, self._factors, self._models = first, counts, factors, models
        self._weights = np.array([part.weight for part in first.parts], np.float64)
        self._settings = first.settings.augment
        self._synonyms = noise.read_synonyms(Path(self._settings.synonyms)) if self._settings.synonyms else None
        augment.checked(self._settings, counts if first.kind == "labelled" else None, self._synonyms, models)
        # A variant that equals another row, of train or of what measures, is left out; so 8 bytes a row are held.
        self._digests = np.sort(first.book.whole("digest")) if self._settings.steps else np.zeros(0, np.uint64)
        self._made: set[int] = set()
        self._copies: tuple[int, Numbers] = (-1, np.zeros(0, np.int64))
        self._cuts = self._thinned({label for label, factor in factors.items() if factor < 1})

    def _place(self, name: str) -> float:
        """Where a row stands among those of which a share is taken: by its id, and not as the split has it, or a share of train would be all or none."""
        return float(split.positions([f"taken\x1f{name}"], self._first.settings.split_seed)[0])

    def _thinned(self, labels: set[str]) -> dict[str, float]:
        """For labels of which a share is taken the place up to which rows are: so many exactly, and one at least."""
        places: dict[str, list[float]] = {label: [] for label in labels}
        for start, batch in self._first.batches() if labels else ():
            at = np.arange(start, start + batch.num_rows)
            train = (self._first.book.verdict[at] == KEPT) & (self._first.book.look("side", at) == SIDES.index("train"))
            for name, bears in zip(*(batch.filter(pa.array(train)).column(key).to_pylist() for key in ("id", "labels")), strict=True):
                for label in set(bears) & labels:
                    places[label].append(self._place(name))
        return {label: sorted(found)[max(1, round(self._factors[label] * len(found))) - 1] for label, found in places.items() if found}

    def _factor(self, name: str, labels: Sequence[str]) -> float:
        """How often a row is taken for its labels' sake: as the neediest asks."""
        return max((float(self._place(name) <= self._cuts[label]) if label in self._cuts else self._factors.get(label, 1.0) for label in labels), default=1.0)

    def copies(self, start: int, batch: pa.RecordBatch) -> Numbers:
        """How often each row of a staged batch is taken: int64 (rows,)."""
        if self._copies[0] != start:
            factor = self._weights[self._first.book.look("part", np.arange(start, start + batch.num_rows))]
            if self._factors:
                factor = factor * [self._factor(*row) for row in zip(*(batch.column(key).to_pylist() for key in ("id", "labels")), strict=True)]
            whole = np.floor(factor).astype(np.int64)
            for at in np.flatnonzero(factor != whole):
                whole[at] += self._place(batch.column("id")[int(at)].as_py()) < factor[at] - whole[at]
            self._copies = (start, whole)
        return self._copies[1]

    def all_of(self, at: Numbers, mine: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """The rows with their repeats and variants.

        Args:
            at: which rows of the staged batch these are.
            mine: these rows.
        """
        yield mine
        more: list[dict[str, Any]] = []
        copies = self._copies[1][at]
        if (copies > 1).any():
            for count, row in zip(copies, mine.to_pylist(), strict=True):
                more += [row | {"id": f"{row['id']}~{number}", "origin": "repeated"} for number in range(2, int(count) + 1)]
        if self._settings.steps:
            made = augment.augmented(pa.Table.from_batches([mine]), self._settings, self._counts, self._synonyms, self._models)
            more += [row for row in made if self._new(row)]
        for begin in range(0, len(more), rows.BATCH_ROWS):
            yield pa.RecordBatch.from_pylist(more[begin : begin + rows.BATCH_ROWS], rows.KINDS[self._first.kind])

    def _new(self, row: Mapping[str, Any]) -> bool:
        """Whether a variant can be learnt from and equals no other row."""
        again = remade(self._first.kind, row)
        if not isinstance(again, texts.Row):
            return False
        digest = int.from_bytes(hashlib.sha256(again.key.encode()).digest()[:8], "little")
        at = int(np.searchsorted(self._digests, np.uint64(digest)))
        if digest in self._made or (at < len(self._digests) and int(self._digests[at]) == digest):
            return False
        self._made.add(digest)
        return True
