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

from tunesmith.models.fast.dropout import dropout
from tunesmith.models.fast.fused_linear import linear, linears
from tunesmith.models.heads import Output

KINDS = ("bert",)
"""`model_type` of the configs this file knows."""
Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one layer that stand before each row, (B, H, P, K)."""


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


def accelerated(model: nn.Module) -> bool:
    """Whether a classifier has this file's forward, which can begin from states."""
    return getattr(vars(model).get("forward"), "__func__", None) is _classify


def _classify(
    self: Any,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    states: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    past_key_values: Any = None,
    **unused: Any,
) -> Output:
    """As transformers' forward; or from `states` (B, L, D), what the layers below `self.frozen_below` give.

    PEFT's prompt tuning gives `inputs_embeds`, word vectors with soft ones before them; its prefix tuning gives `past_key_values`, keys and
    values that stand before each row in every layer. Both come with an `attention_mask` over all P + L places.
    """
    frozen = getattr(self, "frozen_below", 0)
    pairs = None if past_key_values is None else [(layer.keys, layer.values) for layer in past_key_values.layers]
    first = 0 if pairs is None else pairs[0][0].shape[2]
    if states is None:
        words = input_ids if inputs_embeds is None else inputs_embeds
        assert words is not None
        if frozen:
            states = below(self.bert, frozen, words, attention_mask, token_type_ids)
        else:
            states = embed(self.bert.embeddings, words, token_type_ids, first)
    states = states.to(self.bert.embeddings.LayerNorm.weight.dtype)  # cached states are fp32, whatever the model computes in
    bias_B11L = padding_bias(attention_mask, states.dtype)
    first_BD = layers(self.bert.encoder.layer[frozen:], states, bias_B11L, first_only=True, pairs=pairs)[:, 0]
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


def below(bert: Any, count: int, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, token_type_ids: torch.Tensor | None = None) -> torch.Tensor:
    """States after the first `count` layers, which do not learn: without dropout and without gradient, whatever the mode."""
    training = bert.training
    bert.eval()
    with torch.no_grad():
        states_BLD = hidden(bert, input_ids, attention_mask, token_type_ids, count)
    bert.train(training)
    return states_BLD


def embed(embeddings: Any, words: torch.Tensor, token_type_ids: torch.Tensor | None, first: int = 0) -> torch.Tensor:
    """Words (ids, or vectors in their place) + positions from `first` on + types, normalised: hidden_BLD."""
    places_LD = embeddings.position_embeddings.weight[first : first + words.shape[1]]
    types = embeddings.token_type_embeddings
    types_D = types.weight[0] if token_type_ids is None else types(token_type_ids)
    words_BLD = words if words.is_floating_point() else embeddings.word_embeddings(words)
    whole_BLD = words_BLD + (places_LD + types_D)
    return dropout(embeddings.LayerNorm(whole_BLD), embeddings.dropout.p, embeddings.training)


def padding_bias(attention_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """0 for tokens and a very negative number for padding, (B, 1, 1, L), to be added to attention scores; None without padding."""
    if attention_mask is None:
        return None
    if attention_mask.device.type == "cpu" and bool(attention_mask.all()):  # elsewhere to ask would wait for the device
        return None
    return (attention_mask == 0)[:, None, None, :].to(dtype) * torch.finfo(dtype).min


def layers(stack: Any, hidden_BLD: torch.Tensor, bias_B11L: torch.Tensor | None, first_only: bool = False, pairs: list[Pair] | None = None) -> torch.Tensor:
    """Run a list of `BertLayer`s; `pairs` are each layer's keys and values that stand before the rows."""
    for index, layer in enumerate(stack):
        hidden_BLD = _layer(layer, hidden_BLD, bias_B11L, first_only and index == len(stack) - 1, None if pairs is None else pairs[index])
    return hidden_BLD


def _layer(layer: Any, hidden_BLD: torch.Tensor, bias_B11L: torch.Tensor | None, first_only: bool, pair: Pair | None) -> torch.Tensor:
    attention, output = layer.attention, layer.output
    read_BLD = hidden_BLD[:, :1] if first_only else hidden_BLD  # the tokens that ask
    context_BLD = _attend(attention.self, hidden_BLD, read_BLD, bias_B11L, pair)
    added_BLD = dropout(linear(attention.output.dense, context_BLD), attention.output.dropout.p, layer.training) + read_BLD
    middle_BLD = attention.output.LayerNorm(added_BLD)
    wide_BLF = F.gelu(linear(layer.intermediate.dense, middle_BLD))
    added_BLD = dropout(linear(output.dense, wide_BLF), output.dropout.p, layer.training) + middle_BLD
    normed_BLD: torch.Tensor = output.LayerNorm(added_BLD)
    return normed_BLD


def _attend(attention: Any, hidden_BLD: torch.Tensor, read_BLD: torch.Tensor, bias_B11L: torch.Tensor | None, pair: Pair | None = None) -> torch.Tensor:
    B, L, D = hidden_BLD.shape
    H, K = attention.num_attention_heads, attention.attention_head_size
    if read_BLD.shape[1] == L:
        query_BLD, key_BLD, value_BLD = linears([attention.query, attention.key, attention.value], hidden_BLD)
    else:
        query_BLD = linear(attention.query, read_BLD)
        key_BLD, value_BLD = linears([attention.key, attention.value], hidden_BLD)
    query_BHLK, key_BHLK, value_BHLK = (one.view(B, -1, H, K).transpose(1, 2) for one in (query_BLD, key_BLD, value_BLD))
    if pair is not None:
        key_BHLK, value_BHLK = (torch.cat([one.to(own.dtype), own], 2) for one, own in zip(pair, (key_BHLK, value_BHLK), strict=True))
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
