"""What we write, others read: a saved model opens with transformers, PEFT or NumPy alone and answers as our engine does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tunesmith
from tunesmith.serving import engine

TEXTS = ["a leaf and some grass", "the brick near his rose", "", "sky " * 100]


@pytest.fixture
def finished(recipe_file: Path, tmp_path: Path) -> Any:
    def run(method: str, **changes: Any) -> Path:
        made = tunesmith.run(
            recipe_file, runs_dir=tmp_path / "runs", method=method, train__epochs=1, train__learning_rate=1e-2, evaluate__against=["majority"], **changes
        )
        return made.folder / "model"

    return run


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference relative to the largest number: engines answer in fp32, which holds seven digits of it."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def tokens(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, truncation=True, max_length=64, return_tensors="pt")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_transformers_and_peft_open_what_was_saved(finished: Any, tiny_base: Path, method: str) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = finished(method)
    ours = engine.load(folder)
    if method == "full":
        theirs = AutoModelForSequenceClassification.from_pretrained(folder)
        assert theirs.config.id2label == {0: "blue", 1: "green", 2: "red"}
    else:
        from peft import PeftModel

        named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert named == str(tiny_base)
        theirs = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(named, num_labels=3), folder)
    theirs.eval()
    with torch.no_grad():
        expected = theirs(**tokens(folder)).logits.numpy()
    logits = ours.logits(TEXTS)
    assert apart(logits, expected) < 1e-5
    assert np.ptp(logits, axis=0).min() > 1e-2  # the texts are told apart at all
    fresh = AutoModelForSequenceClassification.from_pretrained(tiny_base, num_labels=3).eval()
    with torch.no_grad():
        assert np.abs(fresh(**tokens(folder)).logits.numpy() - expected).max() > 1e-2


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_a_features_head_is_base_and_numpy(finished: Any, tiny_base: Path, pooling: str) -> None:
    """Normalised pooled states times sqrt(D), one matrix product: the four lines that the head's files document."""
    from safetensors.numpy import load_file
    from transformers import AutoModel

    folder = finished("features", method__pooling=pooling) if pooling != "mean" else finished("features")
    head, about = load_file(folder / "head.safetensors"), json.loads((folder / "head.json").read_text())
    assert about["pooling"] == pooling and about["normalise"]
    inputs = tokens(tiny_base)
    with torch.no_grad():
        states_BLD = AutoModel.from_pretrained(tiny_base).eval()(**inputs).last_hidden_state.numpy()
    mask_BL1 = inputs["attention_mask"].numpy()[..., None]
    pooled_BD = states_BLD[:, 0] if pooling == "first" else (states_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)
    vectors_BD = pooled_BD / np.linalg.norm(pooled_BD, axis=1, keepdims=True)
    expected = vectors_BD * about["scale"] @ head["linear.weight"].T + head["linear.bias"]
    logits = engine.load(folder).logits(TEXTS)
    assert apart(logits, expected) < 1e-5 and np.ptp(logits, axis=0).min() > 1e-2


def test_several_labels_are_saved_as_such(finished: Any, tmp_path: Path, colours: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    text = colours.read_text().replace(",red,", ",red|green,")
    colours.write_text(text)
    folder = finished("full", data__multi_label=True)
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.problem_type == "multi_label_classification"
    ours = engine.load(folder)
    with torch.no_grad():
        expected = AutoModelForSequenceClassification.from_pretrained(folder).eval()(**tokens(folder)).logits
    assert apart(ours.logits(TEXTS), expected.numpy()) < 1e-5
    assert np.abs(ours.probabilities(TEXTS) - (expected / ours.temperature).sigmoid().numpy()).max() < 1e-5
