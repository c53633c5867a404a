"""Texts -> token ids, ragged: one flat array and offsets, so that a hundred thousand texts are two arrays.

Shapes: N rows, Q sequences (Q = N, or more when long texts become windows), T tokens of all sequences together.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from tunesmith.core.errors import UserError
from tunesmith.core.files import as_user_error
from tunesmith.core.workers import Crew, Message, helpers
from tunesmith.tokens import tokenization
from tunesmith.tokens.tokenization import Tokenizer
from tunesmith.tokens.word_cache import gathered

Truncation = Literal["head", "tail", "head_tail", "windows"]

HEAD_SHARE = 0.25
"""head_tail keeps this share from the start, the rest from the end (Sun et al. 2019, https://arxiv.org/abs/1905.05583,
section 5.3.1: 128 of 512 tokens from the head)."""

WINDOW_OVERLAP = 0.25
"""Neighbouring windows share this part of their length, so that no sentence is seen only in halves."""


Chunk = tuple[Sequence[str], Sequence[str | None]]
"""Texts and their second texts."""
LEAST_ROWS = 20_000
"""Fewer rows are encoded by this process alone: a helper takes 0.2 s to begin."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of N rows.

    Attributes:
        ids_T: int32, all sequences one after the other; in memory, or mapped from a file (`stored`).
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
        """Tokens of each row's longest sequence: what each of its sequences takes in a padded batch of such rows."""
        lengths_Q = np.diff(self.offsets_Q)
        return np.maximum.reduceat(lengths_Q, self.rows_N[:-1]) if len(self) else lengths_Q

    @property
    def windows_N(self) -> npt.NDArray[np.int64] | None:
        """Sequences of each row; None where every row has one."""
        return None if len(self.offsets_Q) == len(self.rows_N) else np.diff(self.rows_N)


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
    if tokenizer.before:
        texts = [tokenizer.before + text for text in texts]
    if pairs is not None and any(pair is not None for pair in pairs):
        return _encode_pairs(tokenizer, texts, pairs, max_tokens, truncation)
    special = len(tokenizer.prefix) + len(tokenizer.suffix)
    ids_T, bare_N = tokenizer.words.ids(texts)
    ids_T, starts_Q, lengths_Q, rows = _cut(ids_T, bare_N, max_tokens - special, truncation)
    offsets = np.concatenate([[0], np.cumsum(lengths_Q + special)])
    out_T, bare_T = np.empty(offsets[-1], np.int32), np.ones(offsets[-1], bool)
    around = [(offsets[:-1] + place, token) for place, token in enumerate(tokenizer.prefix)]
    around += [(offsets[1:] - place, token) for place, token in enumerate(reversed(tokenizer.suffix), 1)]
    for places, token in around:
        out_T[places], bare_T[places] = token, False
    out_T[bare_T] = gathered(ids_T, starts_Q, lengths_Q)
    return Tokens(out_T, offsets, rows, None, (bare_N + special).astype(np.int32))


