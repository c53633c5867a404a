"""Processes that work beside this one: pieces of work go out, results come back in order.

Python computes on one core. Where pieces can be done apart (checking and mending rows, tokenising texts) helpers do them, and this process too while
they have enough to do; so two cores share the work, whatever part of it only this one can do. The results are the same with any number of helpers.

A helper gets pieces through a pipe, and ends when the pipe does: whatever stops the process that began it stops it too. What goes through the pipe is
JSON and plain bytes, which run no code.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from itertools import accumulate, pairwise
from queue import SimpleQueue
from typing import IO, Any, NamedTuple, Protocol

MOST_HELPERS = 3
"""What one process reads and writes keeps three others busy. Each holds some hundred megabytes."""
AHEAD = 2
"""Pieces that a helper has: one that it does, and one that is ready when that is done."""
ALONE = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""A helper has one core: libraries begin no threads there."""
PIPE_BYTES = 1 << 20
"""What a pipe holds, where the system lets it be chosen: a message, or a helper would wait until the thread that reads it has its turn, for each 64 kB."""
SWITCH_SECONDS = 0.001
"""While helpers work the threads that hand them pieces get their turn after this; Python's own choice is five times as long."""

SIZE = struct.Struct("<q")
"""How many bytes a message has, which stands before it; within it, how many blobs, the size of its JSON and of each."""


class Message(NamedTuple):
    """What goes through a pipe: a value of JSON, and bytes beside it."""

    value: Any
    blobs: list[bytes]


class Work(Protocol):
    """What does pieces, and puts pieces and results into messages and takes them out again."""

    def __call__(self, piece: Any, /) -> Any:
        """The result of a piece, which is never None."""

    def send(self, piece: Any, /) -> Message | None:
        """A piece as a message; None where it is none that JSON can hold as it is."""

    def receive(self, message: Message, /) -> Any:
        """The piece again."""

    def reply(self, result: Any, /) -> Message:
        """A result as a message."""

    def result(self, message: Message, /) -> Any:
        """The result again."""


