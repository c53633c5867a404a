"""Two runs compared on the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from samples import write_csv

import tunesmith

LEARNS: dict[str, Any] = {"method": "full", "train__epochs": 8, "train__learning_rate": 4e-3, "evaluate__against": ["majority"]}


def test_two_runs_are_compared_on_the_rows_of_the_first(cli_: Any, recipe_file: Path, colours: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    good = tunesmith.run(recipe_file, runs_dir=runs, name="good", **LEARNS)
    tunesmith.run(recipe_file, runs_dir=runs, name="weak", method="features", train__epochs=1, train__learning_rate=1e-6, evaluate__against=["majority"])
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
