"""What the texts cover: samples that no order changes, n-grams counted by hand, regions and outsiders that were planted."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.sections import Quotes, Verdict, Words
from tunesmith.data import rows
from tunesmith.data.preparation import card
from tunesmith.data.review import coverage
from tunesmith.report import page

few = settings(max_examples=25, deadline=None)


def documents(count: int, groups: int = 0) -> pa.Table:
    together = [f"g{i % groups}" if groups and i % 3 else None for i in range(count)]
    columns = {"id": [f"r{i}" for i in range(count)], "source": ["a"] * count, "text": [f"text {i}" for i in range(count)], "together": together}
    return rows.table(columns, rows.DOCUMENT)


@few
@given(st.randoms(use_true_random=False), st.integers(1, 40), st.integers(1, 130))
def test_the_sample_does_not_depend_on_order_or_batches(random: Any, size: int, most: int) -> None:
    one = documents(120, 9)
    order = list(range(120))
    random.shuffle(order)
    mixed = one.take(pa.array(order))
    here, count = coverage.sample([one], most)
    there, again = coverage.sample((mixed.slice(at, size) for at in range(0, 120, size)), most)
    assert here.equals(there) and count == again == 120
    assert len(here) == min(most, 120) == len(set(here.column("id").to_pylist()))


def test_the_sample_takes_groups_as_a_whole() -> None:
    one = documents(600, 40)
    group = dict(zip(one.column("id").to_pylist(), one.column("together").to_pylist(), strict=True))
    sizes = {name: list(group.values()).count(name) for name in set(group.values()) - {None}}
    sample, _ = coverage.sample(one.to_batches(50), 200)
    kept = [group[name] for name in sample.column("id").to_pylist()]
    cut = [name for name in set(kept) - {None} if kept.count(name) < sizes[name]]
    assert len(cut) <= 1 and len(set(kept)) > 5
    assert len(set(sample.column("unit").to_pylist())) == len(set(kept) - {None}) + kept.count(None)


def test_the_sample_is_spread_evenly() -> None:
    sample, _ = coverage.sample([documents(4000)], 1000)
    at = np.array([int(name[1:]) for name in sample.column("id").to_pylist()])
    assert abs(at.mean() - 2000) < 4 * 4000 / 12**0.5 / 1000**0.5


def test_texts_of_every_kind_of_row() -> None:
    def only(one: pa.Table) -> Any:
        return coverage.sample([one])[0].column("text").to_pylist()

    shared = {"id": ["a"], "source": ["f"]}
    assert only(rows.table(shared | {"text": ["x"], "text_pair": ["y"], "labels": [["l"]]})) == ["x\ny"]
    assert only(rows.table(shared | {"text": ["x"], "labels": [["l"]]})) == ["x"]
    assert only(rows.table(shared | {"prompt": ["p"], "completion": ["c"]}, rows.COMPLETION)) == ["p\nc"]
    said = [[{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]]
    assert only(rows.table(shared | {"messages": said}, rows.DIALOGUE)) == ["q\na"]
    assert only(rows.table(shared | {"text": ["z" * 9999]}, rows.DOCUMENT)) == ["z" * card.SAMPLE_CHARACTERS]
    assert [len(one) for one in only(rows.table(shared | {"text": ["x"], "text_pair": ["y" * 9999], "labels": [["l"]]}))] == [2 + card.SAMPLE_CHARACTERS]
    empty, count = coverage.sample([])
    assert len(empty) == count == 0


def test_words() -> None:
    assert coverage.words("Don’t STOP-it, 3.5 naïve 日本語 ok_") == ["don't", "stop", "it", "3", "5", "naïve", "日", "本", "語", "ok_"]


def test_distinct_n_grams_by_hand() -> None:
    found = coverage.lexical(["a b a b", "b a", "c"])
    # words a b a b b a c: 3 of 7; pairs ab ba ab | ba: 2 of 4; triples aba bab: 2 of 2. None goes over a text's end.
    assert found["distinct"] == pytest.approx({"1": 3 / 7, "2": 2 / 4, "3": 1.0})
    assert (found["texts"], found["words"], found["types"], found["curve"]) == (3, 7, 3, [[7, 3]])
    assert json.loads(json.dumps(found)) == found
    assert coverage.lexical([])["distinct"] == {"1": 0.0, "2": 0.0, "3": 0.0}


@few
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=8), max_size=8))
def test_distinct_n_grams_equal_sets_of_tuples(texts: list[list[str]]) -> None:
    found = coverage.lexical(" ".join(one) for one in texts)["distinct"]
    for n in (1, 2, 3):
        grams = [tuple(one[at : at + n]) for one in texts for at in range(len(one) - n + 1)]
        assert found[str(n)] == pytest.approx(len(set(grams)) / len(grams) if grams else 0.0)


def test_the_curve_counts_types_at_fixed_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"same w{i}" for i in range(1500)]
    assert coverage.lexical(texts)["curve"] == [[1000, 501], [2000, 1001], [3000, 1501]]
    monkeypatch.setattr(coverage, "MOST_WORDS", 1000)
    assert coverage.lexical(texts)["words"] == 1000


def test_words_of_test_that_train_lacks() -> None:
    found = coverage.unseen(iter(["the cat sat", "a dog"]), ["the bird sat", "bird song", "a cat"])
    assert found == {"words": 7, "share": 3 / 7, "types": 6, "types_share": 2 / 6, "rows_share": 2 / 3, "examples": ["bird", "song"]}
    assert coverage.unseen(["a b"], ["b a"])["share"] == 0 == coverage.unseen(["a"], [])["share"]


def unit(vectors: Any) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def blobs(sizes: list[int], seed: int = 0, spread: float = 0.1) -> Any:
    """Rows around axes of 16 dimensions."""
    rng = np.random.default_rng(seed)
    return unit(np.concatenate([np.eye(16)[at] + spread * rng.standard_normal((size, 16)) for at, size in enumerate(sizes)]))


def test_planted_regions_are_found_and_the_thin_one_is_said() -> None:
    train, test = blobs([400, 380, 360, 12]), blobs([50, 50, 50, 50], 1)
    found = coverage.regions(train, test, clusters=4)
    assert [one["rows"] for one in found["clusters"]] == [400, 380, 360, 12]
    assert [one["thin"] for one in found["clusters"]] == [False, False, False, True]
    assert [one["test_share"] for one in found["clusters"]] == [0.25] * 4
    assert all(1140 <= at < 1152 for at in found["clusters"][3]["examples"])
    centre = train[:400].mean(0) / np.linalg.norm(train[:400].mean(0))
    assert found["clusters"][0]["examples"] == np.argsort(-(train[:400] @ centre))[:3].tolist()
    assert found["clusters"][0]["similarity"] == pytest.approx(float((train[:400] @ centre).mean()), abs=1e-3)
    said = [text for text in coverage.findings(None, found) if "region" in text]
    assert said == ["1 region of 4 nearly empty, with 12 of 1,152 training rows and 25.0% of the test rows: add rows there, or leave them out on purpose."]
    assert json.loads(json.dumps(found)) == found == coverage.regions(train, test, clusters=4)


def test_far_test_rows_are_those_beyond_the_99th_percentile() -> None:
    train = blobs([300, 300])
    test = np.concatenate([blobs([90, 90], 1), unit(np.eye(16)[5:6] + 0.1 * np.random.default_rng(2).standard_normal((20, 16)))])
    found = coverage.regions(train, test)["far"]
    alike = train @ train.T
    np.fill_diagonal(alike, -1)
    limit = np.percentile(1 - alike.max(1), 99)
    far = 1 - (test @ train.T).max(1) > limit
    assert found["distance"] == pytest.approx(limit, abs=1e-6) and (found["rows"], found["of"]) == (far.sum(), 200)
    assert far[180:].all() and set(found["examples"]) == set(range(180, 200))
    (said,) = [text for text in coverage.findings(None, {"far": found}) if "farther" in text]
    assert said.startswith(f"{found['share']:.1%} of 200 test rows ({100 * found['low']:.1f} to {100 * found['high']:.1f}) are farther from any training row")


def test_rows_of_the_same_kind_raise_no_finding() -> None:
    for seed in range(20):
        found = coverage.regions(blobs([250, 250, 250], seed), blobs([100, 100, 100], seed + 100))
        assert not [text for text in coverage.findings(None, found) if "farther" in text]


def test_a_training_set_that_repeats_itself_makes_no_row_far() -> None:
    train = np.repeat(blobs([60, 60]), 2, axis=0)
    assert coverage.regions(train, train[::2])["far"]["rows"] == 0


def test_few_rows_have_no_regions() -> None:
    found = coverage.regions(blobs([99]), blobs([9]))
    assert found == {"rows": 99, "clusters": [], "far": None} and coverage.findings(None, {}) == []
    said = "Regions of meaning take 100 training rows, there are 99: what train covers is not known."
    assert coverage.findings(None, found) == [said]
    assert coverage.section(coverage.lexical(["a b"]), None, found, {}, {}).blocks[0] == Words(said, "warn")


def test_the_section_shows_words_and_regions_and_escapes_texts() -> None:
    train, test = blobs([200, 190, 8]), blobs([30, 30, 0], 1)
    texts, tests = ["<script>alert(1)</script> `x` " + "long text that is read as a text " * 3] * 398, ["<b>t</b>"] * 60
    words = coverage.unseen(["a"], ["b c", "a"])
    section = coverage.section(coverage.lexical(texts), words, coverage.regions(train, test, clusters=3), texts, tests)
    warned = [block.text for block in section.blocks if isinstance(block, Words) and block.tone == "warn"]
    assert warned[0] == "67% of the words of test never occur in train, such as `b`, `c`: the two may come from different sources."
    assert len(warned) == 2 and any(isinstance(block, Quotes) for block in section.blocks)
    html = page.render("t", "s", Verdict("v"), [section])
    assert "<script>" not in html and "<b>t" not in html and "&lt;script&gt;" in html
    assert coverage.section(coverage.lexical([]), None, {}, [], []).blocks
