"""The recipe: resolved paths and numbers, and the way out to disk and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith import methods, recipe, starters
from tunesmith.core.errors import Problems, UserError
from tunesmith.core.settings import write_yaml


def written(folder: Path, **values: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "r.yaml"
    path.write_text(json.dumps({"data": {"train": "d.csv"}} | values))
    return path


def test_paths_are_taken_from_the_recipes_folder_and_overrides_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (tmp_path / "there" / "base").mkdir(parents=True)
    (here / "base").mkdir()
    path = written(tmp_path / "there", data={"train": "d.csv", "valid": "../v.csv", "test": "none"}, model="base")
    one = recipe.load(path)
    assert one.data.train == str(tmp_path / "there" / "d.csv") and one.data.test == "none" and one.model.base == str(tmp_path / "there" / "base")
    assert Path(one.data.valid).resolve() == tmp_path / "v.csv"  # type: ignore[arg-type]
    two = recipe.load(path, ["data.test=t.csv", "data.valid=0.2", "model.base=base", "model.max_tokens=16"])
    assert two.data.train == one.data.train and two.data.test == str(here / "t.csv") and two.data.valid == 0.2
    assert two.model.base == str(here / "base") and two.model.max_tokens == 16


def test_starters_become_their_files(tmp_path: Path) -> None:
    one = recipe.load(written(tmp_path, data={"train": "starter/tickets"}))
    assert one.data.train == str(starters.DATA["tickets"]) and one.model.base == "starter/minilm"


@pytest.mark.parametrize("kind", methods.NAMES)
def test_auto_becomes_the_methods_own_numbers(tmp_path: Path, kind: str) -> None:
    method = methods.get(kind)
    one = recipe.load(written(tmp_path, method=kind))
    assert (one.train.epochs, one.train.learning_rate) == (method.epochs, method.learning_rate)
    two = recipe.load(written(tmp_path, method=kind), ["train.epochs=7", "train.learning_rate=2e-4"])
    assert (two.train.epochs, two.train.learning_rate) == (7, 2e-4)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"method": "features", "data": {"train": "starter/tickets", "attributes": ["gender"], "test": "t.csv"}},
        {"method": {"kind": "lora", "targets": ["query"]}, "gate": {"macro_f1": {"at_least": 0.5, "by": "lower"}}, "name": "a.b_c-1"},
        {"train": {"epochs": 3, "betas": [0.9, 0.95]}, "model": {"base": "starter/minilm", "truncation": "windows"}},
    ],
)
def test_a_resolved_recipe_reads_back_equal(tmp_path: Path, values: dict[str, Any]) -> None:
    one = recipe.load(written(tmp_path, **values))
    again = tmp_path / "runs" / "x" / "recipe.yaml"
    again.parent.mkdir(parents=True)
    again.write_text(write_yaml(recipe.dump(one)))
    assert recipe.load(again) == one


@pytest.mark.parametrize(
    ("stem", "name"),
    [("tickets", "tickets"), ("Tickets 2024 (new)", "tickets-2024--new"), ("données", "donn-es"), ("_x", "x"), ("новый", "run"), ("a" * 80, "a" * 64)],
)
def test_the_name_comes_from_the_file_and_can_be_read_back(tmp_path: Path, stem: str, name: str) -> None:
    path = tmp_path / f"{stem}.yaml"
    path.write_text("data: {train: d.csv}")
    one = recipe.load(path)
    assert one.name == name
    path.write_text(write_yaml(recipe.dump(one)))
    assert recipe.load(path) == one


@pytest.mark.parametrize("name", ["../x", "A", "-x", "x/y", "x" * 65, ".x"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Problems, match=r"must begin with a-z or 0-9 and hold only these, `.`, `_` and `-`, at most 64 in all"):
        recipe.load(written(tmp_path, name=name))


def test_short_forms_take_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, method="lora", model="starter/minilm")
    one = recipe.load(path, ["method.rank=4", "model.truncation=tail"])
    assert one.method.model_dump()["rank"] == 4 and one.model.truncation == "tail"
    assert recipe.load(path, ["method=full"]).method.kind == "full"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"valid": 1.5}, "`data.valid=1.5` must lie between 0 and 1, or be a file or `none`"),
        ({"test": 0}, "`data.test=0` must lie between 0 and 1, or be a file or `none`"),
        ({"valid": "10%"}, "10%` is a share in percent; write it between 0 and 1, as in 0.1"),
        ({"train": [{"source": "a.csv", "weight": 0}]}, "r.yaml: `data.train.0.weight=0` must be greater than 0\n"),
        ({"valid": 0.5, "test": 0.5}, "`data` valid=0.5 and test=0.5 leave no rows to learn from; together they must stay below 1"),
        ({"on_bad_row": "skip"}, "`data.on_bad_row=skip` must be `stop` or `reject`\n  -> choose one of these"),
    ],
)
def test_data_settings_that_cannot_be(tmp_path: Path, data: dict[str, Any], said: str) -> None:
    with pytest.raises(Problems) as caught:
        recipe.load(written(tmp_path, data={"train": "d.csv"} | data))
    assert said in str(caught.value) and "must be text" not in str(caught.value)


def test_a_bound_needs_an_end(tmp_path: Path) -> None:
    with pytest.raises(Problems) as caught:
        recipe.load(written(tmp_path, gate={"macro_f1": {}}))
    assert "`gate.macro_f1` needs at_least or at_most" in str(caught.value)


def test_a_general_text_is_taken_from_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "there", evaluate={"general": "g.txt"})
    assert recipe.load(path).evaluate.general == str(tmp_path / "there" / "g.txt")
    assert recipe.load(path, ["evaluate.general=g.txt"]).evaluate.general == str(tmp_path / "g.txt")
    assert recipe.load(path, ["evaluate.general=starter/desk"]).evaluate.general == "starter/desk"
    assert recipe.load(path, ["evaluate.general=null"]).evaluate.general is None


def test_settings_of_an_objective_without_its_kind_are_those_of_the_rows(tmp_path: Path) -> None:
    path = written(tmp_path, data={"train": "starter/dialogues"}, objective={"label_smoothing": 0.1})
    assert recipe.load(path).objective.kind == "sft"
    assert recipe.load(written(tmp_path, objective={"label_smoothing": 0.1})).objective.kind == "classification"


def test_rows_that_an_objective_does_not_take_are_said(tmp_path: Path) -> None:
    path = written(tmp_path, data={"train": "d.jsonl", "rows": "document"}, objective="sft")
    with pytest.raises(UserError, match="`objective=sft`"):
        recipe.load(path)


def test_a_method_without_steps_has_null_for_them_and_another_method_reads_null_as_auto() -> None:
    data = {"data": {"train": "starter/tickets", "text": "text", "label": "queue"}}
    solved = recipe.resolve(recipe.Recipe.model_validate(data | {"method": "features"}), "t")
    assert (solved.train.epochs, solved.train.learning_rate) == (None, None)
    switched = recipe.Recipe.model_validate(recipe.dump(solved) | {"method": "full"})
    assert (recipe.resolve(switched, "t").train.epochs, recipe.resolve(switched, "t").train.learning_rate) == (5, 2e-4)
    given = recipe.Recipe.model_validate(data | {"method": "features", "train": {"epochs": 7}})
    assert recipe.resolve(given, "t").train.epochs == 7  # kept, so that the run can name it
