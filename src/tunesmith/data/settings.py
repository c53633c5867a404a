"""Which data, and what holds for every kind of row: the mapped columns must hold what they promise; other columns are left alone."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tunesmith.core.errors import Problems, UserError, counted
from tunesmith.core.settings import Settings
from tunesmith.data.augmentation.augment import AugmentSettings
from tunesmith.data.augmentation.balance import BalanceSettings
from tunesmith.data.cleaning.clean import CleanSettings
from tunesmith.data.cleaning.personal_data import PrivacySettings
from tunesmith.data.readers.formats import BadRow
from tunesmith.data.texts import Wrong

MOST_SHOWN = 50
TEXT_NAMES = ("text", "message", "sentence", "utterance", "question", "query", "content", "body", "review", "comment", "description", "title")
LABEL_NAMES = ("label", "labels", "category", "intent", "class", "queue", "target", "topic", "sentiment", "tag", "tags")
KEYS = {
    "labelled": ("text", "text_pair", "label", "multi_label", "out_of_scope"),
    "dialogue": ("messages", "prompt", "completion"),
    "completion": ("prompt", "completion"),
    "document": ("text",),
    "preference": ("messages", "prompt", "chosen", "rejected", "margin"),
    "prompt": ("messages", "prompt"),
}
"""The keys that only rows of a kind have; all others go with every kind."""


class SourceSettings(Settings):
    """One of several sources of rows, or one that needs more than a name."""

    source: str
    """A file, a folder, a glob, a database's URL, hub:OWNER/NAME or starter/NAME."""
    query: str | None = None
    """The SELECT that gives the rows of a database. null: none."""
    split: str | None = None
    """The split of a set on the Hub. null: train."""
    weight: float = Field(1.0, gt=0, le=100)
    """How often each of its training rows is taken: 2 is twice, 0.5 is every other one, drawn by a hash of the row."""


class DuplicateSettings(Settings):
    """What counts as a repeat besides equal texts."""

    near: float | None = Field(0.8, ge=0.5, lt=1)
    """Jaccard similarity of the sets of character 5-grams from which two rows are near-duplicates: one of them stays, and none is left in train beside
    a twin on a side that measures. null: not looked for."""
    meaning: float | None = Field(None, gt=0, le=1)
    """Cosine of the base's vectors from which two rows mean the same; treated alike. The base reads every row for it. null: not looked for."""


class InspectSettings(Settings):
    """What is looked for with the base's vectors once the rows are divided; nothing is changed by it."""

    labels: bool = False
    """Probable label errors among the training rows: data/label_errors.csv to correct, and a page of the worst."""
    terms: str | None = None
    """A YAML file of identity terms in place of the English ones that come along: dimension -> group -> words. null: those."""
    coverage: bool = False
    """Clusters and thin regions of the training rows, and test rows far from all of them."""


