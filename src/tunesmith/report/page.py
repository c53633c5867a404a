"""report.html: sections as one page that needs nothing from elsewhere and runs no script."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from tunesmith.core.sections import Block, Figures, Lines, Quotes, Samples, Section, Table, Verdict, Words
from tunesmith.report.cells import grid
from tunesmith.report.charts import chart

MOST_QUOTES = 6
"""Quotes shown at once; the rest of a longer list is folded."""

SHORT = 48
"""A quote's entry of at most so many characters stands in the card's head, a longer one is read as a text."""


def render(
    title: str, subtitle: str, verdict: Verdict, sections: Sequence[Section], facts: Sequence[tuple[str, str]] = ()
) -> str:
    """The report of a run.

    Args:
        title: the run's name.
        subtitle: one line: objective, base, method, date.
        verdict: the first thing a reader sees.
        sections: in reading order; one without blocks says that there is nothing.
        facts: a few (name, value) pairs under the verdict, such as rows, steps and duration.

    Returns:
        A whole HTML document. The same arguments give the same bytes: nothing here reads a clock or draws a random number.
    """
    html = _template().render(
        title=title,
        subtitle=subtitle,
        verdict=verdict,
        facts=facts,
        sections=list(zip(anchors([section.name for section in sections]), sections, strict=True)),
        style=Markup(stylesheet()),
        rows=rows,
        chart=lambda block, half=False: Markup(chart(block, half)),
        grid=grid,
        quote=quote,
        figure_columns=figure_columns,
        code=code,
        short=MOST_QUOTES,
    )
    # Half a surrogate pair, as broken data may hold one, has no bytes in UTF-8: the file could not be written.
    return html.encode("utf-8", "replace").decode()


def stylesheet() -> str:
    """The style sheets of the report: `theme.css` (colours, light and dark), `charts.css` and `page.css`."""
    return "\n".join(_resource(name) for name in ("theme.css", "charts.css", "page.css"))


def anchors(names: Iterable[str]) -> list[str]:
    """Identifiers for links, one a name: letters, digits and hyphens, no two the same."""
    taken: list[str] = []
    for name in names:
        stem = "-".join(re.findall(r"[a-z0-9]+", name.lower())) or "section"
        taken.append(next(one for one in (stem, *(f"{stem}-{n}" for n in range(2, len(taken) + 3))) if one not in taken))
    return taken


def rows(blocks: Sequence[Block]) -> list[tuple[str, list[Block]]]:
    """Blocks as the page sets them: (kind, one block), or ("pair", two line charts that follow each other and share a row)."""
    kinds = {Words: "words", Figures: "figures", Table: "table", Quotes: "quotes", Samples: "samples"}
    laid: list[tuple[str, list[Block]]] = []
    for block in blocks:
        before = laid[-1] if laid else ("", [])
        if isinstance(block, Lines) and before[0] == "chart" and isinstance(before[1][0], Lines):
            laid[-1] = ("pair", [before[1][0], block])
        else:
            laid.append((kinds.get(type(block), "chart"), [block]))
    return laid


def figure_columns(count: int) -> int:
    """How many large figures stand beside each other, so that no row holds a single one."""
    return count if count <= 5 else next((n for n in (4, 5, 3) if count % n == 0), 4 if count % 4 != 1 else 3)


def quote(item: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """A quote's entries, those for the card's head (a class, a score) and those to be read (a text)."""
    head = [(label, text) for label, text in item if len(text) <= SHORT and "\n" not in text]
    body = [(label, text) for label, text in item if (label, text) not in head]
    if not body and head:  # all are short: the longest is the text
        body = [max(head, key=lambda pair: len(pair[1]))]
        head = [pair for pair in head if pair not in body]
    return head, body


def code(text: str) -> Markup:
    """A text with `names in backticks` set as code; everything is escaped."""
    pieces = re.split(r"`([^`\n]+)`", text)
    name = Markup("<code>{}</code>")
    return Markup("").join(name.format(piece) if at % 2 else escape(piece) for at, piece in enumerate(pieces))


@cache
def _template() -> Template:
    environment: Any = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template: Template = environment.from_string(_resource("page.html.jinja"))
    return template


def _resource(name: str) -> str:
    return resources.files("tunesmith.report").joinpath(name).read_text(encoding="utf-8")
