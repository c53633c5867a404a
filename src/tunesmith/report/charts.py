"""Charts as HTML with inline SVG: one drawing for a desk and one for a phone, of which the style sheet shows one."""

from __future__ import annotations

from tunesmith.core.sections import Bars, Heatmap, Lines
from tunesmith.report import bars, heatmap, lines, svg

WIDE, NARROW = 860.0, 390.0
"""Widths of the two drawings, the page's column and about a phone's or half the column, so that their text keeps its size."""


def chart(block: Lines | Bars | Heatmap, half: bool = False) -> str:
    """Draw a chart.

    Args:
        block: what to draw. Every text in it is escaped.
        half: it shares its row with another chart: draw the narrow one only.

    Returns:
        HTML that needs `theme.css` and `charts.css`, and nothing else: no ids, no scripts, no files.
    """
    if isinstance(block, Heatmap):
        return _heatmap(block)
    if isinstance(block, Bars):
        return bars.draw(block, WIDE, "at-wide") + bars.draw(block, NARROW, "at-narrow")
    if block.diagonal:
        return _legend(block, "") + lines.draw(block, 420, 420, False, "")
    if half:
        return _legend(block, "") + lines.draw(block, NARROW, 280, False, "")
    direct = lines.has_end_labels(block)
    wide = lines.draw(block, WIDE, 340, direct, "at-wide")
    return _legend(block, "at-narrow" if direct else "") + wide + lines.draw(block, NARROW, 280, False, "at-narrow")


def _heatmap(block: Heatmap) -> str:
    if heatmap.has_numbers(block):
        drawn = heatmap.draw(block, WIDE, "at-wide") + heatmap.draw(block, NARROW, "at-narrow")
    else:
        caption = svg.escape(block.caption or block.row_label)
        drawn = heatmap.draw(block, WIDE, "unscaled")
        drawn = f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}">{drawn}</div>'
    key = [("on", "right"), ("off", "confused")] if block.row_names and heatmap.is_confusion(block) else []
    swatches = "".join(f'<li><i class="swatch {name}"></i>{said}</li>' for name, said in key)
    told = "The stronger the colour, the larger the share of its row." if key else ""
    return drawn + (f'<ul class="legend below">{swatches}<li>{told}</li></ul>' if key else "")


def _legend(block: Lines, kind: str) -> str:
    """The lines' names with their colours; none for a single line that the axis already names."""
    names = [series.name for series in block.series]
    if not any(names) or names == [block.y_label]:
        return ""
    items = "".join(
        f'<li><i class="swatch {lines.style(index)}"></i>{svg.escape(name)}</li>' for index, name in enumerate(names)
    )
    return f'<ul class="{f"legend {kind}".strip()}">{items}</ul>'
