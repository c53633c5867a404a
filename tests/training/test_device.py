"""Devices: which are known and here, and what goes to them. No GPU is at hand: what torch says of one is put in its mouth."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tunesmith import methods
from tunesmith.core.errors import UserError
from tunesmith.methods.freeze import FreezeSettings
from tunesmith.methods.full import FullSettings
from tunesmith.models import catalog, features, layers
from tunesmith.models.fast import bert
from tunesmith.models.loading import Head
from tunesmith.objectives.classification import Classification, ClassificationSettings
from tunesmith.stages import train
from tunesmith.tokens import encode, tokenization
from tunesmith.tokens.examples import Batch, TokenExamples
from tunesmith.training import hardware, loop
from tunesmith.training.hardware import Machine
from tunesmith.training.optimizer import Optimizer
from tunesmith.training.settings import TrainSettings

LABELS = ["a", "b", "c"]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine as torch would describe it."""

    def have(cuda: int = 0, mps: bool = False, bf16: str = "none") -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: f"GPU {name}")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 == "real" or (bf16 == "emulated" and including_emulation))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    have()
    return have


@pytest.mark.parametrize("name", ["gpu", "cud", "xpu", "cuda:", "cuda:one", "CPU", ""])
def test_what_is_no_device_is_refused_in_the_recipe(name: str) -> None:
    with pytest.raises(ValidationError, match="is no device: they are auto, cpu, cuda, cuda:N and mps"):
        TrainSettings(device=name)
    assert TrainSettings(device="cuda:1").device == "cuda:1" and TrainSettings(device="mps").device == "mps"


def test_a_device_that_is_not_here_is_refused_and_those_that_are_here_are_named(gpus: Any) -> None:
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(UserError, match=f"`train.device={name}`, but torch sees only `cpu`"):
            hardware.choose(name, "fp32", 1)
    gpus(cuda=2)
    assert hardware.here() == ["cuda:0", "cuda:1", "cpu"] and hardware.is_here("cuda") and not hardware.is_here("cuda:2")
    with pytest.raises(UserError, match="torch sees only `cuda:0`, `cuda:1`, `cpu`"):
        hardware.choose("cuda:2", "fp32", 1)
    with pytest.raises(UserError, match="is not a device"):
        hardware.choose("gpu", "fp32", 1)


def test_auto_takes_the_first_gpu(gpus: Any) -> None:
    assert hardware.choose("auto", "fp32", 1).device == "cpu"
    gpus(mps=True)
    assert (found := hardware.choose("auto", "auto", 1)).device == "mps" and found.precision == "fp32"
    gpus(cuda=1, mps=True)
    assert hardware.choose("auto", "fp32", 1).device == "cuda:0"


@pytest.mark.parametrize(("bf16", "precision"), [("none", "fp32"), ("emulated", "fp32"), ("real", "bf16")])
def test_bf16_that_a_gpu_only_emulates_is_not_chosen(gpus: Any, bf16: str, precision: str) -> None:
    gpus(cuda=1, bf16=bf16)
    assert hardware.choose("cuda", "auto", 1).precision == precision
    assert hardware.choose("cuda", "bf16", 1).precision == "bf16"  # who asks for it gets it


