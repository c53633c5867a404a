"""What a language model keeps of the tokens it has read, so that each new token costs one place and not the whole text again.

Two kinds with the same three methods: `Flat` for the layers that llama.py knows, without any padding in the products, and `Padded` for all
other causal models of transformers, through their own forward. Both are held against transformers' `generate` by tests.

Shapes: R rows, T tokens of all rows, L places of the memory, N layers, D hidden size, H heads, G key-value heads, K size of a head, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from tunesmith.core.errors import UserError
from tunesmith.models.fast import llama

READ_TOKENS = 4096
"""Tokens of prompts read at once: enough for full speed, and what a layer holds meanwhile stays bounded."""
FIRST_ROOM = 64
"""Places for new tokens before the memory grows the first time."""


class Memory(Protocol):
    """What the loop in decode.py needs of a kind."""

    def read(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read R prompts, once: fp32 logits_RV of the token after each."""

    def advance(self, ids_R: torch.Tensor) -> torch.Tensor:
        """Read one more token of each row: fp32 logits_RV of the next."""

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, which stay in order."""


def make(model: Any) -> Memory:
    """The kind of memory that a causal language model takes.

    Raises:
        UserError: the model keeps its past in a form that is not known here.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    return Flat(model) if hasattr(bare, "fast_states") else Padded(model)


