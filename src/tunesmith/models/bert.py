"""A faster way through BERT encoders on a CPU: the same weights, the same arithmetic, less of everything around the matrix products.

Devlin et al. 2019 (https://arxiv.org/abs/1810.04805). transformers' own forward stays the reference; a test holds this one against it.
1. Where only the first token's state is read (the pooler of a classifier), the last layer computes queries, output and feed-forward for
   that token alone: a seventh of a six-layer model's operations.
2. Query, key and value are one product, and LoRA is merged into it for each step.
3. Dropout masks come from 16-bit lanes of a fast generator seeded from torch's own, so resuming is as exact as before.
4. Attention on short rows is two batched products and a softmax, without mask when the batch has no padding.

Shapes: B rows, L tokens of a row, D hidden size, H heads, K size of a head, F feed-forward size, C labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tunesmith.models.dropout import dropout
from tunesmith.models.heads import Output

KINDS = ("bert",)
"""`model_type` of the configs this file knows."""


def accelerate(model: nn.Module) -> bool:
    """Give a model the faster forward, in place.

    Args:
        model: a `BertForSequenceClassification` or `BertModel`, before PEFT wraps it: the LoRA layers put in later are used.

    Returns:
        Whether it was one that this file knows; others are left as they are.
    """
    inner: Any = model
    config = getattr(inner, "config", None)
    known = getattr(config, "model_type", None) in KINDS and getattr(config, "hidden_act", "") == "gelu"
    if not known or getattr(config, "is_decoder", False) or getattr(config, "position_embedding_type", "absolute") != "absolute":
        return False
    if hasattr(inner, "classifier") and hasattr(inner, "bert"):
        inner.forward = MethodType(_classify, inner)
    elif hasattr(inner, "encoder") and hasattr(inner, "embeddings"):
        inner.forward = MethodType(_encode, inner)
    else:
        return False
    return True


def _classify(
    self: Any,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    states: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    **unused: Any,
) -> Output:
    """As transformers' forward; or from `states` (B, L, D), what the layers below `self.frozen_below` give."""
    assert inputs_embeds is None, "the faster forward starts from tokens"
    frozen = getattr(self, "frozen_below", 0)
    if states is None:
        assert input_ids is not None
        if frozen:
            states = below(self.bert, frozen, input_ids, attention_mask, token_type_ids)
        else:
            states = embed(self.bert.embeddings, input_ids, token_type_ids)
    states = states.to(self.bert.pooler.dense.weight.dtype)  # cached states are fp32, whatever the model computes in
    first_BD = layers(self.bert.encoder.layer[frozen:], states, padding_bias(attention_mask, states.dtype), first_only=True)[:, 0]
    pooled_BD = linear(self.bert.pooler.dense, first_BD).tanh()
    return Output(linear(self.classifier, dropout(pooled_BD, self.dropout.p, self.training)))


@dataclass(frozen=True)
class Hidden:
    """What an encoder gives, under the name that transformers uses."""

    last_hidden_state: torch.Tensor


def _encode(
    self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, token_type_ids: torch.Tensor | None = None, **unused: Any
) -> Hidden:
    return Hidden(hidden(self, input_ids, attention_mask, token_type_ids))


def hidden(
    bert: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, token_type_ids: torch.Tensor | None = None, most: int | None = None
) -> torch.Tensor:
    """States after the last layer, or after the first `most` layers.

    Args:
        bert: a `BertModel`.
        input_ids: (B, L).
        attention_mask: (B, L), 1 for tokens; None: no padding.
        token_type_ids: (B, L); None: all 0.
        most: how many layers; None: all.

    Returns:
        hidden_BLD.
    """
    hidden_BLD = embed(bert.embeddings, input_ids, token_type_ids)
    return layers(bert.encoder.layer[:most], hidden_BLD, padding_bias(attention_mask, hidden_BLD.dtype))


