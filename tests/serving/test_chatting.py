"""`tunesmith chat`: one dialogue a process, from a pipe or at a terminal."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.models.decode import Sampling
from tunesmith.serving import chatting, generation

Cli = Callable[..., tuple[int, str, str]]
QUESTIONS = ["what colour is rose 3?", "what colour is sky 4?", "what colour is leaf 5?"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def dialogue(run: Path, questions: list[str], system: str | None = None, **sampling: Any) -> list[str]:
    """The answers that a writer gives turn by turn."""
    writer, said = generation.load(run / "model"), []
    messages = [{"role": "system", "content": system}] if system else []
    for turn, question in enumerate(questions):
        messages.append({"role": "user", "content": question})
        said.append(writer.answer([messages], Sampling(**{"temperature": 0.7, "top_p": 0.95, "seed": turn, **sampling}))[0].text)
        messages.append({"role": "assistant", "content": said[-1]})
    return said


def test_lines_of_a_pipe_are_turns_of_one_dialogue(cli_: Cli, talker: Path) -> None:
    code, out, err = cli_("chat", talker, "--temperature", 0, "--max-new-tokens", 20, stdin="\n".join(QUESTIONS) + "\n\n")
    said = dialogue(talker, QUESTIONS, temperature=0, max_new_tokens=20)
    assert (code, out, err) == (0, "".join(text + "\n" for text in said), "")
    code, out, _ = cli_("chat", talker, "--system", "it is so", "--max-new-tokens", 20, "--seed", 3, stdin=f"{QUESTIONS[0]}\n{QUESTIONS[1]}")
    writer = generation.load(talker / "model")
    first = [{"role": "system", "content": "it is so"}, {"role": "user", "content": QUESTIONS[0]}]
    settings = Sampling(max_new_tokens=20, temperature=0.7, top_p=0.95, seed=3)
    assert (
        code == 0
        and out.startswith(writer.answer([first], settings)[0].text + "\n")
        and out
        == cli_("chat", talker, "--system", "it is so", "--max-new-tokens", 20, "--seed", 3, stdin=f"{QUESTIONS[0]}\n{QUESTIONS[1]}\n/quit\n{QUESTIONS[2]}")[1]
    )


def test_reset_begins_anew(cli_: Cli, talker: Path) -> None:
    given = ("chat", talker, "--temperature", 0, "--max-new-tokens", 12)
    alone = cli_(*given, stdin=QUESTIONS[1])[1]
    after = cli_(*given, stdin=f"{QUESTIONS[0]}\n/reset\n{QUESTIONS[1]}\n")[1]
    assert after == cli_(*given, stdin=QUESTIONS[0])[1] + alone


def test_a_dialogue_that_no_longer_fits_says_so_once(cli_: Cli, talker: Path) -> None:
    code, out, err = cli_("chat", talker, "--temperature", 0, "--max-new-tokens", 8, stdin="\n".join(QUESTIONS * 6))
    assert code == 0 and len(out.splitlines()) == 18
    assert err == "note: the dialogue no longer fits; its oldest part is left out from here on\n"


def test_what_cannot_be_talked_with(cli_: Cli, talker: Path, teller: Path) -> None:
    what = "this model goes on with texts (pretraining); it was trained without a chat template and knows no turns"
    assert cli_("chat", teller, stdin="a") == (2, "", f'error: {teller}: {what}\n  -> tunesmith predict {teller} "a text to go on with"\n')
    assert cli_("chat", talker, "--temperature", -1)[::2] == (
        2,
        "error: sampling: `temperature=-1.0` must lie in [0, 100]\n  -> leave temperature out for 0.0\n",
    )
    assert cli_("chat", talker, "--system", " ")[2] == "error: command line: `--system` is blank\n  -> leave it out\n"
    assert cli_("chat", talker, stdin=b"caf\xe9\n")[2].startswith("error: stdin: byte 0xE9 is not UTF-8\n")
    code, out, err = cli_("chat", talker, "--system", "rose 1 " * 100, stdin="a\n")
    assert code == 2 and out == "" and "tokens even without its longest message" in err


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(talker: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """At a terminal, in one process: the first answer is interrupted after two pieces, a question with nothing said is forgotten."""
    asked: list[list[Any]] = []
    prompt = generation.Writer.prompt

    def remembered(self: Any, messages: Any, sampling: Any) -> Any:
        asked.append(list(messages))
        return prompt(self, messages, sampling)

    def streamed(self: Any, prompt: Any, sampling: Any) -> Iterator[str]:
        if len(asked) == 1:
            yield from ("it ", "is")
        if len(asked) < 3:
            raise KeyboardInterrupt
        yield "done"

    monkeypatch.setattr(generation.Writer, "prompt", remembered)
    monkeypatch.setattr(generation.Writer, "streamed", streamed)
    typed: Iterator[Any] = iter(["one", "two", KeyboardInterrupt, " ", "three", EOFError])

    def answered(ask: str) -> str:
        one = next(typed)
        if isinstance(one, str):
            return one
        raise one

    monkeypatch.setattr("builtins.input", answered)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    chatting.chat(talker, None, Sampling())
    out, err = capsys.readouterr()
    assert out == "it is\n\ndone\n" and err.count(" [stopped]") == 2
    said = {"role": "assistant", "content": "it is"}
    assert asked[1] == [{"role": "user", "content": "one"}, said, {"role": "user", "content": "two"}]
    assert asked[2] == [{"role": "user", "content": "one"}, said, {"role": "user", "content": "three"}]


SLOW = """
import sys, time
from tunesmith import cli
from tunesmith.models import decode, kv_cache
advance, steps = kv_cache.Flat.advance, decode.steps
kv_cache.Flat.advance = lambda self, ids: (time.sleep(0.2), advance(self, ids))[1]
decode.steps = lambda model, prompts, ends, *rest: steps(model, prompts, (), *rest)  # an answer that ends by chance cannot be stopped
cli.main()
"""


def test_at_a_real_terminal(talker: Path) -> None:
    """A pseudo-terminal: the answer comes as it is written, Ctrl-C stops it and nothing else, Ctrl-D ends with code 0."""
    master, slave = pty.openpty()
    command = [sys.executable, "-c", SLOW, "chat", str(talker), "--temperature", "30", "--max-new-tokens", "10000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TERM": "dumb"}

    def own_terminal() -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background ignores it, and so would this
        os.close(os.open(os.ttyname(0), os.O_RDWR))  # the first terminal that a session's leader opens is the one whose Ctrl-C it gets

    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, preexec_fn=own_terminal)  # noqa: PLW1509
    os.close(slave)
    seen = b""

    def wait_for(mark: bytes, seconds: float = 60) -> None:
        nonlocal seen
        end = time.monotonic() + seconds
        while mark not in seen:
            assert time.monotonic() < end, seen
            if select.select([master], [], [], 0.2)[0]:
                seen += os.read(master, 65536)

    try:
        wait_for(b"> ")
        os.write(master, b"what colour is rose 3?\n")
        wait_for(b"?\r\n")
        seen = seen.partition(b"?\r\n")[2]
        while len(seen) < 4:
            seen += os.read(master, 65536)
        os.write(master, b"\x03")
        wait_for(b"[stopped]")
        seen = seen.partition(b"[stopped]")[2]
        wait_for(b"> ")
        os.write(master, b"\x04")
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        os.close(master)
