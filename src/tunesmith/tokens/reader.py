"""How a base reads: its tokenizer, how many tokens, what of a longer text, and where token ids may lie meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith.tokens.encode import Truncation
from tunesmith.tokens.tokenization import Tokenizer


@dataclass(frozen=True)
class Reader:
    """tokenizer, limit (most tokens of a sequence), truncation, and a folder for files that go with the process."""

    tokenizer: Tokenizer
    limit: int
    truncation: Truncation
    scratch: Path
