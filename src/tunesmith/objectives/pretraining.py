"""Continued pre-training: every token of plain documents is learnt, from a base's weights or from random ones.

Gururangan et al. 2020 (https://arxiv.org/abs/2004.10964). Documents never see each other, whatever a batch holds; one beyond the limit is
divided, and each of its tokens is learnt once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tunesmith.core.settings import Settings

if TYPE_CHECKING:
    from tunesmith.models.catalog import Base
    from tunesmith.objectives import Objective

ROWS = ("document",)


class PretrainingSettings(Settings):
    """Learn to go on with a text."""

    kind: Literal["pretraining"] = "pretraining"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """This share of the target is spread over the vocabulary."""


def make(settings: PretrainingSettings, base: Base, data: Path) -> Objective:
    """The objective for a base; `data` is the folder of prepared rows."""
    from tunesmith.data import rows
    from tunesmith.models import catalog
    from tunesmith.models.metadata import Writing
    from tunesmith.objectives.next_token import NextToken
    from tunesmith.tokens import chat_template, sequences, tokenization
    from tunesmith.tokens.reader import Reader

    catalog.require_causal(base)
    as_it_is = chat_template.load(base.folder, "none")
    ends = sequences.end_of(tokenization.load(base.folder), base.config, as_it_is)

    def examples(path: Path, reader: Reader) -> sequences.TextExamples:
        texts = (batch.column("text").to_pylist() for batch in rows.batches(path, ["text"]))
        return sequences.TextExamples(sequences.documents(reader.tokenizer, texts, ends[0], reader.limit), reader.scratch, sequences.Losses())

    return NextToken(settings.label_smoothing, examples, Writing("", dict(as_it_is.tokens), ends))
