"""Charts: bounded sizes, honest thinning, labels that stay texts, ticks that can be read."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from tunesmith.core.sections import Bars, Heatmap, Lines, Series
from tunesmith.report import lines, svg
from tunesmith.report.charts import chart

NAMES = [f"a_rather_long_intent_name_{n:02d}" for n in range(77)]


def parsed(html: str) -> ElementTree.Element:
    """A chart as XML: it fails on anything unclosed or unescaped."""
    return ElementTree.fromstring(f"<div>{html}</div>")


def test_thinning_keeps_the_smallest_the_largest_the_ends_and_gaps() -> None:
    y = [math.sin(n / 50) for n in range(20_000)]
    y[7_777], y[3_333], y[12_345] = 9.0, -9.0, math.nan
    kept = lines.thin(y)
    assert len(kept) <= lines.MOST_POINTS and kept == sorted(set(kept))
    assert {0, 19_999, 7_777, 3_333, 12_345} <= set(kept)
    assert lines.thin([1.0] * 500) == list(range(500))


def test_thinning_keeps_the_extremes_of_a_band() -> None:
    low, high = [0.0] * 3000, [2.0] * 3000
    low[1234], high[2345] = -5.0, 7.0
    assert {1234, 2345} <= set(lines.thin([1.0] * 3000, low, high))


def test_a_long_line_is_drawn_with_at_most_500_points() -> None:
    drawn = parsed(chart(Lines([Series("loss", range(9000), [1 / (n + 1) for n in range(9000)])], "step", "loss")))
    paths = [path.get("d", "") for path in drawn.iter("path") if "line" in path.get("class", "").split()]
    assert paths and all(len(re.findall("[ML]", path)) <= 500 for path in paths)


def test_values_that_are_not_numbers_leave_a_gap() -> None:
    drawn = parsed(chart(Lines([Series("s", [1, 2, 3, 4, 5], [1, 2, math.nan, 2, math.inf])], "x", "y")))
    path = next(path for path in drawn.iter("path") if "line" in path.get("class", "").split())
    assert path.get("d", "").count("M") == 2 and "nan" not in chart(Lines([Series("s", [1, 2], [1, math.nan])], "x", "y"))


@pytest.mark.parametrize("log_x", [False, True])
@pytest.mark.parametrize("xs", [[1.0], [0.0, 1.0], [300.0, 450.0], [1e-6, 1e6], [-5.0, 5.0], [3.0, 3.0]])
def test_any_range_gives_a_drawing_without_nan(xs: list[float], log_x: bool) -> None:
    html = chart(Lines([Series("s", xs, [2.0] * len(xs))], "x", "y", marks=[(xs[0], "here")], log_x=log_x))
    assert not re.search(r"\b(nan|inf)\b", html) and parsed(html) is not None


def test_many_marks_do_not_write_over_each_other() -> None:
    html = chart(Lines([Series("s", [0, 100], [0, 1])], "x", "y", marks=[(float(n), f"mark {n}") for n in range(50)]))
    drawn = next(element for element in parsed(html).iter("svg") if element.get("class") == "plot at-wide")
    boxes = [(float(box.get("x", 0)), float(box.get("width", 0))) for box in drawn.iter("rect") if box.get("class") == "flag"]
    assert len(boxes) > 3 and all(first[0] + first[1] <= second[0] for first, second in zip(boxes, boxes[1:], strict=False))


def test_labels_at_line_ends_keep_apart() -> None:
    html = chart(Lines([Series(f"s{n}", [0, 1], [0, 1 + n / 1000]) for n in range(5)], "x", "y"))
    heights = sorted(float(text.get("y", 0)) for text in parsed(html).iter("text") if "name" in text.get("class", "").split())
    assert len(heights) == 5 and all(second - first >= 15.9 for first, second in zip(heights, heights[1:], strict=False))


def test_the_77_class_heatmap_is_bounded_readable_and_without_numbers() -> None:
    dense = chart(Heatmap(NAMES, NAMES, [[row + column + 1 for column in range(77)] for row in range(77)], "truth", "predicted"))
    assert len(dense) < 1_000_000
    sparse = chart(Heatmap(NAMES, NAMES, [[50 if row == column else 0 for column in range(77)] for row in range(77)], "t", "p"))
    assert len(sparse) < 60_000
    assert 'class="count' not in dense and f"{NAMES[1]} → {NAMES[2]}: 4" in dense
    assert all(f">{name}" in sparse for name in NAMES)


def test_a_heatmap_of_300_classes_stays_small() -> None:
    names = [f"c{n}" for n in range(300)]
    full = [[1 + (row * column) % 7 for column in range(300)] for row in range(300)]
    assert len(chart(Heatmap(names, names, full, "t", "p"))) < 4_000_000


def test_a_small_heatmap_shows_its_counts_and_tells_errors_from_hits() -> None:
    drawn = parsed(chart(Heatmap(["a", "b"], ["a", "b"], [[1204, 0], [3, 7]], "truth", "predicted", "Confusion")))
    wide = next(element for element in drawn.iter("svg") if element.get("class") == "plot at-wide")
    assert [text.text for text in wide.iter("text") if "count" in text.get("class", "")] == ["1,204", "3", "7"]
    assert [path.get("class") for path in wide.iter("path")][:3] == ["on", "off", "on"]


def test_bars_show_intervals_and_the_stressed_one() -> None:
    html = chart(Bars(["tuned", "base"], [0.912, 0.861], "F1", [(0.9, 0.92), (0.84, 0.88)], 0))
    assert "0.900 to 0.920" in html and html.count('class="bar stressed"') == 2 and html.count('class="whisker"') == 4


def test_an_axis_without_zero_gets_dots_not_bars() -> None:
    html = chart(Bars(["a", "b"], [0.91, 0.88], "F1", limits=(0.8, 1.0)))
    assert 'class="point"' in html and 'class="bar"' not in html


def test_bars_survive_odd_values() -> None:
    for values in ([math.nan, 0.5], [0.0, 0.0], [-3.0, -5.0], [1e9, 2e9]):
        html = chart(Bars(["a" * 200, "b"], values, "x" * 300, [(value - 1, value + 1) for value in values]))
        assert not re.search(r'"(nan|inf)"|="-[\d.]+" height', html) and parsed(html) is not None
        assert not re.search(r'width="-', html)


def test_every_chart_has_a_name_for_screen_readers() -> None:
    for block in (Lines([Series("s", [1], [1])], "x", "y", "A & B"), Bars(["a"], [1], "x", caption="A & B")):
        drawings = list(parsed(chart(block)).iter("svg"))
        assert drawings and all(drawn.get("role") == "img" and drawn.get("aria-label") == "A & B" for drawn in drawings)


def test_charts_carry_no_ids_and_no_colours_of_their_own() -> None:
    html = chart(Lines([Series("s", [1, 2], [1, 2])], "x", "y")) + chart(Bars(["a"], [1], "x"))
    assert not re.search(r"\bid=|fill=|stroke=|#[0-9a-f]{3}", html)


def test_ticks() -> None:
    assert svg.ticks(0.13, 0.88, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert svg.ticks(0, 3, 7, whole=True) == [0, 1, 2, 3]
    assert svg.tick_labels([0, 0.25, 0.5]) == ["0.00", "0.25", "0.50"]
    assert svg.tick_labels([-1000, 0, 1000]) == ["−1,000", "0", "1,000"]
    assert svg.tick_labels([0, 500_000, 1_000_000]) == ["0", "500k", "1M"]
    assert svg.log_ticks(100, 10_000, 7) == [100, 200, 500, 1000, 2000, 5000, 10_000]


def test_shortening() -> None:
    assert svg.shorten("short\nword", 200) == "short word"
    cut = svg.shorten("w" * 100, 100)
    assert cut.endswith("…") and svg.text_width(cut) <= 100
