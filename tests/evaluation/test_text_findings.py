"""The words about generated text and forgetting, and the sections the report is given."""

import numpy as np
import pytest

from tunesmith.core.sections import Bars, Lines, Samples, Table, Verdict, Words
from tunesmith.evaluation.generation import findings
from tunesmith.evaluation.generation.measure import Answers, measure_text, with_forgetting
from tunesmith.report.gate import judge
from tunesmith.report.page import render


def line(metric, difference, low, high, p, against="base"):
    return {"model": "tuned", "against": against, "metric": metric, "difference": difference, "low": low, "high": high, "p": p}


def an_evaluation(*lines, headline="rouge_l", rows=400, groups=None, **figures):
    values = {"rouge_l": 0.412, "perplexity": 12.3, "nll": 2.51} | figures
    models = {"tuned": {name: {"value": value, "low": 0.97 * value, "high": 1.03 * value} for name, value in values.items()}, "base": {}}
    for c in lines:
        of = models.setdefault(c["against"], {})
        of[c["metric"]] = {key: value - c["difference"] for key, value in models["tuned"][c["metric"]].items()}
    split = {"rows": rows, "models": models, "comparisons": list(lines)} | ({"groups": groups} if groups else {})
    return {"headline": headline, "splits": {"test": split}}


ROUGE_BETTER = line("rouge_l", 0.051, 0.032, 0.071, 0.0005)
ROUGE_UNCLEAR = line("rouge_l", 0.02, -0.01, 0.05, 0.2)
ROUGE_EQUAL = line("rouge_l", 0.001, -0.004, 0.006, 0.7)
ROUGE_WORSE = line("rouge_l", -0.05, -0.07, -0.03, 0.001)
PERPLEXITY_BETTER = line("perplexity", -7.8, -9.9, -6.1, 0.0005)
PERPLEXITY_WORSE = line("perplexity", 2.0, 1.0, 3.0, 0.001)
PERPLEXITY_UNCLEAR = line("perplexity", -0.2, -1.0, 0.6, 0.6)


@pytest.mark.parametrize(
    ("lines", "headline", "tone"),
    [
        ([ROUGE_BETTER, PERPLEXITY_BETTER], "The tuned model is better than the untuned base on ROUGE-L and perplexity", "good"),
        ([ROUGE_WORSE, PERPLEXITY_WORSE], "The tuned model is worse than the untuned base on ROUGE-L and perplexity", "bad"),
        ([ROUGE_BETTER, PERPLEXITY_WORSE], "The tuned model is better than the untuned base on ROUGE-L, but worse on perplexity", "warn"),
        ([ROUGE_BETTER, PERPLEXITY_UNCLEAR], "The tuned model is better than the untuned base on ROUGE-L, but not shown to be on perplexity", "good"),
        ([ROUGE_UNCLEAR, PERPLEXITY_BETTER], "The tuned model is NOT shown to be better than the untuned base on ROUGE-L, though better on perplexity", "warn"),
        ([ROUGE_EQUAL, PERPLEXITY_BETTER], "The tuned model is NOT shown to be better than the untuned base on ROUGE-L, though better on perplexity", "warn"),
        ([ROUGE_EQUAL, PERPLEXITY_WORSE], "The tuned model is NOT shown to be better than the untuned base on ROUGE-L, and worse on perplexity", "bad"),
        ([ROUGE_WORSE, PERPLEXITY_BETTER], "The tuned model is worse than the untuned base on ROUGE-L, though better on perplexity", "bad"),
        ([ROUGE_BETTER], "The tuned model is better than the untuned base on ROUGE-L", "good"),
        ([ROUGE_EQUAL], "The tuned model is NOT shown to be better than the untuned base on ROUGE-L", "bad"),
        (
            [ROUGE_BETTER, ROUGE_UNCLEAR | {"against": "old-run"}],
            "The tuned model is better than the untuned base on ROUGE-L, but not shown to be better than old-run",
            "warn",
        ),
        ([], "The tuned model was compared with nothing: whether tuning helped is not known", "warn"),
    ],
)
def test_headline_and_tone(lines, headline, tone):
    found = findings.verdict(an_evaluation(*lines))
    assert (found[0], found[2]) == (headline, tone)


def test_sentences_say_how_much_and_how_sure():
    _, sentences, _ = findings.verdict(an_evaluation(ROUGE_BETTER, PERPLEXITY_BETTER))
    assert sentences == [
        "On 400 test rows the tuned model's ROUGE-L is 41.2 % (40.0 to 42.4), with a 95 % interval. "
        "ROUGE-L is how much of the reference's words an answer has in the same order, and how little else.",
        "Better than the untuned base: ROUGE-L is 5.1 points higher (41.2 % against 36.1 %; 95 % interval 3.2 to 7.1 points higher; p < 0.001).",
        "Better than the untuned base: perplexity is 7.80 lower (12.30 against 20.10; 95 % interval 6.10 to 9.90 lower; p < 0.001).",
    ]


