"""Horizontal bars with intervals: models beside each other, a score by group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.core.sections import Bars
from tunesmith.report import svg

MOST_TALL = 20
"""More bars than this are drawn thinner."""

NAME = svg.FONT + 1
"""Size of names and values."""


@dataclass(frozen=True)
class _Layout:
    """The horizontal scale, the distance between bars, and where the values and the intervals in words end."""

    x: svg.Scale
    low: float
    high: float
    ticks: Sequence[float]
    pitch: float
    width: float
    left: float
    value_end: float
    narrow: bool
    spans: bool

    def middle(self, index: int) -> float:
        """The height at which a bar is centred; in a narrow drawing its name stands above it."""
        return self.pitch * index + (self.pitch - 14 if self.narrow else self.pitch / 2)


def draw(block: Bars, width: float, kind: str) -> str:
    """Bars as SVG; below 500 units of width each name stands above its bar.

    Args:
        block: what to draw. An axis that leaves 0 out gets dots in place of bars, whose lengths would deceive.
        width: of the drawing.
        kind: the drawing's class.
    """
    label = block.caption or block.x_label
    if not block.values:
        return svg.drawing(width, 60, label, svg.text("No values to draw.", 0, 34, class_="muted"), kind)
    texts = _texts(block)
    at = _layout(block, texts, width)
    bottom = at.pitch * len(block.values) + 4
    parts = [_grid(block, at, bottom)]
    for index, (value, span) in enumerate(texts):
        stress = " stressed" if index == block.emphasis else ""
        height = at.middle(index) + 4.5
        parts.append(_name(block.names[index], at, index, stress))
        parts.append(_bar(block, index, at, f"{value} ({span})" if span else value, stress))
        parts.append(svg.text(value, at.value_end, height, class_=f"bar-value end{stress}"))
        parts.append(svg.text(span, width, height, class_="end") if span and at.spans else "")
    return svg.drawing(width, bottom + 44, label, "".join(parts), kind)


def _layout(block: Bars, texts: Sequence[tuple[str, str]], width: float) -> _Layout:
    narrow = width < 500
    if len(block.values) <= MOST_TALL:
        pitch = 50.0 if narrow else 36.0
    else:
        pitch = 36.0 if narrow else 22.0
    names = max(svg.text_width(" ".join(name.split()), NAME) for name in block.names)
    left = 2.0 if narrow else min(names, width * 0.32) + 10
    value_room = max(svg.text_width(value, NAME) for value, _ in texts)
    span_room = max(svg.text_width(span) for _, span in texts)
    spans = 0 < span_room < width / 2 - value_room  # else the words would leave no room to the bars: they stay for hovering
    value_end = width - (span_room + 8 if spans else 0)
    ticks = _axis(block, 3 if narrow else 6)
    low, high = block.limits or (ticks[0], ticks[-1])
    x = svg.linear(low, high, left, value_end - value_room - 16)
    return _Layout(x, low, high, ticks, pitch, width, left, value_end, narrow, spans)


def _texts(block: Bars) -> list[tuple[str, str]]:
    """Each bar's value and its interval as they are shown."""
    decimals = _decimals([value for value in block.values if math.isfinite(value)])

    def shown(value: float) -> str:
        return f"{value:,.{decimals}f}".replace("-", "−") if math.isfinite(value) else "–"

    spans: Sequence[tuple[float, float] | None] = block.intervals or [None] * len(block.values)
    return [
        (shown(value), "" if span is None else f"{shown(span[0])} to {shown(span[1])}")
        for value, span in zip(block.values, spans, strict=True)
    ]


def _decimals(values: Sequence[float]) -> int:
    most = max(map(abs, values), default=0)
    if all(value == int(value) for value in values) and most > 1:
        return 0
    return 3 if most <= 1 else 2 if most < 10 else 1 if most < 1000 else 0


def _axis(block: Bars, about: int) -> list[float]:
    """Ticks over the given limits, else over the values, their intervals and 0."""
    if block.limits:
        low, high = block.limits
        slack = (high - low) * 1e-6
        return [value for value in svg.ticks(low, high, about) if low - slack <= value <= high + slack]
    ends = [0.0, *block.values, *(end for span in block.intervals or () for end in span)]
    finite = [value for value in ends if math.isfinite(value)]
    return svg.ticks(min(finite), max(finite) if any(finite) else 1.0, about)


def _grid(block: Bars, at: _Layout, bottom: float) -> str:
    parts = []
    for value, shown in zip(at.ticks, svg.tick_labels(at.ticks), strict=True):
        x = at.x(value)
        parts.append(svg.element("line", class_="base" if value == 0 else "grid", x1=x, y1=0, x2=x, y2=bottom))
        inside = x >= svg.text_width(shown) / 2  # else it would be cut off at the drawing's left edge
        parts.append(svg.text(shown, x if inside else 0, bottom + 18, class_="tick middle" if inside else "tick"))
    centre = (at.x(at.low) + at.x(at.high)) / 2
    x_label = svg.shorten(block.x_label, 2 * min(centre, at.width - centre))
    parts.append(svg.text(x_label, centre, bottom + 38, full=block.x_label, class_="axis middle"))
    return "".join(parts)


def _name(name: str, at: _Layout, index: int, stress: str) -> str:
    shown = svg.shorten(name, at.width if at.narrow else at.left - 8, NAME)
    height = at.middle(index) + (-15 if at.narrow and at.pitch > 40 else -9 if at.narrow else 4.5)
    return svg.text(shown, 0, height, full=name, class_=f"bar-name{stress}")


def _bar(block: Bars, index: int, at: _Layout, said: str, stress: str) -> str:
    """One bar (or dot), its interval over it, and both in words on hovering."""
    if not math.isfinite(block.values[index]):
        return ""
    middle, thick = at.middle(index), min(14.0, at.pitch * 0.55)
    end = at.x(_held(block.values[index], at))
    parts = [svg.element("title", svg.escape(f"{block.names[index]}: {said}"))]
    from_zero = at.low <= 0 <= at.high
    if from_zero:
        start, width = min(at.x(0), end), max(abs(end - at.x(0)), 1)
        box = {"x": start, "y": middle - thick / 2, "width": width, "height": thick}
        parts.append(svg.element("rect", class_=f"bar{stress}", rx="2", **{key: svg.number(value) for key, value in box.items()}))
    span = block.intervals[index] if block.intervals else None
    if span and all(map(math.isfinite, span)):
        parts.append(_whisker(at.x(_held(span[0], at)), at.x(_held(span[1], at)), middle, thick * 0.3, bool(stress)))
    if not from_zero:
        parts.append(svg.element("circle", class_=f"point{stress}", cx=end, cy=middle, r=5))
    return svg.element("g", "".join(parts))


def _whisker(first: float, last: float, middle: float, cap: float, haloed: bool) -> str:
    """An interval; on the stressed bar's strong colour a halo keeps it apart."""
    path = f"M{svg.number(first)} {svg.number(middle)}H{svg.number(last)}"
    path += "".join(f"M{svg.number(end)} {svg.number(middle - cap)}v{svg.number(2 * cap)}" for end in (first, last))
    return "".join(svg.element("path", class_=name, d=path) for name in (["halo"] if haloed else []) + ["whisker"])


def _held(value: float, at: _Layout) -> float:
    """A value within the axis."""
    return min(max(value, at.low), at.high)
