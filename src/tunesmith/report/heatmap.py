"""Counts in a grid: confusion matrices from two classes to some hundreds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.core.sections import Heatmap
from tunesmith.report import svg

MOST_WITH_NUMBERS = 15
"""Wider grids show their numbers on hovering only."""

MOST_HOVERS = 6000
"""Cells with a hovering text (each some 130 bytes: 77 classes at worst 0.8 MB); fuller grids are drawn without."""

LEVELS = 40
"""Steps of colour, by the square root of the share, so that a single error among hundreds is still seen."""

SLANT = 0.72
"""Height and width that a text at 45 degrees takes of its length."""


@dataclass(frozen=True)
class _Layout:
    """Where the grid starts, a cell's size, the columns' names (room, angle in degrees), and whether numbers fit."""

    left: float
    top: float
    cell: float
    height: float
    size: float
    room: float
    angle: int
    few: bool

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """The upper left corner of a cell."""
        return self.left + column * self.cell, self.top + row * self.height


def has_numbers(block: Heatmap) -> bool:
    """Whether the grid is small enough for numbers in its cells and for a drawing of a phone's width."""
    return max(len(block.row_names), len(block.column_names)) <= MOST_WITH_NUMBERS


def is_confusion(block: Heatmap) -> bool:
    """Whether rows and columns are the same classes: colour is then the share of a row, and errors have their own."""
    values = [value for row in block.values for value in row]
    return list(block.row_names) == list(block.column_names) and all(not value < 0 for value in values)


def draw(block: Heatmap, width: float, kind: str) -> str:
    """A grid as SVG, wider than `width` where cells would become too small to see.

    Args:
        block: what to draw. Cells that are 0 or not finite stay empty.
        width: of the drawing.
        kind: the drawing's class.
    """
    label = block.caption or f"{block.row_label} by {block.column_label}"
    if not block.row_names or not block.column_names:
        return svg.drawing(width, 60, label, svg.text("No values to draw.", 0, 34, class_="muted"), kind)
    at, full_width = _layout(block, width)
    right, bottom = at.corner(len(block.row_names), len(block.column_names))
    row_label, column_label = svg.shorten(block.row_label, at.left - 12), svg.shorten(block.column_label, full_width - at.left)
    parts = [
        svg.text(column_label, at.left, 12, full=block.column_label, class_="axis"),
        svg.text(row_label, at.left - 10, at.top - 8, full=block.row_label, class_="axis end"),
        svg.element("rect", class_="sheet", x=at.left, y=at.top, width=right - at.left, height=bottom - at.top),
        _names(block, at),
        _cells(block, at),
        _gaps(block, at) if at.few else "",
    ]
    return svg.drawing(full_width, bottom + 4, label, "".join(parts), kind)


def _layout(block: Heatmap, width: float) -> tuple[_Layout, float]:
    """The layout and the width it takes, at least the one asked for."""
    few = has_numbers(block)
    size, most = (11.5, width * 0.3) if few else (8.5, 150.0)
    left = min(max(svg.text_width(name, size) for name in [*block.row_names, block.row_label]) + 12, most)
    widest, columns = max(svg.text_width(name, size) for name in block.column_names), len(block.column_names)
    angle = 90 if not few else 0 if widest < min((width - left) / columns, 72.0) - 4 else 45
    room = {0: size, 45: min(widest * SLANT + 10, most), 90: min(widest + 10, most)}[angle]
    overhang = room * 0.8 if angle == 45 else 4.0
    cell = min(max((width - left - overhang) / columns, 5.0), 72.0)
    layout = _Layout(left, room + 26, cell, min(cell, 40.0), size, room, angle, few)
    return layout, max(left + cell * len(block.column_names) + overhang, width)


