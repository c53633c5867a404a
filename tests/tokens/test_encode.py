"""Texts -> ids, with transformers' own tokenizer as the oracle, and what is kept of texts beyond the limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith import starters
from tunesmith.core.errors import UserError
from tunesmith.tokens import tokenization
from tunesmith.tokens.encode import WINDOW_OVERLAP, Tokens, Truncation, encode, stored
from tunesmith.tokens.examples import Targets, TokenExamples

TEXTS = ["hello", "", " ", "A café — naïve!", "unbelievably " * 40, "混合 text 🙂", "[SEP] [CLS] [MASK]", "a\nb\tc", "x" * 300]
PAIRS = ["world", None, "b " * 30, "c", "short", None, "longer " * 50, "z", "y " * 90]


@pytest.fixture(scope="module")
def ours() -> tokenization.Tokenizer:
    return tokenization.load(starters.base_folder("starter/minilm"))


@pytest.fixture(scope="module")
def theirs() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(starters.base_folder("starter/minilm"))


def sequences(tokens: Tokens) -> list[list[int]]:
    return [tokens.ids_T[a:b].tolist() for a, b in zip(tokens.offsets_Q[:-1], tokens.offsets_Q[1:], strict=True)]


@pytest.mark.parametrize("limit", [8, 32, 512])
def test_ids_are_those_of_transformers(ours: tokenization.Tokenizer, theirs: Any, limit: int) -> None:
    tokens = encode(ours, TEXTS, None, limit)
    assert sequences(tokens) == theirs(TEXTS, truncation=True, max_length=limit)["input_ids"]
    full = [len(ids) for ids in theirs(TEXTS)["input_ids"]]
    assert tokens.whole_N.tolist() == full and tokens.whole_N.dtype == np.int32
    assert len(tokens) == len(TEXTS) and tokens.types_T is None and ours.pad_id == theirs.pad_token_id
    assert tokens.lengths_N.tolist() == [min(n, limit) for n in full]


@pytest.mark.parametrize("limit", [8, 32, 512])
def test_pairs_and_their_types_are_those_of_transformers(ours: tokenization.Tokenizer, theirs: Any, limit: int) -> None:
    tokens = encode(ours, TEXTS, PAIRS, limit)
    expected = [
        theirs(text, truncation=True, max_length=limit) if pair is None else theirs(text, pair, truncation="longest_first", max_length=limit)
        for text, pair in zip(TEXTS, PAIRS, strict=True)
    ]
    assert sequences(tokens) == [one["input_ids"] for one in expected]
    assert tokens.types_T is not None and tokens.types_T.tolist() == [kind for one in expected for kind in one["token_type_ids"]]
    full = [len((theirs(t) if p is None else theirs(t, p))["input_ids"]) for t, p in zip(TEXTS, PAIRS, strict=True)]
    assert tokens.whole_N.tolist() == full and tokens.lengths_N.tolist() == [min(n, limit) for n in full]
    assert encode(ours, ["a b c d e f g h i j"], None, 8).whole_N.tolist() == [12]  # the pairs' truncation is off again


def test_no_pairs_at_all_is_the_same_as_none(ours: tokenization.Tokenizer) -> None:
    assert sequences(encode(ours, TEXTS, [None] * len(TEXTS), 32)) == sequences(encode(ours, TEXTS, None, 32))


@pytest.mark.parametrize("truncation", ["tail", "head_tail", "windows"])
def test_pairs_are_cut_at_the_end_only(ours: tokenization.Tokenizer, truncation: Truncation) -> None:
    with pytest.raises(UserError) as caught:
        encode(ours, ["a"], ["b"], 8, truncation)
    assert str(caught.value) == f"recipe: `model.truncation={truncation}` does not work with pairs of texts\n  -> use head: the longer text is cut first"


def test_what_is_kept_of_a_long_text(ours: tokenization.Tokenizer, theirs: Any) -> None:
    text = " ".join("zero one two three four five six seven eight nine ten eleven".split())
    ids = theirs(text, add_special_tokens=False)["input_ids"]  # 12, one a word
    start, end = theirs.cls_token_id, theirs.sep_token_id

    def kept(truncation: Truncation) -> list[list[int]]:
        tokens = encode(ours, ["one", text], None, 10, truncation)
        assert tokens.whole_N.tolist() == [3, 14]  # windows too count a token once
        assert sequences(tokens)[0] == [start, ids[1], end]
        return sequences(tokens)[1:]

    assert kept("head") == [[start, *ids[:8], end]]
    assert kept("tail") == [[start, *ids[4:], end]]
    assert kept("head_tail") == [[start, *ids[:2], *ids[6:], end]]  # a quarter of 8 from the head
    assert kept("windows") == [[start, *ids[:8], end], [start, *ids[4:], end]]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 150), min_size=1, max_size=6), st.integers(8, 40))
def test_windows_cover_every_token_and_overlap(ours: tokenization.Tokenizer, counts: list[int], limit: int) -> None:
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    texts = [" ".join(words[i % 7] for i in range(count)) for count in counts]
    whole = [ids[1:-1] for ids in sequences(encode(ours, texts, None, 512))]
    tokens = encode(ours, texts, None, limit, "windows")
    room = limit - 2
    for row, ids in enumerate(whole):
        pieces = [one[1:-1] for one in sequences(tokens)[tokens.rows_N[row] : tokens.rows_N[row + 1]]]
        assert all(len(piece) <= room for piece in pieces) and len(pieces) == (1 if len(ids) <= room else len(pieces))
        step = int(room * (1 - WINDOW_OVERLAP))
        covered = 0
        for index, piece in enumerate(pieces):
            begin = min(index * step, max(0, len(ids) - room))
            assert piece == ids[begin : begin + room] and begin <= covered
            assert index == 0 or covered - begin >= room - step  # the overlap
            covered = begin + len(piece)
        assert covered == len(ids)
    assert tokens.lengths_N.tolist() == [min(len(ids), room) + 2 for ids in whole]


def test_a_batch_pads_masks_and_knows_its_windows(ours: tokenization.Tokenizer) -> None:
    import torch

    texts = ["one", "zero one two three four five six seven eight nine ten eleven", "one two"]
    tokens = encode(ours, texts, None, 10, "windows")
    examples = TokenExamples(tokens, Targets(torch.tensor([5, 6, 7]), torch.tensor([1.0, 2.0, 3.0])), ours.pad_id)
    batch = examples.batch(np.array([2, 1]))
    assert batch.rows == 2 and batch.rows_S is not None and batch.rows_S.tolist() == [0, 1, 1]
    flat = sequences(tokens)
    ids_SL, mask_SL = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    assert [ids[mask.bool()].tolist() for ids, mask in zip(ids_SL, mask_SL, strict=True)] == [flat[3], flat[1], flat[2]]
    assert set(ids_SL[mask_SL == 0].tolist()) == {ours.pad_id} and ids_SL.shape == (3, 10) and batch.tokens == int(mask_SL.sum())
    assert batch.targets is not None and batch.targets.tolist() == [7, 6] and batch.weights_B is not None and batch.weights_B.tolist() == [3.0, 2.0]


def test_a_fingerprint_sees_every_change(ours: tokenization.Tokenizer) -> None:
    import torch

    def of(texts: list[str], limit: int, *targets: int) -> str:
        return TokenExamples(encode(ours, texts, None, limit), Targets(torch.tensor(targets)), 0).fingerprint()

    same = of(["a b", "c"], 8, 0, 1)
    assert same == of(["a b", "c"], 8, 0, 1) and len({same, of(["a", "b c"], 8, 0, 1), of(["a b", "c"], 8, 1, 1), of(["a b", "d"], 8, 0, 1)}) == 4


def test_a_base_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the base has no tokenizer.json\n  -> save its tokenizer with the fast tokenizer of transformers 4.30 or later"):
        tokenization.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 3}))
    with pytest.raises(UserError, match=r"tokenizer.json cannot be read \(.*\)\n  -> fetch the base again"):
        tokenization.load(tmp_path)


@pytest.mark.parametrize("truncation", ["head", "windows"])
def test_texts_by_chunks_are_the_same_in_a_file_without_a_name(ours: tokenization.Tokenizer, tmp_path: Path, truncation: Truncation) -> None:
    texts = [*TEXTS, "zero one two three four five six seven eight nine ten eleven"]
    whole = encode(ours, texts, None, 10, truncation)
    for size in (1, 4, 100):
        chunks = ((texts[start : start + size], [None] * len(texts[start : start + size])) for start in range(0, len(texts), size))
        found = stored(ours, chunks, 10, truncation, tmp_path / "scratch")
        for name in ("ids_T", "offsets_Q", "rows_N", "whole_N"):
            one, other = getattr(found, name), getattr(whole, name)
            assert (one == other).all() and one.dtype == other.dtype, name
        assert found.types_T is None and not list((tmp_path / "scratch").iterdir())
        assert TokenExamples(found, Targets(None), 0).fingerprint() == TokenExamples(whole, Targets(None), 0).fingerprint()


def test_pairs_by_chunks_are_the_same(ours: tokenization.Tokenizer, tmp_path: Path) -> None:
    pairs = [None, None, *PAIRS[2:7], None, None]  # the first and the last chunk have none
    whole = encode(ours, TEXTS, pairs, 12)
    found = stored(ours, ((TEXTS[start : start + 2], pairs[start : start + 2]) for start in range(0, len(TEXTS), 2)), 12, "head", tmp_path)
    assert sequences(found) == sequences(whole) and found.types_T is not None and whole.types_T is not None
    assert found.types_T.tolist() == whole.types_T.tolist() and found.types_T.any() and found.whole_N.tolist() == whole.whole_N.tolist()


def test_no_texts_are_no_tokens(ours: tokenization.Tokenizer, tmp_path: Path) -> None:
    found = stored(ours, iter([]), 12, "head", tmp_path)
    assert len(found) == 0 and len(found.ids_T) == 0 and found.offsets_Q.tolist() == [0]


def test_a_full_disk_says_so(ours: tokenization.Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        stored(ours, iter([(["a"], [None])]), 12, "head", tmp_path / "file")


def test_targets_of_parts_are_those_of_all() -> None:
    import torch

    from tunesmith.tokens.examples import joined

    one, two = Targets(torch.tensor([1, 2])), Targets(torch.tensor([3]), torch.tensor([0.5]))
    assert joined([one, one]).weights_N is None
    both = joined([one, two])
    assert both.values_N is not None and both.values_N.tolist() == [1, 2, 3]
    assert both.weights_N is not None and both.weights_N.tolist() == [1, 1, 0.5]
