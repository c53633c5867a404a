"""A masked language model that fills gaps: whole words only, the model's own mark, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tunesmith.core.errors import UserError
from tunesmith.models.helpers import fill_mask


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    """A BERT whose output layer prefers `apple`, and before it a piece that only continues a word."""
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig.from_pretrained(tiny_base))
    library = Tokenizer.from_file(str(tiny_base / "tokenizer.json"))
    with torch.no_grad():
        bias = model.cls.predictions.decoder.bias
        bias.zero_()
        bias[library.token_to_id("apple")] = 50.0
        bias[library.token_to_id("##ing")] = 90.0
        bias[library.token_to_id("!")] = 80.0
    model.save_pretrained(tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "m" / name).write_bytes((tiny_base / name).read_bytes())
    return tmp_path / "m"


def test_the_likeliest_whole_word_fills_the_gap(folder: Path) -> None:
    fill = fill_mask.filler(folder)
    assert fill([f"a red {fill_mask.GAP} fell", f"{fill_mask.GAP}", "no gap", *[f"word {fill_mask.GAP}"] * 40]) == ["apple", "apple", "", *["apple"] * 40]
    assert fill([("far " * 200) + fill_mask.GAP]) == [""]  # beyond what the model reads


def test_what_is_no_masked_model_is_refused(folder: Path, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        fill_mask.filler(tmp_path / "absent")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    with pytest.raises(UserError, match=r"not a masked language model: `architectures` in its config.json says `BertModel`\n  -> give the folder"):
        fill_mask.filler(folder)
