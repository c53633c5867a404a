"""Llama-like language models without padding: rows lie one after the other, and only attention sees them side by side.

Touvron et al. 2023 (https://arxiv.org/abs/2302.13971); grouped heads: Ainslie et al. 2023 (https://arxiv.org/abs/2305.13245).
transformers' own forward stays the reference; a test holds this one against it. What differs:
1. Products, norms and activations run on the T tokens that there are. Attention lays rows of like length side by side, group by group; the
   filler at their ends needs no mask, because it comes after every real token and attention is causal. So rows never see each other, on any device.
2. Query, key and value are one product, gate and up another, LoRA merged in for each step (`models/fast/fused_linear.py`).
3. The logits are nobody's business here: `states` ends at the last norm, and the loss multiplies with the vocabulary only where a token is learnt.

4. What PEFT puts before every row (soft vectors, or keys and values in each layer) is given once and stands before each of them: `Front`.

Shapes: R rows, T tokens of all rows, L tokens of the longest row (of a group), U different lengths, X places of all groups,
D hidden size, H heads, G key-value heads, K size of a head, F feed-forward size,
P places before each row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tunesmith.core.errors import UserError
from tunesmith.models.fast.fused_linear import linear, linears

KINDS = ("llama", "mistral", "qwen2")
"""`model_type` of the configs whose layers this file knows."""


CALL = 20_000
"""What one more group of attention costs, forward and backward, in the unit of `grouped`, on a CPU. On two cores and `starter/scribe` a step took
as long with 16,000 as with 50,000; with 4,000 it took a tenth longer for rows of 60 to 64 tokens, which then became two groups."""
CALL_DEVICE = 4_000_000
"""The same on a GPU, where a kernel's launch costs far more than what it computes for short rows. An estimate, not measured."""
PLACE = 80
"""What a place costs in attention apart from the products with the places of its row, in units of one such product: copies, gradients, the norm."""


@dataclass(frozen=True)
class Layout:
    """Where tokens lie.

    Attributes:
        positions_T: each token's place in its row.
        lengths_R: tokens of each row, on the CPU.
        groups: (rows, places of a row) of each group that attention takes at once.
        spread_X: which token stands at each place, group by group and row by row; filler repeats token 0. None where there is no filler and one group.
        gather_T: where each token stands among the X places. None where `spread_X` is.
        sees_LS: which of S = P + L places a token may read, where keys stand before each row. None: itself and all before it.
    """

    positions_T: torch.Tensor
    lengths_R: list[int]
    groups: list[tuple[int, int]]
    spread_X: torch.Tensor | None
    gather_T: torch.Tensor | None
    sees_LS: torch.Tensor | None = None


Pair = tuple[torch.Tensor, torch.Tensor]
"""Key and value of one layer: key_GPK and value_GPK."""


@dataclass(frozen=True)
class Front:
    """What stands before every row: one of the two.

    Attributes:
        vectors_PD: soft vectors in front of a row's word vectors; the row's positions begin at P, and their own states are dropped at the end.
        pairs: each layer's key_GPK and value_GPK, keys as attention takes them (already rotated); the row's positions begin at P.
    """

    vectors_PD: torch.Tensor | None = None
    pairs: list[Pair] | None = None

    @property
    def places(self) -> int:
        """P."""
        if self.vectors_PD is not None:
            return len(self.vectors_PD)
        assert self.pairs is not None
        return self.pairs[0][0].shape[1]


