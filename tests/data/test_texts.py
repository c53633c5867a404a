"""What all kinds of rows have in common."""

from __future__ import annotations

import sys
import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from tunesmith.data import texts

SPACES = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2028\u2029\u202f\u205f\u3000"


@example("a ")
@example(" a")
@example("a  b")
@given(st.one_of(st.text(st.sampled_from("ab" + SPACES + "\u200b\u00e9e\u0301")), st.text()))
def test_white_space_and_accents_are_evened_out(text: str) -> None:
    assert texts.even(text) == " ".join(unicodedata.normalize("NFC", text).split())
    assert texts.even(texts.even(text)) == texts.even(text)


def test_accents_upon_accents_take_no_time() -> None:
    heap = "a" + "\u0301\u0316" * 600  # which Unicode's order would turn about
    assert texts.even(heap) == heap and unicodedata.normalize("NFC", heap) != heap
    few = "cafe\u0301 a" + "\u0301\u0316" * 100
    assert texts.even(f" {few} ") == unicodedata.normalize("NFC", few) and texts.even(f"{few}  {heap}") == f"{few} {heap}"
    last = max(code for code in range(sys.maxunicode + 1) if unicodedata.combining(chr(code)))
    assert texts.even(chr(last) * 300) == chr(last) * 300 and texts._stacked().search(chr(last) * 256)


def test_an_even_text_is_not_copied() -> None:
    text = "no white space too much, é 東京"
    assert texts.even(text) is text and texts.even("") == "" and texts.even(" ") == ""
