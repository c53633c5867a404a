"""`tunesmith export`: the folder opens with transformers alone and gives what the run gives, or it is not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import trained
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

import tunesmith
from tunesmith.models.decode import Sampling
from tunesmith.serving import exporting, generation
from tunesmith.tokens import chat_template

Cli = Callable[..., tuple[int, str, str]]
ASK = [{"role": "user", "content": "what colour is leaf 3?"}]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_transformers_alone_answers_as_the_run(cli_: Cli, talker: Path, tmp_path: Path) -> None:
    """Adapters merged, the template and the ends with it: three lines of transformers write the run's answer."""
    code, out, err = cli_("export", talker, "--to", "merged", "--output", tmp_path / "deep" / "plain")
    assert code == 0 and err == "" and out.startswith(f"Written to {tmp_path / 'deep' / 'plain'}. Read by transformers in fp32, its logits differ")
    folder = tmp_path / "deep" / "plain"
    assert {path.name for path in folder.iterdir()} >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert not (folder / "adapter_config.json").exists() and [path.name for path in folder.parent.iterdir()] == ["plain"]
    model, reader = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    given = reader.apply_chat_template(ASK, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**given, max_new_tokens=24, do_sample=False)[0, given["input_ids"].shape[1] :]
    writer = generation.load(talker / "model")
    [answer] = writer.answer([ASK], Sampling(max_new_tokens=24))
    assert answer.ended and reader.decode(ids, skip_special_tokens=True) == answer.text
    assert given["input_ids"][0].tolist() == writer.prompt(ASK).ids
    assert GenerationConfig.from_pretrained(folder).eos_token_id == writer._ends


def test_our_plain_template_goes_with_the_model(tiny_llama: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_llama, base)
    rows = [{"prompt": f"rose {i}", "completion": "red"} for i in range(20)]
    quick = {"epochs": 1, "batch_rows": 8, "threads": 1}
    run = trained(tmp_path, base, rows, objective={"kind": "sft", "template": "plain"}, train=quick)
    made = exporting.merged(run, tmp_path / "plain")
    assert made.folder == tmp_path / "plain" and 0 <= made.apart <= 1e-4
    assert (made.folder / "chat_template.jinja").read_text("utf-8") == chat_template.PLAIN
    dialogue = [{"role": "system", "content": "a\nb"}, *ASK, {"role": "assistant", "content": " green "}, *ASK]
    theirs = AutoTokenizer.from_pretrained(made.folder).apply_chat_template(dialogue, add_generation_prompt=True, return_dict=False)
    assert theirs == generation.load(run / "model").prompt(dialogue).ids


def test_a_classifier(tmp_path: Path, recipe_file: Path) -> None:
    for method in ("full", {"kind": "lora", "rank": 4}):
        run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", method=method, train__epochs=1).folder
        made = exporting.merged(run, tmp_path / f"out-{run.name}")
        model = AutoModelForSequenceClassification.from_pretrained(made.folder).eval()
        found = AutoTokenizer.from_pretrained(made.folder)("grass in place 4", return_tensors="pt")
        with torch.inference_mode():
            best = model(**found).logits.argmax().item()
        answers: Any = tunesmith.load(run).predict(["grass in place 4"])
        assert model.config.id2label[best] == answers[0].label and made.apart <= 1e-4


@pytest.mark.parametrize("method", ["features", "bottleneck", "prefix"])
def test_a_method_without_a_plain_form_says_so(cli_: Cli, tmp_path: Path, recipe_file: Path, method: str) -> None:
    run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", method=method, train__epochs=1, model__max_tokens=40, evaluate__against=["majority"]).folder
    code, out, err = cli_("export", run, "--output", tmp_path / "out")
    assert (code, out) == (2, "") and not (tmp_path / "out").exists()
    assert err.startswith(f"error: {run}: method `{method}` has no plain Hugging Face form: what it learnt stands beside the base's own weights\n")


def test_what_is_there_stays_and_what_differs_is_not_written(cli_: Cli, talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    said = f"error: {tmp_path / 'here'}: there is something here already\n  -> give another --output, or delete it first\n"
    assert cli_("export", talker, "--output", tmp_path / "here") == (2, "", said)
    assert cli_("export", talker, "--to", "onnx", "-o", tmp_path / "x")[2] == "error: command line: `--to=onnx` is not known\n  -> there is merged\n"
    copy = exporting.shutil.copyfile

    def spoiling(source: Path, target: Path) -> None:
        """One weight of the merged model changes after it is saved."""
        copy(source, target)
        path = target.parent / "model.safetensors"
        weights = load_file(path)
        weights["model.layers.1.mlp.down_proj.weight"][0, 0] += 1
        save_file(weights, path, {"format": "pt"})

    monkeypatch.setattr(exporting.shutil, "copyfile", spoiling)
    code, out, err = cli_("export", talker, "--output", tmp_path / "spoilt")
    assert (code, out) == (2, "") and f"error: {tmp_path / 'spoilt'}: the merged model's logits differ from the run's by up to " in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
