"""What can go wrong, in the words of the person who can mend it.

`UserError` is for the user's input and surroundings; `assert` is for our own mistakes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right.

    Args:
        what: what was found and the rule it breaks, with the offending value.
        where: the place: a file with a line, a recipe key, a folder. May be empty.
        remedy: what to do next. Never empty.

    Source: the message has the same three parts everywhere, so that a reader learns once where to look.
    """

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(self.what)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}" + (f"\n  -> {self.remedy}" if self.remedy else "")


class Problems(UserError):
    """Several user errors, reported together so that one round of mending is enough."""

    def __init__(self, errors: list[UserError], remedy: str = "") -> None:
        assert errors
        self.errors = errors
        super().__init__("\n".join(str(error) for error in errors), "", remedy)


class Interrupted(BaseException):
    """A signal asked us to stop; the state is saved and the same command goes on. No `except Exception` on the way may take it for an error of its own.

    Args:
        signal_number: SIGINT or SIGTERM, which becomes exit code 130 or 143.
    """

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(f"stopped by signal {signal_number}")


class GateFailed(Exception):
    """The run finished, but a threshold of its gate was not met (exit code 3)."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """`, did you mean `x`?` for the closest of the valid names, or nothing when none is close."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f", did you mean `{close[0]}`?" if close else ""


def counted(count: int, thing: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def some(names: Iterable[str], most: int = 12) -> str:
    """A readable list of names, cut after `most` with a count of the rest."""
    listed = list(names)
    shown = ", ".join(f"`{name}`" for name in listed[:most])
    return shown + (f" and {len(listed) - most} more" if len(listed) > most else "")
