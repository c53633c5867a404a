"""Texts written token by token are those that transformers' `generate` writes, whatever the batch; sampling draws what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from exact import TIGHT, double
from peft import PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tunesmith.core.errors import UserError
from tunesmith.models import decode, kv_cache
from tunesmith.models.decode import Generated, Sampling
from tunesmith.models.fast import llama

V = 61
ENDS = {2, 7, 11}
SIZES: dict[str, Any] = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 256, "initializer_range": 0.5, "bos_token_id": 0, "eos_token_id": 2}


def fast(seed: int = 0, tied: bool = True) -> Any:
    """A Llama with random weights so large that its most probable token stands out by far."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied)).eval()
    assert llama.accelerate(model)
    return model


def biased() -> Any:
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    for name, one in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(one)
    assert llama.accelerate(model)
    return model


def plain() -> Any:
    """The same Llama through transformers' own forward."""
    model = fast()
    del model.fast_states
    return model


def gpt2() -> Any:
    torch.manual_seed(3)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "bos_token_id": 0, "eos_token_id": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=V, initializer_range=0.5, **sizes)).eval()


MODELS: dict[str, Callable[[], Any]] = {"tied": fast, "untied": lambda: fast(4, False), "qwen2": biased, "plain": plain, "gpt2": gpt2}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def prompts_of(lengths: Sequence[int], seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(12, V, (length,), generator=generator).tolist() for length in lengths]


def theirs(model: Any, prompt: list[int], most: int, ends: set[int] = ENDS, **more: Any) -> Generated:
    """What transformers writes, one row at a time."""
    ids_1T = torch.tensor([prompt])
    given = {"attention_mask": torch.ones_like(ids_1T), "max_new_tokens": most, "do_sample": False, "pad_token_id": 0, **more}
    ids = model.generate(input_ids=ids_1T, eos_token_id=sorted(ends) or None, **given)[0].tolist()[len(prompt) :]
    ended = ids[-1] in ends
    return Generated(ids[:-1] if ended else ids, ended)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_what_transformers_writes(name: str) -> None:
    model = MODELS[name]()
    prompts = prompts_of([5, 1, 17, 9, 9, 30, 2])
    ours = decode.generate(model, prompts, ENDS, Sampling(max_new_tokens=90), 256)  # beyond FIRST_ROOM: the memory grows
    assert ours == [theirs(model, prompt, 90) for prompt in prompts]
    assert {len(one.ids) for one in ours} != {90}, "nothing ended: the test sees no row leave"
    endless = decode.generate(model, prompts[:3], set(), Sampling(max_new_tokens=70), 256)
    assert endless == [theirs(model, prompt, 70, set()) for prompt in prompts[:3]] and not any(one.ended for one in endless)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_row_does_not_depend_on_its_batch(name: str, temperature: float) -> None:
    model = MODELS[name]()
    prompts = prompts_of([3, 12, 7, 30, 7, 1])
    settings = Sampling(max_new_tokens=25, temperature=temperature, top_p=0.9, seed=5)
    whole = decode.generate(model, prompts, ENDS, settings, 256)
    assert whole == [decode.generate(model, prompts[: row + 1], ENDS, settings, 256)[row] for row in range(len(prompts))]
    if not temperature:
        assert whole == [decode.generate(model, [prompt], ENDS, settings, 256)[0] for prompt in prompts]


@pytest.mark.parametrize("style", ["prefix", "prompt"])
def test_what_stands_before_a_row_is_read(style: str) -> None:
    kind: Any = PrefixTuningConfig if style == "prefix" else PromptTuningConfig
    torch.manual_seed(0)
    model = get_peft_model(fast(), kind(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=5)).eval()
    prompts = prompts_of([5, 1, 17, 9, 30])
    ours = decode.generate(model, prompts, {2, 7}, Sampling(max_new_tokens=70), 200)
    assert ours == [theirs(model, prompt, 70, {2, 7}) for prompt in prompts]
    assert ours != decode.generate(fast(), prompts, {2, 7}, Sampling(max_new_tokens=70), 200)


