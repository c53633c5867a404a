"""How a base is adapted. One file a method; this registry is the only other place that knows its name.

A method is a module with:

    Settings            its settings, with `kind` fixed to its name
    learning_rate, epochs   defaults that suit it, used where the recipe says `auto`; None where its model is solved for without steps
    text_learning_rate, text_epochs     the same for language models; `features` has none, for it takes none
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

from tunesmith.methods.bottleneck import BottleneckSettings
from tunesmith.methods.features import FeaturesSettings
from tunesmith.methods.freeze import FreezeSettings
from tunesmith.methods.full import FullSettings
from tunesmith.methods.lora import LoraSettings
from tunesmith.methods.prefix import PrefixSettings
from tunesmith.methods.qlora import QloraSettings
from tunesmith.models.loading import Head

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from tunesmith.models.catalog import Base
    from tunesmith.tokens.examples import Examples

MethodSettings = Annotated[
    BottleneckSettings | FeaturesSettings | FreezeSettings | FullSettings | LoraSettings | PrefixSettings | QloraSettings, Field(discriminator="kind")
]
NAMES = ("bottleneck", "features", "freeze", "full", "lora", "prefix", "qlora")


@dataclass(frozen=True)
class Saved:
    """A model folder that `save` wrote, its head, and a way to get its base (verified by hash) where the method needs one."""

    folder: Path
    head: Head
    base: Callable[[], Base]


class Method(Protocol):
    """What a method's module offers; see the top of this file."""

    learning_rate: float | None
    epochs: int | None
    text_learning_rate: float
    text_epochs: int

    def adapt(self, base: Base, head: Head, settings: Any) -> nn.Module: ...
    def examples(self, model: nn.Module, examples: Any, base: Base, progress: Callable[[int, int], None]) -> Examples: ...
    def save(self, model: nn.Module, base: Base, folder: Path) -> None: ...
    def load(self, saved: Saved) -> nn.Module: ...


def places(settings: Any) -> int:
    """Places of the base's limit that a method takes for itself, so that texts have the rest: what it puts before each row."""
    return int(getattr(settings, "tokens", 0))


def get(name: str) -> Method:
    """The method of a name in `NAMES`."""
    assert name in NAMES
    module: Any = import_module(f"tunesmith.methods.{name}")
    return module  # type: ignore[no-any-return]  # a module is the protocol's instance