def front(model: Any) -> Front | None:
    """What PEFT's prompt tuning or prefix tuning puts before every row of a model; None where nothing stands there.

    Args:
        model: bare, or wrapped by PEFT; its gradient flows into what is returned.
    """
    encoders = getattr(model, "prompt_encoder", None)
    if encoders is None:
        return None
    config, encoder = model.active_peft_config, encoders[model.active_adapter]
    table_PX = encoder.embedding.weight
    if config.peft_type == "PROMPT_TUNING":
        return Front(vectors_PD=table_PX)
    assert config.peft_type == "PREFIX_TUNING"
    if hasattr(encoder, "transform"):
        table_PX = encoder.transform(table_PX)
    heads = config.num_attention_heads
    flat_NGPK = table_PX.view(len(table_PX), 2 * config.num_layers, heads, config.token_dim // heads).permute(1, 2, 0, 3)
    return Front(pairs=[(flat_NGPK[i], flat_NGPK[i + 1]) for i in range(0, 2 * config.num_layers, 2)])


def grouped(lengths_R: list[int], call: int = CALL) -> list[list[int]]:
    """Rows of like length together: the division that costs least.

    R rows of which the longest has L places cost `call + R * L * (L + PLACE)`, filler included. Rows are sorted by length, and a row of one length
    is never parted from another, so the best division is found exactly, from the shortest rows up.

    Args:
        lengths_R: tokens of each row.
        call: cost of a group apart from its places.

    Returns:
        The rows of each group, in their order; groups of shorter rows come first.
    """
    sizes_U, of_R, counts_U = np.unique(lengths_R, return_inverse=True, return_counts=True)
    before_U = np.cumsum(counts_U) - counts_U
    best, begins = np.zeros(len(sizes_U) + 1, np.int64), []
    for last, size in enumerate(sizes_U.tolist()):
        # The group that ends with this length begins with one of those up to it.
        costs = best[: last + 1] + call + (before_U[last] + counts_U[last] - before_U[: last + 1]) * (size * (size + PLACE))
        begins.append(int(costs.argmin()))
        best[last + 1] = costs[begins[-1]]
    groups, stop = [], len(sizes_U)
    while stop:
        first = begins[stop - 1]
        groups.append(np.flatnonzero((of_R >= first) & (of_R < stop)).tolist())
        stop = first
    return groups[::-1]


def layout(lengths_R: list[int], device: torch.device, first: int = 0) -> Layout:
    """The layout of rows of given lengths, one after the other; positions begin at `first`."""
    lengths = torch.tensor(lengths_R)
    total, longest = int(lengths.sum()), max(lengths_R)
    starts_R = torch.cumsum(lengths, 0) - lengths
    rows_T = torch.repeat_interleave(torch.arange(len(lengths_R)), lengths)
    places_T = torch.arange(total) - starts_R[rows_T]
    positions_T = (places_T + first).to(device)
    if longest * len(lengths_R) == total:
        return Layout(positions_T, lengths_R, [(len(lengths_R), longest)], None, None)
    groups, spread, begins_R, places = [], [], torch.empty_like(lengths), 0
    for rows in grouped(lengths_R, CALL if device.type == "cpu" else CALL_DEVICE):
        longest = max(lengths_R[row] for row in rows)
        places_L, own = torch.arange(longest), lengths[rows][:, None]
        spread.append(torch.where(places_L < own, starts_R[rows][:, None] + places_L, 0).flatten())
        begins_R[rows] = places + longest * torch.arange(len(rows))
        groups.append((len(rows), longest))
        places += len(rows) * longest
    return Layout(positions_T, lengths_R, groups, torch.cat(spread).to(device), (begins_R[rows_T] + places_T).to(device))


def accelerate(model: nn.Module) -> bool:
    """Mark a model whose layers this file can run, before PEFT wraps it.

    Args:
        model: a `*ForCausalLM`.

    Returns:
        Whether it is one; others go through transformers' own forward.
    """
    config: Any = getattr(model, "config", None)
    known = getattr(config, "model_type", None) in KINDS and getattr(config, "hidden_act", "") == "silu"
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if not known or sliding or (getattr(config, "mlp_bias", False) and config.model_type != "llama"):
        return False
    inner: Any = model
    inner.fast_states = MethodType(_states, inner)
    return True


def configure(model: Any, noise: float, recompute: bool, compiled: bool) -> None:
    """Set how a language model trains: noise on its word vectors, layers recomputed in the backward pass, layers compiled.

    Raises:
        UserError: one of them is asked for, and the model is not of a kind that knows it.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not (noise or recompute or compiled):
        return
    if not hasattr(bare, "fast_states"):
        asked = next(name for name, value in (("noise", noise), ("recompute", recompute), ("compile", compiled)) if value)
        kinds = ", ".join(KINDS)
        raise UserError(f"`train.{asked}` works for language models of the kinds {kinds} alone", "recipe, `train`", f"leave train.{asked} out")
    if noise and getattr(bare, "frozen_below", 0):
        what = "`train.noise` changes word vectors, and the layers that read them are frozen: their states are the same at each step"
        raise UserError(what, "recipe, `train`", "leave train.noise out, or choose a method that learns in every layer")
    bare.noise, bare.recompute = noise, recompute
    # Attention stays outside: its groups differ from batch to batch, and the compiler would start over with each number of them.
    bare.one_layer = partial(_layer, before=torch.compile(heads, dynamic=True), after=torch.compile(feed, dynamic=True)) if compiled else _layer


def states(model: Any, ids_T: torch.Tensor, lengths_R: list[int], cached_TD: torch.Tensor | None = None) -> torch.Tensor:
    """Hidden states after the last norm, for rows that never see each other.

    Args:
        model: a causal language model, bare or wrapped by PEFT.
        ids_T: int64 token ids, one row after the other.
        lengths_R: tokens of each row.
        cached_TD: states below `model.frozen_below`, to start from; None starts from the tokens.

    Returns:
        states_TD.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    if hasattr(bare, "fast_states"):
        made: torch.Tensor = bare.fast_states(ids_T, lengths_R, cached_TD, front(model))
        return made
    assert cached_TD is None and front(model) is None
    # Padded on the right and masked, rows of like length together: not every kind keeps packed rows apart by positions that begin again (opt, bloom,
    # mamba ... do not).
    rows_T, made_R = torch.split(ids_T, lengths_R), [ids_T.new_zeros(0)] * len(lengths_R)
    for rows in grouped(lengths_R, CALL if ids_T.device.type == "cpu" else CALL_DEVICE):
        ids_RL = nn.utils.rnn.pad_sequence([rows_T[row] for row in rows], batch_first=True)
        mask_RL = nn.utils.rnn.pad_sequence([torch.ones_like(rows_T[row]) for row in rows], batch_first=True)
        hidden_RLD = bare.get_decoder()(input_ids=ids_RL, attention_mask=mask_RL, use_cache=False).last_hidden_state
        for row, hidden_LD in zip(rows, hidden_RLD, strict=True):
            made_R[row] = hidden_LD[: lengths_R[row]]
    return torch.cat(made_R)


def _states(self: Any, ids_T: torch.Tensor, lengths_R: list[int], cached_TD: torch.Tensor | None, before: Front | None = None) -> torch.Tensor:
    inner = self.model
    frozen = getattr(self, "frozen_below", 0)
    how = (getattr(self, "recompute", False) and self.training, getattr(self, "one_layer", None))
    if before is not None:
        assert cached_TD is None and not frozen
        return _after(self, ids_T, lengths_R, before, *how)
    where = layout(lengths_R, ids_T.device)
    if cached_TD is not None:
        hidden_TD = cached_TD.to(inner.norm.weight.dtype)
    else:
        hidden_TD = below(self, ids_T, lengths_R) if frozen else embed(self, ids_T, lengths_R)
    return norm(inner.norm, run(inner, inner.layers[frozen:], hidden_TD, where, *how))


def _after(self: Any, ids_T: torch.Tensor, lengths_R: list[int], before: Front, recompute: bool, one_layer: Callable[..., torch.Tensor] | None) -> torch.Tensor:
    """States of rows that something stands before: states_TD of their own tokens alone."""
    inner, P = self.model, before.places
    hidden_TD = embed(self, ids_T, lengths_R)
    if before.pairs is not None:
        where = layout(lengths_R, ids_T.device, P)
        L = max(lengths_R)
        sees_LS = torch.ones(L, P + L, dtype=torch.bool, device=ids_T.device).tril(P)
        pairs = [(key.to(hidden_TD.dtype), value.to(hidden_TD.dtype)) for key, value in before.pairs]
        return norm(inner.norm, run(inner, inner.layers, hidden_TD, replace(where, sees_LS=sees_LS), recompute, one_layer, pairs))
    assert before.vectors_PD is not None
    vectors_PD = before.vectors_PD.to(hidden_TD.dtype)
    hidden_TD = torch.cat([part for row_TD in torch.split(hidden_TD, lengths_R) for part in (vectors_PD, row_TD)])
    longer_R = [P + length for length in lengths_R]
    hidden_TD = run(inner, inner.layers, hidden_TD, layout(longer_R, ids_T.device), recompute, one_layer)
    own = torch.split(hidden_TD, [size for length in lengths_R for size in (P, length)])[1::2]
    return norm(inner.norm, torch.cat(own))


def below(model: Any, ids_T: torch.Tensor, lengths_R: list[int]) -> torch.Tensor:
    """States after the layers that do not learn (`model.frozen_below`): without dropout and without gradient, whatever the mode. states_TD."""
    training = model.training
    model.eval()
    with torch.no_grad():
        inner = model.model
        hidden_TD = run(inner, inner.layers[: model.frozen_below], inner.embed_tokens(ids_T), layout(lengths_R, ids_T.device))
    model.train(training)
    return hidden_TD


def embed(model: Any, ids_T: torch.Tensor, lengths_R: list[int]) -> torch.Tensor:
    """Word vectors; while training with noise where `model.noise` asks for it.

    NEFTune (Jain et al. 2023, https://arxiv.org/abs/2310.05914): uniform noise of alpha / sqrt(L D) in each component, L the row's tokens.
    """
    hidden_TD: torch.Tensor = model.model.embed_tokens(ids_T)
    alpha = getattr(model, "noise", 0.0)
    if alpha and model.training:
        lengths_T = torch.repeat_interleave(torch.tensor(lengths_R), torch.tensor(lengths_R)).to(hidden_TD.device)
        reach_T1 = (alpha / (lengths_T * hidden_TD.shape[1]).sqrt())[:, None].to(hidden_TD.dtype)
        hidden_TD = hidden_TD + torch.empty_like(hidden_TD).uniform_(-1, 1) * reach_T1
    return hidden_TD


def run(
    inner: Any,
    layers: Any,
    hidden_TD: torch.Tensor,
    where: Layout,
    recompute: bool = False,
    one_layer: Callable[..., torch.Tensor] | None = None,
    pairs: list[Pair] | None = None,
) -> torch.Tensor:
    """Run a list of decoder layers.

    Args:
        inner: the `LlamaModel` (or kin) whose rotary embedding they share.
        layers: some of its layers.
        hidden_TD: states before them.
        where: the layout of the rows.
        recompute: keep only each layer's input and compute the rest again in the backward pass.
        one_layer: `_layer`, or what torch's compiler made of it.
        pairs: each layer's keys and values that stand before every row.
    """
    one_layer = one_layer or _layer
    cos_T1J, sin_T1J = angles(inner, hidden_TD, where.positions_T)
    for index, layer in enumerate(layers):
        given: tuple[Any, ...] = (layer, hidden_TD, cos_T1J, sin_T1J, where, *(() if pairs is None else (pairs[index],)))
        hidden_TD = checkpoint(one_layer, *given, use_reentrant=False) if recompute else one_layer(*given)
    return hidden_TD


def angles(inner: Any, hidden_TD: torch.Tensor, positions_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos_T1J and sin_T1J of each token's rotation; J = K / 2."""
    cos_1TK, sin_1TK = inner.rotary_emb(hidden_TD, positions_T[None])
    half = cos_1TK.shape[-1] // 2
    # transformers' tables hold each half twice; a rotation needs it once.
    return cos_1TK[0, :, None, :half], sin_1TK[0, :, None, :half]


def norm(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Root mean square norm (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467)."""
    return F.rms_norm(hidden, (hidden.shape[-1],), module.weight, module.variance_epsilon)


def _layer(
    layer: Any,
    hidden_TD: torch.Tensor,
    cos_T1J: torch.Tensor,
    sin_T1J: torch.Tensor,
    where: Layout,
    pair: Pair | None = None,
    before: Callable[..., Any] | None = None,
    after: Callable[..., Any] | None = None,
) -> torch.Tensor:
    """One layer; `before` and `after` are `heads` and `feed`, or what torch's compiler made of them."""
    query_THK, key_TGK, value_TGK = (before or heads)(layer, hidden_TD, cos_T1J, sin_T1J)
    chance = layer.self_attn.attention_dropout if layer.training else 0.0
    made: torch.Tensor = (after or feed)(layer, hidden_TD, attend(query_THK, key_TGK, value_TGK, where, chance, pair))
    return made


def heads(layer: Any, hidden_TD: torch.Tensor, cos_T1J: torch.Tensor, sin_T1J: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a layer's attention compares and mixes: query_THK and key_TGK, turned to their positions, and value_TGK."""
    attention = layer.self_attn
    T, K = hidden_TD.shape[0], attention.head_dim
    query_TN, key_TN, value_TN = linears([attention.q_proj, attention.k_proj, attention.v_proj], norm(layer.input_layernorm, hidden_TD))
    return rotate(query_TN.view(T, -1, K), cos_T1J, sin_T1J), rotate(key_TN.view(T, -1, K), cos_T1J, sin_T1J), value_TN.view(T, -1, K)


def attend(
    query_THK: torch.Tensor, key_TGK: torch.Tensor, value_TGK: torch.Tensor, where: Layout, dropout: float = 0.0, pair: Pair | None = None
) -> torch.Tensor:
    """Causal attention within each row, and to the keys before it (`pair`): context_TN, the heads of a token one after the other."""
    beside = [_beside(one, where) for one in (query_THK, key_TGK, value_TGK)]
    contexts = [_attended(query, key, value, where.sees_LS, dropout, pair) for query, key, value in zip(*beside, strict=True)]
    context_XN = contexts[0] if len(contexts) == 1 else torch.cat(contexts)
    if where.gather_T is None or where.spread_X is None:
        return context_XN
    if not torch.is_grad_enabled():
        return context_XN[where.gather_T]
    context_TN: torch.Tensor = _Gather.apply(context_XN, where.gather_T)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return context_TN


def _attended(
    query_RHLK: torch.Tensor, key_RGLK: torch.Tensor, value_RGLK: torch.Tensor, sees_LS: torch.Tensor | None, dropout: float, pair: Pair | None
) -> torch.Tensor:
    """Attention within rows side by side: their contexts one place after the other."""
    grouped = query_RHLK.shape[1] != key_RGLK.shape[1]
    if pair is not None:
        key_RGLK, value_RGLK = (torch.cat([one.expand(len(own), -1, -1, -1), own], 2) for one, own in zip(pair, (key_RGLK, value_RGLK), strict=True))
    if sees_LS is not None:  # made for the longest row of all
        sees_LS = sees_LS[: query_RHLK.shape[2], : key_RGLK.shape[2]]
    context_RHLK = F.scaled_dot_product_attention(
        query_RHLK, key_RGLK, value_RGLK, attn_mask=sees_LS, is_causal=sees_LS is None, dropout_p=dropout, enable_gqa=grouped
    )
    return context_RHLK.transpose(1, 2).flatten(0, 1).flatten(1)


def feed(layer: Any, hidden_TD: torch.Tensor, context_TN: torch.Tensor) -> torch.Tensor:
    """The rest of a layer once attention has mixed: its output product, then the feed-forward, each added to what was there."""
    hidden_TD = hidden_TD + linear(layer.self_attn.o_proj, context_TN)
    mlp = layer.mlp
    gate_TF, up_TF = linears([mlp.gate_proj, mlp.up_proj], norm(layer.post_attention_layernorm, hidden_TD))
    if not torch.is_grad_enabled():  # a token a step: what autograd's functions cost beside it is felt
        return hidden_TD + linear(mlp.down_proj, F.silu(gate_TF).mul_(up_TF))
    product_TF = swiglu(gate_TF, up_TF)
    return hidden_TD + linear(mlp.down_proj, product_TF)


def _beside(one_TNK: torch.Tensor, where: Layout) -> list[torch.Tensor]:
    """Rows laid side by side, (R, heads, L, K) for each group."""
    if where.spread_X is None or where.gather_T is None:
        return [one_TNK.view(*where.groups[0], *one_TNK.shape[1:]).transpose(1, 2)]
    flat_TN = one_TNK.flatten(1)
    spread_XN = _Spread.apply(flat_TN, where.spread_X, where.gather_T) if torch.is_grad_enabled() else flat_TN[where.spread_X]  # type: ignore[no-untyped-call]  # as above
    parts = spread_XN.split([rows * places for rows, places in where.groups]) if len(where.groups) > 1 else [spread_XN]
    return [part.view(*group, *one_TNK.shape[1:]).transpose(1, 2) for part, group in zip(parts, where.groups, strict=True)]


class _Spread(torch.autograd.Function):
    """Tokens at their places. The gradient of filler is exactly zero, so each token's is that of its one place: no sum over places is needed."""

    @staticmethod
    def forward(context: Any, one_TN: torch.Tensor, spread_X: torch.Tensor, gather_T: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(gather_T)
        return one_TN[spread_X]

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0][context.saved_tensors[0]], None, None


class _Gather(torch.autograd.Function):
    """The tokens among places; filler's gradient is zero."""

    @staticmethod
    def forward(context: Any, one_XN: torch.Tensor, gather_T: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(gather_T)
        context.places = len(one_XN)
        return one_XN[gather_T]

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        zeros_XN = gradients[0].new_zeros(context.places, *gradients[0].shape[1:])
        return zeros_XN.index_copy_(0, context.saved_tensors[0], gradients[0]), None


def rotate(x_TNK: torch.Tensor, cos_T1J: torch.Tensor, sin_T1J: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864), halves apart as transformers has them; J = K / 2."""
    if not torch.is_grad_enabled():
        return _turn(x_TNK, cos_T1J, sin_T1J)
    if torch.compiler.is_compiling():  # the compiler fuses the plain form, and stumbles over writing into views
        first, second = x_TNK.chunk(2, -1)
        return torch.cat([first * cos_T1J - second * sin_T1J, second * cos_T1J + first * sin_T1J], -1)
    rotated: torch.Tensor = _Rotate.apply(x_TNK, cos_T1J, sin_T1J)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return rotated


def swiglu(gate_TF: torch.Tensor, up_TF: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""
    if torch.compiler.is_compiling():
        return F.silu(gate_TF) * up_TF
    product: torch.Tensor = _SwiGlu.apply(gate_TF, up_TF)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return product


class _Rotate(torch.autograd.Function):
    """A rotation is its own transpose with the angle turned: nothing of x needs keeping."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = context.saved_tensors
        return _turn(gradients[0], cos, -sin), None, None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    out = torch.empty_like(x)
    left, right = out.chunk(2, -1)
    torch.mul(first, cos, out=left)
    left.addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right)
    right.addcmul_(first, sin)
    return out


class _SwiGlu(torch.autograd.Function):
    """`swiglu` with silu computed again in the backward pass rather than kept."""

    @staticmethod
    def forward(context: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = context.saved_tensors
        to_silu = gradients[0] * up
        to_gate: torch.Tensor = torch.ops.aten.silu_backward(to_silu, gate)
        return to_gate, F.silu(gate).mul_(gradients[0])
