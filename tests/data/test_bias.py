"""Bias in the data: planted bias is found, random labels raise no alarm, and each statistic equals another computation of it."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array
from scipy.stats import binomtest, fisher_exact

from tunesmith.core.errors import UserError
from tunesmith.core.sections import Bars, Verdict, Words
from tunesmith.data import rows
from tunesmith.data.review import bias, coverage, identity_terms, label_rates
from tunesmith.report import page

SEEDS = 200


def table(texts: list[str], labels: list[list[str]] | None = None, **more: Any) -> pa.Table:
    given = {"id": [f"r{i}" for i in range(len(texts))], "source": ["a.csv"] * len(texts), "text": texts}
    return rows.table(given | ({} if labels is None else {"labels": labels}) | more, rows.DOCUMENT if labels is None else rows.LABELLED)


def report(one: pa.Table, **more: Any) -> dict[str, Any]:
    sample, count = coverage.sample([one])
    found = bias.report(sample, count, **more)
    assert json.loads(json.dumps(found)) == found
    return found


def one_hot(numbers: Any, labels: int) -> Any:
    return csr_array(np.eye(labels)[numbers])


def skilled(learners: int, urgent: int, natives: int, native_urgent: int) -> pa.Table:
    """So many rows of learners and natives, so many of them urgent."""
    skill = ["learner"] * learners + ["native"] * natives
    yes = [i < urgent for i in range(learners)] + [i < native_urgent for i in range(natives)]
    return table(["text"] * len(skill), [["yes" if one else "no"] for one in yes], attributes=[{"skill": one} for one in skill])


def test_a_planted_difference_is_said_with_its_numbers() -> None:
    found = report(skilled(412, 128, 1203, 192))
    (first,) = found["findings"]
    assert first["text"] == (
        "The label `yes` is 1.9 times as frequent where `skill` is `learner` (31 % of 412 rows, 27 to 36) "
        "as where it is `native` (16 % of 1,203 rows, 14 to 18)."
    )
    numbers = first["numbers"]
    low, high = binomtest(128, 412).proportion_ci(method="wilson")
    assert (numbers["low"], numbers["high"]) == pytest.approx((low, high), abs=1e-12)
    assert numbers["p"] == pytest.approx(fisher_exact([[128, 284], [192, 1011]]).pvalue)  # one comparison: nothing to correct for
    # Newcombe's method 10, by hand: the difference less the root of the squared distances to the intervals' inner ends.
    least, most = binomtest(192, 1203).proportion_ci(method="wilson")
    p, q = 128 / 412, 192 / 1203
    assert numbers["cautious"] == pytest.approx(p - q - math.hypot(p - low, most - q))
    assert found["tests"] == 1
    rates = {one["value"]: one["labels"]["yes"] for one in found["attributes"][0]["values"]}
    assert rates == {"learner": pytest.approx([p, low, high]), "native": pytest.approx([q, least, most])}


def test_the_higher_rate_of_two_values_comes_first_and_never_is_said() -> None:
    for one in (skilled(200, 0, 900, 270), skilled(1800, 0, 900, 270)):  # whichever value is the rarer
        (first,) = report(one)["findings"]
        assert first["text"].startswith("The label `yes` occurs where `skill` is `native` (30 % of 900 rows, 27 to 33) and never where it is `learner` (0 % of")


def test_no_finding_has_intervals_that_overlap() -> None:
    assert fisher_exact([[24, 126], [44, 106]]).pvalue < label_rates.LEVEL
    assert not report(skilled(150, 24, 150, 44))["findings"] and report(skilled(150, 24, 150, 46))["findings"]


def test_the_largest_difference_comes_first() -> None:
    wet, red = [i % 2 == 0 if i < 500 else i % 10 == 0 for i in range(1000)], [i % 5 < 2 if i < 500 else i % 5 < 1 for i in range(1000)]
    labels = [["wet"] * one + ["red"] * other for one, other in zip(wet, red, strict=True)]
    for side in (["left", "right"], ["right", "left"]):
        attributes = [{"side": side[i < 500]} for i in range(1000)]
        assert [one["numbers"]["label"] for one in report(table(["t"] * 1000, labels, attributes=attributes))["findings"]] == ["wet", "red"]


def test_a_difference_below_four_fifths_is_no_finding_however_sure() -> None:
    found = report(skilled(10_000, 4_400, 10_000, 4_000))
    assert not found["findings"] and found["tests"] == 1


def test_log_odds_by_hand() -> None:
    # 30 of the 40 texts with the term have the label; 1,000 of 4,000 words are in texts with it: the prior is 10 of 1,000 words
    here, there = 30 + 10, 10 + 10
    delta = math.log(here / (2000 - here)) - math.log(there / (3000 + 1000 - there))
    assert identity_terms.log_odds(30, 1000, 40, 4000) == pytest.approx(delta / math.sqrt(1 / here + 1 / there))
    assert identity_terms.log_odds(10, 1000, 40, 4000) == pytest.approx(0, abs=1e-12)


def test_alike_is_the_intraclass_correlation() -> None:
    units = np.repeat(np.arange(50), 4)
    rng = np.random.default_rng(0)
    same, mixed = rng.integers(0, 2, 50)[units], rng.integers(0, 2, 200)
    labels = csr_array(np.stack([same, mixed], 1).astype(float))
    alike, effect = label_rates.alike(labels, units), np.zeros(2)
    # by hand, over units of one size: (between - within) / (between + 3 within)
    means = mixed.reshape(50, 4).mean(1)
    between, within = 4 * means.var(ddof=1), (means * (1 - means)).sum() * 4 / 150
    assert alike.tolist() == pytest.approx([1.0, max(0.0, (between - within) / (between + 3 * within))])
    rate, count, effect = label_rates.effective(labels, alike, units, np.ones(200, bool))
    assert effect[0] == pytest.approx(50) and count[0] == pytest.approx(rate[0] * 50)  # four equal rows count as one
    assert label_rates.alike(labels, np.arange(200)).tolist() == [0, 0]


def test_rows_that_belong_together_count_as_little_as_they_say() -> None:
    """Forty customers of 25 rows each, all rows of one alike: as sure as forty rows are, which is not sure enough."""
    customers = [f"c{i // 25}" for i in range(1000)]
    labels = [["yes" if i // 25 in (*range(9), *range(20, 25)) else "no"] for i in range(1000)]
    skill = [{"skill": "learner" if i < 500 else "native"} for i in range(1000)]
    alone = table(["text"] * 1000, labels, attributes=skill)
    assert len(report(alone)["findings"]) == 1
    assert not report(table(["text"] * 1000, labels, attributes=skill, together=customers))["findings"]


@pytest.mark.parametrize("together", [0, 10])
def test_random_labels_raise_no_alarm(together: int) -> None:
    """In far fewer than 5 % of 200 data sets, over all comparisons of one: two attributes and what the texts mention, four labels."""
    alarms, tests = 0, 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        units = rng.integers(0, 150, 1500) if together else np.arange(1500)
        own = lambda weights: rng.choice(len(weights), units.max() + 1, p=weights)[units]  # noqa: B023, E731  # used at once
        values = {"a": np.array(["f", "m"])[own([0.4, 0.6])].tolist(), "b": np.array(list("nesw"))[own([0.4, 0.3, 0.2, 0.1])].tolist()}
        labels = np.where(rng.random(1500) < 0.7, own([0.5, 0.3, 0.15, 0.05]), rng.integers(0, 4, 1500))
        said = [{"she"} if one < 0.1 else {"he"} if one < 0.3 else set() for one in rng.random(1500)]
        terms = {"gender": {"women": ["she"], "men": ["he"]}}
        groups = [*itertools.chain(*(label_rates.by_value(*item) for item in values.items())), *identity_terms.groups(said, terms)]
        found, count = label_rates.compare(groups, one_hot(labels, 4), list("wxyz"), units)
        alarms, tests = alarms + bool(found), tests + count
    assert tests > 24 * SEEDS  # (1 + 4 + 2) x 4, less what is too rare
    assert alarms <= 0.02 * SEEDS  # the level is 0.01: more than 4 have a chance of 5 %


def test_planted_bias_of_an_attribute_is_found_in_every_data_set() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        west = rng.random(2000) < 0.25
        labels = np.where(rng.random(2000) < np.where(west, 0.3, 0.1), 1, 0)
        groups = label_rates.by_value("region", np.where(west, "west", rng.choice(["north", "south"], 2000)).tolist())
        found, _ = label_rates.compare(groups, one_hot(labels, 2)[:, [1]], ["yes"], np.arange(2000))
        assert "west" in {one["group"].value for one in found}


def toxic(seed: int, rate: float, words: int = 12) -> pa.Table:
    """Texts of which one in ten mentions Muslims; those are toxic at the given rate, others at 0.2."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(1500):
        about = rng.random() < 0.1
        texts.append(" ".join(rng.choice(list("abcdefghijklmnop"), words if about else 12)) + (" the Muslims" if about else ""))
        labels.append(["toxic" if rng.random() < (rate if about else 0.2) else "fine"])
    return table(texts, labels)


