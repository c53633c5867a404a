"""What the model is worth: metrics, intervals, baselines, calibration, and the words that say it.

`measure.evaluate` makes `evaluation.json`; `findings.sections` and `findings.verdict` turn it into the report.
Arrays in, numbers out: nothing here knows a model, and scipy and scikit-learn are imported only where they work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.sections import Tone


def of_text(evaluation: Mapping[str, Any]) -> bool:
    """Whether an evaluation.json is a language model's: then `text_findings` has its words, else `findings`."""
    return evaluation["headline"] in ("nll", "rouge_l")


def verdict(evaluation: Mapping[str, Any], split: str) -> tuple[str, list[str], Tone]:
    """Headline, sentences and tone of what was measured on a split, whatever was learnt."""
    from tunesmith.evaluation import findings, text_findings

    return text_findings.verdict(evaluation, split) if of_text(evaluation) else findings.verdict(evaluation, split)
