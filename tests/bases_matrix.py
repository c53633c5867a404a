"""One cell of the matrix base x method x objective: a real run, then an independent judge.

A cell is right when three losses over the validation rows are equal: the one told in training, the saved model's, and transformers' own forward on
each row alone, unpadded; and when a row's scores are the same alone and among others. Else it must be refused before training, with a remedy.

`python tests/bases_matrix.py [--write docs/methods.md] [BASE ...]` prints the whole matrix (`make bases`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import released

METHODS = ("full", "lora", "freeze", "features", "bottleneck", "prefix", "prompt")
OBJECTIVES = ("classification", "sft", "pretraining")
TOLD = 5e-5
"""Largest relative difference of the three losses: they are fp32 sums in another order."""
ALONE = 1e-5
"""Largest difference of a row's scores alone and among others, as a share of the largest score, or of 1 where scores are smaller."""


@dataclass(frozen=True)
class Cell:
    """What became of a cell: `ok`, `refused` (with the error's text), or `WRONG` (with the figures)."""

    verdict: str
    text: str = ""


def recipe(base: Path, method: str, objective: str, data: Path) -> dict[str, Any]:
    """A recipe that trains in a second."""
    how: Any = {"kind": "prefix", "style": "prompt", "tokens": 4} if method == "prompt" else {"kind": method}
    how |= {"tokens": 4} if method == "prefix" else {"layers": 1} if method == "freeze" else {"rank": 4} if method == "lora" else {}
    rows = {"classification": "labelled.jsonl", "sft": "completions.jsonl", "pretraining": "documents.jsonl"}[objective]
    train = {"epochs": 2, "batch_rows": 8, "precision": "fp32", "threads": 1, "keep_best": False}
    train |= {} if method == "features" else {"learning_rate": 3e-3}
    evaluate = {"target_accuracy": None, "general": None}
    made = {"data": {"train": str(data / rows), "valid": 0.35, "test": "none", "duplicates": {"near": None}}, "model": str(base), "evaluate": evaluate}
    return {"name": "cell", **made, "objective": objective, "method": how, "train": train}


