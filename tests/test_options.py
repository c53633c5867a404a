"""What a recipe can ask for beyond the plain road, each walked end to end on the tiny base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import colour_rows, write_csv

import tunesmith
from tunesmith import pipeline, recipe
from tunesmith.data import rows
from tunesmith.evaluation.classification import baselines, cuts, metrics
from tunesmith.runs import Run
from tunesmith.stages import compare


def test_several_seeds_report_mean_and_spread_and_keep_the_best(recipe_file: Path, tmp_path: Path) -> None:
    run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", train__seeds=3, method="features", train__epochs=4)
    state = json.loads((run.folder / "run.json").read_text())
    assert set(state["training"]["seeds"]) >= {"kept", "accuracy", "loss"}
    found = json.loads((run.folder / "evaluation.json").read_text())["splits"]["test"]["seeds"]
    assert found["count"] == 3 and found["accuracy"]["spread"] >= 0 and 0 < found["accuracy"]["mean"] <= 1
    kept = run.folder / "seeds" / f"seed-{state['training']['seeds']['kept']}" / "head.safetensors"
    assert kept.read_bytes() == (run.folder / "model" / "head.safetensors").read_bytes()
    assert "Standard deviation" in run.report.read_text()


def test_a_head_that_is_solved_for_says_so_everywhere(recipe_file: Path, tmp_path: Path) -> None:
    """Idle settings are named, the record has no steps of a loop, the report draws the path, and the saved model is the one whose figures were told."""
    run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", method={"kind": "features", "dropout": 0.1}, train__epochs=4)
    events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    (said,) = [e["text"] for e in events if e["kind"] == "warning" and "no effect" in e["text"]]
    assert all(name in said for name in ("train.epochs", "train.learning_rate", "train.batch_rows", "method.dropout")) and "train.precision" not in said
    training = json.loads((run.folder / "run.json").read_text())["training"]
    told = [e for e in events if e["kind"] == "valid"]
    assert training["steps"] == len(told) and training["penalty"] == told[training["kept_step"] - 1]["penalty"] and training["held_rows"] > 0
    page, card = run.report.read_text(), (run.folder / "MODEL_CARD.md").read_text()
    assert "The head is the exact optimum" in page and "penalties tried" in page and "by penalty" in page and "tokens/s" not in page
    assert "penalty" in card and "learning rate" not in card
    # Calibrated on the logits of the cached vectors: the saved model's own, read anew from tokens, ask for the same temperature.
    from tunesmith.data import rows
    from tunesmith.evaluation.classification import calibration
    from tunesmith.serving import engine
    from tunesmith.stages import label_array

    table, classifier = rows.read(run.folder / "data" / "valid.parquet"), engine.load(run.folder / "model")
    logits = classifier.logits(rows.strings(table, "text"), rows.strings(table, "text_pair"), lambda done, of: None)
    again = calibration.fit_temperature(logits, label_array(table, classifier.about))
    assert classifier.temperature == pytest.approx(again, rel=1e-3)


def test_out_of_scope_rows_are_measured_and_never_learnt(recipe_file: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "outside.csv", [{"text": f"what is the capital of country {i}", "label": "?"} for i in range(30)])
    values = json.loads(recipe_file.read_text())
    values["data"]["out_of_scope"] = "outside.csv"
    recipe_file.write_text(json.dumps(values))
    run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", method="features")
    found = json.loads((run.folder / "evaluation.json").read_text())["splits"]["test"]
    assert found["out_of_scope"]["rows"] == 30 and 0 <= found["out_of_scope"]["auroc"] <= 1 and found["rows"] < 60
    assert "AUROC" in run.report.read_text()


@pytest.mark.parametrize("together", [None, "customer"])
def test_abstention_is_fitted_on_validation_and_given_with_predictions(tmp_path: Path, tiny_base: Path, together: str | None) -> None:
    rows = [{"text": f"{'good' if i % 2 else 'bad'} thing {i}", "label": "yes" if i % 2 else "no", "customer": str(i // 2)} for i in range(600)]
    write_csv(tmp_path / "many.csv", rows)
    path = tmp_path / "many.yaml"
    train = {"epochs": 20, "learning_rate": 1e-2, "threads": 1}
    path.write_text(
        json.dumps(
            {
                "data": {"train": "many.csv", "valid": 0.3, "duplicates": {"near": None}, "together": together},
                "model": str(tiny_base),
                "method": "features",
                "train": train,
            }
        )
    )
    run = tunesmith.run(path, runs_dir=tmp_path / "runs", evaluate__target_accuracy=0.9)
    calibration = json.loads((run.folder / "model" / "calibration.json").read_text())
    assert calibration["temperature"] > 0 and calibration["abstention"]["bound"] >= 0.9
    rows_counted, groups = calibration["abstention"]["rows"], calibration["abstention"]["groups"]
    assert groups is None if together is None else 2 * groups == rows_counted
    assert run.predict(["good thing", "bad thing"])[0].sure in (True, False)
    assert json.loads((run.folder / "evaluation.json").read_text())["splits"]["test"]["abstention"]["here"]["coverage"] > 0


def test_tensorboard_gets_the_same_curve(recipe_file: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    one = pipeline.run(recipe.load(recipe_file), pipeline.Options(runs_dir=tmp_path / "runs", tensorboard=True))
    events = accumulator.EventAccumulator(str(one.folder / "tensorboard"))
    events.Reload()
    written = [(e.step, round(e.value, 5)) for e in events.Scalars("loss/valid")]
    assert written == [(e["step"], round(e["loss"], 5)) for e in one.events("valid")] and len(written) == 2


def test_a_warning_when_the_base_does_not_know_the_language(recipe_file: Path, colours: Path, tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "english"
    base.mkdir()
    for file in tiny_base.iterdir():
        (base / file.name).symlink_to(file)
    (base / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n")
    french = ["la vieille maison est rouge comme une pomme", "le ciel est bleu au-dessus de la mer", "une feuille verte dans le jardin"]
    names = ["rouge", "bleu", "vert"]
    write_csv(colours, [{"text": f"{french[i % 3]} numéro {i}", "label": names[i % 3]} for i in range(90)])
    heard: list[dict] = []
    options = pipeline.Options(runs_dir=tmp_path / "runs", until="prepare", listen=heard.append)
    pipeline.run(recipe.load(recipe_file, [f"model={base}"]), options)
    (said,) = [event["text"] for event in heard if event["kind"] == "warning" and "choose a base" in event["text"]]
    assert "`fr`" in said and "was made for en" in said


def test_what_preparing_left_out_and_warns_of_is_said_by_the_run(recipe_file: Path, colours: Path, tmp_path: Path) -> None:
    write_csv(colours, [*colour_rows(40), *colour_rows(40)[:3], {"text": "", "label": "red", "who": "p1"}])
    heard: list[dict] = []
    options = pipeline.Options(runs_dir=tmp_path / "runs", until="inspect", listen=heard.append)
    pipeline.run(recipe.load(recipe_file, ["data.on_bad_row=reject", "data.inspect.coverage=true"]), options)
    said = {event["kind"]: [one["text"] for one in heard if one["kind"] == event["kind"]] for event in heard if "text" in event}
    assert "4 rows left out (duplicate 3, no text 1); data/rejected.jsonl has them" in said["note"]
    assert any(text.startswith("the test split has only ") for text in said["warning"])
    assert any(text.startswith("Regions of meaning take 100 training rows, there are ") for text in said["note"])


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail", "windows"])
def test_long_texts_are_read_as_the_recipe_says(recipe_file: Path, colours: Path, tmp_path: Path, truncation: str) -> None:
    rows = colour_rows()
    for row in rows:
        row["text"] += " and so on and so forth" * 6
    write_csv(colours, rows)
    model = json.loads(recipe_file.read_text())["model"]
    run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", model={"base": model, "max_tokens": 24, "truncation": truncation})
    tokens = json.loads((run.folder / "run.json").read_text())["tokens"]
    assert (tokens["cut_rows"] == 0) is (truncation == "windows")
    wanted = "overlapping windows" if truncation == "windows" else "model.max_tokens: 64 keeps 100 % of the tokens; "  # the base reads 64
    assert wanted in tokens["said"] and wanted in run.report.read_text()
    assert len(run.predict(["a very " * 50 + "red apple"])) == 1


def test_several_labels_a_row_and_pairs_of_texts(tmp_path: Path, tiny_base: Path) -> None:
    rows = [{"a": row["text"], "b": f"second {i % 4}", "tags": row["label"] + ("|even" if i % 2 == 0 else "")} for i, row in enumerate(colour_rows())]
    write_csv(tmp_path / "tags.csv", rows)
    path = tmp_path / "tags.yaml"
    data = {"train": "tags.csv", "text": "a", "text_pair": "b", "label": "tags", "multi_label": True}
    path.write_text(json.dumps({"data": data, "model": str(tiny_base), "train": {"epochs": 2, "learning_rate": 3e-3, "threads": 1}}))
    run = tunesmith.run(path, runs_dir=tmp_path / "runs")
    assert run.evaluation is not None and run.evaluation.headline == "micro_f1"
    answer = run.predict(["a leaf and some grass"], ["second 1"])[0]
    assert set(answer.probabilities) == {"red", "green", "blue", "even"} and set(answer.labels) <= set(answer.probabilities)
    _the_cuts_decide_everywhere(run, tmp_path / "runs")


def _the_cuts_decide_everywhere(run: Any, runs: Path) -> None:
    """Predictions, figures and comparisons give a label from its cut in calibration.json; without cuts, from 0.5."""
    folder, calibrated = run.folder, run.folder / "model" / "calibration.json"
    kept = json.loads(calibrated.read_text())
    names = json.loads((folder / "data" / "labels.json").read_text())["labels"]
    assert len(kept["cuts"]["by_label"]) == len(names) == len(kept["cuts"]["positives"])
    split = json.loads((folder / "evaluation.json").read_text())["splits"]["test"]
    assert split["cuts"]["by_label"] == kept["cuts"]["by_label"] and len(split["cuts"]["here"]["cut"]) == len(split["cuts"]["curve"]["cut"])
    read = {side: rows.read(folder / "data" / f"{side}.parquet") for side in ("train", "valid", "test")}
    texts_of = {side: [f"{a} {b}" for a, b in zip(rows.strings(one, "text"), rows.strings(one, "text_pair"), strict=True)] for side, one in read.items()}
    truth = {side: np.array([[name in one for name in names] for one in rows.label_lists(table)]) for side, table in read.items()}
    classic = baselines.tfidf(texts_of["train"], truth["train"], texts_of["valid"] + texts_of["test"], len(names))
    _, cut_C = cuts.fit(truth["valid"], classic[: len(truth["valid"])])
    wanted = metrics.scores(truth["test"], classic[len(truth["valid"]) :], cut_C)
    assert split["models"]["tfidf"]["macro_f1"]["value"] == pytest.approx(wanted["macro_f1"])  # the baseline's cuts are chosen by the same rule
    page = (folder / "report.html").read_text()
    assert f"{kept['cuts']['rows']} validation rows" in page and "From which probability a label is given" in page
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    valid = [event for event in events if event["kind"] == "valid"]
    assert all(event["best_cut_micro_f1"] >= event["micro_f1"] for event in valid)
    shutil.copytree(folder, runs / "nothing")
    changed = {**kept, "cuts": {**kept["cuts"], "by_label": [0.98 if name == "red" else 0.02 for name in names]}}
    (runs / "nothing" / "model" / "calibration.json").write_text(json.dumps(changed))
    texts, pairs = ["a leaf and some grass", "the red rose"], ["second 1", "second 0"]
    odd, plain = tunesmith.load(runs / "nothing").predict(texts, pairs), run.predict(texts, pairs)
    for one, before in zip(odd, plain, strict=True):
        assert one.labels == [name for name in names if name != "red"] and one.probabilities == before.probabilities
        assert one.probability == min(one.probabilities[name] for name in one.labels)
        assert before.labels == [name for name, cut in zip(names, kept["cuts"]["by_label"], strict=True) if before.probabilities[name] >= cut]
    compared = compare.against(Run(folder), Run(runs / "nothing"), resamples=50)["splits"]["test"]["models"]
    assert compared["tuned"]["micro_f1"]["value"] == split["models"]["tuned"]["micro_f1"]["value"]
    assert compared["nothing"]["macro_recall"]["value"] == pytest.approx(0.75) and compared["tuned"]["ece"]["value"] == compared["nothing"]["ece"]["value"]
    del changed["cuts"]
    (runs / "nothing" / "model" / "calibration.json").write_text(json.dumps(changed))
    for one in tunesmith.load(runs / "nothing").predict(texts, pairs):
        assert one.labels == [name for name, chance in one.probabilities.items() if chance >= 0.5]


def test_drift_will_have_something_to_be_measured_against(recipe_file: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs")
    facts = json.loads((run.folder / "data" / "reference" / "reference.json").read_text())
    assert sum(facts["labels"].values()) == pytest.approx(1) and sum(facts["characters"]["counts"]) == facts["rows"]
    assert load_file(run.folder / "data" / "reference" / "vectors.safetensors")["vectors"].shape == (facts["rows"], 32)


def test_class_weights_and_smoothing_change_the_training(recipe_file: Path, tmp_path: Path) -> None:
    losses = []
    for changes in ({}, {"objective__class_weights": "balanced"}, {"objective__label_smoothing": 0.2}):
        run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", train__epochs=1, data__test="none", **changes)
        events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
        losses.append([event["loss"] for event in events if event["kind"] == "valid"][-1])
    assert len(set(losses)) == 3
