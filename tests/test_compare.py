"""Two runs compared on the same rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from samples import trained, write_csv

import tunesmith

LEARNS: dict[str, Any] = {"method": "full", "train__epochs": 8, "train__learning_rate": 4e-3, "evaluate__against": ["majority"]}


def test_two_runs_are_compared_on_the_rows_of_the_first(cli_: Any, recipe_file: Path, colours: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    good = tunesmith.run(recipe_file, runs_dir=runs, name="good", **LEARNS)
    tunesmith.run(recipe_file, runs_dir=runs, name="weak", method="full", train__epochs=1, train__learning_rate=1e-6, evaluate__against=["majority"])
    code, out, _ = cli_("evaluate", "good", "--against", "weak", "--runs-dir", runs)
    assert code == 0 and "Better than weak" in out and f"Written to {good.folder / 'comparison-weak.json'}" in out and "flatter" not in out
    found = json.loads((good.folder / "comparison-weak.json").read_text())["splits"]["test"]
    own = json.loads((good.folder / "evaluation.json").read_text())["splits"]["test"]
    assert found["models"]["tuned"]["accuracy"]["value"] == own["models"]["tuned"]["accuracy"]["value"] and set(found["models"]) == {"tuned", "weak"}
    (one,) = [one for one in found["comparisons"] if one["metric"] == "macro_f1"]
    assert one["against"] == "weak" and one["low"] > 0 and one["p"] < 0.05
    tunesmith.run(recipe_file, runs_dir=runs, name="other", data__split_seed=5, **LEARNS)
    _, out, _ = cli_("evaluate", "good", "--against", "other", "--runs-dir", runs)
    assert "training rows of `other` also among the test rows: its figures here flatter" in out


def test_what_cannot_be_compared_is_said(cli_: Any, recipe_file: Path, colours: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    tunesmith.run(recipe_file, runs_dir=runs, name="good", train__epochs=1, evaluate__against=["majority"])
    rows = [{"text": f"one {'word' if i % 2 else 'thing'} of many, number {i}", "label": "ab"[i % 2], "who": str(i)} for i in range(60)]
    write_csv(colours, rows)
    tunesmith.run(recipe_file, runs_dir=runs, name="ab", train__epochs=1, evaluate__against=["majority"])
    code, _, err = cli_("evaluate", "good", "--against", "ab", "--runs-dir", runs)
    assert code == 2 and "the labels of `good` and `ab` are not the same (`a`, `b`, `blue`, `green`, `red`)\n  -> compare runs that learn one task" in err
    assert "a run cannot be compared with itself" in cli_("evaluate", "good", "--against", "good", "--runs-dir", runs)[2]
    assert cli_("evaluate", "good", "--against", "absent", "--runs-dir", runs)[0] == 2


def answered(noun: str, colour: str, i: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"what colour is {noun} {i}?"}, {"role": "assistant", "content": f"it is {colour}."}]}


def test_models_that_write_are_compared_on_the_same_questions(cli_: Any, tiny_llama: Path, tmp_path: Path) -> None:
    dialogues = [answered(noun, colour, i) for i in range(25) for noun, colour in (("rose", "red"), ("leaf", "green"), ("sky", "blue"))]
    measured = {"against": [], "general": None, "resamples": 100, "max_new_tokens": 8, "most_rows": 8}
    train = {"epochs": 6, "learning_rate": 1e-2, "batch_rows": 8, "precision": "fp32", "threads": 1}
    good, weak, other, teller = tmp_path / "good", tmp_path / "base", tmp_path / "other", tmp_path / "teller"
    for folder in (good, weak, other, teller):
        folder.mkdir()
    runs = {
        "good": trained(good, tiny_llama, dialogues, objective="sft", train=train, evaluate=measured, name="good"),
        "base": trained(weak, tiny_llama, dialogues, objective="sft", train={**train, "epochs": 1, "learning_rate": 1e-5}, evaluate=measured, name="base"),
        "pairs": trained(
            other, tiny_llama, [{"prompt": one["messages"][0]["content"], "completion": one["messages"][1]["content"]} for one in dialogues],
            objective={"kind": "sft", "template": "none"}, train={**train, "epochs": 1}, evaluate=measured, name="pairs",
            data={"train": "d.jsonl", "valid": "none", "test": 0.2, "split_seed": 7, "duplicates": {"near": None}},
        ),
        "teller": trained(teller, tiny_llama, [{"text": f"there was {i} of them"} for i in range(40)], objective="pretraining", train=train, name="teller"),
    }  # fmt: skip
    code, out, _ = cli_("evaluate", runs["good"], "--against", runs["base"])
    assert code == 0 and "Better than run base: ROUGE-L is" in out and "Better than run base: perplexity is" in out and "flatter" not in out
    assert out.splitlines()[1].startswith("good   ") and out.splitlines()[2].startswith("base   ")  # by their names, not as the parts they play
    result = json.loads((runs["good"] / "comparison-base.json").read_text())
    found, own = result["splits"]["test"], json.loads((runs["good"] / "evaluation.json").read_text())["splits"]["test"]
    assert set(found["models"]) == {"tuned", "run base"} and found["rows"] == 8 and found["samples"]
    for metric in ("rouge_l", "nll"):  # the same rows, answers and losses as when it was measured alone
        assert found["models"]["tuned"][metric]["value"] == own["models"]["tuned"][metric]["value"]

    before = (runs["good"] / "events.jsonl").read_bytes()
    code, out, _ = cli_("evaluate", runs["good"], "--against", runs["pairs"])
    assert code == 0 and "Better than pairs: ROUGE-L" in out and (runs["good"] / "events.jsonl").read_bytes() == before
    assert "among the test rows: its figures here flatter" in out  # its rows are the same dialogues, divided otherwise

    code, _, err = cli_("evaluate", runs["good"], "--against", runs["teller"])
    assert code == 2 and "`teller` learns documents and `good` answers\n  -> compare runs that learn one task" in err
    code, out, _ = cli_("evaluate", runs["teller"], "--against", _renamed(runs["teller"], "twin"))
    assert code == 0 and "No different from twin: perplexity is the same (" in out and "ROUGE" not in out


def _renamed(run: Path, name: str) -> Path:
    return Path(shutil.copytree(run, run.parent / name))


def test_a_model_that_writes_is_not_compared_with_a_classifier(cli_: Any, recipe_file: Path, tiny_llama: Path, tmp_path: Path) -> None:
    labels = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", name="labels", train__epochs=1, evaluate__against=["majority"])
    (tmp_path / "teller").mkdir()
    texts = trained(tmp_path / "teller", tiny_llama, [{"text": f"there was {i} of them"} for i in range(40)], objective="pretraining", name="texts")
    for one, other in ((labels.folder, texts), (texts, labels.folder)):
        code, _, err = cli_("evaluate", one, "--against", other)
        assert code == 2 and "`texts` writes texts and `labels` gives labels\n  -> compare runs that learn one task" in err
