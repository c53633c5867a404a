"""Dialogues as sequences of which the assistant's answers are learnt.

Which tokens share a character with an answer has to be known, and to have the library say where each token stands takes most of the time. Where a
tokenizer reads the words of a text apart (tokens/word_cache.py), only the words at the two ends of an answer are asked about: all between them are learnt. Of
many dialogues other processes read some (core/workers.py).

Shapes: N dialogues of a batch, S answers in them, W words, T tokens, Q sequences that are kept, E ends.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tunesmith.core import workers
from tunesmith.core.errors import UserError
from tunesmith.tokens import chat_template, tokenization
from tunesmith.tokens.sequences import Losses, Piece
from tunesmith.tokens.tokenization import Tokenizer
from tunesmith.tokens.word_cache import Parts, starts

Dialogue = Sequence[chat_template.Message]
Span = tuple[int, int]
"""Where an answer begins and ends among a text's characters."""
Learn = Literal["every", "last"]
LEAST_ROWS = 4096
"""Fewer dialogues are read by this process alone: a helper takes as long to begin as one process for two thousand."""


class Answered(NamedTuple):
    """What a batch of dialogues became.

    Attributes: ids_T and learnt_T (of the sequences one after the other), sizes_Q, rows_Q (each sequence's dialogue), lengths_N (tokens of each dialogue
    before anything was cut), answers_N (from the first token of its last answer to its end; 0: none).
    """

    ids_T: npt.NDArray[np.int32]
    learnt_T: npt.NDArray[np.bool_]
    sizes_Q: npt.NDArray[np.int32]
    rows_Q: npt.NDArray[np.int32]
    lengths_N: npt.NDArray[np.int32]
    answers_N: npt.NDArray[np.int32]


class Marked(NamedTuple):
    """Texts in tokens.

    Attributes: ids_T, learnt_T (whether a token belongs to an answer), bounds (where each text's tokens begin, and the last's end), firsts (where those of
    its last answer begin; the text's end where it has none).
    """

    ids_T: npt.NDArray[np.int32]
    learnt_T: npt.NDArray[np.bool_]
    bounds: list[int]
    firsts: list[int]


class Reading:
    """Reads batches of dialogues, here or in a helper (crew.Work); arguments as `answers` has them."""

    def __init__(self, tokenizer: Tokenizer, chat: chat_template.Chat, ends: Sequence[int], limit: int, keep: str, learn: Learn) -> None:
        self.tokenizer, self.chat, self.ends, self.limit, self.keep, self.learn = tokenizer, chat, ends, limit, keep, learn

    def __call__(self, batch: Sequence[Dialogue]) -> Answered:
        written = [chat_template.written(self.chat, messages, self.learn) for messages in batch]
        found = marked(self.tokenizer, [text for text, _ in written], [spans for _, spans in written], self.ends)
        prefix = np.asarray([] if self.chat.template else self.tokenizer.prefix, np.int32)
        kept: list[tuple[Any, Any]] = [(np.zeros(0, np.int32), np.zeros(0, bool))]
        rows, lengths, answered = [], [], []
        for row, (start, stop, first) in enumerate(zip(found.bounds[:-1], found.bounds[1:], found.firsts, strict=True)):
            ids, learnt = found.ids_T[start:stop], found.learnt_T[start:stop]
            if len(ids) and learnt[-1] and ids[-1] not in self.ends:
                ids, learnt = np.append(ids, np.int32(self.ends[0])), np.append(learnt, True)
            answered.append(len(ids) - (first - start))
            if len(prefix):
                ids, learnt = np.append(prefix, ids), np.append(np.zeros(len(prefix), bool), learnt)
            lengths.append(len(ids))
            if len(ids) > self.limit:
                ids, learnt = (ids[-self.limit :], learnt[-self.limit :]) if self.keep == "tail" else (ids[: self.limit], learnt[: self.limit])
            if learnt[1:].any():
                kept.append((ids, learnt))
                rows.append(row)
        numbers = (np.asarray(one, np.int32) for one in ([len(ids) for ids, _ in kept[1:]], rows, lengths, answered))
        return Answered(np.concatenate([ids for ids, _ in kept]), np.concatenate([learnt for _, learnt in kept]), *numbers)

    def send(self, batch: Sequence[Dialogue]) -> workers.Message:
        return workers.Message(batch, [])

    def receive(self, message: workers.Message) -> Sequence[Dialogue]:
        dialogues: Sequence[Dialogue] = message.value
        return dialogues

    def reply(self, result: Answered) -> workers.Message:
        return workers.Message(None, [one.tobytes() for one in result])

    def result(self, message: workers.Message) -> Answered:
        ids, learnt, *numbers = message.blobs
        return Answered(np.frombuffer(ids, np.int32), np.frombuffer(learnt, bool), *(np.frombuffer(one, np.int32) for one in numbers))


def helper(tokenizer: dict[str, Any], template: str, tokens: dict[str, str], ends: list[int], limit: int, keep: str, learn: Learn) -> Reading:
    """The same in a helper, made from values of JSON."""
    return Reading(tokenization.from_json(tokenizer), chat_template.Chat(template, tokens), ends, limit, keep, learn)