def test_a_system_without_affinity_counts_its_cores(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert hardware.choose("cpu", "fp32", None).threads == 3
    torch.set_num_threads(before)


# --- what goes to a device ----------------------------------------------------------------------------------------------------


class Bench:
    """The tiny base with a few rows."""

    def __init__(self, folder: Path) -> None:
        self.base = catalog.resolve(catalog.ModelSettings(base=str(folder)))
        reader = tokenization.load(self.base.folder)
        self.objective = Classification(LABELS, False, ClassificationSettings())
        tokens = encode.encode(reader, [f"the sea in place {row}" + " rose" * (row % 3) for row in range(12)], None, 32)
        self.examples = TokenExamples(tokens, self.objective.targets([[LABELS[row % 3]] for row in range(12)]), reader.pad_id)

    def adapt(self, settings: Any) -> Any:
        torch.manual_seed(0)
        return methods.get(settings.kind).adapt(self.base, Head(LABELS, False, 0.0), settings)

    def train(self, model: Any, folder: Path, **settings: Any) -> None:
        made = TrainSettings.model_validate({"epochs": 1, "batch_rows": 6, "learning_rate": 1e-3, **settings})
        loop.train(model, self.objective, self.examples, None, made, Machine("cpu", "test", "bf16", 1), folder, "test", lambda event: None)


@pytest.fixture
def bench(tiny_base: Path) -> Bench:
    return Bench(tiny_base)


def test_what_does_not_learn_is_rounded_before_it_moves_and_whole_again_behind(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base of 7 billion frozen weights must never stand on the device in fp32."""
    model = bench.adapt(FreezeSettings(layers=1, cache=False))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    moved: list[dict[str, torch.dtype]] = []
    move = torch.nn.Module.to

    def noting(self: Any, *given: Any) -> Any:
        if self is model:
            moved.append({name: p.dtype for name, p in self.named_parameters()})
        return move(self, *given)

    monkeypatch.setattr(torch.nn.Module, "to", noting)
    bench.train(model, tmp_path)
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(moved) == 2 and 0 < len(learns) < len(before)
    assert moved[0] == {name: torch.float32 if name in learns else torch.bfloat16 for name in before}
    assert set(moved[1].values()) == {torch.bfloat16}  # back to the CPU, and only there in fp32
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, before[name]) is (name not in learns)


def test_a_step_waits_for_the_device_once_however_many_parts_it_has(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever turns a tensor into a number between the first part's forward and the gradient's norm would wait."""
    waits: list[str] = []
    inside = [False]
    loss, norm = Classification.loss, Optimizer.gradient_norm

    def forward(self: Any, model: Any, batch: Any) -> Any:
        inside[0] = True
        return loss(self, model, batch)

    def normed(self: Any) -> float:
        inside[0] = False
        return norm(self)

    def noting(name: str, function: Any) -> Any:
        return lambda *given: (waits.append(name) if inside[0] else None, function(*given))[1]

    monkeypatch.setattr(Classification, "loss", forward)
    monkeypatch.setattr(Optimizer, "gradient_norm", normed)
    monkeypatch.setattr(bert, "padding_bias", lambda mask, dtype: (mask == 0)[:, None, None, :].to(dtype) * torch.finfo(dtype).min)
    for name in ("__float__", "__bool__", "item", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, noting(name, getattr(torch.Tensor, name)))
    bench.train(bench.adapt(FullSettings()), tmp_path, micro_rows=2)
    assert waits == []
    inside[0] = True
    assert float(torch.ones(())) == 1 and waits == ["__float__"]  # it would be seen


@pytest.mark.parametrize("kind", ["cpu", "meta"])
def test_whether_there_is_padding_is_asked_where_the_answer_is_at_hand(kind: str) -> None:
    """A tensor on torch's meta device has no values: to ask for one raises."""
    full, padded = torch.ones(2, 3, dtype=torch.int64, device=kind), torch.zeros(2, 3, dtype=torch.int64, device=kind)
    made = [bert.padding_bias(one, torch.float32) for one in (full, padded)]
    assert (made[0] is None) is (kind == "cpu") and made[1] is not None and made[1].shape == (2, 1, 1, 3)


def test_lengths_stay_on_the_cpu_and_the_rest_moves() -> None:
    batch = Batch({"ids": torch.arange(5), "lengths": torch.tensor([3, 2])}, torch.arange(5), None, torch.arange(2), 2, 5)
    there = batch.to(torch.device("meta"))
    assert there.inputs["lengths"].tolist() == [3, 2] and there.inputs["ids"].device.type == "meta"
    assert there.targets is not None and there.targets.device.type == "meta" and there.weights_B is None


def test_vectors_and_frozen_states_are_computed_where_the_training_is(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    asked: list[str] = []
    monkeypatch.setattr(features, "placed", lambda model, wanted: asked.append(wanted) or torch.device("cpu"))
    monkeypatch.setattr(layers, "placed", features.placed)
    model = bench.adapt(FreezeSettings(layers=1))
    model.caches_on = "cuda:1"
    layers.cached(model, bench.examples, lambda done, of: None)
    made = [features.vectors(bench.base, bench.examples, "mean", device=name).computed for name in ("cpu", "cuda:1", "cuda:0", "cpu")]
    assert asked == ["cuda:1", "cpu", "cuda:1"] and made == [12, 12, 0, 0]  # another kind of device has a table of its own


@pytest.mark.parametrize(("free", "place"), [(10**9, "cuda"), (1000, "cpu")])
def test_a_base_that_a_gpu_has_no_room_for_is_computed_on_the_cpu(bench: Bench, monkeypatch: pytest.MonkeyPatch, free: int, place: str) -> None:
    model = torch.nn.Linear(30, 30)
    moved: list[str] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda one: (free, 10**10))
    monkeypatch.setattr(torch.nn.Linear, "to", lambda self, where: moved.append(where.type), raising=False)
    assert features.placed(model, "cuda:0").type == place and moved == [place]


def test_measuring_elsewhere_takes_more_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Told:
        def measure(self, model: Any, batch: Batch) -> dict[str, Any]:
            sizes.append(batch.rows)
            return {"rows": torch.tensor(batch.rows)}

        def summary(self, sums: dict[str, float]) -> dict[str, float]:
            return sums

    monkeypatch.setattr(loop, "MEASURE_TOKENS", 16)
    told: Any = Told()
    for place in ("cpu", "meta"):
        assert loop.measure(torch.nn.Linear(1, 1), told, bench.examples, torch.device(place)) == {"rows": 12.0}
    assert sizes == [1] * 12 + [12] and np.isfinite(loop.MEASURE_TOKENS_DEVICE)


# --- what a run records --------------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "precision"), [(1.4991, "fp32"), (1.5, "bf16"), (7.6543, "bf16")])
def test_auto_records_the_gain_that_it_measured(monkeypatch: pytest.MonkeyPatch, gain: float, precision: str) -> None:
    monkeypatch.setattr(hardware, "bf16_gain", lambda: gain)
    made = hardware.choose("cpu", "auto", 1)
    assert (made.precision, made.bf16_gain) == (precision, round(gain, 3))
    assert hardware.choose("cpu", "fp32", 1).bf16_gain is None


def test_an_older_run_loads_and_the_timing_parts_no_checkpoint() -> None:
    older = {"device": "cpu", "name": "a", "precision": "bf16", "threads": 2}
    assert asdict(Machine(**older)) == older | {"bf16_gain": None}  # type: ignore[arg-type]
    assert train._decisive(Machine(**older)) == train._decisive(Machine(**older, bf16_gain=7.6)) == older  # type: ignore[arg-type]
