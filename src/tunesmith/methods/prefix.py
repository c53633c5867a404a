"""Prefixes: the base is frozen, and what stands before every row learns.

prefix: Li and Liang 2021 (https://arxiv.org/abs/2101.00190, equation 3): P keys and values in every layer.
prompt: Lester et al. 2021 (https://arxiv.org/abs/2104.08691, section 2): P word vectors in front of the row's own.
1. Both are PEFT's, in place and in file. A row's positions begin at P, so a base with a table of positions reads P tokens less.
2. Keys and values are learnt as they are; `projection` makes them by a small network while training (Li and Liang, section 4.3), which
   is left behind when the model is saved.
3. At the start keys and values are those of P words drawn from the vocabulary (Li and Liang, section 7.4, found real words best), and a
   prompt is P such words (Lester, section 3.2: of all the vocabulary, not of its 5,000 commonest). PEFT's default is a standard normal,
   which drowns the row.
4. A classifier's head learns with it. With `prompt` a BERT classifier reads the first soft vector's state, as in PEFT.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from tunesmith.core.settings import Settings
from tunesmith.methods.lora import save

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from tunesmith.methods import Saved
    from tunesmith.models.catalog import Base
    from tunesmith.models.loading import Head
    from tunesmith.tokens.examples import Examples

__all__ = ["PrefixSettings", "adapt", "epochs", "examples", "learning_rate", "load", "save", "text_epochs", "text_learning_rate"]


class PrefixSettings(Settings):
    """Learnt keys and values, or learnt word vectors, before every row."""

    kind: Literal["prefix"] = "prefix"
    style: Literal["prefix", "prompt"] = "prefix"
    """prefix: keys and values in every layer. prompt: word vectors before the first layer."""
    tokens: int = Field(16, ge=1, le=1024)
    """How many stand there (P). They count towards what the base can read."""
    projection: bool = False
    """Make a prefix's keys and values by a small network while training; slower, steadier at a high learning rate."""

    @model_validator(mode="after")
    def _fits(self) -> PrefixSettings:
        if self.projection and self.style == "prompt":
            raise ValueError("`projection` is for style: prefix; leave it out")
        return self


learning_rate = 1e-2
epochs = 10
text_learning_rate = 1e-2
text_epochs = 5


def adapt(base: Base, head: Head, settings: PrefixSettings) -> nn.Module:
    """The base behind a prefix; it and a classifier's head require grad.

    Raises:
        UserError: nothing can stand before this base's rows, or it has too few positions.
    """
    from peft import PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model

    from tunesmith.core.errors import UserError
    from tunesmith.models import loading

    model: Any = loading.adapted(base, head)
    _check(model, base, head, settings)
    if settings.tokens > base.max_tokens - 8:
        what = f"`method.tokens={settings.tokens}` leaves no room for texts: {base.name} reads {base.max_tokens} tokens in all"
        raise UserError(what, "recipe, `method.tokens`", f"use at most {base.max_tokens - 8}")
    task = TaskType.CAUSAL_LM if head.labels is None else TaskType.SEQ_CLS
    whole = loading.besides_heads(model)
    if settings.style == "prompt":
        words = model.get_input_embeddings().embedding_dim
        sizes = {"token_dim": words, "num_layers": model.config.num_hidden_layers, "num_attention_heads": model.config.num_attention_heads}
        config = PromptTuningConfig(task_type=task, num_virtual_tokens=settings.tokens, prompt_tuning_init="SAMPLE_VOCAB", modules_to_save=whole, **sizes)
    else:
        config = PrefixTuningConfig(
            task_type=task,
            num_virtual_tokens=settings.tokens,
            prefix_projection=settings.projection,
            encoder_hidden_size=base.hidden_size,
            modules_to_save=whole,
        )
    start = _of_words(model, settings.tokens) if settings.style == "prefix" and not settings.projection else None
    adapted: Any = get_peft_model(model, config)
    if start is not None:
        adapted.prompt_encoder[adapted.active_adapter].load_prompt_embeddings(start)
    made: nn.Module = adapted
    return made


