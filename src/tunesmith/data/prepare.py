"""The room's one way through: sources -> records -> rows -> cleaned -> no repeats -> sides -> card, for every kind of row, with little more
memory for more rows.

A first pass reads, checks, mends and stages the rows and notes a few numbers of each (`staging`, `ledger`); these say which rows repeat others and
which side is whose; a second pass over the staged rows writes the sides (`sides`).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data import card, collect, duplicates, labelled, labels, languages, ledger, sides, split
from tunesmith.data.ledger import (
    GROUP_IN_TEST,
    GROUP_IN_VALID,
    IN_TEST,
    IN_VALID,
    KEPT,
    LONELY,
    NEAR,
    NEAR_IN_TEST,
    NEAR_IN_VALID,
    SAME_ID,
    SIDES,
    Ledger,
    Numbers,
)
from tunesmith.data.parts import Part, digest, expand
from tunesmith.data.privacy import Named
from tunesmith.data.reasons import REASONS, UNSTOPPING, rejected_line
from tunesmith.data.sources import BadRow
from tunesmith.data.staging import FirstPass
from tunesmith.data.telling import Progress, Teller
from tunesmith.data.validate import KEYS, MOST_SHOWN, DataSettings, SourceSettings, stop_for
from tunesmith.errors import Problems, UserError, counted, nearest, some
from tunesmith.files import STAGING, SURROUNDINGS, as_user_error, fsync_folder, staged_file, sweep_staging, write_json
from tunesmith.settings import Settings

if TYPE_CHECKING:
    from tunesmith.data import near

PAIRS = 4096
"""Pairs of near-duplicates whose answers are compared at once."""
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


def sources_of(settings: DataSettings, side: str) -> tuple[SourceSettings, ...]:
    """The sources that the settings name for a side; none where it is a share of train, or `none`."""
    value = getattr(settings, side)
    if isinstance(value, (tuple, SourceSettings)):
        return value if isinstance(value, tuple) else (value,)
    return (SourceSettings(source=value),) if isinstance(value, str) and value != "none" else ()


def inputs(settings: DataSettings, said: list[str] | None = None) -> dict[str, list[Part]]:
    """The files of each side that has any; what is no file is collected into one first.

    Args:
        settings: with paths that exist from here.
        said: gets remarks.

    Raises:
        UserError: what is named is not there or cannot be read.
    """
    found: dict[str, list[Part]] = {}
    for side in SIDES:
        for one in sources_of(settings, side):
            wrong = next((key for key in ("query", "split") if getattr(one, key) is not None), None)
            if wrong and not collect.is_remote(one.source):
                remedy = f"leave {wrong} out, or give a database's URL or hub:OWNER/NAME"
                raise UserError(f"`{wrong}` does not go with a file", f"recipe, `data.{side}`", remedy)
            value = _collected(one, said) if collect.is_remote(one.source) else one.source
            files = expand(value, one.weight, said)
            found.setdefault(side, []).extend(files)
            if side == "train" and said is not None:
                said += _other_sides(Path(value).name, files)
    return found


def _other_sides(name: str, files: Sequence[Part]) -> list[str]:
    """What to say of training rows in a file (or a folder) that is named as another side, beside one that is named train."""
    named = {word: part.name for part in reversed(files) for word in re.split(r"[^a-z]+", part.name.lower())}
    other = next((side for side in ("test", "validation", "valid", "val", "dev", "eval") if side in named), None)
    if "train" not in named or other is None or named[other] == named["train"]:
        return []
    side = "test" if other == "test" else "valid"
    return [f"{name}: `{named[other]}` is read as rows to learn from, as all here are; to keep such files apart name them: data.train=..., data.{side}=..."]


_snapshots: dict[tuple[str, str | None, str | None], tuple[str, list[str]]] = {}
_place: list[tempfile.TemporaryDirectory[str]] = []
"""Where they lie until the process ends: the rows of a database may hold what privacy removes later, so no copy of them stays."""


def _collected(source: SourceSettings, said: list[str] | None) -> str:
    """The file with the rows of what is no file, taken once until `forget` is called."""
    key = (source.source, source.query, source.split)
    if key not in _snapshots:
        if not _place:
            _place.append(tempfile.TemporaryDirectory(prefix="tunesmith-"))
        told: list[str] = []
        path = collect.collect(source.source, source.query, Path(_place[0].name), None, source.split, told.append)
        _snapshots[key] = (str(path), told)
    if said is not None:
        said += _snapshots[key][1]
    return _snapshots[key][0]


def forget() -> None:
    """Ask databases and the Hub again from here on."""
    _snapshots.clear()


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
    notes = list(_idle(settings))
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
        duplicates.within(book, kind == "labelled")
        usable = _usable(book)
        if usable < FEWEST_ROWS:
            add = {"labelled": "add labelled rows", "document": "add documents; in a .txt file blank lines, or lines of `<|endoftext|>`, divide them"}
            remedy = add.get(kind, "add rows")
            again = int((book.verdict == ledger.TWICE).sum())
            without = f" ({counted(again, 'duplicate')} left out)" if again else ""
            if own_reasons := [f"{left_out[reason]:,} {reason}" for reason in UNSTOPPING if left_out[reason]]:
                without += f" (the recipe left out {', '.join(own_reasons)})"
            if bad := [f"{count:,} {reason}" for reason, count in left_out.items() if reason not in UNSTOPPING]:
                without += f" (bad rows: {', '.join(bad)})"
            raise UserError(f"{counted(usable, 'usable row')}{without}; at least {FEWEST_ROWS} are needed", place, remedy)
        split.later(book, settings.split_by, first.shares["valid"], first.shares["test"], settings.split_seed, notes)
        shared = duplicates.across(book, own) if own else 0
        if settings.together and (own or settings.split_by != "hash"):
            duplicates.same_groups(book)
        twins = _near(first, own, handed)
        wanted = [side for side in SIDES if side in parts or (side in ("valid", "test") and isinstance(getattr(settings, side), float))]
        counts = {side: count for side, count in ledger.count_sides(book).items() if side in wanted}
        for side, count in counts.items():
            if not count:
                also = int(np.isin(book.verdict, (IN_TEST, IN_VALID, GROUP_IN_TEST, GROUP_IN_VALID)).sum())
                if side == "train" and also:
                    what = f"no row is left for train: {counted(also, 'row')} of it, or of the same `together` value, are also in valid or test"
                    raise UserError(what, place, "give data.train rows of its own, or take valid and test from it: data: {valid: 0.1, test: 0.2}")
                raise UserError(f"no row is left for {side}", place, _more(settings, side) + _blame(left_out, twins))
        if "out_of_scope" in parts and (overlap := duplicates.outside(book)):
            what = f"{counted(overlap, 'text')} of {parts['out_of_scope'][0].name} also among the training rows"
            notes.append(f"{what}: they are not out of scope, and make telling them apart look harder than it is")
        if shared:
            what = f"{counted(shared, 'row' if kind != 'labelled' else 'text')} in both {parts['valid'][0].name} and {parts['test'][0].name}"
            notes.append(f"{what}: the kept step is chosen with a look at the test rows")
        first.learnt = _train_labels(first) if kind == "labelled" else {}
        written = sides.write(first, wanted, first.learnt, handed.models)
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
        if kind == "dialogue" and "test" in wanted and (count := duplicates.same_openings(book)):
            what = f"{counted(count, 'training row')} begin{'s' if count == 1 else ''} with the question and the answer of a test row"
            made["warnings"].append(f"{what}, which is so learnt before it is measured: map data.together to keep the parts of one dialogue on one side.")
        for same in labelled.alike(names):
            made["warnings"].append(f"the labels {some(same)} differ only in case, spaces, hyphens or underscores: write them alike if they are one.")
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


def _idle(settings: DataSettings) -> Iterator[str]:
    """Settings that do nothing, as what they go with is off."""
    for name, switch in (("privacy", "action"), ("balance", "how"), ("augment", "steps")):
        group: Settings = getattr(settings, name)
        if not getattr(group, switch) and (idle := [key for key, one in type(group).model_fields.items() if getattr(group, key) != one.default]):
            yield f"data.{name}.{switch} is not set: {some(f'data.{name}.{key}' for key in idle)} {'does' if len(idle) == 1 else 'do'} nothing"
    for key, step in (("synonyms", "synonyms"), ("masked", "replace"), ("writer", "paraphrase")):
        if settings.augment.steps and getattr(settings.augment, key) and step not in settings.augment.steps:
            yield f"data.augment.steps has no `{step}`: data.augment.{key} does nothing"


def _more(settings: DataSettings, side: str) -> str:
    """What to do when no row is left for a side."""
    enlarge = "lower data.valid and data.test" if side == "train" else f"enlarge data.{side}"
    if settings.split_by == "time":
        return f"add rows, {enlarge}, or give data.time more precisely: rows of one moment stay on one side"
    if settings.split_by == "strata":
        return f"add rows, or {enlarge}: no label has enough of them for its share"
    return f"add rows, {enlarge}, or check `together`"


def _corrections(settings: DataSettings) -> dict[str, tuple[str, ...] | None]:
    if settings.corrections is None:
        return {}
    return labels.corrections(Path(settings.corrections), None, settings.label_separator if settings.multi_label else None)


def _marks_change(settings: DataSettings) -> bool:
    """Whether what is hidden has other marks each time."""
    return settings.privacy.action not in (None, "report") and settings.privacy.key is None


def _name(parts: Sequence[Part]) -> str:
    return parts[0].name if len(parts) == 1 else f"{parts[0].name} and {len(parts) - 1} more"


def _blame(left_out: Counter[str], twins: Mapping[str, int]) -> str:
    most = max(twins.values(), default=0)
    return "; most were left out as near-duplicates: see data.duplicates.near" if most > sum(left_out.values()) else ""


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
        duplicates.same_ids(book)
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


def _near(first: FirstPass, own: Mapping[str, int], handed: Handed) -> dict[str, int]:
    """Drop near-duplicates, and rows that mean the same; how many, by reason."""
    book, settings = first.book, first.settings.duplicates
    if settings.near is None and settings.meaning is None:
        return {}
    from tunesmith.data import meaning, near

    sides_, inputs_ = book.whole("side"), book.whole("input")
    # What measures is not altered for what learns: a file of the user's comes first, then test, then valid.
    priority = np.where(inputs_ == 0, np.uint8(3) - sides_, np.uint8(0))
    out: Counter[str] = Counter()
    if settings.near is not None and first.signatures is not None:
        found, shared = near.twins(first.signatures, priority, (book.verdict == KEPT) & (sides_ != duplicates.OUTSIDE))
        found, apart = _alike_in_answer(first, found, settings.near)
        out += _drop(book, found, sides_)
        out[duplicates.OTHER_ANSWER] += apart
        out[duplicates.OWN_FILES] += len(shared.rows)
    if settings.meaning is not None and handed.vectors is not None:
        vectors = first.vectors(handed.vectors)
        found, _ = meaning.twins_by_meaning(vectors, priority, settings.meaning, (book.verdict == KEPT) & (sides_ != duplicates.OUTSIDE))
        out += _drop(book, found, sides_)
    return dict(+out)


def _alike_in_answer(first: FirstPass, found: near.Twins, threshold: float) -> tuple[near.Twins, int]:
    """Those of the pairs whose answers are alike too, and how many are not.

    Texts that differ in a word and bear different labels contradict each other rather than repeat, but for a text that measures: its twin leaves train
    whatever its label. Long prompts from one template, with answers of their own, are no repeats at all.
    """
    rows, of, similarity = found
    if first.kind == "labelled":
        answers_, sides_ = (first.book.look(name, np.r_[rows, of]).reshape(2, -1) for name in ("answer", "side"))
        alike = (answers_[0] == answers_[1]) | (sides_[0] != sides_[1])
    elif first.kind in ("dialogue", "completion", "preference"):
        from tunesmith.data import near

        alike = np.ones(len(rows), bool)
        for start in range(0, len(rows), PAIRS):
            names = np.unique(np.concatenate([rows[start : start + PAIRS], of[start : start + PAIRS]]))
            answers = dict(zip(names.tolist(), map(near.even, first.answers_at(names)), strict=True))
            left, right = ([answers[int(row)] for row in side[start : start + PAIRS]] for side in (rows, of))
            alike[start : start + PAIRS] = near.jaccard(left, right) >= threshold
    else:
        alike = np.ones(len(rows), bool)
    return type(found)(rows[alike], of[alike], similarity[alike]), int((~alike).sum())


def _drop(book: Ledger, found: Any, sides_: Numbers) -> Counter[str]:
    rows, of, alike = found
    out: Counter[str] = Counter()
    for why, mask in (
        (NEAR, sides_[rows] == sides_[of]),
        (NEAR_IN_TEST, (sides_[rows] != sides_[of]) & (sides_[of] == SIDES.index("test"))),
        (NEAR_IN_VALID, (sides_[rows] != sides_[of]) & (sides_[of] == SIDES.index("valid"))),
    ):
        book.repeat(rows[mask], of[mask], why)
        book.alike()[rows[mask]] = alike[mask]
        out[REASONS[why][0]] += int(mask.sum())
    return out


def _train_labels(first: FirstPass) -> dict[str, int]:
    """Kept training rows by label; a row of several labels counts for each."""
    counts: Counter[str] = Counter()
    for start, batch in first.batches():
        at = np.arange(start, start + batch.num_rows)
        mask = (first.book.verdict[at] == KEPT) & (first.book.look("side", at) == SIDES.index("train"))
        counts += sides.count_labels(batch, mask)
    return dict(counts)
