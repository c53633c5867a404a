"""`tunesmith predict`: texts or a file in, the same rows with answers out: labels of a classifier, texts of a language model."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError, nearest, some
from tunesmith.core.files import read_json, write_bytes
from tunesmith.models import metadata
from tunesmith.models.decode import Sampling
from tunesmith.serving import answering, engine, generation
from tunesmith.serving.answering import check_text
from tunesmith.tokens.chat_template import Message

Progress = Callable[[int, int], None]
ADDED = ("predicted", "probability", "sure")
PART_ROWS = 8192
"""Texts of a file that are answered at once: enough to sort by length, and 33 MB of probabilities with a thousand labels."""


def predict_texts(run: Path, texts: Sequence[str], output: Path | None, device: str, sampling: dict[str, Any], progress: Progress | None = None) -> None:
    """Answers in order: on a terminal as they are read best (label, probability and text, tab-separated; or the text written), else JSON lines.

    Args:
        run: a run's folder.
        texts: what is asked.
        output: a file, or None for stdout.
        device: cpu or cuda.
        sampling: fields of `Sampling` that the user gave.
        progress: called with (texts done, of) while a language model writes.

    Raises:
        UserError: a blank or broken text, a model of pairs, sampling for a classifier, or a device that is not there.
    """
    check_device(device)
    for number, text in enumerate(texts, 1):
        check_text(text, "a text", f"text {number}")
    on_terminal = output is None and sys.stdout.isatty()
    if _writes(run, sampling):
        answers = _answers(run, [answering.question(text) for text in texts], device, sampling, progress)
        if on_terminal:
            print("\n\n".join(answer.text for answer in answers))
            return
        lines = [{"prompt": text, "answer": answer.text, "ended": answer.ended} for text, answer in zip(texts, answers, strict=True)]
    else:
        if pair := read_json_recipe(run).get("text_pair"):
            what = f"this model reads pairs of texts, with the second in column `{pair}`"
            raise UserError(what, "command line", "give a file with both columns: --input FILE")
        columns = _labelled(run, device, texts, None)
        if on_terminal:
            for text, one in zip(texts, columns, strict=True):
                print(f"{one['predicted']}\t{one['probability']:.3f}\t{text}")
            return
        lines = [{"text": text, **one} for text, one in zip(texts, columns, strict=True)]
    _out("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), output)


def predict_file(
    run: Path, input: Path, output: Path | None, column: str | None, device: str, sampling: dict[str, Any], progress: Progress | None = None
) -> None:
    """The rows of a file with columns added, in the file's own format (Parquet becomes JSON lines).

    Args:
        input: the file; it is only read.
        column: what holds the text; None takes the training data's.
        run, output, device, sampling, progress: as `predict_texts`.

    Raises:
        UserError: unreadable rows, a missing text column, columns that would be overwritten, or what `predict_texts` raises.
    """
    from tunesmith.data.readers import formats

    check_device(device)
    records = formats.read(input)
    if records.bad:
        raise records.bad[0].error()
    settings = read_json_recipe(run)
    if _writes(run, sampling):
        written = _answers(run, answering.asked(records, settings, column), device, sampling, progress)
        table = [{**record, "answer": one.text, "ended": one.ended} for (_, record), one in zip(records.records, written, strict=True)]
        _out(_written(table, [*records.columns, *answering.ADDED], formats.ending(input)[0], records.delimiter), output)
        return
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
            check_text(record.get(name), f"column `{name}`", f"{records.source}:{line}")
    texts = [record[column] for _, record in records.records]
    pairs = [record.get(pair) for _, record in records.records] if pair else None
    columns = _labelled(run, device, texts, pairs)
    table = [{**record, **one} for (_, record), one in zip(records.records, columns, strict=True)]
    _out(_written(table, [*records.columns, *columns[0]], formats.ending(input)[0], records.delimiter), output)


def _labelled(run: Path, device: str, texts: Sequence[str], pairs: Sequence[str | None] | None) -> list[dict[str, Any]]:
    """The columns of each text, by parts, so that never all labels of all texts are held."""
    classifier = engine.load(run / "model", device)
    out = []
    for start in range(0, len(texts), PART_ROWS):
        part = slice(start, start + PART_ROWS)
        out += [_columns(one) for one in classifier.predict(texts[part], None if pairs is None else pairs[part])]
    return out


def _writes(run: Path, sampling: dict[str, Any]) -> bool:
    """Whether the run's model writes texts; a UserError where sampling is asked of one that does not."""
    writes = metadata.read(run / "model").writing is not None
    if sampling and not writes:
        option = "--" + next(iter(sampling)).replace("_", "-")
        raise UserError(f"`{option}` is for models that write texts; this one gives labels", "command line", f"leave {option} out")
    return writes


def _answers(run: Path, dialogues: Sequence[Sequence[Message]], device: str, sampling: dict[str, Any], progress: Progress | None) -> list[generation.Answer]:
    chosen = Sampling(**sampling)
    writer = generation.load(run / "model", device)
    answers = writer.answer(dialogues, chosen, progress)
    if said := answering.left_out(answers, writer.limit):
        print(f"note: {said}", file=sys.stderr)
    return answers


def _columns(answer: engine.Prediction) -> dict[str, Any]:
    """What is added to a row; `sure` only where the run has fitted how sure is sure enough."""
    sure = {} if answer.sure is None else {"sure": "yes" if answer.sure else "no"}
    return {"predicted": answer.label, "probability": round(answer.probability, 6), **sure}


def check_device(device: str) -> None:
    """Raise a UserError where a device is not there."""
    if device == "cpu":
        return
    from tunesmith.training import hardware

    hardware.check(device, f"`--device={device}`", "command line")


def read_json_recipe(run: Path) -> dict[str, Any]:
    """The data settings a run was made with."""
    from tunesmith.core.settings import read_yaml

    data: dict[str, Any] = read_yaml(run / "recipe.yaml").get("data", {})
    card = run / "data" / "card.json"
    columns = read_json(card).get("columns", {}) if card.exists() else {}
    return {**columns, **{key: value for key, value in data.items() if value is not None}}


def _written(table: list[dict[str, Any]], columns: list[str], suffix: str, delimiter: str) -> str:
    if suffix in (".csv", ".tsv"):
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, columns, delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: ("no", "yes")[value] if isinstance(value, bool) else value for key, value in row.items()} for row in table)
        return out.getvalue()
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in table)


def _out(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
    else:
        write_bytes(output, text.encode())
        print(f"written to {output}", file=sys.stderr)
