"""How a table's cells look: what stands right, with how many digits, and how narrow a column may become."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.core.sections import Table
from tunesmith.report.svg import text_width

EMPTY = "–"
"""Shown for None, for values that are not numbers and for empty texts."""

WIDEST_WORD, WIDEST_PHRASE = 13.0, 8.5
"""Widths, in a head's font size, that a column keeps in one piece: wider words are broken, wider phrases set on lines."""

CELL = 1.1
"""A cell's font size over a head's, from `page.css`."""

SHORT = 14
"""Tables of at most so many rows stay on one sheet in print."""

MOST_COLUMNS = 8
"""Tables with more columns are set smaller in print."""

_FIGURE = re.compile(r"[<>≤≥~≈±+\-−]?[\[(]?[+\-−]?\d[\d\s.,:+\-−–±%×^\[\]()]*(to )?[\d\s.,+\-−\])]*[A-Za-zµ%]{0,3}")
_CODE = re.compile(r"[0-9a-f]{16,}|(sha256:)[0-9a-f]+|[A-Za-z0-9\-]+([._][A-Za-z0-9\-]+)*_[A-Za-z0-9_.\-]+|[a-z]+(\.[a-z]+)+")

Cell = str | float | int | None


@dataclass(frozen=True)
class Column:
    """A column's head, whether it stands right, and its least width in the head's font size."""

    name: str
    figures: bool
    least: float


@dataclass(frozen=True)
class Grid:
    """A table ready to be set: every cell a text with whether it is code (a key, a hash)."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[tuple[str, bool]]]
    emphasis: int | None
    pairs: bool
    wide: bool
    short: bool


def grid(table: Table) -> Grid:
    """Lay a table out.

    Args:
        table: rows shorter than its columns are filled with empty cells.
    """
    count = max([len(table.columns), *map(len, table.rows)])
    heads = [*table.columns, *[""] * (count - len(table.columns))]
    rows = [[*row, *[None] * (count - len(row))] for row in table.rows]
    shown = [[show(cell, table.digits) for cell in row] for row in rows]
    columns = [
        _column(head, [row[at] for row in rows], [row[at] for row in shown], pairs=count == 2) for at, head in enumerate(heads)
    ]
    cells = [[(text, bool(_CODE.fullmatch(text))) for text in row] for row in shown]
    return Grid(table.caption, columns, cells, table.emphasis, count == 2, count > MOST_COLUMNS, len(rows) <= SHORT)


def show(cell: Cell, digits: int) -> str:
    """A cell as text.

    Args:
        cell: whole numbers get separated thousands, other numbers `digits` decimals; a number too small for them keeps two
            significant digits, as a learning rate shown as 0.000 would be a lie.
        digits: decimals.
    """
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return EMPTY
    if isinstance(cell, str):
        return cell if cell.strip() else EMPTY
    if isinstance(cell, float) and math.isinf(cell):
        return "∞" if cell > 0 else "−∞"
    if isinstance(cell, int):
        return f"{cell:,}".replace("-", "−")
    if cell and abs(cell) < 0.5 * 10**-digits:
        return re.sub(r"e-0?", "e−", f"{cell:.2g}").replace("-", "−")
    return f"{cell:,.{digits}f}".replace("-", "−")


def _stands_right(cells: Sequence[Cell], pairs: bool) -> bool:
    """Figures stand right; a mixed column follows its majority, in a two-column list (settings) only when all are figures."""
    filled = [cell for cell in cells if cell is not None and cell != ""]
    figures = sum(_FIGURE.fullmatch(cell) is not None if isinstance(cell, str) else not isinstance(cell, bool) for cell in filled)
    return bool(filled) and figures >= len(filled) * (1 if pairs else 2 / 3)


def _column(head: str, cells: Sequence[Cell], shown: Sequence[str], pairs: bool) -> Column:
    """A column whose head and texts keep their words whole; figures never break anyway."""
    figures = _stands_right(cells, pairs)
    texts = [] if figures else shown
    words = [text_width(word, 1) for word in head.split()] + [text_width(word, CELL) for text in texts for word in text.split()]
    phrase = max((text_width(text, CELL) for text in texts), default=0)
    return Column(head, figures, round(max(min(max(words, default=0), WIDEST_WORD), min(phrase, WIDEST_PHRASE)), 2))