def test_planted_association_of_a_term_is_found_and_ranked_first() -> None:
    found = report(toxic(0, 0.6))
    assert found["findings"][0]["kind"] == "label by mention"
    said = found["findings"][0]["text"]
    assert said.startswith("The label `toxic` is ") and "times as frequent in texts that mention Muslims (" in said
    assert found["terms"][0]["term"] == "muslims" and found["terms"][0]["label"] == "toxic" and found["terms"][0]["z"] > 4
    assert found["mentions"] == [{"dimension": "religion", "group": "Muslims", "rows": found["terms"][0]["rows"]}]
    assert not report(toxic(0, 0.2))["findings"]


def test_long_texts_that_mention_more_of_everything_are_no_association() -> None:
    """Toxic texts are ten times as long and so mention women more often, but not more often among as many words."""
    rng = np.random.default_rng(0)
    texts, labels = [], []
    vocabulary = ["she", *(f"w{i}" for i in range(400))]
    for _ in range(1500):
        labels.append(["toxic" if rng.random() < 0.3 else "fine"])
        texts.append(" ".join(rng.choice(vocabulary, 60 if labels[-1] == ["toxic"] else 6)))
    one = table(texts, labels)
    sample, _ = coverage.sample([one])
    hits, _ = identity_terms.mentions(sample.column("text").to_pylist(), identity_terms.IDENTITY)
    matrix, names, compared = bias._labels(sample)
    groups = list(identity_terms.groups(hits, identity_terms.IDENTITY))
    raw, _ = label_rates.compare(groups, matrix[:, compared], [names[at] for at in compared], np.arange(1500))
    assert raw  # the rates alone do differ
    assert not report(one)["findings"]


