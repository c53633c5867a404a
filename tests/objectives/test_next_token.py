"""The next token's loss: by hand, against torch's cross-entropy, in chunks, in parts, and packed against row by row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact import CLIPPED, TIGHT, double
from samples import llama_folder
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tunesmith import methods
from tunesmith.core.errors import UserError
from tunesmith.methods.full import FullSettings
from tunesmith.methods.lora import LoraSettings
from tunesmith.models import catalog
from tunesmith.models.loading import Head
from tunesmith.models.metadata import Writing
from tunesmith.objectives import next_token, numbers
from tunesmith.objectives.next_token import NextToken, Vocabulary, chunked_loss, row_losses, vocabulary
from tunesmith.tokens.examples import Batch
from tunesmith.tokens.sequences import NOT_LEARNT, Losses, Piece, TextExamples
from tunesmith.training import loop
from tunesmith.training.hardware import Machine
from tunesmith.training.settings import TrainSettings


def no_examples(path: Path, reader: Any) -> TextExamples:
    raise AssertionError


def objective(smoothing: float = 0.0) -> NextToken:
    return NextToken(smoothing, no_examples, Writing("", {}, [1]))


# --- the sum ------------------------------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    """Logits [0, ln 3], so probabilities [1/4, 3/4]; the gradient of a logit is its probability less its target."""
    states_UD = torch.tensor([[1.0]], requires_grad=True)
    weight_VD = torch.tensor([[0.0], [math.log(3)]], requires_grad=True)
    total, plain, hits = chunked_loss(states_UD, Vocabulary(weight_VD), torch.tensor([1]), 0.0)
    assert float(total.detach()) == pytest.approx(math.log(4 / 3)) and float(plain) == pytest.approx(math.log(4 / 3)) and int(hits) == 1
    total.backward()
    assert weight_VD.grad.flatten().tolist() == pytest.approx([1 / 4, -1 / 4]) and float(states_UD.grad) == pytest.approx(-math.log(3) / 4)
    # A fifth of the target spread over both: 0.8 ln 4/3 + 0.2 (ln 4 + ln 4/3) / 2.
    smoothed, plain, hits = chunked_loss(states_UD, Vocabulary(weight_VD), torch.tensor([0]), 0.2)
    assert float(smoothed.detach()) == pytest.approx(0.8 * math.log(4) + 0.2 * (math.log(4) + math.log(4 / 3)) / 2)
    assert float(plain) == pytest.approx(math.log(4)) and int(hits) == 0


def given(places: int, dtype: torch.dtype = torch.float64, bias: bool = True) -> tuple[list[torch.Tensor | None], torch.Tensor]:
    """Random states, weights and bias that all learn, and targets over 23 words."""
    draw = torch.Generator().manual_seed(places)
    shapes = [(places, 8), (23, 8), (23,)]
    tensors: list[torch.Tensor | None] = [torch.randn(shape, generator=draw).to(dtype).requires_grad_() for shape in shapes]
    return (tensors if bias else [*tensors[:2], None]), torch.randint(0, 23, (places,), generator=draw)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("smoothing", [0.0, 0.15])
@pytest.mark.parametrize("places", [1, 5, 8, 30])
@pytest.mark.parametrize("chunk", [1, 23 * 4, 23 * 5 + 3, 10**6], ids=["one at a time", "4", "5", "all"])
def test_value_and_gradients_are_those_of_torch(monkeypatch: pytest.MonkeyPatch, chunk: int, places: int, smoothing: float, bias: bool) -> None:
    monkeypatch.setattr(next_token, "CHUNK_NUMBERS", chunk)
    ours, targets_U = given(places, bias=bias)
    theirs, _ = given(places, bias=bias)
    total, plain, hits = chunked_loss(ours[0], Vocabulary(*ours[1:]), targets_U, smoothing)
    logits_UV = F.linear(*theirs)
    expected = F.cross_entropy(logits_UV, targets_U, reduction="sum", label_smoothing=smoothing)
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=TIGHT)
    assert float(plain) == pytest.approx(float(F.cross_entropy(logits_UV, targets_U, reduction="sum").detach()), rel=TIGHT)
    assert int(hits) == int((logits_UV.argmax(-1) == targets_U).sum())
    (total / 7).backward()  # as the loop divides by the units of the whole step
    (expected / 7).backward()
    for one, other in zip(ours, theirs, strict=True):
        if one is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=TIGHT, rtol=0)


def test_never_more_logits_than_a_chunk_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_token, "CHUNK_NUMBERS", 23 * 6)
    sizes: list[int] = []
    linear = F.linear
    monkeypatch.setattr(next_token.F, "linear", lambda *given: sizes.append(linear(*given).numel()) or linear(*given))
    ours, targets_U = given(30)
    chunked_loss(ours[0], Vocabulary(*ours[1:]), targets_U, 0.0)
    assert sizes == [23 * 6] * 5


def test_in_bf16_the_loss_is_summed_in_fp32_and_gradients_come_close() -> None:
    ours, targets_U = given(30, torch.bfloat16)
    theirs, _ = given(30, torch.bfloat16)
    wide = [one.detach().float().requires_grad_() for one in theirs if one is not None]
    total, _, _ = chunked_loss(ours[0], Vocabulary(*ours[1:]), targets_U, 0.1)
    expected = F.cross_entropy(F.linear(*wide), targets_U, reduction="sum", label_smoothing=0.1)
    assert total.dtype == torch.float32 and float(total.detach()) == pytest.approx(float(expected.detach()), rel=5e-3)
    total.backward()
    expected.backward()
    for one, other in zip(ours, wide, strict=True):
        assert one is not None and one.grad.dtype == torch.bfloat16
        assert float((one.grad.float() - other.grad).norm()) < 0.01 * float(other.grad.norm())


def test_a_frozen_vocabulary_gets_no_gradient() -> None:
    ours, targets_U = given(9)
    (states_UD, weight_VD, bias_V), (other_UD, _, _) = ours, given(9)[0]
    chunked_loss(states_UD, Vocabulary(weight_VD.detach(), bias_V.detach()), targets_U, 0.0)[0].backward()
    F.cross_entropy(F.linear(other_UD, weight_VD.detach(), bias_V.detach()), targets_U, reduction="sum").backward()
    torch.testing.assert_close(states_UD.grad, other_UD.grad, atol=TIGHT, rtol=0)
    assert weight_VD.grad is None and bias_V.grad is None


class Seen(TorchDispatchMode):
    """The names of the operations that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        self.names.append(function.overloadpacket.__name__)
        return function(*given, **(named or {}))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_measuring_pays_for_no_gradient(mode: Any) -> None:
    """The vocabulary's gradient costs as much as its logits."""
    ours, targets_U = given(9)
    with mode(), Seen() as seen:
        chunked_loss(ours[0], Vocabulary(*ours[1:]), targets_U, 0.0)
    assert not {"addmm_", "mm", "exp_", "scatter_add_"} & set(seen.names), seen.names
    with Seen() as seen:
        chunked_loss(ours[0], Vocabulary(*ours[1:]), targets_U, 0.0)
    assert {"add_", "exp_"} <= set(seen.names)


