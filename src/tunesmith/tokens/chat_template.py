"""How a dialogue is written as one text: by the tokenizer's own chat template, by a plain one, or as it is.

A template is a program that comes with the weights, so it runs in jinja's immutable sandbox, and before it is used it must write a short
dialogue within TIME_LIMIT seconds.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from tunesmith.core.errors import UserError
from tunesmith.core.files import read_json

Template = Literal["auto", "plain", "none"]
Message = Mapping[str, str]

TIME_LIMIT = 2.0
"""Seconds a template may take for a few short messages."""

PLAIN = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}Assistant:\n{{ m.content }}{{ eos_token }}\n"
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
    """Write short dialogues in a process of its own, which a template cannot outlast nor fill the memory from."""
    if chat.template == PLAIN:
        return
    said = _trial(chat.template, json.dumps(dict(chat.tokens)), TIME_LIMIT)
    if said:
        raise UserError(f"the base's chat template {said}", str(folder), "set objective.template: plain")


TRIAL = """
import json, resource, signal, sys
from tunesmith.tokens.chat_template import Chat
from tunesmith.core.errors import UserError
template, tokens, limit, memory = json.load(sys.stdin)
turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Bye"}]
chat = Chat(template, json.loads(tokens))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
signal.setitimer(signal.ITIMER_REAL, limit)  # without a handler: it ends the process, whatever it is doing
try:
    for count in (1, 2, 3):
        chat.write(turns[:count], count % 2 == 1)
except UserError as error:
    print(error.what)
"""
MEMORY_LIMIT = 2**31
"""Bytes of address space for a trial."""


@lru_cache(maxsize=32)
def _trial(template: str, tokens: str, limit: float) -> str:
    """What is wrong with a template, in words; empty when it wrote its dialogues."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    given = json.dumps([template, tokens, limit, MEMORY_LIMIT]).encode()
    try:
        done = subprocess.run([sys.executable, "-P", "-c", TRIAL], input=given, capture_output=True, timeout=limit + 60, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return f"does not end within {limit:g} s"
    if done.returncode == -signal.SIGALRM:
        return f"does not end within {limit:g} s"
    if done.returncode:
        return f"fails on a short dialogue (exit code {done.returncode})"
    said = done.stdout.decode("utf-8", "replace").strip()
    return said.removeprefix("the base's chat template ")


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

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime(2026, 1, 1).strftime(form)  # a fixed day: the same row, the same tokens
    compiled = environment.from_string(template)
    compiled.globals = dict(compiled.globals)  # jinja copies them for each text, which of its ChainMap takes as long as to write the text
    return compiled


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