class Flat:
    """Keys and values of rows that end at one place, so that a step writes one column and needs no mask where lengths are equal.

    A shorter prompt's row begins later; what lies before it is masked. Products run on real tokens alone. What a method puts before every row
    (`llama.front`) is read with the prompts.

    Args:
        model: a causal language model that `llama.accelerate` has marked, bare or wrapped by PEFT.
    """

    def __init__(self, model: Any) -> None:
        self.bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.inner = self.bare.model
        with torch.inference_mode():
            self.front = llama.front(model)
        self.mask_R11L: torch.Tensor | None = None

    def read(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        with torch.inference_mode():
            P = self.front.places if self.front is not None else 0
            lengths_R = torch.tensor([P + len(prompt) for prompt in prompts])
            self.now = int(lengths_R.max())
            device = self.inner.embed_tokens.weight.device
            self.positions_R = lengths_R.to(device)
            begins_R = (self.now - lengths_R).to(device)
            last, start = [], 0
            while start < len(prompts):
                stop, tokens = start + 1, len(prompts[start])
                while stop < len(prompts) and tokens + len(prompts[stop]) <= READ_TOKENS:
                    tokens, stop = tokens + len(prompts[stop]), stop + 1
                last.append(self._prefill(prompts[start:stop], torch.arange(start, stop, device=device), begins_R))
                start = stop
            self.begins_R = begins_R if bool(begins_R.any()) else None
            self._mask()
            return self._logits(torch.cat(last))

    def _prefill(self, prompts: Sequence[Sequence[int]], rows: torch.Tensor, begins_R: torch.Tensor) -> torch.Tensor:
        """Read some rows of the batch: states_RD of their last tokens."""
        lengths_R, P = [len(prompt) for prompt in prompts], 0
        hidden_TD = self.inner.embed_tokens(torch.tensor([one for prompt in prompts for one in prompt], device=rows.device))
        pairs = None
        if self.front is not None and self.front.vectors_PD is not None:
            vectors_PD = self.front.vectors_PD.to(hidden_TD.dtype)
            hidden_TD = torch.cat([part for row_TD in hidden_TD.split(lengths_R) for part in (vectors_PD, row_TD)])
            lengths_R = [len(vectors_PD) + length for length in lengths_R]
        elif self.front is not None:
            pairs, P = self.front.pairs, self.front.places
        where = llama.layout(lengths_R, rows.device, P)
        if pairs is not None:
            L = max(lengths_R)
            where = replace(where, sees_LS=torch.ones(L, P + L, dtype=torch.bool, device=rows.device).tril(P))
        cos, sin = llama.angles(self.inner, hidden_TD, where.positions_T)
        counts_R = torch.tensor(lengths_R, device=rows.device)
        rows_T = rows.repeat_interleave(counts_R)
        columns_T = where.positions_T + begins_R[rows_T]
        before_RP = begins_R[rows][:, None] + torch.arange(P, device=rows.device)
        for number, layer in enumerate(self.inner.layers):
            query_THK, key_TGK, value_TGK = llama.heads(layer, hidden_TD, cos, sin)
            pair = None if pairs is None else (pairs[number][0].to(key_TGK.dtype), pairs[number][1].to(key_TGK.dtype))
            if not number and not int(rows[0]):
                # Zeros, because what lies before a row's beginning is masked, and a masked place that holds NaN would still spread it.
                shape = (len(self.inner.layers), len(begins_R), key_TGK.shape[1], self.now + FIRST_ROOM, key_TGK.shape[2])
                self.keys_NRGLK, self.values_NRGLK = key_TGK.new_zeros(shape), key_TGK.new_zeros(shape)
            for memory_RGLK, one_TGK, place in ((self.keys_NRGLK[number], key_TGK, 0), (self.values_NRGLK[number], value_TGK, 1)):
                memory_RGLK[rows_T, :, columns_T] = one_TGK
                if pair is not None:
                    memory_RGLK[rows[:, None], :, before_RP] = pair[place].transpose(0, 1)
            hidden_TD = llama.feed(layer, hidden_TD, llama.attend(query_THK, key_TGK, value_TGK, where, 0.0, pair))
        last_RD: torch.Tensor = hidden_TD[counts_R.cumsum(0) - 1]
        return last_RD

    def advance(self, ids_R: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            if self.now == self.keys_NRGLK.shape[3]:
                # Twice the room each time: what is copied in all stays below what is written.
                self.keys_NRGLK, self.values_NRGLK = (F.pad(one, (0, 0, 0, self.now)) for one in (self.keys_NRGLK, self.values_NRGLK))
                self._mask()
            hidden_RD = self.inner.embed_tokens(ids_R)
            cos, sin = llama.angles(self.inner, hidden_RD, self.positions_R)
            now, R = self.now, len(ids_R)
            mask = None if self.mask_R11L is None else self.mask_R11L[..., : now + 1]
            for number, layer in enumerate(self.inner.layers):
                query_RHK, key_RGK, value_RGK = llama.heads(layer, hidden_RD, cos, sin)
                keys_RGLK, values_RGLK = self.keys_NRGLK[number], self.values_NRGLK[number]
                keys_RGLK[:, :, now], values_RGLK[:, :, now] = key_RGK, value_RGK
                # The heads of a group stand where attention has a row's places: each key is read once for all of them.
                query_RGMK = query_RHK.view(R, key_RGK.shape[1], -1, query_RHK.shape[-1])
                context_RGMK = F.scaled_dot_product_attention(query_RGMK, keys_RGLK[:, :, : now + 1], values_RGLK[:, :, : now + 1], attn_mask=mask)
                hidden_RD = llama.feed(layer, hidden_RD, context_RGMK.flatten(1))
            self.now += 1
            self.positions_R = self.positions_R + 1
            return self._logits(hidden_RD)

    def keep(self, rows: Sequence[int]) -> None:
        with torch.inference_mode():
            places = torch.tensor(rows, device=self.positions_R.device)
            self.positions_R = self.positions_R[places]
            first = 0
            if self.begins_R is not None:
                begins_R = self.begins_R[places]
                first = int(begins_R.min())  # places before the longest row that is left go
                self.begins_R = begins_R - first if int(begins_R.max()) > first else None
            self.keys_NRGLK, self.values_NRGLK = (one[:, places, :, first:] for one in (self.keys_NRGLK, self.values_NRGLK))
            self.now -= first
            self._mask()

    def _mask(self) -> None:
        self.mask_R11L = None
        if self.begins_R is not None:
            places_L = torch.arange(self.keys_NRGLK.shape[3], device=self.begins_R.device)
            outside_RL = places_L < self.begins_R[:, None]
            self.mask_R11L = self.keys_NRGLK.new_zeros(outside_RL.shape).masked_fill_(outside_RL, -torch.inf)[:, None, None]

    def _logits(self, hidden_RD: torch.Tensor) -> torch.Tensor:
        logits_RV: torch.Tensor = self.bare.get_output_embeddings()(llama.norm(self.inner.norm, hidden_RD))
        return logits_RV.float()


class Padded:
    """transformers' own cache, with rows filled up on the left.

    Args:
        model: a causal language model, bare or wrapped by PEFT.

    Raises:
        UserError: it takes no such cache (state-space models).
    """

    def __init__(self, model: Any) -> None:
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.model, self.takes = model, inspect.signature(bare.forward).parameters
        if "past_key_values" not in self.takes:
            kind = getattr(bare.config, "model_type", type(bare).__name__)
            raise UserError(f"texts cannot be written with a base of the kind `{kind}`: it has no key-value cache", "generation", "choose another base")

    def read(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        from transformers import DynamicCache

        with torch.inference_mode():
            device = next(self.model.parameters()).device
            longest = max(len(prompt) for prompt in prompts)
            ids_RL = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
            self.mask_RL = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
            self.cache: Any = DynamicCache(config=self.model.config)
            return self._forward(ids_RL, (self.mask_RL.cumsum(1) - 1).clamp(min=0))

    def advance(self, ids_R: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            self.mask_RL = F.pad(self.mask_RL, (0, 1), value=1)
            return self._forward(ids_R[:, None], self.mask_RL.sum(1, keepdim=True) - 1)

    def _forward(self, ids_RL: torch.Tensor, positions_RL: torch.Tensor) -> torch.Tensor:
        given = {"input_ids": ids_RL, "attention_mask": self.mask_RL, "past_key_values": self.cache, "use_cache": True}
        given |= {name: value for name, value in (("position_ids", positions_RL), ("logits_to_keep", 1)) if name in self.takes}
        logits_RV: torch.Tensor = self.model(**given).logits[:, -1]
        return logits_RV.float()

    def keep(self, rows: Sequence[int]) -> None:
        with torch.inference_mode():
            places = torch.tensor(rows, device=self.mask_RL.device)
            self.cache.batch_select_indices(places)
            self.mask_RL = self.mask_RL[places]
