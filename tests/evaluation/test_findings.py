"""The verdict's words, and the sections the report is given."""

import numpy as np
import pytest

from tunesmith.core.sections import Bars, Heatmap, Lines, Quotes, Table, Words
from tunesmith.evaluation.classification import calibration, findings
from tunesmith.evaluation.classification.measure import evaluate


def line(against, difference, low, high, p, metric="macro_f1"):
    return {"model": "tuned", "against": against, "metric": metric, "difference": difference, "low": low, "high": high, "p": p}


def an_evaluation(*lines, rows=3000, metric="macro_f1", value=0.9, groups=None):
    """The least that house.md promises, so that any objective's evaluation gets a verdict."""
    entry = {"value": value, "low": value - 0.01, "high": value + 0.01}
    models = {"tuned": {metric: entry}}
    models |= {c["against"]: {metric: {key: v - c["difference"] for key, v in entry.items()}} for c in lines}
    split = {"rows": rows, "models": models, "comparisons": list(lines)} | ({"groups": groups} if groups else {})
    return {"headline": metric, "splits": {"test": split}}


BETTER = line("tfidf", 0.031, 0.022, 0.041, 0.0005)
UNCLEAR = line("base", 0.005, -0.009, 0.019, 0.48)
WORSE = line("tfidf", -0.05, -0.07, -0.03, 0.001)
EQUAL = line("base", 0.001, -0.004, 0.006, 0.7)


@pytest.mark.parametrize(
    ("lines", "headline", "tone"),
    [
        ([BETTER], "The tuned model is better than TF-IDF with logistic regression", "good"),
        (
            [BETTER, UNCLEAR],
            "The tuned model is better than TF-IDF with logistic regression, but not shown to be better than the untuned base",
            "warn",
        ),
        ([UNCLEAR], "The tuned model is NOT shown to be better than the untuned base", "warn"),
        ([EQUAL], "The tuned model is NOT shown to be better than the untuned base", "bad"),
        ([WORSE], "The tuned model is worse than TF-IDF with logistic regression", "bad"),
        (
            [WORSE, BETTER | {"against": "majority"}],
            "The tuned model is worse than TF-IDF with logistic regression, though better than the commonest label",
            "bad",
        ),
        (
            [BETTER, UNCLEAR | {"against": "majority"}],
            "better than TF-IDF with logistic regression, but not shown to be better than the commonest label",
            "bad",
        ),
        ([], "The tuned model was compared with nothing: whether tuning helped is not known", "warn"),
    ],
)
def test_headline_and_tone(lines, headline, tone):
    found = findings.verdict(an_evaluation(*lines))
    assert headline in found[0] and found[2] == tone


def test_few_test_rows_of_half_of_the_labels_are_said():
    evaluation = an_evaluation(BETTER)
    split = evaluation["splits"]["test"]
    for supports, said in (([1, 4, 5, 9], True), ([4, 5, 5], False), ([0, 0, 0, 8], False), ([0, 4], True)):
        split["per_class"] = [{"support": rows} for rows in supports]
        sentences = findings.verdict(evaluation)[1]
        assert any("Half of the labels have fewer than 5 test rows" in one for one in sentences) == said, supports


