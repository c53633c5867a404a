"""How a dialogue is written as one text: by the tokenizer's own chat template, by a plain one, or as it is.

A template is a program that comes with the weights, so it runs in jinja's immutable sandbox, and before it is used it must write a short
dialogue within TIME_LIMIT seconds.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import UserError
from tunesmith.files import read_json

Template = Literal["auto", "plain", "none"]
Message = Mapping[str, str]

TIME_LIMIT = 2.0
"""Seconds a template may take for two messages."""

PLAIN = (
    "{% for m in messages %}{% if m.role == 'assistant' %}Assistant:\n{{ m.content }}{{ eos_token }}\n"
    "{% else %}{{ m.role | capitalize }}:\n{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""For bases whose tokenizer has no template."""


@dataclass(frozen=True)
class Chat:
    """One way to write dialogues.

    Attributes: source of the jinja template ("" writes a prompt and its completion one after the other, as they are), and the special
    tokens it may name (bos_token, eos_token ...).
    """

    template: str
    tokens: Mapping[str, str]

    def write(self, messages: Sequence[Message], answer_next: bool) -> str:
        """The messages as one text; `answer_next` ends it where the assistant's answer begins."""
        if not self.template:
            return "".join(message["content"] for message in messages)
        try:
            given = [dict(message) for message in messages]
            return _compiled(self.template).render(messages=given, add_generation_prompt=answer_next, **self.tokens)  # type: ignore[no-any-return]
        except Exception as error:  # a template may raise anything
            raise UserError(f"the base's chat template cannot write this dialogue ({error})", "chat template", "set objective.template: plain") from error


def load(folder: Path, wanted: Template = "auto") -> Chat:
    """The chat template of a base.

    Args:
        folder: of the base, with tokenizer_config.json and perhaps chat_template.jinja.
        wanted: auto takes the tokenizer's own where it has one, else the plain one; none writes texts as they are.

    Raises:
        UserError: the template cannot be read or does not come to an end.
    """
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.exists() else {}
    tokens = {key: value for key in ("bos_token", "eos_token", "unk_token", "pad_token") if (value := _content(config.get(key)))}
    if wanted == "none":
        return Chat("", tokens)
    own: Any = config.get("chat_template")
    if (folder / "chat_template.jinja").exists():
        own = (folder / "chat_template.jinja").read_text("utf-8")
    if isinstance(own, list):  # several, by name
        own = next((one["template"] for one in own if one.get("name") == "default"), None)
    chat = Chat(own if wanted == "auto" and isinstance(own, str) and own.strip() else PLAIN, tokens)
    _try(chat, folder)
    return chat


def _content(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _try(chat: Chat, folder: Path) -> None:
    failed: list[UserError] = []

    def work() -> None:
        try:
            chat.write([{"role": "user", "content": "Hello"}], True)
        except UserError as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(TIME_LIMIT)
    if thread.is_alive():
        raise UserError(f"the base's chat template does not end within {TIME_LIMIT:g} s", str(folder), "set objective.template: plain")
    if failed:
        raise failed[0]


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """transformers' mark around what an assistant says; here spans are found otherwise, so its content is written as it is."""

        tags = {"generation"}  # noqa: RUF012  # jinja's own way to declare them

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], keep_trailing_newline=True)
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime(2026, 1, 1).strftime(form)  # a fixed day: the same row, the same tokens
    return environment.from_string(template)


def written(chat: Chat, messages: Sequence[Message], learn: Literal["every", "last"]) -> tuple[str, list[tuple[int, int]]]:
    """A dialogue as one text, and where the answers to learn stand in it.

    Args:
        chat: how it is written.
        messages: up to and including an assistant's turn; what follows the last one is left out.
        learn: every assistant turn, or the last.

    Returns:
        The text, and (start, stop) in characters of each learnt answer, the end mark of its turn included.

    Raises:
        UserError: the template rewrites earlier turns once a later one is there, so that earlier answers have no fixed place.
    """
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    spans = []
    text = ""
    for turn in turns if learn == "every" else turns[-1:]:
        before, after = chat.write(messages[:turn], True), chat.write(messages[: turn + 1], False)
        if not before.startswith(text) or not after.startswith(before):
            what = "the base's chat template writes earlier turns differently once later ones are there"
            raise UserError(what, "chat template", "set objective.learn: last, or objective.template: plain")
        spans.append((len(before), len(after)))
        text = after
    return text, spans
