"""The loop: what it plans, measures, keeps, skips and saves; and that stopping anywhere changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.core.errors import Interrupted, UserError
from tunesmith.models.heads import Output
from tunesmith.tokens import batching
from tunesmith.training import checkpoint, loop
from tunesmith.training.settings import TrainSettings

STEPS = 21  # 3 epochs of ceil(50 / 8)


# --- what is planned ----------------------------------------------------------------------------------------------------------


def test_every_row_is_in_one_batch_of_every_epoch_and_the_last_one_counts_by_its_rows(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[list[int]] = []
    monkeypatch.setattr(loop, "_micro", lambda rows, size: taken.append(rows.tolist()) or [rows])
    trained = lab.train(valid=False, micro_rows=None)
    assert trained.outcome.state.step == STEPS and len(taken) == STEPS
    epochs = [taken[start : start + 7] for start in (0, 7, 14)]
    for epoch in epochs:
        assert sorted(row for batch in epoch for row in batch) == list(range(50)) and sorted(map(len, epoch)) == [2, 8, 8, 8, 8, 8, 8]
    assert epochs[0] != epochs[1] != epochs[2]
    assert [event["epoch"] for event in trained.told("step")][6::7] == [1, 2, 3]


def test_a_partial_batch_is_averaged_over_its_own_rows(lab: Any, scripted: Any) -> None:
    """The gradient of the batch of two is that of the mean over two: as large as if each row were there four times."""
    lengths = [len(rows) for rows in batching.plan(np.ones(50, np.int64), 8, None, 0, 0)]
    place = lengths.index(2)
    rows = batching.plan(np.ones(50, np.int64), 8, None, 0, 0)[place]
    trained = lab.train(valid=False, checkpoint_steps=1, keep_checkpoints=30, clip_norm=0)
    model = trained.model
    model.load_state_dict(checkpoint.at(lab.folder, place, "lab").tensors("weights"))
    torch.set_rng_state(checkpoint.at(lab.folder, place, "lab").tensors("random")["cpu"])
    model.train()
    batch = lab.data(50, 0).batch(rows)
    loss = torch.nn.functional.cross_entropy(model(**batch.inputs).logits, batch.targets)
    model.zero_grad()
    loss.backward()
    told = trained.told("step")[place]
    assert told["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
    assert told["gradient_norm"] == pytest.approx(float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])), rel=1e-6)


@pytest.mark.parametrize(("every", "expected"), [(1.0, [7, 14, 21]), (0.5, [4, 7, 10, 14, 18, 21]), (2.0, [14, 21]), (9.0, [21])])
def test_validation_is_measured_when_the_recipe_says(lab: Any, every: float, expected: list[int]) -> None:
    trained = lab.train(evaluate_every=every)
    assert [event["step"] for event in trained.told("valid")] == expected
    assert {"loss", "accuracy", "epoch", "best"} <= set(trained.told("valid")[0])


@pytest.mark.parametrize("tokens", [16, 40, 64])
def test_batch_tokens_bounds_the_padded_size(tokens: int) -> None:
    lengths = np.random.default_rng(0).integers(2, 30, 200)
    for epoch in range(3):
        plan = batching.plan(lengths, 16, tokens, 5, epoch)
        assert sorted(np.concatenate(plan)) == list(range(200))
        for rows in plan:
            assert len(rows) <= 16 and (len(rows) == 1 or len(rows) * lengths[rows].max() <= tokens)
        assert lengths.sum() / max(tokens, 29) <= len(plan) < 200
    assert [r.tolist() for r in batching.plan(lengths, 16, tokens, 5, 1)] == [r.tolist() for r in batching.plan(lengths, 16, tokens, 5, 1)]
    assert [r.tolist() for r in batching.plan(lengths, 16, tokens, 6, 1)] != [r.tolist() for r in batching.plan(lengths, 16, tokens, 5, 1)]


def test_batch_tokens_decides_the_steps_of_a_training(lab: Any) -> None:
    trained = lab.train(batch_tokens=5)  # a vector costs one token
    assert trained.outcome.state.step == 30 and trained.told("valid")[-1]["step"] == 30
    assert trained.outcome.state.tokens == 150


# --- what is kept -------------------------------------------------------------------------------------------------------------


def test_the_best_steps_weights_are_kept(lab: Any, scripted: Any, same: Any) -> None:
    trained = lab.train(scripted([0.1, 0.9, 0.3, 0.9, 0.2, 0.4]), evaluate_every=0.5)
    assert [event["best"] for event in trained.told("valid")] == [True, True, False, False, False, False]
    assert trained.outcome.kept_step == 7 and trained.outcome.state.step == STEPS and trained.outcome.state.ended == "finished"
    assert same(trained.weights(), trained.seen[7]) and not same(trained.weights(), trained.seen[21])
    assert not trained.model.training
    # The decay that rows outside the model have missed is that of the kept step, not of the last.
    rates = [event["learning_rate"] for event in trained.told("step")]
    assert trained.outcome.decay == pytest.approx(math.prod(1 - 0.1 * rate for rate in rates[:7]), rel=1e-12)


def test_without_keep_best_or_validation_the_last_step_is_kept(lab: Any, scripted: Any, same: Any) -> None:
    last = lab.train(scripted([0.9, 0.1, 0.1]), keep_best=False)
    assert last.outcome.kept_step == STEPS and same(last.weights(), last.seen[STEPS]) and not same(last.weights(), last.seen[7])
    alone = lab.elsewhere("alone").train(valid=False)
    assert alone.outcome.kept_step == STEPS and alone.told("valid") == []
    assert same(alone.weights(), last.weights())  # measuring leaves no trace on learning


def test_training_stops_early_and_says_so(lab: Any, scripted: Any, same: Any) -> None:
    trained = lab.train(scripted([0.5, 0.6, 0.6, 0.4, 0.9]), evaluate_every=0.5, patience=2)
    assert [event["step"] for event in trained.told("valid")] == [4, 7, 10, 14]
    assert trained.outcome.state.ended == "early" and trained.outcome.state.step == 14 and trained.outcome.kept_step == 7
    assert same(trained.weights(), trained.seen[7])
    # The same call on the finished training comes to the same end without learning.
    again = lab.train(scripted(), evaluate_every=0.5, patience=2)
    assert again.told("step") == [] and again.outcome.kept_step == 7 and again.outcome.state.ended == "early" and same(again.weights(), trained.weights())


def test_more_epochs_go_on_from_the_end(lab: Any) -> None:
    lab.train(epochs=2)
    longer = lab.train(epochs=3)
    assert longer.told("resumed")[0]["step"] == 14 and [event["step"] for event in longer.told("step")] == list(range(15, 22))


def test_a_validation_loss_that_is_not_finite_is_never_the_best(lab: Any, scripted: Any) -> None:
    trained = lab.train(scripted([math.nan, 0.2, math.inf]))
    assert trained.outcome.kept_step == 14


class Stack(torch.nn.Module):
    """A frozen layer with a buffer, and a head that learns; it takes what precision the head has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.below, self.head = torch.nn.Linear(12, 12).requires_grad_(False), torch.nn.Linear(12, 3)
        self.register_buffer("frequencies", torch.rand(12))
        self.dtypes: set[torch.dtype] = set()

    def forward(self, vectors: torch.Tensor) -> Output:
        self.dtypes |= {self.below.weight.dtype, self.head.weight.dtype}
        assert self.frequencies.dtype == torch.float32
        return Output(self.head(self.below(vectors.to(self.head.weight.dtype)).tanh()))


