"""What a user can get wrong, and that each mistake gives one clear message with its place and its remedy, and exit code 2."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunesmith import cli
from tunesmith.core import files
from tunesmith.core.errors import Problems, UserError, nearest, some

Cli = Callable[..., tuple[int, str, str]]
GOOD = [(f"{noun} number {i}", label) for i in range(10) for noun, label in (("apple", "red"), ("leaf", "green"))]
"""Twenty rows that nothing is wrong with."""


def as_csv(rows: list[tuple[str, ...]] = GOOD, header: tuple[str, ...] = ("text", "label")) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    return out.getvalue().encode()


def as_jsonl(*more: str, rows: list[tuple[str, ...]] = GOOD) -> bytes:
    return "".join(json.dumps({"text": t, "label": lab}) + "\n" for t, lab in rows).encode() + "\n".join(more).encode()


def as_parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": [t for t, _ in GOOD], "label": [lab for _, lab in GOOD]}), out)
    return out.getvalue()


def recipe_for(tmp_path: Path, data: str, base: Path | str, **data_settings: Any) -> Path:
    path = tmp_path / "r.yaml"
    train = {"epochs": 1, "batch_rows": 8, "precision": "fp32", "threads": 1}
    path.write_text(
        json.dumps(
            {
                "data": {"train": data, "duplicates": {"near": None}, **data_settings},
                "model": str(base),
                "method": "full",
                "train": train,
                "evaluate": {"against": ["majority"]},
            }
        )
    )
    return path


# --- a file that is not what it should be ---------------------------------------------------------------------------------------

LATIN = as_csv() + "caf\xe9 au lait,red\n".encode("latin-1")
REMEDY_ICONV = "if it is Windows or Latin-1 text: iconv -f WINDOWS-1252 -t UTF-8 {name} > utf8.csv"

WHOLE_FILES: list[tuple[str, bytes, str, str]] = [
    # name, bytes, what (with the place where there is one behind the path), remedy
    ("empty.csv", b"", ": the file is empty", "give a file with rows"),
    ("empty.jsonl", b"", ": the file is empty", "give a file with rows"),
    ("empty.parquet", b"", ": the file is empty", "give a file with rows"),
    ("blank.csv", b"\n \r\n\n", ": only blank lines", "give a file with rows"),
    ("header.csv", b"text,label\n", ": no records in it", "give a file with at least a few rows"),
    ("latin.csv", LATIN, ":22: byte 0xE9 at column 4 is not UTF-8", REMEDY_ICONV),
    ("wide.csv", as_csv().decode().encode("utf-16"), ": encoded as UTF-16, must be UTF-8", "iconv -f UTF-16 -t UTF-8 {name} > utf8.csv"),
    ("wide-bare.csv", as_csv().decode().encode("utf-16-le"), ": encoded as UTF-16, must be UTF-8", "iconv -f UTF-16 -t UTF-8 {name} > utf8.csv"),
    ("nul.csv", as_csv([*GOOD, ("a\0b", "red")]), ":22: a NUL character", "export the file again; it is damaged"),
    (
        "quote.csv",
        as_csv() + b'"never closed,red\nanother,green\n',
        ":22: a quote opened in the row that starts at line 22 is never closed",
        'close the quote; write a field with quotes whole in quotes, and each quote in it twice: """No"", he said"',
    ),
    ("twice.csv", as_csv(header=("text", "text")), ":1: column `text` occurs 2 times in the header", "rename one of them"),
    ("json.csv", as_jsonl(), ": looks like JSON, not CSV", "name it json.jsonl"),
    ("array.csv", b'[{"text": "a", "label": "b"}]\n', ": looks like JSON, not CSV", "name it array.jsonl"),
    ("table.jsonl", as_csv(), ": looks like CSV, not JSON lines", "name it table.csv"),
    ("quoted.jsonl", b'"text","label"\n"a","b"\n', ": looks like CSV, not JSON lines", "name it quoted.csv"),
    ("cut.json", b'[{"text": "a"},\n {"text": ', ":2: the file ends in the middle of its rows", "copy the file again; it was cut off"),
    ("lfs.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", ": a git-lfs pointer, not the data", "run `git lfs pull`"),
    ("lfs.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", ": a git-lfs pointer, not the data", "run `git lfs pull`"),
    (
        "page.csv",
        b"\n<!DOCTYPE html><html><body>404</body></html>",
        ": looks like an HTML page, perhaps a saved error page",
        "download the data file itself",
    ),
    *(
        (
            f"p{protocol}{ending}",
            pickle.dumps(GOOD, protocol),
            f": named {ending} but holds a pickle",
            f"export the rows as {ending}, or name the file by what it is",
        )
        for protocol, ending in ((2, ".jsonl"), (4, ".parquet"), (5, ".csv"))
    ),
    ("book.csv", b"PK\x03\x04rest", ": named .csv but holds a zip archive or Excel file", "export the rows as .csv, or name the file by what it is"),
    ("rows.csv", as_parquet(), ": named .csv but holds Parquet", "export the rows as .csv, or name the file by what it is"),
    ("text.parquet", as_csv(), ": named .parquet but is not Parquet", "name the file by what it is, or export it again"),
    ("cut.parquet", as_parquet()[:-30], ": damaged or cut off Parquet (", "copy or export the file again"),
    ("data.xlsx", b"PK\x03\x04", ": the ending `.xlsx` cannot be read as rows", "save the sheet as .csv"),
]


