"""Load a base with transformers: safetensors only, offline, never code that comes with the weights.

The one door through which weights enter; everything that loads a model calls this file.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.core.errors import UserError, some
from tunesmith.core.files import read_json
from tunesmith.models.catalog import Base
from tunesmith.tokens import tokenization

if TYPE_CHECKING:
    from types import ModuleType

    import torch
    from torch import nn

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "merges.txt", "chat_template.jinja")
MOST_APART = 1e-3
"""Share of the largest state by which a faster forward's states may differ: see `ALLOWED` in stages/self_checks.py for the reason."""
HEADS = ("classifier", "score", "classification_head", "pre_classifier")
"""What transformers' classifiers call the parts that every new task begins at random."""


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

    from tunesmith.models.fast import bert

    whole: Any = pretrained(AutoModel, base.folder)
    model: Any = whole.get_encoder() if base.config.get("is_encoder_decoder") else whole
    random = [name for name in whole.random_parts if not name.startswith("pooler.") and (model is whole or name.startswith("encoder."))]
    if random:
        what = f"its folder has no weights for {some(random, 3)}, so its vectors would be random"
        raise UserError(what, str(base.folder), "choose another base, or fetch this one again")
    _accelerate(model, bert, _bert_states)
    model.eval()
    return model  # type: ignore[no-any-return]  # transformers' classes behind Any


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Take our own forwards out of a model for a while, so that it computes as transformers has it."""
    ours = [(one, vars(one).pop("forward")) for one in model.modules() if _is_ours(one, "forward")]
    try:
        yield
    finally:
        for one, forward in ours:
            one.forward = forward


def _accelerate(model: Any, file: ModuleType, both: Callable[[Any], tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Give a model the faster forward of one of our files, and take it away again where it does not compute what transformers computes.

    A base may be of a kind that the file knows and still differ, by a config key that came later than the file.

    Args:
        model: in place.
        file: `models/fast/bert.py` or `models/fast/llama.py`.
        both: a few states by the file and by transformers.
    """
    if not file.accelerate(model):
        return
    import torch

    training = model.training
    model.eval()
    with torch.no_grad():
        ours, theirs = both(model)
    model.train(training)
    if not float((ours - theirs).abs().max()) <= MOST_APART * float(theirs.abs().max()):  # NaN does not fit either
        for name in ("forward", "fast_states"):
            vars(model).pop(name, None)
        model.is_slow = True