def test_an_unclear_gain_says_how_many_rows_would_show_it():
    _, sentences, _ = findings.verdict(an_evaluation(ROUGE_UNCLEAR))
    assert sentences[1].startswith(
        "Not shown to be better than the untuned base: ROUGE-L is 2.0 points higher (41.2 % against 39.2 %), "
        "but anything from 1.0 points lower to 5.0 points higher fits the data (95 % interval; p = 0.20)."
    )
    assert "it would take about 1,800 test rows" in sentences[1]


def test_documents_are_judged_by_perplexity_and_less_is_better():
    lower = line("nll", -0.3, -0.4, -0.2, 0.0005)
    headline, sentences, tone = findings.verdict(an_evaluation(lower, PERPLEXITY_BETTER, headline="nll"))
    assert (headline, tone) == ("The tuned model is better than the untuned base on perplexity", "good")
    assert len(sentences) == 2 and "perplexity is 12.30 (11.93 to 12.67)" in sentences[0]
    higher = line("nll", 0.3, 0.2, 0.4, 0.0005)
    assert findings.verdict(an_evaluation(higher, PERPLEXITY_WORSE, headline="nll"))[2] == "bad"


def test_readings_know_each_metrics_scale():
    assert findings.reading(line("bleu", 0.3, -0.4, 0.9, 0.4)) == "equal"
    assert findings.reading(line("bleu", 0.3, -0.4, 1.2, 0.4)) == "unclear"
    assert findings.reading(line("nll", 0.001, -0.004, 0.006, 0.4)) == "equal"
    assert findings.reading(line("perplexity", 0.0, -0.001, 0.001, 0.4)) == "unclear"
    assert findings.reading(line("rouge_l", 0.05, 0.01, 0.1, 0.04) | {"p_adjusted": 0.08}) == "unclear"
    assert [findings.show(*pair) for pair in (("bleu", 34.25), ("perplexity", 1234.5), ("perplexity", 154.3), ("nll", 2.0), ("ended", 1.0))] == [
        "34.2", "1,234", "154.3", "2.000", "100.0 %",
    ]  # fmt: skip


def test_cut_answers_odd_lengths_few_groups_and_wide_intervals_are_said():
    found = an_evaluation(ROUGE_BETTER, groups=8, ended=0.6, length_ratio=2.4)
    found["splits"]["test"]["models"]["tuned"]["rouge_l"] |= {"low": 0.31, "high": 0.51}
    said = " ".join(findings.verdict(found)[1])
    assert "40 % of its answers were cut off at the limit of tokens" in said
    assert "2.40 times the words of the references: they are too long." in said
    assert "only 8 groups that count as one each" in said
    assert "within about 10 points either way" in said
    assert "too short" in " ".join(findings.verdict(an_evaluation(ROUGE_BETTER, length_ratio=0.2))[1])


def general(difference, low, high, p):
    found = an_evaluation(line("nll", difference, low, high, p), headline="nll", rows=50, nll=3.5, perplexity=33.1)["splits"]["test"]
    found["models"]["base"]["perplexity"] = {"value": 30.0, "low": 29.0, "high": 31.0}
    return found | {"source": "20 articles", "tokens": 9000}


@pytest.mark.parametrize(
    ("figures", "words", "tone"),
    [
        (
            (0.001, -0.004, 0.006, 0.6),
            "On general text (20 articles) it forgot next to nothing: the loss per token is 3.500 after tuning, 3.499 before",
            "good",
        ),
        ((-0.1, -0.12, -0.08, 0.001), "It even gained there.", "good"),
        (
            (0.05, 0.03, 0.07, 0.001),
            "it forgot a little: the loss per token is 3.500 after tuning, 3.450 before (perplexity +5.1 %, 95 % interval +3.0 to +7.3 %",
            "warn",
        ),
        ((0.4, 0.3, 0.5, 0.001), "it forgot much", "bad"),
        ((0.05, -0.05, 0.15, 0.3), "forgetting is neither shown nor ruled out", "warn"),
    ],
)
def test_forgetting_in_words(figures, words, tone):
    said, found = findings.forgetting(general(*figures))
    assert words in said and found == tone


def test_forgetting_much_colours_the_verdict():
    found = an_evaluation(ROUGE_BETTER, PERPLEXITY_BETTER)
    found["splits"]["general"] = general(0.4, 0.3, 0.5, 0.001)
    _, sentences, tone = findings.verdict(found)
    assert tone == "warn" and "it forgot much" in sentences[-1] and "A lower learning rate" in sentences[-1]


