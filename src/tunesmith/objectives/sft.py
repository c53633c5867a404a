"""Supervised fine-tuning: the assistant's answers of dialogues, or the completions of prompts, are learnt word by word.

Ouyang et al. 2022 (https://arxiv.org/abs/2203.02155, section 3.5, step 1).
1. The loss is the sum over learnt tokens divided by their number in the whole optimizer step, however rows are packed or accumulated.
2. What ends an answer is always learnt; a row whose answers the limit cuts away is left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tunesmith.core.settings import Settings
from tunesmith.tokens.chat_template import Template

if TYPE_CHECKING:
    from tunesmith.models.catalog import Base
    from tunesmith.objectives import Objective

ROWS = ("dialogue", "completion")


class SftSettings(Settings):
    """Learn to answer."""

    kind: Literal["sft"] = "sft"
    learn: Literal["every", "last"] = "every"
    """Which of the assistant's turns are learnt."""
    template: Template = "auto"
    """How a dialogue is written: auto (the tokenizer's own template, else plain), plain (User: and Assistant: lines), or none (prompt and
    completion as they are, one after the other)."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """This share of the target is spread over the vocabulary."""


def make(settings: SftSettings, base: Base, data: Path) -> Objective:
    """The objective for a base; `data` is the folder of prepared rows."""
    from tunesmith.data import rows
    from tunesmith.models import catalog
    from tunesmith.models.metadata import Writing
    from tunesmith.objectives.next_token import NextToken
    from tunesmith.tokens import chat_template, sequences, tokenization
    from tunesmith.tokens.dialogues import answers
    from tunesmith.tokens.reader import Reader

    catalog.require_causal(base)
    chat = chat_template.load(base.folder, settings.template)
    ends = sequences.end_of(tokenization.load(base.folder), base.config, chat)

    def examples(path: Path, reader: Reader) -> sequences.TextExamples:
        losses = sequences.Losses()
        count = rows.count(path)
        pieces = answers(reader.tokenizer, chat, dialogues(path), ends, reader.limit, reader.truncation, settings.learn, losses, count)
        return sequences.TextExamples(pieces, reader.scratch, losses)

    return NextToken(settings.label_smoothing, examples, Writing(chat.template, dict(chat.tokens), ends))


def dialogues(path: Path) -> Iterator[list[list[dict[str, str]]]]:
    """The rows of a prepared file as messages, in batches; a completion is two messages."""
    from tunesmith.data import rows

    for batch in rows.batches(path):
        if "messages" in batch.schema.names:
            yield batch.column("messages").to_pylist()
        else:
            pairs = zip(batch.column("prompt").to_pylist(), batch.column("completion").to_pylist(), strict=True)
            yield [[{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}] for prompt, completion in pairs]