def test_terms_are_words_and_phrases_never_parts() -> None:
    found, sizes = identity_terms.mentions(["The shepherd; HER black man's hat", "a black lamp", "“She’s here” — black men"], identity_terms.IDENTITY)
    assert found == [{"her", "man", "black man"}, set(), {"she", "men", "black men"}] and sizes.tolist() == [7, 3, 5]


def test_each_term_of_the_list_is_found_by_itself() -> None:
    for groups in identity_terms.IDENTITY.values():
        for listed in groups.values():
            assert len(set(listed)) == len(listed)
            for term in listed:
                assert term in identity_terms.mentions([f"so {term.upper()}, or"], identity_terms.IDENTITY)[0][0]


def test_terms_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "terms.yaml"
    path.write_text("Geschlecht: {Frauen: [sie, Frau], Männer: [er, Mann]}\n", "utf-8")
    terms = identity_terms.read(path)
    assert identity_terms.mentions(["Die FRAU kam"], terms)[0] == [{"Frau"}]
    for text, said in {
        "gender: [she]": "`gender` holds no groups of terms",
        "gender: {women: she}": "`gender.women` holds no list of terms",
        "gender: {women: [1]}": "`gender.women` has the term `1`, which is no word",
        "gender: {women: ['--']}": "`gender.women` has the term `--`, which is no word",
    }.items():
        path.write_text(text, "utf-8")
        with pytest.raises(UserError) as error:
            identity_terms.read(path)
        assert error.value.what == said and error.value.where == str(path) and error.value.remedy