@pytest.mark.parametrize(("name", "content", "what", "remedy"), WHOLE_FILES, ids=[case[0] for case in WHOLE_FILES])
def test_a_file_that_cannot_be_rows(cli_: Cli, tmp_path: Path, tiny_base: Path, name: str, content: bytes, what: str, remedy: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    code, out, err = cli_("check", recipe_for(tmp_path, name, tiny_base))
    assert code == 2 and out == ""
    assert err.startswith(f"error: {path}{what}")
    assert err.endswith(f"\n  -> {remedy.format(name=name)}\n")
    assert len(err.splitlines()) == 2
    assert path.read_bytes() == content and {p.name for p in tmp_path.iterdir()} == {name, "r.yaml"}


def test_a_missing_file_and_a_folder(cli_: Cli, tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "tickets.csv").write_bytes(as_csv())
    _, _, err = cli_("check", recipe_for(tmp_path, "tikcets.csv", tiny_base))
    remedy = "check the path; it is taken from the recipe's folder"
    assert err == f"error: {tmp_path / 'tikcets.csv'}: no such file, did you mean `tickets.csv`?\n  -> {remedy}\n"
    (tmp_path / "folder.csv").mkdir()
    code, _, err = cli_("check", recipe_for(tmp_path, "folder.csv", tiny_base))
    assert code == 2 and err.startswith(f"error: {tmp_path / 'folder.csv'}: no file in it that can be read as rows\n  -> give files ending in ")
    code, _, err = cli_("check", tmp_path / "no.yaml")
    assert code == 2 and err == f"error: {tmp_path / 'no.yaml'}: no such file or folder\n  -> check the path; it is taken from where you stand\n"


# --- rows that are not what they should be --------------------------------------------------------------------------------------

BAD_ROWS: list[tuple[str, bytes, dict[str, Any], int, str, str, str]] = [
    # name, bytes, data settings, line, reason, what, remedy
    ("ragged.csv", as_csv() + b"a, b,red\n", {}, 22, "ragged row", "3 fields, the header has 2", "quote fields that contain ',' or line breaks"),
    ("blank.csv", as_csv() + b"  ,red\n", {}, 22, "no text", "the text in column `text` is blank", "fill it in or delete the row"),
    ("nolabel.csv", as_csv() + b"rose,\n", {}, 22, "no label", "the label in column `label` is blank", "label the row or delete it"),
    ("missing.jsonl", as_jsonl('{"label": "red"}'), {}, 21, "no text", "the text in column `text` is missing", "fill it in or delete the row"),
    (
        "number.jsonl",
        as_jsonl('{"text": 7, "label": "red"}'),
        {},
        21,
        "text of another type",
        "column `text` holds a number, expected text",
        "write it in quotes",
    ),
    (
        "list.jsonl",
        as_jsonl('{"text": "rose", "label": ["red", "green"]}'),
        {},
        21,
        "several labels",
        "column `label` holds a list, expected one label",
        "keep one, or set data.multi_label: true",
    ),
    (
        "object.jsonl",
        as_jsonl('{"text": "rose", "label": {"is": "red"}}'),
        {},
        21,
        "label of another type",
        "column `label` holds an object, expected one label",
        "write the label's name",
    ),
    *(
        (
            f"surrogate-{column}.jsonl",
            as_jsonl(json.dumps({"text": "rose", "label": "red"} | {column: "half \ud83d"})),
            {},
            21,
            "broken character",
            f"column `{column}` holds half of a surrogate pair",
            "repair the escape \\ud8xx in it",
        )
        for column in ("text", "label")
    ),
    (
        "twice.jsonl",
        as_jsonl('{"text": "a", "text": "b", "label": "red"}'),
        {},
        21,
        "not JSON",
        "key `text` is given twice",
        "write each key once, and null for a missing value",
    ),
    ("nan.jsonl", as_jsonl('{"text": "a", "label": NaN}'), {}, 21, "not JSON", "NaN is not JSON", "write each key once, and null for a missing value"),
    *(
        (f"cut{number}.jsonl", as_jsonl(cut), {}, 21, "unfinished JSON", "the last line ends in the middle of an object", "copy the file again; it was cut off")
        for number, cut in enumerate(['{"text": "a ro', '{"text": "a rose", "lab', '{"text": "a rose",', '{"text": tr', '{"text": {"a": 1}'])
    ),
    (
        "quotes.jsonl",
        as_jsonl("{'text': 'a'}", ""),
        {},
        21,
        "not JSON",
        "not JSON at column 2: Expecting property name enclosed in double quotes",
        "use double quotes",
    ),
    ("array.jsonl", as_jsonl('["a", "red"]'), {}, 21, "not an object", "expected an object {...}, found a list", "write one object a line"),
    ("deep.jsonl", as_jsonl('{"text": "a", "label": ' + "[" * 40 + "]" * 40 + "}"), {}, 21, "too deep", "nested deeper than 32", "flatten the object"),
    (
        "id.csv",
        as_csv([(str(i), *row) for i, row in enumerate(GOOD)] + [("3", "a rose", "red")], ("key", "text", "label")),
        {"id": "key"},
        22,
        "repeated id",
        "id `3` was used before, at line 5",
        "ids must be unique; correct one",
    ),
    (
        "noid.csv",
        as_csv([(str(i), *row) for i, row in enumerate(GOOD)] + [("", "a rose", "red")], ("key", "text", "label")),
        {"id": "key"},
        22,
        "no id",
        "column `key` is blank",
        "fill it, or leave data.id out",
    ),
    (
        "together.csv",
        as_csv([(str(i), *row) for i, row in enumerate(GOOD)] + [(" ", "a rose", "red")], ("who", "text", "label")),
        {"together": "who"},
        22,
        "no together value",
        "column `who` is blank",
        "fill it, or give each such row a value of its own",
    ),
    (
        "lonely.csv",
        as_csv([*GOOD, ("a rose", "rde")]),
        {},
        22,
        "label with one row",
        "label `rde` has one row; each label needs at least 2",
        "correct the label, add rows, or set data.on_bad_row: reject",
    ),
]


@pytest.mark.parametrize(("name", "content", "settings", "line", "reason", "what", "remedy"), BAD_ROWS, ids=[case[0] for case in BAD_ROWS])
def test_a_bad_row_stops_or_is_left_out(
    cli_: Cli, tmp_path: Path, tiny_base: Path, name: str, content: bytes, settings: dict[str, Any], line: int, reason: str, what: str, remedy: str
) -> None:
    (tmp_path / name).write_bytes(content)
    recipe = recipe_for(tmp_path, name, tiny_base, **settings)
    code, out, err = cli_("check", recipe)
    assert (code, out) == (2, "")
    assert err == f"error: {name}:{line}: {what}\n  -> {remedy}\n  -> 1 bad row. Mend them, or go on without them: data.on_bad_row=reject\n"
    runs = tmp_path / "runs"
    code, _, err = cli_("prepare", recipe, "--runs-dir", runs)
    rejected = runs / "r" / "data" / "rejected.jsonl"
    assert code == 2 and f"1 bad row; all are in {rejected}. Mend them" in err
    assert [p.name for p in rejected.parent.iterdir()] == ["rejected.jsonl"]  # no half of a prepared data set
    code, out, _ = cli_("prepare", recipe, "data.on_bad_row=reject", "--runs-dir", runs)
    assert code == 0
    kept = json.loads((runs / "r-2" / "data" / "card.json").read_text())
    left_out = [json.loads(one) for one in (runs / "r-2" / "data" / "rejected.jsonl").read_text().splitlines()]
    assert kept["rejected"] == {reason: 1} and sum(kept["rows"].values()) == len(GOOD)
    assert [(one["file"], one["line"], one["reason"], one["what"], one["remedy"]) for one in left_out] == [(name, line, reason, what, remedy)]
    assert left_out[0]["row"]


def test_many_bad_rows_are_counted_and_cut(cli_: Cli, tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "d.csv").write_bytes(as_csv([*GOOD, *[("", "red")] * 60]))
    _, _, err = cli_("check", recipe_for(tmp_path, "d.csv", tiny_base))
    assert err.count("the text in column `text` is blank") == 50
    assert err.count("  -> fill it in or delete the row\n") == 1  # what all of them have in common is said once
    assert "\nand 10 more\n  -> 60 bad rows. Mend them, or go on without them: data.on_bad_row=reject\n" in err


def test_missing_columns_are_named_with_the_nearest(cli_: Cli, tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "d.csv").write_bytes(as_csv(header=("mesage", "queue")))
    code, _, err = cli_("check", recipe_for(tmp_path, "d.csv", tiny_base, text="message", label="category", attributes=["sex"]))
    columns = "the columns are `mesage`, `queue`"
    assert code == 2
    assert err == (
        f"error: d.csv:1: no column `message`, did you mean `mesage`?\n  -> {columns}; set data.text to one of them\n"
        f"d.csv:1: no column `category`\n  -> {columns}; set data.label to one of them\n"
        f"d.csv:1: no column `sex`\n  -> {columns}; set data.attributes.sex to one of them\n"
    )
    _, _, err = cli_("check", recipe_for(tmp_path, "d.csv", tiny_base))
    assert "error: d.csv:1: no column for the text was found among `mesage`, `queue`\n" in err
    assert "\n  -> name it: data.text=COLUMN, or in the recipe data: {text: COLUMN}\n" in err


def test_too_few_rows_labels_or_sides(cli_: Cli, tmp_path: Path, tiny_base: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(as_csv(GOOD[:6]))
    recipe = recipe_for(tmp_path, "d.csv", tiny_base)
    assert cli_("check", recipe)[2] == f"error: {path}: 6 usable rows; at least 8 are needed\n  -> add labelled rows\n"
    path.write_bytes(as_csv([(text, "red") for text, _ in GOOD]))
    assert cli_("check", recipe)[2] == f"error: {path}: all rows bear the label `red`\n  -> a classifier needs at least two labels\n"
    path.write_bytes(as_csv())
    _, _, err = cli_("check", recipe, "data.test=0.000001")
    assert err == f"error: {path}: no row is left for test\n  -> add rows, enlarge data.test, or check `together`\n"
    _, _, err = cli_("check", recipe, "data.test=0.6", "data.valid=0.5")
    assert "`data` valid=0.5 and test=0.6 leave no rows to learn from; together they must stay below 1" in err


# --- the base -----------------------------------------------------------------------------------------------------------------------


def test_a_base_that_cannot_be_used(cli_: Cli, tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "d.csv").write_bytes(as_csv())

    def said(base: Path | str) -> str:
        code, out, err = cli_("check", recipe_for(tmp_path, "d.csv", base))
        assert (code, out) == (2, "") and len(err.splitlines()) == 2
        return err

    remedy = "give a folder with config.json and model.safetensors, a starter (`starter/minilm`, `starter/scribe`), or a Hub name while online"
    assert said("./nowhere") == f"error: recipe, `model`: no base at `./nowhere`\n  -> {remedy}\n"
    assert said("starter/minilmm").startswith("error: starter/minilmm: no starter base `minilmm`, did you mean `minilm`?\n  -> there are `minilm`")
    assert said("nobody/nothing").startswith("error: recipe, `model`: no base `nobody/nothing` here, and the Hub did not give it (")

    base = tmp_path / "base"
    base.mkdir()
    assert said(base) == f"error: {base}: no config.json: not a Hugging Face model folder\n  -> give the folder that holds config.json and model.safetensors\n"
    config = json.loads((tiny_base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config))
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert said(base) == (
        f"error: {base}: no .safetensors weights (other formats can run code when loaded)\n  -> convert them with save_pretrained, which writes safetensors\n"
    )
    (base / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    assert said(base) == (
        f"error: {base}: its config.json has `auto_map`, which runs code that comes with the model\n  -> use a base that transformers knows by itself\n"
    )
    _, _, err = cli_("check", recipe_for(tmp_path, "d.csv", tiny_base), "model.max_tokens=65")
    assert err == (
        "error: recipe: `model.max_tokens=65` is beyond the base's limit of 64\n  -> set it to at most 64, or model.truncation: windows to read longer texts\n"
    )


def test_texts_beyond_the_limit_are_counted_and_reported_everywhere(cli_: Cli, tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "d.csv").write_bytes(as_csv([(text + " word" * (80 if i % 5 == 0 else 0), label) for i, (text, label) in enumerate(GOOD)]))
    recipe = recipe_for(tmp_path, "d.csv", tiny_base, test="none", valid="none")
    said = (
        "Training rows have 5 tokens at the median, 85 at the 95th percentile, 85 at most. The limit of 64 cuts 84 tokens (20.0 %) from the ends of "
        "4 of 20 rows (20.0 %). To lose less: model.truncation: windows reads all of every row."
    )  # 3 words, 80 words and 2 special tokens: 85 of which 64 are read
    code, out, _ = cli_("check", recipe)
    assert code == 0 and f"  {said}\n" in out
    code, _, err = cli_("run", recipe, "--runs-dir", tmp_path / "runs")
    assert code == 0 and said in " ".join(err.split())
    folder = tmp_path / "runs" / "r"
    tokens = json.loads((folder / "run.json").read_text())["tokens"]
    assert (tokens["limit"], tokens["cut_rows"], tokens["cut_tokens"], tokens["most"], tokens["said"]) == (64, 4, 84, 85, said)
    report = (folder / "report.html").read_text()
    assert report.count(said) == 1 and tokens["recommended"]["reason"] in report and "What batches of 8 rows waste on padding" in report
    assert {"kind": "warning", "text": said}.items() <= next(json.loads(e) for e in (folder / "events.jsonl").open() if "To lose less" in e).items()


# --- the surroundings ---------------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(monkeypatch: pytest.MonkeyPatch, kilobytes: int) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A disk that is soon full, and a way to free space on it: a small tmpfs where we may mount one, else fsync that says so."""
    with tempfile.TemporaryDirectory(prefix="small-disk-") as name:
        folder = Path(name)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", name], capture_output=True, check=False).returncode == 0:
            try:
                yield folder, lambda: subprocess.run(["mount", "-o", "remount,size=64M", name], check=True)
            finally:
                subprocess.run(["umount", "-l", name], check=True)
            return
        real, written = files.fsync_file, [0]

        def fsync_file(path: Path) -> None:
            written[0] += path.stat().st_size
            if written[0] > 1000 * kilobytes:
                raise OSError(28, "No space left on device")
            real(path)

        monkeypatch.setattr(files, "fsync_file", fsync_file)
        yield folder, lambda: monkeypatch.setattr(files, "fsync_file", real)


@pytest.mark.parametrize("kilobytes", [8, 28, 400, 4600])  # run.json, the prepared rows, a checkpoint, the model (there safetensors says it, not the system)
def test_a_full_disk_is_said_leaves_no_halves_and_the_same_command_goes_on(
    cli_: Cli, recipe_file: Path, monkeypatch: pytest.MonkeyPatch, kilobytes: int
) -> None:
    with small_disk(monkeypatch, kilobytes) as (disk, free):
        command = ("run", recipe_file, "evaluate.against=[majority]", "--runs-dir", disk / "runs")
        code, out, err = cli_(*command)
        assert code == 2 and out == ""
        last = err[err.index("error: ") :]
        assert last.startswith(f"error: {disk}") and ": no space left on the disk (" in last and " MB free)\n" in last
        assert last.endswith("  -> free some space or choose another place with --runs-dir, then give the same command again: it resumes\n")
        assert not list(disk.rglob(".staging-*"))
        free()
        code, out, err = cli_(*command)
        assert code == 0, err
        assert [path.name for path in (disk / "runs").iterdir() if path.is_dir()] == ["colours"] and "Report: " in out


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder that the user of the tests may only read, also when that user is root."""
    with tempfile.TemporaryDirectory(prefix="read-only-") as name:
        folder = Path(name)
        root = os.geteuid() == 0
        folder.chmod(0o555)
        if root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)


def test_no_permission_to_write_is_said(cli_: Cli, tmp_path: Path, recipe_file: Path, colours: Path) -> None:
    from tunesmith import runs

    with as_nobody() as folder:
        for write in (lambda: files.write_bytes(folder / "r.yaml", b"x"), lambda: runs.open_or_create(folder / "runs", "a", "1", {}, False, None)):
            with pytest.raises(UserError) as caught:
                write()
            assert str(caught.value).startswith(str(folder))
            assert str(caught.value).endswith("no permission to read or write here\n  -> change its owner or mode, or choose another place")
        assert list(folder.iterdir()) == []


def test_no_permission_to_read_is_said(cli_: Cli, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="readable-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "d.csv").write_bytes(as_csv())
        (folder / "d.csv").chmod(0)
        (folder / "locked").mkdir(mode=0)
        with as_nobody():
            code, _, err = cli_("init", folder / "d.csv")
            assert code == 2
            assert err == f"error: {folder / 'd.csv'}: no permission to read or write here\n  -> change its owner or mode, or choose another place\n"
            code, _, err = cli_("runs", "--runs-dir", folder / "locked")
            assert code == 2 and err.startswith(f"error: {folder / 'locked'}: no permission to read or write here\n")
            code, _, err = cli_("init", folder / "locked" / "d.csv")  # the folder cannot even be looked into
            assert code == 2 and err.startswith(f"error: {folder / 'locked' / 'd.csv'}: no permission to read or write here\n")


# --- the recipe, from the command line ------------------------------------------------------------------------------------------


def test_all_mistakes_of_a_recipe_are_reported_together(cli_: Cli, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("data: {train: d.csv, lable: x}\ntrian: {epochs: 3}\ntrain: {epochs: 0, batch_rows: many}\nmethod: loar\n")
    code, out, err = cli_("run", path, "--runs-dir", tmp_path / "runs")
    assert (code, out) == (2, "")
    for line in (
        f"{path}: unknown key `data.lable`, did you mean `label`?",
        f"{path}: unknown key `trian`, did you mean `train`?",
        f"{path}: `train.epochs=0` must be greater than or equal to 1 or `auto`",
        f"{path}: `train.batch_rows=many` must be a valid integer, unable to parse string as an integer",
        f"{path}: `method: loar` is not known, did you mean `lora`?",
    ):
        assert line in err.removeprefix("error: ").splitlines()
    assert err.count("  -> ") == 5
    assert not (tmp_path / "runs").exists()


def test_our_own_crash_is_told_apart(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recipe_file: Path) -> None:
    from tunesmith import recipe

    def broken(*args: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(recipe, "load", broken)
    monkeypatch.setattr(sys, "argv", ["tunesmith", "check", str(recipe_file)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    assert "ZeroDivisionError: ours\n\nThis is a fault of tunesmith, not of yours. Please report it" in capsys.readouterr().err


def test_the_parts_of_a_message() -> None:
    assert str(UserError("x is wrong", "file:3", "mend it")) == "file:3: x is wrong\n  -> mend it"
    assert str(UserError("x is wrong", "", "mend it")) == "x is wrong\n  -> mend it"
    both = Problems([UserError("a", "f:1", "b"), UserError("c", "f:2", "d")], "all of it")
    assert str(both) == "f:1: a\n  -> b\nf:2: c\n  -> d\n  -> all of it"
    assert nearest("lable", ["text", "label"]) == ", did you mean `label`?" and nearest("zzz", ["text"]) == ""
    assert some("abc", 2) == "`a`, `b` and 1 more" and some("ab", 2) == "`a`, `b`"
