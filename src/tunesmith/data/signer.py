"""A process of its own for the signatures of large data: they are a fifth of the work of reading rows, and nothing waits for them.

It gets open files and texts through a pipe, and ends when the pipe does: whatever stops the one that began it stops it too.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from tunesmith.errors import UserError

LEAST_BYTES = 8 << 20
"""Data below this are signed where they are read: the process takes 0.2 s to begin."""
PIPE_BYTES = 1 << 20
"""What may wait in the pipe, where the system lets it be chosen: some thousand texts, so that neither side waits for the other."""
HEAD = struct.Struct("<qq")
"""How many texts, and how many bytes they have together; their characters (u4 each) and the texts follow."""


class Signer:
    """Signs texts elsewhere.

    Args:
        files: where the signatures go, the lengths last; nobody else writes there from now on.
        width: values of a band.
    """

    def __init__(self, files: Sequence[BinaryIO], width: int) -> None:
        handles = [file.fileno() for file in files]
        command = [sys.executable, "-c", "from tunesmith.data.signer import serve; serve()", str(width), *map(str, handles)]
        search = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=PIPE_BYTES, pass_fds=handles, env=os.environ | {"PYTHONPATH": search}
        )

    def send(self, texts: Sequence[str]) -> None:
        """Hand over texts.

        Raises:
            OSError, UserError: as `close`.
        """
        assert self._process.stdin is not None
        whole = "".join(texts).encode("utf-8", "surrogatepass")
        lengths = np.fromiter(map(len, texts), "<u4", len(texts))
        try:
            self._process.stdin.write(HEAD.pack(len(texts), len(whole)) + lengths.tobytes() + whole)
            self._process.stdin.flush()
        except BrokenPipeError:
            self.close()

    def close(self) -> None:
        """Wait until all is signed.

        Raises:
            OSError: a system error that stopped the process, a full disk most likely.
            UserError: the process was ended without a word.
        """
        said = self._ended()
        if said.strip().isdigit():
            raise OSError(int(said), os.strerror(int(said)))
        if code := self._process.returncode:
            what = f"the process that signs rows for near-duplicates was ended (exit code {code})"
            raise UserError(what, "data.duplicates.near", "free memory and give the same command again, or set it to null")

    def drop(self) -> None:
        """Let go of what is not signed yet."""
        self._process.kill()
        self._ended()

    def _ended(self) -> bytes:
        """What the process said at its end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        with self._process.stdout as file:
            said = file.read()
        self._process.wait()
        return said


def serve() -> None:
    """Sign what comes through standard input; the process's arguments are a band's width and the files' handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the one that began this one decides
    from tunesmith.data import near

    width, *handles = map(int, sys.argv[1:])
    files = [os.fdopen(handle, "wb") for handle in handles]
    source = sys.stdin.buffer
    try:
        while len(head := source.read(HEAD.size)) == HEAD.size:
            count, size = HEAD.unpack(head)
            lengths, raw = source.read(4 * count), source.read(size)
            if len(raw) < size:  # the one that sent it was ended in the middle of it
                break
            ends = np.cumsum(np.frombuffer(lengths, "<u4").astype(np.int64)).tolist()
            whole = raw.decode("utf-8", "surrogatepass")
            near.sign([whole[start:end] for start, end in zip([0, *ends], ends, strict=False)], files, width)
        for file in files:
            file.close()
    except OSError as error:
        sys.stdout.write(str(error.errno))
        sys.stdout.flush()
        os._exit(1)  # closing the files would fail again
