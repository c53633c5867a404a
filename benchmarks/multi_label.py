"""Which rule chooses the cuts of several labels a row best: rules compared on rows that neither the model nor the cuts have seen.

    PYTHONPATH=src python benchmarks/multi_label.py FOLDER [--domains banking hotels] [--models tfidf base features freeze]
        [--rotations 20] [--valid-folds 4] [--rarer] [--loss focal] [--keep FILE]

FOLDER is NLU++ (Casanueva et al. 2022, PolyAI-LDN/task-specific-datasets, nlupp/data): a folder a domain with fold0.json to fold19.json,
lists of {text, intents}. Rotation r tests on folds r to r+4, chooses cuts on the next folds, and trains on the other eleven.
`--rarer` drops four of five rows that have a label of a random half, so that those labels are rare on every side.

The rules: half (0.5); common (best micro F1 of all labels together); own (best F1 of each label, Yang's SCut); blended (own and common cut
averaged as logits, weight positives / (positives + 5)); borrowed N (what `evaluation/classification/cuts.py` does, N = 20 by default).
Printed are means over rotations, and the difference to `common` with a 95 % t interval over rotations. Rotations share training rows, so the
intervals are too narrow for new data of the same kind; read them beside the share of rotations that a rule wins.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np

from tunesmith.evaluation.classification import baselines, cuts, metrics

FOLDS = 20
TEST_FOLDS = 5
TRAIN_FOLDS = 11
RULES = ("half", "common", "own", "blended", "borrowed 2", "borrowed 5", "borrowed 10", "borrowed 20", "borrowed 40")
SCORES = ("macro_f1", "micro_f1")
RUNS: dict[str, dict[str, Any]] = {"features": {"method": "features"}, "freeze": {"method": {"kind": "freeze", "layers": 3}, "train__epochs": 30}}


def read(folder: Path) -> list[dict[str, Any]]:
    """A domain's rows: text, labels (a list) and fold."""
    return [
        {"text": row["text"], "labels": row.get("intents", []), "fold": fold}
        for fold in range(FOLDS)
        for row in json.loads((folder / f"fold{fold}.json").read_text("utf-8"))
    ]


