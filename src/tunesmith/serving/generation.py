"""A saved language model that answers: the same writer evaluates, predicts, chats and (later) serves, so what is measured is what ships.

A prompt is written exactly as in training (`tokens/chat_template.py`), and what no longer fits the base's limit is left out from its beginning:
the oldest turns first, never the system message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import methods
from tunesmith.core.errors import UserError
from tunesmith.methods import Saved
from tunesmith.models import decode, metadata
from tunesmith.models.decode import Sampling
from tunesmith.models.fast import llama
from tunesmith.models.loading import Head
from tunesmith.tokens import tokenization
from tunesmith.tokens.chat_template import Chat, Message

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.models.catalog import Base
    from tunesmith.models.metadata import About, Writing

CONTEXT_TOKENS = 8
"""Tokens of the prompt beside which an answer's are decoded: how a token is written (with a space or without) depends on those before it."""
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
"""How SentencePiece vocabularies write one byte of a character that they do not have."""
GREEDY = Sampling()


@dataclass(frozen=True)
class Answer:
    """What a model wrote: the text, whether it ended by itself (else a limit ended it), how many tokens it has, and whether the
    beginning of its prompt was left out because the limit is too small for it."""

    text: str
    ended: bool
    tokens: int
    cut: bool = False


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt, and whether its beginning was left out."""

    ids: list[int]
    cut: bool


class Writer:
    """A language model with all it takes to write texts.

    Attributes: about (its facts; `about.writing` is there), model (in eval mode), limit (most tokens of a prompt and its answer together).
    """

    def __init__(self, about: About, model: nn.Module, reader: tokenization.Tokenizer) -> None:
        assert about.writing is not None
        self.about, self.model, self._reader = about, model, reader
        config: Any = model.config
        limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
        before = llama.front(model)
        self.limit: int = min([limit for limit in limits if limit] or [about.max_tokens]) - (before.places if before else 0)
        self._chat = Chat(about.writing.template, about.writing.tokens)
        self._ends = about.writing.ends
        named = [reader.library.token_to_id(token) for token in about.writing.tokens.values()]
        self._hidden = {one for one in named if one is not None}

    def answer(self, dialogues: Sequence[Sequence[Message]], sampling: Sampling = GREEDY, progress: Callable[[int, int], None] | None = None) -> list[Answer]:
        """The next turn of each dialogue.

        Args:
            dialogues: messages up to the turn to write; the last is the user's.
            sampling: how tokens are chosen; greedy when absent. With a seed, a dialogue's answer depends on its number and not on those beside it.
            progress: called with (dialogues done, of).

        Raises:
            UserError: a system message that fills the limit alone, or a template that cannot write the dialogue.
        """
        return self._written([self.prompt(messages, sampling) for messages in dialogues], sampling, progress, bool(self._chat.template))

    def complete(self, texts: Sequence[str], sampling: Sampling = GREEDY, progress: Callable[[int, int], None] | None = None) -> list[Answer]:
        """How each text goes on, as it is, whatever the model's template; arguments as `answer`. An answer's text begins where the given one ends."""
        return self._written([self._raw(text, sampling) for text in texts], sampling, progress, False)

    def stream(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Iterator[str]:
        """The next turn of one dialogue in pieces; together they are `answer([messages])[0].text`, and each is whole characters."""
        return self.streamed(self.prompt(messages, sampling), sampling)

    def streamed(self, prompt: Prompt, sampling: Sampling = GREEDY) -> Iterator[str]:
        """As `stream`, for a prompt made by `prompt`."""
        made = (one for step in decode.steps(self.model, [prompt.ids], self._ends, sampling, self.limit) for _, one in step)
        return self._pieces(prompt, (one for one in made if one not in self._ends), bool(self._chat.template))

    def prompt(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Prompt:
        """A dialogue as the model reads it, within the limit less the room for the answer; at least half of the limit is the prompt's.

        Raises:
            UserError: as `answer`.
        """
        room = self._room(sampling)
        ids = self._ids(messages)
        if len(ids) <= room:
            return Prompt(ids, False)
        system = [one for one in messages[:1] if one["role"] == "system"]
        turns = messages[len(system) :]
        last = turns
        for start in [number for number, one in enumerate(turns) if one["role"] == "user" and number]:
            last = turns[start:]
            if len(ids := self._ids([*system, *last])) <= room:
                return Prompt(ids, True)
        return Prompt(self._shortened(system, last, room), True)

    def _shortened(self, system: Sequence[Message], turns: Sequence[Message], room: int) -> list[int]:
        """Ids of turns of which the longest is cut at its beginning until they fit: the template stays whole."""
        longest = max(range(len(turns)), key=lambda number: len(turns[number]["content"]), default=None)

        def kept(characters: int) -> list[int]:
            if longest is None:
                return self._ids(system)
            content = turns[longest]["content"]
            shorter = {**turns[longest], "content": content[len(content) - characters :]}
            return self._ids([*system, *turns[:longest], shorter, *turns[longest + 1 :]])

        fits, beyond = 0, 0 if longest is None else len(turns[longest]["content"])
        if len(best := kept(0)) > room:
            what = f"the dialogue has {len(best):,} tokens even without its longest message, and {room:,} fit beside the answer"
            raise UserError(what, "prompt", f"shorten the system message, or ask for fewer max_new_tokens (the base's limit is {self.limit:,} tokens)")
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            if len(ids := kept(middle)) <= room:
                fits, best = middle, ids
            else:
                beyond = middle
        return best

    def _raw(self, text: str, sampling: Sampling) -> Prompt:
        prefix, ids, room = list(self._reader.prefix), self._encoded(text), self._room(sampling)
        kept = ids[max(0, len(prefix) + len(ids) - room) :]
        return Prompt(prefix + kept or self._ends[:1], len(kept) < len(ids))

    def _room(self, sampling: Sampling) -> int:
        return max(self.limit - sampling.max_new_tokens, self.limit // 2)

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        # As `tokens.text.answers` has it: where there is no template, the tokenizer's own beginning stands before the text. A text of nothing
        # begins after an end.
        return [*(() if self._chat.template else self._reader.prefix), *self._encoded(self._chat.write(messages, True))] or self._ends[:1]

    def _encoded(self, text: str) -> list[int]:
        return list(self._reader.library.encode(text, add_special_tokens=False).ids)

    def _written(self, prompts: list[Prompt], sampling: Sampling, progress: Callable[[int, int], None] | None, strip: bool) -> list[Answer]:
        made = decode.generate(self.model, [prompt.ids for prompt in prompts], self._ends, sampling, self.limit, progress)
        return [Answer(self._text(prompt, one.ids, strip), one.ended, len(one.ids), prompt.cut) for prompt, one in zip(prompts, made, strict=True)]

    def _text(self, prompt: Prompt, ids: list[int], strip: bool) -> str:
        """New tokens as text, without special ones; `strip` takes away the white space that a template puts around an answer."""
        context = prompt.ids[-CONTEXT_TOKENS:]
        before, whole = self._decoded(context), self._decoded([*context, *ids])
        # Bytes that are no character can change how those before them are shown; then the new tokens are read by themselves.
        text = whole[len(before) :] if whole.startswith(before) else self._decoded(ids)
        return text.strip() if strip else text

    def _decoded(self, ids: list[int]) -> str:
        return str(self._reader.library.decode([one for one in ids if one not in self._hidden], skip_special_tokens=True))

    def _pieces(self, prompt: Prompt, made: Iterable[int], strip: bool) -> Iterator[str]:
        """Text as it grows, held back while it may still change: a character half there, bytes that follow each other, white space at the end."""
        ids: list[int] = []
        sent = ""
        for one in made:
            ids.append(one)
            if BYTE_TOKEN.fullmatch(self._reader.library.id_to_token(one) or ""):
                continue
            text = self._text(prompt, ids, strip).rstrip("\ufffd")
            text = text.rstrip() if strip else text
            if len(text) > len(sent) and text.startswith(sent):
                yield text[len(sent) :]
                sent = text
        text = self._text(prompt, ids, strip)
        if text.startswith(sent) and text != sent:
            yield text[len(sent) :]


def load(folder: Path, device: str = "cpu") -> Writer:
    """Load a language model.

    Args:
        folder: a run's `model/`.
        device: cpu or cuda.

    Raises:
        UserError: no model there, a classifier, or its base is gone or changed.
    """
    about = metadata.read(folder)
    if about.writing is None:
        raise UserError(f"this model gives labels ({about.objective}), it writes no texts", str(folder), "use tunesmith predict")
    model = methods.get(about.method).load(Saved(folder, Head(None), lambda: metadata.base_of(about)))
    model.to(device)
    source = folder if (folder / "tokenizer.json").exists() else metadata.base_of(about).folder
    return Writer(about, model, tokenization.load(source))


def of_base(base: Base, writing: Writing, limit: int, device: str = "cpu") -> Writer:
    """The untouched base, which writes prompts as a model that was trained from it does.

    Args:
        base: of the trained model.
        writing: of the trained model.
        limit: its `about.max_tokens`.
        device: cpu or cuda.

    Raises:
        UserError: transformers cannot load it as a language model.
    """
    from tunesmith.models import loading

    model = loading.language_model(base)
    model.eval()
    model.to(device)
    about = metadata.About("", "", base.name, base.sha256, [], False, limit, "head", writing)
    return Writer(about, model, tokenization.load(base.folder))
