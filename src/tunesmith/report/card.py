"""MODEL_CARD.md: what a stranger must know before using the model, in the form that model hubs read.

Front matter after the Hugging Face hub's metadata; parts after Mitchell et al., "Model Cards for Model Reporting", 2019.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tunesmith.report.cells import EMPTY, Cell, show

Interval = Mapping[str, float]
"""`value`, and `low` and `high` where they are known, as in evaluation.json."""

MOST_METRICS, MOST_MODELS, MOST_ROWS, MOST_POINTS, MOST_CODE = 5, 8, 12, 6, 10
"""Columns and rows of the evaluation, rows of other tables, bullet points, lines of code: the card stays under 120 lines."""


@dataclass(frozen=True)
class Card:
    """What is known of a model. A field left empty is left out of the card; nothing is guessed."""

    name: str
    summary: str = ""
    """What it is, in a sentence or two."""
    license: str = ""
    """An identifier that hubs know, such as `apache-2.0`."""
    languages: Sequence[str] = ()
    """ISO 639-1 codes."""
    base_model: str = ""
    tags: Sequence[str] = ()
    intended_use: Sequence[str] = ()
    limits: Sequence[str] = ()
    """Where it errs, what it was not tested on, what an audit found or refused."""
    data: Mapping[str, Cell] = field(default_factory=dict)
    training: Mapping[str, Cell] = field(default_factory=dict)
    split: str = "test"
    rows: int | None = None
    """Rows of the split that the scores were measured on."""
    scores: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    """Model, then metric, as `splits.<split>.models` of evaluation.json. The first model is stressed."""
    headline: str = ""
    """The metric in the first column; else the first model's first."""
    shell: Sequence[str] = ()
    """Lines of a shell session that uses the model."""
    python: Sequence[str] = ()
    """Lines of Python that do."""
    versions: Mapping[str, str] = field(default_factory=dict)


def model_card(card: Card) -> str:
    """Write a model card.

    Args:
        card: what is known.

    Returns:
        Markdown with YAML front matter, under 120 lines. Texts are escaped, so that none can become a heading, a link or markup.
    """
    parts = [
        _front_matter(card),
        f"# {escape(card.name)}",
        escape(card.summary),
        _points("Intended use", card.intended_use),
        _points("Limits", card.limits),
        _pairs("Data", card.data),
        _pairs("Training", card.training),
        _evaluation(card),
        _usage(card),
        _versions(card.versions),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """A text as one line of Markdown that reads as it is written.

    Args:
        text: line breaks become spaces and control characters go.
    """
    line = re.sub(r"([\\`*_\[\]<>|#~$&!])", r"\\\1", _plain(text))
    return re.sub(r"^(\d+)([.)])(?=\s|$)|^(?=[-+=])", r"\1\\\2", line)  # a list or a rule, at the start of a line only


def _plain(text: str) -> str:
    return " ".join("".join(character for character in text if character.isprintable() or character.isspace()).split())


def _yaml(text: str) -> str:
    """A JSON string is a YAML string, whatever it holds."""
    return json.dumps(_plain(text), ensure_ascii=False)


def _front_matter(card: Card) -> str:
    lists = {"language": card.languages, "tags": card.tags, "metrics": _metrics(card)}
    lines = [f"{key}: {_yaml(text)}" for key, text in (("license", card.license), ("base_model", card.base_model)) if text]
    lines += [f"{key}: [{', '.join(map(_yaml, items))}]" for key, items in lists.items() if items]
    return "\n".join(["---", *lines, "---"]) if lines else ""


def _points(title: str, texts: Sequence[str]) -> str:
    points = [f"- {escape(text)}" for text in _some(texts, MOST_POINTS)]
    return "\n".join([f"## {title}", "", *points]) if points else ""


def _pairs(title: str, pairs: Mapping[str, Cell]) -> str:
    known = [f"| {escape(name)} | {escape(show(cell, 3))} |" for name, cell in pairs.items() if cell is not None and cell != ""]
    if not known:
        return ""
    more = ["", f"{len(known) - MOST_ROWS} more in the run's `recipe.yaml` and `report.html`."] if len(known) > MOST_ROWS else []
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *known[:MOST_ROWS], *more])


def _metrics(card: Card) -> list[str]:
    """The metrics that some model has, the headline first."""
    names = dict.fromkeys(name for scores in card.scores.values() for name in scores)
    return sorted(names, key=lambda name: name != card.headline)[:MOST_METRICS]


def _evaluation(card: Card) -> str:
    metrics = _metrics(card)
    if not metrics:
        return ""
    rows = f", {card.rows:,} rows" if card.rows is not None else ""
    spans = any("low" in scores[name] for scores in card.scores.values() for name in metrics if name in scores)
    lines = [f"## Evaluation ({escape(card.split)} split{rows})", ""]
    lines += ["| Model | " + " | ".join(map(escape, metrics)) + " |", "|---|" + "---:|" * len(metrics)]
    for at, (model, scores) in enumerate(list(card.scores.items())[:MOST_MODELS]):
        name = f"**{escape(model)}**" if at == 0 else escape(model)
        lines.append(f"| {name} | " + " | ".join(_score(scores.get(metric)) for metric in metrics) + " |")
    return "\n".join(lines + (["", "Intervals in parentheses."] if spans else []))


def _score(score: Interval | None) -> str:
    if score is None or "value" not in score:
        return EMPTY
    span = f" ({show(score['low'], 3)} to {show(score['high'], 3)})" if "low" in score and "high" in score else ""
    return show(score["value"], 3) + span


def _usage(card: Card) -> str:
    blocks = [_fenced(language, lines) for language, lines in (("sh", card.shell), ("python", card.python)) if lines]
    return "\n\n".join(["## How to use", *blocks]) if blocks else ""


def _fenced(language: str, lines: Sequence[str]) -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    code = [line.replace("\n", " ").replace("\r", " ") for line in lines[:MOST_CODE]]
    longest = max(map(len, re.findall("`+", "\n".join(code))), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence + language, *code, fence])


def _versions(versions: Mapping[str, str]) -> str:
    return "## Versions\n\n" + ", ".join(f"{escape(name)} {escape(text)}" for name, text in versions.items()) if versions else ""


def _some(texts: Sequence[str], most: int) -> list[str]:
    """The first few texts, with a count of the rest."""
    kept = [text for text in texts if text.strip()]
    return kept[:most] + ([f"{len(kept) - most} more in the run's report.html."] if len(kept) > most else [])
