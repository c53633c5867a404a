"""What holds for every method: it moves what it says and nothing else, learns, and answers the same once saved and loaded."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest
import torch
from exact import TIGHT, double

from tunesmith import methods
from tunesmith.core.errors import UserError

FOUR_BITS = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
CASES = [
    pytest.param("full", {}, id="full"),
    pytest.param("freeze", {"layers": 1}, id="freeze"),
    pytest.param("lora", {}, id="lora"),
    pytest.param("lora", {"weight_decomposed": True, "rank_stabilised": True, "dropout": 0.1}, id="dora"),
    pytest.param("bottleneck", {"width": 8}, id="houlsby"),
    pytest.param("bottleneck", {"style": "pfeiffer", "width": 8, "activation": "relu", "norms": False}, id="pfeiffer"),
    pytest.param("prefix", {"tokens": 4}, id="prefix"),
    pytest.param("prefix", {"tokens": 4, "projection": True}, id="projection"),
    pytest.param("prefix", {"tokens": 4, "style": "prompt"}, id="prompt"),
    pytest.param("qlora", {}, id="qlora", marks=FOUR_BITS),
]
LEARNS = {
    "full": (r".*", r".*"),
    "freeze": (r"bert\.encoder\.layer\.1\.|bert\.pooler|classifier", r"model\.layers\.1\.|model\.norm"),
    "lora": (r".*lora_|.*classifier\.modules_to_save", r".*lora_"),
    "dora": (r".*lora_|.*classifier\.modules_to_save", r".*lora_"),
    "houlsby": (r".*\.output\.dense\.(down|up)\.|.*LayerNorm|bert\.pooler|classifier", r".*\.(o_proj|down_proj)\.(down|up)\.|.*norm\.weight"),
    "pfeiffer": (r".*\d\.output\.dense\.(down|up)\.|bert\.pooler|classifier", r".*\.down_proj\.(down|up)\."),
    "prefix": (r"prompt_encoder|.*classifier\.modules_to_save", r"prompt_encoder"),
    "projection": (r"prompt_encoder|.*classifier\.modules_to_save", r"prompt_encoder"),
    "prompt": (r"prompt_encoder|.*classifier\.modules_to_save", r"prompt_encoder"),
    "qlora": (r".*lora_|.*classifier\.modules_to_save", r".*lora_"),
}
"""Names of the parameters that learn, with a classifier and with a language model."""
RATES = {"full": (1e-3, 3e-3), "freeze": (3e-3, 1e-2), "lora": (3e-3, 1e-2), "bottleneck": (3e-3, 1e-2), "prefix": (3e-2, 3e-2), "qlora": (3e-3, 1e-2)}


def check(bench: Any, kind: str, settings: dict[str, Any], learns: str, least: float) -> None:
    model = bench.adapt(kind, **settings)
    first = {name: value.detach().clone() for name, value in model.named_parameters()}
    allowed = {name for name in first if re.match(learns, name)}
    assert {name for name, value in model.named_parameters() if value.requires_grad} == allowed
    losses = bench.train(kind, model, epochs=8 if bench.head.labels is None else 20, learning_rate=RATES[kind][bench.head.labels is None])
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, first[name])}
    still = {name for name in allowed - moved if not name.endswith(("key.bias", "token_type_embeddings.weight"))}
    assert moved <= allowed and still == set()
    assert sum(losses[-6:]) < least * sum(losses[:6]), losses
    loaded, _ = bench.reloaded(kind, model)
    assert not loaded.training
    if kind != "qlora":  # bitsandbytes computes four bits in fp32 alone
        model, loaded = double(model), double(loaded)
    made = bench.logits(model)
    # The files of these hold fp32 products of what was learnt (merged weights, a network's output), where the model has its factors.
    rounded = kind in ("lora", "qlora") or settings.get("projection")
    assert float((made - bench.logits(loaded)).abs().max()) < (1e-5 if rounded else TIGHT)
    assert float((made - bench.logits(bench.adapt("full"))).abs().max()) > 1e-2


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_a_classifier(request: pytest.FixtureRequest, classes: Any, kind: str, settings: dict[str, Any]) -> None:
    check(classes, kind, settings, LEARNS[request.node.callspec.id][0], 0.8 if kind != "prefix" else 0.9)


@pytest.mark.parametrize(("kind", "settings"), CASES)
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
def test_a_language_model(request: pytest.FixtureRequest, texts: Any, kind: str, settings: dict[str, Any], tied: bool) -> None:
    name = request.node.callspec.id.removeprefix("tied-").removeprefix("-")
    check(texts(tie_word_embeddings=tied), kind, settings, LEARNS[name][1], 0.6)


def test_every_method_is_here() -> None:
    assert {case.values[0] for case in CASES} == set(methods.NAMES) - {"features"}


def test_features_is_for_classes_alone(texts: Any) -> None:
    with pytest.raises(UserError, match="a language model needs a state a token"):
        texts().adapt("features")
    assert not hasattr(methods.get("features"), "text_epochs")


@pytest.mark.parametrize(
    ("name", "rate", "epochs"),
    [("full", 1e-4, 3), ("freeze", 2e-4, 3), ("lora", 5e-4, 3), ("bottleneck", 5e-4, 3), ("prefix", 1e-2, 5), ("qlora", 2e-4, 3)],
)
def test_what_auto_means_for_texts(name: str, rate: float, epochs: int) -> None:
    method = methods.get(name)
    assert (method.text_learning_rate, method.text_epochs) == (rate, epochs)
