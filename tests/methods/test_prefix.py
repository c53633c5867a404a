"""What can stand before the rows of other bases than BERT and Llama, and what is refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exact import TIGHT, double

from tunesmith import methods
from tunesmith.core.errors import Problems, UserError
from tunesmith.core.settings import build
from tunesmith.models import catalog
from tunesmith.models.loading import Head

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96, "max_position_embeddings": 64}
KINDS: dict[str, dict[str, Any]] = {
    "roberta": SMALL | {"pad_token_id": 0},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "vocab_size": 96, "max_position_embeddings": 64},
    "llama": SMALL | {"num_key_value_heads": 2, "pad_token_id": 0},
    "mistral": SMALL | {"num_key_value_heads": 2, "pad_token_id": 0, "sliding_window": 8},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 96, "pad_token_id": 0, "decoder_start_token_id": 0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 64, "pad_token_id": 0},
}
FITS = [
    *(("roberta", "prefix"), ("roberta", "prompt"), ("distilbert", "prompt")),
    *(("llama", "prefix"), ("llama", "prompt"), ("gpt2", "prefix"), ("gpt2", "prompt")),
]
REFUSED = [
    ("distilbert", "prefix", ["a"], "takes no keys and values from outside", "style: prompt"),
    ("t5", "prefix", ["a"], "is an encoder-decoder", "use lora or full"),
    ("mistral", "prefix", ["a"], "sees the 8 places before it alone", "style: prompt"),
    ("gpt2", "prefix", None, "writes texts with bases of the kinds llama, mistral, qwen2; this is `gpt2`", "use lora or bottleneck"),
    ("gpt2", "prompt", None, "writes texts with bases of the kinds llama, mistral, qwen2; this is `gpt2`", "use lora or bottleneck"),
]


def base_of(folder: Path, kind: str) -> catalog.Base:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(kind, **{"initializer_range": 0.2} | KINDS[kind])).save_pretrained(folder / kind)
    return catalog.resolve(catalog.ModelSettings(base=str(folder / kind)))


@pytest.mark.parametrize(("kind", "style"), FITS)
def test_other_classifiers_go_through_pefts_own_forward(tmp_path: Path, classes: Any, kind: str, style: str) -> None:
    """Padding changes no answer, what stands in front does, and the files give the same model."""
    base = base_of(tmp_path, kind)
    head = Head(["a", "b"], False, 0.0)
    method = methods.get("prefix")
    torch.manual_seed(0)
    model: Any = method.adapt(base, head, classes.settings("prefix", style=style, tokens=4))
    double(model).eval()
    short, mask = torch.arange(5, 13)[None], torch.ones(1, 8, dtype=torch.int64)
    padded, longer = torch.nn.functional.pad(short, (0, 3)), torch.nn.functional.pad(mask, (0, 3))
    with torch.no_grad():
        logits = model(input_ids=short, attention_mask=mask).logits
        assert float((model(input_ids=padded, attention_mask=longer).logits - logits).abs().max()) < TIGHT
    torch.nn.functional.cross_entropy(model(input_ids=short, attention_mask=mask).logits, torch.tensor([0])).backward()
    learnt = {name for name, one in model.named_parameters() if one.grad is not None and float(one.grad.abs().max()) > 0}
    assert any("prompt_encoder" in name for name in learnt) and any("modules_to_save" in name for name in learnt)
    with torch.no_grad():
        table = next(one for name, one in model.named_parameters() if "prompt_encoder" in name)
        table.add_(torch.randn(table.shape, generator=torch.Generator().manual_seed(1)))
        table.copy_(table.float())  # what the files hold is fp32
        changed = model(input_ids=short, attention_mask=mask).logits
        assert float((changed - logits).abs().max()) > 1e-4
    folder = tmp_path / "saved"
    folder.mkdir()
    method.save(model, base, folder)
    loaded: Any = double(method.load(methods.Saved(folder, head, lambda: base)))
    with torch.no_grad():
        assert float((loaded(input_ids=short, attention_mask=mask).logits - changed).abs().max()) < TIGHT


@pytest.mark.parametrize(("kind", "style", "labels", "said", "remedy"), REFUSED)
def test_what_does_not_fit_is_refused(tmp_path: Path, classes: Any, kind: str, style: str, labels: list[str] | None, said: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        methods.get("prefix").adapt(base_of(tmp_path, kind), Head(labels and ["a", "b"]), classes.settings("prefix", style=style, tokens=4))
    assert said in caught.value.what and remedy in caught.value.remedy


def test_a_prompt_has_no_projection() -> None:
    from tunesmith.methods.prefix import PrefixSettings

    with pytest.raises((UserError, Problems), match="`projection` is for style: prefix"):
        build(PrefixSettings, {"style": "prompt", "projection": True}, "recipe")