class Encoder:
    """Encodes chunks, texts and their second texts, here or in a helper (crew.Work)."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, truncation: Truncation) -> None:
        self.tokenizer, self.max_tokens, self.truncation = tokenizer, max_tokens, truncation

    def __call__(self, chunk: Chunk) -> Tokens:
        return encode(self.tokenizer, *chunk, self.max_tokens, self.truncation)

    def send(self, chunk: Chunk) -> Message:
        return Message(chunk, [])

    def receive(self, message: Message) -> Chunk:
        texts, pairs = message.value
        return texts, pairs

    def reply(self, result: Tokens) -> Message:
        types = [] if result.types_T is None else [result.types_T.tobytes()]
        return Message(None, [result.ids_T.tobytes(), result.offsets_Q.tobytes(), result.rows_N.tobytes(), result.whole_N.tobytes(), *types])

    def result(self, message: Message) -> Tokens:
        ids, offsets, rows, whole, *types = message.blobs
        types_T = np.frombuffer(types[0], np.int8) if types else None
        return Tokens(np.frombuffer(ids, np.int32), np.frombuffer(offsets, np.int64), np.frombuffer(rows, np.int64), types_T, np.frombuffer(whole, np.int32))


def helper(tokenizer: dict[str, Any], max_tokens: int, truncation: Truncation) -> Encoder:
    """The encoder of a helper, made from values of JSON."""
    return Encoder(tokenization.from_json(tokenizer), max_tokens, truncation)


def stored(
    tokenizer: Tokenizer,
    chunks: Iterable[Chunk],
    max_tokens: int,
    truncation: Truncation,
    folder: Path,
    rows: int = 0,
) -> Tokens:
    """The same for more texts than memory holds: their ids lie in a file without a name that goes with the process.

    Args:
        tokenizer, max_tokens, truncation: as in `encode`.
        chunks: texts and their second texts, some at a time.
        folder: where the file may lie.
        rows: how many there are, if that is known: of many other processes encode some.

    Raises:
        UserError: as in `encode`, or no space for the file.
    """
    lengths_Q, counts_N, whole_N = ([np.zeros(0, np.uint32)] for _ in range(3))
    size, typed = 0, False
    count = helpers() if rows >= LEAST_ROWS else 0
    given = {"tokenizer": tokenization.as_json(tokenizer) if count else None, "max_tokens": max_tokens, "truncation": truncation}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryFile(dir=folder) as ids,
            tempfile.TemporaryFile(dir=folder) as types,
            Crew(Encoder(tokenizer, max_tokens, truncation), "tunesmith.tokens.encode:helper", given, count) as crew,
        ):
            for one in crew.each(chunks):
                ids.write(one.ids_T.tobytes())
                if one.types_T is not None:
                    types.seek(size)  # rows without a second text before it left a hole, which reads as zeros
                    types.write(one.types_T.tobytes())
                    typed = True
                size += len(one.ids_T)
                for into, values in ((lengths_Q, np.diff(one.offsets_Q)), (counts_N, np.diff(one.rows_N)), (whole_N, one.whole_N)):
                    into.append(values.astype(np.uint32))
            types.truncate(size if typed else 0)
            ids_T, types_T = _mapped(ids, np.int32), _mapped(types, np.int8) if typed else None
    except OSError as error:
        raise as_user_error(error, folder) from error
    offsets_Q, rows_N = (np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(one), dtype=np.int64)]) for one in (lengths_Q, counts_N))
    return Tokens(ids_T, offsets_Q, rows_N, types_T, np.concatenate(whole_N).astype(np.int32))


def _mapped(file: IO[bytes], kind: Any) -> npt.NDArray[Any]:
    """What a file holds, read where it is asked for; it stays readable when the file is closed."""
    file.flush()
    size = os.fstat(file.fileno()).st_size
    return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), kind) if size else np.zeros(0, kind)


def _cut(
    ids_T: npt.NDArray[np.int32], bare_N: npt.NDArray[np.int64], room: int, truncation: Truncation
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What of each row's ids is kept: the ids, where each sequence starts among them, its length, and which sequences belong to each row."""
    starts_N = np.cumsum(bare_N) - bare_N
    long = np.flatnonzero(bare_N > room)
    if truncation != "windows":
        head = {"head": room, "tail": 0, "head_tail": int(room * HEAD_SHARE)}[truncation]
        if len(long):
            kept = np.ones(len(ids_T), bool)
            for row in long:
                kept[starts_N[row] + head : starts_N[row] + bare_N[row] - (room - head)] = False
            ids_T, bare_N = ids_T[kept], np.minimum(bare_N, room)
        return ids_T, np.cumsum(bare_N) - bare_N, bare_N, np.arange(len(bare_N) + 1, dtype=np.int64)
    step = max(1, int(room * (1 - WINDOW_OVERLAP)))
    counts = np.ones(len(bare_N), np.int64)
    counts[long] = 1 - (room - bare_N[long]) // step
    rows = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(rows[-1]) - np.repeat(rows[:-1], counts)
    shifts = np.minimum(within * step, np.repeat(np.maximum(bare_N - room, 0), counts))  # the last window ends where the text does
    return ids_T, np.repeat(starts_N, counts) + shifts, np.repeat(np.minimum(bare_N, room), counts), rows


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