class DataSettings(Settings):
    """Which data, which columns, which split."""

    train: str | tuple[SourceSettings, ...]
    """The rows to learn from: a file (.csv .tsv .jsonl .parquet ...), a folder or a glob, from the recipe's folder, a database's URL, hub:OWNER/NAME
    or starter/NAME; or a list of sources, each {source, query, split, weight}."""
    valid: float | str | SourceSettings = 0.1
    """Rows that choose the step to keep: a fraction of train, a source as for train, or `none`."""
    test: float | str | SourceSettings = 0.2
    """Rows that measure: a fraction of train, a source as for train (never altered), or `none`."""
    out_of_scope: str | None = None
    """A file of texts that belong to none of the labels, to measure how well they are told apart; never learnt from. null: none."""
    rows: Literal["labelled", "dialogue", "completion", "document", "preference", "prompt"] | None = None
    """What a row is: a text with its label, a dialogue of messages, a prompt with its completion, a document, a better and a worse answer to one
    prompt, or a prompt alone. null: by the columns, and said."""
    text: str | None = None
    """Column of the text. null: guessed from the column names, and said."""
    text_pair: str | None = None
    """Column of a second text, for pairs. null: none."""
    label: str | None = None
    """Column of the label. null: guessed from the column names, and said."""
    messages: str | None = None
    """Column of a dialogue's messages, a list of {role, content} or {from, value}. null: guessed from the column names, and said."""
    prompt: str | None = None
    """Column of the prompt. null: guessed from the column names, and said."""
    completion: str | None = None
    """Column of the completion of a prompt. null: guessed from the column names, and said."""
    chosen: str | None = None
    """Column of the better answer. null: guessed from the column names, and said."""
    rejected: str | None = None
    """Column of the worse answer. null: guessed from the column names, and said."""
    margin: str | None = None
    """Column of a number that says how much better. null: none."""
    multi_label: bool = False
    """Whether a row has any number of labels: a list, or text divided by `label_separator`."""
    label_separator: str = "|"
    """Divides the labels of one field when `multi_label` and the field is text."""
    id: str | None = None
    """Column of a unique name for each row. null: a hash of the content."""
    together: str | None = None
    """Column whose equal values (one customer, one document) must stay on one side of the split. null: each text alone."""
    time: str | None = None
    """Column that says when a row was written (ISO 8601, or seconds since 1970). null: none."""
    attributes: tuple[str, ...] = ()
    """Columns kept for audits (gender, region); never an input of the model."""
    on_bad_row: Literal["stop", "reject"] = "stop"
    """stop: report bad rows and train nothing. reject: go on without them, count them, keep them in data/rejected.jsonl."""
    split_by: Literal["hash", "time", "strata"] = "hash"
    """hash: each row (or group) by its own hash, so that it stays on its side when the data grow. time: the latest rows measure. strata: each label has
    its exact share on every side; a row may change sides when the data grow."""
    split_seed: int = Field(0, ge=0)
    """Another number gives another split by hash or strata."""
    clean: CleanSettings = CleanSettings()
    """What is mended in the texts, and which rows are not wanted. Nothing by default."""
    privacy: PrivacySettings = PrivacySettings()
    """What becomes of personal data in the texts. Not looked for by default."""
    duplicates: DuplicateSettings = DuplicateSettings()
    corrections: str | None = None
    """A data/label_errors.csv that a person has corrected: those labels replace the ones given. null: none."""
    balance: BalanceSettings = BalanceSettings()
    """Whether labels with few training rows are repeated or those with many thinned. Neither by default."""
    augment: AugmentSettings = AugmentSettings()
    """Variants of training rows. None by default."""
    inspect: InspectSettings = InspectSettings()

    @field_validator("train", mode="before")
    @classmethod
    def _list_of_sources(cls, value: Any) -> Any:
        if isinstance(value, dict):
            value = [value]
        if isinstance(value, (list, tuple)) and not value:
            raise ValueError("must name at least one source")
        return tuple({"source": one} if isinstance(one, str) else one for one in value) if isinstance(value, (list, tuple)) else value

    @field_validator("valid", "test")
    @classmethod
    def _fraction_or_file(cls, value: float | str | SourceSettings) -> float | str | SourceSettings:
        if isinstance(value, str) and re.fullmatch(r"\d+([.,]\d+)?\s*%", Path(value).name):
            raise ValueError("is a share in percent; write it between 0 and 1, as in 0.1")
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError("must lie between 0 and 1, or be a file or `none`")
        return value

    @model_validator(mode="after")
    def _rows_to_learn_from(self) -> DataSettings:
        shares = [value for value in (self.valid, self.test) if isinstance(value, float)]
        if sum(shares) >= 1:
            raise ValueError(f"valid={self.valid} and test={self.test} leave no rows to learn from; together they must stay below 1")
        return self

    @model_validator(mode="after")
    def _what_divides(self) -> DataSettings:
        if self.split_by == "time" and self.time is None:
            raise ValueError("split_by=time needs the column that says when: data.time")
        if self.split_by == "strata" and (self.together is not None or self.multi_label):
            other = "together" if self.together is not None else "multi_label"
            raise ValueError(f"split_by=strata does not go with `{other}`; use hash, whose shares hold in expectation")
        return self

    @model_validator(mode="after")
    def _keys_of_one_kind(self) -> DataSettings:
        given = [key for keys in KEYS.values() for key in keys if getattr(self, key)]
        kinds = [kind for kind, keys in KEYS.items() if set(given) <= set(keys)]
        if self.rows and self.rows not in kinds:
            wrong = next(key for key in given if key not in KEYS[self.rows])
            raise ValueError(f"rows={self.rows} does not go with `{wrong}`; leave one of the two out")
        if not kinds:
            first = given[0]
            other = next(key for key in given if not any({first, key} <= set(keys) for keys in KEYS.values()))
            raise ValueError(f"`{first}` and `{other}` belong to different kinds of rows; leave one of the two out")
        return self