def write_rows(folder: Path) -> None:
    """The rows of every objective: texts of 2 to 20 words with learnable labels, a few of them longer than a base can read."""
    texts = released.texts(60)
    labels = ["red" if "red" in text else "green" if "green" in text else "other" for text in texts]
    texts[5] += " old far" * 60
    pairs = zip(texts, labels, strict=True)
    files = {
        "labelled": [{"text": text, "label": label} for text, label in pairs],
        "completions": [{"prompt": text, "completion": text[::-1][:20]} for text in texts],
        "documents": [{"text": text} for text in texts],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def cell(base: Path, method: str, objective: str, data: Path, runs: Path) -> Cell:
    """Run one cell and judge it. An error that is no UserError is raised: a crash is never a verdict."""
    from tunesmith import pipeline
    from tunesmith import recipe as recipes
    from tunesmith.core.errors import UserError

    file = data / f"{base.name}-{method}-{objective}.yaml"
    file.write_text(json.dumps(recipe(base, method, objective, data)))
    try:
        run = pipeline.run(recipes.load(file), pipeline.Options(runs_dir=runs, until="train"))
    except UserError as error:
        if "self-check" in str(error):
            return Cell("WRONG", str(error))
        return Cell("refused", str(error))
    saved, theirs, alone = _judge(run.folder, objective)
    told = saved if method == "features" else run.events("valid")[-1]["loss"]  # its events are of heads that were tried on the way
    fits = max(abs(told - saved), abs(told - theirs)) <= TOLD * max(1, abs(told)) and alone <= ALONE
    return Cell("ok" if fits else "WRONG", f"told {told:.6f}, saved {saved:.6f}, transformers {theirs:.6f}; alone {alone:.1e}")


def _judge(folder: Path, objective: str) -> tuple[float, float, float]:
    """Of the validation rows: the saved model's loss, transformers' own on each row alone, and how far scores alone are from those among others."""
    import torch

    from tunesmith.core.files import read_json
    from tunesmith.data import rows
    from tunesmith.models import metadata

    table = rows.read(folder / "data" / "valid.parquet")
    about = metadata.read(folder / "model")
    if objective == "classification":
        from tunesmith.serving import engine

        names = read_json(folder / "data" / "labels.json")["labels"]
        texts = rows.strings(table, "text")
        targets_N = torch.tensor([names.index(one[0]) for one in rows.label_lists(table)])
        classifier = engine.load(folder / "model")
        together_NC = torch.from_numpy(classifier.logits(texts))
        alone_NC = torch.cat([torch.from_numpy(classifier.logits([text])) for text in texts])
        saved = float(torch.nn.functional.cross_entropy(together_NC, targets_N))
        theirs_NC = torch.cat([_their_logits(classifier, text) for text in texts])
        theirs = float(torch.nn.functional.cross_entropy(theirs_NC, targets_N))
        return saved, theirs, float((together_NC - alone_NC).abs().max()) / max(1.0, float(alone_NC.abs().max()))
    from tunesmith import objectives
    from tunesmith.core.files import cache
    from tunesmith.models import catalog
    from tunesmith.objectives.next_token import row_losses
    from tunesmith.serving import generation
    from tunesmith.tokens import tokenization
    from tunesmith.tokens.reader import Reader

    base = catalog.resolve(catalog.ModelSettings(base=about.base))
    model: Any = generation.load(folder / "model").model
    made = objectives.get(objective).make(objectives.settings(objective), base, folder / "data")
    examples: Any = made.examples(folder / "data" / "valid.parquet", Reader(tokenization.load(base.folder), about.max_tokens, "head", cache()))
    with torch.inference_mode():
        every = np.arange(len(examples))
        together_N, tokens_N = row_losses(model, examples.batch(every))
        alone_N = torch.cat([row_losses(model, examples.batch(every[n : n + 1]))[0] for n in every])
        theirs = 0.0
        for n in every:
            batch = examples.batch(every[n : n + 1])
            logits_LV = model(input_ids=batch.inputs["ids"][None], attention_mask=torch.ones(1, len(batch.inputs["ids"]), dtype=torch.long)).logits[0]
            theirs += float(torch.nn.functional.cross_entropy(logits_LV[-len(batch.targets) :].float(), batch.targets, reduction="sum"))
    apart = float(((together_N - alone_N).abs() / alone_N.abs().clamp(min=1)).max())
    return float(together_N.sum() / tokens_N.sum()), theirs / float(tokens_N.sum()), apart


def _their_logits(classifier: Any, text: str) -> Any:
    """One text's logits by transformers' own forward: with none of this package's, and no padding."""
    import torch

    from tunesmith.models import loading
    from tunesmith.tokens import encode

    tokens = encode.encode(classifier._reader, [text], None, classifier.about.max_tokens, classifier.about.truncation)
    ids_1L = torch.from_numpy(tokens.ids_T.astype(np.int64))[None]
    with torch.inference_mode(), loading.plain(classifier._model):
        logits_1C: torch.Tensor = classifier._model(input_ids=ids_1L, attention_mask=torch.ones_like(ids_1L)).logits
    return logits_1C


def methods_of(objective: str) -> tuple[str, ...]:
    """The methods that can be asked for with an objective."""
    return METHODS if objective == "classification" else tuple(one for one in METHODS if one != "features")


def main() -> None:
    import torch

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bases", nargs="*", help="all, where none is named")
    parser.add_argument("--objective", choices=OBJECTIVES)
    parser.add_argument("--method", choices=METHODS)
    asked = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TUNESMITH_CACHE"] = str(folder / "cache")
        write_rows(folder)
        for objective in [asked.objective] if asked.objective else OBJECTIVES:
            names = [asked.method] if asked.method else list(methods_of(objective))
            print(f"\n| {objective} | " + " | ".join(names) + " |\n|---|" + "---|" * len(names), flush=True)
            notes: dict[str, list[str]] = {}
            for base in asked.bases or released.BASES:
                if not (folder / base).exists():
                    released.save(base, folder / base)
                cells = []
                for method in names:
                    try:
                        found = cell(folder / base, method, objective, folder, folder / "runs" / f"{base}-{method}-{objective}")
                    except Exception as error:  # noqa: BLE001  # printed as what it is
                        found = Cell("CRASH", f"{type(error).__name__}: {str(error)[:300]}")
                    cells.append(found.verdict)
                    bad += found.verdict in ("CRASH", "WRONG")
                    if found.verdict != "ok":
                        notes.setdefault(found.text.replace(str(folder), "").replace(base, "BASE"), []).append(f"{base}/{method}")
                print(f"| {base} | " + " | ".join(cells) + " |", flush=True)
            for text, where in notes.items():
                print(f"- {', '.join(where)}: {text}")
    print(f"\n{bad} cells crash or are wrong")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
