"""HTML to text: what a reader would see, with paragraphs, lists, table cells and headings kept apart.

libxml2 reads the markup (by lxml, as a stream of events, so that depth costs nothing). It stays linear on broken input, where html.parser of the standard
library takes quadratic time (30,000 times `<!--`: 8 s, here 1 ms), and so does selectolax on nested tags.
Layout follows the idea of CSS: blocks ask for line breaks, and the next word writes the largest that was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape

TAG = re.compile(r"<[a-zA-Z/!?]")
LETTERS = "[A-Za-z](?:uml|acute|grave|circ|tilde|cedil|ring|slash)|szlig|[lr][sd]quo|[bs]dquo|[lr]aquo"
REFERENCE = re.compile(
    rf"&(?:#[0-9]{{1,7}}|#[xX][0-9a-fA-F]{{1,6}}|amp|lt|gt|quot|apos|nbsp|shy|{LETTERS}|hellip|[mn]dash|bull|middot|copy|reg|trade|euro|pound|sect|deg);"
)
"""Of the 2,231 names of the standard those that stand in prose; `&phi;` in a text without tags may be C++."""
SPACE = re.compile(r"[ \t\n\r\f]+")
"""White space that HTML collapses; a no-break space is none (https://html.spec.whatwg.org, `ASCII whitespace`)."""
CODE = re.compile(r"`[^`\n]*`")
HIDDEN = re.compile(r"(?i)(?:display\s*:\s*none|visibility\s*:\s*hidden)")

DROPPED = frozenset("head script style template noscript noframes noembed iframe object applet audio video canvas svg map select datalist".split())
"""Nothing to read inside. The title goes with the head: pages repeat it as a heading, and mails leave it blank."""
PARAGRAPHS = frozenset("p h1 h2 h3 h4 h5 h6 blockquote pre listing xmp plaintext table dl fieldset hr figure".split())
BLOCKS = PARAGRAPHS | frozenset(
    "html body address article aside caption center details dd dialog dir div dt figcaption footer form header hgroup legend li main menu nav ol optgroup"
    " option search section summary tbody tfoot thead tr ul".split()
)
LISTS = frozenset(("ul", "ol", "menu", "dir"))
KEPT_SPACE = frozenset(("pre", "listing", "xmp", "plaintext", "textarea"))
DEEPEST = 10
"""Items of lists nested deeper than this are indented no further, or 100,000 lists in each other would write gigabytes of spaces. A convention of ours."""

EVIDENCE = frozenset(
    "html a abbr b big blockquote br center dd div dl dt em font h1 h2 h3 h4 h5 h6 hr i iframe img li nav ol p pre script small span strike strong style sub"
    " sup tbody td tfoot th thead tr tt u ul".split()
)
"""Names that show that a text is HTML. Left out is what people write as marks of their own: `<s>`, `<input>`, `<article>`, `<summary>`, `<body>`, `<code>`."""
WITHOUT_END = frozenset("html p br hr li tr td th dt dd".split())
"""These need no end tag to be HTML."""
OPENS = re.compile(r"<([a-zA-Z][a-zA-Z0-9]*)(?=[\s/>])(\s+[a-zA-Z:-]+\s*=)?")
CLOSES = re.compile(r"</([a-zA-Z][a-zA-Z0-9]*)\s*>")


def looks_like_html(text: str) -> bool:
    """Whether the text holds HTML: tags that exist and are closed or have attributes, or references like `&amp;`.

    `a < b`, `<3`, `<name@example.org>`, `List<String>` and `cp <input> <output>` are none, nor is what stands in a Markdown code span; a text with a fence of
    ``` is Markdown as a whole.
    """
    if ("<" not in text and "&" not in text) or "```" in text:
        return False
    outside = CODE.sub("", text) if "`" in text else text
    if TAG.search(outside):
        closed = {name.lower() for name in CLOSES.findall(outside)}
        for name, attribute in OPENS.findall(outside):
            if name.lower() in EVIDENCE and (attribute or name.lower() in closed or name.lower() in WITHOUT_END):
                return True
        return False
    return REFERENCE.search(outside) is not None


def to_text(html: str) -> str:
    """The text of HTML, whole pages and fragments alike.

    A paragraph and a heading stand between blank lines, a list's item begins with "- " (or its number), a table's row is a line with tabs between cells, `<br>`
    is a line break, `<pre>` keeps its white space. Scripts, styles, the head, comments and hidden parts (`hidden`, `display: none`) are left out, and so is
    a tag that the end of the text cuts off. A text without any tag keeps its lines; only references like `&amp;` are read.

    Args:
        html: anything; what is broken is read as browsers do.

    Returns:
        The text, without blank lines at its ends.
    """
    if not TAG.search(html):
        return REFERENCE.sub(lambda found: unescape(found.group()), html)
    from lxml import etree

    if "<![CDATA[" in html:  # feeds wrap HTML in it; inside HTML it would be a comment
        html = html.replace("<![CDATA[", "").replace("]]>", "")
    target = _Text()
    # The text is UTF-8 by now, whatever a <meta charset> in it says. Half surrogate pairs become question marks.
    parser = etree.HTMLParser(target=target, encoding="utf-8", huge_tree=True)
    parser.feed(html.encode("utf-8", "replace"))
    return parser.close()  # type: ignore[no-any-return]  # what `_Text.close` gives


class _Text:
    """What libxml2's events leave on the page. lxml calls start, data, end and close; every start has its end."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.dropped = 0  # how deep inside a part that is not shown
        self.kept_space = 0
        self.breaks = 0  # line breaks, tabs and a space that the next word writes first
        self.tabs = 0
        self.space = False
        self.mark = ""
        self.fresh = True  # nothing written yet in this cell, item or page: blocks break no line
        self.lists: list[int] = []  # of each open list the number of its next item; 0: bullets
        self.cells = [0]  # the cells so far of each open row, and of cells outside of any

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if self.dropped or tag in DROPPED or "hidden" in attributes or HIDDEN.search(attributes.get("style", "")):
            self.dropped += 1
            return
        if tag == "br":
            if not self.fresh:
                self.breaks = min(self.breaks + 1, 2)
        elif tag in BLOCKS:
            self._block(tag)
        if tag in KEPT_SPACE:
            self.kept_space += 1
        elif tag in LISTS:
            self.lists.append(int(tag == "ol"))
        elif tag == "li":
            number = self.lists[-1] if self.lists else 0
            self.mark = "  " * min(len(self.lists) - 1, DEEPEST) + (f"{number}. " if number else "- ")
            self.fresh = True
            if number:
                self.lists[-1] += 1
        elif tag == "tr":
            self.cells.append(0)
            self.tabs = 0
        elif tag in ("td", "th"):
            self.tabs += self.cells[-1] > 0
            self.cells[-1] += 1
            self.fresh = True

    def end(self, tag: str) -> None:
        if self.dropped:
            self.dropped -= 1
            return
        if tag in KEPT_SPACE:
            self.kept_space -= 1
        elif tag in LISTS:
            self.lists.pop()
        elif tag == "li":
            self.mark = ""
            self.fresh = not self.out
        elif tag in ("td", "th"):
            if not self.fresh:  # the breaks of its last paragraph must not tear the row apart
                self.breaks = 0
            self.fresh = not self.out
        elif tag == "tr":
            self.cells.pop()
            self.tabs = 0
        if tag in BLOCKS:
            self._block(tag)

    def data(self, text: str) -> None:
        if self.dropped:
            return
        if self.kept_space:
            self._write(text.removeprefix("\n") if self.breaks or self.fresh else text)  # the line break after <pre> is none
            return
        words = SPACE.sub(" ", text)
        self.space = self.space or words[0] == " "
        if words != " ":
            self._write(words.strip(" "))
            self.space = words[-1] == " "

    def close(self) -> str:
        return "".join(self.out).strip("\n").rstrip(" \t\n")

    def _block(self, tag: str) -> None:
        if not self.fresh:
            nested = tag in LISTS and not self.lists
            self.breaks = max(self.breaks, 2 if tag in PARAGRAPHS or nested else 1)

    def _write(self, text: str) -> None:
        if not text:
            return
        last = self.out[-1] if self.out else "\n\n"
        have = 2 if last.endswith("\n\n") else int(last.endswith("\n"))
        before = "\n" * max(0, self.breaks - have) + "\t" * self.tabs + self.mark
        self.out.append((before or (" " if self.space and not have else "")) + text)
        self.breaks, self.tabs, self.mark, self.space, self.fresh = 0, 0, "", False, False
