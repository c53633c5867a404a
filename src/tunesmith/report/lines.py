"""Line charts: learning curves, reliability plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.core.sections import Lines, Series
from tunesmith.report import svg

MOST_POINTS = 500
"""Points drawn of one line: more are closer together than a screen's pixels."""

MOST_DOTS = 40
"""Lines of at most so many points show each one as a dot with its values on hovering."""

FINE = 150
"""Lines of more points are drawn finer, as their noise would fill a stroke of full width."""

COLOURS = 6
"""Colours in `charts.css`; later lines repeat them dashed."""

Point = tuple[float, float]


@dataclass(frozen=True)
class _Frame:
    """The plot's rectangle, the scales of both axes and what their ticks say."""

    left: float
    top: float
    right: float
    bottom: float
    x: svg.Scale
    y: svg.Scale
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]


def thin(y: Sequence[float], low: Sequence[float] | None = None, high: Sequence[float] | None = None) -> list[int]:
    """Which points of a line to draw.

    Each of some 160 stretches keeps its smallest value, its largest and one gap (a value that is not finite), so that peaks and
    holes survive; the first and last points and the band's extremes always stay.

    Args:
        y: the line's values.
        low: lower edge of its band.
        high: upper edge of its band.

    Returns:
        Indices in rising order, at most `MOST_POINTS`.
    """
    if len(y) <= MOST_POINTS:
        return list(range(len(y)))
    kept = {0, len(y) - 1}
    stretches = (MOST_POINTS - 4) // 3
    for stretch in range(stretches):
        span = range(stretch * len(y) // stretches, (stretch + 1) * len(y) // stretches)
        finite = [index for index in span if math.isfinite(y[index])]
        kept.update({min(finite, key=y.__getitem__), max(finite, key=y.__getitem__)} if finite else ())
        kept.update([index for index in span if not math.isfinite(y[index])][:1])
    if low is not None and high is not None:
        for edge, pick in ((low, min), (high, max)):
            finite = [index for index in range(len(edge)) if math.isfinite(edge[index])]
            kept.update({pick(finite, key=edge.__getitem__)} if finite else ())
    return sorted(kept)


def has_end_labels(block: Lines) -> bool:
    """Whether a wide chart names its lines at their ends; it needs a legend otherwise."""
    return len(block.series) <= 5 and all(svg.text_width(series.name) <= 170 for series in block.series)


def draw(block: Lines, width: float, height: float, end_labels: bool, kind: str) -> str:
    """A line chart as SVG.

    Args:
        block: what to draw. Values that are not finite, and x of 0 or less on a logarithmic axis, leave gaps.
        width: of the drawing.
        height: of the drawing; with `block.diagonal` it follows from the width, so that both axes have one scale.
        end_labels: name the lines at their right ends.
        kind: the drawing's class.
    """
    label = block.caption or f"{block.y_label} by {block.x_label}"
    points = [_points(series, block.log_x) for series in block.series]
    seen = [point for line in points for point in line if point is not None]
    if not seen:
        return svg.drawing(width, 60, label, svg.text("No values to draw.", 0, 34, class_="muted"), kind)
    frame = _frame(block, seen, width, height, end_labels)
    parts = [_axes(block, frame)]
    if block.diagonal:
        low, high = frame.x_ticks[0][0], frame.x_ticks[-1][0]
        path = f"M{_place(frame.x(low), frame.y(low))}L{_place(frame.x(high), frame.y(high))}"
        parts.append(svg.element("path", class_="diagonal", d=path))
    parts += [_band(series, frame, index, block.log_x) for index, series in enumerate(block.series)]
    parts.append(_marks(block, frame))
    parts += [_line(line, block.series[index].name, frame, index) for index, line in enumerate(points)]
    if end_labels:
        parts.append(_end_labels(block, points, frame))
    return svg.drawing(width, frame.bottom + 44, label, "".join(parts), kind)


def style(index: int) -> str:
    """The class that gives the line of an index its colour and, past the colours, its dashes."""
    return f"s{index % COLOURS + 1}" + (" dashed" if index // COLOURS % 2 else "")


def _points(series: Series, log_x: bool) -> list[Point | None]:
    """The points to draw; None is a gap."""
    pairs = [(float(series.x[index]), float(series.y[index])) for index in thin(series.y, series.low, series.high)]
    return [(x, y) if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x) else None for x, y in pairs]


def _frame(block: Lines, seen: list[Point], width: float, height: float, end_labels: bool) -> _Frame:
    """Lay the axes out around the values, the marks and the bands."""
    edges = [value for series in block.series for edge in (series.low, series.high) if edge is not None for value in edge]
    ys = [y for _, y in seen] + [value for value in edges if math.isfinite(value)]
    marked = [x for x, _ in block.marks if math.isfinite(x) and (x > 0 or not block.log_x)]
    xs = [x for x, _ in seen] + marked
    few = width < 500
    y_values = svg.ticks(min(ys), max(ys), 4 if few else 5)
    x_low, x_high = min(xs), max(xs)
    if block.diagonal:
        y_values = svg.ticks(min(ys + xs), max(ys + xs), 5)
        x_low, x_high = y_values[0], y_values[-1]
    elif x_low == x_high:
        x_low, x_high = (x_low / 2, x_high * 2) if block.log_x else (x_low - 0.5, x_high + 0.5)
    y_texts = svg.tick_labels(y_values)
    left = max(svg.text_width(shown) for shown in y_texts) + 10
    names = max((svg.text_width(series.name) for series in block.series), default=0)
    right = width - (names + 18 if end_labels else 22)
    top = 30.0 + (20 if block.marks else 0)
    bottom = top + (right - left) if block.diagonal else height - 44
    x = (svg.logarithmic if block.log_x else svg.linear)(x_low, x_high, left, right)
    x_ticks = _x_ticks(block, x_low, x_high, 4 if few else 7, all(value == int(value) for value in xs))
    return _Frame(left, top, right, bottom, x, svg.linear(y_values[0], y_values[-1], bottom, top), x_ticks,
                  list(zip(y_values, y_texts, strict=True)))  # fmt: skip


def _x_ticks(block: Lines, low: float, high: float, about: int, whole: bool) -> list[tuple[float, str]]:
    if block.diagonal:
        about = 5  # the ticks of y
    if block.log_x:
        return [(value, svg.tick_label(value, value, 1000)) for value in svg.log_ticks(low, high, about)]
    values = svg.ticks(low, high, about, whole and not block.diagonal)
    slack = (high - low) * 1e-6
    return [pair for pair in zip(values, svg.tick_labels(values), strict=True) if low - slack <= pair[0] <= high + slack]


def _axes(block: Lines, frame: _Frame) -> str:
    parts = [svg.text(svg.shorten(block.y_label, frame.right, svg.FONT), 0, 12, full=block.y_label, class_="axis")]
    for value, shown in frame.y_ticks:
        y = frame.y(value)
        rule = "base" if value == frame.y_ticks[0][0] else "grid"
        parts.append(svg.element("line", class_=rule, x1=frame.left, y1=y, x2=frame.right, y2=y))
        parts.append(svg.text(shown, frame.left - 8, y + 4, class_="tick end"))
    for value, shown in frame.x_ticks:
        x = frame.x(value)
        parts.append(svg.element("line", class_="base", x1=x, y1=frame.bottom, x2=x, y2=frame.bottom + 4))
        parts.append(svg.text(shown, x, frame.bottom + 18, class_="tick middle"))
    x_label = svg.shorten(block.x_label, frame.right - frame.left)
    parts.append(svg.text(x_label, (frame.left + frame.right) / 2, frame.bottom + 38, full=block.x_label, class_="axis middle"))
    return "".join(parts)


def _band(series: Series, frame: _Frame, index: int, log_x: bool) -> str:
    """The area between `low` and `high`; gaps are bridged, as a band is a background."""
    if series.low is None or series.high is None:
        return ""
    edge = [
        (frame.x(series.x[at]), frame.y(series.low[at]), frame.y(series.high[at]))
        for at in thin(series.y, series.low, series.high)
        if all(map(math.isfinite, (series.x[at], series.low[at], series.high[at]))) and (series.x[at] > 0 or not log_x)
    ]
    if not edge:
        return ""
    around = [(x, high) for x, _, high in edge] + [(x, low) for x, low, _ in reversed(edge)]
    return svg.element("path", class_=f"band {style(index)}", d="M" + "L".join(_place(*point) for point in around) + "Z")


def _line(line: list[Point | None], name: str, frame: _Frame, index: int) -> str:
    path, lifted = "", True
    for point in line:
        path += "" if point is None else ("M" if lifted else "L") + _place(frame.x(point[0]), frame.y(point[1]))
        lifted = point is None
    if not path:
        return ""
    hover = svg.element("title", svg.escape(name)) if name else ""
    parts = [svg.element("path", hover, class_=f"line {style(index)}{' fine' if len(line) > FINE else ''}", d=path)]
    if len(line) <= MOST_DOTS:
        for point in filter(None, line):
            said = svg.element("title", svg.escape(f"{name}: {point[1]:.4g} at {point[0]:,.6g}"))
            x, y = frame.x(point[0]), frame.y(point[1])
            parts.append(svg.element("circle", said, class_=f"dot {style(index)}", cx=x, cy=y, r=3))
    return "".join(parts)


def _marks(block: Lines, frame: _Frame) -> str:
    """Vertical lines; a label that would run into the one before it is left to hovering."""
    parts, taken = [], -math.inf
    for value, name in sorted(block.marks):
        if not math.isfinite(value) or (block.log_x and value <= 0):
            continue
        x = frame.x(value)
        hover = svg.element("title", svg.escape(f"{name} ({value:,.6g})"))
        parts.append(svg.element("line", hover, class_="mark", x1=x, y1=frame.top - 8, x2=x, y2=frame.bottom))
        shown = svg.shorten(name, 200)
        half = svg.text_width(shown, 11) / 2 + 7
        centre = min(max(x, half), max(frame.right, x) - half + 14)
        if centre - half > taken:
            parts.append(svg.element("rect", class_="flag", x=centre - half, y=frame.top - 26, width=2 * half, height=19, rx=9.5))
            parts.append(svg.text(shown, centre, frame.top - 12.5, full=name, class_="flagged middle"))
            taken = centre + half + 4
    return "".join(parts)


def _end_labels(block: Lines, points: list[list[Point | None]], frame: _Frame) -> str:
    """Names beside the lines' ends, pushed apart where they would touch."""
    ends = [(index, [point for point in line if point][-1]) for index, line in enumerate(points) if any(line)]
    ends.sort(key=lambda end: -end[1][1])
    heights = [frame.y(y) for _, (_, y) in ends]
    for at in range(1, len(heights)):
        heights[at] = max(heights[at], heights[at - 1] + 16)
    if heights and heights[-1] > frame.bottom:
        heights[-1] = frame.bottom
        for at in range(len(heights) - 2, -1, -1):
            heights[at] = min(heights[at], heights[at + 1] - 16)
    parts = []
    for (index, (x, y)), height in zip(ends, heights, strict=True):
        if frame.right - frame.x(x) > 12 or abs(height - frame.y(y)) > 9:
            leader = f"M{_place(frame.x(x) + 5, frame.y(y))}L{_place(frame.right + 10, height)}"
            parts.append(svg.element("path", class_=f"leader {style(index)}", d=leader))
        parts.append(svg.text(block.series[index].name, frame.right + 13, height + 4, class_=f"name {style(index)}"))
    return "".join(parts)


def _place(x: float, y: float) -> str:
    return f"{svg.number(round(x, 1))} {svg.number(round(y, 1))}"
