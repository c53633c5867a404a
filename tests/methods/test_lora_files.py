"""What `lora` writes is the same in every process."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tunesmith import methods
from tunesmith.methods.lora import LoraSettings
from tunesmith.models import catalog
from tunesmith.models.loading import Head


def test_lists_in_the_adapter_config_are_sorted(tiny_base: Path, tmp_path: Path) -> None:
    """PEFT keeps names in sets and writes them in the order of their hashes, which every Python process draws anew."""
    base = catalog.resolve(catalog.ModelSettings(base=str(tiny_base)))
    torch.manual_seed(0)
    model = methods.get("lora").adapt(base, Head(["a", "b"], False), LoraSettings())
    methods.get("lora").save(model, base, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert len(config["target_modules"]) > 3
    for name in ("target_modules", "modules_to_save"):
        assert config[name] == sorted(config[name]), name