def answers(
    tokenizer: Tokenizer,
    chat: chat_template.Chat,
    dialogues: Iterable[Sequence[Dialogue]],
    ends: Sequence[int],
    limit: int,
    keep: str,
    learn: Learn,
    losses: Losses,
    rows: int = 0,
) -> Iterator[Piece]:
    """Dialogues as sequences of which the assistant's answers are learnt.

    Args:
        tokenizer, chat: of the base.
        dialogues: batches of dialogues.
        ends: from `text.end_of`; where a template forgets to end its last answer with one of them, the first is added.
        limit: most tokens of a sequence.
        keep: what is kept of a longer one: head or tail.
        learn: every answer, or the last.
        losses: gets each row's length, and counts those left out.
        rows: how many dialogues there are, if that is known: of many, other processes read some.

    Raises:
        UserError: another way to keep something of a long row is asked for, or a template that does not go with what is to be learnt.
    """
    if keep not in ("head", "tail"):
        raise UserError(f"`model.truncation={keep}` does not work for answers", "recipe", "use head, or tail to keep the last answer")
    count = workers.helpers() if rows >= LEAST_ROWS else 0
    given = {"template": chat.template, "tokens": dict(chat.tokens), "ends": list(ends), "limit": limit, "keep": keep, "learn": learn}
    if count:
        given["tokenizer"] = tokenization.as_json(tokenizer)
    before = 0
    with workers.Crew(Reading(tokenizer, chat, ends, limit, keep, learn), "tunesmith.tokens.dialogues:helper", given, count) as readers:
        for one in readers.each(dialogues):
            stops = np.cumsum(one.sizes_Q).tolist()
            for row, start, stop in zip(one.rows_Q.tolist(), [0, *stops], stops, strict=False):
                yield Piece(one.ids_T[start:stop], one.learnt_T[start:stop], before + row)
            losses.lengths.frombytes(one.lengths_N.tobytes())
            losses.answers.frombytes(one.answers_N.tobytes())
            losses.left_out += len(one.lengths_N) - len(one.rows_Q)
            before += len(one.lengths_N)


def marked(tokenizer: Tokenizer, texts: Sequence[str], spans: Sequence[Sequence[Span]], ends: Sequence[int]) -> Marked:
    """Texts in tokens, and which of these share a character with an answer.

    Args:
        tokenizer: of the base.
        texts: N texts.
        spans: each text's answers, in order.
        ends: ids; what stands behind the last of them in an answer is the template's, and not learnt.
    """
    words, encoded = tokenizer.words, dict[str, Any]()
    if words.divides:
        parts = words.parts(texts)
    else:  # no part would be met again
        encoded = words.encoded(texts)
        sizes = np.asarray([len(encoded[text].ids) for text in texts], np.int64)
        ids = [np.asarray(encoded[text].ids, np.int32) for text in texts]
        parts = Parts(list(texts), np.arange(len(texts)), sizes, np.concatenate([np.zeros(0, np.int32), *ids]))
    # The texts are laid one behind the other, so that one search finds the words at the ends of all answers.
    offsets_N = np.cumsum([0, *(len(text) + 1 for text in texts)])
    starts_W = starts(texts, parts) + np.repeat(offsets_N[:-1], np.diff(parts.begins_N, append=len(parts.words)))
    rows_S = np.repeat(np.arange(len(texts)), [len(one) for one in spans])
    spans_S2 = np.asarray([span for one in spans for span in one], np.int64).reshape(-1, 2) + offsets_N[rows_S, None]
    first_S = np.searchsorted(starts_W, spans_S2[:, 0], "right") - 1  # the last word that begins no later than the answer
    last_S = np.maximum(np.searchsorted(starts_W, spans_S2[:, 1], "left") - 1, 0)  # the last that begins before its end
    encoded = encoded or words.encoded(parts.words[word] for word in {*first_S.tolist(), *last_S.tolist()})
    within = {word: tuple(zip(*one.offsets, strict=True)) or ((), ()) for word, one in encoded.items()}
    tokens_W = np.append(0, np.cumsum(parts.tokens_W))
    bounds = tokens_W[np.append(parts.begins_N, len(parts.words))].tolist()
    firsts, learnt_T = bounds[1:], np.zeros(len(parts.ids_T), bool)
    # Of each token, the last up to it that is an end.
    ends_T = np.maximum.accumulate(np.where(np.isin(parts.ids_T, ends), np.arange(len(learnt_T)), -1))
    for row, (begin, end), first, last in zip(rows_S.tolist(), spans_S2.tolist(), first_S.tolist(), last_S.tolist(), strict=True):
        # A token that the prompt's last characters share with the answer's first is learnt too: it holds the answer's first word.
        start = int(tokens_W[first]) + bisect_right(within[parts.words[first]][1], begin - starts_W[first])
        stop = int(tokens_W[last]) + bisect_left(within[parts.words[last]][0], end - starts_W[last])
        if start < stop and ends_T[stop - 1] >= start:
            stop = int(ends_T[stop - 1]) + 1
        learnt_T[start:stop] = True
        firsts[row] = start if start < stop else bounds[row + 1]
    return Marked(parts.ids_T, learnt_T, bounds, firsts)
