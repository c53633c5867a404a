"""The layers of any base as a list, and the states below a layer computed once for all epochs.

Shapes: N rows, S sequences of a batch, L padded length, T tokens of all rows, D hidden size.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tunesmith.core.errors import UserError
from tunesmith.core.files import FULL, as_user_error, reserve
from tunesmith.models.fast import bert, llama
from tunesmith.models.features import batch_tokens, cache_folder, placed
from tunesmith.tokens import batching
from tunesmith.tokens.examples import Batch, Examples, TokenExamples
from tunesmith.tokens.sequences import TextExamples

LARGE_BYTES = 1e9
"""A cache of states from this size on is announced before it is written. A convention of ours."""


def stack(model: nn.Module) -> list[nn.Module]:
    """The repeated layers of a base, first to last: the longest `ModuleList` in it.

    Raises:
        UserError: there is none.
    """
    lists = [list(one) for one in model.modules() if isinstance(one, nn.ModuleList)]
    if not lists:
        raise UserError(f"{type(model).__name__} has no list of layers", "recipe, `method`", "use full or lora")
    return max(lists, key=len)


def after(model: nn.Module) -> list[nn.Module]:
    """What comes after the layers: pooler, final norm, head. Found as the modules without layers that stand behind them."""
    found: list[nn.Module] = []
    here: Any = model
    while True:
        children = list(here.named_children())
        holder = next((i for i, (_, one) in enumerate(children) if any(isinstance(m, nn.ModuleList) for m in one.modules())), None)
        if holder is None:
            return found
        found += [one for _, one in children[holder + 1 :]]
        here = children[holder][1]
        if isinstance(here, nn.ModuleList):
            return found


@dataclass(frozen=True)
class StateExamples:
    """Rows as states of a frozen lower part: states_TD, memory-mapped, one row a token of `source`."""

    source: TokenExamples
    states_TD: npt.NDArray[np.float32]

    @property
    def lengths_N(self) -> npt.NDArray[Any]:
        return self.source.lengths_N

    @property
    def windows_N(self) -> npt.NDArray[np.int64] | None:
        return self.source.windows_N

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, rows_B: npt.NDArray[np.int64]) -> Batch:
        batch = self.source.batch(rows_B)
        mask_SL = batch.inputs["attention_mask"].bool().numpy()
        states_SLD = np.zeros((*mask_SL.shape, self.states_TD.shape[1]), np.float32)
        states_SLD[mask_SL] = self.states_TD[self.source.places(rows_B)]
        batch.inputs = {"states": torch.from_numpy(states_SLD), "attention_mask": batch.inputs["attention_mask"]}
        return batch

    def fingerprint(self) -> str:
        return self.source.fingerprint()


def cached(model: Any, examples: TokenExamples | TextExamples, progress: Callable[[int, int], None]) -> Examples:
    """Compute the states below `model.frozen_below` for every token, once.

    Args:
        model: one that can start from states (see `models/fast/bert.py`, `models/fast/llama.py`); with another one the tokens come back as they are.
            They are computed on the device that its `caches_on` names (none: the CPU), where its weights fit there.
        examples: rows of tokens.
        progress: called with (rows done, rows).

    Returns:
        Rows as states, in a file without a name that the system deletes with the process.

    Raises:
        UserError: no space for them.
    """
    if isinstance(examples, TextExamples):
        return _cached_text(model, examples, progress) if hasattr(model, "fast_states") else examples
    if not bert.accelerated(model):
        return examples
    states_TD = _room(len(examples.tokens.ids_T), model.config.hidden_size)
    done, single, place = 0, examples.sequences(), placed(model, getattr(model, "caches_on", "cpu"))
    most = batch_tokens(place)
    for rows in batching.in_order(single.lengths_N, most // 4, most):
        batch = single.batch(rows).to(place)
        mask_SL = batch.inputs["attention_mask"].bool()
        states_SLD = bert.below(model.bert, model.frozen_below, **batch.inputs)
        states_TD[single.places(rows)] = states_SLD[mask_SL].cpu().numpy()
        done += len(rows)
        progress(done * len(examples) // len(single), len(examples))
    model.to("cpu")
    return StateExamples(examples, states_TD)


def cache_bytes(model: Any, examples: Examples) -> int:
    """Disk space that `cached` takes for these rows; 0 where it keeps nothing."""
    if not getattr(model, "cache_states", False):
        return 0
    if isinstance(examples, TextExamples):
        return _bytes(int(examples.lengths_N.sum()), model.config.hidden_size) if hasattr(model, "fast_states") else 0
    if not isinstance(examples, TokenExamples) or not bert.accelerated(model):
        return 0
    return _bytes(len(examples.tokens.ids_T), model.config.hidden_size)


def sized(size: float) -> str:
    """Bytes in words."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _bytes(tokens: int, width: int) -> int:
    return tokens * width * np.dtype(np.float32).itemsize


def _room(tokens: int, width: int) -> npt.NDArray[np.float32]:
    """states_TD in a file without a name, with all of its space set aside: a full disk is an error here and not a signal later."""
    folder, size = cache_folder().parent, _bytes(tokens, width)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            reserve(file.fileno(), size)
            return np.memmap(file, np.float32, "r+", shape=(tokens, width))
    except OSError as error:
        if error.errno not in (*FULL, errno.EFBIG):
            raise as_user_error(error, folder) from error
        limit = f"{sized(shutil.disk_usage(folder).free)} are free" if error.errno in FULL else "the system allows no file of that size"
        what = f"the states of {tokens:,} tokens below the learning layers take {sized(size)}, and {limit}"
        remedy = "set method.cache: false (slower, same result), free some space, or set TUNESMITH_CACHE to a folder on a larger disk"
        raise UserError(what, str(folder), remedy) from error


@dataclass(frozen=True)
class TextStates:
    """Sequences with their states: states_TD, memory-mapped, one row a place of `source`."""

    source: TextExamples
    states_TD: npt.NDArray[np.float32]
    packed = True

    @property
    def lengths_N(self) -> npt.NDArray[Any]:
        return self.source.lengths_N

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, rows_B: npt.NDArray[np.int64]) -> Batch:
        batch = self.source.batch(rows_B)
        batch.inputs["states"] = torch.from_numpy(self.states_TD[self.source.places(rows_B)])
        return batch

    def fingerprint(self) -> str:
        return self.source.fingerprint()


def _cached_text(model: Any, examples: TextExamples, progress: Callable[[int, int], None]) -> Examples:
    states_TD = _room(int(examples.lengths_N.sum()), model.config.hidden_size)
    training = model.training
    model.eval()
    done, place = 0, placed(model, getattr(model, "caches_on", "cpu"))
    most = batch_tokens(place)
    for rows in batching.in_order(examples.lengths_N, most // 4, most, packed=True):
        inputs = examples.batch(rows).to(place).inputs
        states_TD[examples.places(rows)] = llama.below(model, inputs["ids"], inputs["lengths"].tolist()).cpu().numpy()
        done += len(rows)
        progress(done, len(examples))
    model.to("cpu")
    model.train(training)
    return TextStates(examples, states_TD)
