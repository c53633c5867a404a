"""The room's one way through: sources -> records -> rows -> cleaned -> no repeats -> sides -> card, for every kind of row, with little more
memory for more rows.

A first pass reads, checks, mends and stages the rows and notes a few numbers of each (`staging`, `ledger`); these say which rows repeat others and
which side is whose; a second pass over the staged rows writes the sides (`sides`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core.errors import Problems, UserError, counted, nearest, some
from tunesmith.core.files import STAGING, SURROUNDINGS, as_user_error, fsync_folder, staged_file, sweep_staging, write_json
from tunesmith.data import row_index
from tunesmith.data.cleaning import languages
from tunesmith.data.cleaning.personal_data import Named
from tunesmith.data.dedup import exact
from tunesmith.data.preparation import card, messages, second_pass, split
from tunesmith.data.preparation.first_pass import FirstPass
from tunesmith.data.preparation.inputs import Part, digest, inputs, sources_of
from tunesmith.data.preparation.near_duplicates import leave_out
from tunesmith.data.preparation.progress import Progress, Teller
from tunesmith.data.readers.formats import BadRow
from tunesmith.data.review import label_errors
from tunesmith.data.row_index import KEPT, LONELY, SAME_ID, SIDES, Ledger, Numbers
from tunesmith.data.settings import KEYS, MOST_SHOWN, DataSettings, stop_for
from tunesmith.data.verdicts import REASONS, rejected_line

FEWEST_ROWS = 8
"""Below this nothing can be split, learnt and measured."""
MARKS_CHANGE = "an id in which something was hidden is another in each preparation: set data.privacy.key before you correct such rows"
LONELY_SHARE = 0.9
"""Above this share of rows whose label no other row has, the column is none of labels. A convention of ours."""


@dataclass(frozen=True)
class Handed:
    """What lives below this room and is handed to it; None: not at hand.

    Attributes: vectors (texts -> unit vectors of the base, float32 (N, D)), named (texts -> where names and addresses stand), models (step of
    `augment` -> texts to texts, by the model that the user names).
    """

    vectors: Callable[[Sequence[str]], Numbers] | None = None
    named: Named | None = None
    models: Mapping[str, Callable[[list[str]], list[str]]] = field(default_factory=dict)


def prepare(
    settings: DataSettings, kind: str, folder: Path, progress: Progress | None = None, rejected: Path | None = None, handed: Handed = Handed()
) -> dict[str, Any]:
    """Read, check, mend, divide and write rows of a kind.

    Args:
        settings: with paths that exist from here.
        kind: of rows.KINDS (`layouts.infer`).
        folder: gets train.parquet, valid.parquet, test.parquet, out_of_scope.parquet (those there are), labels.json (labelled rows), rejected.jsonl
            and, last, card.json, all of them or none. What an earlier preparation left there is deleted first.
        progress: told (bytes done, bytes in all, rows so far) from time to time.
        rejected: where bad rows are kept when they stop the run; None keeps and names no place.
        handed: what lives below this room.

    Returns:
        The card.

    Raises:
        UserError: a source that cannot be used, missing columns, bad rows under `on_bad_row: stop`, too few rows or labels.
    """
    if wrong := [key for keys in KEYS.values() for key in keys if key not in KEYS[kind] and getattr(settings, key)]:
        raise UserError(f"`data.{wrong[0]}` does not go with {card.NAMES[kind]}", "recipe", "leave it out, or set data.rows to what the rows are")
    asks = {"split_by: strata": settings.split_by == "strata", "balance.how": settings.balance.how, "corrections": settings.corrections}
    asks["inspect.labels"] = settings.inspect.labels
    if kind != "labelled" and (key := next((key for key, asked in asks.items() if asked), None)):
        raise UserError(f"`data.{key}` does not go with {card.NAMES[kind]}, which have no labels", "recipe", "leave it out")
    notes = list(messages.idle(settings))
    parts = inputs(settings, notes)
    if rejected is not None and rejected.is_dir():
        raise UserError("a folder, and the rows left out are written into a file", str(rejected), f"name the file: {rejected / 'left_out.jsonl'}")
    if rejected is not None and rejected.resolve() in {part.path.resolve() for files in parts.values() for part in files}:
        raise UserError("the rows left out would be written over the data", str(rejected), "name another file")
    place = str(parts["train"][0].path if len(parts["train"]) == 1 else sources_of(settings, "train")[0].source)
    own = {side: index for index, side in enumerate(parts) if side in ("valid", "test")}
    corrections = _corrections(settings)
    if settings.corrections and not corrections:
        notes.append(f"nothing stands in column `correct` of {settings.corrections}: no label is corrected")
    with _workplace(folder) as work:
        first = FirstPass(settings, kind, work, Teller(parts, progress), notes, handed.named, corrections)
        with first:
            if not first.helped:  # else reading takes all that this process has
                languages.load()
            try:
                for index, (side, files) in enumerate(parts.items()):
                    first.read(index, side, files)
            except UserError as error:  # a file without a header names its columns by what stands in its first row
                raise _hidden(first, error) from None
        languages.load()  # nothing, where it has begun
        book = first.book
        book.close()
        left_out = _checked(first, rejected)
        exact.within(book, kind == "labelled")
        usable = _usable(book)
        if usable < FEWEST_ROWS:
            raise messages.too_few(usable, FEWEST_ROWS, book, kind, left_out, place)
        split.later(book, settings.split_by, first.shares["valid"], first.shares["test"], settings.split_seed, notes)
        shared = exact.across(book, own) if own else 0
        if settings.together and (own or settings.split_by != "hash"):
            exact.same_groups(book)
        twins = leave_out(first, handed.vectors)
        wanted = [side for side in SIDES if side in parts or (side in ("valid", "test") and isinstance(getattr(settings, side), float))]
        counts = {side: count for side, count in row_index.count_sides(book).items() if side in wanted}
        for side, count in counts.items():
            if not count:
                raise messages.none_left(side, settings, book, left_out, twins, place)
        if "out_of_scope" in parts and (overlap := exact.outside(book)):
            what = f"{counted(overlap, 'text')} of {parts['out_of_scope'][0].name} also among the training rows"
            notes.append(f"{what}: they are not out of scope, and make telling them apart look harder than it is")
        if shared:
            what = f"{counted(shared, 'row' if kind != 'labelled' else 'text')} in both {parts['valid'][0].name} and {parts['test'][0].name}"
            notes.append(f"{what}: the kept step is chosen with a look at the test rows")
        first.learnt = _train_labels(first) if kind == "labelled" else {}
        written = second_pass.write(first, wanted, first.learnt, handed.models)
        for side, count in written.rows.items():
            if not count:
                raise UserError(f"no row is left for {side}", place, "raise the weight of a source, or balance less")
        names = sorted(set().union(*written.labels.values()))
        if kind == "labelled" and len(names) < 2:
            raise UserError(f"all rows bear the label `{names[0] if names else ''}`", place, "a classifier needs at least two labels")
        for number, (reason, _, _) in enumerate(REASONS):
            if number not in (KEPT, SAME_ID, LONELY) and (count := int((book.verdict == number).sum())):
                left_out[reason] += count
        hashes = {side: {"name": _name(one), "sha256": digest(one)} for side, one in parts.items()}
        if len(first.corrected) < len(corrections) and _marks_change(settings):
            notes.append(MARKS_CHANGE)
        made = card.make(first, written, hashes, left_out, twins)
        if settings.augment.steps and not any(origin.startswith("augmented:") for origin in written.origins):
            made["notes"].append("data.augment made no variant: its labels and fewer_than choose no training row, or its steps find no word to change")
        if kind == "dialogue" and "test" in wanted:
            made["warnings"] += messages.openings(exact.same_openings(book))
        made["warnings"] += messages.labels(names)
        for name in [*(f"{side}.parquet" for side in wanted), "rejected.jsonl"]:
            os.replace(work / name, folder / name)
        if kind == "labelled":
            write_json(folder / "labels.json", {"labels": names, "multi_label": settings.multi_label})
        fsync_folder(folder)
        write_json(folder / "card.json", made)
        first.tell.end()
    return made


def _hidden(first: FirstPass, error: UserError) -> UserError:
    """An error without the personal data that the recipe says shall go: a run keeps what it says."""
    if isinstance(error, Problems):
        return Problems([_hidden(first, one) for one in error.errors], error.remedy)
    told = first.hidden(BadRow("", 0, "", error.what, "", error.remedy))
    return UserError(told.what, error.where, told.row)


def _corrections(settings: DataSettings) -> dict[str, tuple[str, ...] | None]:
    if settings.corrections is None:
        return {}
    return label_errors.corrections(Path(settings.corrections), None, settings.label_separator if settings.multi_label else None)


def _marks_change(settings: DataSettings) -> bool:
    """Whether what is hidden has other marks each time."""
    return settings.privacy.action not in (None, "report") and settings.privacy.key is None


def _name(parts: Sequence[Part]) -> str:
    return parts[0].name if len(parts) == 1 else f"{parts[0].name} and {len(parts) - 1} more"


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A hidden folder in `folder` for what is not finished; `folder` itself is freed of what an earlier preparation left."""
    work: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_staging(folder)
        for name in ("card.json", "labels.json", "rejected.jsonl", *(f"{side}.parquet" for side in SIDES)):
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


