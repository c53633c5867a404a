"""`tunesmith predict`: the rows of the user come back whole and in order with answers beside them, or nothing does."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tunesmith
from tunesmith.serving import engine, predicting

Cli = Callable[..., tuple[int, str, str]]
TEXTS = ["grass in place 40", "sea, in\nplace 41", 'rose in "place" 42', "rose in place" + " rose" * 80]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The folder of a run over three colours."""
    folder = tmp_path_factory.mktemp("predicting")
    nouns = {"red": "apple brick rose", "green": "leaf grass lime", "blue": "sky sea ink"}
    rows = [f'"{noun} in place {i}",{label}' for i in range(15) for label, some in nouns.items() for noun in some.split()]
    (folder / "d.csv").write_text("Message,label\n" + "\n".join(rows) + "\n")
    recipe = {
        "data": {"train": "d.csv", "duplicates": {"near": None}},
        "model": {"base": str(tiny_base), "dropout": 0.0},
        "method": "full",
        "train": {"epochs": 8, "learning_rate": 3e-3, "batch_rows": 8, "precision": "fp32", "threads": 1},
        "evaluate": {"against": ["majority"], "resamples": 100},
    }
    (folder / "r.yaml").write_text(json.dumps(recipe))
    return tunesmith.run(folder / "r.yaml", runs_dir=folder / "runs").folder


@pytest.fixture
def answers(trained: Path) -> list[Any]:
    return tunesmith.load(trained).predict(TEXTS)


def test_texts_from_the_command_line_and_from_stdin(cli_: Cli, trained: Path, answers: list[Any]) -> None:
    code, out, err = cli_("predict", trained, *TEXTS)
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and err == ""
    assert [(one["text"], one["predicted"]) for one in found] == [(text, answer.label) for text, answer in zip(TEXTS, answers, strict=True)]
    assert [one["probability"] for one in found] == [pytest.approx(answer.probability, abs=1e-6) for answer in answers]
    assert [answer.label for answer in answers] == ["green", "blue", "red", "red"]
    code, out, _ = cli_("predict", trained, stdin="a leaf\r\n\n  \nthe sea é\n".encode())
    assert code == 0 and [json.loads(line)["text"] for line in out.splitlines()] == ["a leaf", "the sea é"]