def _bert_states(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """States of two short rows, one of them padded, by models/fast/bert.py and by transformers."""
    import torch

    from tunesmith.models.fast import bert

    inner = model.bert if hasattr(model, "bert") else model
    ids_BL = torch.arange(12).view(2, 6) % inner.embeddings.word_embeddings.num_embeddings
    mask_BL = torch.ones_like(ids_BL)
    mask_BL[1, 4:] = 0
    theirs = type(inner).forward(inner, input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
    return bert.hidden(inner, ids_BL, mask_BL) * mask_BL[..., None], theirs * mask_BL[..., None]  # what stands on padding does not matter


def _llama_states(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """States of two short rows by models/fast/llama.py, packed, and by transformers, each alone."""
    import torch

    from tunesmith.models.fast import llama

    ids_T = torch.arange(10) % model.get_input_embeddings().num_embeddings
    theirs = [model.model(input_ids=row_L[None], use_cache=False).last_hidden_state[0] for row_L in (ids_T[:6], ids_T[6:])]
    return llama.states(model, ids_T, [6, 4]), torch.cat(theirs)


def is_slow(model: nn.Module) -> bool:
    """Whether a model is of a kind that one of our faster forwards knows and does not fit; it may be wrapped by PEFT."""
    wrapped: Any = model
    return bool(getattr(wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped, "is_slow", False))


def _is_ours(module: nn.Module, name: str) -> bool:
    """Whether a method of transformers' module was replaced or added by a file of this package."""
    return str(getattr(vars(module).get(name), "__module__", "")).startswith("tunesmith.")


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

    from tunesmith.models.fast import llama

    model: nn.Module = pretrained(AutoModelForCausalLM, folder)
    _accelerate(model, llama, _llama_states)
    model.eval()
    return model


def language_model(base: Base, dropout: float | None = None) -> nn.Module:
    """The base with its own output layer over the vocabulary; random weights, drawn from torch's global generator, where the base has none yet.

    Raises:
        UserError: transformers has no causal language model of this kind.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunesmith.models.fast import llama

    extra = _dropouts(base, dropout)
    if any(base.folder.glob("*.safetensors")):
        model: Any = pretrained(AutoModelForCausalLM, base.folder, **extra)
    else:
        with quiet():
            library: Any = AutoModelForCausalLM  # partly typed
            config = AutoConfig.from_pretrained(base.folder, local_files_only=True, **extra)
            model = library.from_config(config)
        model.random_parts = ()  # all of them are meant to be, and all learn
    _accelerate(model, llama, _llama_states)
    made: nn.Module = model
    return made


def _dropouts(base: Base, dropout: float | None) -> dict[str, float]:
    """The config keys of a base that are dropout rates, all set to one rate; empty where the rate is None.

    Raises:
        UserError: a rate is asked for, and its config has none.
    """
    if dropout is None:
        return {}
    from transformers import AutoConfig

    with quiet():
        config = AutoConfig.from_pretrained(base.folder, local_files_only=True).get_text_config()
    # What drops whole layers is another thing, and its rates are 0 in almost all bases.
    rates = {name: value for name, value in config.to_dict().items() if "drop" in name and "layer" not in name}
    keys = [name for name, value in rates.items() if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))]
    if not keys:
        what = f"`model.dropout={dropout}`, but a base of the kind `{config.model_type}` has no dropout in its config"
        raise UserError(what, "recipe, `model.dropout`", "leave model.dropout out")
    return dict.fromkeys(keys, dropout)


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

    from tunesmith.models import last_token
    from tunesmith.models.fast import bert

    extra = _dropouts(base, dropout)
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    kind = "multi_label_classification" if multi_label else "single_label_classification"
    model: Any = pretrained(AutoModelForSequenceClassification, base.folder, num_labels=len(labels), problem_type=kind, **names, **extra)
    if last_token.accelerate(model) or getattr(model.config, "pad_token_id", None) is None:
        # Ours reads the attention mask. Whoever opens the saved model without us finds padding by this id.
        model.config.get_text_config().pad_token_id = tokenization.pad_of(base.folder)
    _accelerate(model, bert, _bert_states)
    made: nn.Module = model
    return made


def saved_classifier(folder: Path) -> nn.Module:
    """A classifier that we saved, in eval mode."""
    from transformers import AutoModelForSequenceClassification

    from tunesmith.models import last_token
    from tunesmith.models.fast import bert

    model: nn.Module = pretrained(AutoModelForSequenceClassification, folder)
    last_token.accelerate(model)
    _accelerate(model, bert, _bert_states)
    model.eval()
    return model


def pretrained(auto: Any, folder: Path, **extra: Any) -> Any:
    """What transformers loads of a folder, in fp32, from safetensors alone and without any code of the folder's.

    Attention is sdpa where transformers has it for this kind of base, else eager: its own choice.

    Args:
        auto: one of transformers' Auto classes.
        folder: as `save_pretrained` writes it.
        extra: keyword arguments of `from_pretrained`.

    Returns:
        The model. Its `random_parts` names the parameters that the folder has no weights for.

    Raises:
        UserError: it cannot be loaded.
    """
    import torch

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        with quiet():
            model, facts = auto.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **extra
            )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        if "Unrecognized configuration class" in reason:
            kind = read_json(folder / "config.json").get("model_type", "unknown")
            what = f"transformers has no {auto.__name__.removeprefix('AutoModel') or 'model'} for a base of the kind `{kind}`"
            raise UserError(what, str(folder), "choose another base; method: features takes any that can be read") from error
        raise UserError(f"transformers cannot load it ({reason})", str(folder), "choose another base, or fetch this one again") from error
    absent = {*facts["missing_keys"], *(one[0] if isinstance(one, tuple) else one for one in facts["mismatched_keys"])}
    model.random_parts = tuple(name for name, _ in model.named_parameters() if name in absent)
    return model


def random_modules(model: nn.Module) -> list[str]:
    """The modules that own `random_parts`, by their full names: a method must let them learn and must save them."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in model.random_parts))  # type: ignore[union-attr]  # set by `pretrained`


def besides_heads(model: nn.Module) -> list[str] | None:
    """`random_modules` without the heads that PEFT finds, learns, and saves by itself; None where none is left."""
    return [name for name in random_modules(model) if name.split(".")[0] not in ("classifier", "score")] or None


def require_learned(model: nn.Module, base: Base) -> list[str]:
    """Refuse a model that has random weights which do not learn.

    Args:
        model: adapted; bare or wrapped by PEFT.
        base: named in the message.

    Returns:
        The modules beside the head that begin at random, for a note to the user.

    Raises:
        UserError: some part that the base's folder has no weights for is frozen.
    """
    wrapped: Any = model
    bare: Any = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
    random = getattr(bare, "random_parts", ())
    frozen = []
    for name in random:
        path, _, last = name.rpartition(".")
        owner: Any = bare.get_submodule(path)
        if hasattr(owner, "modules_to_save"):
            owner = owner.modules_to_save[owner.active_adapters[0]]
        holders = [owner, *(one for one in owner.children() if hasattr(one, last))] if not hasattr(owner, last) else [owner]
        if not any(getattr(one, last).requires_grad for one in holders if hasattr(one, last)):
            frozen.append(name)
    if frozen:
        what = f"its folder has no weights for {some(frozen, 3)}, and this method would leave them as they are drawn"
        raise UserError(what, base.name, "use method: full, which learns every weight; or choose a base that comes with these weights")
    return [name for name in dict.fromkeys(name.rpartition(".")[0] for name in random) if name.split(".")[0] not in HEADS]
