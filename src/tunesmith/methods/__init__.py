"""How a base is adapted. One file a method; this registry is the only other place that knows its name.

A method is a module with:

    Settings            its settings, with `kind` fixed to its name
    learning_rate, epochs   defaults that suit it, used where the recipe says `auto`
    adapt(base, head, settings) -> model        trainable parameters require grad, the others do not
    examples(model, examples, base) -> examples what the model takes: tokens as they are, or vectors from the cache
    save(model, base, folder)                   write `model/` in the format others read
    load(saved) -> model                        read it back, in eval mode
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field

from tunesmith.methods.features import FeaturesSettings
from tunesmith.methods.freeze import FreezeSettings
from tunesmith.methods.full import FullSettings
from tunesmith.methods.lora import LoraSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from tunesmith.models.catalog import Base
    from tunesmith.tokens.examples import Examples, TokenExamples

MethodSettings = Annotated[FeaturesSettings | FreezeSettings | FullSettings | LoraSettings, Field(discriminator="kind")]
NAMES = ("features", "freeze", "full", "lora")


@dataclass(frozen=True)
class Head:
    """What the head must predict: label names in order, one or several a row, and the dropout before it (None: the base's)."""

    labels: list[str]
    multi_label: bool
    dropout: float | None = None


@dataclass(frozen=True)
class Saved:
    """A model folder that `save` wrote, its head, and a way to get its base (verified by hash) where the method needs one."""

    folder: Path
    head: Head
    base: Callable[[], Base]


class Method(Protocol):
    """What a method's module offers; see the top of this file."""

    learning_rate: float
    epochs: int

    def adapt(self, base: Base, head: Head, settings: Any) -> nn.Module: ...
    def examples(self, model: nn.Module, examples: TokenExamples, base: Base, progress: Callable[[int, int], None]) -> Examples: ...
    def save(self, model: nn.Module, base: Base, folder: Path) -> None: ...
    def load(self, saved: Saved) -> nn.Module: ...


def get(name: str) -> Method:
    """The method of a name in `NAMES`."""
    assert name in NAMES
    module: Any = import_module(f"tunesmith.methods.{name}")
    return module  # type: ignore[no-any-return]  # a module is the protocol's instance
