"""Tunesmith: from raw data to a fine-tuned language model that is measured, audited, served and watched."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# The one thing importing does. With another process on the cores, OpenMP threads that spin make a one-token step
# take 200 ms in place of 4; the variable counts only if it is set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from tunesmith.api import Finished, load, run

__version__ = "0.1.0"
__all__ = ["Finished", "load", "run"]


def __getattr__(name: str) -> Any:
    """`run`, `load` and `Finished` on first use, so that `import tunesmith` costs nothing."""
    if name in __all__:
        from tunesmith import api

        return getattr(api, name)
    raise AttributeError(f"module 'tunesmith' has no attribute '{name}'")
