"""Each self-check finds the fault that it is for, and says which it is; a right run records how close it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import released
import torch
from samples import llama_folder, trained

import tunesmith
from tunesmith import methods
from tunesmith.core.errors import UserError
from tunesmith.models import last_token, loading, used_embeddings
from tunesmith.models.fast import bert, llama
from tunesmith.stages import self_checks


@pytest.mark.parametrize("method", ["full", "lora", "freeze", "features", "bottleneck"])
def test_a_run_records_its_checks(recipe_file: Path, tmp_path: Path, method: str) -> None:
    run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", method=method)
    checks = json.loads((run.folder / "run.json").read_text())["training"]["self_checks"]
    assert checks["rows"] == 4 and set(checks) == {"rows", "adapt", "batch", "save"}
    assert all(0 <= checks[name]["apart"] < checks[name]["allowed"] / 10 for name in ("adapt", "batch", "save"))


def test_a_fast_forward_that_does_not_fit_is_left(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and prediction go through transformers' own forward then, with the states of frozen layers computed in each step."""
    layers = bert.layers
    monkeypatch.setattr(bert, "layers", lambda *given, **named: layers(*given, **named) * 1.01)
    run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", method="freeze")
    said = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    assert any("faster forward does not fit" in event["text"] for event in said if event["kind"] == "warning")
    assert json.loads((run.folder / "run.json").read_text())["training"]["self_checks"]["adapt"]["apart"] < 1e-5


def test_a_language_model_too_leaves_a_fast_forward_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norm = llama.norm
    monkeypatch.setattr(llama, "norm", lambda module, hidden: norm(module, hidden) * 1.1)
    rows = [{"prompt": f"{n} and {n}?", "completion": f"{n + n}."} for n in range(30)]
    folder = trained(tmp_path, llama_folder(tmp_path / "base"), rows)
    assert "faster forward does not fit" in (folder / "events.jsonl").read_text()


def test_a_wrong_model_is_refused_before_training(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller word table that is not quite the whole one's rows."""
    compact = used_embeddings.compact

    def broken(model: Any, examples: Any) -> Any:
        whole = compact(model, examples)
        model.get_input_embeddings().weight.data.mul_(1.5)
        return whole

    monkeypatch.setattr(used_embeddings, "compact", broken)
    with pytest.raises(UserError, match="self-check `adapt` failed: the adapted base does not compute what transformers computes"):
        tunesmith.run(recipe_file, runs_dir=tmp_path / "runs")
    assert not list((tmp_path / "runs").rglob("step-*"))


def test_a_row_that_depends_on_its_batch_is_found(tmp_path: Path, colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last place of a row is read, though padding may stand there."""
    classify = last_token._classify
    monkeypatch.setattr(last_token, "_classify", lambda self, attention_mask=None, **given: classify(self, **given))
    recipe = {"data": {"train": str(colours), "text": "text", "label": "label", "duplicates": {"near": None}}, "method": "full"}
    recipe |= {"model": str(released.save("gpt2-pad", tmp_path / "base")), "train": {"epochs": 1, "precision": "fp32", "threads": 1}}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    with pytest.raises(UserError, match="self-check `batch` failed: a row's result depends on the rows in its batch"):
        tunesmith.run(tmp_path / "r.yaml", runs_dir=tmp_path / "runs")


def test_a_saved_model_that_is_another_one_is_found(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part that the base has no weights for is drawn anew on loading, as when an adapter method forgets to save it."""
    loaded = methods.get("lora").load

    def forgetful(saved: Any) -> Any:
        model: Any = loaded(saved)
        model.bert.pooler.dense.weight.data.normal_(0, 0.02, generator=torch.Generator().manual_seed(5))
        return model

    monkeypatch.setattr(methods.get("lora"), "load", forgetful)
    with pytest.raises(UserError, match="self-check `save` failed: the saved model does not compute what the trained one does") as caught:
        tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", method="lora")
    assert "method: full" in caught.value.remedy
    assert not (tmp_path / "runs" / "colours" / "model").exists()


def test_frozen_random_parts_are_refused(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "besides_heads", lambda model: None)
    base = released.save("bert-no-pooler", tmp_path / "bert")
    with pytest.raises(UserError, match=r"has no weights for .*pooler.dense.bias`, and this method would leave them"):
        tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", method={"kind": "lora", "targets": ["query"]}, model=str(base))


def test_scores_that_are_no_numbers_fail() -> None:
    """NaN is never within what is allowed."""
    apart = self_checks._apart([torch.tensor([0.0, float("nan")]), torch.zeros(2)], [torch.zeros(2), torch.zeros(2)])
    assert not apart.passed
