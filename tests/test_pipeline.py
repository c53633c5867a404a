"""A recipe walks through all rooms, and what it leaves behind keeps its contracts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tunesmith
from tunesmith import pipeline, recipe


@pytest.mark.parametrize(("method", "epochs", "rate"), [("features", 12, 2e-3), ("full", 8, 4e-3), ("freeze", 12, 5e-3), ("lora", 12, 1e-2)])
def test_a_run_keeps_the_contract_of_its_directory(recipe_file: Path, tmp_path: Path, method: str, epochs: int, rate: float) -> None:
    run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", method=method, train__epochs=epochs, train__learning_rate=rate)
    names = {path.name for path in run.folder.iterdir()}
    assert {"recipe.yaml", "run.json", "events.jsonl", "data", "model", "evaluation.json", "report.html", "MODEL_CARD.md"} <= names
    assert ("checkpoints" in names) == (method != "features")  # what is solved for has no steps to go on from
    written = {path.name for path in (run.folder / "data").iterdir()}
    assert written >= {"train.parquet", "valid.parquet", "test.parquet", "card.json", "rejected.jsonl", "inspection.json", "DATASHEET.md"}
    state = json.loads((run.folder / "run.json").read_text())
    assert state["status"] == "finished" and [s["name"] for s in state["stages"]] == ["prepare", "inspect", "train", "evaluate", "report"]
    assert {"steps", "tokens", "seconds", "tokens_per_second", "peak_memory_mb", "kept_step"} <= set(state["training"])
    evaluation = json.loads((run.folder / "evaluation.json").read_text())
    assert set(evaluation["splits"]["test"]["models"]) == {"tuned", "base", "tfidf", "majority"}
    assert {"model", "against", "metric", "difference", "low", "high", "p"} <= set(evaluation["splits"]["test"]["comparisons"][0])
    assert run.evaluation.test.tuned.accuracy.value > run.evaluation.test.majority.accuracy.value
    assert run.predict(["a leaf and some grass"])[0].label in ("red", "green", "blue")


def test_the_same_recipe_is_reused_and_a_changed_one_shares_what_it_can(recipe_file: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = tunesmith.run(recipe_file, runs_dir=runs)
    stamp = (first.folder / "model" / "model.safetensors").stat().st_mtime_ns
    assert tunesmith.run(recipe_file, runs_dir=runs).folder == first.folder
    assert (first.folder / "model" / "model.safetensors").stat().st_mtime_ns == stamp
    second = tunesmith.run(recipe_file, runs_dir=runs, evaluate__seed=1)
    assert second.name == "colours-2"
    stages = {s["name"]: s.get("shared_from") for s in json.loads((second.folder / "run.json").read_text())["stages"]}
    assert stages == {"prepare": "colours", "inspect": "colours", "train": "colours", "evaluate": None, "report": None}
    third = tunesmith.run(recipe_file, runs_dir=runs, fresh=True)
    assert third.name == "colours-3" and "shared_from" not in (third.folder / "run.json").read_text()


def test_changed_data_make_a_new_run(recipe_file: Path, colours: Path, tmp_path: Path) -> None:
    first = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs")
    with open(colours, "a") as file:
        file.write("a cherry by the old house,red,p1\r\n")
    assert tunesmith.run(recipe_file, runs_dir=tmp_path / "runs").folder != first.folder


def test_resume_changes_only_what_may_change(recipe_file: Path, tmp_path: Path) -> None:
    options = pipeline.Options(runs_dir=tmp_path / "runs")
    one = pipeline.run(recipe.load(recipe_file), options)
    steps = one.state["training"]["steps"]
    longer = pipeline.resume(one, ["train.epochs=3"], options)
    assert longer.folder == one.folder and longer.state["training"]["steps"] == steps // 2 * 3
    assert longer.state["changes"] == ["train.epochs=3"]
    assert [e["step"] for e in longer.events("resumed")] == [steps]


def test_without_a_test_split_the_report_says_so(recipe_file: Path, tmp_path: Path) -> None:
    run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", data__test="none", data__valid="none")
    assert run.evaluation is None
    assert "Nothing was measured" in run.report.read_text()
