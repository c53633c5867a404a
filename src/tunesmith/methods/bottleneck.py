"""Bottleneck adapters: the base is frozen, and behind its sublayers learns a narrow two-layer network that adds to what they give.

Houlsby et al. 2019 (https://arxiv.org/abs/1902.00751, figure 2): y = h + U f(D h), h being what a sublayer gives before it is added to its
input; behind attention and behind the feed-forward. Pfeiffer et al. 2020 (https://arxiv.org/abs/2005.00247): behind the
feed-forward alone, with half the parameters. We differ:
1. U is zero at the start (Houlsby: Gaussian of 0.01), so the first step begins at exactly the base's logits.
2. The base's dropout falls on h and the adapter's share together; Houlsby's adapter reads h after dropout.
3. Pfeiffer's, as AdapterHub builds it, reads h added to its input and normed; ours reads h, so that one module serves both styles and every architecture.
4. A classifier's pooler learns with its head. Norms learn as in Houlsby (section 2.1), and need not: `norms`.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tunesmith.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from tunesmith.methods import Saved
    from tunesmith.models.catalog import Base
    from tunesmith.models.loading import Head
    from tunesmith.tokens.examples import Examples, TokenExamples

SUBLAYERS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra", "deberta", "deberta-v2"), ("attention.output.dense", "output.dense")),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3"), ("self_attn.o_proj", "mlp.down_proj")),
    "albert": ("albert_layers.0.attention.dense", "albert_layers.0.ffn_output"),
    "mpnet": ("attention.attn.o", "output.dense"),
    "phi": ("self_attn.dense", "mlp.fc2"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "distilbert": ("attention.out_lin", "ffn.lin2"),
    "modernbert": ("attn.Wo", "mlp.Wo"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "opt": ("self_attn.out_proj", "fc2"),
}
"""The last linear layer of attention and of the feed-forward within one layer, by `model_type`."""


class BottleneckSettings(Settings):
    """Narrow networks behind the base's sublayers."""

    kind: Literal["bottleneck"] = "bottleneck"
    style: Literal["houlsby", "pfeiffer"] = "houlsby"
    """houlsby: behind attention and behind the feed-forward. pfeiffer: behind the feed-forward alone."""
    width: int = Field(64, ge=1, le=8192)
    """Hidden units of an adapter."""
    activation: Literal["gelu", "relu"] = "gelu"
    """What is between its two layers."""
    norms: bool = True
    """Whether the base's norms learn too."""


learning_rate = 1e-3
epochs = 6
text_learning_rate = 5e-4
text_epochs = 3


def adapt(base: Base, head: Head, settings: BottleneckSettings) -> nn.Module:
    """The base with adapters; they, a classifier's head and (with `norms`) the norms require grad.

    Raises:
        UserError: it is not known where this kind of base ends its sublayers.
    """
    from tunesmith.models import layers, loading

    model = loading.adapted(base, head)
    model.requires_grad_(False)
    for one in model.modules():
        if "norm" in type(one).__name__.lower() and not list(one.children()):
            one.requires_grad_(settings.norms)
    for one in layers.after(model) if head.labels is not None else []:
        one.requires_grad_(True)  # with a decoder the last norm is among them, the head's last look at a text
    for name in loading.random_modules(model):
        model.get_submodule(name).requires_grad_(True)  # some classifiers name their head before their layers
    insert(model, base, settings.model_dump(exclude={"kind", "norms"}))
    return model


def insert(model: Any, base: Base, about: dict[str, Any]) -> None:
    """Put fresh adapters into a model, in place.

    Args:
        model: transformers' own, its sublayers as they are.
        base: whose width they have.
        about: style, width and activation; kept as `model.adapter_shape`.
    """
    from tunesmith.core.errors import UserError, some
    from tunesmith.models import layers
    from tunesmith.models.bottleneck_layer import Adapter

    kind = str(model.config.model_type)
    if kind not in SUBLAYERS:
        what = f"method `bottleneck` does not know where a base of the kind `{kind}` ends its sublayers"
        raise UserError(what, "recipe, `method`", f"use lora, or a base of the kinds {some(sorted(SUBLAYERS), 20)}")
    attention, feed_forward = SUBLAYERS[kind]
    for layer in layers.stack(model):
        for path in (attention, feed_forward) if about["style"] == "houlsby" else (feed_forward,):
            owner, _, name = path.rpartition(".")
            holder = layer.get_submodule(owner)
            inner = getattr(holder, name)
            size = inner.out_features if hasattr(inner, "out_features") else inner.nf  # GPT-2's layers are transposed
            setattr(holder, name, Adapter(inner, size, about["width"], about["activation"]))
    model.adapter_shape = about


def examples(model: nn.Module, examples: TokenExamples, base: Base, progress: Callable[[int, int], None]) -> Examples:
    """Tokens as they are."""
    return examples


def save(model: Any, base: Base, folder: Path) -> None:
    """Write `adapters.safetensors`, `adapters.json` and the tokenizer; the base is named in tunesmith.json.

    The tensors are all that learnt, named by their place in transformers' model: `PLACE.down.weight` (width x D), `PLACE.down.bias`,
    `PLACE.up.weight` (D x width) and `PLACE.up.bias` for the adapter behind the linear layer at PLACE; norms and head under their own names.
    """
    from safetensors.torch import save_file

    from tunesmith.core.files import write_json
    from tunesmith.models import loading

    learnt = {name: one.detach().contiguous() for name, one in model.named_parameters() if one.requires_grad}
    save_file(learnt, folder / "adapters.safetensors")
    write_json(folder / "adapters.json", model.adapter_shape)
    for name in loading.TOKENIZER_FILES:
        if (base.folder / name).exists():
            shutil.copyfile(base.folder / name, folder / name)


def load(saved: Saved) -> nn.Module:
    """Base and adapters in eval mode."""
    from safetensors.torch import load_file

    from tunesmith.core.files import read_json
    from tunesmith.models import loading

    base = saved.base()
    model = loading.adapted(base, saved.head)
    insert(model, base, read_json(saved.folder / "adapters.json"))
    _, unknown = model.load_state_dict(load_file(saved.folder / "adapters.safetensors"), strict=False)
    assert not unknown, unknown
    model.requires_grad_(False)
    model.eval()
    return model
