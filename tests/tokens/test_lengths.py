"""The length report against counting row by row, against what the encoder and the planner really do, and as a run has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith import starters
from tunesmith.core.sections import Bars, Section, Table, Verdict, Words
from tunesmith.report import page
from tunesmith.stages.train import token_report
from tunesmith.tokens import batching, chat_template, dialogues, encode, lengths, sequences, tokenization
from tunesmith.tokens.examples import Targets, TokenExamples
from tunesmith.tokens.reader import Reader

some = settings(max_examples=60, deadline=None)
rows = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=80)


@some
@given(rows, st.integers(4, 100), st.sampled_from(["head", "tail"]))
def test_losses_equal_cutting_each_row(pairs: list[tuple[int, int]], limit: int, truncation: Any) -> None:
    prompts, answers = np.array(pairs, np.uint32).T
    found = lengths.report(prompts + answers, limit, truncation, answers)
    cut = lost = cut_rows = cut_tokens = 0
    for prompt, answer in pairs:
        marks = [False] * prompt + [True] * answer
        kept = marks[:limit] if truncation == "head" else marks[-limit:]
        cut_rows, cut_tokens = cut_rows + (len(kept) < len(marks)), cut_tokens + len(marks) - len(kept)
        lost += answer > 0 and not any(kept)
        cut += 0 < sum(kept) < answer
    assert (found["cut_rows"], found["cut_tokens"], found["answers_cut"], found["answers_lost"]) == (cut_rows, cut_tokens, cut, lost)
    assert json.loads(json.dumps(found)) == found


@some
@given(st.lists(st.integers(1, 200), min_size=1, max_size=60))
def test_percentiles_are_lengths_that_occur(given_lengths: list[int]) -> None:
    found = lengths.report(np.array(given_lengths), 512)
    for q in lengths.PERCENTS:
        assert found[f"p{q}"] == np.percentile(given_lengths, q, method="inverted_cdf")
    assert found["most"] == max(given_lengths) and found["total"] == sum(given_lengths) and found["cut_rows"] == 0


@some
@given(st.lists(st.integers(2, 90), min_size=1, max_size=30), st.integers(6, 40))
def test_windows_and_pieces_are_counted_as_they_are_made(given_lengths: list[int], limit: int) -> None:
    special = 2
    bare = np.array(given_lengths) - special
    made = np.diff(encode._cut(np.zeros(bare.sum(), np.int32), bare, limit - special, "windows")[3]).tolist()
    found = lengths.report(np.array(given_lengths), limit, "windows", special=special)
    assert found["windows"] == sum(made) - len(made) and found["cut_rows"] == found["cut_tokens"] == 0
    divided = sum(len(range(0, max(1, n - 1), limit - 1)) for n in given_lengths)
    assert lengths.report(np.array(given_lengths), limit, "pieces")["windows"] == divided - len(given_lengths)


def test_padding_equals_batches_that_were_made() -> None:
    rng = np.random.default_rng(0)
    rows_N = np.minimum(np.maximum(3, rng.lognormal(3, 0.8, 1010)).astype(int), 128)  # the last batch has 18 rows
    found = lengths.report(rows_N, 128)["padding"]
    padded = [
        sum(len(at) * rows_N[at].max() for at in np.split(np.random.default_rng(seed).permutation(1010), range(32, 1010, 32))) for seed in range(300)
    ]
    assert found["tokens"] == rows_N.sum()
    error = np.std(padded) / 300**0.5
    assert abs(found["random"]["padding"] - (np.mean(padded) - rows_N.sum())) < 4 * error
    in_order = sum(len(at) * rows_N[at].max() for at in batching.in_order(rows_N, 32, None))
    assert found["sorted"]["padding"] == in_order - rows_N.sum()
    assert found["sorted"]["share"] == pytest.approx((in_order - rows_N.sum()) / in_order) and found["packed"] == {"padding": 0, "share": 0.0}


def test_padding_by_hand() -> None:
    # rows of 2, 4 and 6 in batches of 2: the pairs' longest are 4, 6, 6, then one row alone: 2 x 16/3 + 4 on average
    found = lengths.padding(np.array([2, 4, 6]), np.array([1, 1, 1]), 100, 2)
    assert found["random"]["padding"] == round(2 * 16 / 3 + 4 - 12) and found["random"]["share"] == pytest.approx(1 - 12 / (2 * 16 / 3 + 4))
    assert found["sorted"]["padding"] == 4 * 2 + 6 - 12


def test_ladders() -> None:
    assert lengths.ladder(300, 512) == [64, 128, 256, 512] and lengths.ladder(900, 512) == [64, 128, 256, 512]
    assert lengths.ladder(10, 512) == [64] and lengths.ladder(900, 500) == [64, 128, 256, 500] and lengths.ladder(65, None) == [64, 128]


def test_the_smallest_limit_that_keeps_enough_is_recommended() -> None:
    rows_N = np.array([50] * 990 + [120] * 9 + [500])
    found = lengths.report(rows_N, 512, longest=512)
    # 64 loses 56 of 120 nine times and 436 once: 940 of 51,080 tokens, 1.8 %; 128 loses 372, 0.7 %
    assert found["recommended"]["limit"] == 128 and found["recommended"]["tokens_kept"] == pytest.approx(1 - 372 / 51080)
    assert found["recommended"]["reason"] == "128 is the smallest of 64, 128, 256, 512 that keeps 99% of the tokens: it keeps 99.27 %"
    assert found["said"] == "Training rows have 50 tokens at the median, 50 at the 95th percentile, 500 at most; the limit of 512 cuts none."


def test_answers_that_would_be_cut_raise_the_recommendation() -> None:
    lengths_N, answers_N = np.array([60] * 95 + [70] * 5), np.array([10] * 100)
    assert lengths.report(lengths_N, 64)["recommended"]["limit"] == 64  # 30 of 6,050 tokens
    found = lengths.report(lengths_N, 64, "head", answers_N)
    assert found["recommended"]["limit"] == 128 and found["answers_cut"] == 5 and found["answers_lost"] == 0
    assert found["said"] == (
        "Training rows have 60 tokens at the median, 60 at the 95th percentile, 70 at most. The limit of 64 cuts 30 tokens (0.5 %) from the ends of "
        "5 of 100 rows (5.0 %). Last answers cut: 5; lost: 0. To lose less: model.max_tokens: 128 keeps 100 % of the tokens and 100 % of the last "
        "answers whole; model.truncation: tail keeps the last answers."
    )
    assert found["recommended"]["reason"] == (
        "128 is the smallest of 64, 128 that keeps 99% of the tokens and of the answers: it keeps 100 % and leaves 100 % of the answers whole"
    )
    tail = lengths.report(lengths_N, 64, "tail", answers_N)
    assert tail["said"].endswith("cuts 30 tokens (0.5 %) from the beginnings of 5 of 100 rows (5.0 %). Last answers cut: 0; lost: 0.")


@pytest.mark.parametrize(
    ("truncation", "said"),
    [
        ("head", "cuts 1 token (0.8 %) from the ends of 1 of 2 rows (50.0 %). To lose less: model.truncation: windows reads all of every row."),
        ("tail", "cuts 1 token (0.8 %) from the beginnings of 1 of 2 rows (50.0 %). To lose less: model.truncation: windows reads all of every row."),
        ("head_tail", "cuts 1 token (0.8 %) from the middles of 1 of 2 rows (50.0 %). To lose less: model.truncation: windows reads all of every row."),
        ("pairs", "cuts 1 token (0.8 %) from the longer texts of 1 of 2 rows (50.0 %)."),
        ("windows", "at most; those beyond 64 are read in overlapping windows, 1 more than there are rows, and nothing is cut."),
        ("pieces", "at most; those beyond 64 are read in pieces, 1 more than there are rows, and nothing is cut."),
    ],
)
def test_what_is_cut_and_what_to_do_is_said(truncation: Any, said: str) -> None:
    found = lengths.report(np.array([60, 65]), 64, truncation, longest=64)
    assert found["said"].startswith("Training rows have 60 tokens at the median, 65 at the 95th percentile, 65 at most") and found["said"].endswith(said)
    whole = lengths.report(np.array([60, 64]), 64, truncation, longest=64)
    assert whole["said"].endswith("64 at most; the limit of 64 cuts none.") and whole["windows"] == 0


def test_a_base_that_reads_too_little_is_said() -> None:
    found = lengths.report(np.array([1000] * 10), 512, longest=512)
    assert found["recommended"]["reason"].startswith("the base reads 512 tokens at most, which keeps 51.2 % of them: divide long rows")
    assert "Recommended" not in found["said"]
    windows = lengths.report(np.array([1000] * 10), 512, "windows", longest=512)
    assert windows["recommended"]["reason"] == "the base reads 512 tokens at most; longer rows are divided and lose nothing" and windows["windows"] == 20


def test_shares_are_rounded_neither_to_nothing_nor_to_all() -> None:
    assert [lengths._percent(one) for one in (0, 1, 0.0003, 0.05, 0.99997)] == ["0 %", "100 %", "0.03 %", "5.0 %", "99.99 %"]


def test_the_blocks_are_drawn() -> None:
    found = lengths.report(np.array([10, 90, 300, 700]), 128, "head", np.array([5, 50, 100, 100]), longest=512)
    blocks = lengths.blocks(found)
    assert isinstance(blocks[0], Words) and blocks[0].tone == "warn" and len(found["curve"]) == 4 and found["curve"][-1] == [700, 1.0]
    table = next(block for block in blocks if isinstance(block, Table) and block.columns[0] == "limit")
    assert [row[0] for row in table.rows] == [64, 128, 256, 512] and table.emphasis == 3
    assert table.rows[1] == [128, 2, 50.0, pytest.approx(100 * (172 + 572) / 1100), 0, 2]
    (bars,) = (block for block in blocks if isinstance(block, Bars))
    assert bars.emphasis == 2 and bars.values[2] == 0 and found["padding"]["used"] == "packed"
    assert isinstance(blocks[-1], Words) and blocks[-1].text == f"Packed batches spare {4 * 128 - (10 + 90 + 128 + 128)} tokens of padding an epoch."
    assert Words(f"Recommended limit: {found['recommended']['reason']}.") in blocks
    assert "<svg" in page.render("t", "s", Verdict("v"), [Section("lengths", "Lengths", blocks)])
    one = lengths.report(np.array([5]), 64)
    assert one["padding"]["used"] == "sorted" and isinstance(lengths.blocks(one)[-1], Bars)  # nothing is spared, so nothing is said of it
    divided = next(block for block in lengths.blocks(lengths.report(np.array([500]), 64, "windows")) if isinstance(block, Table) and "limit" in block.columns)
    assert divided.caption == "What a limit would cut, if nothing is divided; the recommended one is stressed"


def reader_of(base: str, limit: int, truncation: Any, scratch: Path) -> Reader:
    return Reader(tokenization.load(starters.base_folder(base)), limit, truncation, scratch)


WORDS = ["one", "one two three four five six seven eight nine ten", "one " * 33]


@pytest.mark.parametrize("truncation", ["head", "windows"])
def test_the_report_of_texts_with_labels(tmp_path: Path, truncation: Any) -> None:
    read = reader_of("starter/minilm", 10, truncation, tmp_path)
    tokens = encode.encode(read.tokenizer, WORDS, None, read.limit, truncation)
    found = token_report(TokenExamples(tokens, Targets(None), 0), read, 512, 2)
    assert [found[key] for key in ("rows", "total", "p50", "most", "limit", "truncation")] == [3, 3 + 12 + 35, 12, 35, 10, truncation]
    assert (found["cut_rows"], found["cut_tokens"]) == ((2, 2 + 25) if truncation == "head" else (0, 0))
    assert found["windows"] == len(tokens.offsets_Q) - len(tokens.rows_N) and found["padding"]["batch_rows"] == 2
    assert found["recommended"]["limit"] == 64 and ("model.max_tokens: 64 keeps 100 % of the tokens;" in found["said"]) is (truncation == "head")
    unknown = token_report(TokenExamples(tokens, Targets(None), 0), read)
    assert unknown["recommended"]["limit"] == 10 and "max_tokens" not in unknown["said"]


def test_the_report_of_pairs_proposes_no_windows(tmp_path: Path) -> None:
    read = reader_of("starter/minilm", 16, "head", tmp_path)
    tokens = encode.encode(read.tokenizer, WORDS, ["one two", "one", None], read.limit)
    found = token_report(TokenExamples(tokens, Targets(None), 0), read, 16)
    assert found["said"].endswith("cuts 19 tokens (34.5 %) from the longer texts of 1 of 3 rows (33.3 %).")  # 6, 14 and 35


def test_the_report_of_answers_and_of_documents(tmp_path: Path) -> None:
    read = reader_of("starter/scribe", 24, "head", tmp_path)
    written = chat_template.load(starters.base_folder("starter/scribe"), "none")
    ends = sequences.end_of(read.tokenizer, {}, written)
    pairs = [("one two", " three four"), ("one " * 40, "two"), ("one", " two" * 40)]
    rows = [[{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}] for prompt, answer in pairs]
    losses = sequences.Losses()

    def cut(limit: int) -> Iterator[sequences.Piece]:
        return dialogues.answers(read.tokenizer, written, iter([rows]), ends, limit, "head", "every", losses)

    whole = list(cut(512))
    sizes, learnt = [len(piece.ids) for piece in whole], [int(np.sum(piece.learnt)) for piece in whole]
    losses = sequences.Losses()
    examples = sequences.TextExamples(cut(24), tmp_path, losses)
    found = token_report(examples, read, 24)
    assert (found["total"], found["most"], found["cut_rows"], found["cut_tokens"]) == (sum(sizes), max(sizes), 2, sizes[1] + sizes[2] - 48)
    assert (found["answers_cut"], found["answers_lost"], found["left_out"], found["sequences"]) == (1, 1, 1, 2)
    assert found["learnt"] == learnt[0] + 24 - (sizes[2] - learnt[2]) and found["tokens"] == sizes[0] - 1 + 23
    assert found["said"].endswith(
        f"Last answers cut: 1; lost: 1. To lose less: model.truncation: tail keeps the last answers. {found['learnt']} of {found['tokens']} tokens are "
        "learnt. Rows left out, as the limit cuts away all that was to be learnt: 1."
    )
    texts = ["one two", "one " * 100]
    read = reader_of("starter/scribe", 24, "tail", tmp_path)  # documents are divided, whatever the recipe says of longer rows
    documents = sequences.TextExamples(sequences.documents(read.tokenizer, iter([texts]), ends[0], 24), tmp_path, sequences.Losses())
    found = token_report(documents, read)
    assert (found["rows"], found["cut_rows"], found["truncation"], found["windows"]) == (2, 0, "pieces", len(documents) - 2) and found["windows"] > 2
    assert found["learnt"] == found["tokens"] == found["total"] - 2 and found["said"].endswith("more than there are rows, and nothing is cut.")