def test_prompts_read_in_parts_and_long_batches_divided_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts, settings = fast(), prompts_of([5, 1, 17, 9, 9, 30]), Sampling(max_new_tokens=20, temperature=0.8)
    whole = decode.generate(model, prompts, ENDS, settings, 256)
    monkeypatch.setattr(kv_cache, "READ_TOKENS", 12)
    assert decode.generate(model, prompts, ENDS, settings, 256) == whole
    monkeypatch.setattr(decode, "CACHE_TOKENS", 60)
    told: list[tuple[int, int]] = []
    assert decode.generate(model, prompts, ENDS, settings, 256, lambda done, of: told.append((done, of))) == whole
    assert told[-1] == (6, 6) and [done for done, _ in told] == sorted({done for done, _ in told})


def test_batches_hold_rows_of_like_length_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "CACHE_TOKENS", 100)
    assert list(decode.divided([10, 40, 10, 90, 10, 10], [10, 10, 10, 10, 0, 10])) == [[3], [1, 0], [2, 5]]
    assert list(decode.divided([10, 10, 10], [10, 10, 60])) == [[0, 1], [2]]
    monkeypatch.setattr(decode, "MOST_ROWS", 2)
    assert list(decode.divided([1] * 5, [1] * 5)) == [[0, 1], [2, 3], [4]]
    assert list(decode.divided([500], [1])) == [[0]] and list(decode.divided([], [])) == []


@pytest.mark.parametrize("name", ["tied", "gpt2"])
def test_the_bases_limit_ends_a_row(name: str) -> None:
    prompts = prompts_of([20, 5, 24, 26])
    found = decode.generate(MODELS[name](), prompts, set(), Sampling(max_new_tokens=10), 24)
    assert [(len(one.ids), one.ended) for one in found] == [(4, False), (10, False), (0, False), (0, False)]


def test_steps_tell_every_token_with_the_end_and_leave_the_mode_alone() -> None:
    model, prompts, settings = fast(), prompts_of([5, 9, 30]), Sampling(max_new_tokens=60)
    texts: list[list[int]] = [[], [], []]
    for step in decode.steps(model, prompts, ENDS, settings, 256):
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
        for row, one in step:
            texts[row].append(one)
    found = decode.generate(model, prompts, ENDS, settings, 256)
    assert [ids[:-1] for ids in texts] == [one.ids for one in found] and all(ids[-1] in ENDS for ids in texts) and all(one.ended for one in found)


def test_without_gradient_states_are_those_with_it() -> None:
    model, ids_T = double(fast()), torch.tensor([one for prompt in prompts_of([40, 7, 90]) for one in prompt])
    states_TD = llama.states(model, ids_T, [40, 7, 90])
    assert states_TD.requires_grad
    with torch.no_grad():
        assert float((llama.states(model, ids_T, [40, 7, 90]) - states_TD).abs().max()) < TIGHT
        few_TD = llama.states(model, ids_T[40:47], [7])  # few tokens: products apart
    assert float((few_TD - states_TD[40:47]).detach().abs().max()) < TIGHT


def test_a_base_without_a_cache_is_refused() -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=V, hidden_size=16, num_hidden_layers=1, state_size=4)).eval()
    with pytest.raises(UserError, match="a base of the kind `mamba`: it has no key-value cache"):
        decode.generate(model, [[1]], ENDS, Sampling(), 10)


def test_choosing_worked_by_hand() -> None:
    logits_RV = torch.tensor([[0.5, 0.3, 0.2]]).log()
    draws = {0.0: 0, 0.6: 0, 0.7: 1, 0.999: 1}
    for top in ({"top_p": 0.8}, {"top_k": 2}, {"top_k": 3, "top_p": 0.8}):
        for drawn, wanted in draws.items():
            assert decode.choose(logits_RV, Sampling(temperature=1, **top), torch.tensor([drawn]).double()).tolist() == [wanted], (top, drawn)  # type: ignore[arg-type]
    assert [int(decode.choose(logits_RV, Sampling(temperature=1), torch.tensor([u]).double())) for u in (0.0, 0.49, 0.51, 0.79, 0.81)] == [0, 0, 1, 1, 2]
    assert int(decode.choose(logits_RV, Sampling(temperature=1e-30), torch.tensor([0.999]).double())) == 0
    # 2 / 2 = 1 falls below 1.5; -1 * 2 = -2 falls below -1.5.
    for logits, seen, wanted in (([2.0, 1.5], [True, False], 1), ([-1.0, -1.5], [True, False], 1), ([2.0, 1.5], [False, False], 0)):
        assert int(decode.choose(torch.tensor([logits]), Sampling(repetition_penalty=2), torch.empty(0), torch.tensor([seen]))) == wanted