def test_what_is_out_of_balance_is_said() -> None:
    attributes = [{"region": "north" if i < 480 else "west" if i < 495 else ""} | {"age": str(i % 30)} for i in range(500)]
    one = table(["text"] * 500, attributes=attributes, source=["a.csv"] * 460 + ["b.csv"] * 40)
    found = report(one, languages={"en": 0.97, "de": 0.03})
    assert [item["text"] for item in found["findings"]] == [
        "92.0% of the rows have the source `a.csv`: little is learnt of the rest, and little can be measured there.",
        "97.0% of the rows have the language `en`: little is learnt of the rest, and little can be measured there.",
        "96.0% of the rows have the region `north`: little is learnt of the rest, and little can be measured there.",
        "`age` has 30 values. Put them in bands, such as ages by decade.",
        "1 value of `region` with fewer than 20 independent rows: `west` (15). Nothing can be said of them.",
    ]
    assert found["balance"]["region"] == {"north": 0.96, "west": 0.03, "(not given)": 0.01} and found["tests"] == 0


@pytest.mark.parametrize(
    ("count", "values", "compared", "said"),
    [
        (1000, 25, 20, "the 20 commonest were compared"),
        (505, 26, 11, "11 of the 20 commonest were compared, as that takes 20 independent rows"),
        (495, 26, 1, "1 of the 20 commonest was compared, as that takes 20 independent rows"),
        (300, 25, 0, "none of the 20 commonest were compared, as that takes 20 independent rows"),
    ],
)
def test_how_many_values_were_compared_is_so(count: int, values: int, compared: int, said: str) -> None:
    given = [{"age": f"v{i % values:02}"} for i in range(count)]
    found = report(table(["text"] * count, [["yes" if i % 3 else "no"] for i in range(count)], attributes=given))
    assert [one["text"] for one in found["findings"]] == [f"`age` has {values} values; {said}. Put them in bands, such as ages by decade."]
    assert found["tests"] == compared
    shares = found["balance"]["age"]
    assert len(shares) == 21 and list(shares)[-1] == "(other values)" and sum(shares.values()) == pytest.approx(1)


def test_rows_without_anything_to_compare_say_so() -> None:
    for one in (table(["text"] * 50), table(["text"] * 50, [["a"], ["b"]] * 25)):
        (block,) = bias.section(report(one)).blocks
        assert isinstance(block, Words) and block.text.startswith("No label rates were compared: that takes labels, and 20 independent rows with a value")


def test_values_beyond_those_shown_are_no_value_that_dominates() -> None:
    found = report(table(["text"] * 2000, attributes=[{"name": f"n{i}"} for i in range(2000)]))
    assert found["balance"]["name"]["(other values)"] == 0.99
    assert [one["text"] for one in found["findings"]] == ["`name` has 2,000 values. Put them in bands, such as ages by decade."]


def test_several_labels_a_row_are_compared_one_by_one() -> None:
    labels = [["red"] * (i % 3 == 0) + ["wet"] * (i < 300 and i % 2 == 0) for i in range(900)]
    found = report(table(["t"] * 900, labels, attributes=[{"side": "left" if i < 300 else "right"} for i in range(900)]))
    assert found["tests"] == 2 and [one["numbers"]["label"] for one in found["findings"]] == ["wet"]


def test_the_section_shows_the_rates_and_escapes_what_users_wrote() -> None:
    one = skilled(412, 128, 1203, 192)
    nasty = [{"<script>": "<b>x</b>" if dict(pairs)["skill"] == "learner" else "y"} for pairs in one.column("attributes").to_pylist()]
    found = report(one.set_column(one.schema.get_field_index("attributes"), "attributes", pa.array(nasty, one.schema.field("attributes").type)))
    section = bias.section(found)
    bars, balance = [block for block in section.blocks if isinstance(block, Bars)]
    assert balance.caption == "Balance of <script>" and balance.values == pytest.approx([100 * 1203 / 1615, 100 * 412 / 1615])
    assert bars.values == pytest.approx([100 * 192 / 1203, 100 * 128 / 412]) and bars.intervals is not None
    assert isinstance(section.blocks[0], Words) and section.blocks[0].text.startswith("1 comparison of label rates: 1 difference beyond chance.")
    html = page.render("t", "s", Verdict("v"), [section])
    assert "<script>" not in html and "<b>x" not in html and "&lt;script&gt;" in html
    quiet = bias.section(report(skilled(100, 20, 100, 20)))
    assert isinstance(quiet.blocks[0], Words) and "no difference beyond chance" in quiet.blocks[0].text
