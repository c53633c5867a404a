"""Names and addresses in texts, by a token-classification model that the user has on disk.

None comes with the install: weights that know names in any language are larger than all else together.
`data/cleaning/personal_data.py` is handed what `finder` gives.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.core.errors import UserError, some
from tunesmith.models import catalog, loading
from tunesmith.tokens import tokenization

if TYPE_CHECKING:
    from tokenizers import Encoding

Found = tuple[int, int, str]
"""First character, the one after the last, `name` or `address`."""

NAMES = ("PER", "PERSON", "NAME", "FIRSTNAME", "MIDDLENAME", "LASTNAME", "GIVENNAME", "SURNAME", "FAMILYNAME", "FULLNAME")
ADDRESSES = ("LOC", "LOCATION", "ADDRESS", "ADDR", "STREET", "STREETNAME", "STREETADDRESS", "BUILDINGNUM", "CITY", "ZIPCODE", "POSTCODE", "GPE")
"""Types as CoNLL-2003, OntoNotes and the usual sets for personal data call them, without case, spaces, `_` and `-`."""
PREFIXES = ("B", "I", "E", "S", "L", "U")
"""Of the schemes BIO, BIOES and BILOU (Ratinov and Roth 2009, https://aclanthology.org/W09-1119)."""
OPENING = ("B", "S", "U")
BATCH_TOKENS = 4096
"""Most tokens read at once, padding included (a convention of ours): a batch of 8 full windows of BERT."""


def finder(folder: Path) -> Callable[[Sequence[str]], list[list[Found]]]:
    """Load a model that marks names in texts.

    Args:
        folder: as transformers saves it: config.json with an architecture `*ForTokenClassification`, *.safetensors, tokenizer.json.

    Returns:
        Texts -> for each the names and addresses in order, in characters and whole words. Texts of any length: windows that overlap by half,
        where a token's tag is that of the window in which it stands nearest to the middle.

    Raises:
        UserError: there is no such folder, no token classifier in it, none that transformers can load safely, or it knows no persons.
    """
    base = catalog.of_task(folder, "ForTokenClassification", "token-classification model")
    tags = [_tag(str(label)) for _, label in sorted((int(index), label) for index, label in base.config.get("id2label", {}).items())]
    if not any(kind == "name" for _, kind in tags):
        labels = some(map(str, base.config.get("id2label", {}).values()))
        what = f"none of the model's labels stands for persons: {labels}"
        raise UserError(what, str(folder), "use a model with a label such as PER or PERSON, or mend id2label in its config.json")
    from transformers import AutoModelForTokenClassification

    model = loading.pretrained(AutoModelForTokenClassification, folder)
    model.eval()
    reader = tokenization.load(folder)
    room = base.max_tokens - len(reader.prefix) - len(reader.suffix)

    def find(texts: Sequence[str]) -> list[list[Found]]:
        encodings = reader.library.encode_batch(list(texts), add_special_tokens=False)
        predicted = _tags(model, reader, [encoding.ids for encoding in encodings], room)
        return [_spans(text, encoding, [tags[index] for index in one]) for text, encoding, one in zip(texts, encodings, predicted, strict=True)]

    return find


def _tag(label: str) -> tuple[str, str]:
    """`B-PER` -> ("B", "name"); a label without prefix, as schemes of one letter have it, continues; what is neither name nor address is ("", "")."""
    prefix, dash, rest = label.partition("-")
    prefix, kind = (prefix, rest) if dash and prefix in PREFIXES else ("I", label)
    kind = kind.upper().replace("_", "").replace("-", "").replace(" ", "")
    return (prefix, "name") if kind in NAMES else (prefix, "address") if kind in ADDRESSES else ("", "")


def _tags(model: Any, reader: tokenization.Tokenizer, texts: Sequence[Sequence[int]], room: int) -> list[np.ndarray[Any, Any]]:
    """The best label of each token of each text."""
    windows = [(text, start, ids[start : start + room]) for text, ids in enumerate(texts) for start in _starts(len(ids), room)]
    windows.sort(key=lambda window: len(window[2]))
    out = [np.zeros(len(ids), np.int64) for ids in texts]
    depth = [np.full(len(ids), -1) for ids in texts]
    for batch in _batches([len(window[2]) for window in windows], len(reader.prefix) + len(reader.suffix)):
        some_windows = windows[batch]
        for (text, start, ids), labels in zip(some_windows, _predict(model, reader, [window[2] for window in some_windows]), strict=True):
            to_edge = np.minimum(np.arange(len(ids)), np.arange(len(ids))[::-1])
            place = slice(start, start + len(ids))
            deeper = to_edge > depth[text][place]
            out[text][place] = np.where(deeper, labels, out[text][place])
            depth[text][place] = np.maximum(to_edge, depth[text][place])
    return out


def _starts(length: int, room: int) -> list[int]:
    """Where the windows of a text begin: the last one ends where it does."""
    if length <= room:
        return [0] if length else []
    return [*range(0, length - room, max(1, room // 2)), length - room]


def _batches(lengths: Sequence[int], extra: int) -> list[slice]:
    """Neighbours, in ascending order of length, while they fit into `BATCH_TOKENS` with padding."""
    out, start = [], 0
    for index, length in enumerate(lengths):
        if index > start and (index - start + 1) * (length + extra) > BATCH_TOKENS:
            out.append(slice(start, index))
            start = index
    return [*out, slice(start, len(lengths))] if lengths else []


def _predict(model: Any, reader: tokenization.Tokenizer, windows: Sequence[Sequence[int]]) -> list[np.ndarray[Any, Any]]:
    import torch

    rows = [[*reader.prefix, *ids, *reader.suffix] for ids in windows]
    longest = max(map(len, rows))
    ids_BT = torch.tensor([row + [reader.pad_id] * (longest - len(row)) for row in rows])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.inference_mode():
        labels_BT = model(input_ids=ids_BT, attention_mask=mask_BT).logits.argmax(-1).numpy()
    first = len(reader.prefix)
    return [labels[first : first + len(ids)] for labels, ids in zip(labels_BT, windows, strict=True)]


def _spans(text: str, encoding: Encoding, tags: Sequence[tuple[str, str]]) -> list[Found]:
    """Neighbouring tokens of one kind, up to one that opens a new entity between words; never a part of a word."""
    out: list[Found] = []
    last = ""
    for (start, end), (prefix, kind) in zip(encoding.offsets, tags, strict=True):
        first, after = start, end
        while first < after and text[first].isspace():
            first += 1
        if not kind or first == after:
            last = kind if first < after else last
            continue
        while first > 0 and _joins(text, first):
            first -= 1
        while after < len(text) and _joins(text, after):
            after += 1
        if out and (first < out[-1][1] or (kind == last and prefix not in OPENING)):
            out[-1] = (out[-1][0], max(after, out[-1][1]), out[-1][2])
        else:
            out.append((first, after, kind))
        last = kind
    return out


def _joins(text: str, at: int) -> bool:
    """Whether the characters on both sides of a place belong to one word: letters, digits, and marks set on them."""
    before, after = (character.isalnum() or unicodedata.combining(character) for character in text[at - 1 : at + 1])
    return bool(before and after)
