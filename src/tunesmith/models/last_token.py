"""Classifiers that read a row's last token: found by the attention mask, whatever the padding's id.

transformers finds the last token by `ids != config.pad_token_id`. Where a base's config has no such id, or another one than its tokenizer, a
padding token is read in its place, and a row's answer depends on the rows in its batch. A last word whose id is the padding's is never read.

Shapes: B rows, L tokens of a row, D hidden size, C labels.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

from tunesmith.models.heads import Output


def accelerate(model: nn.Module) -> bool:
    """Give a classifier of a decoder or an encoder-decoder a forward that reads the attention mask, in place.

    Args:
        model: a `*ForSequenceClassification`, before PEFT wraps it.

    Returns:
        Whether it is of such a kind; others are left as they are.
    """
    inner: Any = model
    reads_last = hasattr(inner, "score") or (hasattr(inner, "classification_head") and inner.config.is_encoder_decoder)
    if not reads_last or inner.base_model is inner:
        return False
    inner.forward = MethodType(_classify, inner)
    return True


def _classify(
    self: Any,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    past_key_values: Any = None,
    **unused: Any,
) -> Output:
    """The head on the state of each row's last token. PEFT's prefixes come as `past_key_values`, with a mask over P + L places."""
    given = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds, "past_key_values": past_key_values}
    given = {name: value for name, value in given.items() if value is not None}
    if self.config.is_encoder_decoder and hasattr(self, "_shift_right"):  # BART shifts by itself
        given["decoder_input_ids"] = self._shift_right(input_ids)
    states_BLD = self.base_model(**given, use_cache=past_key_values is not None).last_hidden_state
    B, L = states_BLD.shape[:2]
    places_L = torch.arange(L, device=states_BLD.device)
    last_B = states_BLD.new_full((B,), L - 1, dtype=torch.long) if attention_mask is None else (attention_mask[:, -L:] * places_L).argmax(-1)
    head = self.score if hasattr(self, "score") else self.classification_head
    return Output(head(states_BLD[torch.arange(B, device=states_BLD.device), last_B]))