def test_other_tokens_leave_forgetting_unmeasured():
    said, tone = findings.forgetting(general(0.4, 0.3, 0.5, 0.001) | {"comparisons": []})
    assert "could not be measured" in said and tone == "plain"


def measured(rows=60):
    rng = np.random.default_rng(0)
    references = [" ".join(rng.choice(["red", "green", "blue", "sky", "sea"], 8)) for _ in range(rows)]
    tokens = rng.integers(5, 20, rows)
    models = {}
    for name, kept, level in (("tuned", 0.8, 2.0), ("base", 0.4, 2.5)):
        said = [" ".join(word if rng.random() < kept else "no" for word in reference.split()) for reference in references]
        models[name] = Answers(said, [True] * rows, rng.normal(level, 0.2, rows) * tokens, tokens)
    found = measure_text(models, references, [f"<b>prompt</b> {i}" for i in range(rows)], resamples=100)
    pieces = {name: Answers(None, None, rng.normal(level, 0.1, 30) * 50, np.full(30, 50)) for name, level in (("tuned", 3.05), ("base", 3.0))}
    return with_forgetting(found, pieces, "30 paragraphs", resamples=100)


def blocks(found, name):
    return next(section for section in findings.sections(found) if section.name == name).blocks


def test_sections_show_what_was_measured():
    found = measured()
    assert [section.name for section in findings.sections(found)] == ["baselines", "distribution", "samples", "forgetting"]
    against = blocks(found, "baselines")
    table, differences = (block for block in against if isinstance(block, Table) and block.caption.startswith(("60", "Diff")))
    assert table.columns == ["Metric", "the tuned model", "the untuned base"] and table.emphasis == 0
    names = "ROUGE-L, ROUGE-1, ROUGE-2, exact match, BLEU, chrF, length ratio, ended by itself, loss per token, perplexity"
    assert [row[0] for row in table.rows] == names.split(", ")
    assert [row[1] for row in differences.rows][:2] == ["ROUGE-L (points)", "ROUGE-1 (points)"] and differences.rows[0][-1] == "better"
    assert differences.rows[0][2].startswith("+") and differences.rows[-1][2].startswith("−")
    assert isinstance(against[0], Bars) and against[0].limits == (0, 1)
    lines = blocks(found, "distribution")[0]
    assert isinstance(lines, Lines) and [series.name for series in lines.series] == ["the tuned model", "the untuned base"]
    assert sum(lines.series[0].y) == pytest.approx(100)
    assert isinstance(blocks(found, "forgetting")[0], Words)


def test_samples_are_shown_by_kind():
    found = measured()
    shown = [block for block in blocks(found, "samples") if isinstance(block, Samples)]
    assert [len(block.items) for block in shown[:2]] == [4, 4]
    one = shown[0].items[0]
    assert [label for label, _ in one.above] == ["prompt", "reference"]
    assert [label for label, _ in one.beside] == ["the untuned base", "the tuned model"] and one.emphasis == 1
    html = render("r", "", Verdict("v"), findings.sections(found))
    assert "&lt;b&gt;prompt&lt;/b&gt;" in html and "<b>" not in html


def test_no_harm_is_said_only_when_there_is_none():
    found = measured()
    split = found["splits"]["test"]
    split["samples"] = [one for one in split["samples"] if one["kind"] != "loss" and one["rouge_l"]["tuned"] >= one["rouge_l"]["base"]]
    assert any(isinstance(block, Words) and block.tone == "good" for block in blocks(found, "samples"))
    random = next(one for one in split["samples"] if one["kind"] == "random")
    random["rouge_l"] = {"base": 0.9, "tuned": 0.1}
    assert not any(isinstance(block, Words) and block.tone == "good" for block in blocks(found, "samples"))


def test_documents_get_sections_too():
    tokens = np.full(40, 30)
    models = {name: Answers(None, None, np.random.default_rng(i).normal(2 + i / 5, 0.2, 40) * tokens, tokens) for i, name in enumerate(("tuned", "base"))}
    found = measure_text(models, resamples=100)
    assert [section.name for section in findings.sections(found)] == ["baselines", "distribution"]
    bars = blocks(found, "baselines")[0]
    assert bars.names[0] == "the tuned model" and bars.limits is None and "lower is better" in bars.x_label
    alone = measure_text({"tuned": models["tuned"]}, resamples=100)
    assert findings.verdict(alone)[2] == "warn" and render("r", "", Verdict("v"), findings.sections(alone))


def test_the_gate_reads_these_figures():
    gate = {
        "rouge_l": {"at_least": 0.5, "at_most": None, "by": "lower"},
        "perplexity": {"at_least": None, "at_most": 9.0, "by": "upper"},
        "forgetting": {"at_least": None, "at_most": 0.01, "by": "value"},
    }
    assert [result.passed for result in judge(gate, measured())] == [True, True, False]
