"""The report's page: hostile texts stay texts, nothing is loaded, both schemes are whole, the same input gives the same bytes."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from tunesmith.core.sections import Bars, Block, Figures, Heatmap, Lines, Quotes, Sample, Samples, Section, Series, Table, Tone, Verdict, Words
from tunesmith.report.cells import grid, show
from tunesmith.report.page import anchors, figure_columns, render, stylesheet

HOSTILE = "<script>alert(1)</script>]]><img src=x onerror=alert(2)>\"'--><svg/onload=alert(3)></style></title>&amp;"
GOOD = Verdict("Better than every baseline.", ["Macro F1 is 0.9."], "good")


def page(*blocks: Block, **settings: bool) -> str:
    return render("run", "line", GOOD, [Section("one", "One", blocks, **settings)])


def every_block(text: str) -> list[Block]:
    """Blocks of each kind with a text in every place that takes one."""
    return [
        Words(text),
        Words(f"`{text}`", "warn"),
        Figures([(text, text, text)]),
        Table([text, text], [[text, 1], [None, 2.5]], caption=text, emphasis=0),
        Lines([Series(text, [1, 2], [1, 2], [0, 1], [2, 3]), Series(text, [1, 2], [2, 1])], text, text, text, [(1.5, text)]),
        Bars([text, "b"], [0.5, 0.6], text, [(0.4, 0.6), (0.5, 0.7)], 0, text),
        Heatmap([text, "b"], [text, "b"], [[1, 2], [3, 4]], text, text, text),
        Quotes([[(text, "short"), ("label", text), ("text", text * 5)]] * 8, text),
        Samples([Sample([(text, text)], [(text, text)], [(text, text), ("other", text * 5)], 1)], text),
    ]


class Seen(HTMLParser):
    """The elements of a page, their attributes, and the texts that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag  # every element is closed where it should be

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("block", every_block(HOSTILE), ids=lambda block: type(block).__name__)
def test_hostile_text_stays_text_in_every_block(block: Block) -> None:
    html = page(block)
    seen = Seen(html)
    assert not seen.tags & {"script", "img", "iframe", "object", "link", "base", "form", "foreignobject"}
    assert not {name for name in seen.attributes if name.startswith("on") or name in ("src", "srcset", "xlink:href")}
    assert not seen.open
    assert "alert(1)" in "".join(seen.texts)
    assert "]]>" not in html


def test_hostile_text_stays_text_around_the_blocks() -> None:
    verdict = Verdict(HOSTILE, [HOSTILE], "bad")
    sections = [Section(HOSTILE, HOSTILE), Section(HOSTILE, HOSTILE, folded=True)]
    html = render(HOSTILE, HOSTILE, verdict, sections, [(HOSTILE, HOSTILE)])
    seen = Seen(html)
    assert not seen.tags & {"script", "img"} and not seen.open and "onerror" not in seen.attributes


def test_nothing_is_loaded_from_elsewhere() -> None:
    html = page(*every_block("x"))
    assert not re.search(r"https?:|//[a-z]|src=|url\(|@import|@font-face|<link|<script", html)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in html


def test_same_input_same_bytes() -> None:
    assert page(*every_block("x")) == page(*every_block("x"))


def test_every_colour_is_defined_in_both_schemes() -> None:
    style = stylesheet()
    light_part, rest = style.split("@media screen and (prefers-color-scheme: dark)")
    dark_part, rest = rest.split("\n}\n", 1)
    light, dark, local = (set(re.findall(r"(--[a-z0-9-]+):", part)) for part in (light_part, dark_part, rest))
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", style))
    assert light == dark
    assert used == light | local


def test_every_class_in_a_page_is_styled() -> None:
    tones: list[Tone] = ["good", "warn", "bad"]
    html = page(*every_block("x"), *(Words("x", tone) for tone in tones))
    used = {name for value in re.findall(r'class="([^"]*)"', html) for name in value.split()}
    unstyled = {name for name in used if not re.search(rf"\.{re.escape(name)}\b", stylesheet())}
    assert unstyled <= {"tick"}, unstyled  # the plain text of a chart


def test_long_words_break_and_wide_things_scroll_in_their_own_box() -> None:
    style = stylesheet()
    assert re.search(r"\nbody \{[^}]*overflow-wrap: anywhere", style)
    assert re.search(r"\.scroll \{[^}]*overflow-x: auto", style)
    heatmap = Heatmap(["r" * 300] * 20, ["c" * 300] * 20, [[1] * 20] * 20, "", "")
    html = page(Table(["a" * 400, "b"], [["c" * 400, 1]]), heatmap)
    assert all(float(width) <= 15 for width in re.findall(r"min-width:([\d.]+)em", html))
    assert html.count('<div class="scroll"') == 2


