"""The base's own tokenizer, read with the `tokenizers` library alone: it starts in 30 ms where transformers takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.files import read_json
from tunesmith.tokens.words import Words


@dataclass(frozen=True)
class Tokenizer:
    """A fast tokenizer and what surrounds one text.

    Attributes: library (a `tokenizers.Tokenizer` without truncation or padding), words (the same, faster, for the bare ids of many texts), prefix and
    suffix (ids put around one text), pad_id, typed (whether the second text of a pair has type ids of its own).
    """

    library: Any
    words: Words
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad_id: int
    typed: bool


def load(folder: Path) -> Tokenizer:
    """Load `tokenizer.json` from a base's folder.

    Raises:
        UserError: it is not there or not readable.
    """
    from tokenizers import Tokenizer as Library

    path = folder / "tokenizer.json"
    if not path.exists():
        raise UserError("the base has no tokenizer.json", str(folder), "save its tokenizer with the fast tokenizer of transformers 4.30 or later")
    try:
        library = Library.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a damaged file
        raise UserError(f"tokenizer.json cannot be read ({error})", str(folder), "fetch the base again") from error
    library.no_truncation()
    library.no_padding()
    bare = library.encode("a", add_special_tokens=False).ids
    whole = library.encode("a").ids
    start = next((i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare), 0)
    pair = library.encode("a", "b")
    config = folder / "tokenizer_config.json"
    pad = read_json(config).get("pad_token") if config.exists() else None
    pad = pad.get("content") if isinstance(pad, dict) else pad
    known = [library.token_to_id(token) for token in (pad, "[PAD]", "<pad>") if token]
    pad_id = next((one for one in known if one is not None), 0)
    return Tokenizer(library, Words(library), tuple(whole[:start]), tuple(whole[start + len(bare) :]), pad_id, any(pair.type_ids))


def as_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """A tokenizer as values of JSON, for another process."""
    return {"library": tokenizer.library.to_str(), "around": [tokenizer.prefix, tokenizer.suffix, tokenizer.pad_id, tokenizer.typed]}


def from_json(values: dict[str, Any]) -> Tokenizer:
    """The tokenizer again."""
    from tokenizers import Tokenizer as Library

    library, (before, behind, pad_id, typed) = Library.from_str(values["library"]), values["around"]
    return Tokenizer(library, Words(library), tuple(before), tuple(behind), pad_id, typed)
