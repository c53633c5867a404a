"""What the rooms hand to the report: sections as plain data, so that no room draws and the report judges nothing.

Every text here is the user's or ours, never markup: the report escapes all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["good", "warn", "bad", "plain"]


@dataclass(frozen=True)
class Words:
    """A paragraph. `tone` colours a remark: good, warn, bad, or plain."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Figures:
    """A row of large figures: (value as shown, what it is, small print)."""

    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """Rows under a head. Cells are text or numbers; numbers are right-aligned and shown as given by `digits`."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]
    caption: str = ""
    digits: int = 3
    emphasis: int | None = None
    """Index of the row to stress, such as the tuned model among baselines."""


@dataclass(frozen=True)
class Series:
    """One line of a chart. `low` and `high` draw a band."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Lines:
    """A line chart. `marks` are (x, label) for vertical lines, such as the kept step."""

    series: Sequence[Series]
    x_label: str
    y_label: str
    caption: str = ""
    marks: Sequence[tuple[float, str]] = ()
    diagonal: bool = False
    """Draw y = x, for reliability plots."""
    log_x: bool = False


@dataclass(frozen=True)
class Bars:
    """Horizontal bars with optional intervals (low, high) and one stressed bar."""

    names: Sequence[str]
    values: Sequence[float]
    x_label: str
    intervals: Sequence[tuple[float, float]] | None = None
    emphasis: int | None = None
    caption: str = ""
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Heatmap:
    """Counts in a grid, rows = truth, columns = prediction for a confusion matrix."""

    row_names: Sequence[str]
    column_names: Sequence[str]
    values: Sequence[Sequence[float]]
    row_label: str
    column_label: str
    caption: str = ""


@dataclass(frozen=True)
class Quotes:
    """Texts to be read by a person: each a list of (small label, text), such as the worst errors."""

    items: Sequence[Sequence[tuple[str, str]]]
    caption: str = ""


@dataclass(frozen=True)
class Sample:
    """One row's texts to be compared: (label, text) pairs, `above` over the whole width, `beside` side by side.

    `head` are short facts, such as a score of each answer; `emphasis` is the index in `beside` of the text to stress.
    """

    head: Sequence[tuple[str, str]]
    above: Sequence[tuple[str, str]]
    beside: Sequence[tuple[str, str]]
    emphasis: int | None = None


@dataclass(frozen=True)
class Samples:
    """Rows with the answers of several models, to be read by a person."""

    items: Sequence[Sample]
    caption: str = ""


Block = Words | Figures | Table | Lines | Bars | Heatmap | Quotes | Samples


@dataclass(frozen=True)
class Section:
    """One part of the report: a title, an identifier for links, and blocks in reading order.

    `folded` sections (settings, versions, hashes) start closed on screen and open in print.
    """

    name: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
    folded: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the report says before any figure: one headline in words, a few supporting sentences, and how good the news is."""

    headline: str
    sentences: Sequence[str] = ()
    tone: Tone = "plain"
