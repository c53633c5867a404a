"""`tunesmith chat`: a dialogue with a language model, its answers as they are written.

On a terminal questions are typed at a prompt; elsewhere each line of stdin is the user's next turn, and the answers alone go to stdout.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.models.decode import Sampling
from tunesmith.serving import generation
from tunesmith.serving.generation import Writer
from tunesmith.serving.predicting import check_device
from tunesmith.tokens.chat_template import Message

RESET, QUIT = "/reset", "/quit"
ASK = "> "


def chat(run: Path, system: str | None, sampling: Sampling, device: str = "cpu") -> None:
    """Talk until the user leaves or stdin ends.

    Args:
        run: a run's folder.
        system: what the model is told before the dialogue.
        sampling: how tokens are chosen; each turn adds one to the seed.
        device: cpu or cuda.

    Raises:
        UserError: no language model there, one without turns, a blank system message, or (not on a terminal) a turn that cannot be answered.
    """
    check_device(device)
    if system is not None and not system.strip():
        raise UserError("`--system` is blank", "command line", "leave it out")
    writer = generation.load(run / "model", device)
    if writer.about.writing is None or not writer.about.writing.template:
        what = f"this model goes on with texts ({writer.about.objective}); it was trained without a chat template and knows no turns"
        raise UserError(what, str(run), f'tunesmith predict {run} "a text to go on with"')
    on_terminal = sys.stdin.isatty()
    if on_terminal:
        print(f"{RESET} begins anew, {QUIT} or Ctrl-D ends, Ctrl-C stops an answer.", file=sys.stderr)
    first: list[Message] = [{"role": "system", "content": system}] if system else []
    messages, turn, told = list(first), 0, False
    for text in _typed() if on_terminal else _lines():
        if text == QUIT:
            return
        if text == RESET:
            messages, told = list(first), False
            continue
        asked: list[Message] = [*messages, {"role": "user", "content": text}]
        now = replace(sampling, seed=sampling.seed + turn)
        try:
            prompt = writer.prompt(asked, now)
        except UserError as error:
            if not on_terminal:
                raise
            print(f"error: {error}", file=sys.stderr)
            continue
        if prompt.cut and not told:
            print("note: the dialogue no longer fits; its oldest part is left out from here on", file=sys.stderr)
            told = True
        turn += 1
        if said := _said(writer, prompt, now):
            messages = [*asked, {"role": "assistant", "content": said}]


def _said(writer: Writer, prompt: generation.Prompt, sampling: Sampling) -> str:
    """Print an answer as it grows; Ctrl-C ends it where it is."""
    pieces = []
    try:
        for piece in writer.streamed(prompt, sampling):
            pieces.append(piece)
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        print(" [stopped]", end="", file=sys.stderr)
    print(flush=True)
    return "".join(pieces).strip()


def _typed() -> Iterator[str]:
    """Lines typed at a prompt, with the arrow keys working where Python has readline."""
    try:
        import readline
    except ImportError:
        pass
    else:
        readline.set_auto_history(True)
    while True:
        try:
            text = input(ASK).strip()
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)
            continue
        if text:
            yield text


def _lines() -> Iterator[str]:
    lines: Any = sys.stdin
    try:
        for line in lines:
            if line.strip():
                yield line.strip()
    except UnicodeDecodeError as error:
        raise UserError(f"byte 0x{error.object[error.start]:02X} is not UTF-8", "stdin", "iconv -f WINDOWS-1252 -t UTF-8 turns Windows text into it") from error