BROKEN = ("broken character", "column `{column}` holds half of a surrogate pair", "repair the escape \\ud8xx in it")


def common(record: dict[str, Any], settings: DataSettings) -> dict[str, Any] | Wrong:
    """The columns that every kind of row has: id (None where the recipe names no column), together, time and attributes.

    Returns:
        Their values, or (reason, what, remedy).
    """
    for column in (settings.id, settings.together, settings.time, *settings.attributes):
        if column and not encodable(record.get(column)):
            return BROKEN[0], BROKEN[1].format(column=column), BROKEN[2]
    together = plain(record.get(settings.together)) if settings.together else None
    if settings.together and together is None:
        return "no together value", f"column `{settings.together}` is blank", "fill it, or give each such row a value of its own"
    name = plain(record.get(settings.id)) if settings.id else None
    if settings.id and name is None:
        return "no id", f"column `{settings.id}` is blank", "fill it, or leave data.id out"
    return {
        "id": name,
        "together": together,
        "time": plain(record.get(settings.time)) if settings.time else None,
        "attributes": [(name, value) for name in settings.attributes if (value := plain(record.get(name))) is not None],
    }


def encodable(value: Any) -> bool:
    """False for text, or a list of it, with half of a surrogate pair: it has no UTF-8."""
    if isinstance(value, str) and value.isascii():
        return True
    if isinstance(value, list):
        return all(map(encodable, value))
    try:
        return not isinstance(value, str) or value.encode() is not None
    except UnicodeEncodeError:
        return False


def plain(value: Any) -> str | None:
    """A name as text: trimmed, whole numbers without a point; None for blank, NaN or anything that is not a plain value."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float) and math.isnan(value):  # how some tools write a missing number
        return None
    if isinstance(value, (int, float)):
        return str(value)
    return str(value) if value is not None and not isinstance(value, (list, dict)) else None


def stop_for(bad: Sequence[BadRow], rejected: Path | None, count: int = 0) -> Problems:
    """The error for bad rows when the recipe says stop: the first ones with their lines, and where the rest are.

    Args:
        bad: all of them, or the first MOST_SHOWN.
        rejected: the file that has them all; None for none.
        count: how many there are; 0 for as many as in `bad`.
    """
    first, count = list(bad[:MOST_SHOWN]), count or len(bad)
    after = [one.remedy for one in first[1:]] + [""]  # a remedy of several rows running is said once
    shown = [UserError(one.what, f"{one.source}:{one.line}", "" if one.remedy == then else one.remedy) for one, then in zip(first, after, strict=True)]
    if count > MOST_SHOWN:
        shown.append(UserError(f"and {count - MOST_SHOWN} more"))
    place = f"; all are in {rejected}" if rejected else ""
    return Problems(shown, f"{counted(count, 'bad row')}{place}. Mend them, or go on without them: data.on_bad_row=reject")
