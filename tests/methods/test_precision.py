"""Every method trains in bf16 (what `precision: auto` takes on machines that gain by it), and what is saved is fp32."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

import tunesmith


@pytest.mark.parametrize("method", ["bottleneck", "features", "freeze", "full", "lora", "prefix"])
def test_bf16_follows_fp32(recipe_file: Path, tiny_base: Path, tmp_path: Path, method: str) -> None:
    """Step by step within bf16's rounding, and no number of the saved model is rounded to it."""
    settings = {"train__epochs": 1, "train__learning_rate": 1e-3, "train__log_every": 1, "evaluate__against": ["majority"]}
    curves = {}
    for precision in ("fp32", "bf16"):
        run = tunesmith.run(recipe_file, runs_dir=tmp_path / precision, method=method, train__precision=precision, **settings)
        events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
        curves[precision] = [event["loss"] for event in events if event["kind"] == "step"]
    assert len(curves["bf16"]) > 8 and curves["bf16"] == pytest.approx(curves["fp32"], abs=0.02)
    [path] = (run.folder / "model").glob("*.safetensors")
    with safe_open(path, "pt") as saved, safe_open(tiny_base / "model.safetensors", "pt") as base:
        assert {saved.get_tensor(name).dtype.itemsize for name in saved.keys()} == {4}
        if method == "freeze":  # with its two layers learning, the table below them is frozen: the base's own, not its rounding
            name = "embeddings.word_embeddings.weight"
            assert (saved.get_tensor(f"bert.{name}") == base.get_tensor(name)).all()