# --- batches ------------------------------------------------------------------------------------------------------------------

LENGTHS = [9, 3, 30, 14, 7, 2, 21, 11, 5, 26]


def pieces() -> Iterator[Piece]:
    """Ten rows, each with an answer to learn at its end."""
    draw = np.random.default_rng(0)
    for row, length in enumerate(LENGTHS):
        learnt = np.arange(length + 1) >= 1 + draw.integers(0, length)
        yield Piece(draw.integers(5, 300, length + 1).astype(np.int32), learnt, row)


@pytest.fixture
def examples(tmp_path: Path) -> TextExamples:
    return TextExamples(pieces(), tmp_path, Losses())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> catalog.Base:
    return catalog.resolve(catalog.ModelSettings(base=str(llama_folder(tmp_path_factory.mktemp("llama")))))


def adapted(base: catalog.Base, settings: Any = FullSettings()) -> Any:  # noqa: B008  # frozen
    torch.manual_seed(0)
    return double(methods.get(settings.kind).adapt(base, Head(None, dropout=0.0), settings))


def gradients(model: Any, total: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


ALL = np.arange(len(LENGTHS))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_packed_rows_have_the_loss_and_the_gradients_that_each_has_alone(base: catalog.Base, examples: TextExamples, smoothing: float) -> None:
    model = adapted(base)
    whole = objective(smoothing).loss(model, examples.batch(ALL))
    ours = gradients(model, whole.total)
    summed = 0.0
    theirs: dict[str, torch.Tensor] = {}
    hits = tokens = 0
    for index in ALL:
        ids, marks = examples.sequence(int(index))
        labels = torch.from_numpy(np.where(marks, ids, NOT_LEARNT))[None, 1:]
        logits = model(input_ids=torch.from_numpy(ids)[None, :-1]).logits
        loss = F.cross_entropy(logits[0], labels[0], reduction="sum", ignore_index=NOT_LEARNT, label_smoothing=smoothing)
        summed += float(loss.detach())
        hits, tokens = hits + int((logits[0].argmax(-1) == labels[0]).sum()), tokens + int((labels[0] != NOT_LEARNT).sum())
        for name, gradient in gradients(model, loss).items():
            theirs[name] = theirs.get(name, 0) + gradient
    assert float(whole.total.detach()) == pytest.approx(summed, rel=TIGHT) and whole.sums["loss"] == pytest.approx(summed, rel=TIGHT)
    assert whole.sums["hits"] == hits and whole.sums["units"] == tokens == objective().units(examples.batch(ALL)) == examples.learnt_N.sum()
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert float((ours[name] - gradient).abs().max()) < TIGHT * max(1.0, float(gradient.abs().max())), name


def test_smoothing_shapes_the_loss_but_not_the_measured_figures(base: catalog.Base, examples: TextExamples) -> None:
    model = adapted(base)
    plain, smooth = objective(), objective(0.3)
    batch = examples.batch(ALL)
    assert numbers(smooth.measure(model, batch)) == numbers(plain.measure(model, batch))
    assert numbers(smooth.loss(model, batch).sums)["loss"] != pytest.approx(numbers(plain.loss(model, batch).sums)["loss"], rel=1e-5)
    assert numbers(plain.loss(model, batch).sums) == pytest.approx(numbers(plain.measure(model, batch)))


def test_figures_are_means_over_tokens_and_the_lower_loss_is_better() -> None:
    figures = objective().summary({"loss": 12.0, "units": 8.0, "hits": 2.0})
    assert figures == {"loss": 1.5, "token_accuracy": 0.25}
    assert objective().score({"loss": 1.0}) > objective().score({"loss": 1.1})


@pytest.mark.parametrize("chunk", [1, 400 * 7, 10**7])
def test_the_losses_of_rows_add_up_to_what_is_measured(base: catalog.Base, examples: TextExamples, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(next_token, "CHUNK_NUMBERS", chunk)
    model = adapted(base).eval()
    with torch.inference_mode():
        losses_R, tokens_R = row_losses(model, examples.batch(ALL[::-1]))
        measured = numbers(objective().measure(model, examples.batch(ALL)))
        for place, index in enumerate(ALL[::-1]):
            one = numbers(objective().measure(model, examples.batch(np.array([index]))))
            assert float(losses_R[place]) == pytest.approx(one["loss"], rel=TIGHT) and int(tokens_R[place]) == one["units"]
    assert float(losses_R.sum()) == pytest.approx(measured["loss"], rel=TIGHT) and int(tokens_R.sum()) == measured["units"]


def unlearnt(batch: Batch) -> Batch:
    return Batch(batch.inputs, torch.full_like(batch.targets, NOT_LEARNT), None, None, batch.rows, batch.tokens)


def test_a_part_without_a_learnt_token_adds_nothing(base: catalog.Base, examples: TextExamples) -> None:
    model = adapted(base)
    empty = unlearnt(examples.batch(np.array([0, 3])))
    loss = objective(0.1).loss(model, empty)
    assert numbers(loss.sums) == {"loss": 0.0, "units": 0.0, "hits": 0.0} and objective().units(empty) == 0
    assert all(float(gradient.abs().max()) == 0 for gradient in gradients(model, loss.total).values())
    losses_R, tokens_R = row_losses(model, empty)
    assert losses_R.tolist() == [0, 0] and tokens_R.tolist() == [0, 0]


# --- optimizer steps ----------------------------------------------------------------------------------------------------------


def train(model: Any, examples: Any, folder: Path, **settings: Any) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """The weights after all steps, and the events."""
    events: list[dict[str, Any]] = []
    made = TrainSettings.model_validate({"epochs": 1, "batch_rows": 4, "learning_rate": 1e-3, "warmup": 0, "log_every": 1, **settings})
    loop.train(model, objective(), examples, None, made, Machine("cpu", "test", "fp32", 1), folder, "next token", events.append)
    return {name: p.detach().clone() for name, p in model.named_parameters()}, events


def apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference of all weights."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


@pytest.mark.parametrize("method", [FullSettings(), LoraSettings(rank=4)], ids=["full", "lora"])
def test_parts_of_a_step_count_by_their_tokens(base: catalog.Base, examples: TextExamples, tmp_path: Path, method: Any) -> None:
    """Ten rows in steps of four, so that the last has two: at once, one by one, or by threes, three steps end in the same weights."""
    made = {}
    for micro in (None, 1, 3):
        made[micro] = train(adapted(base, method), examples, tmp_path / str(micro), micro_rows=micro, clip_norm=0.5)
    steps = {micro: [event for event in events if event["kind"] == "step"] for micro, (_, events) in made.items()}
    assert [len(one) for one in steps.values()] == [3, 3, 3]
    for micro in (1, 3):
        for ours, whole in zip(steps[micro], steps[None], strict=True):
            assert ours["loss"] == pytest.approx(whole["loss"], rel=CLIPPED) and ours["gradient_norm"] == pytest.approx(whole["gradient_norm"], rel=CLIPPED)
        assert apart(made[micro][0], made[None][0]) < CLIPPED
    first = dict(adapted(base, method).named_parameters())
    assert max(float((first[name] - weights).abs().max()) for name, weights in made[None][0].items()) > 1e-3


def test_a_mean_of_the_parts_means_would_show(base: catalog.Base, examples: TextExamples, tmp_path: Path) -> None:
    """The comparison above can fail: rows of two and of thirty tokens, each row counted the same, give other weights."""

    class ByRows(NextToken):
        def units(self, batch: Batch) -> float:
            return float(batch.rows)

        def loss(self, model: nn.Module, batch: Batch) -> Any:
            loss = super().loss(model, batch)
            return type(loss)(loss.total / max(1.0, loss.sums["units"]) * batch.rows, loss.sums)

    right, _ = train(adapted(base), examples, tmp_path / "right", micro_rows=1)
    model = adapted(base)
    settings = TrainSettings.model_validate({"epochs": 1, "batch_rows": 4, "learning_rate": 1e-3, "warmup": 0, "micro_rows": 1})
    wrong = ByRows(0.0, no_examples, Writing("", {}, [1]))
    loop.train(model, wrong, examples, None, settings, Machine("cpu", "test", "fp32", 1), tmp_path / "wrong", "next token", lambda event: None)
    assert max(float((right[name] - p.detach()).abs().max()) for name, p in model.named_parameters()) > 1e-4


def test_a_part_of_a_step_without_a_learnt_token_changes_nothing(base: catalog.Base, tmp_path: Path) -> None:
    class Sometimes(TextExamples):
        """Row 1 is learnt nothing of, though it is read."""

        def batch(self, rows_B: Any) -> Batch:
            batch = super().batch(rows_B)
            return unlearnt(batch) if rows_B.tolist() == [1] else batch

    model = adapted(base)
    with_it, events = train(model, Sometimes(pieces(), tmp_path, Losses()), tmp_path / "with", micro_rows=1, batch_rows=10)
    assert all(bool(torch.isfinite(weights).all()) for weights in with_it.values()) and not [e for e in events if e["kind"] == "skipped"]
    without = [one for one in pieces() if one.row != 1]
    alone, _ = train(adapted(base), TextExamples(without, tmp_path, Losses()), tmp_path / "without", micro_rows=1, batch_rows=10)
    assert apart(with_it, alone) < TIGHT


# --- the vocabulary -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
@pytest.mark.parametrize(("scale", "cap"), [(0.25, 0.0), (1.0, 1.5), (2.0, 3.0)], ids=["scaled", "capped", "both"])
def test_scaled_and_capped_logits_have_the_gradients_of_torch(monkeypatch: pytest.MonkeyPatch, scale: float, cap: float, smoothing: float) -> None:
    monkeypatch.setattr(next_token, "CHUNK_NUMBERS", 23 * 5 + 3)
    ours, targets_U = given(30)
    theirs, _ = given(30)
    total, _, _ = chunked_loss(ours[0], Vocabulary(*ours[1:], scale=scale, cap=cap), targets_U, smoothing)
    logits_UV = F.linear(*theirs) * scale
    logits_UV = cap * torch.tanh(logits_UV / cap) if cap else logits_UV
    expected = F.cross_entropy(logits_UV, targets_U, reduction="sum", label_smoothing=smoothing)
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    total.backward()
    expected.backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-5)


def test_the_config_says_how_logits_are_scaled_and_capped(base: catalog.Base) -> None:
    model = adapted(base)
    words = vocabulary(model)
    assert words.weight_VD is model.lm_head.weight and words.bias_V is None and (words.scale, words.cap) == (1, 0)
    model.config.final_logit_softcapping, model.config.logit_scale, model.config.logits_scaling = 30.0, 0.5, 4.0
    words = vocabulary(model)
    assert (words.scale, words.cap) == (0.125, 30)


def test_an_adapter_on_the_output_layer_is_refused(base: catalog.Base) -> None:
    with pytest.raises(UserError, match="an adapter lies on the output layer"):
        vocabulary(adapted(base, LoraSettings(rank=2, targets=("q_proj", "lm_head"))))
    assert vocabulary(adapted(base, LoraSettings(rank=2))).weight_VD.shape == (base.config["vocab_size"], 32)