def test_in_bf16_what_is_frozen_comes_back_as_it_was_and_the_rest_from_its_masters(lab: Any, same: Any) -> None:
    """The frozen layers of a saved model are the base's to the last bit, and buffers are never rounded."""
    before = {name: value.clone() for name, value in Stack().state_dict().items()}
    trained = lab.train(model=Stack(), precision="bf16", evaluate_every=0.5)
    assert trained.error is None and trained.model.dtypes == {torch.bfloat16}
    after = trained.weights()
    assert all(torch.equal(after[name], before[name]) for name in ("below.weight", "below.bias", "frequencies"))
    assert same({name: after[name] for name in ("head.weight", "head.bias")}, checkpoint.at(lab.folder, trained.outcome.kept_step, "lab").tensors("weights"))
    assert not torch.equal(after["head.weight"], after["head.weight"].to(torch.bfloat16).float())
    close = lab.elsewhere("fp32").train(model=Stack(), evaluate_every=0.5)
    assert torch.allclose(after["head.weight"], close.weights()["head.weight"], atol=0.05)


def test_in_bf16_stopping_changes_nothing_either(lab: Any, same: Any) -> None:
    whole = lab.elsewhere("whole").train(model=Stack(), precision="bf16")
    stopped = lab.train(model=Stack(), precision="bf16", stop=after(9))
    assert isinstance(stopped.error, Interrupted)
    resumed = lab.train(model=Stack(), precision="bf16")
    assert same(resumed.weights(), whole.weights()) and stopped.told("step", "valid") + resumed.told("step", "valid") == whole.told("step", "valid")


