"""What a run's machine records of how its precision was chosen."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from tunesmith.stages import train
from tunesmith.training import device
from tunesmith.training.device import Machine


@pytest.mark.parametrize(("gain", "precision"), [(1.4991, "fp32"), (1.5, "bf16"), (7.6543, "bf16")])
def test_auto_records_the_gain_that_it_measured(monkeypatch: pytest.MonkeyPatch, gain: float, precision: str) -> None:
    monkeypatch.setattr(device, "bf16_gain", lambda: gain)
    made = device.choose("cpu", "auto", 1)
    assert (made.precision, made.bf16_gain) == (precision, round(gain, 3))
    assert device.choose("cpu", "fp32", 1).bf16_gain is None


def test_an_older_run_loads_and_the_timing_parts_no_checkpoint() -> None:
    older = {"device": "cpu", "name": "a", "precision": "bf16", "threads": 2}
    assert asdict(Machine(**older)) == older | {"bf16_gain": None}  # type: ignore[arg-type]
    assert train._decisive(Machine(**older)) == train._decisive(Machine(**older, bf16_gain=7.6)) == older  # type: ignore[arg-type]