def test_windows_of_a_long_text_are_predicted_apart_and_averaged(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No forward holds more than BATCH_TOKENS, however long a text is, and the answer is the same whichever windows share a forward."""
    from dataclasses import replace

    import numpy as np

    from tunesmith.serving import engine

    texts = [" ".join(TEXTS * 30), "grass", " ".join(TEXTS[:2] * 9), "sea"]
    classifier = engine.load(trained / "model")
    classifier.about = replace(classifier.about, max_tokens=16, truncation="windows")
    forward, places = classifier._model.forward, []

    def noting(**inputs: Any) -> Any:
        places.append(inputs["input_ids"].numel())
        return forward(**inputs)

    monkeypatch.setattr(classifier._model, "forward", noting)
    done: list[tuple[int, int]] = []
    wide = classifier.logits(texts, None, lambda *now: done.append(now))
    assert max(places) > 200 and done[-1] == (4, 4)
    places.clear()
    monkeypatch.setattr(engine, "BATCH_TOKENS", 48)
    narrow = classifier.logits(texts)
    assert max(places) <= 48 and float(np.abs(wide - narrow).max()) < 1e-5
    assert float(np.abs(classifier.logits(texts[2:3]) - wide[2]).max()) < 1e-5
    assert classifier.logits([]).shape == (0, 3)


def test_probabilities_add_up_and_name_every_label(answers: list[Any]) -> None:
    for answer in answers:
        assert list(answer.probabilities) == ["blue", "green", "red"] and sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert answer.probability == max(answer.probabilities.values()) == answer.probabilities[answer.label]


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_prediction_holds_four_bytes_a_label(multi_label: bool) -> None:
    """A dict of 5,000 labels takes 400 kB a text with its numbers; the answers are what the dict says."""
    labels = [f"label {c}" for c in range(5000)]
    rows_NC = np.random.default_rng(0).random((40, 5000)).astype(np.float32) ** (200 if multi_label else 1)
    rows_NC[1] = 0
    tracemalloc.start()
    found = engine.answers(rows_NC, labels, multi_label, 0.5)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 40 * 5000 * 5
    for one, row_C in zip(found, rows_NC, strict=True):
        whole = dict(zip(labels, row_C.tolist(), strict=True))
        assert one.probabilities == whole and list(one.probabilities) == labels
        if multi_label:
            assert one.labels == [name for name, p in whole.items() if p >= 0.5] and one.sure is None
            assert one.probability == min((whole[name] for name in one.labels), default=1 - max(whole.values()))
        else:
            assert one.labels == [max(whole, key=whole.__getitem__)] and one.probability == max(whole.values()) and one.sure is (one.probability >= 0.5)


def test_a_file_is_answered_by_parts(cli_: Cli, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"Message": text}) + "\n" for text in TEXTS))
    whole = cli_("predict", trained, "--input", tmp_path / "d.jsonl")
    monkeypatch.setattr(predicting, "PART_ROWS", 3)
    code, out, _ = cli_("predict", trained, "--input", tmp_path / "d.jsonl")
    parts, wholes = ([json.loads(line) for line in text.splitlines()] for text in (out, whole[1]))
    assert code == 0 and [one["predicted"] for one in parts] == [one["predicted"] for one in wholes]
    assert [one["probability"] for one in parts] == pytest.approx([one["probability"] for one in wholes], abs=2e-6)  # written with six digits


def test_a_table_comes_back_with_columns_added(cli_: Cli, tmp_path: Path, trained: Path, answers: list[Any]) -> None:
    for name, mark in (("d.csv", ","), ("semi.csv", ";"), ("d.tsv", "\t")):
        with open(tmp_path / name, "w", newline="") as file:
            csv.writer(file, delimiter=mark).writerows([("key", "Message", "empty"), *((f"0{i}", text, "") for i, text in enumerate(TEXTS))])
        before = (tmp_path / name).read_bytes()
        code, out, err = cli_("predict", trained, "--input", tmp_path / name)
        back = list(csv.DictReader(io.StringIO(out, newline=""), delimiter=mark))
        assert code == 0 and err == "" and (tmp_path / name).read_bytes() == before
        assert [(row["key"], row["Message"], row["empty"], row["predicted"]) for row in back] == [
            (f"0{i}", text, "", answer.label) for i, (text, answer) in enumerate(zip(TEXTS, answers, strict=True))
        ]
        assert list(back[0])[:5] == ["key", "Message", "empty", "predicted", "probability"] and all(0 < float(row["probability"]) <= 1 for row in back)
        assert all(value is not None and (name_ == "empty" or value != "") for row in back for name_, value in row.items())


def test_json_lines_and_parquet_come_back_as_json_lines(cli_: Cli, tmp_path: Path, trained: Path, answers: list[Any]) -> None:
    rows: list[dict[str, Any]] = [{"Message": text, "n": i, "tags": ["é", None]} for i, text in enumerate(TEXTS)]
    rows[1]["more"] = {"deep": 1.5}
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = tmp_path / "deep" / "out.jsonl"
    code, out, err = cli_("predict", trained, "-i", tmp_path / "d.jsonl", "-o", target)
    assert (code, out, err) == (0, "", f"written to {target}\n")
    back = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert [row.pop("predicted") for row in back] == [answer.label for answer in answers]
    assert [{key: row[key] for key in original} for row, original in zip(back, rows, strict=True)] == rows
    pq.write_table(pa.table({"body": TEXTS, "n": [1, 2, None, 4]}), tmp_path / "d.parquet")
    code, out, _ = cli_("predict", trained, "-i", tmp_path / "d.parquet", "--text", "body")
    assert code == 0 and [(row["body"], row["n"]) for row in map(json.loads, out.splitlines())] == list(zip(TEXTS, [1, 2, None, 4], strict=True))


def test_sure_is_said_where_it_was_fitted(cli_: Cli, tmp_path: Path, trained: Path, answers: list[Any]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    middle = sorted(answer.probability for answer in answers)[2]
    for abstention, column in ((None, [None] * 4), ({"threshold": middle}, ["yes" if answer.probability >= middle else "no" for answer in answers])):
        temperature = (
            json.loads((trained / "model" / "calibration.json").read_text())["temperature"] if (trained / "model" / "calibration.json").exists() else 1.0
        )
        (copy / "model" / "calibration.json").write_text(json.dumps({"temperature": temperature, "abstention": abstention}))
        (tmp_path / "d.csv").write_text("Message\n" + "".join('"' + text.replace('"', '""') + '"\n' for text in TEXTS))
        _, out, _ = cli_("predict", copy, "-i", tmp_path / "d.csv")
        assert [row.get("sure") for row in csv.DictReader(io.StringIO(out, newline=""))] == column
        _, out, _ = cli_("predict", copy, *TEXTS)
        assert [json.loads(line).get("sure") for line in out.splitlines()] == column
    assert set(column) == {"yes", "no"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text\na\n", "d.csv:1: no column `Message`\n  -> the columns are `text`; choose with --text"),
        ("Mesage\na\n", "d.csv:1: no column `Message`, did you mean `Mesage`?\n  -> the columns are `Mesage`; choose with --text"),
        ("Message,predicted\na,x\n", "d.csv:1: column `predicted` is there already\n  -> rename it, so that nothing is overwritten"),
        ('Message,n\n"a\nb",1\n ,2\n', "d.csv:4: column `Message` holds no text\n  -> fill it in or leave it out"),
        ("Message,n\na,1\nb\n", "d.csv:3: 1 field, the header has 2\n  -> quote fields that contain ',' or line breaks"),
    ],
)
def test_a_file_that_cannot_be_answered(cli_: Cli, tmp_path: Path, trained: Path, content: str, said: str) -> None:
    (tmp_path / "d.csv").write_text(content)
    code, out, err = cli_("predict", trained, "-i", tmp_path / "d.csv", "-o", tmp_path / "out.csv")
    assert (code, out, err) == (2, "", f"error: {said}\n") and not (tmp_path / "out.csv").exists()


def test_what_else_cannot_be_answered(cli_: Cli, tmp_path: Path, trained: Path) -> None:
    command = "error: command line: "
    assert cli_("predict", trained) == (2, "", command + 'no text is given\n  -> tunesmith predict RUN "a text", or pipe texts in, or --input FILE\n')
    assert cli_("predict", trained, "a", "-i", "d.csv") == (2, "", command + "both texts and --input are given\n  -> give one of the two\n")
    assert cli_("predict", trained, "a", " ") == (2, "", "error: text 2: a text holds no text\n  -> fill it in or leave it out\n")
    assert cli_("predict", trained, "a", "\udcff") == (2, "", "error: text 2: a text holds a broken character\n  -> give it as UTF-8\n")
    remedy = "iconv -f WINDOWS-1252 -t UTF-8 turns Windows text into it"
    assert cli_("predict", trained, stdin=b"caf\xe9\n") == (2, "", f"error: stdin: byte 0xE9 is not UTF-8\n  -> {remedy}\n")
    code, out, err = cli_("predict", trained, "a", "--device", "tpu")
    assert (code, out) == (2, "") and err.startswith(command + "`--device=tpu` is not a device; they are cpu, cuda, cuda:N and mps\n  -> use one of those")
    assert "`cpu`" in err
    said = "error: command line: `--top-p` is for models that write texts; this one gives labels\n  -> leave --top-p out\n"
    assert cli_("predict", trained, "a", "--top-p", 0.5) == (2, "", said)
    assert cli_("chat", trained, stdin="a")[2].endswith("this model gives labels (classification), it writes no texts\n  -> use tunesmith predict\n")
    (tmp_path / "d.jsonl").write_text('{"Message": 3}\n')
    assert cli_("predict", trained, "-i", tmp_path / "d.jsonl")[2].startswith("error: d.jsonl:1: column `Message` holds no text\n")
    assert cli_("predict", trained, "-i", tmp_path / "no.jsonl")[2].startswith(f"error: {tmp_path / 'no.jsonl'}: no such file, did you mean `d.jsonl`?\n")


def test_a_model_of_pairs_wants_pairs(cli_: Cli, tmp_path: Path, trained: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    card = json.loads((copy / "data" / "card.json").read_text())
    card["columns"]["text_pair"] = "Answer"
    os.unlink(copy / "data" / "card.json")
    (copy / "data" / "card.json").write_text(json.dumps(card))
    said = "error: command line: this model reads pairs of texts, with the second in column `Answer`\n  -> give a file with both columns: --input FILE\n"
    assert cli_("predict", copy, "a") == (2, "", said)
    (tmp_path / "d.csv").write_text("Message,Anser\na,b\n")
    said = "error: d.csv:1: no column `Answer`, the second text that this model reads, did you mean `Anser`?\n  -> add it, or rename the column that holds it\n"
    assert cli_("predict", copy, "-i", tmp_path / "d.csv") == (2, "", said)
    (tmp_path / "d.csv").write_text("Message,Answer\na,b\nc,\n")
    assert cli_("predict", copy, "-i", tmp_path / "d.csv")[2].startswith("error: d.csv:3: column `Answer` holds no text\n")
    (tmp_path / "d.csv").write_text("Message,Answer\na leaf,b\na leaf,the sea\n")
    code, out, _ = cli_("predict", copy, "-i", tmp_path / "d.csv")
    found = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and found[0]["probability"] != found[1]["probability"]  # the second text is read


def test_a_run_without_a_model(cli_: Cli, tmp_path: Path, trained: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("model", "data"))
    said = f"error: {copy / 'model'}: no trained model here\n  -> run the recipe to its end first: tunesmith run RECIPE\n"
    assert cli_("predict", copy, "a") == (2, "", said)


def test_a_reader_that_leaves_early_is_no_fault(tmp_path: Path, trained: Path) -> None:
    (tmp_path / "d.jsonl").write_text((json.dumps({"Message": "a leaf", "long": "x" * 1000}) + "\n") * 300)
    stub = (
        "from array import array; from tunesmith.serving import engine; from tunesmith.cli import main\n"
        "class Stub:\n    def predict(self, texts, pairs): return [engine.Prediction(['a'], 1.0, ['a'], array('f', [1.0]))] * len(texts)\n"
        "engine.load = lambda folder, device: Stub()\nmain()\n"
    )
    (tmp_path / "stub.py").write_text(stub)
    for command in (["predict", str(trained), "-i", str(tmp_path / "d.jsonl")], ["runs", "--runs-dir", str(trained.parent)]):
        read, write = os.pipe()
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        with subprocess.Popen([sys.executable, tmp_path / "stub.py", *command], stdout=write, stderr=subprocess.PIPE, text=True, env=environ) as process:
            os.close(write)
            if command[0] == "predict":
                assert os.read(read, 10) == b'{"Message"'  # the rest is more than a pipe holds
            os.close(read)
            assert process.stderr is not None and process.stderr.read() == ""
        assert process.returncode == 0