def helpers() -> int:
    """How many processes may help this one here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores - 1, MOST_HELPERS)


class Crew:
    """Does pieces of work; a context, at whose end the helpers are gone.

    Args:
        work: does pieces in this process.
        make: `module:function` of what makes the same in a helper.
        given: what it is called with there, by name; values of JSON.
        count: helpers; with 0 this process does all.
    """

    def __init__(self, work: Work, make: str, given: dict[str, Any], count: int) -> None:
        self._work = work
        self._threads = ThreadPoolExecutor(AHEAD * max(1, count))
        self._free: SimpleQueue[_Helper] = SimpleQueue()
        self._helpers: list[_Helper] = []
        for _ in range(count):
            try:
                self._helpers.append(_Helper(make, given))
            except OSError:  # no more processes are allowed here: fewer do
                break
        self._ready: list[_Helper] = []
        self._switch = sys.getswitchinterval()

    def __enter__(self) -> Crew:
        # Pieces are made of many objects that soon go. What was there before (torch alone: half a million objects) need not be searched with them.
        gc.freeze()
        if self._helpers:
            sys.setswitchinterval(SWITCH_SECONDS)
        for one in self._helpers:
            self._threads.submit(self._begun, one)
        return self

    def __exit__(self, *error: object) -> None:
        gc.unfreeze()
        sys.setswitchinterval(self._switch)
        for one in self._helpers:
            one.end()
        self._threads.shutdown(cancel_futures=True)

    def each(self, pieces: Iterable[Any]) -> Iterator[Any]:
        """The result of each piece, in order; more pieces are taken before the first result is given.

        Raises:
            Exception: what the work raised, in place of its result.
        """
        if not self._helpers:
            yield from map(self._work, pieces)
            return
        out: deque[tuple[Any, Future[Any]]] = deque()
        for piece in pieces:
            busy = sum(not future.done() for _, future in out) >= AHEAD * len(self._ready)
            message = None if busy else self._work.send(piece)
            out.append((piece, self._here(piece) if message is None else self._threads.submit(self._helped, message)))
            while out and (out[0][1].done() or len(out) > 2 * AHEAD * len(self._ready)):
                yield self._taken(*out.popleft())
        while out:
            yield self._taken(*out.popleft())

    def _here(self, piece: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(self._work(piece))
        except Exception as error:  # noqa: BLE001  # raised where its result is asked for
            future.set_exception(error)
        return future

    def _taken(self, piece: Any, future: Future[Any]) -> Any:
        """A result, once it is there; what a helper failed at is done here."""
        result = future.result()
        return self._work(piece) if result is None else result

    def _begun(self, helper: _Helper) -> None:
        """Let a helper have pieces once it is ready; until then, and if it never is, the others do all."""
        helper.begin()
        self._free.put(helper)
        self._ready.append(helper)

    def _helped(self, message: Message) -> Any:
        """The result of a piece; None where the helper was ended, or the work raised an error, which is raised again by doing it here."""
        helper = self._free.get()
        try:
            answer = helper.done(message)
        except (OSError, EOFError):  # it was ended, for want of memory most likely: the others go on
            if helper in self._ready:
                self._ready.remove(helper)
            answer = None
        finally:
            self._free.put(helper)
        return None if answer is None else self._work.result(answer)


class _Helper:
    """A process that does pieces."""

    def __init__(self, make: str, given: dict[str, Any]) -> None:
        search = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, "-P", "-c", "from tunesmith.core.workers import serve; serve()"]
        environment = os.environ | ALONE | {"PYTHONPATH": search}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, pipesize=PIPE_BYTES)
        self._first = Message([make, given], [])

    def begin(self) -> None:
        """Wait until it is ready; raises as `done`."""
        self.done(self._first)

    def done(self, piece: Message) -> Message | None:
        """The result of a piece; None where it failed. OSError or EOFError where the process was ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        _write(self._process.stdin, piece)
        answer = _read(self._process.stdout)
        return answer if answer.blobs or answer.value is not None else None

    def end(self) -> None:
        """Stop it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()  # type: ignore[union-attr]  # both are there
            except BrokenPipeError:  # what was not sent yet is not needed
                pass


def _write(pipe: IO[bytes], message: Message) -> None:
    parts = [json.dumps(message.value).encode(), *message.blobs]
    body = b"".join([*(SIZE.pack(size) for size in (len(parts), *map(len, parts))), *parts])
    pipe.write(SIZE.pack(len(body)) + body)  # at once: other threads may work between any two calls
    pipe.flush()


def _read(pipe: IO[bytes]) -> Message:
    """The next message; EOFError where none comes."""
    body = _bytes(pipe, *SIZE.unpack(_bytes(pipe, SIZE.size)))
    (count,) = SIZE.unpack_from(body)
    ends = list(accumulate((size for (size,) in SIZE.iter_unpack(body[SIZE.size : SIZE.size * (count + 1)])), initial=SIZE.size * (count + 1)))
    text, *blobs = (body[start:end] for start, end in pairwise(ends))
    return Message(json.loads(text), blobs)


def _bytes(pipe: IO[bytes], size: int) -> bytes:
    found = pipe.read(size)
    if len(found) < size:
        raise EOFError
    return found


def serve() -> None:
    """Do the pieces that come through standard input; results leave through what standard output was, which nothing else may write to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the one that began this one decides
    source, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        (make, given), _ = _read(source)
        module, _, name = make.partition(":")
        work: Work = getattr(import_module(module), name)(**given)
        _write(results, Message("ready", []))
        while True:
            piece = work.receive(_read(source))
            try:
                answer = work.reply(work(piece))
            except Exception:  # noqa: BLE001  # it will happen to the one that asked too, who says it
                answer = Message(None, [])
            _write(results, answer)
    except (EOFError, BrokenPipeError):  # the one that asks has ended
        os._exit(0)
