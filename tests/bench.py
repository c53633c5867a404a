"""A bench for methods: a tiny classifier's base and a tiny language model's, rows for both, and trainings through the loop itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith import methods
from tunesmith.methods import Saved
from tunesmith.models import catalog
from tunesmith.models.fast import llama
from tunesmith.models.loading import Head
from tunesmith.models.metadata import Writing
from tunesmith.objectives.classification import Classification, ClassificationSettings
from tunesmith.objectives.next_token import NextToken
from tunesmith.recipe import Recipe
from tunesmith.tokens.sequences import Losses, Piece, TextExamples
from tunesmith.training import loop
from tunesmith.training.hardware import Machine
from tunesmith.training.settings import TrainSettings

LABELS = ["blue", "green", "red"]
VOCABULARY = 96


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder with a random Llama of two layers, grouped heads and width 32; keyword arguments change its config."""
    from transformers import LlamaConfig, LlamaForCausalLM

    made: dict[str, Path] = {}

    def make(**changes: Any) -> Path:
        key = str(sorted(changes.items()))
        if key not in made:
            torch.manual_seed(0)
            sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
            config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=128, initializer_range=0.2, eos_token_id=1, **(sizes | changes))
            made[key] = tmp_path_factory.mktemp("tiny-llama")
            LlamaForCausalLM(config).save_pretrained(made[key])
        return made[key]

    return make


@dataclass
class Bench:
    """A base with rows to learn from, and what a training told."""

    base: catalog.Base
    head: Head
    objective: Any
    examples: Any
    folder: Path
    runs: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)

    def adapt(self, kind: str, seed: int = 0, **settings: Any) -> Any:
        torch.manual_seed(seed)
        return methods.get(kind).adapt(self.base, self.head, self.settings(kind, **settings))

    def settings(self, kind: str, **settings: Any) -> Any:
        return Recipe.model_validate({"data": {"train": "x"}, "method": {"kind": kind, **settings}}).method

    def train(self, kind: str, model: Any, examples: Any = None, **settings: Any) -> list[float]:
        """Train the model; the loss of each step."""
        torch.set_num_threads(1)
        self.runs += 1
        self.events = []
        given = methods.get(kind).examples(model, self.examples if examples is None else examples, self.base, lambda done, of: None)
        values = {"epochs": 1, "batch_rows": 8, "threads": 1, "log_every": 1, "warmup": 0, "schedule": "constant", "checkpoint_steps": 10_000, **settings}
        values["precision"] = values.get("precision", "fp32")
        made = TrainSettings.model_validate(values)
        machine = Machine("cpu", "test", made.precision, 1)
        torch.manual_seed(1)
        loop.train(model, self.objective, given, None, made, machine, self.folder / str(self.runs), "bench", self.events.append)
        return [event["loss"] for event in self.events if event["kind"] == "step"]

    def logits(self, model: Any) -> torch.Tensor:
        """Of some rows: a classifier's, or a language model's states times its vocabulary."""
        batch = self.examples.batch(np.arange(5))
        model.eval()
        with torch.no_grad():
            if self.head.labels is not None:
                out: torch.Tensor = model(**batch.inputs).logits
                return out
            bare = model.get_base_model() if hasattr(model, "get_base_model") else model
            return bare.get_output_embeddings()(llama.states(model, batch.inputs["ids"], batch.inputs["lengths"].tolist()))

    def reloaded(self, kind: str, model: Any) -> tuple[Any, Path]:
        """The model saved and loaded again, and the folder."""
        folder = self.folder / f"saved-{kind}-{self.runs}"
        folder.mkdir(parents=True)
        methods.get(kind).save(model, self.base, folder)
        return methods.get(kind).load(Saved(folder, self.head, lambda: self.base)), folder


@pytest.fixture
def classes(tiny_base: Path, tmp_path: Path, colours: Path) -> Bench:
    """Three labels on the tiny BERT."""
    import csv

    from tunesmith.tokens import encode, tokenization
    from tunesmith.tokens.examples import TokenExamples

    base = catalog.resolve(catalog.ModelSettings(base=str(tiny_base)))
    reader = tokenization.load(base.folder)
    with open(colours, newline="") as file:
        rows = list(csv.DictReader(file))[:48]
    objective = Classification(LABELS, False, ClassificationSettings(), [[row["label"]] for row in rows])
    tokens = encode.encode(reader, [row["text"] for row in rows], None, 40, "head")
    examples = TokenExamples(tokens, objective.targets([[row["label"]] for row in rows]), reader.pad_id)
    return Bench(base, Head(LABELS, False, 0.0), objective, examples, tmp_path / "bench")


@pytest.fixture
def texts(tiny_llama: Any, tmp_path: Path) -> Callable[..., Bench]:
    """The next token on a tiny Llama: rows of unequal length whose answers are always the same three tokens."""

    def make(rows: int = 48, **config: Any) -> Bench:
        base = catalog.resolve(catalog.ModelSettings(base=str(tiny_llama(**config))))
        draw = np.random.default_rng(0)
        pieces = []
        for row in range(rows):
            asked = draw.integers(4, VOCABULARY, draw.integers(2, 14))
            ids = np.concatenate([asked, [7, 9, 1]]).astype(np.int32)
            pieces.append(Piece(ids, np.arange(len(ids)) >= len(asked), row))
        examples = TextExamples(pieces, tmp_path / "scratch", Losses())
        objective = NextToken(0.0, lambda path, reader: examples, Writing("", {}, [1]))
        return Bench(base, Head(None, dropout=0.0), objective, examples, tmp_path / "bench")

    return make
