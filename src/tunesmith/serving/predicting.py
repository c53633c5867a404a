"""`tunesmith predict`: texts or a file in, the same rows with answers out."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError, nearest, some
from tunesmith.files import read_json, write_bytes
from tunesmith.serving import engine

ADDED = ("predicted", "probability", "sure")


def predict_texts(run: Path, texts: Sequence[str], output: Path | None, device: str) -> None:
    """One line a text: label, probability and the text, tab-separated on a terminal, JSON lines in a file or pipe.

    Raises:
        UserError: a blank or broken text, a model of pairs, or a device that is not there.
    """
    _check_device(device)
    for number, text in enumerate(texts, 1):
        _check_text(text, "a text", f"text {number}")
    if pair := read_json_recipe(run).get("text_pair"):
        raise UserError(f"this model reads pairs of texts, with the second in column `{pair}`", "command line", "give a file with both columns: --input FILE")
    answers = engine.load(run / "model", device).predict(texts)
    if output is None and sys.stdout.isatty():
        for text, answer in zip(texts, answers, strict=True):
            print(f"{answer.label}\t{answer.probability:.3f}\t{text}")
        return
    lines = [{"text": text, **_columns(answer)} for text, answer in zip(texts, answers, strict=True)]
    _out("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), output)


def predict_file(run: Path, input: Path, output: Path | None, column: str | None, device: str) -> None:
    """The rows of a file with the columns `ADDED`, in the file's own format (Parquet becomes JSON lines).

    Raises:
        UserError: unreadable rows, a missing text column, columns that would be overwritten, or a device that is not there.
    """
    from tunesmith.data import sources

    _check_device(device)
    records = sources.read(input)
    if records.bad:
        raise records.bad[0].error()
    settings = read_json_recipe(run)
    column = column or settings.get("text") or next((name for name in records.columns if name.lower() == "text"), None)
    if column is None or column not in records.columns:
        what = f"no column `{column}`{nearest(column or 'text', records.columns)}"
        raise UserError(what, f"{records.source}:1", f"the columns are {some(records.columns)}; choose with --text")
    pair = settings.get("text_pair")
    if pair and pair not in records.columns:
        what = f"no column `{pair}`, the second text that this model reads{nearest(pair, records.columns)}"
        raise UserError(what, f"{records.source}:1", "add it, or rename the column that holds it")
    clash = [name for name in ADDED if name in records.columns]
    if clash:
        raise UserError(f"column `{clash[0]}` is there already", f"{records.source}:1", "rename it, so that nothing is overwritten")
    for line, record in records.records:
        for name in (column, pair) if pair else (column,):
            _check_text(record.get(name), f"column `{name}`", f"{records.source}:{line}")
    texts = [record[column] for _, record in records.records]
    pairs = [record.get(pair) for _, record in records.records] if pair else None
    answers = engine.load(run / "model", device).predict(texts, pairs)
    table = [{**record, **_columns(answer)} for (_, record), answer in zip(records.records, answers, strict=True)]
    _out(_written(table, [*records.columns, *_columns(answers[0])], input.suffix.lower(), records.delimiter), output)


def _columns(answer: engine.Prediction) -> dict[str, Any]:
    """What is added to a row; `sure` only where the run has fitted how sure is sure enough."""
    sure = {} if answer.sure is None else {"sure": "yes" if answer.sure else "no"}
    return {"predicted": answer.label, "probability": round(answer.probability, 6), **sure}


def _check_text(value: Any, holder: str, where: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{holder} holds no text", where, "fill it in or leave it out")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{holder} holds a broken character", where, "give it as UTF-8") from None


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    import torch

    if not device.startswith("cuda") or not torch.cuda.is_available():
        raise UserError(f"`--device={device}` is not here", "command line", "use cpu, or cuda where torch sees a GPU")


def read_json_recipe(run: Path) -> dict[str, Any]:
    """The data settings a run was made with."""
    from tunesmith.settings import read_yaml

    data: dict[str, Any] = read_yaml(run / "recipe.yaml").get("data", {})
    card = run / "data" / "card.json"
    columns = read_json(card).get("columns", {}) if card.exists() else {}
    return {**columns, **{key: value for key, value in data.items() if value is not None}}


def _written(table: list[dict[str, Any]], columns: list[str], suffix: str, delimiter: str) -> str:
    if suffix in (".csv", ".tsv"):
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, columns, delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        return out.getvalue()
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in table)


def _out(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
    else:
        write_bytes(output, text.encode())
        print(f"written to {output}", file=sys.stderr)
