"""The base's own tokenizer, read with the `tokenizers` library alone: it starts in 30 ms where transformers takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import read_json
from tunesmith.tokens.word_cache import Words


@dataclass(frozen=True)
class Tokenizer:
    """A fast tokenizer and what surrounds one text.

    Attributes: library (a `tokenizers.Tokenizer` without truncation or padding), words (the same, faster, for the bare ids of many texts), prefix and
    suffix (ids put around one text), pad_id, typed (whether the second text of a pair has type ids of its own), before (text put before every text).
    """

    library: Any
    words: Words
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad_id: int
    typed: bool
    before: str = ""


BEHIND_PADDING = (
    *("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "roberta-prelayernorm", "longformer", "ibert", "data2vec-text", "xmod"),
    *("lilt", "luke", "markuplm", "layoutlmv3", "esm"),
)
"""`model_type` of bases that number positions from behind the padding id, and find padding by that id of their config.
Source: the callers of `create_position_ids_from_input_ids` in transformers 5.23."""


def load(folder: Path, before: str = "", pad_id: int | None = None) -> Tokenizer:
    """Load `tokenizer.json` from a base's folder.

    Args:
        folder: of a base, or of a saved model.
        before: text to put before every text.
        pad_id: the id that fills rows up; None finds it in the folder.

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
    around = tuple(whole[:start]), tuple(whole[start + len(bare) :])
    return Tokenizer(library, Words(library), *around, pad_of(folder, library) if pad_id is None else pad_id, any(pair.type_ids), before)


def pad_of(folder: Path, library: Any = None) -> int:
    """The id that fills rows up: the tokenizer's, else the model's, else the one that ends a text.

    A base that finds padding by its own id (`BEHIND_PADDING`) gets that one. All others are told by the attention mask.

    Args:
        folder: of a base, or of a saved model.
        library: its `tokenizers.Tokenizer`; None reads it.
    """
    if library is None and (folder / "tokenizer.json").exists():
        library = load(folder).library
    facts, config = (read_json(path) if (path := folder / name).exists() else {} for name in ("tokenizer_config.json", "config.json"))

    def named(key: str) -> int | None:
        token = facts.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        return known(token) if token else None

    def known(token: str) -> int | None:
        found: int | None = None if library is None else library.token_to_id(token)
        return found

    of_model = config.get("pad_token_id")
    if config.get("model_type") in BEHIND_PADDING and isinstance(of_model, int):
        return of_model
    ends = config.get("eos_token_id")
    candidates = [named("pad_token"), of_model, known("[PAD]"), known("<pad>"), named("eos_token")]
    candidates += ends if isinstance(ends, list) else [ends]
    return next((one for one in candidates if isinstance(one, int) and one >= 0), 0)


def as_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """A tokenizer as values of JSON, for another process."""
    return {"library": tokenizer.library.to_str(), "around": [tokenizer.prefix, tokenizer.suffix, tokenizer.pad_id, tokenizer.typed, tokenizer.before]}


def from_json(values: dict[str, Any]) -> Tokenizer:
    """The tokenizer again."""
    from tokenizers import Tokenizer as Library

    library, (prefix, suffix, pad_id, typed, before) = Library.from_str(values["library"]), values["around"]
    return Tokenizer(library, Words(library), tuple(prefix), tuple(suffix), pad_id, typed, before)
