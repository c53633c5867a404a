"""Texts to learn word by word: which tokens are learnt, what the limit does, and how sequences are kept."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import CHATML, ENDLESS, turns

from tunesmith.core.errors import UserError
from tunesmith.models.scratch import TEMPLATE
from tunesmith.tokens import tokenization
from tunesmith.tokens.chat_template import PLAIN, Chat
from tunesmith.tokens.dialogues import answers
from tunesmith.tokens.sequences import NOT_LEARNT, Losses, Piece, TextExamples, documents, end_of

SPECIALS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|im_start|>", "<|im_end|>", "<s>"]


def make_reader(folder: Path, first: str | None = None, trim: bool = True) -> tokenization.Tokenizer:
    """A byte-level tokenizer with the marks of several templates; `first` stands before every text, as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    corpus = ["system user assistant hello there my old friend: one two three four.\n\n How are you?"] * 3
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False))
    library.post_processor = processors.ByteLevel(trim_offsets=trim)
    if first:
        library.post_processor = processors.TemplateProcessing(f"{first} $A", f"{first} $A $B", [(first, library.token_to_id(first))])
    folder.mkdir(exist_ok=True)
    library.save(str(folder / "tokenizer.json"))
    return tokenization.load(folder)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tokenization.Tokenizer:
    return make_reader(tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module")
def reader_with_first(tmp_path_factory: pytest.TempPathFactory) -> tokenization.Tokenizer:
    return make_reader(tmp_path_factory.mktemp("first"), "<s>")


def ids_of(reader: tokenization.Tokenizer, *names: str) -> list[int]:
    return [reader.library.token_to_id(name) for name in names]


def text_of(reader: tokenization.Tokenizer, ids: Any) -> str:
    return reader.library.decode([int(one) for one in ids], skip_special_tokens=False)


def cut(
    reader: tokenization.Tokenizer,
    template: str,
    dialogues: Sequence[list[dict[str, str]]],
    ends: list[int] | None = None,
    limit: int = 512,
    keep: str = "head",
    learn: str = "every",
) -> tuple[list[Piece], Losses]:
    losses = Losses()
    made = Chat(template, {"eos_token": "<|end|>"})
    return list(answers(reader, made, iter([dialogues]), ends or end_of(reader, {}, made), limit, keep, learn, losses)), losses


def learnt(reader: tokenization.Tokenizer, piece: Piece) -> list[str]:
    """The runs of learnt tokens as texts."""
    assert piece.learnt is not None and len(piece.learnt) == len(piece.ids)
    out, run = [], []
    for token, mark in [*zip(piece.ids.tolist(), piece.learnt.tolist(), strict=True), (0, False)]:
        if mark:
            run.append(token)
        elif run:
            out.append(text_of(reader, run))
            run = []
    return out


# --- which tokens are learnt --------------------------------------------------------------------------------------------------


def test_answers_and_their_end_marks_are_learnt_and_nothing_else(reader: tokenization.Tokenizer) -> None:
    dialogue = turns("How are you?", "hello there", "one", "two three", system="my old friend")
    for template, end in ((TEMPLATE, "<|end|>"), (CHATML, "<|im_end|>"), (PLAIN, "<|end|>")):
        (piece,), losses = cut(reader, template, [dialogue])
        assert learnt(reader, piece) == [f"hello there{end}", f"two three{end}"]
        assert text_of(reader, piece.ids) == Chat(template, {"eos_token": "<|end|>"}).write(dialogue, False)
        (last,), _ = cut(reader, template, [dialogue], learn="last")
        assert learnt(reader, last) == [f"two three{end}"] and np.array_equal(last.ids, piece.ids)
        assert losses.left_out == 0


def test_the_newline_after_an_end_mark_is_the_templates(reader: tokenization.Tokenizer) -> None:
    (piece,), _ = cut(reader, CHATML, [turns("one", "two")])
    assert text_of(reader, piece.ids).endswith("two<|im_end|>\n") and piece.learnt is not None
    assert piece.learnt.tolist()[-3:] == [True, True, False] and piece.ids[-2] == ids_of(reader, "<|im_end|>")[0]


def test_a_newline_that_belongs_to_the_answer_is_learnt(reader: tokenization.Tokenizer) -> None:
    for content in ("one\n", "\n\n  one", " ", "é\N{GRINNING FACE}"):
        (piece,), _ = cut(reader, TEMPLATE, [turns("hello", content)])
        assert learnt(reader, piece) == [f"{content}<|end|>"]


@pytest.mark.parametrize("trim", [True, False], ids=["offsets without spaces", "offsets with spaces"])
def test_an_answer_that_begins_within_a_token_is_learnt_from_its_first_word(tmp_path: Path, trim: bool) -> None:
    """The prompt ends in a space, and the space and the answer's first word are one token."""
    reader = make_reader(tmp_path, trim=trim)
    (piece,), _ = cut(reader, "", [turns("one two: ", "hello there")], [1])
    assert "Ġhello" in reader.library.get_vocab() and learnt(reader, piece) == [" hello there<|end|>"]


def test_a_template_that_forgets_the_end_mark_gets_one(reader: tokenization.Tokenizer) -> None:
    for template in (ENDLESS, "", TEMPLATE.replace("<|end|>", "")):
        (piece,), _ = cut(reader, template, [turns("one two", "hello")], [1, 6])
        assert piece.ids[-1] == 1 and piece.learnt is not None and piece.learnt[-1]
        assert learnt(reader, piece)[-1].rstrip("\n").replace("\n", "") == "hello<|end|>"
    # One that the template wrote is not doubled, whichever of the ends it is.
    (piece,), _ = cut(reader, CHATML, [turns("one", "two")], [1, 6])
    assert text_of(reader, piece.ids).count("<|end|>") == 0
    (piece,), _ = cut(reader, TEMPLATE, [turns("one", "two")], [6, 1])
    assert text_of(reader, piece.ids).endswith("two<|end|>")


def test_prompts_and_completions_as_they_are_begin_as_the_tokenizer_begins(reader_with_first: tokenization.Tokenizer) -> None:
    reader = reader_with_first
    (piece,), _ = cut(reader, "", [turns("one two", " three")], [1])
    assert text_of(reader, piece.ids) == "<s>one two three<|end|>" and learnt(reader, piece) == [" three<|end|>"]
    (piece,), _ = cut(reader, TEMPLATE, [turns("one two", "three")])  # a template writes its own beginning
    assert text_of(reader, piece.ids).startswith("<|user|>one")


def test_an_empty_answer_is_its_end_mark(reader: tokenization.Tokenizer) -> None:
    (piece,), _ = cut(reader, TEMPLATE, [turns("one", "")])
    assert learnt(reader, piece) == ["<|end|>"]


# --- what the limit does ------------------------------------------------------------------------------------------------------


def test_truncation_keeps_the_head_or_the_tail_and_counts(reader: tokenization.Tokenizer) -> None:
    long = turns("hello there my old friend", "one two three four", "How are you?", "one")
    (whole,), _ = cut(reader, TEMPLATE, [long])
    size = len(whole.ids)
    for keep in ("head", "tail"):
        (piece,), losses = cut(reader, TEMPLATE, [long, turns("one", "two")][:1], limit=size - 4, keep=keep)
        kept = slice(0, size - 4) if keep == "head" else slice(4, size)
        assert np.array_equal(piece.ids, whole.ids[kept]) and np.array_equal(piece.learnt, whole.learnt[kept])
        assert (list(losses.lengths), losses.left_out) == ([size], 0)


def test_rows_whose_answers_are_cut_away_are_left_out_and_counted(reader: tokenization.Tokenizer) -> None:
    rows = [turns("one", "two"), turns("hello there my old friend " * 5, "one"), turns("three", "four")]
    pieces, losses = cut(reader, TEMPLATE, rows, limit=12)
    assert [piece.row for piece in pieces] == [0, 2] and losses.left_out == 1
    assert [n > 12 for n in losses.lengths] == [False, True, False]
    pieces, losses = cut(reader, TEMPLATE, rows, limit=12, keep="tail")
    assert [piece.row for piece in pieces] == [0, 1, 2] and losses.left_out == 0
    assert [learnt(reader, piece) for piece in pieces] == [["two<|end|>"], ["one<|end|>"], ["four<|end|>"]]


def test_a_first_token_alone_cannot_be_learnt(reader: tokenization.Tokenizer) -> None:
    """Nothing stands before it that could predict it: with a limit that leaves the mark there alone, the row is left out."""
    pieces, losses = cut(reader, "", [turns("", "a")], [1], limit=1)
    assert pieces == [] and losses.left_out == 1


@pytest.mark.parametrize("learn", ["every", "last"])
@pytest.mark.parametrize(("template", "behind"), [(TEMPLATE, 0), (CHATML, 1), (ENDLESS, 0), ("", 0)], ids=["own", "newline behind", "no end mark", "as it is"])
def test_each_row_tells_its_length_and_its_last_answers(reader: tokenization.Tokenizer, template: str, behind: int, learn: str) -> None:
    rows = [turns("How are you?", "hello there", "one", "two three"), turns("one two three four five", "six"), turns("one", "two")]
    whole, _ = cut(reader, template, rows, [1, 6], learn=learn)
    lasts = [piece.learnt.tolist()[::-1] for piece in whole if piece.learnt is not None]
    for limit in (512, 12, 3):
        _, losses = cut(reader, template, rows, [1, 6], limit=limit, learn=learn)
        assert list(losses.lengths) == [len(piece.ids) for piece in whole]
        # From the row's end backwards: what the template writes behind, then the learnt tokens of the last answer.
        assert list(losses.answers) == [behind + [*marks[behind:], False].index(False) for marks in lasts]


def test_a_prefix_belongs_to_the_row_and_not_to_its_answer(reader_with_first: tokenization.Tokenizer) -> None:
    _, losses = cut(reader_with_first, "", [turns("one two", " three"), turns("one", "")], [1], limit=2)
    (whole, bare), _ = cut(reader_with_first, "", [turns("one two", " three"), turns("one", " x")], [1])
    assert losses.lengths[0] == len(whole.ids) and losses.answers[0] == sum(whole.learnt)
    assert losses.answers[1] == 0 and losses.lengths[1] == len(bare.ids) - sum(bare.learnt)  # an answer without a token, and no end mark


def test_rows_are_numbered_across_batches(reader: tokenization.Tokenizer) -> None:
    made, losses = Chat(TEMPLATE, {}), Losses()
    batches = iter([[turns("one", "two")] * 2, [turns("one", "two")] * 3])
    assert [piece.row for piece in answers(reader, made, batches, [1], 64, "head", "every", losses)] == [0, 1, 2, 3, 4]


# --- documents ----------------------------------------------------------------------------------------------------------------

some_text = st.text(st.characters(codec="utf-8"), max_size=60)


@settings(max_examples=60, deadline=None)
@given(st.lists(some_text, min_size=1, max_size=6), st.integers(2, 20), st.booleans())
def test_every_token_of_a_document_is_learnt_once(reader: Any, reader_with_first: Any, texts: list[str], limit: int, first: bool) -> None:
    one = reader_with_first if first else reader
    pieces = list(documents(one, iter([texts[:2], texts[2:]]), 1, limit))
    for row, text in enumerate(texts):
        whole = [*one.prefix, *one.library.encode(text, add_special_tokens=False).ids, 1]
        mine = [piece for piece in pieces if piece.row == row]
        assert all(1 < len(piece.ids) <= limit and piece.learnt is None for piece in mine)
        # Each piece learns all but its first token, and that is the last of the piece before: together all but the document's first.
        assert [token for piece in mine for token in piece.ids[1:].tolist()] == whole[1:]
        assert [piece.ids[0] for piece in mine] == [whole[start] for start in range(0, len(whole) - 1, limit - 1)]
    assert [piece.row for piece in pieces] == sorted(piece.row for piece in pieces)


def test_documents_tell_their_lengths(reader: tokenization.Tokenizer, reader_with_first: tokenization.Tokenizer, tmp_path: Path) -> None:
    texts = ["one two three four " * 9, "a", "hello there", "one " * 40, "b"]
    for one in (reader, reader_with_first):
        wanted = [len(one.prefix) + len(one.library.encode(text, add_special_tokens=False).ids) + 1 for text in texts]
        for limit in (2, 7, 500):
            whole_N, answers_N = TextExamples(documents(one, iter([texts]), 1, limit), tmp_path, Losses()).whole()
            assert whole_N.tolist() == wanted and answers_N is None


def test_a_document_ends_with_its_mark(reader: tokenization.Tokenizer) -> None:
    pieces = list(documents(reader, iter([["hello there", "one"]]), 6, 64))
    assert [text_of(reader, piece.ids) for piece in pieces] == ["hello there<|im_end|>", "one<|im_end|>"]


# --- how sequences are kept ---------------------------------------------------------------------------------------------------


def sequences() -> list[Piece]:
    return [
        Piece(np.array([0, 5, 0, 7], np.int32), np.array([False, False, True, True]), 3),
        Piece(np.array([9, 0], np.int32), None, 4),
        Piece(np.array([0, 1, 2, 3, 4], np.int32), np.array([True, False, True, False, True]), 6),
    ]


@pytest.fixture
def examples(tmp_path: Path) -> TextExamples:
    return TextExamples(sequences(), tmp_path / "new folder", Losses(left_out=2))


def test_lengths_counts_and_rows(examples: TextExamples) -> None:
    assert len(examples) == 3 and examples.lengths_N.tolist() == [3, 1, 4] and examples.rows_N.tolist() == [3, 4, 6]
    assert examples.learnt_N.tolist() == [2, 1, 2]  # a first token is nobody's target
    assert examples.left_out == 2 and examples.packed


def test_ids_and_marks_come_back_also_where_the_id_is_0(examples: TextExamples) -> None:
    """~0 is -1, so even token 0 keeps its mark in the sign."""
    for index, piece in enumerate(sequences()):
        ids, marks = examples.sequence(index)
        assert ids.tolist() == piece.ids.tolist() and ids.dtype == np.int64
        assert marks.tolist() == (piece.learnt if piece.learnt is not None else np.ones(2, bool)).tolist()


def test_a_batch_lies_row_behind_row_without_padding(examples: TextExamples) -> None:
    batch = examples.batch(np.array([2, 0]))
    assert batch.inputs["ids"].tolist() == [0, 1, 2, 3, 0, 5, 0] and batch.inputs["lengths"].tolist() == [4, 3]
    assert batch.targets.tolist() == [NOT_LEARNT, 2, NOT_LEARNT, 4, NOT_LEARNT, 0, 7]
    assert batch.rows == 2 and batch.tokens == 7
    assert examples.batch(np.array([1])).targets.tolist() == [0]


def test_places_are_where_a_batch_lies_among_all(examples: TextExamples) -> None:
    everything = examples.batch(np.array([0, 1, 2])).inputs["ids"].numpy()
    for rows in ([0], [2, 0], [1, 2, 0], [2]):
        batch = examples.batch(np.array(rows))
        assert everything[examples.places(np.array(rows))].tolist() == batch.inputs["ids"].tolist()
    assert sorted(examples.places(np.array([2, 1, 0])).tolist()) == list(range(8))


def changed(index: int, **how: Any) -> list[Piece]:
    pieces = sequences()
    one = pieces[index]
    values = {"ids": one.ids.copy(), "learnt": None if one.learnt is None else one.learnt.copy(), "row": one.row}
    for name, (place, value) in how.items():
        values[name][place] = value
    pieces[index] = Piece(**values)
    return pieces


def test_the_fingerprint_knows_every_id_every_mark_and_every_end(examples: TextExamples, tmp_path: Path) -> None:
    prints = {examples.fingerprint()}
    assert TextExamples(sequences(), tmp_path, Losses()).fingerprint() in prints
    others = [changed(2, ids=(place, 8)) for place in range(5)] + [changed(0, learnt=(place, place < 2)) for place in range(4)]
    others += [sequences()[::-1], sequences()[:2]]
    merged = [Piece(np.array([0, 5, 0, 7, 9, 0], np.int32), np.array([False, False, True, True, True, True]), 3), sequences()[2]]
    for pieces in [*others, merged]:
        prints.add(TextExamples(pieces, tmp_path, Losses()).fingerprint())
    assert len(prints) == 1 + len(others) + 1


def test_nothing_lies_in_the_folder_and_tokens_are_not_held(tmp_path: Path) -> None:
    """Two megabytes of ids: what stays in memory is some numbers a sequence."""

    def many() -> Iterator[Piece]:
        for row in range(500):
            yield Piece(np.full(1000, row, np.int32), None, row)

    tracemalloc.start()
    made = TextExamples(many(), tmp_path, Losses())
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 150_000 and peak < 400_000
    assert list(tmp_path.iterdir()) == []
    assert made.sequence(499)[0].tolist() == [499] * 1000 and made.lengths_N.sum() == 500 * 999


def test_four_bytes_a_sequence_stay_in_memory(tmp_path: Path) -> None:
    """Its length; how many of its tokens are learnt, its row, and how long the row was are read from disk when they are asked for."""
    count, ids = 20_000, np.array([3, 4], np.int32)

    def tokenised() -> TextExamples:
        losses = Losses()

        def many() -> Iterator[Piece]:
            for row in range(count):
                losses.lengths.append(row + 2)
                losses.answers.append(row % 3)
                yield Piece(ids, None, row * 2)

        return TextExamples(many(), tmp_path, losses)

    tracemalloc.start()
    made = tokenised()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 6 * count and peak < 30 * count
    lengths_N, answers_N = made.whole()
    assert answers_N is not None and np.array_equal(lengths_N, np.arange(count) + 2) and np.array_equal(answers_N, np.arange(count) % 3)
    assert np.array_equal(made.rows_N, np.arange(count) * 2) and (made.learnt_N == 1).all() and made.sequence(count - 1)[0].tolist() == [3, 4]


def test_no_sequences_at_all(tmp_path: Path) -> None:
    made = TextExamples([], tmp_path, Losses(left_out=3))
    assert (len(made), len(made.lengths_N), len(made.rows_N), made.left_out) == (0, 0, 0, 3)


def test_no_room_for_the_ids_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        TextExamples(sequences(), tmp_path / "file", Losses())


# --- where a text ends --------------------------------------------------------------------------------------------------------


def test_ends_are_the_templates_the_tokenizers_and_the_models(reader: tokenization.Tokenizer) -> None:
    pad, end, im_end = ids_of(reader, "<|pad|>", "<|end|>", "<|im_end|>")
    named = {"eos_token": "<|end|>"}
    assert end_of(reader, {"eos_token_id": [pad, im_end]}, Chat(CHATML, named)) == [im_end, end, pad]
    assert end_of(reader, {"eos_token_id": end}, Chat(CHATML, named)) == [im_end, end]
    assert end_of(reader, {"eos_token_id": end}, Chat(TEMPLATE, {})) == [end]
    assert end_of(reader, {}, Chat(ENDLESS, named)) == [end] == end_of(reader, {}, Chat("", named)) == end_of(reader, {}, Chat(PLAIN, named))
    assert end_of(reader, {"eos_token_id": 0}, Chat("", {})) == [0]  # the id 0 is one as any other
    assert end_of(reader, {"eos_token_id": None}, Chat("", named | {"bos_token": "<s>"})) == [end]


def test_a_base_that_ends_nowhere_is_refused(reader: tokenization.Tokenizer) -> None:
    for made in (Chat("", {}), Chat(ENDLESS, {"eos_token": "not in the vocabulary"}), Chat(PLAIN, {"bos_token": "<s>"})):
        with pytest.raises(UserError, match="the base names no end token, so a model could never learn to stop") as caught:
            end_of(reader, {"eos_token_id": None}, made)
        assert "add eos_token to it" in str(caught.value) and "tokenizer_config.json" in str(caught.value)
