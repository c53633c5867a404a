"""The few SVG parts that every chart here is made of: escaped elements, estimated text widths, ticks, scales.

Why not matplotlib: its SVG carries fixed colours, fixed sizes and its own fonts' metrics. Drawn by hand, a chart is classes
that `charts.css` colours for light, dark and print, it can be drawn once for a desk and once for a phone, it needs no ids that
could collide in a page, and the same input gives the same bytes.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Callable, Sequence

FONT = 12.0
"""Size of a chart's text in its own units, which are about CSS pixels."""

Scale = Callable[[float], float]
"""From a value of the data to a place in the drawing."""

_NARROW, _WIDE = frozenset(" .,:;'|!ijlftrI()[]"), frozenset("mwMW@%")


def escape(text: str) -> str:
    """A text as it may stand between tags and inside quoted attributes."""
    return html.escape(text, quote=True)


def number(value: float) -> str:
    """A coordinate: two decimals at most, no trailing zeros, never `-0`."""
    shown = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if shown == "-0" else shown


def element(name: str, content: str = "", **attributes: str | float) -> str:
    """One SVG element.

    Args:
        name: the element's name.
        content: markup already escaped.
        attributes: their values are escaped here; `class_` stands for `class`, an underscore for a hyphen.
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value) if isinstance(value, str) else number(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{pairs}>{content}</{name}>" if content else f"<{name}{pairs}/>"


def text(shown: str, x: float, y: float, *, full: str = "", **attributes: str | float) -> str:
    """A text, escaped; `full` is what hovering over it says when it was shortened."""
    hover = element("title", escape(full)) if full and full != shown else ""
    return element("text", escape(shown) + hover, x=x, y=y, **attributes)


def text_width(shown: str, size: float = FONT) -> float:
    """About how wide a text is in a common sans-serif font.

    The reader's font is not known here; the estimate errs to the wide side, as too much room looks better than too little.
    """

    def em(character: str) -> float:
        if unicodedata.east_asian_width(character) in "WF":
            return 1.05
        if character in _NARROW:
            return 0.36
        return 0.92 if character in _WIDE else 0.7 if character.isupper() else 0.59

    return size * sum(map(em, shown))


def shorten(shown: str, room: float, size: float = FONT) -> str:
    """A text cut with an ellipsis so that it fits a width; line breaks become spaces."""
    shown = " ".join(shown.split())
    if text_width(shown, size) <= room:
        return shown
    used = text_width("…", size)
    for at, character in enumerate(shown):
        used += text_width(character, size)
        if used > room:
            return shown[:at].rstrip() + "…"
    return shown


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """The straight scale that maps [low, high] to [start, end]."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """As `linear`, by powers of ten; values must be above 0."""
    straight = linear(math.log10(low), math.log10(high), start, end)
    return lambda value: straight(math.log10(value))


def ticks(low: float, high: float, about: int, whole: bool = False) -> list[float]:
    """Round values from the last one at or below `low` to the first one at or above `high`.

    Args:
        low: smallest value to cover.
        high: largest value to cover; equal to `low` widens the range.
        about: how many are wanted; the answer has a few more or fewer.
        whole: whole numbers only, for counts and steps.
    """
    if not high > low:
        pad = abs(low) * 0.1 or 0.5
        low, high = low - pad, high + pad
    raw = (high - low) / max(about, 1)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * 0.999)
    step = max(1.0, math.ceil(step)) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float, about: int) -> list[float]:
    """Powers of ten within [low, high], with 2 and 5 times them where there is room, thinned where there is none."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    inside = [value for value in fine if low * 0.999 <= value <= high * 1.001]
    if len(inside) < 2:
        return [value for value in ticks(low, high, about) if low <= value <= high]
    if len(inside) <= about + 2:
        return inside
    powers = [value for value in inside if math.log10(value).is_integer()]
    return powers[:: math.ceil(len(powers) / (about + 1))]


def tick_label(value: float, step: float, letters_from: float = 100_000) -> str:
    """A tick's text.

    Args:
        value: of the tick.
        step: between ticks; the text has as many decimals as it.
        letters_from: values from here on are shown in k, M and G.
    """
    if abs(value) >= 1e15 or (value and abs(value) < 1e-5):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+", "e").replace("-", "−", value < 0)
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, letters_from) and step >= size / 10:
            return f"{value / size:.2f}".rstrip("0").rstrip(".").replace("-", "−") + letter
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    if decimals and round(step * 10**decimals, 6) % 1:
        decimals += 1  # a step such as 0.25 needs one more
    return f"{value:,.{decimals}f}".replace("-", "−") if round(value, decimals) else f"{0:.{decimals}f}"


def tick_labels(values: Sequence[float]) -> list[str]:
    """The texts of evenly spaced ticks."""
    if not values:
        return []
    step = values[1] - values[0] if len(values) > 1 else abs(values[0]) or 1.0
    return [tick_label(value, step) for value in values]


def drawing(width: float, height: float, label: str, content: str, kind: str) -> str:
    """The outer element of a chart.

    Args:
        width: of the drawing in its own units.
        height: likewise.
        label: what a screen reader says for the whole chart.
        content: the chart's elements.
        kind: a class, `at-wide` or `at-narrow` where there is one drawing for each.
    """
    return element(
        "svg",
        content,
        class_=f"plot {kind}".strip(),
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=" ".join(label.split()),
    )
