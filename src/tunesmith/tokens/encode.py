"""Texts -> token ids, ragged: one flat array and offsets, so that a hundred thousand texts are two arrays.

Shapes: N rows, Q sequences (Q = N, or more when long texts become windows), T tokens of all sequences together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
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


CHUNK_ROWS = 4096
"""Rows whose token ids are Python's at once, which take ten times the room of an array's."""


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
    special = len(tokenizer.prefix) + len(tokenizer.suffix)
    room = max_tokens - special
    prefix, suffix = list(tokenizer.prefix), list(tokenizer.suffix)
    parts, lengths, whole, rows = [np.zeros(0, np.int32)], [0], np.zeros(len(texts), np.int32), np.zeros(len(texts) + 1, np.int64)
    for start in range(0, len(texts), CHUNK_ROWS):
        # encode_batch_fast leaves character offsets out, which nobody reads here: a third of the time.
        bare = [one.ids for one in tokenizer.library.encode_batch_fast(list(texts[start : start + CHUNK_ROWS]), add_special_tokens=False)]
        sequences: list[list[int]] = []
        for row, ids in enumerate(bare, start):
            sequences += [prefix + piece + suffix for piece in ([ids] if len(ids) <= room else _pieces(ids, room, truncation))]
            whole[row], rows[row + 1] = len(ids) + special, len(lengths) - 1 + len(sequences)
        lengths += map(len, sequences)
        parts.append(_together(sequences))
    return Tokens(np.concatenate(parts), np.cumsum(lengths, dtype=np.int64), rows, None, whole)


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
    return _together(sequences), np.cumsum([0, *map(len, sequences)], dtype=np.int64)


def _together(sequences: list[list[int]]) -> npt.NDArray[np.int32]:
    return np.fromiter(chain.from_iterable(sequences), np.int32, sum(map(len, sequences)))