@pytest.mark.parametrize("settings", [{"top_p": 0.7}, {"top_p": 0.97}, {"top_k": 7}, {"top_k": 20, "top_p": 0.5}, {}, {"top_p": 0.9, "temperature": 2.5}])
def test_drawing_follows_transformers_probabilities(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw of an even grid: each token's share is its probability, to one part of the grid."""
    monkeypatch.setattr(decode, "NUCLEUS", 4)  # most nuclei here are wider: the whole vocabulary is sorted
    generator = torch.Generator().manual_seed(0)
    logits_1V = torch.randn(1, 300, generator=generator) * 2
    given = {"temperature": 0.8, **settings}
    cut_1V = TemperatureLogitsWarper(given["temperature"])(None, logits_1V)  # type: ignore[arg-type]
    cut_1V = TopKLogitsWarper(given["top_k"])(None, cut_1V) if "top_k" in given else cut_1V  # type: ignore[arg-type]
    cut_1V = TopPLogitsWarper(given["top_p"])(None, cut_1V) if "top_p" in given else cut_1V  # type: ignore[arg-type]
    N = 4000
    ids = decode.choose(logits_1V.expand(N, -1), Sampling(**given), (torch.arange(N).double() + 0.5) / N)
    shares_V = ids.bincount(minlength=300) / N
    wanted_V = cut_1V[0].softmax(-1)
    assert float((shares_V - wanted_V).abs().max()) <= 1.5 / N and set(ids.tolist()) <= set(wanted_V.nonzero()[:, 0].tolist())


def test_the_repetition_penalty_is_transformers() -> None:
    model, prompts = fast(), prompts_of([5, 17])
    ours = decode.generate(model, prompts, set(), Sampling(max_new_tokens=40, repetition_penalty=1.7), 256)
    assert ours == [theirs(model, prompt, 40, set(), repetition_penalty=1.7) for prompt in prompts]
    ids_1T, logits_1V = torch.tensor([[1, 2, 2]]), torch.tensor([[1.0, 3.0, -2.0]])
    seen_1V = torch.tensor([[False, True, True]])
    punished = RepetitionPenaltyLogitsProcessor(1.3)(ids_1T, logits_1V.clone())  # type: ignore[arg-type]
    assert int(decode.choose(logits_1V, Sampling(repetition_penalty=1.3), torch.empty(0), seen_1V)) == int(punished.argmax())


def test_seeds() -> None:
    model, prompts = fast(), prompts_of([5, 5, 9])
    prompts[1] = prompts[0]

    def written(**settings: Any) -> list[list[int]]:
        return [one.ids for one in decode.generate(model, prompts, set(), Sampling(**{"max_new_tokens": 30, "temperature": 3.0, **settings}), 256)]

    first = written()
    assert first == written() and first != written(seed=1)
    assert first[0] != first[1], "equal prompts draw from streams of their own"
    assert [ids[:12] for ids in first] == written(max_new_tokens=12)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature": -1}, "`temperature=-1` must lie in [0, 100]"),
        ({"top_p": 0}, "`top_p=0` must lie above 0 and at most at 1"),
        ({"top_k": -3}, "`top_k=-3` must be at least 0, which means all tokens"),
        ({"max_new_tokens": 0}, "`max_new_tokens=0` must be at least 1"),
        ({"repetition_penalty": 0}, "`repetition_penalty=0` must lie above 0 and at most at 100; 1 means none"),
        ({"seed": -1}, "`seed=-1` must be at least 0"),
    ],
)
def test_settings_out_of_range(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        Sampling(**given)
    assert error.value.what == said and error.value.remedy.startswith(f"leave {next(iter(given))} out for ")
