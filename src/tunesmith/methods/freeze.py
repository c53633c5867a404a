"""Layer freezing: only the last layers and the head learn; what lies below is computed once.

Howard and Ruder 2018 (https://arxiv.org/abs/1801.06146, section 3.3) thaw layers one by one; Lee et al. 2019
(https://arxiv.org/abs/1911.03090) show that a quarter of BERT's layers gives nine tenths of the quality. We differ:
1. The number of learning layers is fixed from the first step, so the states below them never change.
2. The frozen part runs without dropout, which makes its states the same in every epoch: they are computed once and kept on disk,
   memory-mapped, and each step begins at the first learning layer (`cache: false` computes them anew each time, with equal results).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tunesmith.core.settings import Settings
from tunesmith.methods.full import load, save

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from tunesmith.models.catalog import Base
    from tunesmith.models.loading import Head
    from tunesmith.tokens.examples import Examples, TokenExamples

__all__ = ["FreezeSettings", "adapt", "epochs", "examples", "learning_rate", "load", "save", "text_epochs", "text_learning_rate"]


class FreezeSettings(Settings):
    """Only the last layers and the head learn."""

    kind: Literal["freeze"] = "freeze"
    layers: int = Field(2, ge=0)
    """How many of the last layers learn; 0 leaves the head (and a pooler) alone."""
    embeddings: bool = False
    """Whether a language model's word table and output layer learn too; nothing below is cached then."""
    cache: bool = True
    """Compute the states below the first learning layer once and keep them on disk while training (1.5 kB a token of a small base)."""


learning_rate = 3e-4
epochs = 6
text_learning_rate = 2e-4
text_epochs = 3


def adapt(base: Base, head: Head, settings: FreezeSettings) -> nn.Module:
    """The base with a head; the last layers, what follows them and the head require grad.

    Raises:
        UserError: more layers are asked for than the base has.
    """
    from tunesmith.core.errors import UserError
    from tunesmith.models import layers, loading

    model: Any = loading.adapted(base, head)
    stack = layers.stack(model)
    if settings.layers > len(stack):
        raise UserError(f"`method.layers={settings.layers}`, but {base.name} has {len(stack)} layers", "recipe", f"use at most {len(stack)}")
    model.requires_grad_(False)
    after = layers.after(model)
    if head.labels is None:
        # The output layer is often the word table itself, on which every state rests: it stays as it is unless asked for.
        tables = [model.get_input_embeddings(), model.get_output_embeddings()]
        after = [one for one in after if one not in tables] + (tables if settings.embeddings else [])
    # Some classifiers name their head before their layers: it is found by its random weights.
    random = [model.get_submodule(name) for name in loading.random_modules(model)]
    for one in (*stack[len(stack) - settings.layers :], *after, *random):
        one.requires_grad_(True)
    tables_learn = head.labels is None and settings.embeddings
    model.frozen_below = 0 if tables_learn else len(stack) - settings.layers
    model.cache_states = settings.cache and not tables_learn
    return model  # type: ignore[no-any-return]  # transformers' classes behind Any


def examples(model: nn.Module, examples: TokenExamples, base: Base, progress: Callable[[int, int], None]) -> Examples:
    """States after the frozen layers where the model can start from them, else tokens."""
    from tunesmith.models import layers

    return layers.cached(model, examples, progress) if model.cache_states else examples
