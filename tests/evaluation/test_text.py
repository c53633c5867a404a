"""Metrics of text against sacrebleu and rouge-score, by hand, and the intervals and comparisons made of them."""

import subprocess
import sys

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from tunesmith.core.errors import UserError
from tunesmith.core.statistics import wilson
from tunesmith.evaluation import intervals
from tunesmith.evaluation.generation import measure as measuring
from tunesmith.evaluation.generation import metrics
from tunesmith.evaluation.generation.measure import Answers, measure_text, with_forgetting

VOCABULARY = "the a cat dog sat ran on under mat hill, and it was red; very quick! 42 times of in Paris.".split()


def corpus(rows=60, seed=0, kept=0.7, shortest=1):
    """References, and answers that keep most of their words; some empty, some equal."""
    rng = np.random.default_rng(seed)
    references = [" ".join(rng.choice(VOCABULARY, rng.integers(shortest, 14))) for _ in range(rows)]
    answers = []
    for i, reference in enumerate(references):
        said = [word if rng.random() < kept else str(rng.choice(VOCABULARY)) for word in reference.split()]
        answers.append("" if i % 17 == 3 else reference if i % 11 == 5 else " ".join(said[: len(said) - int(rng.integers(0, 2))] or said))
    return references, answers


def likelihoods(rows, level, seed=0):
    tokens = np.random.default_rng([seed, 9]).integers(3, 40, rows)
    return np.random.default_rng([seed, int(100 * level)]).normal(level, 0.3, rows) * tokens, tokens


def test_whole_corpus_equals_sacrebleu_and_rouge_score():
    references, answers = corpus()
    found = metrics.values(metrics.score(references, answers))
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score, abs=1e-9)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(answers, [references]).score, abs=1e-9)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    theirs = [scorer.score(reference, answer) for reference, answer in zip(references, answers, strict=True)]
    for name, kind in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        assert found[name] == pytest.approx(np.mean([one[kind].fmeasure for one in theirs]), abs=1e-9)


def test_sums_of_drawn_rows_equal_sacrebleus_figures_of_those_rows():
    """A bootstrap resample must be what sacrebleu says of the texts drawn, also where orders have no match."""
    references, answers = corpus(40, kept=0.3)
    scores = metrics.score(references, answers)
    for size in (1, 2, 3, 5, 40):
        for seed in range(8):
            drawn = np.random.default_rng([size, seed]).integers(0, 40, size)
            found = metrics.metrics(scores.sums_NK[drawn].sum(0))
            ours, theirs = [answers[i] for i in drawn], [[references[i] for i in drawn]]
            assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(ours, theirs).score, abs=1e-9)
            assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(ours, theirs).score, abs=1e-9)


def test_many_sums_at_once_are_the_same_as_one_by_one():
    scores = metrics.score(*corpus(20, kept=0.4))
    together = metrics.metrics(scores.sums_NK.reshape(4, 5, -1))
    for name, values in together.items():
        assert values.shape == (4, 5)
        assert values[2, 3] == pytest.approx(float(metrics.metrics(scores.sums_NK[13])[name]), abs=1e-12)


