"""`tunesmith init`: any source that `check` takes becomes a recipe that `check` accepts as it stands, in whichever folder it lies."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith import recipe, starters
from tunesmith.data.preparation.card import NAMES
from tunesmith.data.readers import hub
from tunesmith.init import default_target, first_recipe

Cli = Callable[..., tuple[int, str, str]]
WORDS = "invoice parcel refund login screen order late broken colour battery cable please thanks help soon number account".split()
ROWS = 60


def text(number: int) -> str:
    drawn = random.Random(number)
    return " ".join(drawn.choice(WORDS) for _ in range(12))


def records(kind: str) -> list[dict[str, Any]]:
    said = {
        "labelled": lambda i: {"message": text(i), "queue": "abc"[i % 3]},
        "dialogue": lambda i: {"messages": [{"role": "user", "content": text(i)}, {"role": "assistant", "content": text(-i - 1)}]},
        "completion": lambda i: {"prompt": text(i), "completion": text(-i - 1)},
        "document": lambda i: {"text": text(i)},
        "preference": lambda i: {"prompt": text(i), "chosen": text(-i - 1), "rejected": text(i + 1000)},
    }
    return [said[kind](i) | {"source" if kind == "document" else "who": f"w{i % 5}"} for i in range(ROWS)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "objective", "method"), [("dialogue", "sft", "lora"), ("completion", "sft", "lora"), ("document", "pretraining", "full")]
)
def test_a_first_recipe_suits_the_rows(here: Path, kind: str, objective: str, method: str) -> None:
    write(here / "d.jsonl", records(kind))
    written, said = first_recipe("d.jsonl", here / "d.yaml")
    assert written == f"data:\n  train: d.jsonl\n  rows: {kind}\n  valid: 0.1\n  test: 0.2\nmodel: starter/scribe\nobjective: {objective}\nmethod: {method}\n"
    assert said[0] == f"d.jsonl: the rows are {NAMES[kind]}, {ROWS} of them" and [one for one in said if one.startswith("other columns: ")]
    loaded = recipe.load(here / "d.yaml")
    assert (loaded.data.rows, loaded.objective.kind, loaded.method.kind, loaded.model.base) == (kind, objective, method, "starter/scribe")


def shop(folder: Path) -> None:
    with sqlite3.connect(folder / "shop.db") as database:
        database.execute("CREATE TABLE tickets (id INTEGER, message TEXT, queue TEXT)")
        database.executemany("INSERT INTO tickets VALUES (?, ?, ?)", [(i, row["message"], row["queue"]) for i, row in enumerate(records("labelled"))])
    database.close()


SELECT = "SELECT message, queue FROM tickets ORDER BY id"


@pytest.mark.parametrize(
    ("source", "options", "target", "train", "deep"),
    [
        ("./mails/", [], "mails.yaml", "mails", ""),
        ("mails/**/*.jsonl", [], "mails.yaml", "mails/**/*.jsonl", ""),
        ("mails/*.jsonl", [], "mails.yaml", "", "deep/"),
        ("sqlite:///shop.db", ["--query", SELECT], "shop.yaml", {"source": "sqlite:///shop.db", "query": SELECT}, ""),
        ("sqlite:///shop.db", ["--query", SELECT], "shop.yaml", {}, "deep/"),
        ("starter/mails", [], "mails.yaml", "starter/mails", ""),
    ],
)
def test_init_takes_what_check_takes(
    cli_: Cli, here: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, source: str, options: list[str], target: str, train: Any, deep: str
) -> None:
    rows = records("labelled")
    write(here / "mails" / "a.jsonl", rows[:40])
    write(here / "mails" / "old" / "b.jsonl", [{"text": row["message"], "label": row["queue"]} for row in rows[40:]])  # columns of its own
    write(here / "mails" / ".hidden.jsonl", rows[:1])
    shop(here)
    monkeypatch.setitem(starters.DATA, "mails", here / "mails" / "a.jsonl")
    (here / "deep").mkdir()
    code, out, err = cli_("init", source, *options, *(["-o", deep + target] if deep else []))
    assert code == 0 and f"Written to {deep}{target}. Next: tunesmith check {deep}{target}\n" in err
    loaded = recipe.read_yaml(here / (deep + target))
    assert out == (here / (deep + target)).read_text() + "\n"
    if not deep:
        assert loaded["data"]["train"] == train
    (here / "elsewhere").mkdir()
    with pytest.MonkeyPatch.context() as patch:  # from wherever one stands
        patch.chdir(here / "elsewhere")
        code, first, err = cli_("check", here / (deep + target), f"model={tiny_base}")
    assert (code, err) == (0, "")
    assert first.partition(";")[0] == cli_("check", source, *options)[1].partition(";")[0]


def test_a_set_of_the_hub_with_its_split(here: Path, cli_: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(here / "hub" / "valid.jsonl", records("completion"))
    write(here / "hub" / "train.jsonl", records("labelled"))
    monkeypatch.setattr(hub, "_listing", lambda *_: (here / "hub", ["train.jsonl", "valid.jsonl"]))
    monkeypatch.setattr(hub, "_download", lambda *_: here / "hub")
    code, _, err = cli_("init", "hub:shop/asked", "--split", "validation")
    assert code == 0 and "hub:shop/asked: the rows are prompts with completions, 60 of them" in err and path.exists()
    assert recipe.read_yaml(here / "shop--asked.yaml")["data"]["train"] == {"source": "hub:shop/asked", "split": "validation"}
    assert recipe.load(here / "shop--asked.yaml").data.rows == "completion"


def test_what_is_said_on_the_command_line_stands_in_the_recipe(here: Path, cli_: Cli) -> None:
    rows = records("labelled")
    write(here / "in" / "d.jsonl", [{"body_of_it": row["message"], "kind_of_it": row["queue"], "who": row["who"]} for row in rows])
    write(here / "test.jsonl", [{"body_of_it": text(9000 + i), "kind_of_it": "abc"[i % 3]} for i in range(20)])
    changes = ("data.text=body_of_it", "data.label=kind_of_it", "data.test=test.jsonl", "data.on_bad_row=reject", "method=lora", "train.epochs=2")
    code, _, err = cli_("init", "in/d.jsonl", *changes)
    assert code == 0 and "other columns: who." in err
    assert recipe.read_yaml(here / "d.yaml") == {
        "data": {"train": "in/d.jsonl", "text": "body_of_it", "label": "kind_of_it", "valid": 0.1, "test": "test.jsonl", "on_bad_row": "reject"},
        "model": "starter/minilm",
        "method": "lora",
        "train": {"epochs": 2},
    }
    last = cli_("check", "in/d.jsonl", *changes[:2])[1].splitlines()[-1]
    assert last == "The data can be used. Next: tunesmith init in/d.jsonl data.text=body_of_it data.label=kind_of_it"
    assert cli_("init", "in/d.jsonl", *changes[:2], "objective=sft", "-o", "other.yaml")[2].startswith("error: ") and not (here / "other.yaml").exists()


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("nothing", [], "nothing: no such file"),
        ("*.parquet", [], "*.parquet: no file matches"),
        ("empty", [], "empty: no file in it that can be read as rows\n  -> give files ending in .csv"),
        ("sqlite:///shop.db", [], "shop.db: a database needs a query; its tables are `tickets`\n  -> add one: query: SELECT"),
        ("sqlite:///shop.db", ["--query", "DELETE FROM tickets"], "shop.db: the query begins with `DELETE`; only reading is allowed"),
        ("d.jsonl", ["--query", SELECT], "recipe, `data.train`: `query` does not go with a file\n  -> leave query out, or give a database's URL"),
        ("d.jsonl", ["--split", "test"], "recipe, `data.train`: `split` does not go with a file\n  -> leave split out, or give a database's URL"),
        ("postgresql://me:secret@db/shop", ["--query", SELECT], "postgresql://me:***@db/shop: a password stands in the URL; it would be kept"),
        ("mysql://db/shop", ["--query", SELECT], "mysql://db/shop: `mysql://` is no source of rows"),
        ("hub:shop", [], "hub:shop: not the name of a data set\n  -> write hub:OWNER/NAME"),
        ("preferred.jsonl", [], "no objective learns from rows of the kind `preference`\n  -> to train, give `completion`, `dialogue`"),
        ("few.jsonl", [], "few.jsonl: 3 usable rows; at least 8 are needed\n  -> add rows"),
        ("bad.jsonl", [], "bad.jsonl:8: the completion in column `completion` is missing"),
    ],
)
def test_what_no_recipe_can_be_written_for_is_said(here: Path, cli_: Cli, source: str, options: list[str], said: str) -> None:
    shop(here)
    (here / "empty").mkdir()
    write(here / "d.jsonl", records("completion"))
    write(here / "few.jsonl", records("completion")[:3])
    write(here / "bad.jsonl", [*records("completion")[:7], {"prompt": "x"}, *records("completion")[8:]])
    write(here / "preferred.jsonl", records("preference"))
    before = sorted(here.iterdir())
    code, out, err = cli_("init", source, *options)
    assert code == 2 and out == "" and said in err and err.startswith("error: "), err
    assert sorted(here.iterdir()) == before


def test_check_names_what_can_follow(here: Path, cli_: Cli) -> None:
    write(here / "preferred ones.jsonl", records("preference"))
    write(here / "my mails" / "d.jsonl", records("completion"))
    last = ["The data can be read, but no objective learns from rows of the kind `preference`."]
    last += ["  -> to train, give `completion`, `dialogue`, `document`, `labelled` rows; these can only be checked"]
    assert cli_("check", "preferred ones.jsonl")[1].splitlines()[-2:] == last
    assert cli_("check", "my mails")[1].splitlines()[-1] == "The data can be used. Next: tunesmith init 'my mails'"
    said = "error: command line: --query goes with data, not with a recipe\n  -> write it into the recipe, beside the source: data.train: {source: ...}\n"
    assert cli_("check", "r.yaml", "--query", SELECT) == (2, "", said)


def test_names_of_recipes(here: Path) -> None:
    write(here / "v1.2.csv", [])
    write(here / "packed.jsonl.gz", [])
    (here / "sub" / "mails").mkdir(parents=True)
    names = {
        "v1.2.csv": "v1.2.yaml",
        "packed.jsonl.gz": "packed.yaml",
        "sub/mails/": "mails.yaml",
        "sub/..": f"{here.name}.yaml",
        "*.csv": f"{here.name}.yaml",
        "sub/mails/*.csv": "mails.yaml",
        "hub:owner/name/config@main": "owner--name--config.yaml",
        "postgresql://me:${PASSWORD}@host/shop?sslmode=require": "shop.yaml",
        "${DATABASE_URL}": "DATABASE_URL.yaml",
        "/": "data.yaml",
    }
    assert {source: str(default_target(source)) for source in names} == names


def test_a_name_that_begins_with_a_tilde_is_no_users_home(here: Path, cli_: Cli) -> None:
    write(here / "~nobody.jsonl", records("labelled"))
    code, out, _ = cli_("check", "~nobody.jsonl")
    assert code == 0 and "texts with labels" in out
    assert first_recipe("~nobody.jsonl", default_target("~nobody.jsonl"))[0] and recipe.load(here / "~nobody.yaml").data.train == str(here / "~nobody.jsonl")
