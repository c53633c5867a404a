"""labels.html: the rows whose label is probably wrong, worst first, and how to correct them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tunesmith.core.errors import counted
from tunesmith.core.sections import Block, Figures, Sample, Samples, Section, Table, Verdict, Words
from tunesmith.data.review.label_errors import Suspect, shortened
from tunesmith.report.page import render

MOST_SHOWN = 100
"""Rows on the page, about an hour's reading; all of them are in the file. A convention of ours."""
MOST_PAIRS = 15
"""Pairs of labels in the table of what is confused with what."""
SURE = 0.95
"""From this chance on the page calls a suggestion sure. On Banking77 with 10 % flipped labels 94 % of such suspects were flipped, of the others 12 to 16 %."""

CORRECTING = (
    "Open `{file}` in a spreadsheet or an editor. It has a row for each of these, worst first, with an empty column `correct`.",
    "Write into `correct` what is right: a label's name, `+` for the suggested one, or `-` to leave the row out; nothing where the given label is right.",
    "Save it as CSV (UTF-8) under another name, so that the next run does not write over it, and name that file in the recipe: `{key}`. Run again.",
)


def page(name: str, found: Sequence[Suspect], judged: int, file: str, key: str) -> str:
    """The page of probable label errors.

    Args:
        name: the run's name.
        found: worst first.
        judged: rows that were looked at.
        file: the name of the file to correct.
        key: how the recipe names the corrected file, such as `data.corrections: FILE`.

    Returns:
        A whole HTML document in the look of the report.
    """
    share = f" ({len(found) / judged:.1%})" if judged else ""
    if not found:
        verdict = Verdict("No label looks wrong.", [f"{counted(judged, 'row')} of train looked at."], "good")
        return render(name, "Probable label errors", verdict, [])
    headline = f"{counted(len(found), 'label')} of {judged:,}{share} {'is' if len(found) == 1 else 'are'} probably wrong."
    sentences = [
        "A model that did not see the row finds another label more likely than the one given. It can be wrong too: where labels are hard to tell apart, "
        "many of these are right as they are. Read before you correct.",
    ]
    overview, rows = sections(found, judged)
    return render(name, "Probable label errors", Verdict(headline, sentences, "warn"), [overview, correcting(file, key), rows])


def sections(found: Sequence[Suspect], judged: int) -> list[Section]:
    """Figures, which labels are taken for which, and the worst rows: for the page, or for the run's report.

    Args:
        found: worst first.
        judged: rows that were looked at.
    """
    sure = sum(one.score >= SURE for one in found)
    pairs = Counter((_names(one.given), _names(one.suggested)) for one in found)
    figures = [(f"{judged:,}", "rows looked at", "of train"), (f"{len(found):,}", "probably wrong", ""), (f"{sure:,}", "of them sure", f"{SURE:.0%} or more")]
    blocks: list[Block] = [Figures(figures)]
    many: list[list[str | float | int | None]] = [[given, suggested, count] for (given, suggested), count in pairs.most_common(MOST_PAIRS) if count > 1]
    if many:
        blocks.append(Table(["given", "suggested", "rows"], many, "Labels that are often taken for each other: perhaps they need a clearer rule, or are one"))
    else:
        blocks.append(Words("No pair of labels is confused more than once: these look like single slips."))
    return [Section("overview", "Overview", blocks), Section("worst", "The worst", [worst(found)])]


def worst(found: Sequence[Suspect]) -> Samples:
    """The first rows with their text, given and suggested label, and how sure the suggestion is."""
    items = [
        Sample(
            [("given", _names(one.given)), ("suggested", _names(one.suggested)), ("sure", _percent(one.score)), ("row", one.place), ("id", one.id)],
            [("text", shortened(one.text))],
            [],
        )
        for one in found[:MOST_SHOWN]
    ]
    rest = f" The other {len(found) - MOST_SHOWN:,} stand in the file." if len(found) > MOST_SHOWN else ""
    return Samples(items, f"Sure is the chance that the suggestion is right, if either it or the given label is.{rest}")


def correcting(file: str, key: str) -> Section:
    """How a person corrects the file."""
    return Section("correct", "How to correct", [Words(f"{step}. {text.format(file=file, key=key)}") for step, text in enumerate(CORRECTING, 1)])


def _names(labels: Sequence[str]) -> str:
    return ", ".join(labels) or "none"


def _percent(score: float) -> str:
    """A chance in percent; what is not certain is not shown as 100 %."""
    return f"{score:.0%}" if score < 0.995 else "over 99%"
