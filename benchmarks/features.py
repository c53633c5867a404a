"""The head that method `features` solves for, against scikit-learn's logistic regression and the nearest class mean on the same vectors.

    python benchmarks/features.py --train FILE [--test FILE] --text COLUMN --label COLUMN [--base starter/minilm FOLDER ...]
                                  [--rows 50 150 500 0] [--draws 5] [--valid 0.125] [--threads 1]

`--train`, `--test`: CSV files. Without `--test`, a fifth of each draw's rows measures. `--rows`: training rows of a draw, 0 for all of them;
`--valid`: rows that choose, as a share of the training rows on top of them, 0 for none. Vectors come from the cache.

Theirs: LogisticRegression on centered vectors of length 1, C from 12 values, chosen on the validation rows by accuracy, then log loss (without
validation rows by five folds). Printed: macro F1, accuracy and log loss of the test rows before calibration, means over the draws, the
95 % interval of the difference in macro F1 to the nearest class mean (paired bootstrap of the first draw's test rows), processor seconds.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_score

from tunesmith.evaluation.classification.baselines import nearest_mean
from tunesmith.models import catalog, features
from tunesmith.models.heads import LinearHead
from tunesmith.objectives.classification import Classification, ClassificationSettings
from tunesmith.tokens import encode, tokenization
from tunesmith.tokens.examples import Targets, TokenExamples, VectorExamples
from tunesmith.training import convex
from tunesmith.training.hardware import Machine
from tunesmith.training.settings import TrainSettings

STRENGTHS = np.logspace(-2, 3.5, 12)
"""Values of C for scikit-learn."""


def read(path: Path, text: str, label: str) -> tuple[list[str], list[str]]:
    """Texts and labels of a CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row[text] for row in rows], [row[label] for row in rows]


def embed(base: catalog.Base, texts: list[str]) -> Any:
    """The base's vectors, from the cache where they are there."""
    own = tokenization.load(base.folder)
    tokens = encode.encode(own, texts, None, base.max_tokens, "head")
    return features.vectors(base, TokenExamples(tokens, Targets(None), own.pad_id)).vectors_ND.numpy()


def ours(train: tuple[Any, Any], valid: tuple[Any, Any] | None, test: Any, labels: int, threads: int) -> tuple[Any, str]:
    """Log probabilities of the test rows, and what was chosen."""
    names = [str(k) for k in range(labels)]
    objective = Classification(names, False, ClassificationSettings())

    def examples(side: tuple[Any, Any]) -> VectorExamples:
        return VectorExamples(torch.from_numpy(np.ascontiguousarray(side[0])), objective.targets([[names[k]] for k in side[1]]))

    model = LinearHead(test.shape[1], labels, 0.0, "mean")
    machine = Machine("cpu", "", "fp32", threads)
    outcome = convex.solve(model, objective, examples(train), None if valid is None else examples(valid), TrainSettings(), machine, lambda event: None)
    with torch.inference_mode():
        logits = model(torch.from_numpy(np.ascontiguousarray(test))).logits.double().numpy()
    return log_softmax(logits, axis=1), f"{outcome.facts['anchor']} {outcome.facts['penalty']:.2g}"


def theirs(train: tuple[Any, Any], valid: tuple[Any, Any] | None, test: Any, labels: int) -> tuple[Any, str]:
    """The same of scikit-learn's best."""
    center = train[0].mean(0)

    def unit(vectors: Any) -> Any:
        moved = vectors - center
        return moved / np.linalg.norm(moved, axis=1, keepdims=True)

    best: tuple[tuple[float, float], float, Any] | None = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000).fit(unit(train[0]), train[1])
        if valid is None:
            folds = StratifiedKFold(5, shuffle=True, random_state=0)
            score = (float(cross_val_score(LogisticRegression(C=strength, max_iter=2000), unit(train[0]), train[1], cv=folds).mean()), 0.0)
        else:
            known = np.isin(valid[1], model.classes_)
            loss = log_loss(valid[1][known], model.predict_proba(unit(valid[0][known])), labels=model.classes_) if known.any() else 0.0
            score = (float(model.score(unit(valid[0]), valid[1])), -float(loss))
        if best is None or score > best[0]:
            best = (score, strength, model)
    assert best is not None
    out = np.full((len(test), labels), 1e-12)
    out[:, best[2].classes_] = np.maximum(best[2].predict_proba(unit(test)), 1e-12)
    return np.log(out), f"C {best[1]:.2g}"


