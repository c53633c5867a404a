"""The starter language model: it is the one we know, small, near its grammar's own entropy, and a recipe tunes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tunesmith
from tunesmith import starters
from tunesmith.core.errors import UserError
from tunesmith.models import catalog, loading
from tunesmith.starters import desk
from tunesmith.tokens import sequences, tokenization

RECIPES = Path(__file__).parent.parent / "recipes"
WORSE_THAN_THE_CARD = 0.15
"""Nats a token above what the model card says, on the few documents that a test can afford."""


def test_it_is_the_one_we_know_and_small() -> None:
    folder = starters.base_folder("starter/scribe")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20e6
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "README.md"} <= {path.name for path in folder.iterdir()}


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starters, "SCRIBE_SHA256", "0" * 64)
    with pytest.raises(UserError, match="its weights hash to"):
        starters.base_folder("starter/scribe")


def test_its_loss_lies_above_the_grammars_entropy_and_near_the_cards_figure(tmp_path: Path) -> None:
    from tunesmith.stages.evaluate_text import losses

    base = catalog.resolve(catalog.ModelSettings(base="starter/scribe"))
    model = loading.language_model(base).eval()
    documents = list(desk.documents(40, starters.HELD_OUT_SEED))
    end = int(base.config["eos_token_id"])
    pieces = sequences.documents(tokenization.load(base.folder), iter([[one.text for one in documents]]), end, base.max_tokens)
    examples = sequences.TextExamples(pieces, tmp_path, sequences.Losses())
    nll_N, tokens_N = losses(model, examples, len(documents))
    floor = sum(one.nats for one in documents) / tokens_N.sum()
    card = (base.folder / "README.md").read_text("utf-8")
    said = float(card.partition("held-out loss of **")[2].partition("**")[0])
    assert floor < nll_N.sum() / tokens_N.sum() < said + WORSE_THAN_THE_CARD
    assert np.all(tokens_N > 0)


def test_the_chatbot_recipe_runs_shrunk(tmp_path: Path) -> None:
    less = {"evaluate__most_rows": 4, "evaluate__max_new_tokens": 12, "evaluate__general_rows": 4, "evaluate__resamples": 100}
    run = tunesmith.run(RECIPES / "chatbot.yaml", runs_dir=tmp_path, train__steps=3, train__batch_rows=4, train__threads=1, **less)
    assert run.report.exists() and run.evaluation is not None and run.evaluation.test.tuned.rouge_l.value >= 0
    assert run.evaluation.test.tuned.forgetting.value is not None
    answer = run.predict(["Where is my parcel?"], max_new_tokens=8)[0]
    assert isinstance(answer.text, str)


def test_the_recipe_that_made_it_runs_shrunk(tmp_path: Path) -> None:
    source = tmp_path / "desk.txt"
    source.write_text("\n<|endoftext|>\n".join(one.text for one in desk.documents(400)))
    small = {"vocabulary": 600, "width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "feed_forward": 64, "max_tokens": 128}
    changes = {"data__train": str(source), "data__valid": 0.05, "data__test": 0.05, "model__scratch": small, "train__steps": 4, "train__threads": 1}
    run = tunesmith.run(RECIPES / "pretrain-scribe.yaml", runs_dir=tmp_path / "runs", evaluate__resamples=100, **changes)
    assert run.evaluation is not None and run.evaluation.test.tuned.nll.value < np.log(600) + 0.5