def _checked(first: FirstPass, rejected: Path | None) -> Counter[str]:
    """Drop repeated ids and labels that occur once; what is left out so far, by reason.

    Raises:
        Problems: there are bad rows, and the recipe says stop.
    """
    book, settings = first.book, first.settings
    book.verdict[[index for count, index in first.labels.values() if count == 1]] = LONELY
    if settings.id is not None:
        exact.same_ids(book)
    for label in sorted({label for found in first.corrected.values() for label in found or ()}):
        if label not in first.given:
            what = f"`{label}` in column `correct` is not a label of the data{nearest(label, first.given)}"
            raise UserError(what, str(settings.corrections), f"the labels are {some(sorted(first.given))}; `+` takes the suggested one, `-` leaves the row out")
    if first.corrections and not first.corrected:
        what = f"none of its {counted(len(first.corrections), 'id')} is in the data"
        remedy = "give the corrections of this data; without data.id an id is a hash of the text and the label in the data's file"
        raise UserError(what, str(settings.corrections), remedy + (f"; {MARKS_CHANGE}" if _marks_change(settings) else ""))
    left_out = Counter(first.rejected)
    for number in (SAME_ID, LONELY):
        if count := int((book.verdict == number).sum()):
            left_out[REASONS[number][0]] += count
    bad = first.stopping + int(np.isin(book.verdict, (SAME_ID, LONELY)).sum())
    if bad and settings.on_bad_row == "stop":
        stopped = _stopped(first, bad, rejected)
        if left_out[REASONS[LONELY][0]] > LONELY_SHARE * _usable(book, LONELY, KEPT):
            column = first.columns.get("label")
            hint = UserError("almost every row has a label of its own", f"column `{column}`", "name the column of the labels: data.label=COLUMN")
            raise Problems([*stopped.errors, hint], stopped.remedy)
        raise stopped
    return left_out


