"""Runs of language models that answer, trained once for all tests of the room."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import trained

NOUNS = {"rose": "red", "leaf": "green", "sky": "blue"}


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A run, by LoRA, of a model that says which colour a thing has."""
    rows = [
        {"messages": [{"role": "user", "content": f"what colour is {noun} {i}?"}, {"role": "assistant", "content": f"it is {colour}."}]}
        for i in range(25)
        for noun, colour in NOUNS.items()
    ]
    method = {"kind": "lora", "rank": 8}
    return trained(tmp_path_factory.mktemp("talker"), tiny_llama, rows, objective="sft", method=method)


@pytest.fixture(scope="session")
def teller(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A run of continued pre-training: a model that goes on with texts and knows no turns."""
    rows = [{"text": f"once there was {noun} {i} and it was {colour}."} for i in range(25) for noun, colour in NOUNS.items()]
    return trained(tmp_path_factory.mktemp("teller"), tiny_llama, rows, objective="pretraining", train={"epochs": 1, "batch_rows": 8, "threads": 1})
