"""Feature extraction: the base stays frozen, each text is embedded once, and the best linear head on the vectors is solved for.

Devlin et al. 2019 (https://arxiv.org/abs/1810.04805, section 5.3) and Reimers and Gurevych 2019 (https://arxiv.org/abs/1908.10084).
1. Vectors are mean-pooled and of length 1, as sentence encoders are trained to give; the head sees them times sqrt(D).
2. Vectors come from the cache in models/features.py, so all that follows costs one pass over the base.
3. The head is no result of steps: the loss has one optimum under an L2 penalty, and training/convex.py finds it and chooses the penalty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from pydantic import Field

from tunesmith.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from tunesmith.methods import Saved
    from tunesmith.models.catalog import Base
    from tunesmith.models.loading import Head
    from tunesmith.tokens.examples import Examples, TokenExamples


class FeaturesSettings(Settings):
    """A linear head on the frozen base's vectors."""

    kind: Literal["features"] = "features"
    pooling: Literal["auto", "mean", "first"] = "auto"
    """How token states become one vector: their mean, or the first token's. auto: as the base's folder says it was trained, else the mean."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Without effect, and a value above 0 is warned of: the penalty that the solver chooses does its work. Kept for older recipes."""


learning_rate = None
epochs = None


def adapt(base: Base, head: Head, settings: FeaturesSettings) -> nn.Module:
    """A head on vectors of the base's width; the base itself is not part of the model."""
    from tunesmith.core.errors import UserError
    from tunesmith.models.heads import LinearHead

    if head.labels is None:
        what = "method `features` trains a head on one vector a text, and a language model needs a state a token"
        raise UserError(what, "recipe, `method`", "use freeze with layers: 1, or lora")
    pooling = settings.pooling if settings.pooling != "auto" else base.pooling or "mean"
    return LinearHead(base.hidden_size, len(head.labels), settings.dropout, pooling)


def examples(model: nn.Module, examples: TokenExamples, base: Base, progress: Callable[[int, int], None]) -> Examples:
    """Vectors of the frozen base for every row, from the cache."""
    from tunesmith.models import features
    from tunesmith.tokens.examples import VectorExamples

    pooling = cast(Literal["mean", "first"], model.pooling)
    made = features.vectors(base, examples, pooling, progress, getattr(model, "caches_on", "cpu"))
    return VectorExamples(made.vectors_ND, examples.targets)


def save(model: nn.Module, base: Base, folder: Path) -> None:
    """Write `head.safetensors` (linear.weight CD, linear.bias C) and `head.json`; the base is named in tunesmith.json."""
    from safetensors.torch import save_file

    from tunesmith.core.files import write_json

    save_file(model.state_dict(), folder / "head.safetensors")
    write_json(folder / "head.json", {"pooling": model.pooling, "normalise": True, "scale": model.scale, "layer": -1})


def load(saved: Saved) -> nn.Module:
    """Base and head as one model that takes tokens, in eval mode."""
    from safetensors.torch import load_file

    from tunesmith.core.files import read_json
    from tunesmith.models import loading
    from tunesmith.models.heads import FeatureClassifier, LinearHead

    weights = load_file(saved.folder / "head.safetensors")
    labels, width = weights["linear.weight"].shape
    head = LinearHead(width, labels, 0.0, read_json(saved.folder / "head.json")["pooling"])
    head.load_state_dict(weights)
    model = FeatureClassifier(loading.encoder(saved.base()), head)
    model.eval()
    return model