def _stopped(first: FirstPass, count: int, rejected: Path | None) -> Problems:
    """The error for bad rows when the recipe says stop; all of them are written to `rejected`."""
    shown = list(first.shown)
    with open(first.work / "rejected.jsonl", "ab") as file:
        for start, batch in first.batches():
            verdict = first.book.verdict[start : start + batch.num_rows]
            mask = (verdict == SAME_ID) | (verdict == LONELY)
            for bad in first.left_out(start, batch, mask) if mask.any() else ():
                file.write(rejected_line(bad))
                shown += [bad] if len(shown) < MOST_SHOWN else []
    if rejected is not None:
        with staged_file(rejected) as staging:
            shutil.copyfile(first.work / "rejected.jsonl", staging)
    return stop_for(shown, rejected, count)


def _usable(book: Ledger, *verdicts: int) -> int:
    """Rows to be divided that are no repeats, or have one of some verdicts."""
    wanted = verdicts or (KEPT,)
    return sum(int((np.isin(book.verdict[start : start + len(one)], wanted) & (one == 0)).sum()) for start, (one,) in book.blocks("input"))


def _train_labels(first: FirstPass) -> dict[str, int]:
    """Kept training rows by label; a row of several labels counts for each."""
    counts: Counter[str] = Counter()
    for start, batch in first.batches():
        at = np.arange(start, start + batch.num_rows)
        mask = (first.book.verdict[at] == KEPT) & (first.book.look("side", at) == SIDES.index("train"))
        counts += second_pass.count_labels(batch, mask)
    return dict(counts)
