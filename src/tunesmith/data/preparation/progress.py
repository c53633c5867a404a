"""How far a preparation is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from tunesmith.data.preparation.inputs import Part

TELL_SECONDS = 0.5
"""Progress is told at most this often."""

Progress = Callable[[int, int, int], None]
"""Told (bytes done, bytes in all, rows so far)."""


class Teller:
    """Tells how many bytes are done; the second pass counts as a quarter of the files."""

    def __init__(self, parts: Mapping[str, Sequence[Part]], progress: Progress | None) -> None:
        self._progress, self._told = progress, time.monotonic()
        self._before = self._rows = 0
        self.read = sum(part.path.stat().st_size for one in parts.values() for part in one if part.path.is_file())
        self.of = self.read + self.read // 4

    def reading(self, at: int, rows: int) -> None:
        """So many bytes of the present file are read, and so many rows in all."""
        self._rows = rows
        self._tell(self._before + at)

    def finished(self, size: int, rows: int) -> None:
        """The present file is read, and so many rows in all."""
        self._before, self._rows = self._before + size, rows

    def writing(self, share: float) -> None:
        """This share of the staged rows is written."""
        self._tell(self.read + int((self.of - self.read) * share))

    def _tell(self, done: int) -> None:
        if self._progress and time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            self._progress(min(done, self.of), self.of, self._rows)

    def end(self) -> None:
        """All is done."""
        if self._progress:
            self._progress(self.of, self.of, self._rows)