def macro(truth: Any, answers: Any) -> float:
    """Macro F1 in points."""
    return 100 * float(f1_score(truth, answers, average="macro", zero_division=0))


def interval(truth: Any, one: Any, other: Any) -> tuple[float, float]:
    """95 % interval of the difference in macro F1 over 500 resamples of the rows."""
    draw, found = np.random.default_rng(0), []
    for _ in range(500):
        rows = draw.integers(0, len(truth), len(truth))
        found.append(macro(truth[rows], one[rows]) - macro(truth[rows], other[rows]))
    return float(np.percentile(found, 2.5)), float(np.percentile(found, 97.5))


def compare(vectors: Any, labels_N: Any, cut: int | None, rows: int, arguments: argparse.Namespace) -> str:
    """One line of the table."""
    labels = int(labels_N.max()) + 1
    figures: dict[str, list[list[float]]] = {"ours": [], "theirs": [], "means": []}
    chosen, ends, seconds = [], "", {"ours": 0.0, "theirs": 0.0}
    for number in range(arguments.draws):
        order = np.random.default_rng(number).permutation(len(vectors) if cut is None else cut)
        kept = order[: len(order) - len(order) // 5] if cut is None else order
        test = order[len(kept) :] if cut is None else np.arange(cut, len(vectors))
        count = rows or int(len(kept) / (1 + arguments.valid))
        held = kept[count : count + round(arguments.valid * count)]
        sides = [(vectors[index], labels_N[index]) for index in (kept[:count], held)]
        valid = sides[1] if len(held) else None
        answers = {}
        for name, solve in (("ours", lambda *a: ours(*a, arguments.threads)), ("theirs", theirs)):
            started = time.process_time()
            answers[name], what = solve(sides[0], valid, vectors[test], labels)
            seconds[name] += time.process_time() - started
            chosen += [what] if name == "ours" else []
        answers["means"] = np.log(np.maximum(nearest_mean(*sides[0], vectors[test], labels), 1e-12))
        truth = labels_N[test]
        for name, scores in answers.items():
            right = scores.argmax(1)
            figures[name].append([macro(truth, right), 100 * float((right == truth).mean()), -float(scores[np.arange(len(truth)), truth].mean())])
        if number == 0:
            ends = "{:+.1f} to {:+.1f}".format(*interval(truth, answers["ours"].argmax(1), answers["means"].argmax(1)))
    means = {name: np.mean(one, axis=0) for name, one in figures.items()}
    shown = " | ".join("{:.1f}, {:.1f}, {:.3f}".format(*means[name]) for name in ("ours", "theirs", "means"))
    each = " | ".join(f"{seconds[name] / arguments.draws:.2f}" for name in ("ours", "theirs"))
    return f"| {count:,} | {shown} | {ends} | {each} | {', '.join(chosen)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--base", nargs="+", default=["starter/minilm"])
    parser.add_argument("--rows", nargs="+", type=int, default=[50, 150, 500, 0])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--valid", type=float, default=0.125)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    texts, names = read(arguments.train, arguments.text, arguments.label)
    cut = None
    if arguments.test:
        cut = len(texts)
        more = read(arguments.test, arguments.text, arguments.label)
        texts, names = texts + more[0], names + more[1]
    labels_N = np.unique(names, return_inverse=True)[1]
    for name in arguments.base:
        torch.set_num_threads(arguments.threads)
        vectors = embed(catalog.resolve(catalog.ModelSettings(base=name)), texts)
        print(f"\n{name}: macro F1, accuracy, log loss of each\n")
        print("| Rows | Ours | scikit-learn | Nearest mean | Ours - nearest mean | s, ours | s, theirs | Chosen |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for rows in arguments.rows:
            print(compare(vectors, labels_N, cut, rows, arguments), flush=True)


if __name__ == "__main__":
    main()