def _check(model: Any, base: Base, head: Head, settings: PrefixSettings) -> None:
    """Raise a UserError where nothing can stand before the rows of a model."""
    from tunesmith.core.errors import UserError

    kind, remedy = model.config.model_type, "use lora or bottleneck"
    if model.config.is_encoder_decoder:
        what = f"a base of the kind `{kind}` is an encoder-decoder: it is not settled which of the two a prefix stands before"
        raise UserError(what, "recipe, `method`", "use lora or full")
    if head.labels is None:
        if not hasattr(model, "fast_states"):
            from tunesmith.models.fast import llama

            raise UserError(f"method `prefix` writes texts with bases of the kinds {', '.join(llama.KINDS)}; this is `{kind}`", "recipe, `method`", remedy)
        return
    takers = [one for one in (model, *model.children()) if "past_key_values" in inspect.signature(one.forward).parameters]
    if settings.style == "prefix" and (not takers or (_keys_and_values(model) is None and not _keeps_cache(model))):
        raise UserError(f"a base of the kind `{kind}` takes no keys and values from outside", "recipe, `method.style`", f"use style: prompt; or {remedy}")
    window = getattr(model.config, "sliding_window", None) if getattr(model.config, "use_sliding_window", True) else None
    if settings.style == "prefix" and window and window < base.max_tokens:
        what = f"a token of {base.name} sees the {window} places before it alone, so a prefix falls out of its sight"
        raise UserError(what, "recipe, `method`", f"use style: prompt; or {remedy}")


def _keys_and_values(model: Any) -> list[tuple[nn.Module, nn.Module]] | None:
    """The two linear layers of each layer that make its keys and values; None where they are not apart."""
    from tunesmith.models import layers

    names = (("key", "value"), ("k_proj", "v_proj"))
    found = []
    for layer in layers.stack(model):
        inside = [one for one in layer.modules() if any(hasattr(one, key) and hasattr(one, value) for key, value in names)]
        if len(inside) != 1:
            return None
        [pair] = [(getattr(inside[0], key), getattr(inside[0], value)) for key, value in names if hasattr(inside[0], key)]
        found.append(pair)
    return found


def _keeps_cache(model: Any) -> bool:
    """Whether a base is a decoder, which keeps the keys and values of what it has read."""
    return hasattr(model, "score") and "past_key_values" in inspect.signature(model.base_model.forward).parameters


def _of_words(model: Any, count: int) -> torch.Tensor:
    """Keys and values that `count` words, drawn from torch's global generator, have in each layer, as PEFT lays them out: (P, N * 2 * G * K)."""
    import torch
    from transformers import DynamicCache

    table = model.get_input_embeddings()
    ids_1P = torch.randint(table.num_embeddings, (1, count))
    pairs = _keys_and_values(model) or []
    seen: dict[nn.Module, torch.Tensor] = {}
    hooks = [one.register_forward_hook(lambda module, given, made: seen.update({module: made})) for pair in pairs for one in pair]
    training = model.training
    model.eval()
    inner = model.base_model
    with torch.no_grad():
        # A cache without a config keeps every place, also where the base's own keeps a window of them.
        cache = {"past_key_values": DynamicCache()} if _keeps_cache(model) else {}
        made = inner(input_ids=ids_1P, attention_mask=torch.ones_like(ids_1P), use_cache=True, **cache)
    model.train(training)
    for hook in hooks:
        hook.remove()
    filled = getattr(made, "past_key_values", None)
    if filled is not None:  # a decoder's own cache has keys already turned to their positions
        flat = [one[0].transpose(0, 1).flatten(1) for layer in filled.layers for one in (layer.keys, layer.values)]
    else:
        flat = [seen[one][0] for pair in pairs for one in pair]
    return torch.cat(flat, 1)


def examples(model: Any, examples: Any, base: Base, progress: Callable[[int, int], None]) -> Examples:
    """Tokens as they are.

    Raises:
        UserError: a row and the prefix together have more places than the base.
    """
    from tunesmith.core.errors import UserError

    given: Examples = examples
    tokens = model.active_peft_config.num_virtual_tokens
    longest = int(given.sequences().lengths_N.max()) if hasattr(given, "sequences") else int(given.lengths_N.max())
    if longest + tokens > base.max_tokens:
        what = f"rows of up to {longest} tokens behind a prefix of {tokens} have more than the {base.max_tokens} places of {base.name}"
        raise UserError(what, "recipe, `model.max_tokens`", f"set model.max_tokens: {base.max_tokens - tokens}")
    return given


def load(saved: Saved) -> nn.Module:
    """Base and prefix in eval mode, as PEFT has them: transformers' own `generate` works on it, and `llama.front` tells what stands before the rows."""
    from peft import PeftModel

    from tunesmith.models import loading

    model = loading.adapted(saved.base(), saved.head)
    with loading.quiet():
        adapted: nn.Module = PeftModel.from_pretrained(model, saved.folder, is_trainable=False, local_files_only=True)
    adapted.eval()
    return adapted
