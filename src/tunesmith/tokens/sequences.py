"""Texts to learn word by word: token ids on disk, which of them are learnt, and batches without padding.

A row becomes one sequence (or, for documents beyond the limit, several); a sequence of n + 1 tokens gives n places that each predict the next.
The ids live in a file without a name that goes with the process, so two gigabytes of text need a few megabytes of memory.

Shapes: N sequences, R sequences of a batch, T places of all sequences of a batch.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tunesmith.core.errors import UserError
from tunesmith.core.files import as_user_error
from tunesmith.tokens import chat_template
from tunesmith.tokens.examples import Batch
from tunesmith.tokens.tokenization import Tokenizer

if TYPE_CHECKING:
    import torch

BLOCK = 256
"""Sequences between two kept positions: others are found by adding lengths, which costs nothing and saves 8 bytes a sequence."""
NOT_LEARNT = -100
"""Target of a place whose next token is not learnt: what torch's cross-entropy ignores."""


@dataclass(frozen=True)
class Piece:
    """One sequence before it is stored: ids, which are learnt (None: all but the first), and the row it is from."""

    ids: npt.NDArray[np.int32]
    learnt: npt.NDArray[np.bool_] | None
    row: int


@dataclass
class Losses:
    """How long rows with answers were before the limit cut them, 8 bytes a row, and how many were left out because no learnt token was left.

    Attributes: lengths (tokens of each row), answers (from the first token of its last answer to its end; 0: none), left_out.
    """

    lengths: array[int] = field(default_factory=lambda: array("I"))
    answers: array[int] = field(default_factory=lambda: array("I"))
    left_out: int = 0


