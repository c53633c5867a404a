"""Texts -> token ids, each different word tokenised once.

Most words of a text stood in earlier texts. Where a tokenizer reads the words of a text apart (`dividing`), what it made of each is kept, and a text is
looked up word by word: a million texts on one core in a third of the time that the library takes on two (docs/PERFORMANCE.md). The library still makes
the ids; nothing is tokenised here.

Shapes: N texts, W words of all of them, T their tokens, V words met so far.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_WORDS, MOST_CHARACTERS = 1 << 17, 1 << 22
"""Words and their characters that are kept; beyond either those met once are forgotten, or all. Some 20 MB."""
CHUNK_ROWS, CHUNK_CHARACTERS = 4096, 1 << 21
"""Texts whose words are held at once."""

CHARACTER_BY_CHARACTER = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}
"""Normalizers that treat a word as they treat it within its text: none of them composes anything with a space."""
DIGITS = ({"Regex": "\\d"}, {"Regex": "\\p{N}"})
"""Patterns by which digits stand alone."""

Divide = Callable[[str], list[str]]


class Words:
    """A tokenizer that remembers words. May be used by several threads.

    Args:
        library: a `tokenizers.Tokenizer` without truncation or padding.
    """

    def __init__(self, library: Any) -> None:
        self._library, self._divide, self._lock = library, dividing(library), Lock()
        self._forget()

    def _forget(self) -> None:
        self._known = _Known()
        self._characters = 0
        self._ids_T, self._starts_V = array("i"), array("q", [0])  # the words' ids one after the other, and where each word's begin
        self._met_V = np.zeros(0, np.int64)  # how often each was met since words were forgotten last

    def ids(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Token ids of texts, without special tokens around them.

        Returns:
            int32 (T,), those of all texts one after the other, and int64 (N,), how many each text has.
        """
        found = [np.zeros(0, np.int32)]
        counts = [np.zeros(0, np.int64)]
        start = size = 0
        with self._lock:
            for stop, text in enumerate(texts, 1):
                size += len(text)
                if stop == len(texts) or stop - start == CHUNK_ROWS or size > CHUNK_CHARACTERS:
                    try:
                        ids, lengths = self._chunk(texts[start:stop])
                    except BaseException:  # a word that was noted may have no ids yet
                        self._forget()
                        raise
                    found.append(ids)
                    counts.append(lengths)
                    start, size = stop, 0
        return np.concatenate(found), np.concatenate(counts)

    def _chunk(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        if len(self._known) > MOST_WORDS or self._characters > MOST_CHARACTERS:
            self._forget_rare()
        words: list[str] = []
        begins_N = []
        for text in texts:
            begins_N.append(len(words))
            words += self._divide(text)
        codes_W = np.fromiter(map(self._known.__getitem__, words), np.int64, len(words))
        new, self._known.new = self._known.new, []
        # encode_batch_fast leaves character offsets out, which nobody reads here: a third of the time.
        for one in self._library.encode_batch_fast(new, add_special_tokens=False):
            self._ids_T.extend(one.ids)
            self._starts_V.append(len(self._ids_T))
        self._characters += sum(map(len, new))
        self._met_V = np.r_[self._met_V, np.zeros(len(new), np.int64)] + np.bincount(codes_W, minlength=len(self._known))
        starts_V = np.frombuffer(self._starts_V, np.int64)
        starts_W = starts_V[codes_W]
        sizes_W = starts_V[codes_W + 1] - starts_W
        ids_T = np.frombuffer(self._ids_T, np.int32) if self._ids_T else np.zeros(0, np.int32)
        return gathered(ids_T, starts_W, sizes_W), np.add.reduceat(sizes_W, begins_N)

    def _forget_rare(self) -> None:
        """Keep the words that were met again, unless they are too many too; numbers and names go."""
        words, often = list(self._known), np.flatnonzero(self._met_V > 1)
        kept = [words[at] for at in often]
        ids_T, starts_V = np.frombuffer(self._ids_T, np.int32), np.frombuffer(self._starts_V, np.int64)
        sizes = np.diff(starts_V)[often]
        ids_T = gathered(ids_T, starts_V[often], sizes)
        self._forget()
        if 2 * len(kept) <= MOST_WORDS and 2 * (characters := sum(map(len, kept))) <= MOST_CHARACTERS:
            self._known.update(zip(kept, range(len(kept)), strict=True))
            self._characters, self._met_V = characters, np.zeros(len(kept), np.int64)
            self._ids_T.frombytes(ids_T.tobytes())
            self._starts_V.frombytes(np.cumsum(sizes).tobytes())


class _Known(dict[str, int]):
    """Numbers of words; one that is met first gets the next, and stands in `new` until it is tokenised."""

    def __init__(self) -> None:
        super().__init__()
        self.new: list[str] = []

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        self.new.append(word)
        return number


def gathered(values_T: npt.NDArray[Any], starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Runs of an array one after the other.

    Args:
        values_T: what they are taken from.
        starts, sizes: where each run begins, and how long it is.
    """
    ends = np.cumsum(sizes)
    found: npt.NDArray[Any] = values_T[np.repeat(starts - ends + sizes, sizes) + np.arange(ends[-1] if len(ends) else 0)]
    return found


def dividing(library: Any) -> Divide:
    """How texts are divided so that the tokens of the parts are those of the text.

    1. BERT's and other tokenizers that take white space away: at each space.
    2. Byte-level tokenizers give a word the space before it (GPT-2's pattern): before each space that a word follows. A text with a space before other
       white space stays whole, for there the pattern looks further.
    3. A text with an added token that takes spaces along, holds one, or must stand alone stays whole; so do all texts of other tokenizers.

    A part that is a whole text is correct too, only not soon met again.
    """
    config = json.loads(library.to_str())
    model, normalizer, before = config["model"], config["normalizer"] or {}, config["pre_tokenizer"] or {}
    normalizers, steps = normalizer.get("normalizers", [normalizer]), before.get("pretokenizers", [before])
    if model.get("dropout") or not all(one.get("type", "NFC") in CHARACTER_BY_CHARACTER for one in normalizers):
        return lambda text: [text]
    odd = [one["content"] for one in config["added_tokens"] if one["lstrip"] or one["rstrip"] or one["single_word"] or " " in one["content"]]
    named = f"|{'|'.join(map(re.escape, odd))}" if odd else ""
    kinds = [one.get("type") for one in steps]
    if len(kinds) == 1 and kinds[0] in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit"):
        if not odd:
            return lambda text: text.split(" ")
        oddly = re.compile(named[1:]).search
        return lambda text: [text] if oddly(text) else text.split(" ")
    *others, last = steps
    byte_level = last.get("type") == "ByteLevel" and last["use_regex"] and not last["add_prefix_space"]
    if not byte_level or any(one["type"] != "Split" or one["pattern"] not in DIGITS or one["behavior"] != "Isolated" for one in others):
        return lambda text: [text]
    looks_further = re.compile(f" \\s{named}").search

    def before_spaces(text: str) -> list[str]:
        if looks_further(text):
            return [text]
        first, *rest = text.split(" ")
        return [first, *[" " + word for word in rest]]

    return before_spaces
