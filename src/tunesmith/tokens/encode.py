"""Texts -> token ids, ragged: one flat array and offsets, so that a hundred thousand texts are two arrays.

Shapes: N rows, Q sequences (Q = N, or more when long texts become windows), T tokens of all sequences together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tunesmith.errors import UserError
from tunesmith.tokens.tokenizer import Tokenizer

Truncation = Literal["head", "tail", "head_tail", "windows"]
TRUNCATIONS = ("head", "tail", "head_tail", "windows")

HEAD_SHARE = 0.25
"""head_tail keeps this share from the start, the rest from the end (Sun et al. 2019, https://arxiv.org/abs/1905.05583,
section 5.3.1: 128 of 512 tokens from the head)."""

WINDOW_OVERLAP = 0.25
"""Neighbouring windows share this part of their length, so that no sentence is seen only in halves."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of N rows.

    Attributes:
        ids_T: int32, all sequences one after the other.
        offsets_Q: int64 (Q + 1), where each sequence starts.
        rows_N: int64 (N + 1), which sequences belong to each row (0, 1, 2 ... unless long texts became windows).
        types_T: int8 type ids for pairs, or None.
        whole_N: int32, tokens of each row before anything was cut, special tokens included.
    """

    ids_T: npt.NDArray[np.int32]
    offsets_Q: npt.NDArray[np.int64]
    rows_N: npt.NDArray[np.int64]
    types_T: npt.NDArray[np.int8] | None
    whole_N: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.rows_N) - 1

    @property
    def lengths_N(self) -> npt.NDArray[Any]:
        """Tokens of each row's longest sequence: what the row costs in a padded batch."""
        lengths_Q = np.diff(self.offsets_Q)
        return np.maximum.reduceat(lengths_Q, self.rows_N[:-1]) if len(self) else lengths_Q


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str | None] | None, max_tokens: int, truncation: Truncation = "head"
) -> Tokens:
    """Encode texts with the base's special tokens, within its limit.

    Args:
        tokenizer: the base's.
        texts: N texts.
        pairs: N second texts, or None.
        max_tokens: most tokens of one sequence, special tokens included.
        truncation: what to keep of a longer text: its head, its tail, both, or all of it in overlapping windows.

    Returns:
        The tokens, with each row's length before it was cut.

    Raises:
        UserError: windows, tail or head_tail are asked for pairs.
    """
    if pairs is not None and any(pair is not None for pair in pairs):
        return _encode_pairs(tokenizer, texts, pairs, max_tokens, truncation)
    # encode_batch_fast leaves character offsets out, which nobody reads here: a third of the time.
    bare = [one.ids for one in tokenizer.library.encode_batch_fast(list(texts), add_special_tokens=False)]
    special = len(tokenizer.prefix) + len(tokenizer.suffix)
    room = max_tokens - special
    sequences: list[list[int]] = []
    rows = [0]
    prefix, suffix = list(tokenizer.prefix), list(tokenizer.suffix)
    for ids in bare:
        if len(ids) <= room:
            sequences.append(prefix + ids + suffix)
        else:
            sequences += [prefix + piece + suffix for piece in _pieces(ids, room, truncation)]
        rows.append(len(sequences))
    ids_T, offsets_Q = _flat(sequences)
    return Tokens(ids_T, offsets_Q, np.asarray(rows, np.int64), None, np.fromiter((len(ids) + special for ids in bare), np.int32, len(bare)))


def _pieces(ids: list[int], room: int, truncation: Truncation) -> list[list[int]]:
    if truncation == "head":
        return [ids[:room]]
    if truncation == "tail":
        return [ids[-room:]]
    if truncation == "head_tail":
        head = int(room * HEAD_SHARE)
        return [ids[:head] + ids[len(ids) - (room - head) :]]
    step = max(1, int(room * (1 - WINDOW_OVERLAP)))
    starts = [*range(0, len(ids) - room, step), len(ids) - room]
    return [ids[start : start + room] for start in starts]


def _encode_pairs(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str | None], max_tokens: int, truncation: Truncation
) -> Tokens:
    if truncation != "head":
        raise UserError(f"`model.truncation={truncation}` does not work with pairs of texts", "recipe", "use head: the longer text is cut first")
    library: Any = tokenizer.library
    inputs = [(text, pair) if pair is not None else text for text, pair in zip(texts, pairs, strict=True)]
    whole_N = np.fromiter((len(one.ids) for one in library.encode_batch_fast(inputs)), np.int32, len(inputs))
    library.enable_truncation(max_tokens, strategy="longest_first")
    try:
        encoded = library.encode_batch_fast(inputs)
    finally:
        library.no_truncation()
    ids_T, offsets_Q = _flat([one.ids for one in encoded])
    types_T = np.concatenate([np.asarray(one.type_ids, np.int8) for one in encoded]) if tokenizer.typed else None
    return Tokens(ids_T, offsets_Q, np.arange(len(inputs) + 1, dtype=np.int64), types_T, whole_N)


def _flat(sequences: list[list[int]]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    offsets = np.zeros(len(sequences) + 1, np.int64)
    np.cumsum([len(one) for one in sequences], out=offsets[1:])
    return np.fromiter((i for one in sequences for i in one), np.int32, int(offsets[-1])), offsets
