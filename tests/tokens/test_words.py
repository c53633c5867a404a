"""Words that were met are not tokenised again, and nothing else changes: the library is the oracle."""

from __future__ import annotations

from itertools import chain
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import LIBRARIES, byte_level, trained
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from tunesmith.tokens import word_cache
from tunesmith.tokens.word_cache import Words, dividing, whole

DIVIDED = {"marks", "qwen 2", "llama 3", "qwen 3.5", "gpt-4o"}
DIVIDED |= {"bert", "scribe", "byte level", "byte level, composed", "roberta", "digits apart", "words, lower case", "spaces in a token"}
PIECES = ["the", " ", " ", "  ", "\n", "\t", "\r\n", "\xa0", "\u3000", "\x0b", "\x1c", "\x85", "\u200b", "\u0301", "\u1680", "é", "café's"]
PIECES += ["12", "345", ",", "'ll", "I'LL", "'", "<mask>", "[SEP]", "<s>", "bills", "of white", "東京", "🙂", "<|user|>", "x" * 120, "İ", "ſ", "¨"]
PIECES += ["<|im_start|>", "<|im_end|>", "<|im", "<tool>", "ABC", "aBc", "'s/\n"]


@pytest.fixture(scope="module", params=list(LIBRARIES))
def library(request: pytest.FixtureRequest) -> tuple[str, Tokenizer, Words]:
    made = LIBRARIES[request.param]()
    return request.param, made, Words(made)


def apart(ids_T: Any, counts: Any) -> list[list[int]]:
    return [one.tolist() for one in np.split(ids_T, np.cumsum(counts))[:-1]]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.text(max_size=12)), max_size=4))
def test_ids_are_the_librarys(library: tuple[str, Tokenizer, Words], texts: list[str]) -> None:
    _, plain, ours = library
    expected = [plain.encode(text, add_special_tokens=False).ids for text in texts]
    ids_T, counts = ours.ids(texts)
    assert apart(ids_T, counts) == expected and ids_T.dtype == np.int32 and counts.dtype == np.int64


def test_which_tokenizers_read_words_apart(library: tuple[str, Tokenizer, Words]) -> None:
    name, plain, _ = library
    assert len(dividing(plain)("one two three")) == (3 if name in DIVIDED else 1)


def test_a_text_that_needs_it_stays_whole() -> None:
    divide = dividing(LIBRARIES["roberta"]())
    assert divide("a <mask> b") == ["a <mask> b"] and divide("a bills") == ["a bills"]
    assert divide("a b  c d") == ["a", " b  c", " d"] and divide("a b\n ") == ["a", " b\n "]
    assert divide(" a b") == ["", " a", " b"] and divide("a\n b c") == ["a\n b", " c"] and divide("a \nb") == ["a \nb"]
    assert dividing(LIBRARIES["marks"]())("a b<|im_end|>\n<|im_start|> c  d") == ["a", " b", "<|im_end|>", "\n", "<|im_start|>", " c  d"]
    assert dividing(LIBRARIES["spaces in a token"]())("one of white and") == ["one of white and"]


