"""Training with the cut-down word table is dense training with torch's AdamW, for the rows in use and for those that no text uses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from exact import TIGHT
from torch import nn

from tunesmith.models import used_embeddings
from tunesmith.objectives.classification import Classification

WORDS = "bert.embeddings.word_embeddings.weight"


def dense(bench: Any, examples: Any, plan: list[np.ndarray], rate: float, decay: float) -> nn.Module:
    model = bench.adapt("full")
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=rate,
    )
    objective: Classification = bench.objective()
    model.train()
    for rows in plan:
        (objective.loss(model, examples.batch(rows)).total / len(rows)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_compact_training_equals_dense_training(bench: Any, plan: Any) -> None:
    """Five steps with a strong decay: used rows, the padding row, and the 30,000 that occur nowhere."""
    rate, decay = 1e-3, 5.0
    examples = bench.examples(40)
    model = bench.adapt("full")
    start = model.get_input_embeddings().weight.detach().clone()
    kept = used_embeddings.compact(model, [examples])
    assert kept is not None and model.get_input_embeddings().num_embeddings == len(np.unique(np.append(examples.tokens.ids_T, examples.pad_id)))
    trained = bench.train(model, bench.objective(), examples, learning_rate=rate, weight_decay=decay, warmup=0, schedule="constant", clip_norm=0)
    used_embeddings.restore(model, kept, trained.outcome.decay)
    whole = dense(bench, examples, plan(examples), rate, decay)
    assert model.state_dict().keys() == whole.state_dict().keys()
    ours, theirs = model.get_input_embeddings(), whole.get_input_embeddings()
    assert ours.padding_idx == theirs.padding_idx and ours.weight.requires_grad == theirs.weight.requires_grad
    # The gradients that are remembered are of the cut-down table: spread them out again for the comparison.
    for gradients in trained.gradients:
        full = torch.zeros_like(start)
        full[torch.from_numpy(kept.used_U)] = gradients[WORDS]
        gradients[WORDS] = full
    assert len(trained.gradients) == 5
    assert trained.apart(dict(whole.named_parameters())) < TIGHT
    unused = np.setdiff1d(np.arange(len(start)), kept.used_U)
    assert len(unused) > 30_000
    assert torch.allclose(ours.weight[unused], start[unused] * (1 - rate * decay) ** 5, rtol=TIGHT, atol=0)
    assert float((ours.weight[unused] - start[unused]).abs().max()) > 5e-3  # the decay was there to be missed


def test_the_compact_model_computes_the_same(bench: Any) -> None:
    """Before any training the logits are the same to the last bit, and restoring at once gives the table back."""
    examples = bench.examples(10)
    model = bench.adapt("full").eval()
    start = model.get_input_embeddings().weight.detach().clone()
    with torch.no_grad():
        before = model(**examples.batch(np.arange(10)).inputs).logits
        kept = used_embeddings.compact(model, [examples])
        assert torch.equal(model(**examples.batch(np.arange(10)).inputs).logits, before)
        used_embeddings.restore(model, kept, 1.0)
    assert torch.equal(model.get_input_embeddings().weight, start)


def test_validation_words_stay_in_the_table(bench: Any) -> None:
    """A word that only validation rows use must be there when they are measured."""
    train, valid = bench.examples(4), bench.examples(40)
    model = bench.adapt("full").eval()
    with torch.no_grad():
        before = model(**valid.batch(np.arange(40)).inputs).logits
        used_embeddings.compact(model, [train, valid])
        assert torch.equal(model(**valid.batch(np.arange(40)).inputs).logits, before)


def test_lora_keeps_its_table(bench: Any) -> None:
    """A frozen table has nothing to save: it stays as it is."""
    model = bench.adapt("lora")
    table = model.get_input_embeddings()
    kept = used_embeddings.compact(model, [bench.examples(4)])
    assert kept is None and model.get_input_embeddings() is table


def test_a_word_that_no_example_has_is_an_error_and_not_another_word(bench: Any) -> None:
    model = bench.adapt("full").eval()
    kept = used_embeddings.compact(model, [bench.examples(4)])
    unused = next(one for one in range(1000, 30_000) if one not in set(kept.used_U.tolist()))
    with torch.no_grad(), pytest.raises(IndexError):
        model(input_ids=torch.tensor([[unused]]))


class Doubled(nn.Embedding):
    """A table that does more than look up, as Gemma's does."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * 2


def test_the_small_table_does_all_that_the_whole_one_does(bench: Any) -> None:
    """Also with a padding id that is large: the small table alone is renumbered."""
    examples = replace(bench.examples(10), pad_id=29_999)
    model = bench.adapt("full").eval()
    table = Doubled(30_522, 32, padding_idx=29_999)
    model.set_input_embeddings(table)
    with torch.no_grad():
        before = model(**examples.batch(np.arange(10)).inputs).logits
        kept = used_embeddings.compact(model, [examples])
        small = model.get_input_embeddings()
        assert type(small) is Doubled and small is not table and small.weight[small.padding_idx].tolist() == table.weight[29_999].tolist()
        assert torch.equal(model(**examples.batch(np.arange(10)).inputs).logits, before)
        used_embeddings.restore(model, kept, 1.0)
    assert model.get_input_embeddings() is table
