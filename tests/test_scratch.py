"""A language model that begins with nothing: its tokenizer, its template, and a run that learns from random weights."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tunesmith
from tunesmith import pipeline, recipe
from tunesmith.models import scratch
from tunesmith.models.scratch import END, PAD, ROLES, TEMPLATE, ScratchSettings
from tunesmith.tokens import chat_template, tokenization
from tunesmith.tokens.sequences import end_of

SIZE = {"vocabulary": 380, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "feed_forward": 48, "max_tokens": 64}
THINGS = {"bread": "flour water salt yeast", "soup": "leeks water salt cream", "tea": "leaves water milk", "cake": "flour eggs sugar butter"}


def texts(count: int, seed: int = 0) -> list[str]:
    """Short documents of one kind, no two alike."""
    draw = random.Random(seed)
    out = []
    for number in range(count):
        thing = draw.choice(sorted(THINGS))
        first, second = draw.sample(THINGS[thing].split(), 2)
        out.append(f"To make {thing} number {number}, take {first} and {second}, and wait {draw.randint(2, 90)} minutes.")
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base without weights."""
    folder = tmp_path_factory.mktemp("made")
    scratch.make(ScratchSettings(**SIZE), iter([texts(50), texts(50, 1)]), folder)
    return folder


@pytest.fixture(scope="module")
def reader(made: Path) -> tokenization.Tokenizer:
    return tokenization.load(made)


# --- the tokenizer and the template -------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_every_text_comes_back(reader: Any, text: str) -> None:
    ids = reader.library.encode(text, add_special_tokens=False).ids
    assert reader.library.decode(ids, skip_special_tokens=False) == text


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("0123456789 ,.aT\n"), max_size=40))
def test_digits_stand_alone(reader: Any, text: str) -> None:
    parts = reader.library.encode(text, add_special_tokens=False).tokens
    assert [part for part in parts if re.search(r"\d", part)] == re.findall(r"\d", text)


def test_words_of_the_rows_are_tokens_and_the_marks_are_one_each(reader: tokenization.Tokenizer) -> None:
    library = reader.library
    assert "Ġminutes" in library.encode("wait 5 minutes").tokens and library.get_vocab_size() <= SIZE["vocabulary"]
    assert [library.token_to_id(name) for name in (PAD, END, *ROLES)] == [0, 1, 2, 3, 4]
    assert library.encode(f"a{END}{ROLES[1]}b").tokens == ["a", END, ROLES[1], "b"]
    assert reader.prefix == reader.suffix == () and reader.pad_id == 0


