"""The faster forward against transformers' and PEFT's own: the same logits and the same gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact import TIGHT, double

from tunesmith import methods
from tunesmith.methods.freeze import FreezeSettings
from tunesmith.methods.full import FullSettings
from tunesmith.methods.lora import LoraSettings
from tunesmith.models import catalog
from tunesmith.models.fast.dropout import dropout
from tunesmith.models.loading import Head
from tunesmith.tokens import encode, tokenization
from tunesmith.tokens.examples import Targets, TokenExamples

TEXTS = ["a red apple", "the sky is blue and so is the sea on a clear day", "leaf", "some moss near the old house"]
HEAD = Head(["x", "y", "z"], False, dropout=0.0)


def batch_of(base: catalog.Base) -> Any:
    reader = tokenization.load(base.folder)
    examples = TokenExamples(encode.encode(reader, TEXTS, None, 64), Targets(None), reader.pad_id)
    return examples, examples.batch(np.arange(len(TEXTS)))


def gradients(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.train()
    logits = model(**inputs).logits
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


LORA = [LoraSettings(rank=4), LoraSettings(rank=4, targets=("query", "value")), LoraSettings(rank=4, rank_stabilised=True)]


@pytest.mark.parametrize("settings", [FullSettings(), *LORA])
def test_logits_and_gradients_are_those_of_transformers_and_peft(tiny_base: Path, settings: Any) -> None:
    base = catalog.resolve(catalog.ModelSettings(base=str(tiny_base)))
    torch.manual_seed(0)
    ours = methods.get(settings.kind).adapt(base, HEAD, settings)
    with torch.no_grad():  # B starts at 0, which would hide the gradient of A
        for name, parameter in ours.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    double(ours)
    _, batch = batch_of(base)
    fast, fast_gradients = gradients(ours, batch.inputs)
    ours.zero_grad()
    inner = ours.get_base_model() if hasattr(ours, "get_base_model") else ours
    del inner.forward  # the instance's own: transformers' is below it
    slow, slow_gradients = gradients(ours, batch.inputs)
    torch.testing.assert_close(fast, slow, atol=TIGHT, rtol=0)
    assert fast_gradients.keys() == slow_gradients.keys() and len(fast_gradients) > 4
    for name, gradient in slow_gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, atol=TIGHT, rtol=0, msg=name)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_cached_states_give_what_the_tokens_give(tiny_base: Path, layers: int) -> None:
    base = catalog.resolve(catalog.ModelSettings(base=str(tiny_base)))
    torch.manual_seed(0)
    freeze = methods.get("freeze")
    model: Any = freeze.adapt(base, HEAD, FreezeSettings(layers=layers))
    examples, batch = batch_of(base)
    double(model)
    states = freeze.examples(model, examples, base, lambda done, of: None)
    from_states, state_gradients = gradients(model, states.batch(np.arange(len(TEXTS))).inputs)
    model.zero_grad()
    from_tokens, token_gradients = gradients(model, batch.inputs)
    torch.testing.assert_close(from_states, from_tokens, atol=1e-5, rtol=0)  # the cache is fp32
    assert state_gradients.keys() == token_gradients.keys()
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert ("bert.encoder.layer.1.output.dense.weight" in learning) is (layers > 0) and "classifier.weight" in learning
    assert ("bert.encoder.layer.0.output.dense.weight" in learning) is (layers == 2)
    assert not any("embeddings" in name for name in learning)


def test_dropout_keeps_the_share_and_the_mean_and_repeats_with_torchs_seed() -> None:
    x = torch.ones(200, 1000, requires_grad=True)
    torch.manual_seed(3)
    first = dropout(x, 0.1, True)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x, 0.1, True)) and not torch.equal(first, dropout(x, 0.1, True))
    assert float((first == 0).float().mean()) == pytest.approx(0.1, abs=0.003) and float(first.mean()) == pytest.approx(1, abs=0.01)
    first.sum().backward()
    assert torch.equal(x.grad, first.detach())
    assert dropout(x, 0.1, False) is x
