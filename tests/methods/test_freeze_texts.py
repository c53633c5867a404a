"""Freezing the lower layers of a language model: cached states and word tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exact import TIGHT, double


@pytest.mark.parametrize("layers", [0, 1])
def test_with_and_without_the_cache_it_learns_the_same(texts: Any, layers: int) -> None:
    """Losses and weights after eighteen steps, with a dropout that the frozen part must not see. The cache is fp32; all else is float64."""
    bench = texts(attention_dropout=0.3)
    bench.head = type(bench.head)(None, dropout=None)
    made = {}
    for cache in (True, False):
        model = double(bench.adapt("freeze", layers=layers, cache=cache))
        losses = bench.train("freeze", model, epochs=3, learning_rate=1e-2)
        made[cache] = losses, {name: one.detach().clone() for name, one in model.named_parameters()}
    assert made[True][0] == pytest.approx(made[False][0], rel=1e-6) and made[True][0][-1] < 0.99 * made[True][0][0]
    assert max(float((one - made[False][1][name]).abs().max()) for name, one in made[True][1].items()) < 1e-5


@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
def test_the_word_tables_learn_where_they_are_asked_to(texts: Any, tied: bool) -> None:
    bench = texts(tie_word_embeddings=tied)
    model = bench.adapt("freeze", layers=1, embeddings=True)
    first = {name: one.detach().clone() for name, one in model.named_parameters()}
    losses = bench.train("freeze", model, epochs=3, learning_rate=1e-2)
    moved = {name for name, one in model.named_parameters() if not torch.equal(one, first[name])}
    tables = {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
    assert tables == {name for name in moved if not name.startswith(("model.layers.1.", "model.norm."))} and losses[-1] < 0.9 * losses[0]
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied
    loaded, _ = bench.reloaded("freeze", model)
    assert float((bench.logits(double(loaded)) - bench.logits(double(model))).abs().max()) < TIGHT
    assert (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight) is tied
