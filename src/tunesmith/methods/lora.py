"""LoRA: the base is frozen, and beside chosen linear layers learns a product of two thin matrices.

Hu et al. 2021 (https://arxiv.org/abs/2106.09685), equation 3: h = W0 x + (alpha / r) B A x, with B = 0 at the start.
1. The layers and the file format are PEFT's, so that any server that reads PEFT reads ours.
2. The classification head learns in full, and so does every part that the base has no weights for (PEFT's `modules_to_save`).
3. `rank_stabilised` divides by sqrt(r) in place of r (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732); `weight_decomposed`
   is DoRA (Liu et al. 2024, https://arxiv.org/abs/2402.09353).
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Literal

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


class LowRankSettings(Settings):
    """What adapters of every low-rank kind set."""

    kind: str
    rank: int = Field(8, ge=1, le=1024)
    """Width of the thin matrices (r)."""
    alpha: float = Field(16, gt=0)
    """The product is scaled by alpha / rank."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Layers to adapt: all-linear, or names such as [query, value]."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapters' input while training."""
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(rank) (rsLoRA)."""
    weight_decomposed: bool = False
    """Learn magnitude and direction apart (DoRA)."""


class LoraSettings(LowRankSettings):
    """Low-rank adapters beside the base's linear layers."""

    kind: Literal["lora"] = "lora"


learning_rate = 1e-3
epochs = 6
text_learning_rate = 5e-4
text_epochs = 3


def adapt(base: Base, head: Head, settings: LoraSettings) -> nn.Module:
    """The base with adapters and a head; only these require grad.

    Raises:
        UserError: none of the target names is a layer of the base.
    """
    from tunesmith.models import loading

    return wrapped(loading.adapted(base, head), base, head, settings)


def wrapped(model: nn.Module, base: Base, head: Head, settings: LowRankSettings) -> nn.Module:
    """A model with PEFT's adapters in it, as `adapt` says.

    Raises:
        UserError: none of the target names is a layer of the base.
    """
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    from tunesmith.core.errors import UserError, some
    from tunesmith.models import loading

    # What the base has no weights for learns in full and is saved: PEFT knows of `classifier` and `score` alone.
    whole = loading.besides_heads(model)
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM if head.labels is None else TaskType.SEQ_CLS,
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=targets,
        lora_dropout=settings.dropout,
        use_rslora=settings.rank_stabilised,
        use_dora=settings.weight_decomposed,
        modules_to_save=whole,
        exclude_modules=whole if targets == "all-linear" else None,
    )
    names = sorted({name.rsplit(".", 1)[-1] for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)})
    try:
        adapted: nn.Module = get_peft_model(model, config)
        return adapted
    except ValueError as error:
        if targets == "all-linear":
            reason = str(error).strip().split("\n")[0][:200]
            raise UserError(f"PEFT cannot adapt all linear layers of {base.name} ({reason})", "recipe, `method`", "use full or freeze") from error
        raise UserError(f"`method.targets={targets}` matches no layer of {base.name}", "recipe", f"its linear layers are {some(names)}") from error


def examples(model: nn.Module, examples: TokenExamples, base: Base, progress: Callable[[int, int], None]) -> Examples:
    """Tokens as they are."""
    return examples


def save(model: nn.Module, base: Base, folder: Path) -> None:
    """Write PEFT's adapter files and the tokenizer; the base is named in adapter_config.json."""
    from tunesmith.core.files import read_json, write_json
    from tunesmith.models import loading

    with loading.quiet():
        model.save_pretrained(folder)  # type: ignore[operator]  # PEFT models are nn.Modules with more methods
    # PEFT keeps names in sets, whose order every Python process draws anew: the same adapters must give the same bytes.
    config = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()})
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form; MODEL_CARD.md of the run is the real one
    for name in loading.TOKENIZER_FILES:
        if (base.folder / name).exists():
            shutil.copyfile(base.folder / name, folder / name)


def load(saved: Saved) -> nn.Module:
    """Base and adapters in eval mode, the adapters merged into the base's weights for speed."""
    from peft import PeftModel

    from tunesmith.models import loading

    model = loading.adapted(saved.base(), saved.head)
    with loading.quiet():
        adapted = PeftModel.from_pretrained(model, saved.folder, is_trainable=False, local_files_only=True)
        merged: nn.Module = adapted.merge_and_unload()
    merged.eval()
    return merged
