"""Full fine-tuning: every weight of the base and a new head learn.

Howard and Ruder 2018 (https://arxiv.org/abs/1801.06146) and Devlin et al. 2019 (https://arxiv.org/abs/1810.04805, section 3.2).
We differ in nothing: the model is transformers' own class for the base, so what is saved opens anywhere.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Literal

from tunesmith.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from tunesmith.methods import Saved
    from tunesmith.models.catalog import Base
    from tunesmith.models.loading import Head
    from tunesmith.tokens.examples import Examples, TokenExamples


class FullSettings(Settings):
    """Every weight learns; nothing to set."""

    kind: Literal["full"] = "full"


learning_rate = 2e-4
epochs = 5
text_learning_rate = 1e-4
text_epochs = 3


def adapt(base: Base, head: Head, settings: FullSettings) -> nn.Module:
    """The base with its head; every parameter requires grad."""
    from tunesmith.models import loading

    return loading.adapted(base, head)


def examples(model: nn.Module, examples: TokenExamples, base: Base, progress: Callable[[int, int], None]) -> Examples:
    """Tokens as they are."""
    return examples


def save(model: nn.Module, base: Base, folder: Path) -> None:
    """Write a plain Hugging Face model with its tokenizer."""
    from tunesmith.models import loading

    with loading.quiet():
        model.save_pretrained(folder)  # type: ignore[operator]  # transformers models are nn.Modules with more methods
    for name in loading.TOKENIZER_FILES:
        if (base.folder / name).exists():
            shutil.copyfile(base.folder / name, folder / name)


def load(saved: Saved) -> nn.Module:
    """The saved model in eval mode."""
    from tunesmith.models import loading

    return loading.saved(saved.folder, saved.head)