def test_two_rows_by_hand():
    """`the cat sat down` / `the cat lay down`: LCS 3 of 4, ROUGE-1 3/4, ROUGE-2 1/3. `yes` / `yes indeed`: P 1/2, R 1, F 2/3.

    Loss (2 + 6) nats over (4 + 2) tokens is 4/3 a token; the mean of the rows' own (1/2 and 3) would be 7/4.
    """
    references, answers = ["the cat sat down", "yes"], ["the cat lay down", "yes indeed"]
    scores = metrics.score(references, answers, ended=[True, False], nll=np.array([2.0, 6.0]), tokens=np.array([4, 2]))
    found = metrics.values(scores)
    assert found["rouge_l"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert found["rouge_1"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert found["rouge_2"] == pytest.approx((1 / 3 + 0) / 2)
    assert found["exact_match"] == 0 and found["ended"] == 0.5
    assert found["length_ratio"] == pytest.approx(6 / 5)
    assert found["nll"] == pytest.approx(4 / 3) and found["perplexity"] == pytest.approx(np.exp(4 / 3))
    # matches 4, 1, 0, 0 of 6, 4, 2, 1 n-grams, smoothed to 1/2 and 1/4; the answers are longer, so no brevity penalty
    assert found["bleu"] == pytest.approx(100 * (4 / 6 * 1 / 4 * (1 / 2) / 2 * (1 / 4) / 1) ** 0.25)
    assert metrics.by_row(scores, "rouge_l") == pytest.approx([3 / 4, 2 / 3])


def test_exact_match_forgives_white_space_and_unicode_form_but_not_case():
    references = ["Paris  is\tfine ", "caf\u00e9", "Yes", "a b"]
    answers = [" Paris is\nfine", "cafe\u0301", "yes", "ab"]
    assert metrics.by_row(metrics.score(references, answers), "exact_match").tolist() == [1, 1, 0, 0]


def test_perfect_and_empty_answers_are_the_ends():
    references = ["the quick brown fox jumps", "over the lazy dog today"]
    assert all(metrics.values(metrics.score(references, references))[name] == pytest.approx(1) for name in ("rouge_l", "exact_match", "length_ratio"))
    assert metrics.values(metrics.score(references, references))["bleu"] == pytest.approx(100)
    assert set(metrics.values(metrics.score(references, ["", "  "])).values()) == {0.0}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Don't stop_now, it's 3.5", ["don", "t", "stop", "now", "it", "s", "3", "5"]),  # as rouge-score
        ("Überraschung à l'été", ["überraschung", "à", "l", "été"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("日本 is 日", ["日", "本", "is", "日"]),
        ("Καλημέρα κόσμε", ["καλημέρα", "κόσμε"]),
        ("👍 …", []),
    ],
)
def test_words_of_any_script(said, expected):
    assert metrics.words(said) == expected


def test_other_scripts_are_scored_and_tokenized():
    found = metrics.values(metrics.score(["Καλημέρα κόσμε όμορφε"], ["Καλημέρα κόσμε άσχημε"]))
    assert found["rouge_l"] == pytest.approx(2 / 3)  # rouge-score's own words would give 0
    assert [metrics.bleu_tokenizer([said]) for said in ("Grüße 42", "今天天气很好 ok", "日本語です", "สวัสดี", "42")] == ["13a", "zh", "char", "char", "13a"]
    chinese, other = ["今天天气很好", "我们去公园"], ["今天天气不好", "我们去学校吧"]
    theirs = sacrebleu.corpus_bleu(other, [chinese], tokenize="zh").score
    assert metrics.values(metrics.score(chinese, other))["bleu"] == pytest.approx(theirs, abs=1e-9) and theirs > 0
    assert metrics.values(metrics.score(["👍"], ["👍"]))["exact_match"] == 1
    assert metrics.values(metrics.score(["👍"], ["👍"]))["length_ratio"] == 1


def test_signatures_are_sacrebleus_own():
    bleu, chrf = sacrebleu.metrics.BLEU(), sacrebleu.metrics.CHRF()
    for metric in (bleu, chrf):
        metric.corpus_score(["a"], [["a"]])
    found = metrics.signatures("13a")
    assert found["bleu"] == str(bleu.get_signature()) and found["chrf"] == str(chrf.get_signature())


def test_bleu_is_left_out_where_no_reference_has_four_tokens():
    scores = metrics.score(["yes", "no way"], ["yes", "no way"])
    assert "bleu" not in scores.names and "chrf" in scores.names


def test_empty_references_are_refused_by_name():
    with pytest.raises(UserError, match="2 of 3 references are empty \\(rows `b`, `c`\\)") as caught:
        metrics.score(["x", " ", ""], ["x", "y", ""], rows=["a", "b", "c"])
    assert caught.value.where and "leave the rows out" in caught.value.remedy


def test_broken_likelihoods_are_refused():
    with pytest.raises(UserError, match="loss of 1 of 2 rows is not a finite number"):
        metrics.likelihood(np.array([1.0, np.nan]), np.array([3, 3]))
    with pytest.raises(UserError, match="no row has a token"):
        metrics.likelihood(np.zeros(2), np.zeros(2, int))
    skipped = metrics.likelihood(np.array([6.0, 0.0]), np.array([3, 0]))
    assert metrics.values(skipped) == pytest.approx({"nll": 2.0, "perplexity": np.exp(2)})


def test_nothing_heavy_is_loaded_before_it_is_used():
    code = "import sys; from tunesmith.evaluation.generation import metrics, measure, findings\n"
    code += "print({'torch', 'nltk', 'sacrebleu', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def two_models(rows=60, **more):
    references, tuned = corpus(rows, kept=0.8, **more)
    _, base = corpus(rows, kept=0.4, **more)
    loss, tokens = likelihoods(rows, 2.0)
    worse, _ = likelihoods(rows, 2.4)
    models = {"tuned": Answers(tuned, [True] * rows, loss, tokens), "base": Answers(base, [False] * rows, worse, tokens)}
    return references, models


def test_evaluation_has_the_shape_promised_and_repeats_itself():
    references, models = two_models()
    found = measure_text(models, references, [f"prompt {i}" for i in range(60)], resamples=200)
    assert found == measure_text(models, references, [f"prompt {i}" for i in range(60)], resamples=200)
    split = found["splits"]["test"]
    assert found["headline"] == "rouge_l" and split["rows"] == 60 and split["groups"] is None and split["apart"] == []
    assert set(split["models"]["tuned"]) == {*metrics.GENERATED, "ended", *metrics.LIKELIHOOD}
    for figures in split["models"].values():
        assert all(one["low"] <= one["value"] <= one["high"] for one in figures.values())
    assert [line["metric"] for line in split["comparisons"]] == [
        "rouge_l", "rouge_1", "rouge_2", "exact_match", "bleu", "chrf", "nll", "perplexity",
    ]  # fmt: skip
    lines = {line["metric"]: line for line in split["comparisons"]}
    for metric in ("rouge_l", "bleu", "chrf"):
        assert lines[metric]["low"] > 0 and lines[metric]["p"] < 0.01
    assert lines["nll"]["high"] < 0 and lines["perplexity"]["p"] == lines["nll"]["p"] == lines["nll"]["p_adjusted"]
    for metric, line in lines.items():
        values = [split["models"][name][metric]["value"] for name in ("tuned", "base")]
        assert line["difference"] == pytest.approx(values[0] - values[1]) and line["low"] <= line["difference"] <= line["high"]
    assert sum(split["distribution"]["models"]["base"]) == pytest.approx(1)


def test_exact_match_of_independent_rows_goes_by_wilson_and_mcnemar():
    references, models = two_models()
    split = measure_text(models, references, resamples=200)["splits"]["test"]
    right = {
        name: np.array([metrics.normalised(a) == metrics.normalised(r) for a, r in zip(one.texts, references, strict=True)]) for name, one in models.items()
    }
    low, high = wilson(right["tuned"].sum(), 60)
    assert split["models"]["tuned"]["exact_match"] == pytest.approx({"value": right["tuned"].mean(), "low": low, "high": high})
    line = next(line for line in split["comparisons"] if line["metric"] == "exact_match")
    assert line["p"] == intervals.mcnemar(int((right["tuned"] & ~right["base"]).sum()), int((right["base"] & ~right["tuned"]).sum()))


def test_models_that_say_the_same_are_not_told_apart():
    references, models = two_models()
    split = measure_text({"tuned": models["tuned"], "base": models["tuned"]}, references, resamples=200)["splits"]["test"]
    for line in split["comparisons"]:
        assert line["difference"] == 0 and line["p"] == 1 and line["low"] <= 0 <= line["high"]
    assert {one["kind"] for one in split["samples"]} == {"random"}


def test_perfect_answers_have_no_interval_of_zero_width():
    references, _ = corpus(30, shortest=5)
    split = measure_text({"tuned": Answers(references), "base": Answers([""] * 30)}, references, resamples=200)["splits"]["test"]
    for metric in ("rouge_l", "exact_match", "bleu", "chrf"):
        best, worst = (split["models"][name][metric] for name in ("tuned", "base"))
        full = 100 if metric in ("bleu", "chrf") else 1
        assert best["value"] == pytest.approx(full) and best["low"] < 0.95 * full
        assert worst["value"] == 0 and worst["high"] > 0.05 * full


def test_rows_that_belong_together_count_as_one():
    """Four copies of each row in one group: the figures stay, the intervals do not shrink."""
    references, models = two_models(30)
    copied = {
        name: Answers([t for t in one.texts for _ in range(4)], None, np.repeat(one.nll, 4), np.repeat(one.tokens, 4)) for name, one in models.items()
    }
    once = measure_text(models, references, resamples=200)["splits"]["test"]
    groups = [f"document {i}" for i in range(30) for _ in range(4)]
    four = measure_text(copied, [r for r in references for _ in range(4)], groups=groups, resamples=200)["splits"]["test"]
    assert four["groups"] == 30 and four["rows"] == 120
    for metric in ("rouge_l", "bleu", "chrf", "nll", "perplexity"):
        assert four["models"]["tuned"][metric] == pytest.approx(once["models"]["tuned"][metric], abs=1e-9)
    for one, other in zip(once["comparisons"], four["comparisons"], strict=True):
        assert other["difference"] == pytest.approx(one["difference"], abs=1e-9)
        assert one["metric"] == "exact_match" or other["p"] == pytest.approx(one["p"], abs=0.01)


def test_one_row_is_too_few():
    with pytest.raises(UserError, match="1 test rows") as caught:
        measure_text({"tuned": Answers(["a"])}, ["a"])
    assert "add test rows" in caught.value.remedy


def test_documents_have_a_loss_and_nothing_else():
    models = {name: Answers(None, None, *likelihoods(50, level)) for name, level in (("tuned", 2.0), ("base", 2.4))}
    found = measure_text(models, resamples=200)
    split = found["splits"]["test"]
    assert found["headline"] == "nll" and set(split["models"]["tuned"]) == {"nll", "perplexity"} and "samples" not in split
    assert split["distribution"]["metric"] == "nll" and split["tokens"] == models["base"].tokens.sum()
    nll, perplexity = (split["models"]["tuned"][name] for name in ("nll", "perplexity"))
    for end in ("value", "low", "high"):
        assert perplexity[end] == pytest.approx(np.exp(nll[end]), rel=0.01)


def test_losses_over_other_tokens_are_not_compared():
    references, models = two_models()
    base = models["base"]
    split = measure_text(models | {"base": Answers(base.texts, base.ended, base.nll, base.tokens + 1)}, references, resamples=50)["splits"]["test"]
    assert split["apart"] == ["base"] and not {"nll", "perplexity"} & {line["metric"] for line in split["comparisons"]}
    assert "nll" in split["models"]["base"]


def test_samples_are_gains_losses_and_rows_at_random():
    references, models = two_models(150)
    split = measure_text(models, references, [f"prompt {i}" for i in range(150)], rows=[f"r{i}" for i in range(150)], resamples=50)["splits"]["test"]
    samples = split["samples"]
    assert [one["kind"] for one in samples] == ["random"] * 4 + ["gain"] * 4 + ["loss"] * 4
    assert len({one["row"] for one in samples}) == 12
    gain = {one["row"]: one["rouge_l"]["tuned"] - one["rouge_l"]["base"] for one in samples}
    tuned, base = (metrics.by_row(metrics.score(references, models[name].texts), "rouge_l") for name in ("tuned", "base"))
    every = tuned - base
    left = np.delete(every, [int(one["row"][1:]) for one in samples if one["kind"] == "random"])
    assert [gain[one["row"]] for one in samples if one["kind"] == "gain"] == pytest.approx(np.sort(left)[::-1][:4])
    assert [gain[one["row"]] for one in samples if one["kind"] == "loss"] == pytest.approx(np.sort(left)[:4])
    one = samples[0]
    assert one["prompt"] == f"prompt {one['row'][1:]}" and list(one["answers"]) == ["base", "tuned"]


def test_long_texts_are_cut_in_samples():
    references = ["word " * 2000, "b"]
    split = measure_text({"tuned": Answers(["word " * 3000, "b"])}, references, resamples=20)["splits"]["test"]
    long = next(one for one in split["samples"] if one["row"] == "0")
    assert len(long["reference"]) < 2010 and long["reference"].endswith("[…]") and long["prompt"] is None


def test_forgetting_is_a_split_and_a_figure_for_the_gate():
    references, models = two_models()
    evaluation = measure_text(models, references, resamples=100)
    general = {name: Answers(None, None, *likelihoods(40, level)) for name, level in (("tuned", 3.3), ("base", 3.0))}
    found = with_forgetting(evaluation, general, "20 articles", groups=[i // 2 for i in range(40)], resamples=100)
    lost = found["splits"]["test"]["models"]["tuned"]["forgetting"]
    line = found["splits"]["general"]["comparisons"][0]
    assert line["metric"] == "nll" and lost == {"value": line["difference"], "low": line["low"], "high": line["high"]}
    assert 0 < lost["low"] < lost["value"] < lost["high"] and lost["value"] == pytest.approx(0.3, abs=0.15)
    assert found["splits"]["general"]["source"] == "20 articles" and found["splits"]["general"]["groups"] == 20
    assert "forgetting" not in evaluation["splits"]["test"]["models"]["tuned"] and "general" not in evaluation["splits"]


def test_95_percent_intervals_of_the_loss_cover_the_truth():
    """A ratio of sums over documents of unequal length, each with a level of its own: 200 trials, 91 to 99 % covered."""
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng([3, trial])
        tokens = rng.integers(5, 80, 80)
        scores = metrics.likelihood(rng.normal(2.0, 0.5, 80) * tokens, tokens)  # the level does not depend on the length: the truth is 2
        found = measuring.figures({"tuned": scores}, np.arange(80), True, trial, 2)["tuned"]["nll"]  # a ratio needs no resamples
        covered += found["low"] <= 2.0 <= found["high"]
    assert 0.91 <= covered / 200 <= 0.99
