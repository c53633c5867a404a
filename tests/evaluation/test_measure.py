"""evaluation.json: its contract, its rules for intervals and tests, and its speed."""

import json
import time

import numpy as np
import pytest

from tunesmith.core.statistics import holm, wilson
from tunesmith.evaluation import intervals
from tunesmith.evaluation.classification import calibration
from tunesmith.evaluation.classification.measure import evaluate


def some_models(rows=200, classes=4, errors=(("tuned", 0.1), ("base", 0.3), ("majority", 0.7)), seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    models = {}
    for name, error in errors:
        answers = np.where(rng.random(rows) < error, rng.integers(0, classes, rows), labels)
        probabilities = np.eye(classes)[answers] + 0.5 * rng.random((rows, classes))
        models[name] = probabilities / probabilities.sum(1, keepdims=True)
    return models, labels, [f"label {c}" for c in range(classes)]


def test_contract():
    models, labels, names = some_models()
    found = evaluate(models, labels, names, rows=[f"id-{i}" for i in range(200)], resamples=200)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    split = found["splits"]["test"]
    assert found["headline"] == "macro_f1" and split["rows"] == 200 and list(split["models"]) == ["tuned", "base", "majority"]
    for entry in split["models"]["tuned"].values():
        assert set(entry) == {"value", "low", "high"} and entry["low"] <= entry["value"] <= entry["high"]
        assert entry["low"] < entry["high"]
    assert {(c["against"], c["metric"]) for c in split["comparisons"]} == {
        (name, metric) for name in ("base", "majority") for metric in ("accuracy", "macro_f1", "log_loss")
    }
    for line in split["comparisons"]:
        mine, other = (split["models"][line[key]][line["metric"]]["value"] for key in ("model", "against"))
        assert line["difference"] == pytest.approx(mine - other)
        assert line["low"] <= line["difference"] <= line["high"] and 0 < line["p"] <= line["p_adjusted"] <= 1
    assert split["worst_errors"][0]["row"].startswith("id-") and len(split["per_class"]) == 4
    assert sum(count for _, _, count in split["confusion"]) == 200
    assert all(pair["truth"] != pair["answer"] for pair in split["most_confused"])


def test_accuracy_of_independent_rows_has_wilsons_interval_and_mcnemars_test():
    models, labels, names = some_models()
    split = evaluate(models, labels, names, resamples=100)["splits"]["test"]
    right = {name: (p.argmax(1) == labels).astype(float) for name, p in models.items()}
    entry = split["models"]["tuned"]["accuracy"]
    assert (entry["low"], entry["high"]) == pytest.approx(wilson(right["tuned"].sum(), 200))
    line = next(c for c in split["comparisons"] if (c["against"], c["metric"]) == ("base", "accuracy"))
    assert line["p"] == intervals.mcnemar(*intervals.only(right["tuned"], right["base"]))


def test_holm_is_applied_over_the_baselines_of_each_metric():
    models, labels, names = some_models(errors=(("tuned", 0.2), ("a", 0.25), ("b", 0.3), ("c", 0.27)))
    lines = evaluate(models, labels, names, resamples=200)["splits"]["test"]["comparisons"]
    for metric in ("accuracy", "macro_f1"):
        mine = [line for line in lines if line["metric"] == metric]
        assert [line["p_adjusted"] for line in mine] == holm([line["p"] for line in mine]) and len(mine) == 3


def test_the_same_seed_gives_the_same_numbers_whatever_other_models_there_are():
    models, labels, names = some_models()
    first = evaluate(models, labels, names, seed=3, resamples=100)
    assert evaluate(models, labels, names, seed=3, resamples=100) == first
    fewer = {name: models[name] for name in ("tuned", "base")}
    second = evaluate(fewer, labels, names, seed=3, resamples=100)["splits"]["test"]
    assert second["models"]["tuned"] == first["splits"]["test"]["models"]["tuned"]
    assert evaluate(models, labels, names, seed=4, resamples=100) != first


def test_groups_widen_the_intervals_when_their_rows_are_alike():
    models, labels, names = some_models()
    copies = np.repeat(np.arange(200), 4)
    many = {name: p[copies] for name, p in models.items()}
    groups = copies.tolist()
    split = evaluate(many, labels[copies], names, groups=groups, resamples=400)["splits"]["test"]
    naive = evaluate(many, labels[copies], names, resamples=400)["splits"]["test"]
    assert split["groups"] == 200 and naive["groups"] is None
    for metric in ("accuracy", "macro_f1", "log_loss"):
        wide, narrow = (s["models"]["tuned"][metric] for s in (split, naive))
        assert wide["high"] - wide["low"] > 1.6 * (narrow["high"] - narrow["low"]), metric
    p_groups, p_naive = (next(c["p"] for c in s["comparisons"] if c["metric"] == "accuracy") for s in (split, naive))
    assert p_groups > p_naive


def test_forty_of_forty_is_not_certainty():
    labels = np.arange(40) % 4
    perfect = np.eye(4)[labels]
    split = evaluate({"tuned": perfect, "base": perfect}, labels, list("abcd"), resamples=100)["splits"]["test"]
    for metric in ("accuracy", "macro_f1", "weighted_f1", "macro_precision", "macro_recall"):
        entry = split["models"]["tuned"][metric]
        assert entry["value"] == entry["high"] == 1 and entry["low"] == pytest.approx(0.912, abs=1e-3), metric
    for line in split["comparisons"]:
        if line["metric"] != "log_loss":
            assert line["low"] < -0.03 and line["high"] > 0.03 and line["p"] == 1
    assert split["worst_errors"] == [] and split["most_confused"] == []


def test_several_labels_a_row():
    rng = np.random.default_rng(0)
    labels = rng.random((150, 3)) < [0.5, 0.3, 0.1]
    noise = {"tuned": 0.55, "base": 1.0}
    models = {name: np.clip(labels * 0.6 + size * rng.random((150, 3)), 0, 1) for name, size in noise.items()}
    found = evaluate(models, labels, list("abc"), headline="micro_f1", thresholds={"base": 0.7}, resamples=200)
    split = found["splits"]["test"]
    assert json.dumps(found, allow_nan=False) and split["multi_label"] and "confusion" not in split
    assert split["models"]["tuned"]["micro_f1"]["value"] > split["models"]["base"]["micro_f1"]["value"]
    assert split["comparisons"][0]["metric"] == "micro_f1"
    assert set(split["worst_errors"][0]) == {"row", "label", "given", "confidence"}


def test_a_fitted_threshold_is_tried_and_rows_out_of_scope_are_told_apart():
    models, labels, names = some_models()
    fitted = calibration.Abstention(0.6, 0.9, 0.91, 0.95, 0.7, 0.97, 300)
    flat = np.full((30, 4), 0.25)
    split = evaluate(
        models, labels, names, abstention=fitted, out_of_scope=flat, uncalibrated=models["tuned"], resamples=100
    )["splits"]["test"]
    confidence, right = models["tuned"].max(1), models["tuned"].argmax(1) == labels
    here = split["abstention"]["here"]
    assert here["rows"] == (confidence >= 0.6).sum() and here["accuracy"]["value"] == right[confidence >= 0.6].mean()
    assert split["out_of_scope"]["auroc"] == 1 and split["out_of_scope"]["rows"] == 30
    assert split["calibration"]["before"] == split["calibration"]["after"]
    pairs = [i // 2 for i in range(200)]
    grouped = evaluate(models, labels, names, groups=pairs, abstention=fitted, resamples=100)["splits"]["test"]["abstention"]["here"]
    rows, count = calibration.effective_rows(right[confidence >= 0.6], np.array(pairs)[confidence >= 0.6]), here["rows"]
    assert (grouped["accuracy"]["low"], grouped["accuracy"]["high"]) == pytest.approx(wilson(here["accuracy"]["value"] * rows, rows))
    assert rows < count and grouped["accuracy"]["value"] == here["accuracy"]["value"]
    none = calibration.Abstention(None, 0.9, 0.5, 0.95, 0.0, None, 20)
    empty = evaluate(models, labels, names, abstention=none, resamples=100)["splits"]["test"]["abstention"]
    assert empty["here"] == {"rows": 0, "coverage": 0.0, "accuracy": None}


def test_speed_at_the_size_of_banking77():
    """2,000 resamples of 3,080 x 77: all metrics of one model under 1 s, everything about four models under 3 s."""
    models, labels, names = some_models(3080, 77, (("tuned", 0.06), ("base", 0.2), ("tfidf", 0.1), ("majority", 0.98)))
    started = time.process_time()
    evaluate(models, labels, names)
    assert time.process_time() - started < 3
    started = time.process_time()
    evaluate({"tuned": models["tuned"]}, labels, names)
    assert time.process_time() - started < 1