def test_dark_scheme_is_for_screens_and_folded_parts_open_in_print() -> None:
    style = stylesheet()
    assert "@media (prefers-color-scheme" not in style
    assert "details::details-content { display: block; content-visibility: visible; }" in style.split("@media print")[-1]


def test_verdict_comes_before_every_section_and_wears_its_tone() -> None:
    html = page(Words("body"))
    assert html.index("Better than every baseline.") < html.index('id="one"')
    assert '<section class="verdict good"' in html


def test_empty_sections_and_blocks_say_so() -> None:
    html = render("run", "", Verdict("Nothing was measured."), [Section("a", "A"), Section("b", "B", folded=True)])
    assert html.count("Nothing to show.") == 2
    html = page(Table(["a"], []), Quotes([]), Bars([], [], "x"), Lines([], "x", "y"), Heatmap([], [], [], "r", "c"))
    assert "No rows." in html and "None." in html and html.count("No values to draw.") == 6


def test_cells() -> None:
    assert [show(cell, 3) for cell in (None, "", float("nan"))] == ["–"] * 3
    assert [show(cell, 3) for cell in (0.5, 12345, -1, 0.0, 1234.5)] == ["0.500", "12,345", "−1", "0.000", "1,234.500"]
    assert [show(cell, 3) for cell in (True, False)] == ["yes", "no"]
    assert [show(cell, 3) for cell in (2e-4, 3.1e-6, float("inf"))] == ["0.0002", "3.1e−6", "∞"]


def test_columns_of_figures_stand_right() -> None:
    laid = grid(Table(["model", "f1", "interval", "note"], [["a", 0.5, "0.4 to 0.6", "x"], ["b", None, "0.1 to 0.2", "3 rows"]]))
    assert [column.figures for column in laid.columns] == [False, True, True, False]
    settings = grid(Table(["setting", "value"], [["train.epochs", 3], ["train.seed", 0], ["train.rate", 1.0], ["kind", "lora"]]))
    assert [column.figures for column in settings.columns] == [False, False]
    assert settings.rows[0][0] == ("train.epochs", True)


def test_emphasis_marks_one_row() -> None:
    html = page(Table(["a", "b", "c"], [["x", 1, 2], ["y", 3, 4]], emphasis=1))
    assert html.count('<tr class="emphasis">') == 1 and html.index(">x<") < html.index('class="emphasis"') < html.index(">y<")


def test_anchors_are_unique_and_plain() -> None:
    names = {"Results": "results", "results": "results-2", "Wo es irrt!": "wo-es-irrt", "": "section", "日本": "section-2"}
    assert anchors(names) == list(names.values())
    html = render("r", "", GOOD, [Section("a b", "One"), Section("a b", "Two", folded=True)])
    for name in ("a-b", "a-b-2"):
        assert f'href="#{name}"' in html and html.count(f'id="{name}"') == 1


def test_two_line_charts_that_follow_each_other_share_a_row() -> None:
    chart = Lines([Series("s", [1, 2], [1, 2])], "x", "y")
    assert page(chart, chart).count('<div class="pair">') == 1
    assert page(chart, Words("w"), chart).count('<div class="pair">') == 0
    three = page(chart, chart, chart)
    assert three.count('<div class="pair">') == 1 and three.count('<figure class="chart">') == 3


def test_long_lists_of_quotes_are_folded() -> None:
    html = page(Quotes([[("text", f"quote {n}")] for n in range(9)]))
    assert "3 more" in html and html.count('<article class="quote">') == 9


def test_samples_stand_side_by_side_and_one_is_stressed() -> None:
    sample = Sample([("row", "7")], [("prompt", "Q"), ("reference", "A")], [("before", " "), ("after", "A  line\nand one")], 1)
    html = page(Samples([sample, Sample([], [], [])], "Read"))
    assert html.count('<article class="quote">') == 2 and html.count('<div class="beside">') == 1
    beside = html.split('<div class="beside">')[1]
    assert beside.index("(empty)") < beside.index('<div class="said stressed">') < beside.index("A  line\nand one</blockquote>")
    assert "None." in page(Samples([]))
    assert re.search(r"\.beside \{[^}]*minmax\(min\(100%, 260px\), 1fr\)", stylesheet())  # one column on a phone


def test_half_a_surrogate_pair_can_be_written() -> None:
    page(Words("broken \ud83d text")).encode("utf-8")


def test_no_figure_stands_alone() -> None:
    assert [figure_columns(count) for count in (1, 2, 3, 4, 5, 6, 7, 8, 9)] == [1, 2, 3, 4, 5, 3, 4, 4, 3]