def rarer(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The rows without four of five that have a label of a random half."""
    rng = np.random.default_rng(seed)
    names = sorted({name for row in rows for name in row["labels"]})
    rare = {names[i] for i in rng.permutation(len(names))[: len(names) // 2]}
    drawn = rng.random(len(rows))
    return [row for row, chance in zip(rows, drawn, strict=True) if chance < 0.2 or not rare & set(row["labels"])]


def sides(rows: list[dict[str, Any]], rotation: int, valid_folds: int) -> dict[str, list[dict[str, Any]]]:
    """Train, valid and test rows of a rotation."""
    place = [(row["fold"] - rotation) % FOLDS for row in rows]
    bounds = {"test": (0, TEST_FOLDS), "valid": (TEST_FOLDS, TEST_FOLDS + valid_folds), "train": (FOLDS - TRAIN_FOLDS, FOLDS)}
    return {side: [row for row, at in zip(rows, place, strict=True) if low <= at < high] for side, (low, high) in bounds.items()}


def truth(rows: list[dict[str, Any]], names: list[str]) -> Any:
    return np.array([[name in row["labels"] for name in names] for row in rows])


def answered(model: str, parts: dict[str, list[dict[str, Any]]], names: list[str], changes: dict[str, Any]) -> tuple[Any, Any]:
    """Calibrated probabilities of valid and test rows."""
    texts = {side: [row["text"] for row in rows] for side, rows in parts.items()}
    if model in RUNS:
        return tuned(model, parts, texts, names, changes)
    train_NC, asked = truth(parts["train"], names), texts["valid"] + texts["test"]
    if model == "tfidf":
        found = baselines.tfidf(texts["train"], train_NC, asked, len(names))
    else:
        found = baselines.nearest_mean(vectors(texts["train"]), train_NC, vectors(asked), len(names))
    return found[: len(texts["valid"])], found[len(texts["valid"]) :]


def vectors(texts: list[str]) -> Any:
    """The default base's mean vectors."""
    from tunesmith.models import catalog, features
    from tunesmith.tokens import encode, tokenization
    from tunesmith.tokens.examples import Targets, TokenExamples

    base = catalog.resolve(catalog.ModelSettings())
    reader = tokenization.load(base.folder)
    tokens = encode.encode(reader, texts, None, base.max_tokens)
    return features.vectors(base, TokenExamples(tokens, Targets(None), reader.pad_id), "mean").vectors_ND.numpy()


def tuned(model: str, parts: dict[str, list[dict[str, Any]]], texts: dict[str, list[str]], names: list[str], changes: dict[str, Any]) -> tuple[Any, Any]:
    """A whole run on files of these rows; its classifier's probabilities in the order of `names`."""
    import tunesmith
    from tunesmith.serving import engine

    with tempfile.TemporaryDirectory() as place:
        for side, rows in parts.items():
            lines = [json.dumps({"text": row["text"], "labels": row["labels"]}) for row in rows]
            (Path(place) / f"{side}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        recipe = Path(place) / "recipe.yaml"
        data: dict[str, Any] = {side: f"{side}.jsonl" for side in parts}
        data |= {"text": "text", "label": "labels", "multi_label": True, "duplicates": {"near": None}}
        recipe.write_text(json.dumps({"data": data, "evaluate": {"against": [], "resamples": 100}}), "utf-8")
        run = tunesmith.run(recipe, runs_dir=Path(place) / "runs", **(RUNS[model] | changes))
        classifier = engine.load(run.folder / "model")
        order = {name: c for c, name in enumerate(classifier.about.labels)}
        out = []
        for side in ("valid", "test"):
            some_NC = classifier.probabilities(texts[side])
            found_NC = np.zeros((len(some_NC), len(names)))  # a label without training rows is never given
            for c, name in enumerate(names):
                if name in order:
                    found_NC[:, c] = some_NC[:, order[name]]
            out.append(found_NC)
    return out[0], out[1]


def chosen(rule: str, labels_NC: Any, probabilities_NC: Any) -> Any:
    """The cut, or cuts, by a rule."""
    common, own_C = cuts.fit(labels_NC, probabilities_NC, float(rule.split()[1]) if rule.startswith("borrowed") else 0)
    if rule == "blended":
        positive_C = labels_NC.sum(0)
        weight_C = positive_C / (positive_C + 5)
        logit_C = weight_C * np.log(own_C / (1 - own_C)) + (1 - weight_C) * np.log(common / (1 - common))
        return 1 / (1 + np.exp(-logit_C))
    return {"half": 0.5, "common": common}.get(rule, own_C)


def table(scores: dict[str, list[dict[str, float]]]) -> list[str]:
    """Lines of one setting: a rule's means, and its paired difference to `common`."""
    from scipy.stats import t

    arrays = {rule: np.array([[100 * one[name] for name in SCORES] for one in found]) for rule, found in scores.items()}
    lines = [f"  {'rule':12s}{'macro F1':>10s}{'micro F1':>10s}   macro F1 less common      micro F1 less common      macro higher   and micro not 0.5 lower"]
    for rule, values in arrays.items():
        apart, line = values - arrays["common"], f"  {rule:12s}{values[:, 0].mean():10.1f}{values[:, 1].mean():10.1f}"
        for at in range(2):
            half = t.ppf(0.975, len(apart) - 1) * apart[:, at].std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else float("nan")
            line += f"   {apart[:, at].mean():+6.1f} ({apart[:, at].mean() - half:+5.1f} to {apart[:, at].mean() + half:+5.1f})"
        wins = apart[:, 0] > 0
        lines.append(line + f"   {100 * wins.mean():8.0f} %   {100 * (wins & (apart[:, 1] > -0.5)).mean():8.0f} %")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--domains", nargs="+", default=["banking", "hotels"])
    parser.add_argument("--models", nargs="+", default=["tfidf", "base"], choices=["tfidf", "base", *RUNS])
    parser.add_argument("--rotations", type=int, default=FOLDS)
    parser.add_argument("--valid-folds", type=int, default=FOLDS - TRAIN_FOLDS - TEST_FOLDS)
    parser.add_argument("--rarer", action="store_true")
    parser.add_argument("--loss", default="cross_entropy")
    parser.add_argument("--class-weights", default="none")
    parser.add_argument("--keep", type=Path, help="write the probabilities there")
    given = parser.parse_args()
    changes = {"objective": {"kind": "classification", "loss": given.loss, "class_weights": given.class_weights}}
    kept = []
    for domain in given.domains:
        every = read(given.folder / domain)
        for model in given.models:
            scores: dict[str, list[dict[str, float]]] = defaultdict(list)
            for rotation in range(given.rotations):
                rows = rarer(every, rotation) if given.rarer else every
                parts = sides(rows, rotation, given.valid_folds)
                names = sorted({name for part in parts.values() for row in part for name in row["labels"]})
                valid_NC, test_NC = answered(model, parts, names, changes)
                labels = {side: truth(parts[side], names) for side in ("valid", "test")}
                for rule in RULES:
                    scores[rule].append(metrics.scores(labels["test"], test_NC, chosen(rule, labels["valid"], valid_NC)))
                kept.append({"domain": domain, "model": model, "rotation": rotation, "labels": labels, "valid": valid_NC, "test": test_NC})
            counts = ", ".join(f"{len(rows):,} {side}" for side, rows in parts.items())
            what = f"{', rarer labels' if given.rarer else ''}{'' if given.loss == 'cross_entropy' else ', ' + given.loss}"
            print(f"{domain}, {model}{what}{', balanced' * (given.class_weights == 'balanced')}: {given.rotations} rotations (the last: {counts} rows)")
            print("\n".join(table(scores)), flush=True)
    if given.keep:
        given.keep.write_bytes(pickle.dumps(kept))


if __name__ == "__main__":
    main()