def test_tokens_are_found_in_the_order_of_the_library() -> None:
    library = trained(byte_level(), None, AddedToken("[the", normalized=True), AddedToken("the]", normalized=False), AddedToken("(+", normalized=False))
    texts = ["[the]", "a [the] b", "[the", "a [the b(+", "the] [the(+[the]"]
    assert apart(*Words(library).ids(texts)) == [library.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.parametrize(
    ("before", "normalizer", "token", "text"),
    [
        (pre_tokenizers.Whitespace(), normalizers.Lowercase(), "of white", "one Of WHITE and"),
        (pre_tokenizers.Whitespace(), normalizers.BertNormalizer(), "of white", "one of\u200b white"),
        (byte_level(), normalizers.NFC(), "a ;", "the a \u037e b"),  # the Greek question mark, which is composed to a semicolon
    ],
)
def test_a_token_may_stand_in_the_normalised_text_alone(before: Any, normalizer: Any, token: str, text: str) -> None:
    library = trained(before, normalizer, AddedToken(token, normalized=True))
    assert apart(*Words(library).ids([text])) == [library.encode(text, add_special_tokens=False).ids]
    assert library.token_to_id(token) in library.encode(text, add_special_tokens=False).ids and dividing(library) is whole
    spaces = trained(byte_level(), normalizers.NFC(), AddedToken("   ", normalized=True))  # as ModernBERT has them: no white space is composed
    assert dividing(spaces)("a b") == ["a", " b"] and dividing(spaces)("a   b c") == ["a   b c"]


class Counting:
    """A tokenizer that says what it was asked."""

    def __init__(self, library: Tokenizer) -> None:
        self.library, self.asked, self.broken = library, list[str](), False

    def to_str(self) -> str:
        return self.library.to_str()

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> Any:
        self.asked += texts
        if self.broken:
            raise KeyboardInterrupt
        return self.library.encode_batch_fast(texts, add_special_tokens=add_special_tokens)


def test_a_word_is_tokenised_once_and_all_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LIBRARIES["bert"]()
    counting = Counting(plain)
    ours = Words(counting)
    texts = ["one two one", "two three"]
    expected = [plain.encode(text, add_special_tokens=False).ids for text in texts]
    assert apart(*ours.ids(texts)) == expected and counting.asked == ["one", "two", "three"]
    assert apart(*ours.ids(texts)) == expected and counting.asked == ["one", "two", "three"]
    monkeypatch.setattr(word_cache, "CHUNK_ROWS", 1)
    assert apart(*ours.ids(texts)) == expected and counting.asked == ["one", "two", "three"]
    monkeypatch.setattr(word_cache, "MOST_WORDS", 2)
    assert apart(*ours.ids(texts)) == expected and counting.asked[3:] == ["one", "two", "three"]  # three are too many: forgotten, and then two kept
    monkeypatch.setattr(word_cache, "MOST_WORDS", 100)
    monkeypatch.setattr(word_cache, "MOST_CHARACTERS", 10)
    assert apart(*ours.ids(texts)) == expected and counting.asked[6:] == ["one", "two", "three"]
    counting.broken = True
    with pytest.raises(KeyboardInterrupt):
        ours.ids(["four"])
    counting.broken = False
    assert apart(*ours.ids(["four one"])) == [plain.encode("four one", add_special_tokens=False).ids]


def test_words_that_come_again_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LIBRARIES["bert"]()
    counting = Counting(plain)
    ours = Words(counting)
    texts = ["often a1", "often b2", "seldomly c3", "often again again d4"]
    monkeypatch.setattr(word_cache, "MOST_WORDS", 4)
    for text in [*texts, *texts]:
        assert apart(*ours.ids([text])) == [plain.encode(text, add_special_tokens=False).ids]
    assert counting.asked.count("often") == 1 and counting.asked.count("c3") == 2


def test_nothing_has_no_ids() -> None:
    ours = Words(LIBRARIES["bert"]())
    ids_T, counts = ours.ids([])
    assert len(ids_T) == len(counts) == 0 and apart(*ours.ids(["", " ", "a"])) == [[], [], [1037]]


def test_several_threads() -> None:
    plain = LIBRARIES["bert"]()
    ours, found = Words(plain), dict[int, Any]()
    texts = {one: [f"row {one} has {number} words" for number in range(200)] for one in range(6)}

    def work(one: int) -> None:
        found[one] = [apart(*ours.ids(texts[one][start : start + 5])) for start in range(0, 200, 5)]

    threads = [Thread(target=work, args=(one,)) for one in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, rows in texts.items():
        assert list(chain.from_iterable(found[one])) == [plain.encode(text, add_special_tokens=False).ids for text in rows]