def test_a_promise_says_what_was_counted():
    rows = calibration.fit_abstention(np.ones(600, bool), np.ones(600), 0.95)
    groups = calibration.fit_abstention(np.ones(600, bool), np.ones(600), 0.95, groups=[i // 2 for i in range(600)])
    few = calibration.fit_abstention(np.ones(600, bool), np.ones(600), 0.95, groups=[i // 20 for i in range(600)])
    labels = np.arange(40) % 4
    for fitted, words in (
        (rows, "certainty, fitted on 600 validation rows."),
        (groups, "certainty, fitted on 300 groups of validation rows (600 rows)."),
        (few, "the best that 30 groups of validation rows (600 rows) support is 81.9 %"),
    ):
        evaluation = evaluate({"tuned": np.eye(4)[labels]}, labels, list("abcd"), abstention=fitted, resamples=50)
        coverage = next(one for one in findings.sections(evaluation) if one.name == "coverage")
        assert any(words in block.text for block in coverage.blocks if isinstance(block, Words)), words


def test_sentences_say_how_much_and_how_sure():
    _, sentences, _ = findings.verdict(an_evaluation(BETTER, UNCLEAR))
    assert sentences[0].startswith("On 3,000 test rows the tuned model reaches a macro F1 of 90.0 % (89.0 to 91.0)")
    assert sentences[1] == (
        "Better than TF-IDF with logistic regression: macro F1 is 3.1 points higher "
        "(90.0 % against 86.9 %; 95 % interval 2.2 to 4.1 points higher; p < 0.001)."
    )
    assert sentences[2].startswith(
        "Not shown to be better than the untuned base: macro F1 is 0.5 points higher (90.0 % against 89.5 %), "
        "but anything from 0.9 points lower to 1.9 points higher fits the data (95 % interval; p = 0.48)."
    )
    assert "it would take about 48,000 test rows to show it" in sentences[2]


def test_less_is_better_for_losses():
    lower = line("base", -0.2, -0.3, -0.1, 0.001, "log_loss")
    assert findings.reading(lower) == "better"
    assert findings.reading(lower | {"difference": 0.2, "low": 0.1, "high": 0.3}) == "worse"
    _, sentences, tone = findings.verdict(an_evaluation(lower, metric="log_loss"))
    assert "log loss is 0.200 lower (0.900 against 1.100; 95 % interval 0.100 to 0.300 lower" in sentences[1]
    assert tone == "good"


def test_a_small_p_alone_or_an_interval_alone_is_not_enough():
    assert findings.reading(line("base", 0.05, -0.001, 0.1, 0.01)) == "unclear"
    assert findings.reading(line("base", 0.05, 0.001, 0.1, 0.04) | {"p_adjusted": 0.08}) == "unclear"


def test_a_real_but_small_gain_is_called_so():
    _, sentences, tone = findings.verdict(an_evaluation(line("base", 0.004, 0.001, 0.007, 0.01)))
    assert sentences[1].startswith("Slightly better than the untuned base: macro F1 is 0.4 points higher") and tone == "good"


def test_models_with_the_same_figure_are_called_the_same():
    text = findings.verdict(an_evaluation(line("base", 0.0, -0.02, 0.02, 1.0)))[1][1]
    assert text == (
        "Not shown to be better than the untuned base: macro F1 is the same (90.0 % against 90.0 %), "
        "but anything from 2.0 points lower to 2.0 points higher fits the data (95 % interval; p = 1.00)."
    )


def test_a_small_test_set_and_few_groups_are_said():
    wide = an_evaluation(UNCLEAR, rows=40, groups=8)
    wide["splits"]["test"]["models"]["tuned"]["macro_f1"] |= {"low": 0.79, "high": 0.99}
    _, sentences, _ = findings.verdict(wide)
    assert "The test set is small: the figure is known only to within about 10 points either way." in sentences
    assert "The rows belong to only 8 groups that count as one each" in sentences[-1]


def test_rows_needed():
    """A half-width of 1.96 standard errors at 100 rows, a difference of one: (2.8 / 1)^2 = 7.84 times the rows."""
    assert findings.rows_needed(100, line("base", 0.01, 0.01 - 0.0196, 0.01 + 0.0196, 0.3)) == 780
    assert findings.rows_needed(100, line("base", 0.0, -0.01, 0.01, 1.0)) is None
    assert findings.rows_needed(100, line("base", 1e-6, -0.01, 0.01, 1.0)) is None


def measured(classes, rows=400, error=0.3, **more):
    rng = np.random.default_rng(0)
    labels = np.arange(rows) % classes
    models = {}
    for name, rate in (("tuned", error), ("base", 0.6)):
        answers = np.where(rng.random(rows) < rate, (labels + 1) % classes, labels)
        models[name] = np.eye(classes)[answers] * 0.8 + 0.2 / classes
    return evaluate(models, labels, [f"label {c}" for c in range(classes)], resamples=100, **more)


def blocks(sections, kind):
    return [block for section in sections for block in section.blocks if isinstance(block, kind)]


def test_sections_show_baselines_errors_labels_calibration_and_coverage():
    fitted = calibration.Abstention(0.5, 0.7, 0.71, 0.95, 0.9, 0.8, 300)
    found = measured(4, abstention=fitted, out_of_scope=np.full((20, 4), 0.25))
    made = findings.sections(found, {str(i): f"text {i}" for i in range(400)})
    assert [section.name for section in made] == ["baselines", "errors", "labels", "calibration", "coverage"]
    bars = blocks(made, Bars)[0]
    assert (
        bars.names == ["the tuned model", "the untuned base"]
        and bars.emphasis == 0
        and bars.intervals[0][0] < bars.values[0] < bars.intervals[0][1]
    )
    table = blocks(made, Table)[0]
    assert table.columns[1] == "macro F1" and all(len(row) == len(table.columns) for row in table.rows)
    quote = blocks(made, Quotes)[0].items[0]
    assert ("text", f"text {dict(quote)['row']}") in quote
    reliability, coverage = blocks(made, Lines)
    assert reliability.diagonal and coverage.marks[0][1] == "threshold 0.50"
    words = " ".join(block.text for block in blocks(made, Words))
    assert "accuracy on new rows like these is at least 70 %, with 95 % certainty" in words and "AUROC of 1.000" in words


def test_a_large_confusion_matrix_is_cut_to_the_most_confused_and_keeps_its_counts():
    found = measured(30, rows=900)
    grid = blocks(findings.sections(found), Heatmap)[0]
    assert len(grid.row_names) == findings.SHOWN_CLASSES == len(grid.values) and "15 most confused of 30" in grid.caption
    cells = {(truth, answer): count for truth, answer, count in found["splits"]["test"]["confusion"]}
    names = found["splits"]["test"]["labels"]
    for i, truth in enumerate(grid.row_names):
        for j, answer in enumerate(grid.column_names):
            assert grid.values[i][j] == cells.get((names.index(truth), names.index(answer)), 0)
    worst = found["splits"]["test"]["most_confused"][0]
    assert grid.row_names[:2] == [worst["truth"], worst["answer"]]
    assert findings.sections(found)[2].folded
    whole = blocks(findings.sections(measured(4)), Heatmap)[0]
    assert sum(map(sum, whole.values)) == 400


def test_sections_without_errors_texts_or_details():
    perfect = findings.sections(measured(4, error=0.0))
    assert any("no error" in block.text for block in blocks(perfect, Words))
    quote = blocks(findings.sections(measured(4)), Quotes)[0].items[0]
    assert dict(quote)["text"] == "(not kept)"
    assert [section.name for section in findings.sections(an_evaluation(BETTER))] == ["baselines"]


def test_a_threshold_that_cannot_be_promised_is_said():
    none = calibration.Abstention(None, 0.95, 0.861, 0.95, 0.0, None, 40)
    words = " ".join(block.text for block in blocks(findings.sections(measured(4, abstention=none)), Words))
    assert "No threshold can be promised to reach 95 % accuracy on new rows" in words
    assert "the best that 40 validation rows support is 86.1 %" in words


def test_several_labels_a_row_have_sections_too():
    rng = np.random.default_rng(0)
    labels = rng.random((100, 3)) < 0.4
    models = {"tuned": np.clip(labels * 0.5 + 0.6 * rng.random((100, 3)), 0, 1), "base": rng.random((100, 3))}
    found = evaluate(models, labels, list("abc"), resamples=100)
    made = findings.sections(found)
    assert not blocks(made, Heatmap) and {item[0] for item in blocks(made, Quotes)[0].items[0]} >= {"row", "confidence"}
    assert "all labels right" in " ".join(findings.verdict(found)[1])


MICRO_BETTER = line("tfidf", 0.01, 0.004, 0.016, 0.001, "micro_f1")
MICRO_WORSE = line("tfidf", -0.01, -0.016, -0.004, 0.001, "micro_f1")
MICRO_UNCLEAR = line("tfidf", 0.001, -0.03, 0.03, 0.9, "micro_f1")


def two_metrics(*lines, headline="micro_f1"):
    """An evaluation with comparisons in several metrics."""
    found = an_evaluation(*lines, metric=headline)
    for c in lines:
        for name in ("tuned", c["against"]):
            value = 0.5 if name == "tuned" else 0.5 - c["difference"]
            found["splits"]["test"]["models"][name][c["metric"]] = {"value": value, "low": value - 0.01, "high": value + 0.01}
    return found


@pytest.mark.parametrize(
    ("lines", "headline", "tone"),
    [
        (
            [MICRO_BETTER, WORSE],
            "The tuned model is better than TF-IDF with logistic regression by micro F1; by macro F1 it is worse than TF-IDF with logistic regression",
            "warn",
        ),
        ([MICRO_BETTER, UNCLEAR | {"against": "tfidf"}], "by micro F1; by macro F1 it is not shown to be better than TF-IDF with logistic regression", "warn"),
        ([MICRO_WORSE, BETTER], "worse than TF-IDF with logistic regression by micro F1; by macro F1 it is better than TF-IDF", "bad"),
        ([MICRO_UNCLEAR, BETTER], "NOT shown to be better than TF-IDF with logistic regression by micro F1; by macro F1 it is better than TF-IDF", "warn"),
    ],
)
def test_macro_f1_that_disagrees_is_named(lines, headline, tone):
    found = findings.verdict(two_metrics(*lines))
    assert headline in found[0] and found[2] == tone
    assert sum("By macro F1, in which rare labels count as much as common ones, it is otherwise." in one for one in found[1]) == 1


def test_a_verdict_whose_metrics_agree_names_one():
    for lines in ([MICRO_BETTER, BETTER], [MICRO_WORSE, WORSE], [MICRO_WORSE, UNCLEAR | {"against": "tfidf"}], [MICRO_UNCLEAR, WORSE]):
        found = findings.verdict(two_metrics(*lines))
        assert "macro" not in found[0] and "otherwise" not in " ".join(found[1])
    assert findings.verdict(two_metrics(MICRO_BETTER, BETTER))[2] == "good"


def test_each_baseline_is_named_with_what_macro_f1_says_of_it():
    lines = [MICRO_BETTER, MICRO_BETTER | {"against": "base"}, WORSE, EQUAL]
    headline, sentences, _ = findings.verdict(two_metrics(*lines))
    assert headline.endswith("by macro F1 it is worse than TF-IDF with logistic regression and not shown to be better than the untuned base")
    assert "Worse than TF-IDF with logistic regression: macro F1 is 5.0 points lower (50.0 % against 55.0 %" in sentences[2]
    assert "As good as the untuned base" in sentences[4]


def test_with_one_label_a_row_accuracy_is_named_where_it_says_the_contrary():
    worse, unclear = (WORSE | {"metric": "accuracy"}, UNCLEAR | {"metric": "accuracy", "against": "tfidf"})
    headline, sentences, tone = findings.verdict(two_metrics(BETTER, worse, headline="macro_f1"))
    assert headline.endswith("by macro F1; by accuracy it is worse than TF-IDF with logistic regression") and tone == "warn"
    assert any(one.startswith("By accuracy it is otherwise. Worse than") for one in sentences)
    assert findings.verdict(two_metrics(BETTER, unclear, headline="macro_f1"))[2] == "good"


def test_the_report_says_how_cuts_were_chosen_and_shows_f1_over_the_cut():
    from dataclasses import asdict

    from tunesmith.evaluation.classification import cuts

    rng = np.random.default_rng(0)
    labels = rng.random((200, 3)) < [0.03, 0.2, 0.4]
    models = {"tuned": np.clip(labels * 0.3 + 0.5 * rng.random((200, 3)), 0, 1)}
    chosen = asdict(cuts.choose(labels[:100], models["tuned"][:100]))
    found = evaluate(models, labels, list("abc"), resamples=100, thresholds={"tuned": cuts.of({"cuts": chosen})})
    split = found["splits"]["test"]
    split["cuts"] = cuts.shown(chosen, labels, models["tuned"])
    made = {section.name: section for section in findings.sections(found)}
    (lines,) = blocks([made["cuts"]], Lines)
    assert [one.name for one in lines.series] == ["micro F1, validation", "macro F1, validation", "micro F1, test", "macro F1, test"]
    assert lines.marks == [(chosen["common"], f"common cut {chosen['common']:.2f}")] and "chose nothing" in lines.caption
    words = " ".join(block.text for block in blocks([made["cuts"]], Words))
    assert "chosen on 100 validation rows after calibration" in words and "of 3 labels have fewer than 10 validation rows" in words
    assert f"macro F1 is {100 * chosen['held_out']['chosen']['macro_f1']:.1f} % with cuts chosen so" in words
    (table,) = blocks([made["labels"]], Table)
    assert table.columns[-2:] == ["Cut", "Validation rows"]
    for row in table.rows:
        assert list(row[-2:]) == [chosen["by_label"]["abc".index(row[0])], chosen["positives"]["abc".index(row[0])]]
    found["splits"] = {"valid": split}
    only = next(section for section in findings.sections(found, split="valid") if section.name == "cuts")
    assert [one.name for one in blocks([only], Lines)[0].series] == ["micro F1, validation", "macro F1, validation"]
