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
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MOST_WORDS, MOST_CHARACTERS = 1 << 17, 1 << 22
"""Words and their characters that are kept; beyond either those met once are forgotten, or all. Some 20 MB."""
CHUNK_ROWS, CHUNK_CHARACTERS = 4096, 1 << 21
"""Texts whose words are held at once."""

CONTRACTIONS, REST = "(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = (
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{REST}",
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{REST}",
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*{REST}",
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{REST}",
)
"""How Qwen 2 and 3, Llama 3, Qwen 3.5, and GPT-4o find words. As in GPT-2's pattern a space between two other characters begins a match, whichever: no
alternative has one behind its first character, but for runs of white space."""

CHARACTER_BY_CHARACTER = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}
"""Normalizers that treat a word as they treat it within its text: none of them composes anything with a space."""
DIGITS = ({"Regex": "\\d"}, {"Regex": "\\p{N}"})
"""Patterns by which digits stand alone."""

Divide = Callable[[str], list[str]]


class Parts(NamedTuple):
    """Texts in parts.

    Attributes: words (W of them, of all texts one after the other), begins_N (the first of each text), tokens_W (how many each has), ids_T.
    """

    words: list[str]
    begins_N: npt.NDArray[np.int64]
    tokens_W: npt.NDArray[np.int64]
    ids_T: npt.NDArray[np.int32]


class Words:
    """A tokenizer that remembers words. May be used by several threads.

    Args:
        library: a `tokenizers.Tokenizer` without truncation or padding.

    Attributes: divides (whether texts have parts; else each is one).
    """

    def __init__(self, library: Any) -> None:
        self._library, self._divide, self._lock = library, dividing(library), Lock()
        self.divides = self._divide is not whole
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
        for stop, text in enumerate(texts, 1):
            size += len(text)
            if stop == len(texts) or stop - start == CHUNK_ROWS or size > CHUNK_CHARACTERS:
                one = self.parts(texts[start:stop])
                found.append(one.ids_T)
                counts.append(np.add.reduceat(one.tokens_W, one.begins_N))
                start, size = stop, 0
        return np.concatenate(found), np.concatenate(counts)

    def parts(self, texts: Sequence[str]) -> Parts:
        """Texts with their words, whose ids are those of the text; all at once, so not too many."""
        with self._lock:
            try:
                return self._parts(texts)
            except BaseException:  # a word that was noted may have no ids yet
                self._forget()
                raise

    def encoded(self, texts: Iterable[str]) -> dict[str, Any]:
        """Each different text as the library encodes it, with the characters of each token as they are: some would leave out the space before a word."""
        apart = list(dict.fromkeys(texts))
        with self._lock:
            after, self._library.post_processor = self._library.post_processor, None
            try:
                return dict(zip(apart, self._library.encode_batch(apart, add_special_tokens=False), strict=True))
            finally:
                self._library.post_processor = after

    def _parts(self, texts: Sequence[str]) -> Parts:
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
        tokens_W = starts_V[codes_W + 1] - starts_W
        ids_T = np.frombuffer(self._ids_T, np.int32) if self._ids_T else np.zeros(0, np.int32)
        return Parts(words, np.asarray(begins_N, np.int64), tokens_W, gathered(ids_T, starts_W, tokens_W))

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


def starts(texts: Sequence[str], parts: Parts) -> npt.NDArray[np.int64]:
    """How many characters of its text stand before each of the W parts."""
    sizes_W = np.fromiter(map(len, parts.words), np.int64, len(parts.words))
    before_W = np.cumsum(sizes_W) - sizes_W
    parts_N = np.diff(parts.begins_N, append=len(sizes_W))
    # A text is longer than its parts where the spaces between them belong to none.
    apart_N = np.fromiter(map(len, texts), np.int64, len(texts)) > np.add.reduceat(sizes_W, parts.begins_N)
    within_W = np.arange(len(sizes_W)) - np.repeat(parts.begins_N, parts_N)
    starts_W: npt.NDArray[np.int64] = before_W - np.repeat(before_W[parts.begins_N], parts_N) + within_W * np.repeat(apart_N, parts_N)
    return starts_W


def dividing(library: Any) -> Divide:
    """How texts are divided so that the tokens of the parts are those of the text.

    1. BERT's and other tokenizers that take white space away: at each space.
    2. Byte-level tokenizers that find words by one of the known patterns give a word the space before it: before each space between two other characters.
       White space that stands together is one matter: how it is divided depends on what follows it. Special tokens stand alone.
    3. A text with an added token that takes spaces along, holds one, or must stand alone stays whole; so do all texts of other tokenizers.

    A part that is a whole text is correct too, only not soon met again.
    """
    config = json.loads(library.to_str())
    model, normalizer, before, added = config["model"], config["normalizer"] or {}, config["pre_tokenizer"] or {}, config["added_tokens"]
    normalizers, steps = normalizer.get("normalizers", [normalizer]), before.get("pretokenizers", [before])
    if model.get("dropout") or not all(one.get("type", "NFC") in CHARACTER_BY_CHARACTER for one in normalizers):
        return whole
    odd = [one for one in added if one["lstrip"] or one["rstrip"] or one["single_word"] or " " in one["content"]]
    # Some are found in the text as it is normalised (`new york` in New York, in lower case), which is not looked at here. NFC makes no white space.
    composed = all(one.get("type", "NFC") == "NFC" for one in normalizers)
    if config["normalizer"] and any(one["normalized"] and not (composed and one["content"].isspace()) for one in odd):
        return whole
    oddly = _any_of(odd).search if odd else lambda text: None
    kinds = [one.get("type") for one in steps]
    if len(kinds) == 1 and kinds[0] in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit"):
        return (lambda text: [text] if oddly(text) else text.split(" ")) if odd else lambda text: text.split(" ")
    *others, last = steps
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return whole
    known = DIGITS if last["use_regex"] else tuple({"Regex": one} for one in PATTERNS)  # which of the two it is: GPT-2's own, or one of the others
    if any(one["type"] != "Split" or one["pattern"] not in known or one["behavior"] != "Isolated" or one["invert"] for one in others):
        return whole
    if not last["use_regex"] and len(others) != 1:
        return whole
    # The library looks for tokens of the text as it is before all others, wherever these begin; so of both kinds only the former are looked for here.
    plain = [one for one in added if one not in odd]
    alone = [one for one in plain if not one["normalized"]] or ([] if config["normalizer"] else plain)
    at_tokens = _any_of(alone).split if alone else lambda text: [text]
    looks_further, between = re.compile(r" (?:\s|\Z)|\s ").search, re.compile(r"(?<=\S)(?= \S)").split

    def before_spaces(text: str) -> list[str]:
        if oddly(text):
            return [text]
        found = []
        for section in at_tokens(text):
            if looks_further(section):
                found += between(section)
            elif section:
                first, *rest = section.split(" ")
                found += [first, *[" " + word for word in rest]]
        return found or [text]

    return before_spaces


def whole(text: str) -> list[str]:
    """A text as its only part."""
    return [text]


def _any_of(tokens: Sequence[dict[str, Any]]) -> re.Pattern[str]:
    """Finds added tokens as the library does: of several at one place the longest."""
    contents = sorted((one["content"] for one in tokens), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, contents))})")
