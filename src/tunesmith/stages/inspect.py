"""Stage `inspect`: prepared rows -> what a reviewer should know of them. It changes nothing.

Always: label rates by attribute and identity term, balance, vocabulary, and a datasheet to be signed. Where the recipe asks for it, with the base's
vectors: probable label errors, and regions of meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from tunesmith.core.files import read_json, sha256_json, write_bytes, write_json
from tunesmith.data import rows
from tunesmith.data.review import bias, coverage, datasheet, identity_terms, label_errors
from tunesmith.data.settings import InspectSettings
from tunesmith.runs import Run
from tunesmith.stages import FORMAT, Context, content, embedder, plain

OUTPUTS = ["data/inspection.json", "data/DATASHEET.md", "data/label_errors.csv?", "data/label_errors.html?"]
COVERAGE_ROWS = 20_000
"""Training rows whose regions are looked for; k-means and nearest rows of as many take seconds."""
COVERAGE_TEST_ROWS = 5_000

Vectors = Callable[[Sequence[str]], npt.NDArray[np.float32]]


def stage(context: Context, kin: list[Run]) -> None:
    """Look at the rows, or reuse what was seen."""
    run, settings = context.run, context.recipe.data.inspect
    asks = settings.labels or settings.coverage
    decides: dict[str, Any] = {"rows": run.output_hash("prepare"), "settings": content(context.recipe)["data"]["inspect"], "format": FORMAT}
    decides |= {"terms": context.files.get("terms"), "base": context.found.sha256 if asks else ""}

    def work() -> None:
        into(run.folder / "data", run.name, settings, embedder(context.found, context.recipe, context.progress("embed")), context.recipe.data.label_separator)

    run.stage("inspect", sha256_json(decides), OUTPUTS, work, kin)
    for text in findings(read_json(run.folder / "data" / "inspection.json")):
        run.emit({"kind": "note", "text": text})


def into(folder: Path, name: str, settings: InspectSettings, vectors: Vectors | None, separator: str = "|") -> dict[str, Any]:
    """Look at the prepared rows of a folder, and write what was seen there.

    Args:
        folder: the run's `data`.
        name: of the run.
        settings: what is looked for with vectors.
        separator: between the labels of a row that has several.
        vectors: texts -> unit vectors; None where the settings ask for nothing that takes them.

    Returns:
        What inspection.json holds.
    """
    card = read_json(folder / "card.json")
    original = (batch.filter(pc.equal(batch.column("origin"), "original")) for batch in rows.batches(folder / "train.parquet"))
    sample, count = coverage.sample(original)  # repeats and variants say nothing new
    texts: list[str] = sample.column("text").to_pylist()
    tests: list[str] = []
    if (folder / "test.parquet").exists():
        tests = coverage.sample(rows.batches(folder / "test.parquet"), COVERAGE_TEST_ROWS)[0].column("text").to_pylist()
    seen: dict[str, Any] = {
        "bias": bias.report(sample, count, identity_terms.read(Path(settings.terms)) if settings.terms else identity_terms.IDENTITY),
        "lexical": coverage.lexical(texts),
        "unseen": coverage.unseen(texts, tests) if tests else None,
        "regions": {},
        "texts": {},
        "tests": {},
    }
    if settings.coverage and vectors is not None:
        chosen = texts[:COVERAGE_ROWS]
        seen["regions"] = found = coverage.regions(vectors(chosen), vectors(tests) if tests else None)
        seen["texts"] = {str(at): chosen[at] for one in found.get("clusters", ()) for at in one["examples"]}
        seen["tests"] = {str(at): tests[at] for at in (found.get("far") or {}).get("examples", ())}
    if settings.labels and card["labels"] and vectors is not None:
        seen["suspects"] = _suspects(folder, name, vectors, separator)
    said = [one["text"] for one in seen["bias"]["findings"]]
    uses = coverage.findings(seen["unseen"], seen["regions"]) + _wrong_labels(seen)
    write_bytes(folder / "DATASHEET.md", datasheet.write(card, name, seen["bias"], uses).encode())
    write_json(folder / "inspection.json", plain(seen | {"findings": said}))
    return seen


def findings(seen: dict[str, Any], most: int = 5) -> list[str]:
    """What to look at first, in words; the report has the rest."""
    out = [one["text"] for one in seen["bias"]["findings"][:most]]
    if seen["regions"].get("clusters") == []:  # asked for, and not to be had
        out += coverage.findings(None, seen["regions"])
    return out + _wrong_labels(seen)


def _wrong_labels(seen: dict[str, Any]) -> list[str]:
    """How many labels are probably wrong, where it was looked for."""
    if not (found := seen.get("suspects")):
        return []
    share = found["rows"] / max(1, found["judged"])
    said = f"{found['rows']:,} of {found['judged']:,} training labels ({share:.1%}) are probably wrong"
    return [f"{said}: read data/label_errors.html, correct data/label_errors.csv"]


def _suspects(folder: Path, name: str, vectors: Vectors, separator: str) -> dict[str, int]:
    """Find probable label errors among the training rows, and write the file to correct and its page."""
    from tunesmith.report import label_page

    table = rows.read(folder / "train.parquet")
    table = table.filter([origin == "original" for origin in rows.strings(table, "origin")])
    known = read_json(folder / "labels.json")
    index = {label: number for number, label in enumerate(known["labels"])}
    lists = rows.label_lists(table)
    if known["multi_label"]:
        given: npt.NDArray[Any] = np.zeros((len(lists), len(index)), bool)
        for row, one in enumerate(lists):
            given[row, [index[label] for label in one]] = True
    else:
        given = np.array([index[one[0]] for one in lists], np.int64)
    pairs = rows.strings(table, "text_pair")
    read = [text if pair is None else f"{text}\n{pair}" for text, pair in zip(rows.strings(table, "text"), pairs, strict=True)]
    probabilities = label_errors.cross_validated(vectors(read), given, rows.strings(table, "together"))
    found = label_errors.listed(table, known["labels"], label_errors.suspects(probabilities, given))
    label_errors.write_suspects(folder / "label_errors.csv", found, separator)
    html = label_page.page(name, found, len(lists), "data/label_errors.csv", "data.corrections: FILE")
    write_bytes(folder / "label_errors.html", html.encode())
    return {"rows": len(found), "judged": len(lists)}
