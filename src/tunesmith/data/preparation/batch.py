"""Records of a file -> rows, checked and mended: a pure function over a batch, with a count for every reason it drops or changes one.

A row's way: record -> row (or why it is bad) -> cleaned -> wanted (or not) -> with an id -> personal data hidden -> a table, and a few facts of each. Nothing
here knows what came before the batch, so batches may be done by several processes, in any order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tunesmith.core.workers import Message
from tunesmith.data import rows, texts
from tunesmith.data.cleaning import clean, personal_data
from tunesmith.data.dedup import minhash
from tunesmith.data.kinds import dialogue, labelled
from tunesmith.data.kinds.layout import Layout
from tunesmith.data.preparation import split
from tunesmith.data.readers.formats import BadRow, Item
from tunesmith.data.row_index import PACKED, SIDES, UNTIMED, Numbers
from tunesmith.data.settings import BROKEN, MOST_SHOWN, DataSettings, common, encodable
from tunesmith.data.texts import Row, Wrong
from tunesmith.data.verdicts import ALIKE_WITHOUT, NOTHING_LEFT, UNSTOPPING, rejected_line

MOST_NAMES = 100_000
"""Names whose marks are held at once."""
FILLED = ("source", "line", "origin", "weight")
"""Columns that are filled in here."""
SHARED = ("together", "time", "attributes")
"""Columns that only some recipes fill."""
NOT_SHARED: dict[str, Any] = {"id": None, "together": None, "time": None, "attributes": []}
"""What every kind of row has, for rows that are only measured."""


class Origin(NamedTuple):
    """Where the records of a batch come from.

    Attributes: source (the file's name), part (its index among all files), input (the index of its side among those with files; 0 is what is to be
    divided), side (of the rows otherwise), layout (how its records become rows), lines (that recur in many texts, where these leave), plain (whether its
    records hold nothing that JSON has not).
    """

    source: str
    part: int
    input: int
    side: str
    layout: Layout
    lines: frozenset[str]
    plain: bool = True


@dataclass
class Mended:
    """What became of a batch.

    Attributes: rows (those that stay), facts (of each), signatures (of each, a piece for each of near.Signatures' files), lines (for
    rejected.jsonl), rejected (rows left out, by reason), stopping (how many of them stop a run under `on_bad_row: stop`), shown (the first of these), changed
    (texts changed, by step), personal (findings by kind), labels (of rows to be divided: name -> how often, and the index of the first in the batch),
    answers (labels by their hash), given (labels before a person's corrections), corrected (by id).
    """

    rows: pa.Table | None = None
    facts: Numbers = field(default_factory=lambda: np.zeros(0, PACKED))
    signatures: list[bytes] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    stopping: int = 0
    shown: list[BadRow] = field(default_factory=list)
    changed: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    labels: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    corrected: dict[str, tuple[str, ...] | None] = field(default_factory=dict)


class _Pending(NamedTuple):
    """A row on its way: its line, the row, the columns that every kind has (its id is the user's or None), and what decides its side, where not its key."""

    line: int
    row: Row
    shared: dict[str, Any]
    place: str | None = None


class Steps:
    """What mends batches; called with an origin and items, (line, record or why there is none).

    Args:
        settings: with paths that are not looked at.
        kind: of rows.KINDS.
        key: of pseudonyms.
        corrections: labels by id; None drops a row.
        named: finds names in texts, where the user names a model for it, or None.
    """

    def __init__(
        self, settings: DataSettings, kind: str, key: bytes, corrections: Mapping[str, tuple[str, ...] | None], named: personal_data.Named | None
    ) -> None:
        self.settings, self.kind, self.corrections, self._key, self._named = settings, kind, corrections, key, named
        self._schema = rows.KINDS[kind]
        self._hides = settings.privacy.action not in (None, "report")
        self._cleans = settings.clean != clean.CleanSettings()
        self._asks = bool(settings.id or settings.together or settings.time or settings.attributes)
        self._valid, self._test = (value if isinstance(value, float) else 0.0 for value in (settings.valid, settings.test))
        self._width = minhash.bands(settings.duplicates.near)[0] if settings.duplicates.near is not None else 0
        self._marked: dict[str, str] = {}
        self._makers: dict[Layout, Callable[[dict[str, Any]], Row | Wrong]] = {}

    def __call__(self, piece: tuple[Origin, Sequence[Item]]) -> Mended:
        """Mend a batch."""
        origin, items = piece
        out = Mended()
        shares = self._asks and origin.side != "out_of_scope"
        pending = self._read(origin, items, shares, out)
        if self._cleans:
            pending = self._cleaned(origin, pending, out)
        pending, values = self._identified(origin, pending, out)
        if self.settings.privacy.action:
            kept = self._unseen(origin, pending, values, out)
            pending, values = [pending[at] for at in kept], [values[at] for at in kept]
        if not pending:
            return out
        names = [field.name for field in self._schema if field.name not in FILLED and (shares or field.name not in SHARED)]
        columns: dict[str, Any] = {name: [one.get(name) for one in values] for name in names}
        columns |= {"source": pa.repeat(origin.source, len(values)), "line": [one.line for one in pending]}
        out.rows = rows.table(columns, self._schema)
        out.facts = self._facts(origin, pending, out)
        if self._width:
            out.signatures = minhash.signed([texts.compared(one, self.kind) for one in values], self._width)
        return out

    def send(self, piece: tuple[Origin, Sequence[Item]]) -> Message | None:
        """For a helper (crew.Work): a batch whose records are such as JSON has them."""
        origin, items = piece
        if not origin.plain:
            return None
        bad = [[at, asdict(value)] for at, (_, value) in enumerate(items) if isinstance(value, BadRow)]
        records = [value if isinstance(value, dict) else None for _, value in items]
        whence = [origin.source, origin.part, origin.input, origin.side, asdict(origin.layout), sorted(origin.lines)]
        return Message([whence, [line for line, _ in items], records, bad], [])

    def receive(self, message: Message) -> tuple[Origin, Sequence[Item]]:
        (source, part, index, side, columns, lines), numbers, records, bad = message.value
        for at, fields in bad:
            records[at] = BadRow(**fields)
        return Origin(source, part, index, side, Layout(**columns), frozenset(lines)), list(zip(numbers, records, strict=True))

    def reply(self, result: Mended) -> Message:
        one = result
        told: list[Any] = [one.rejected, one.stopping, [asdict(bad) for bad in one.shown], one.changed, one.personal]
        told += [one.labels, list(one.answers.items()), sorted(one.given), one.corrected]
        sink = pa.BufferOutputStream()
        if one.rows is not None:
            with pa.ipc.new_stream(sink, self._schema) as file:
                file.write_table(one.rows)
        return Message(told, [sink.getvalue().to_pybytes(), one.facts.tobytes(), b"".join(one.lines), *one.signatures])

    def result(self, message: Message) -> Mended:
        rejected, stopping, shown, changed, personal, labels, answers, given, corrected = message.value
        table, facts, lines, *signatures = message.blobs
        return Mended(
            pa.ipc.open_stream(table).read_all() if table else None,
            np.frombuffer(facts, PACKED),
            signatures,
            [lines],
            Counter(rejected),
            stopping,
            [BadRow(**bad) for bad in shown],
            Counter(changed),
            Counter(personal),
            labels,
            dict(answers),
            set(given),
            {name: None if found is None else tuple(found) for name, found in corrected.items()},
        )

    def _read(self, origin: Origin, items: Sequence[Item], shares: bool, out: Mended) -> list[_Pending]:
        """Records that are rows."""
        make, pending = self._makers.get(origin.layout), []
        for line, value in items:
            if isinstance(value, BadRow):
                self._reject(origin, value, out)
                continue
            if make is None:
                make = self._makers[origin.layout] = maker(origin.layout, self.settings)
            row = make(value)
            shared = common(value, self.settings) if shares else NOT_SHARED
            if isinstance(row, Row) and isinstance(shared, dict):
                pending.append(_Pending(line, row, shared))
            else:
                reason, what, remedy = row if not isinstance(row, Row) else shared
                self._reject(origin, BadRow(origin.source, line, reason, what, remedy, value), out)
        if encodable("".join([one.row.key for one in pending])):
            return pending
        for one in pending:
            if not encodable(one.row.key):
                what = "a text holds half of a surrogate pair"
                self._reject(origin, BadRow(origin.source, one.line, BROKEN[0], what, BROKEN[2], row=one.row.values), out)
        return [one for one in pending if encodable(one.row.key)]

    def _reject(self, origin: Origin, bad: BadRow, out: Mended) -> None:
        """Leave a row out."""
        out.rejected[bad.reason] += 1
        hidden = self.hidden(bad)
        out.lines.append(rejected_line(hidden))
        if bad.reason not in UNSTOPPING and origin.side != "out_of_scope":
            out.stopping += 1
            if len(out.shown) < MOST_SHOWN:
                out.shown.append(hidden)

    def hidden(self, bad: BadRow) -> BadRow:
        """The same without the personal data that the recipe says shall go."""
        if not self._hides:
            return bad
        what, row = (personal_data.hide_in(value, self.settings.privacy, self._key, self._named) for value in (bad.what, bad.row))
        return BadRow(bad.source, bad.line, bad.reason, what, bad.remedy, row)

    def _cleaned(self, origin: Origin, pending: list[_Pending], out: Mended) -> list[_Pending]:
        """The rows that are wanted, with cleaned texts."""
        settings = self.settings.clean
        before = [texts.of(one.row.values, self.kind) for one in pending]
        flat = clean.clean([text for one in before for text in one], settings, origin.lines)
        out.changed += flat.counts
        filters = bool(settings.least_characters or settings.most_characters or settings.languages)
        if not (flat.counts or filters):
            return pending
        stay, at = [], 0
        for one, old in zip(pending, before, strict=True):
            new, at = flat.texts[at : at + len(old)], at + len(old)
            changed = new != old
            if not (changed or filters):
                stay.append(one)
                continue
            row: Row | Wrong = one.row
            if changed:
                row = remade(self.kind, texts.put(one.row.values, self.kind, new)) if all(text.strip() for text in new) else NOTHING_LEFT
            wrong = row if not isinstance(row, Row) else clean.unwanted("\n".join(new), settings)
            was = self._as_it_was(old, new) if changed else old
            if wrong is not None:
                self._reject(origin, BadRow(origin.source, one.line, *wrong, row=texts.put(one.row.values, self.kind, was)), out)
                continue
            if changed:
                out.lines.append(rejected_line(self.hidden(BadRow(origin.source, one.line, "cleaned", "its texts before cleaning", "", was)), kept=True))
            assert isinstance(row, Row)
            stay.append(one if row is one.row else one._replace(row=row))
        return stay

    def _as_it_was(self, old: list[str], new: list[str]) -> list[str]:
        """Texts before cleaning; or after it, hidden, where cleaning shows personal data that nobody would find before (`&#64;` becomes `@`)."""
        if not self._hides:
            return old
        after = personal_data.hide(new, self.settings.privacy, self._key, self._named)
        return list(after.texts) if any(after.found) else old

    def _identified(self, origin: Origin, pending: list[_Pending], out: Mended) -> tuple[list[_Pending], list[dict[str, Any]]]:
        """The rows with the labels that a person has corrected, without those that he dropped, and all their columns, an id each."""
        stay, values = [], []
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
                if one.shared["id"] is None and row.values["labels"] != given.values["labels"]:
                    name = self._keyed(content)
            if corrections:
                out.given.update(row.values["labels"])
                said = name
                if self._hides and name not in corrections:  # the file to correct has ids as they are once hidden
                    said = self._mark(name) if one.shared["id"] is not None else self._keyed(row.key)
                if said in corrections and not origin.input:
                    better = out.corrected[said] = corrections[said]
                    if better is None:
                        self._reject(origin, BadRow(origin.source, one.line, "dropped by hand", "data.corrections says drop", "nothing to do", row.values), out)
                        continue
                    row = labelled.row(row.values["text"], row.values["text_pair"], sorted(better))
            stay.append(one if row is given else one._replace(row=row))
            values.append({**row.values, **one.shared, "id": name})
        return stay, values

    def _unseen(self, origin: Origin, pending: list[_Pending], values: list[dict[str, Any]], out: Mended) -> list[int]:
        """Hide personal data in the values, in place; the indices of the rows that stay."""
        settings = self.settings.privacy
        before = [texts.of(one.row.values, self.kind) for one in pending]
        flat = personal_data.hide([text for one in before for text in one], settings, self._key, self._named)
        beside = self._beside(pending) if settings.action == "report" else []
        rest = iter(zip(flat.texts, flat.found, flat.placed, strict=True))
        kept = []
        for at, (one, old) in enumerate(zip(pending, before, strict=True)):
            new = [next(rest) for _ in old]
            found: Counter[str] = Counter()
            for _, counts, _ in new:
                found.update(counts)
            for counts in beside[at] if beside else ():
                found.update(counts)
            out.personal += found
            if found:
                out.personal["rows"] += 1
            if found and settings.action == "drop":
                what = "personal data: " + ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
                self._reject(origin, BadRow(origin.source, one.line, "personal data", what, "nothing to do: the recipe says drop", one.row.values), out)
                continue
            if found and settings.action != "report":
                values[at] = texts.put(values[at], self.kind, [text for text, _, _ in new])
                row = remade(self.kind, values[at])  # texts that differed in what is hidden, or in how it was written, may be equal now
                placed = remade(self.kind, texts.put(values[at], self.kind, [text for _, _, text in new])) if settings.action == "pseudonymise" else row
                if not (isinstance(row, Row) and isinstance(placed, Row)):
                    self._reject(origin, BadRow(origin.source, one.line, *ALIKE_WITHOUT, row=one.row.values), out)
                    continue
                pending[at] = one._replace(row=row, place=placed.key)
                if one.shared["id"] is None:
                    values[at]["id"] = self._keyed(one.row.key)
            kept.append(at)
            if settings.action == "report":
                continue
            for name in ("id", "together", "time"):
                if values[at][name] is not None and (name != "id" or one.shared["id"] is not None):
                    values[at][name] = self._mark(values[at][name])
            values[at]["attributes"] = [(name, self._mark(value)) for name, value in values[at]["attributes"]]
        return kept

    def _beside(self, pending: Sequence[_Pending]) -> list[list[Counter[str]]]:
        """What stands beside each row's texts that another action would hide: in its id, group, time, attributes and labels."""
        names = [
            [*(one.shared[name] for name in ("id", "together", "time")), *(value for _, value in one.shared["attributes"]), *one.row.values.get("labels", ())]
            for one in pending
        ]
        apart = list({name for row in names for name in row if name})
        found = dict(zip(apart, personal_data.hide(apart, self.settings.privacy, self._key, self._named).found, strict=True))
        return [[found[name] for name in row if name] for row in names]

    def _keyed(self, content: str) -> str:
        """A row's id where something in it is hidden: a plain hash could be guessed back to it."""
        return hashlib.blake2b(content.encode(), digest_size=8, key=self._key[:64]).hexdigest()

    def _mark(self, name: str) -> str:
        """A name (an id, a group, a label) without personal data; names that differ stay told apart."""
        if name not in self._marked:
            if len(self._marked) >= MOST_NAMES:
                self._marked.clear()
            settings = self.settings.privacy.model_copy(update={"action": "pseudonymise"})
            self._marked[name] = personal_data.hide([name], settings, self._key, self._named).texts[0]
        return self._marked[name]

    def _facts(self, origin: Origin, pending: list[_Pending], out: Mended) -> Numbers:
        """What the ledger holds of the rows: PACKED (N,)."""
        facts = np.zeros(len(pending), PACKED)
        _, keys, prompts, answers, *counts = zip(*(one.row for one in pending), strict=True)
        groups, names, times = ([one.shared[name] for one in pending] for name in ("together", "id", "time"))
        places = tuple(one.row.key if one.place is None else one.place for one in pending)
        placed = _digests(places)
        facts["digest"], facts["rest"] = (placed if places == keys else _digests(keys))[:, 0], placed[:, 1]
        for name, values in (("prompt", prompts), ("answer", answers), ("group", groups), ("name", names)):
            facts[name] = _hashes(values)
        if self.kind == "dialogue":
            facts["opening"] = _hashes([dialogue.opening(key) for key in keys])
        for name, numbers in zip(("prompt_characters", "answer_characters", "turns", "flags"), counts, strict=True):
            facts[name] = numbers
        facts["line"] = [one.line for one in pending]
        facts["time"] = [split.moment(time) for time in times] if any(times) else UNTIMED
        facts["part"], facts["input"], facts["side"] = origin.part, origin.input, SIDES.index(origin.side)
        if not origin.input:
            deciding = [place if group is None else group for place, group in zip(places, groups, strict=True)]
            facts["side"] = split.sides(deciding, self._valid, self._test, self.settings.split_seed)
            if self.kind == "labelled":
                for index, one in enumerate(pending):
                    for label in one.row.values["labels"]:
                        out.labels.setdefault(label, [0, index])[0] += 1
                firsts = dict(zip(facts["answer"].tolist(), pending, strict=True))
                out.answers = {answer: "|".join(one.row.values["labels"]) for answer, one in firsts.items()}
        return facts


def helper(settings: dict[str, Any], kind: str, key: str, corrections: dict[str, list[str] | None]) -> Steps:
    """The steps of a helper, made from values of JSON."""
    named = {name: None if found is None else tuple(found) for name, found in corrections.items()}
    return Steps(DataSettings.model_validate(settings), kind, bytes.fromhex(key), named, None)


def maker(layout: Layout, settings: DataSettings) -> Callable[[dict[str, Any]], Row | Wrong]:
    """What turns a record into a row, or says what is wrong with it."""
    return labelled.reader(layout, settings) if layout.kind == "labelled" else dialogue.reader(layout, settings)


def remade(kind: str, values: Mapping[str, Any]) -> Row | Wrong:
    """A row anew from its columns, whose texts have changed."""
    if kind == "labelled":
        return labelled.row(values["text"], values["text_pair"], values["labels"])
    return dialogue.again(kind, values)


def _digests(keys: Sequence[str]) -> Numbers:
    """SHA-256 of each as four numbers: uint64 (N, 4)."""
    return np.frombuffer(b"".join([hashlib.sha256(key.encode()).digest() for key in keys]), "<u8").reshape(-1, 4)


def _hashes(names: Sequence[str | None]) -> list[int]:
    """64 bits of each that are never 0; 0 for no name. Answers recur: each is hashed once."""
    known = {name: (int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") or 1) if name else 0 for name in set(names)}
    return [known[name] for name in names]
