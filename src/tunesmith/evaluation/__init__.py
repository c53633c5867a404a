"""What the model is worth: metrics, intervals, baselines, calibration, and the words that say it.

`measure.evaluate` makes `evaluation.json`; `findings.sections` and `findings.verdict` turn it into the report.
Arrays in, numbers out: nothing here knows a model, and scipy and scikit-learn are imported only where they work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.core.sections import Tone


def of_text(evaluation: Mapping[str, Any]) -> bool:
    """Whether an evaluation.json is a language model's: then `text_findings` has its words, else `findings`."""
    return evaluation["headline"] in ("nll", "rouge_l")


def verdict(evaluation: Mapping[str, Any], split: str) -> tuple[str, list[str], Tone]:
    """Headline, sentences and tone of what was measured on a split, whatever was learnt."""
    from tunesmith.evaluation.classification import findings
    from tunesmith.evaluation.generation import findings as text_findings

    return text_findings.verdict(evaluation, split) if of_text(evaluation) else findings.verdict(evaluation, split)


def table(evaluation: Mapping[str, Any], split: str, names: Mapping[str, str]) -> list[str]:
    """The figures that matter most with their 95 % intervals, in columns for a terminal.

    Args:
        evaluation: what `measure.evaluate` or `measure_text.measure_text` made.
        split: whose rows.
        names: model there -> how it is called here; one line each, in this order.

    Returns:
        Lines, the first of them the metrics' names.
    """
    from tunesmith.evaluation.classification import findings
    from tunesmith.evaluation.generation import findings as text_findings

    words, models = text_findings if of_text(evaluation) else findings, evaluation["splits"][split]["models"]
    wanted = dict.fromkeys([evaluation["headline"], "macro_f1", "accuracy", "perplexity"])
    metrics = [metric for metric in wanted if all(metric in models[model] for model in names)]
    lines = [["", *(words.NAMES[metric] for metric in metrics)]]
    lines += [[called, *(words.show_interval(metric, models[model][metric]) for metric in metrics)] for model, called in names.items()]
    first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    return [line[0].ljust(first) + "".join("   " + cell.rjust(width) for cell, width in zip(line[1:], widths, strict=True)) for line in lines]
