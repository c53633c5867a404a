"""What a training step takes: batches of inputs and targets, made on demand from arrays.

Shapes: N rows, B rows of a batch, S sequences of a batch (S = B unless long texts became windows), L padded length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from tunesmith.core.files import sha256_bytes
from tunesmith.tokens.encode import Tokens

if TYPE_CHECKING:
    import torch


@dataclass
class Batch:
    """One micro-batch.

    Attributes:
        inputs: keyword arguments of the model.
        targets: what the objective compares with; its shape is the objective's business. None when predicting.
        weights_B: how much each row counts, or None for 1.
        rows_S: which row of the batch each sequence belongs to, or None when they are the same.
        rows: how many rows; tokens: how many tokens that are not padding.
    """

    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor | None
    weights_B: torch.Tensor | None
    rows_S: torch.Tensor | None
    rows: int
    tokens: int

    def to(self, device: torch.device) -> Batch:
        """The batch on a device. Lengths stay: the layout of rows is made on the CPU, and reading them back would wait for the device."""

        def there(one: torch.Tensor) -> torch.Tensor:
            pinned = one.pin_memory() if device.type == "cuda" else one  # only from pinned memory does a copy run beside the computing
            return pinned.to(device, non_blocking=True)

        inputs = {name: value if name == "lengths" else there(value) for name, value in self.inputs.items()}
        targets, weights_B, rows_S = (None if one is None else there(one) for one in (self.targets, self.weights_B, self.rows_S))
        return Batch(inputs, targets, weights_B, rows_S, self.rows, self.tokens)


class Examples(Protocol):
    """N rows ready to be batched."""

    @property
    def lengths_N(self) -> npt.NDArray[Any]:
        """Tokens of each row, or of its longest window."""

    def __len__(self) -> int: ...

    def batch(self, rows_B: npt.NDArray[np.int64]) -> Batch:
        """The batch of the given rows, in that order."""

    def fingerprint(self) -> str:
        """A hash of everything in them."""


@dataclass(frozen=True)
class Targets:
    """What is to be predicted for N rows, and how much each row counts (None: 1)."""

    values_N: torch.Tensor | None
    weights_N: torch.Tensor | None = None

    def of(self, rows_B: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The targets and weights of some rows."""
        values = None if self.values_N is None else self.values_N[rows_B]
        return values, None if self.weights_N is None else self.weights_N[rows_B]

    def parts(self) -> list[bytes]:
        """Their bytes, for a fingerprint."""
        return [b"" if one is None else one.numpy().tobytes() for one in (self.values_N, self.weights_N)]


def windows(examples: Examples) -> npt.NDArray[np.int64] | None:
    """Sequences of each row of some examples; None where every row has one."""
    return getattr(examples, "windows_N", None)


def joined(parts: Sequence[Targets]) -> Targets:
    """The targets of rows that were read in parts, in order; there is one part at least."""
    import torch

    values = [one.values_N for one in parts if one.values_N is not None]
    weights = [torch.ones(len(value)) if one.weights_N is None else one.weights_N for one, value in zip(parts, values, strict=True)]
    weighted = any(one.weights_N is not None for one in parts)
    return Targets(torch.cat(values), torch.cat(weights) if weighted else None)


@dataclass(frozen=True)
class TokenExamples:
    """Rows as token ids."""

    tokens: Tokens
    targets: Targets
    pad_id: int

    @property
    def lengths_N(self) -> npt.NDArray[Any]:
        return self.tokens.lengths_N

    @property
    def windows_N(self) -> npt.NDArray[np.int64] | None:
        """Sequences of each row; None where every row has one."""
        return self.tokens.windows_N

    def __len__(self) -> int:
        return len(self.tokens)

    def sequences(self) -> TokenExamples:
        """Each sequence as a row of its own, without targets: windows apart."""
        whole = np.arange(len(self.tokens.offsets_Q), dtype=np.int64)
        return TokenExamples(replace(self.tokens, rows_N=whole), Targets(None), self.pad_id)

    def batch(self, rows_B: npt.NDArray[np.int64]) -> Batch:
        import torch

        t = self.tokens
        sequences, rows_S = self._sequences(rows_B)
        starts, lengths = t.offsets_Q[sequences], t.offsets_Q[sequences + 1] - t.offsets_Q[sequences]
        width = int(lengths.max())
        places = np.arange(width)
        mask_SL = places < lengths[:, None]
        flat = np.minimum(starts[:, None] + places, len(t.ids_T) - 1)
        ids_SL = np.where(mask_SL, t.ids_T[flat], self.pad_id).astype(np.int64)
        inputs = {"input_ids": torch.from_numpy(ids_SL), "attention_mask": torch.from_numpy(mask_SL.astype(np.int64))}
        if t.types_T is not None:
            inputs["token_type_ids"] = torch.from_numpy(np.where(mask_SL, t.types_T[flat], 0).astype(np.int64))
        values, weights = self.targets.of(torch.from_numpy(rows_B))
        return Batch(inputs, values, weights, None if rows_S is None else torch.from_numpy(rows_S), len(rows_B), int(lengths.sum()))

    def places(self, rows_B: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where the tokens of `batch(rows_B)` stand in `tokens.ids_T`, row by row, padding left out."""
        sequences, _ = self._sequences(rows_B)
        starts, stops = self.tokens.offsets_Q[sequences], self.tokens.offsets_Q[sequences + 1]
        return np.concatenate([np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)])

    def _sequences(self, rows_B: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
        """The sequences of some rows, and which of the rows each belongs to (None: one each)."""
        rows_N = self.tokens.rows_N
        if len(self.tokens.offsets_Q) == len(rows_N):
            return rows_B, None
        counts = rows_N[rows_B + 1] - rows_N[rows_B]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(rows_N[rows_B], counts) + within, np.repeat(np.arange(len(rows_B)), counts)

    def fingerprint(self) -> str:
        t = self.tokens
        digest = hashlib.sha256()
        arrays: list[npt.NDArray[Any]] = [t.ids_T, t.offsets_Q, t.rows_N, *([] if t.types_T is None else [t.types_T])]
        for array in arrays:
            digest.update(array.data)  # not a copy: the ids may be more than memory holds
        for part in self.targets.parts():
            digest.update(part)
        return digest.hexdigest()


@dataclass(frozen=True)
class VectorExamples:
    """Rows as vectors of a frozen base: vectors_ND float32."""

    vectors_ND: Any
    targets: Targets

    @property
    def lengths_N(self) -> npt.NDArray[Any]:
        return np.ones(len(self), np.int64)

    def __len__(self) -> int:
        return len(self.vectors_ND)

    def batch(self, rows_B: npt.NDArray[np.int64]) -> Batch:
        import torch

        index = torch.from_numpy(rows_B)
        values, weights = self.targets.of(index)
        return Batch({"vectors": self.vectors_ND[index]}, values, weights, None, len(rows_B), len(rows_B))

    def fingerprint(self) -> str:
        return sha256_bytes(b"".join([self.vectors_ND.numpy().tobytes(), *self.targets.parts()]))
