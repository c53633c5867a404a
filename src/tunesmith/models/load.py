"""Load a base with transformers: safetensors only, offline, never code that comes with the weights.

The one door through which weights enter; everything that loads a model calls this file.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import UserError
from tunesmith.models.catalog import Base

if TYPE_CHECKING:
    from torch import nn

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "merges.txt", "chat_template.jinja")


@dataclass(frozen=True)
class Head:
    """What a model must give: label names in order (None: the next token of a text), one or several a row, and dropout (None: the base's)."""

    labels: list[str] | None
    multi_label: bool = False
    dropout: float | None = None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' reports and bars off the user's terminal; what matters is in our own words elsewhere."""
    from transformers.utils import logging

    library: Any = logging  # partly typed
    level = library.get_verbosity()
    bars = library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers to itself
            yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()


def encoder(base: Base) -> nn.Module:
    """The base without a head, in fp32 and eval mode."""
    from transformers import AutoModel

    from tunesmith.models import bert

    model: nn.Module = pretrained(AutoModel, base.folder)
    bert.accelerate(model)
    model.eval()
    return model


def adapted(base: Base, head: Head) -> nn.Module:
    """The base as a classifier, or as a language model where the head has no labels, in fp32."""
    if head.labels is None:
        return language_model(base, head.dropout)
    return classifier(base, head.labels, head.multi_label, head.dropout)


def saved(folder: Path, head: Head) -> nn.Module:
    """What `save_pretrained` wrote of `adapted`, in eval mode."""
    if head.labels is not None:
        return saved_classifier(folder)
    from transformers import AutoModelForCausalLM

    from tunesmith.models import llama

    model: nn.Module = pretrained(AutoModelForCausalLM, folder)
    llama.accelerate(model)
    model.eval()
    return model


def language_model(base: Base, dropout: float | None = None) -> nn.Module:
    """The base with its own output layer over the vocabulary; random weights, drawn from torch's global generator, where the base has none yet.

    Raises:
        UserError: transformers has no causal language model of this kind.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunesmith.models import llama

    extra = {name: dropout for name in _DROPOUTS if dropout is not None and name in base.config}
    if any(base.folder.glob("*.safetensors")):
        model: Any = pretrained(AutoModelForCausalLM, base.folder, **extra)
    else:
        with quiet():
            library: Any = AutoModelForCausalLM  # partly typed
            config = AutoConfig.from_pretrained(base.folder, local_files_only=True, **extra)
            model = library.from_config(config, attn_implementation="sdpa")
    llama.accelerate(model)
    made: nn.Module = model
    return made


_DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "seq_classif_dropout", "classifier_dropout"),
    *("attn_pdrop", "resid_pdrop", "embd_pdrop"),
)
"""What the configs of transformers' models call it."""


def classifier(base: Base, labels: list[str], multi_label: bool, dropout: float | None) -> nn.Module:
    """The base with transformers' own classification head, which draws its first weights from torch's global generator.

    Args:
        base: a resolved base.
        labels: names in order; they are kept in the saved config.
        multi_label: writes `problem_type` so that transformers computes the matching loss.
        dropout: for hidden states, attention and head; None keeps the base's own.

    Returns:
        A `*ForSequenceClassification` in fp32.

    Raises:
        UserError: transformers has no classifier for this kind of base.
    """
    from transformers import AutoModelForSequenceClassification

    from tunesmith.models import bert

    extra: dict[str, Any] = {}
    if dropout is not None:
        extra = {name: dropout for name in _DROPOUTS if name in base.config}
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    kind = "multi_label_classification" if multi_label else "single_label_classification"
    model: Any = pretrained(AutoModelForSequenceClassification, base.folder, num_labels=len(labels), problem_type=kind, **names, **extra)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = 0  # decoder bases find the last token by it
    bert.accelerate(model)
    made: nn.Module = model
    return made


def saved_classifier(folder: Path) -> nn.Module:
    """A classifier that we saved, in eval mode."""
    from transformers import AutoModelForSequenceClassification

    from tunesmith.models import bert

    model: nn.Module = pretrained(AutoModelForSequenceClassification, folder)
    bert.accelerate(model)
    model.eval()
    return model


def pretrained(auto: Any, folder: Path, **extra: Any) -> Any:
    """What transformers loads of a folder, in fp32, from safetensors alone and without any code of the folder's.

    Args:
        auto: one of transformers' Auto classes.
        folder: as `save_pretrained` writes it.
        extra: keyword arguments of `from_pretrained`.

    Raises:
        UserError: it cannot be loaded.
    """
    import torch

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        with quiet():
            return auto.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation="sdpa", **extra)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"transformers cannot load it ({reason})", str(folder), "choose another base, or fetch this one again") from error
