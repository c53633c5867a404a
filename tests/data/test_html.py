"""HTML to text: what a reader would see, whatever is broken; and what is no HTML."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.readers import html

PAGES = [
    ("<p>One  two\nthree</p><p>Four</p>", "One two three\n\nFour"),
    ("<p>One<p>Two", "One\n\nTwo"),
    ("a<br>b<br/>c<br><br>d<br><br><br>e", "a\nb\nc\n\nd\n\ne"),
    ("<div>a<div>b</div>c</div>", "a\nb\nc"),
    ("<h1>Title</h1>text<h2>Part</h2>more", "Title\n\ntext\n\nPart\n\nmore"),
    ("<p>Read:<ul><li>a<li><p>b</p><ul><li>c</ul><li></ul>end", "Read:\n\n- a\n- b\n\n  - c\n\nend"),
    ("<ol><li>a</li><li>b</li></ol>", "1. a\n2. b"),
    ("<table><tr><th>A</th><th>B</th></tr><tr><td><p>1</p></td><td><div>2</div></td></tr><tr><td></td><td>3</td></tr></table>", "A\tB\n1\t2\n\t3"),
    ("<table><tr><td><table><tr><td><h1>Hi</h1><p>x<p>y</table></td></tr><tr><td>foot</table>", "Hi\n\nx\n\ny\nfoot"),
    ("a<pre>\n  def f():\n\treturn  1\n\n</pre>b", "a\n\n  def f():\n\treturn  1\n\nb"),
    ("<pre><b>x</b>\n<i>y</i></pre>", "x\ny"),
    ("<b>bold</b> and <i>it</i>alic", "bold and italic"),
    ("sch&ouml;n &amp; &lt;b&gt; &#8364;&#x80; a&nbsp;b", "schön & <b> €€ a\xa0b"),
    ("<head><title>T</title><style>p {}</style></head><body>x<script>if (a<b) '</p>'</script>y<!-- <p>z</p> --><template>t</template></body>", "xy"),
    ("a<span hidden>b</span><p style='color: red; DISPLAY : None'>c<br>d<img></p>e<i style='visibility:hidden'>f</i>", "ae"),
    ("<![CDATA[<p>fed</p>]]>", "fed"),
    ("<meta charset='iso-8859-1'>schön", "schön"),
    ("<?xml version='1.0' encoding='latin-1'?><p>schön", "schön"),
    ("<p>cut off <a href='htt", "cut off"),
    ("<p>x</body></html><p>after", "x\n\nafter"),
    ("<td>a<td>b", "a\tb"),
    ("<p>a\ud800b", "a?b"),
    ("<!-- nothing -->", ""),
    ("plain\n  text", "plain\n  text"),
    ("Tom &amp; Jerry\n  &quot;x&quot; ?a=1&copy=2 R&D; &phi;", 'Tom & Jerry\n  "x" ?a=1&copy=2 R&D; &phi;'),
]


@pytest.mark.parametrize(("page", "text"), PAGES, ids=range(len(PAGES)))
def test_text(page: str, text: str) -> None:
    assert html.to_text(page) == text


@pytest.mark.parametrize(
    "text", ["I <b>like</b> it", "a<br>b", "a<BR />b", "<p>x", "<a href='x'>y", "<li>a\n<li>b", "<!DOCTYPE html><html>", "AT&amp;T", "it&#39;s", "sch&ouml;n"]
)
def test_is_html(text: str) -> None:
    assert html.looks_like_html(text)


@pytest.mark.parametrize(
    "text",
    [
        "a < b and c > d", "if (a<b && c>d)", "x <b and c> d", "<3",
        "<name@example.org>", "<https://example.org>", "List<String> and Map<K, V>", "vector<b> v", "cp <input> <output>",
        "<article>a</article>", "Summarise the <article>.", "<s>[INST] a [/INST] b</s>", "<think>a</think>", "<subject>a</subject><body>b</body>",
        "How do I use `<b>x</b>` and `&amp;`?",
        "Write:\n```html\n<p>x</p>\n```", "AT&T, R&D;", "f(&x, &phi;)", "", "a&b",
    ],
)  # fmt: skip
def test_is_no_html(text: str) -> None:
    assert not html.looks_like_html(text)


WORDS = st.text("abcäßж", min_size=1, max_size=5)
TAGS = st.sampled_from(["b", "i", "a", "span"])
INLINE = st.recursive(WORDS, lambda inner: st.tuples(TAGS, inner, WORDS).map(lambda t: f"<{t[0]} class='x'>{t[1]}</{t[0]}> {t[2]}"))
BLOCK = st.tuples(st.sampled_from(["p", "div", "h2", "li", "td", "pre", "blockquote"]), INLINE).map(lambda t: f"<{t[0]}>{t[1]}</{t[0]}>")


@given(st.lists(BLOCK, min_size=1, max_size=6))
def test_every_word_stays_in_order(blocks: list[str]) -> None:
    page = "".join(blocks)
    text = html.to_text(page)
    assert "".join(re.sub(r"^\s*- ", "", text, flags=re.M).split()) == "".join(re.sub("<[^>]*>", "", page).split())
    assert html.to_text(text) == text
    assert not re.search(r"\n{3}", text)


PIECES = st.sampled_from(
    "<p> </p> <ul> </ul> <li> </li> <tr> </tr> <td> </td> <table> </table> <pre> </pre> <br> <script> </script> <!-- --> <a < > & &amp; &#0; <! <? </"
    " <b\x00 ]]> \r \n".split(" ")
)


@settings(max_examples=300)
@given(st.lists(st.one_of(PIECES, st.text(max_size=4))).map("".join))
def test_whatever_it_is_nothing_is_raised(page: str) -> None:
    assert isinstance(html.to_text(page), str)
    html.looks_like_html(page)


@pytest.mark.parametrize(
    "piece",
    [
        "<div>",
        "<ul><li>a",
        "<table><tr><td>x",
        "<p hidden>",
        "<b><p></b>",
        "<!--",
        "<![CDATA[",
        "<a b='",
        "<a",
        "</a",
        "<?",
        "&",
        "<br>",
        "<pre>x",
        "`",
        "<p " + " " * 20,
    ],
)
def test_time_is_linear(piece: str) -> None:
    """Twice the length takes about twice the time, not four times (the bound has room for a busy machine)."""

    def seconds(times: int) -> float:
        page = "<p>x" + piece * times
        best = 1e9
        for _ in range(2):
            start = time.process_time()
            html.looks_like_html(page)
            html.to_text(page)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(24000) < 8 * seconds(6000) + 0.02


def test_depth_is_no_danger() -> None:
    assert html.to_text("<div>" * 100_000 + "deep" + "</div>" * 100_000 + "end") == "deep\nend"
    deep = html.to_text("<ul><li>a" * 3000)
    assert len(deep) < 3000 * 25, "indentation is bounded"