def test_the_template_is_what_transformers_makes_of_it(made: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(made)
    ours = chat_template.load(made)
    assert ours.template == TEMPLATE and dict(ours.tokens) == {"eos_token": END, "pad_token": PAD}
    turns = [{"role": role, "content": text} for role, text in (("system", "Be brief."), ("user", " Two\nlines? "), ("assistant", "é 42"), ("user", "?"))]
    assert ours.write(turns[:2], True) == "<|system|>Be brief.<|end|><|user|> Two\nlines? <|end|><|assistant|>"
    for some, answer_next in ((turns, True), (turns[:3], False), (turns[1:2], True), (turns[1:3], False)):
        assert ours.write(some, answer_next) == theirs.apply_chat_template(some, tokenize=False, add_generation_prompt=answer_next)
        ids = tokenization.load(made).library.encode(ours.write(some, answer_next), add_special_tokens=False).ids
        assert ids == theirs.apply_chat_template(some, add_generation_prompt=answer_next, return_dict=False)
    assert (theirs.eos_token, theirs.pad_token, theirs.model_max_length) == (END, PAD, 64)
    assert end_of(tokenization.load(made), json.loads((made / "config.json").read_text()), ours) == [1]


def test_the_same_rows_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    for name, rows in (("again", texts(50)), ("other", texts(50, 7))):
        (tmp_path / name).mkdir()
        scratch.make(ScratchSettings(**SIZE), iter([rows, texts(50, 1)]), tmp_path / name)
    names = {path.name for path in made.iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"}
    assert all((made / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)
    assert (made / "tokenizer.json").read_bytes() != (tmp_path / "other" / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("change", [{"heads": 5}, {"heads": 16, "width": 16}, {"kv_heads": 3}])
def test_sizes_that_cannot_be_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must divide"):
        ScratchSettings(**(SIZE | change))


def test_the_identity_knows_every_size() -> None:
    seen = {scratch.identity(ScratchSettings(**(SIZE | {name: value * 2}))) for name, value in SIZE.items() if name != "kv_heads"}
    assert len(seen | {scratch.identity(ScratchSettings(**SIZE))}) == len(SIZE)


# --- a run --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """200 documents and a model that learns from them in some seconds."""
    (tmp_path / "recipes.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(200)))
    path = tmp_path / "recipes.yaml"
    path.write_text(
        json.dumps(
            {
                "data": {"train": "recipes.jsonl"},
                "objective": "pretraining",
                "model": {"scratch": SIZE},
                "train": {"epochs": 4, "learning_rate": 1e-2, "batch_rows": 8, "precision": "fp32", "threads": 1},
                "evaluate": {"resamples": 100, "general": None},
            }
        )
    )
    return path


def stages(run: Any) -> dict[str, str | None]:
    return {one["name"]: one.get("shared_from") for one in json.loads((run.folder / "run.json").read_text())["stages"]}


def test_a_run_makes_its_base_learns_and_shares_what_it_can(recipe_file: Path, tmp_path: Path) -> None:
    run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs")
    assert {path.name for path in (run.folder / "base").iterdir()} == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"}
    assert set(stages(run)) == {"prepare", "inspect", "begin", "train", "evaluate", "report"} and not any(stages(run).values())
    events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["kind"] == "valid"]
    assert losses[0] > losses[-1] and losses[-1] < 2.5  # a blind guess over 380 tokens has 5.9
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "tunesmith.json"} <= {p.name for p in (run.folder / "model").iterdir()}
    # transformers opens it as it is, and the model it opens is the one that was measured.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, reader = AutoModelForCausalLM.from_pretrained(run.folder / "model"), AutoTokenizer.from_pretrained(run.folder / "model")
    nll = tokens = 0.0
    from tunesmith.data import rows

    for text in rows.strings(rows.read(run.folder / "data" / "test.parquet"), "text"):
        ids = torch.tensor([[*reader(text)["input_ids"], reader.eos_token_id]])
        with torch.no_grad():
            nll, tokens = nll + float(model(ids, labels=ids).loss) * (ids.shape[1] - 1), tokens + ids.shape[1] - 1
    figures = json.loads((run.folder / "evaluation.json").read_text())["splits"]["test"]["models"]
    assert set(figures) == {"tuned"}  # random weights are nothing to compare with
    assert figures["tuned"]["nll"]["value"] == pytest.approx(nll / tokens, rel=1e-4)
    # The same recipe is the same run; other epochs take rows and base from it; another size makes a base of its own.
    stamp = (run.folder / "base" / "tokenizer.json").stat().st_mtime_ns
    assert tunesmith.run(recipe_file, runs_dir=tmp_path / "runs").folder == run.folder
    assert (run.folder / "base" / "tokenizer.json").stat().st_mtime_ns == stamp
    second = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", train__epochs=1)
    assert stages(second) == {"prepare": "recipes", "inspect": "recipes", "begin": "recipes", "train": None, "evaluate": None, "report": None}
    assert (second.folder / "base" / "tokenizer.json").read_bytes() == (run.folder / "base" / "tokenizer.json").read_bytes()
    third = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", train__epochs=1, model__scratch__layers=1)
    assert stages(third) | {"prepare": None, "inspect": None} == dict.fromkeys(stages(run)) and str(stages(third)["prepare"]).startswith("recipes")


def test_check_makes_the_tokenizer_too(recipe_file: Path, tmp_path: Path) -> None:
    card, tokens, _ = pipeline.check(recipe.load(recipe_file))
    assert card["rows"]["train"] and tokens["learnt"] == tokens["tokens"]
    assert not (tmp_path / "runs").exists()


def test_the_seed_decides_the_first_weights(recipe_file: Path, tmp_path: Path) -> None:
    first: list[list[float]] = []
    for seed in (0, 0, 1):
        run = tunesmith.run(recipe_file, runs_dir=tmp_path / f"runs-{len(first)}", train__epochs=1, train__seed=seed, train__log_every=1)
        events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
        first.append([event["loss"] for event in events if event["kind"] == "step"])
    assert first[0] == first[1] != first[2] and first[0][0] == pytest.approx(5.9, abs=0.4)


def test_dialogues_give_their_words_to_the_tokenizer(tmp_path: Path) -> None:
    """Every role's words, through the stage that makes the base."""
    from tunesmith.data import rows
    from tunesmith.stages import scratch

    turns = [[{"role": "user", "content": "which grommet"}, {"role": "assistant", "content": "the sprocket"}]]
    rows.write(rows.table({"messages": turns}, rows.DIALOGUE), tmp_path / "dialogues.parquet")
    assert list(scratch._texts(tmp_path / "dialogues.parquet")) == [["which grommet", "the sprocket"]]
    rows.write(rows.table({"prompt": ["a", "b"], "completion": ["c", "d"]}, rows.COMPLETION), tmp_path / "completions.parquet")
    assert list(scratch._texts(tmp_path / "completions.parquet")) == [["a", "b", "c", "d"]]
