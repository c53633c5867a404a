"""Rows without padding against transformers' and PEFT's own forward, each row alone: the same states and the same gradients."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact import TIGHT, double
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import llama_folder
from torch import nn

from tunesmith import methods
from tunesmith.core.errors import UserError
from tunesmith.methods.freeze import FreezeSettings
from tunesmith.methods.full import FullSettings
from tunesmith.methods.lora import LoraSettings
from tunesmith.models import catalog, layers
from tunesmith.models.fast import llama
from tunesmith.models.loading import Head
from tunesmith.tokens.sequences import Losses, Piece, TextExamples

LENGTHS = [5, 17, 1, 9]
SMALL = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 64}
MARKS = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


def made(kind: str, **config: Any) -> Any:
    """A tiny language model whose every parameter is random, biases and norms included; layers not yet accelerated."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config), attn_implementation="sdpa").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.mean() if parameter.ndim == 1 else 0))
    return double(model)


def tokens(lengths: list[int] = LENGTHS, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, 61, (sum(lengths),), generator=torch.Generator().manual_seed(seed))


def alone(model: Any, ids_T: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """What transformers' own forward makes of each row, one row at a time."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    rows = [bare.get_decoder()(input_ids=row[None], use_cache=False).last_hidden_state[0] for row in ids_T.split(lengths)]
    return torch.cat(rows)


def with_gradients(model: Any, states: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """States, and the gradients of a fixed random sum of them."""
    model.zero_grad()
    made_TD = states()
    weights = torch.randn(made_TD.shape, generator=torch.Generator().manual_seed(2))
    (made_TD * weights).sum().backward()
    return made_TD.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TIGHT) -> bool:
    """Equal relative to the largest number."""
    with torch.no_grad():
        return float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


def same_gradients(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float = TIGHT) -> list[str]:
    """Names whose gradients differ, relative to their largest number, or to a tenth of the largest of all: an attention's key bias,
    or all it has in a row of one token, is zero but for rounding."""
    assert ours.keys() == theirs.keys() and len(theirs) > 3
    floor = 0.1 * max(float(gradient.abs().max()) for gradient in theirs.values())
    return [name for name in theirs if float((ours[name] - theirs[name]).abs().max()) > tolerance * max(floor, float(theirs[name].abs().max()))]


FAST = {
    "grouped heads": ("llama", {"num_key_value_heads": 2}),
    "one key head, tied": ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "biases everywhere": ("llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}),
    "heads of their own size": ("llama", {"num_key_value_heads": 2, "head_dim": 16}),
    "rope of llama 3": ("llama", {"num_key_value_heads": 2, "rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"num_key_value_heads": 2, "sliding_window": None}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
}


@pytest.mark.parametrize("lengths", [LENGTHS, [12], [1, 1]], ids=["rows of many lengths", "one row", "rows of one token"])
@pytest.mark.parametrize("name", FAST)
def test_states_and_gradients_are_those_of_transformers_row_by_row(name: str, lengths: list[int]) -> None:
    kind, config = FAST[name]
    model = made(kind, **SMALL, **MARKS, **config)
    assert llama.accelerate(model)
    ids_T = tokens(lengths)
    ours, our_gradients = with_gradients(model, lambda: llama.states(model, ids_T, lengths))
    theirs, their_gradients = with_gradients(model, lambda: alone(model, ids_T, lengths))
    assert close(ours, theirs)
    assert same_gradients(our_gradients, their_gradients) == []
    with torch.no_grad():  # another way through the products where nothing learns
        assert close(llama.states(model, ids_T, lengths), theirs)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9), call=st.sampled_from([0, 500, 5_000, 10**9]))
@settings(max_examples=60)
def test_rows_are_grouped_at_the_least_cost(lengths: list[int], call: int) -> None:
    """No division of the rows in order of their length costs less; each row is in one group, and rows of equal length in the same."""
    groups = llama.grouped(lengths, call)
    assert sorted(row for rows in groups for row in rows) == list(range(len(lengths))) and all(rows == sorted(rows) for rows in groups)
    ends = [max(lengths[row] for row in rows) for rows in groups]
    assert ends == sorted(set(ends))

    def cost(sizes: list[list[int]]) -> int:
        return sum(call + len(one) * max(one) * (max(one) + llama.PLACE) for one in sizes)

    ordered = sorted(lengths)
    cuts = [[at for at in range(1, len(ordered)) if marks >> (at - 1) & 1] for marks in range(1 << (len(ordered) - 1))]
    assert cost([[lengths[row] for row in rows] for rows in groups]) == min(
        cost([ordered[start:stop] for start, stop in pairwise([0, *one, len(ordered)])]) for one in cuts
    )


def test_a_long_row_beside_short_ones_costs_its_own_places_alone() -> None:
    where = llama.layout([512] + [20] * 31, torch.device("cpu"))
    assert where.groups == [(31, 20), (1, 512)]
    alike = llama.layout(list(range(60, 65)) * 6, torch.device("cpu"))
    assert alike.groups == [(30, 64)] and alike.spread_X is not None
    assert llama.layout([64] * 8, torch.device("cpu")).spread_X is None is llama.layout([300], torch.device("cpu")).spread_X


@pytest.mark.parametrize("call", [0, 10**9], ids=["each length apart", "all together"])
@pytest.mark.parametrize("before", ["nothing", "vectors", "pairs"])
def test_groups_change_neither_states_nor_gradients(monkeypatch: pytest.MonkeyPatch, call: int, before: str) -> None:
    """In float64, with what PEFT puts before the rows, and rows whose lengths come twice."""
    lengths = [5, 17, 1, 9, 5, 1]
    model = made("llama", **SMALL, **MARKS, num_key_value_heads=2).double()
    llama.accelerate(model)
    random = torch.Generator().manual_seed(3)
    vectors = torch.randn(3, 32, dtype=torch.float64, generator=random, requires_grad=True)
    tables = [torch.randn(2, 3, 8, dtype=torch.float64, generator=random, requires_grad=True) for _ in range(4)]
    front = {"nothing": None, "vectors": llama.Front(vectors), "pairs": llama.Front(pairs=[(tables[0], tables[1]), (tables[2], tables[3])])}[before]
    ids_T = tokens(lengths)
    learns = [*model.parameters(), *{"nothing": [], "vectors": [vectors], "pairs": tables}[before]]

    def each(parts: list[tuple[torch.Tensor, list[int]]]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        made_TD = torch.cat([model.fast_states(ids, sizes, None, front) for ids, sizes in parts])
        weights = torch.randn(made_TD.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        return made_TD, torch.autograd.grad((made_TD * weights).sum(), learns, allow_unused=True)

    apart_TD, apart = each([(row, [len(row)]) for row in ids_T.split(lengths)])
    monkeypatch.setattr(llama, "CALL", call)
    together_TD, together = each([(ids_T, lengths)])
    assert len(llama.layout(lengths, torch.device("cpu")).groups) == (1 if call else 4)
    assert close(together_TD, apart_TD, 1e-12)
    for one, other in zip(together, apart, strict=True):
        assert (one is None) is (other is None)
        assert one is None or float((one - other).abs().max()) < 1e-11


def test_a_wrong_place_or_a_missing_row_end_would_show() -> None:
    """The comparison above can fail: one row taken for two, or two for one."""
    model = made("llama", **SMALL, **MARKS, num_key_value_heads=2)
    llama.accelerate(model)
    ids_T = tokens([5, 9])
    with torch.no_grad():
        assert not close(llama.states(model, ids_T, [14]), alone(model, ids_T, [5, 9]), 1e-2)
        assert not close(llama.states(model, ids_T, [5, 9]), alone(model, ids_T, [14]), 1e-2)


@pytest.mark.parametrize("changed", range(len(LENGTHS)))
def test_rows_never_see_each_other(changed: int) -> None:
    """Another row beside them changes no bit of the others' states, and their loss leaves its words without a gradient."""
    model = made("llama", **SMALL, **MARKS, num_key_value_heads=2)
    llama.accelerate(model)
    ids_T, other_T = tokens(), tokens(seed=5)
    mixed_T = torch.cat([other if row == changed else own for row, (own, other) in enumerate(zip(ids_T.split(LENGTHS), other_T.split(LENGTHS), strict=True))])
    before, after = llama.states(model, ids_T, LENGTHS).split(LENGTHS), llama.states(model, mixed_T, LENGTHS).split(LENGTHS)
    for row, (one, two) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(one, two) is (row != changed)
    vectors = model.model.embed_tokens(ids_T).detach().requires_grad_()
    hook = model.model.embed_tokens.register_forward_hook(lambda *_: vectors)
    torch.cat([part for row, part in enumerate(llama.states(model, ids_T, LENGTHS).split(LENGTHS)) if row != changed]).square().sum().backward()
    hook.remove()
    sizes = [float(part.abs().max()) for part in vectors.grad.split(LENGTHS)]
    assert [size == 0 for size in sizes] == [row == changed for row in range(len(LENGTHS))]


def test_a_token_never_sees_those_after_it() -> None:
    model = made("qwen2", **SMALL, **MARKS, num_key_value_heads=2)
    llama.accelerate(model)
    ids_T = tokens([8, 8])
    later_T = ids_T.clone()
    later_T[5] = 3
    with torch.no_grad():
        before, after = llama.states(model, ids_T, [8, 8]), llama.states(model, later_T, [8, 8])
    assert [bool(torch.equal(a, b)) for a, b in zip(before, after, strict=True)] == [place not in (5, 6, 7) for place in range(16)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> catalog.Base:
    return catalog.resolve(catalog.ModelSettings(base=str(llama_folder(tmp_path_factory.mktemp("llama")))))


def adapted(base: catalog.Base, settings: Any) -> Any:
    torch.manual_seed(0)
    model = methods.get(settings.kind).adapt(base, Head(None, dropout=0.0), settings)
    with torch.no_grad():  # B starts at 0, which would hide the gradient of A
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return double(model)


LORA = {
    "everywhere": LoraSettings(rank=4),
    "queries and values": LoraSettings(rank=4, targets=("q_proj", "v_proj")),
    "the feed-forward": LoraSettings(rank=3, targets=("gate_proj", "up_proj", "down_proj")),
    "rank stabilised": LoraSettings(rank=4, rank_stabilised=True),
    "decomposed": LoraSettings(rank=4, weight_decomposed=True),
}


@pytest.mark.parametrize("name", LORA)
def test_lora_is_that_of_peft(base: catalog.Base, name: str) -> None:
    model = adapted(base, LORA[name])
    ids_T = tokens()
    ours, our_gradients = with_gradients(model, lambda: llama.states(model, ids_T, LENGTHS))
    theirs, their_gradients = with_gradients(model, lambda: alone(model, ids_T, LENGTHS))
    assert close(ours, theirs) and same_gradients(our_gradients, their_gradients) == []
    assert all("lora_" in one for one in our_gradients)
    with model.disable_adapter(), torch.no_grad():
        untouched = llama.states(model, ids_T, LENGTHS)
        assert close(untouched, alone(model, ids_T, LENGTHS)) and not close(untouched, theirs, 1e-2)


def test_lora_with_dropout_goes_through_peft_and_drops_only_while_training(base: catalog.Base) -> None:
    model = adapted(base, LoraSettings(rank=4, dropout=0.5)).eval()
    ids_T = tokens()
    with torch.no_grad():
        still = llama.states(model, ids_T, LENGTHS)
        assert close(still, alone(model, ids_T, LENGTHS))
        model.train()
        assert not close(llama.states(model, ids_T, LENGTHS), still, 1e-3)


# --- other kinds --------------------------------------------------------------------------------------------------------------

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **MARKS}),
    "gpt_neox": ("gpt_neox", {**SMALL, **MARKS}),
    "mistral with a window": ("mistral", {**SMALL, **MARKS, "num_key_value_heads": 2, "sliding_window": 4}),
    "qwen3": ("qwen3", {**SMALL, **MARKS, "num_key_value_heads": 2, "head_dim": 8}),
    "bloom": ("bloom", {"vocab_size": 61, "hidden_size": 32, "n_layer": 2, "n_head": 4, **MARKS}),
    "opt": ("opt", {**{k: v for k, v in SMALL.items() if k != "intermediate_size"}, "ffn_dim": 48, "word_embed_proj_dim": 32, **MARKS}),
    "mamba": ("mamba", {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, **MARKS}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_keep_rows_apart_too(name: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, config = OTHERS[name]
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    double(model)
    assert not llama.accelerate(model) and not hasattr(model, "fast_states")
    ids_T = tokens()
    ours, our_gradients = with_gradients(model, lambda: llama.states(model, ids_T, LENGTHS))
    theirs, their_gradients = with_gradients(model, lambda: alone(model, ids_T, LENGTHS))
    tolerance = 1e-5 if name in ("bloom", "mamba") else TIGHT  # transformers computes parts of these two in fp32, whatever the model is
    assert close(ours, theirs, tolerance) and same_gradients(our_gradients, their_gradients, tolerance) == []


@pytest.mark.parametrize("change", [{"hidden_act": "gelu"}, {"model_type": "gemma"}, {"sliding_window": 4}], ids=["activation", "kind", "window"])
def test_what_the_fast_way_does_not_know_it_does_not_take(change: dict[str, Any]) -> None:
    model = made("mistral", **SMALL, **MARKS, num_key_value_heads=2, sliding_window=None)
    assert llama.accelerate(model)
    other = made("mistral", **SMALL, **MARKS, num_key_value_heads=2, sliding_window=None)
    for name, value in change.items():
        setattr(other.config, name, value)
    assert not llama.accelerate(other)
    with pytest.raises(UserError, match=r"`train.recompute` works for language models of the kinds llama, mistral, qwen2 alone"):
        llama.configure(other, 0.0, True, False)
    llama.configure(other, 0.0, False, False)


# --- how it trains ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [FullSettings(), LoraSettings(rank=4)], ids=["full", "lora"])
def test_recompute_gives_the_same_gradients_and_keeps_less(base: catalog.Base, settings: Any) -> None:
    ids_T = tokens()
    found, kept = [], []
    for recompute in (False, True):
        model = adapted(base, settings).train()
        llama.configure(model, 0.0, recompute, False)
        sizes: list[int] = []

        def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            found.append(with_gradients(model, lambda model=model: llama.states(model, ids_T, LENGTHS)))
        kept.append(sum(sizes))
    (plain, plain_gradients), (again, again_gradients) = found
    assert torch.equal(plain, again) and plain_gradients.keys() == again_gradients.keys()
    assert all(torch.equal(plain_gradients[name], again_gradients[name]) for name in plain_gradients)
    assert kept[1] < 0.5 * kept[0]


def test_recompute_computes_layers_again_only_while_training(base: catalog.Base, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    layer = llama._layer
    model = adapted(base, FullSettings()).train()
    monkeypatch.setattr(llama, "_layer", lambda *given: calls.append(1) or layer(*given))
    llama.configure(model, 0.0, True, False)
    llama.states(model, tokens(), LENGTHS).sum().backward()
    assert len(calls) == 4  # two layers, forward and backward
    llama.states(model.eval(), tokens(), LENGTHS).sum().backward()
    assert len(calls) == 6


@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_noise_lies_within_its_bound_and_comes_from_torchs_seed(base: catalog.Base, alpha: float) -> None:
    """NEFTune, equation 1 of the paper's algorithm: uniform within alpha / sqrt(L D), L the row's own tokens."""
    model = adapted(base, FullSettings())
    llama.configure(model, alpha, False, False)
    lengths = [4, 60, 16]
    ids_T = tokens(lengths)
    clean = model.model.embed_tokens(ids_T)
    assert torch.equal(llama.embed(model.eval(), ids_T, lengths), clean)
    model.train()
    torch.manual_seed(3)
    first = llama.embed(model, ids_T, lengths)
    torch.manual_seed(3)
    assert torch.equal(first, llama.embed(model, ids_T, lengths)) and not torch.equal(first, llama.embed(model, ids_T, lengths))
    for row, length in zip((first - clean).detach().split(lengths), lengths, strict=True):
        bound = alpha / (length * 32) ** 0.5
        assert 0.95 * bound < float(row.abs().max()) <= bound * (1 + 1e-4)
        assert float(row.mean()) == pytest.approx(0, abs=0.2 * bound) and float(row.std()) == pytest.approx(bound / 3**0.5, rel=0.15)
    model.zero_grad()
    llama.states(model, ids_T, lengths).sum().backward()
    assert float(model.model.embed_tokens.weight.grad.abs().max()) > 0  # noise is added, it does not cut the words off


def test_noise_is_refused_where_it_would_reach_frozen_layers(base: catalog.Base) -> None:
    model = adapted(base, FreezeSettings(layers=1))
    with pytest.raises(UserError, match=r"`train.noise` changes word vectors"):
        llama.configure(model, 5.0, False, False)


@pytest.mark.parametrize("learning", [0, 1, 2])
def test_cached_states_give_what_the_tokens_give(base: catalog.Base, tmp_path: Path, learning: int) -> None:
    model = adapted(base, FreezeSettings(layers=learning))
    model.train()
    ids = [row.numpy().astype(np.int32) for row in tokens().split(LENGTHS)]
    examples = TextExamples((Piece(np.append(one, 1).astype(np.int32), None, row) for row, one in enumerate(ids)), tmp_path, Losses())
    cached: Any = layers.cached(model, examples, lambda done, of: None)
    assert isinstance(cached, layers.TextStates) and model.training and len(cached) == 4 and cached.fingerprint() == examples.fingerprint()
    order = np.array([2, 0, 3, 1])
    batch, plain = cached.batch(order), examples.batch(order)
    lengths = batch.inputs["lengths"].tolist()
    assert lengths == [LENGTHS[row] for row in order] and torch.equal(batch.inputs["ids"], plain.inputs["ids"])
    from_states, state_gradients = with_gradients(model, lambda: llama.states(model, batch.inputs["ids"], lengths, batch.inputs["states"]))
    from_tokens, token_gradients = with_gradients(model, lambda: llama.states(model, batch.inputs["ids"], lengths))
    whole = alone(model, batch.inputs["ids"], lengths)
    assert close(from_states, whole, 1e-6) and close(from_tokens, whole)  # the cache is fp32
    assert state_gradients.keys() == token_gradients.keys() and not any("embed" in name for name in state_gradients)
    assert all(close(state_gradients[name], token_gradients[name], 1e-5) for name in token_gradients)
    assert {name.split(".")[2] for name in state_gradients if ".layers." in name} == {str(i) for i in range(2 - learning, 2)}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_states_that_the_disk_cannot_hold_are_refused_with_their_size(
    base: catalog.Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuses(*_: int) -> None:
        raise OSError(number, "as the test says")

    model = adapted(base, FreezeSettings(layers=1))
    examples = TextExamples([Piece(np.arange(2, 12, dtype=np.int32), None, 0)], tmp_path, Losses())
    size = 9 * model.config.hidden_size * 4
    assert layers.cache_bytes(model, examples) == size == layers.cached(model, examples, lambda done, of: None).states_TD.nbytes  # type: ignore[attr-defined]
    monkeypatch.setattr(os, "posix_fallocate", refuses, raising=False)
    with pytest.raises(UserError, match=f"the states of 9 tokens .* take {size / 1e6:,.1f} MB, and ") as caught:
        layers.cached(model, examples, lambda done, of: None)
    assert "method.cache: false" in str(caught.value) and ("free" if number == errno.ENOSPC else "no file of that size") in caught.value.what
    assert layers.cache_bytes(adapted(base, FreezeSettings(layers=1, cache=False)), examples) == 0


def test_below_is_without_gradient_and_leaves_the_mode_alone(base: catalog.Base) -> None:
    model = adapted(base, FreezeSettings(layers=1)).train()
    made_TD = llama.below(model, tokens(), LENGTHS)
    assert not made_TD.requires_grad and model.training
    inner = model.model
    hidden = torch.cat([inner(input_ids=row[None], output_hidden_states=True, use_cache=False).hidden_states[1][0] for row in tokens().split(LENGTHS)])
    assert close(made_TD, hidden.detach())


def test_a_compiled_layer_is_the_layer(base: catalog.Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's compiler itself takes half a minute; that it is asked, and that what it gives is used, takes none."""
    asked: list[Any] = []

    def compiler(function: Any, **how: Any) -> Any:
        asked.append((function, how))
        return lambda *given: function(*given) if function is llama.heads else function(*given) + 1

    monkeypatch.setattr(torch, "compile", compiler)
    model = adapted(base, FullSettings()).eval()
    before = llama.states(model, tokens(), LENGTHS)
    llama.configure(model, 0.0, False, True)
    assert asked == [(llama.heads, {"dynamic": True}), (llama.feed, {"dynamic": True})]
    assert not torch.equal(llama.states(model, tokens(), LENGTHS), before)


def test_the_last_norm_is_the_end(base: catalog.Base) -> None:
    """States times the vocabulary are transformers' logits."""
    model = adapted(base, FullSettings()).eval()
    ids_T = tokens()
    with torch.no_grad():
        ours = nn.functional.linear(llama.states(model, ids_T, LENGTHS), model.lm_head.weight)
        assert close(ours, torch.cat([model(input_ids=row[None]).logits[0] for row in ids_T.split(LENGTHS)]))
