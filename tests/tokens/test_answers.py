"""Which tokens of a dialogue are learnt: the library's own account of where each token stands is the oracle, and helpers change nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import CHATML, ENDLESS, LIBRARIES, turns

from tunesmith.core import workers
from tunesmith.models.scratch import TEMPLATE
from tunesmith.tokens import chat_template
from tunesmith.tokens import dialogues as answers
from tunesmith.tokens.sequences import Losses, Piece
from tunesmith.tokens.tokenization import Tokenizer
from tunesmith.tokens.word_cache import Words

SAID = ["the", " the", "café's", " ", "  ", "\n", "\n ", "\t", "345", ",", "'ll", "🙂", "é", "<|im_end|>", "<|im", "<mask>", "bills", "of white", "<s>", ""]
ODD = ENDLESS.replace("}}:{{", "}}: {{").replace("assistant:", "assistant: ")
TEMPLATES = {"own": TEMPLATE, "marks": CHATML, "plain": chat_template.PLAIN, "no end mark": ENDLESS, "as it is": "", "a space": ODD}
said = st.lists(st.sampled_from(SAID), max_size=6).map("".join)


@pytest.fixture(scope="module", params=list(LIBRARIES))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    library = LIBRARIES[request.param]()
    return Tokenizer(library, Words(library), (0,), (), 0, False)


def by_the_library(one: Tokenizer, text: str, spans: list[tuple[int, int]], ends: list[int]) -> tuple[list[int], list[bool], int]:
    """Ids, which share a character with an answer (up to its last end mark), and how many stand before the last answer."""
    encoded = one.words.encoded([text])[text]
    learnt, first = [False] * len(encoded.ids), len(encoded.ids)
    for start, stop in spans:
        inside = [at for at, (begin, end) in enumerate(encoded.offsets) if begin < stop and end > start]
        last = max((at for at in inside if encoded.ids[at] in ends), default=len(learnt))
        for at in inside:
            learnt[at] |= at <= last
        first = inside[0] if inside else len(learnt)
    return encoded.ids, learnt, first


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(said, min_size=2, max_size=4), min_size=1, max_size=4), st.sampled_from(sorted(TEMPLATES)), st.sampled_from(["every", "last"]))
def test_the_tokens_of_answers_are_the_librarys(tokenizer: Tokenizer, rows: list[list[str]], template: str, learn: Any) -> None:
    written = [chat_template.written(chat_template.Chat(TEMPLATES[template], {"eos_token": "<s>"}), turns(*row[: len(row) // 2 * 2]), learn) for row in rows]
    ends = [0, tokenizer.library.token_to_id("<|im_end|>") or 0]
    found = answers.marked(tokenizer, [text for text, _ in written], [spans for _, spans in written], ends)
    for (text, spans), start, stop, first in zip(written, found.bounds[:-1], found.bounds[1:], found.firsts, strict=True):
        ids, learnt, before = by_the_library(tokenizer, text, spans, ends)
        assert found.ids_T[start:stop].tolist() == ids and found.learnt_T[start:stop].tolist() == learnt and first - start == before


def test_nothing_has_no_tokens(tokenizer: Tokenizer) -> None:
    found = answers.marked(tokenizer, [], [], [0])
    assert (len(found.ids_T), len(found.learnt_T), found.bounds, found.firsts) == (0, 0, [0], [])


def test_the_library_is_left_as_it_was() -> None:
    library = LIBRARIES["bert"]()
    before = library.to_str()
    assert Words(library).encoded(["one", "one", "two"]).keys() == {"one", "two"} and library.to_str() == before


def read(one: Tokenizer, rows: int, template: str, keep: str) -> tuple[list[tuple[list[int], list[bool], int]], Losses]:
    losses = Losses()
    dialogues = [turns(f"how many is {i}?", f"it is {i}, " * (i % 9), "and then?", f"then {i + 1}") for i in range(300)]
    batches: Iterator[Any] = iter([dialogues[at : at + 20] for at in range(0, 300, 20)])
    pieces: list[Piece] = list(answers.answers(one, chat_template.Chat(template, {"eos_token": "<s>"}), batches, [0], 40, keep, "every", losses, rows))
    return [(piece.ids.tolist(), piece.learnt.tolist(), piece.row) for piece in pieces if piece.learnt is not None], losses


def test_helpers_read_as_one_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    library = LIBRARIES["marks"]()
    one, helped, each = Tokenizer(library, Words(library), (0, 7), (), 0, False), [], workers.Crew.each

    def counted(self: workers.Crew, pieces: Any) -> Any:
        while len(self._ready) < len(self._helpers):
            time.sleep(0.01)
        done = self._helped
        self._helped = lambda message: helped.append(message) or done(message)  # type: ignore[method-assign,func-returns-value]
        return each(self, pieces)

    monkeypatch.setattr(workers.Crew, "each", counted)
    monkeypatch.setattr(workers, "helpers", lambda: 2)
    for template in (TEMPLATES["own"], ""):
        for keep in ("head", "tail"):
            alone, few = read(one, 0, template, keep)
            assert not helped
            together, many = read(one, answers.LEAST_ROWS, template, keep)
            assert len(helped) > 1 and together == alone and any(len(ids) == 40 for ids, _, _ in alone)
            assert (many.lengths, many.answers, many.left_out) == (few.lengths, few.answers, few.left_out)
            helped.clear()
    assert np.mean([len(ids) for ids, _, _ in alone]) > 20


def test_what_a_template_cannot_write_is_said_with_helpers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.core.errors import UserError

    library = LIBRARIES["marks"]()
    one = Tokenizer(library, Words(library), (), (), 0, False)
    monkeypatch.setattr(workers, "helpers", lambda: 1)
    with pytest.raises(UserError, match="chat template cannot write this dialogue"):
        read(one, answers.LEAST_ROWS, "{{ raise_exception('odd') }}", "head")
