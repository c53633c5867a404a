"""The page of probable label errors: what it says, and that texts stay texts."""

from __future__ import annotations

from tunesmith.core.sections import Figures, Table, Words
from tunesmith.data.review.label_errors import Suspect
from tunesmith.report import label_page

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def suspect(number: int, given: str = "refund", suggested: str = "card", score: float = 0.97, text: str = "where is it") -> Suspect:
    return Suspect(f"id{number}", f"rows.csv:{number}", text, (given,), (suggested,), score)


def page(found: list[Suspect], judged: int = 200) -> str:
    return label_page.page("run", found, judged, "suspects.csv", "data.corrections: FILE")


def test_hostile_texts_labels_and_ids_stay_text() -> None:
    html = page([Suspect(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,), (HOSTILE,), 0.9)] * 2)
    assert "<script" not in html and "<img" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 10


def test_the_page_says_how_many_what_and_how_to_correct() -> None:
    html = page([suspect(1), suspect(2), suspect(3, "card", "", 0.6)])
    assert "3 labels of 200 (1.5%) are probably wrong." in html
    assert "where is it" in html and "rows.csv:2" in html and "97%" in html
    assert "<code>suspects.csv</code>" in html and "<code>data.corrections: FILE</code>" in html and "<code>correct</code>" in html
    assert html.index("How to correct</h2>") < html.index("The worst</h2>")  # a reader need not scroll past a hundred rows
    assert page([suspect(1)]).count("1 label of 200 (0.5%) is probably wrong.") == 1


def test_nothing_found() -> None:
    html = page([])
    assert "No label looks wrong." in html and "200 rows of train looked at." in html and "How to correct" not in html


def test_figures_and_the_pairs_that_are_confused() -> None:
    overview = label_page.sections([suspect(1), suspect(2, score=0.5), suspect(3, "card", "refund")], 50)[0]
    figures, table = overview.blocks
    assert isinstance(figures, Figures) and [value for value, *_ in figures.items] == ["50", "3", "2"]
    assert isinstance(table, Table) and table.rows == [["refund", "card", 2]]
    words = label_page.sections([suspect(1), suspect(3, "card", "refund")], 50)[0].blocks[1]
    assert isinstance(words, Words) and words.text == "No pair of labels is confused more than once: these look like single slips."


def test_certainty_is_not_shown_as_100_percent_and_no_label_has_a_name() -> None:
    (item,) = label_page.worst([Suspect("a", "f:1", "text", (), ("x", "y"), 0.9999)]).items
    assert dict(item.head) == {"given": "none", "suggested": "x, y", "sure": "over 99%", "row": "f:1", "id": "a"}


def test_a_long_list_is_cut_and_says_so() -> None:
    samples = label_page.worst([suspect(n) for n in range(130)])
    assert len(samples.items) == 100 and samples.caption.endswith("The other 30 stand in the file.")
    (item,) = label_page.worst([suspect(1, text="x" * 5000)]).items
    assert item.above == [("text", "x" * 2000 + " …")]