def _names(block: Heatmap, at: _Layout) -> str:
    """Names of the rows, and of the columns on a slant or upright; every second or third where they would touch."""
    parts = []
    rows_apart, columns_apart = math.ceil((at.size + 0.5) / at.height), math.ceil((at.size + 0.5) / at.cell)
    for row, name in list(enumerate(block.row_names))[::rows_apart]:
        y = at.corner(row, 0)[1] + at.height / 2 + at.size * 0.35
        shown = svg.shorten(name, at.left - 12, at.size)
        parts.append(svg.text(shown, at.left - 8, y, full=name, class_="tick end", font_size=at.size))
    for column, name in list(enumerate(block.column_names))[::columns_apart]:
        x, y = at.corner(0, column)[0] + at.cell / 2 + (at.size * 0.35 if at.angle == 90 else 0), at.top - 7
        shown = svg.shorten(name, at.cell if not at.angle else (at.room - 10) / (SLANT if at.angle == 45 else 1), at.size)
        turn = f"rotate({-at.angle} {svg.number(x)} {svg.number(y)})"
        place = "tick" if at.angle else "tick middle"
        parts.append(svg.text(shown, x, y, full=name, class_=place, font_size=at.size, transform=turn))
    return "".join(parts)


def _cells(block: Heatmap, at: _Layout) -> str:
    """One path a cell with a hovering text; in grids too full for that, one path for all cells of a colour."""
    confusion = is_confusion(block)
    shares = _shares(block.values, confusion)
    filled = [(row, column) for row, line in enumerate(shares) for column, share in enumerate(line) if share]
    gap = 0.0 if at.few else 0.3
    box = f"h{svg.number(at.cell - 2 * gap)}v{svg.number(at.height - 2 * gap)}h{svg.number(2 * gap - at.cell)}z"
    together: dict[tuple[str, int], str] = {}
    parts = []
    for row, column in filled:
        share = shares[row][column]
        level = max(1, round(math.sqrt(abs(share)) * LEVELS))
        colour = "off" if share < 0 or (confusion and row != column) else "on"
        x, y = at.corner(row, column)
        path = f"M{svg.number(x + gap)} {svg.number(y + gap)}{box}"
        if len(filled) > MOST_HOVERS:
            together[colour, level] = together.get((colour, level), "") + path
            continue
        value = _count(block.values[row][column])
        hover = svg.element("title", svg.escape(f"{block.row_names[row]} → {block.column_names[column]}: {value}"))
        parts.append(svg.element("path", hover, class_=colour, d=path, opacity=_opacity(level)))
        if at.few:
            strong = " strong" if _opacity(level) > 0.72 else ""
            size = min(svg.FONT, svg.FONT * (at.cell - 4) / svg.text_width(value))
            centre = (x + at.cell / 2, y + at.height / 2 + 4)
            parts.append(svg.text(value, *centre, class_=f"count middle{strong}", font_size=size))
    for (colour, level), path in sorted(together.items()):
        parts.append(svg.element("path", class_=colour, d=path, opacity=_opacity(level)))
    return svg.element("g", "".join(parts), class_="cells") if parts else ""


def _gaps(block: Heatmap, at: _Layout) -> str:
    """Lines of the paper's colour between cells, so that empty ones are seen as cells too."""
    across, down = at.cell * len(block.column_names), at.height * len(block.row_names)
    rows = [(at.corner(row, 0), f"h{svg.number(across)}") for row in range(1, len(block.row_names))]
    columns = [(at.corner(0, column), f"v{svg.number(down)}") for column in range(1, len(block.column_names))]
    path = "".join(f"M{svg.number(x)} {svg.number(y)}{stroke}" for (x, y), stroke in rows + columns)
    return svg.element("path", class_="gaps", d=path) if path else ""


def _shares(values: Sequence[Sequence[float]], by_row: bool) -> list[list[float]]:
    """Each value over its row's sum, or over the largest of all; 0 where it is not finite."""
    clean = [[float(value) if math.isfinite(value) else 0.0 for value in row] for row in values]
    most = max((abs(value) for row in clean for value in row), default=0) or 1.0
    return [[value / ((sum(row) or 1.0) if by_row else most) for value in row] for row in clean]


def _opacity(level: int) -> float:
    return round(0.05 + 0.95 * level / LEVELS, 2)


def _count(value: float) -> str:
    return (f"{value:,.0f}" if value == int(value) else f"{value:.3g}").replace("-", "−")