class TextExamples:
    """N sequences of token ids in a file.

    Args:
        sequences: in order; read once.
        folder: where the nameless file may lie.
        losses: noted while `sequences` is read; nothing of it is held.

    Attributes:
        lengths_N: places of each sequence, the one number of each that stays in memory; left_out: as in `losses`.
        packed: batches have no padding, so a budget of tokens is their plain sum.

    Raises:
        UserError: no space for the file, or nothing to learn.
    """

    packed = True

    def __init__(self, sequences: Iterable[Piece], folder: Path, losses: Losses) -> None:
        lengths, learnt, rows = array("I"), array("I"), array("I")  # 12 bytes a sequence, where lists of numbers would take a hundred
        digest = hashlib.sha256()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # lives as long as the examples
            for one in sequences:
                marks = np.ones(len(one.ids), bool) if one.learnt is None else one.learnt
                # The sign carries the mark: a learnt token's id is stored as ~id.
                stored = np.where(marks, ~one.ids, one.ids).astype(np.int32, copy=False).tobytes()
                self._file.write(stored)
                digest.update(stored)
                lengths.append(len(one.ids) - 1)
                learnt.append(int(np.count_nonzero(marks[1:])))
                rows.append(one.row)
            # What no step asks for lies behind the ids while the steps are taken.
            self._ends = [self._file.tell()]
            for numbers in (learnt, rows, losses.lengths, losses.answers):
                self._file.write(numbers)
                self._ends.append(self._file.tell())
            self._file.flush()
        except OSError as error:
            raise as_user_error(error, folder) from error
        self.left_out = losses.left_out
        self.lengths_N = np.frombuffer(lengths, np.uint32)
        sums = np.add.reduceat(self.lengths_N, np.arange(0, len(self), BLOCK), dtype=np.int64) if len(self) else np.zeros(0, np.int64)
        self._block_starts = np.concatenate([[0], np.cumsum(sums)])
        digest.update(lengths)
        self._fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.lengths_N)

    @property
    def learnt_N(self) -> npt.NDArray[np.uint32]:
        """Learnt tokens of each sequence, read from disk."""
        return self._numbers(0)

    @property
    def rows_N(self) -> npt.NDArray[np.uint32]:
        """The row that each sequence came from, read from disk."""
        return self._numbers(1)

    def _numbers(self, which: int) -> npt.NDArray[np.uint32]:
        start, stop = self._ends[which : which + 2]
        return np.frombuffer(os.pread(self._file.fileno(), stop - start, start), np.uint32)

    def whole(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        """Tokens of each row before anything was cut, and those from where its last answer begins (None: rows without answers)."""
        lengths_N = self._numbers(2)
        if len(lengths_N):
            return lengths_N, self._numbers(3)
        # Nothing of a document is cut, and its pieces share a token each: places of all of them, and the first token.
        rows_N = self.rows_N
        begins = np.flatnonzero(np.diff(rows_N, prepend=rows_N[:1] + 1))
        return np.add.reduceat(self.lengths_N, begins, dtype=np.int64) + 1, None

    def sequence(self, index: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Ids of a sequence, and which of them are learnt."""
        size = (int(self.lengths_N[index]) + 1) * 4
        start = (self._place(index) + index) * 4  # each sequence stores one token more than it has places
        stored = np.frombuffer(os.pread(self._file.fileno(), size, start), np.int32).astype(np.int64)
        marks = stored < 0
        return np.where(marks, ~stored, stored), marks

    def batch(self, rows_B: npt.NDArray[np.int64]) -> Batch:
        import torch

        inputs, targets, lengths = [], [], []
        for index in rows_B:
            ids, marks = self.sequence(int(index))
            inputs.append(ids[:-1])
            targets.append(np.where(marks[1:], ids[1:], NOT_LEARNT))
            lengths.append(len(ids) - 1)
        ids_T = torch.from_numpy(np.concatenate(inputs))
        given: dict[str, torch.Tensor] = {"ids": ids_T, "lengths": torch.tensor(lengths)}
        return Batch(given, torch.from_numpy(np.concatenate(targets)), None, None, len(rows_B), len(ids_T))

    def places(self, rows_B: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where the places of `batch(rows_B)` stand among those of all sequences."""
        starts = [self._place(int(row)) for row in rows_B]
        return np.concatenate([np.arange(start, start + int(self.lengths_N[row])) for start, row in zip(starts, rows_B, strict=True)])

    def _place(self, index: int) -> int:
        """Places of all sequences before this one."""
        block = index // BLOCK
        return int(self._block_starts[block]) + int(self.lengths_N[block * BLOCK : index].sum(dtype=np.int64))

    def fingerprint(self) -> str:
        return self._fingerprint


def end_of(tokenizer: Tokenizer, config: dict[str, Any], chat: chat_template.Chat) -> list[int]:
    """Ids at which an answer ends: the template's end mark, the tokenizer's end token, the model's own.

    Args:
        tokenizer: of the base.
        config: the base's config.json (or generation_config.json) with `eos_token_id`.
        chat: how dialogues are written.

    Returns:
        At least one id; the first is the one to add where a text has none of them.

    Raises:
        UserError: nothing says where a text ends.
    """
    found: list[int] = []
    ending = _ending(tokenizer, chat)
    if ending is not None:
        found.append(ending)
    named = tokenizer.library.token_to_id(chat.tokens["eos_token"]) if "eos_token" in chat.tokens else None
    ids = config.get("eos_token_id")
    for one in [named, *(ids if isinstance(ids, list) else [ids])]:
        if isinstance(one, int) and one not in found:
            found.append(one)
    if not found:
        raise UserError("the base names no end token, so a model could never learn to stop", "tokenizer_config.json", "add eos_token to it")
    return found


def _ending(tokenizer: Tokenizer, chat: chat_template.Chat) -> int | None:
    """The special token with which the template ends an assistant's turn."""
    if not chat.template:
        return None
    ask = [{"role": "user", "content": "a"}]
    before, after = chat.write(ask, True), chat.write([*ask, {"role": "assistant", "content": "b"}], False)
    ids = tokenizer.library.encode(after[len(before) :] if after.startswith(before) else after, add_special_tokens=False).ids
    special = {i for i, token in tokenizer.library.get_added_tokens_decoder().items() if token.special}
    return next((i for i in reversed(ids) if i in special), None)


def documents(tokenizer: Tokenizer, texts: Iterator[Sequence[str]], end: int, limit: int) -> Iterator[Piece]:
    """Documents as sequences of which every token is learnt; one beyond the limit becomes several, each token in one of them.

    Args:
        tokenizer: of the base.
        texts: batches of documents.
        end: the id that ends a document.
        limit: most tokens of a sequence.
    """
    row = -1
    prefix = np.array(tokenizer.prefix, np.int32)
    for batch in texts:
        ids_T, counts = tokenizer.words.ids(batch)
        for bare in np.split(ids_T, np.cumsum(counts))[:-1]:
            row += 1
            ids = np.concatenate([prefix, bare, [end]]).astype(np.int32)
            # Pieces share one token: the last of a piece is predicted there and begins the next.
            for start in range(0, max(1, len(ids) - 1), limit - 1):
                piece = ids[start : start + limit]
                if len(piece) > 1:
                    yield Piece(piece, None, row)