# --- what never reaches a weight ----------------------------------------------------------------------------------------------


def finite(folder: Path) -> bool:
    """Whether every number in every checkpoint is finite."""
    from safetensors.torch import load_file

    paths = [path for path in folder.rglob("*.safetensors") if path.name != "random.safetensors"]
    assert paths
    return all(bool(torch.isfinite(value).all()) for path in paths for value in load_file(path).values())


def poison(calls: set[int], how: str) -> Any:
    """Spoil the losses of these calls: the loss itself, or its gradient alone."""

    def spoil(call: int, total: torch.Tensor) -> torch.Tensor | None:
        if call not in calls:
            return None
        if how == "nan":
            return total * math.nan
        if how == "inf":
            return total / 0.0
        total = total * 1
        total.register_hook(lambda gradient: gradient * (math.nan if how == "nan gradient" else math.inf))
        return total

    return spoil


# Steps of 8 rows have 3 parts of at most 3 rows, the step of 2 rows has one.
@pytest.mark.parametrize("how", ["nan", "inf", "inf gradient", "nan gradient"])
@pytest.mark.parametrize("step", [1, 11, 21])
@pytest.mark.parametrize("part", ["first", "last", "all"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(lab: Any, scripted: Any, same: Any, how: str, step: int, part: str) -> None:
    sizes = [math.ceil(len(rows) / 3) for epoch in range(3) for rows in batching.plan(np.ones(50, np.int64), 8, None, 0, epoch)]
    start = sum(sizes[: step - 1]) + 1
    calls = {"first": {start}, "last": {start + sizes[step - 1] - 1}, "all": set(range(start, start + sizes[step - 1]))}[part]
    trained = lab.train(scripted(poison=poison(calls, how)), checkpoint_steps=1, keep_checkpoints=30, evaluate_every=0.5)
    assert trained.error is None
    assert [(event["step"], event["what"]) for event in trained.told("skipped")] == [(step, "gradient" if "gradient" in how else "loss")]
    assert trained.outcome.state.skipped == 1 and trained.outcome.state.step == STEPS
    assert lab.steps() == list(range(1, 22)) and finite(lab.folder)
    assert all(bool(torch.isfinite(value).all()) for value in trained.weights().values())
    assert all(math.isfinite(event["loss"]) for event in trained.told("step", "valid") if "loss" in event)
    before = checkpoint.at(lab.folder, step - 1, "lab").tensors("weights") if step > 1 else lab.elsewhere("none").train(epochs=1, learning_rate=1e-30).weights()
    after = checkpoint.at(lab.folder, step, "lab").tensors("weights")
    assert all(torch.allclose(before[name], after[name], rtol=0, atol=1e-12) for name in after)  # the step was skipped whole
    if step < STEPS:
        assert not same(checkpoint.at(lab.folder, step + 1, "lab").tensors("weights"), after)


def test_a_skipped_step_shows_no_loss_of_zero(lab: Any, scripted: Any) -> None:
    trained = lab.train(scripted(poison=poison({1, 2, 3}, "nan")), valid=False)
    told = trained.told("step")
    assert "loss" not in told[0] and told[1]["loss"] > 0


@pytest.mark.parametrize("first", [1, 9, 19])
def test_three_in_a_row_stop_the_training(lab: Any, scripted: Any, first: int) -> None:
    steps = [(step, part) for step, size in enumerate(_parts(), 1) for part in range(size)]
    calls = {call for call, (step, _) in enumerate(steps, 1) if first <= step}
    trained = lab.train(scripted(poison=poison(calls, "nan")), checkpoint_steps=1, keep_checkpoints=30, evaluate_every=0.5)
    assert isinstance(trained.error, UserError)
    assert f"the loss was not finite in 3 steps in a row, the last is step {first + 2}" in str(trained.error)
    assert "train.learning_rate=0.007" in str(trained.error)
    assert [event["step"] for event in trained.told("skipped")] == [first, first + 1, first + 2]
    assert first == 1 or finite(lab.folder)
    assert all(bool(torch.isfinite(value).all()) for value in trained.weights().values())


def test_two_in_a_row_then_a_good_one_go_on(lab: Any, scripted: Any) -> None:
    steps = [step for step, size in enumerate(_parts(), 1) for _ in range(size)]
    calls = {call for call, step in enumerate(steps, 1) if step in (4, 5, 7, 8)}
    trained = lab.train(scripted(poison=poison(calls, "inf")))
    assert trained.error is None and trained.outcome.state.skipped == 4 and trained.outcome.state.skipped_in_a_row == 0


def test_the_count_in_a_row_survives_a_stop(lab: Any, scripted: Any) -> None:
    """Two bad steps, a stop, a third bad one: still three in a row."""
    steps = [step for step, size in enumerate(_parts(), 1) for _ in range(size)]
    bad = {call for call, step in enumerate(steps, 1) if step >= 4}
    stopped = lab.train(scripted(poison=poison(bad, "nan")), stop=after(5))
    assert isinstance(stopped.error, Interrupted)
    resumed = lab.train(scripted(poison=lambda call, total: total * math.nan))
    assert isinstance(resumed.error, UserError) and "the last is step 6" in str(resumed.error)


def _parts() -> list[int]:
    return [math.ceil(len(rows) / 3) for epoch in range(3) for rows in batching.plan(np.ones(50, np.int64), 8, None, 0, epoch)]


# --- stopping and going on ----------------------------------------------------------------------------------------------------


def after(steps: int, signal: int = 15) -> Any:
    """A `stopping` that asks to stop after some steps."""
    answers: Iterator[int | None] = iter([*[None] * (steps - 1), signal])
    return lambda: next(answers, None)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_signal_saves_this_very_step_and_the_same_call_goes_on(lab: Any, same: Any, step: int) -> None:
    whole = lab.elsewhere("whole").train(evaluate_every=0.5)
    stopped = lab.train(stop=after(step), evaluate_every=0.5)
    assert isinstance(stopped.error, Interrupted) and stopped.error.signal_number == 15
    assert max(lab.steps()) == step
    resumed = lab.train(evaluate_every=0.5)
    assert resumed.told("resumed") == [{"kind": "resumed", "step": step}]
    assert same(resumed.weights(), whole.weights()) and resumed.outcome.kept_step == whole.outcome.kept_step
    assert stopped.told("step", "valid") + resumed.told("step", "valid") == whole.told("step", "valid")
    ends = [checkpoint.at(one.folder, STEPS, "lab") for one in (lab, lab.elsewhere("whole"))]
    for kind in ("weights", "moments", "random"):
        assert same(ends[0].tensors(kind), ends[1].tensors(kind))
    times = ("seconds",)
    assert {k: v for k, v in ends[0].state.items() if k not in times} == {k: v for k, v in ends[1].state.items() if k not in times}


def test_stopping_after_every_single_step_changes_nothing(lab: Any, same: Any, scripted: Any) -> None:
    whole = lab.elsewhere("whole").train(evaluate_every=0.5)
    told: list[dict[str, Any]] = []
    for _ in range(STEPS):
        one = lab.train(stop=after(1, 2), evaluate_every=0.5)
        assert isinstance(one.error, Interrupted) and one.error.signal_number == 2
        told += one.told("step", "valid")
    end = lab.train(evaluate_every=0.5)
    assert end.error is None and same(end.weights(), whole.weights()) and told == whole.told("step", "valid")


def test_skipped_steps_and_their_count_survive_a_stop(lab: Any, scripted: Any, same: Any) -> None:
    """A stop right after a skipped step: figures, count and the shown gradient norm go on as if there had been none."""
    parts = _parts()
    bad = {sum(parts[:4]) + 1, sum(parts[:5]) + 1}
    whole = lab.elsewhere("whole").train(scripted(poison=poison(bad, "nan")), log_every=2)
    stopped = lab.train(scripted(poison=poison(bad, "nan")), stop=after(5), log_every=2)
    done = sum(parts[:5])
    resumed = lab.train(scripted(poison=poison({call - done for call in bad}, "nan")), log_every=2)
    assert stopped.told("step", "valid", "skipped") + resumed.told("step", "valid", "skipped") == whole.told("step", "valid", "skipped")
    assert same(resumed.weights(), whole.weights()) and resumed.outcome.state.skipped == 2


def test_a_training_without_a_checkpoint_says_that_it_begins(lab: Any) -> None:
    """The run then forgets what a killed training had told before its first checkpoint."""
    assert lab.train().events[0] == {"kind": "began", "step": 0}
    assert lab.train().told("began") == []


# --- which checkpoints stay ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("best", [4, 10, 21])
def test_the_newest_and_the_best_checkpoint_always_stay(lab: Any, scripted: Any, keep: int, best: int) -> None:
    marks = [4, 7, 10, 14, 18, 21]
    scores = [0.9 if mark == best else 0.1 if mark == 4 else 0.05 for mark in marks]
    trained = lab.train(scripted(scores), evaluate_every=0.5, checkpoint_steps=1, keep_checkpoints=keep)
    newest = list(range(STEPS - keep + 1, STEPS + 1))
    assert lab.steps() == sorted({best, *newest}) and trained.outcome.kept_step == best


def test_at_every_moment_the_newest_and_the_best_are_whole(lab: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at after each deletion: never fewer than the newest and the best, each as it was written."""
    import shutil

    looked = []
    remove = shutil.rmtree

    def watched(path: Any, *args: Any, **kwargs: Any) -> None:
        remove(path, *args, **kwargs)
        if str(path).startswith(str(lab.folder / "step-")):
            found, warnings = checkpoint.newest(lab.folder, "lab")
            assert found is not None and warnings == []
            looked.append(found.folder.name)

    monkeypatch.setattr(shutil, "rmtree", watched)
    lab.train(evaluate_every=0.5, checkpoint_steps=1, keep_checkpoints=1)
    assert len(looked) > 10


def test_a_bound_on_space_deletes_more_but_never_the_newest_or_the_best(lab: Any, scripted: Any) -> None:
    lab.train(scripted([0.9, 0.1, 0.1, 0.1, 0.1, 0.1]), evaluate_every=0.5, checkpoint_steps=1, keep_checkpoints=30, checkpoint_gigabytes=1e-9)
    assert lab.steps() == [4, 21]
    size = sum(path.stat().st_size for path in (lab.folder / "step-000021").iterdir())
    roomy = lab.elsewhere("roomy")
    roomy.train(scripted([0.9, 0.1, 0.1, 0.1, 0.1, 0.1]), evaluate_every=0.5, checkpoint_steps=1, keep_checkpoints=30, checkpoint_gigabytes=size * 4.5 / 1e9)
    assert roomy.steps() == [4, 19, 20, 21]


def test_checkpoints_come_by_time_when_no_steps_are_given(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 40))
    monkeypatch.setattr("tunesmith.training.loop.time.monotonic", lambda: float(next(clock)))
    trained = lab.train(valid=False, checkpoint_steps=None, checkpoint_seconds=100)
    saved = [event["step"] for event in trained.told("checkpoint")]
    assert len(saved) > 5 and all(1 < b - a <= 3 for a, b in zip(saved, saved[1:], strict=False))


def test_another_trainings_checkpoints_are_neither_used_nor_in_the_way(lab: Any, same: Any) -> None:
    """Checkpoints of later steps but other settings: passed over, and they do not push ours out."""
    lab.train(identity="other", epochs=5, checkpoint_steps=1)
    assert max(lab.steps()) == 35
    alone = lab.elsewhere("alone").train()
    trained = lab.train(keep_checkpoints=1)
    assert trained.told("resumed") == [] and "other settings or data" in trained.told("warning")[0]["text"]
    assert same(trained.weights(), alone.weights()) and STEPS in lab.steps() and max(lab.steps()) == STEPS


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="evaluate_every"):
        TrainSettings(evaluate_every=0)
