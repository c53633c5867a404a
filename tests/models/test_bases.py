"""Bases of many kinds, saved as released, give a right model or are refused before training. `make bases` judges every cell of the matrix."""

from __future__ import annotations

from pathlib import Path

import pytest
import released
from bases_matrix import cell, write_rows

RIGHT = [
    # Parts that the checkpoint lacks learn and are saved.
    *("bert-no-pooler lora", "bert-no-pooler prompt", "albert lora", "bart lora", "t5 lora", "distilbert lora", "electra prefix", "mpnet lora"),
    # The head stands before the layers.
    *("xlm-roberta freeze", "xlm-roberta bottleneck"),
    # The last token is found whatever the padding's id.
    *("gpt2-pad full", "qwen2 full", "qwen2 prefix", "qwen3 lora", "gpt2 prompt"),
    # The word table scales its rows; attention of its own; states of another width.
    *("gemma full", "gemma3 bottleneck", "deberta-v2 full", "bloom prefix", "opt-projected features", "opt-projected bottleneck"),
    # Vectors of an encoder-decoder and of a base without attention.
    *("t5 features", "bart features", "mamba features"),
]
WRITERS = ["gemma2 full", "qwen2 lora", "bloom freeze", "llama-head-size prefix", "mistral-window full"]
REFUSED = [
    ("roberta full sft", "is a masked language model", "choose a base that writes"),
    ("bert full pretraining", "is a masked language model", "objective: classification"),
    ("bart lora sft", "is an encoder-decoder", "choose a base that writes"),
    ("mamba full classification", "has no ForSequenceClassification", "method: features"),
    ("mistral-window prefix classification", "sees the 6 places before it alone", "style: prompt"),
    ("t5 prefix classification", "is an encoder-decoder", "use lora or full"),
    ("mamba lora sft", "PEFT cannot adapt all linear layers", "use full or freeze"),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_rows(tmp_path)
    return tmp_path


@pytest.mark.parametrize("asked", [*(f"{one} classification" for one in RIGHT), *(f"{one} sft" for one in WRITERS)])
def test_a_cell_is_right(data: Path, asked: str) -> None:
    """The loss told in training is the saved model's and transformers' own, and a row's scores do not depend on its batch."""
    name, method, objective = asked.split()
    found = cell(released.save(name, data / name), method, objective, data, data / "runs")
    assert found.verdict == "ok", found.text


@pytest.mark.parametrize(("asked", "reason", "remedy"), REFUSED)
def test_a_cell_is_refused_before_training(data: Path, asked: str, reason: str, remedy: str) -> None:
    name, method, objective = asked.split()
    found = cell(released.save(name, data / name), method, objective, data, data / "runs")
    assert found.verdict == "refused" and reason in found.text and remedy in found.text, found.text
    assert not list((data / "runs").rglob("step-*"))