def below(
    bert: Any, count: int, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, token_type_ids: torch.Tensor | None = None
) -> torch.Tensor:
    """States after the first `count` layers, which do not learn: without dropout and without gradient, whatever the mode."""
    training = bert.training
    bert.eval()
    with torch.no_grad():
        states_BLD = hidden(bert, input_ids, attention_mask, token_type_ids, count)
    bert.train(training)
    return states_BLD


def embed(embeddings: Any, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None) -> torch.Tensor:
    """Words + positions + types, normalised: hidden_BLD."""
    places_LD = embeddings.position_embeddings.weight[: input_ids.shape[1]]
    types = embeddings.token_type_embeddings
    types_D = types.weight[0] if token_type_ids is None else types(token_type_ids)
    whole_BLD = embeddings.word_embeddings(input_ids) + (places_LD + types_D)
    return dropout(embeddings.LayerNorm(whole_BLD), embeddings.dropout.p, embeddings.training)


def padding_bias(attention_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """0 for tokens and a very negative number for padding, (B, 1, 1, L), to be added to attention scores; None without padding."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return (attention_mask == 0)[:, None, None, :].to(dtype) * torch.finfo(dtype).min


def layers(stack: Any, hidden_BLD: torch.Tensor, bias_B11L: torch.Tensor | None, first_only: bool = False) -> torch.Tensor:
    """Run a list of `BertLayer`s."""
    for index, layer in enumerate(stack):
        hidden_BLD = _layer(layer, hidden_BLD, bias_B11L, first_only and index == len(stack) - 1)
    return hidden_BLD


def _layer(layer: Any, hidden_BLD: torch.Tensor, bias_B11L: torch.Tensor | None, first_only: bool) -> torch.Tensor:
    attention, output = layer.attention, layer.output
    read_BLD = hidden_BLD[:, :1] if first_only else hidden_BLD  # the tokens that ask
    context_BLD = _attend(attention.self, hidden_BLD, read_BLD, bias_B11L)
    added_BLD = dropout(linear(attention.output.dense, context_BLD), attention.output.dropout.p, layer.training) + read_BLD
    middle_BLD = attention.output.LayerNorm(added_BLD)
    wide_BLF = F.gelu(linear(layer.intermediate.dense, middle_BLD))
    added_BLD = dropout(linear(output.dense, wide_BLF), output.dropout.p, layer.training) + middle_BLD
    normed_BLD: torch.Tensor = output.LayerNorm(added_BLD)
    return normed_BLD


def _attend(attention: Any, hidden_BLD: torch.Tensor, read_BLD: torch.Tensor, bias_B11L: torch.Tensor | None) -> torch.Tensor:
    B, L, D = hidden_BLD.shape
    H, K = attention.num_attention_heads, attention.attention_head_size
    if read_BLD.shape[1] == L:
        query_BLD, key_BLD, value_BLD = linears([attention.query, attention.key, attention.value], hidden_BLD)
    else:
        query_BLD = linear(attention.query, read_BLD)
        key_BLD, value_BLD = linears([attention.key, attention.value], hidden_BLD)
    query_BHLK, key_BHLK, value_BHLK = (one.view(B, -1, H, K).transpose(1, 2) for one in (query_BLD, key_BLD, value_BLD))
    p = attention.dropout.p if attention.training else 0.0
    if p == 0.0:
        context_BHLK = F.scaled_dot_product_attention(query_BHLK, key_BHLK, value_BHLK, attn_mask=bias_B11L)
    else:
        # torch's fused kernel does not know dropout on a CPU; its fallback draws the mask slowly.
        scores_BHLL = query_BHLK @ (key_BHLK * (1 / math.sqrt(K))).transpose(-1, -2)
        if bias_B11L is not None:
            scores_BHLL = scores_BHLL + bias_B11L
        context_BHLK = dropout(scores_BHLL.softmax(-1), p, True) @ value_BHLK
    return context_BHLK.transpose(1, 2).reshape(B, -1, D)


def linear(module: Any, x: torch.Tensor) -> torch.Tensor:
    """What the module gives for x; LoRA layers of the plain kind without PEFT's detours."""
    return linears([module], x)[0]


def linears(modules: list[Any], x: torch.Tensor) -> list[torch.Tensor]:
    """Several linear layers of one input as one product, LoRA included: a list of their outputs."""
    if all(type(module) is nn.Linear for module in modules):
        if len(modules) == 1:
            return [F.linear(x, modules[0].weight, modules[0].bias)]
        weight, bias = torch.cat([module.weight for module in modules]), torch.cat([module.bias for module in modules])
        return list(torch.split(F.linear(x, weight, bias), [module.out_features for module in modules], -1))
    lows = [_plain_lora(module) for module in modules]
    plain = [low for low in lows if low is not None]
    if len(plain) < len(modules):
        return [linear(module, x) for module in modules] if len(modules) > 1 else [modules[0](x)]
    bases = [module.base_layer for module in modules]
    thin = [tensor for A, B, _ in plain for tensor in (A, B)]
    whole: torch.Tensor = _LowRank.apply(x, bases, [scale for _, _, scale in plain], *thin)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return list(torch.split(whole, [base.out_features for base in bases], -1))


class _LowRank(torch.autograd.Function):
    """Frozen linear layers with LoRA on one input, as a single product with the merged weight.

    y = x (W + s B A)^T + b. Merging costs rank x weights, whatever the number of tokens; only the gradients of A and B need thin products:
    dA = s (dy B)^T x and dB = s dy^T (x A^T), while dx = dy (W + s B A). Hu et al. 2021, equation 3, differentiated by hand.
    """

    @staticmethod
    def forward(context: Any, x: torch.Tensor, bases: list[Any], scales: list[float], *thin: torch.Tensor) -> torch.Tensor:
        weight = torch.cat([base.weight for base in bases])
        bias = None if bases[0].bias is None else torch.cat([base.bias for base in bases])
        start = 0
        for base, scale, A, B in zip(bases, scales, thin[::2], thin[1::2], strict=True):
            weight[start : start + base.out_features].addmm_(B, A, alpha=scale)
            start += base.out_features
        context.save_for_backward(x, weight, *thin)
        context.scales, context.widths = scales, [base.out_features for base in bases]
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, *thin = context.saved_tensors
        flat_x = x.reshape(-1, x.shape[-1])
        flat_y = gradients[0].reshape(flat_x.shape[0], -1)
        out: list[torch.Tensor | None] = [(flat_y @ weight).view_as(x) if context.needs_input_grad[0] else None, None, None]
        narrow = torch.split(flat_x @ torch.cat(thin[::2]).T, [len(A) for A in thin[::2]], -1)
        for part, dy, scale, B in zip(narrow, torch.split(flat_y, context.widths, -1), context.scales, thin[1::2], strict=True):
            out += [((dy @ B).T @ flat_x).mul_(scale), (dy.T @ part).mul_(scale)]
        return tuple(out)


def _plain_lora(module: Any) -> tuple[torch.Tensor, torch.Tensor, float] | None:
    """(A, B, scale) of a PEFT LoRA layer on a frozen linear one, with one active adapter and nothing else to it; None for all other modules."""
    active = getattr(module, "active_adapters", None)
    if not active or len(active) != 1 or not hasattr(module, "lora_A") or active[0] not in module.lora_A:
        return None
    name = active[0]
    odd = module.merged or module.disable_adapters or module.use_dora.get(name) or not isinstance(module.lora_dropout[name], nn.Identity)
    learns = type(module.base_layer) is not nn.Linear or any(one.requires_grad for one in module.base_layer.parameters())
    if odd or learns or module.lora_A[name].bias is not None or module.lora_B[name].bias is not None:
        return None
    return module.lora_A[name].weight, module.lora_B[name].weight, float(module.scaling[name])
