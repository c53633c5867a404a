"""Names of files, folders and globs: which files they mean, in which order, and what is said of those left out."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tunesmith.core.errors import UserError
from tunesmith.data.preparation.inputs import Part, digest, expand, gathered


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of rows with what stands about in one: texts about the data, pictures, hidden files, links."""
    made = tmp_path / "data"
    for name in (
        "b.jsonl",
        "a/2.csv",
        "a/10.csv.gz",
        "a/deep/x.parquet",
        "c.PDF",
        "README.md",
        "a/LICENSE.txt",
        "notes.md",
        "p.png",
        "q.png",
        "_SUCCESS",
        ".h.csv",
        ".git/x.csv",
    ):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    return made


def names(value: Path | str, said: list[str] | None = None) -> list[str]:
    return [part.name for part in expand(str(value), said=said)]


def wrong(value: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        expand(str(value))
    return str(caught.value)


def test_a_file_is_itself(folder: Path) -> None:
    assert expand(str(folder / "b.jsonl"), weight=0.5) == [Part(folder / "b.jsonl", "b.jsonl", 0.5)]
    (folder / "odd [1]*.csv").write_text("x")  # a name that is there is no glob
    assert names(folder / "odd [1]*.csv") == ["odd [1]*.csv"]


def test_a_folder_is_read_with_its_folders_and_what_is_left_out_is_said(folder: Path) -> None:
    said: list[str] = []
    found = expand(str(folder), 2.0, said)
    assert [part.name for part in found] == ["a/10.csv.gz", "a/2.csv", "a/deep/x.parquet", "b.jsonl", "c.PDF", "notes.md"]
    assert all(part.path == folder / part.name and part.path.read_text() == part.name and part.weight == 2.0 for part in found)
    assert said == [
        "data: `README.md`, `a/LICENSE.txt` left out: a text about the data",
        "data: 3 files left out by ending: 2 `.png`, 1 `none`",
    ]
    assert expand(str(folder)) == expand(f"{folder}/", said=[])  # nobody need listen


def test_texts_about_the_data_are_documents_where_there_are_no_tables(tmp_path: Path) -> None:
    for name in ("README.md", "license.txt", "a.md"):
        (tmp_path / name).write_text("text")
    assert names(tmp_path) == ["README.md", "a.md", "license.txt"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jsonl", ["b.jsonl"]),
        ("a/*", ["10.csv.gz", "2.csv"]),
        ("*/?.csv", ["a/2.csv"]),
        ("**/*.csv*", ["a/10.csv.gz", "a/2.csv"]),
        ("**/[a-x].*", ["a/deep/x.parquet", "b.jsonl", "c.PDF"]),
        ("a/**", ["10.csv.gz", "2.csv", "deep/x.parquet"]),
        ("a/**/deep/**/x.*", ["deep/x.parquet"]),
        ("[!a]*.jsonl", ["b.jsonl"]),
    ],
)
def test_globs(folder: Path, pattern: str, found: list[str]) -> None:
    assert names(folder / pattern) == found


def test_names_do_not_depend_on_where_you_stand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = names(folder), names(folder / "a/*.csv"), names(folder / "b.jsonl"), digest(expand(str(folder)))
    monkeypatch.chdir(folder)
    assert (names("."), names("a/*.csv"), names("b.jsonl"), digest(expand("."))) == away
    assert names("*.jsonl") == ["b.jsonl"]


def test_links_are_left_out_and_said_but_one_that_is_named_is_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.csv").write_text("x")
    (folder / "out.csv").symlink_to(tmp_path / "elsewhere.csv")
    (folder / "loop").symlink_to(folder)
    (folder / "a" / "twice.csv").symlink_to(folder / "a" / "2.csv")
    os.mkfifo(folder / "pipe.csv")
    said: list[str] = []
    assert names(folder, said) == ["a/10.csv.gz", "a/2.csv", "a/deep/x.parquet", "b.jsonl", "c.PDF", "notes.md"]
    assert said[-1] == "data: 3 links left out (`a/twice.csv`, `loop`, `out.csv`); to read one, name it or what it leads to"
    assert names(folder / "**" / "*.csv") == ["a/2.csv"]
    assert names(folder / "out.csv") == ["out.csv"]
    (tmp_path / "named").symlink_to(folder)
    assert names(tmp_path / "named") == names(folder)


def test_what_cannot_be_found_or_read(folder: Path, tmp_path: Path) -> None:
    assert wrong(folder / "b.jsnl") == f"{folder / 'b.jsnl'}: no such file, did you mean `b.jsonl`?\n  -> check the path; it is taken from the recipe's folder"
    assert (
        wrong(folder / "*.jsoln")
        == f"{folder / '*.jsoln'}: no file matches, did you mean `b.jsonl`?\n  -> `*` stays within one folder, `**` stands for any folders"
    )
    assert (
        wrong(tmp_path / "dta" / "*.csv")
        == f"{tmp_path / 'dta'}: no such file, did you mean `data`?\n  -> check the path; it is taken from the recipe's folder"
    )
    assert wrong(folder / "b.jsonl" / "*").startswith(f"{folder / 'b.jsonl'}: not a folder\n")
    assert wrong(folder / "*.png").startswith(f"{folder / '*.png'}: no file in it that can be read as rows\n  -> give files ending in .csv, .tsv,")
    (tmp_path / "empty").mkdir()
    assert wrong(tmp_path / "empty").startswith(f"{tmp_path / 'empty'}: no file in it that can be read as rows\n  -> give files ending in .csv, ")
    assert wrong(folder / "p.png").startswith(f"{folder / 'p.png'}: the ending `.png` cannot be read as rows\n  -> give a file ending in .csv, ")
    os.mkfifo(tmp_path / "pipe.csv")
    assert wrong(tmp_path / "pipe.csv").startswith(f"{tmp_path / 'pipe.csv'}: not a plain file\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.xlsx", "the ending `.xlsx` cannot be read as rows\n  -> save the sheet as .csv"),
        ("a.tar.gz", "the ending `.tar.gz` cannot be read as rows\n  -> unpack it, and give the folder"),
        ("a.parquet.gz", "the ending `.parquet.gz` cannot be read as rows\n  -> unpack it, and give the .parquet file"),
        ("a.gz", "the ending `.gz` cannot be read as rows\n  -> name it by what is in it: a.jsonl.gz"),
        ("shop.db", "the ending `.db` cannot be read as rows\n  -> write it as a URL with a query: sqlite:///FILE"),
        ("shop.duckdb", "the ending `.duckdb` cannot be read as rows\n  -> write it as a URL with a query: duckdb:///FILE"),
        ("rows", "a file without an ending cannot be read as rows\n  -> give a file ending in .csv"),
        ("a.zip", "the ending `.zip` cannot be read as rows\n  -> unpack it, and give the folder"),
        ("a.pkl", "the ending `.pkl` cannot be read as rows\n  -> write the rows as .jsonl or .parquet; a pickle can run code and is never opened"),
    ],
)
def test_what_to_do_instead(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_text("x")
    assert said in wrong(tmp_path / name)


def test_a_name_that_is_no_utf8_can_be_written_down(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.csv")).write_text("x")
    (part,) = expand(str(tmp_path))
    assert part.name == "caf\\xe9.csv" and part.path.read_text() == "x"


def test_the_digest_is_of_names_and_contents(folder: Path) -> None:
    one = expand(str(folder / "b.jsonl"))
    assert digest(one) == hashlib.sha256(b"b.jsonl").hexdigest() == digest([one[0]._replace(name="other", weight=3.0)])
    whole = digest(expand(str(folder)))
    (folder / "b.jsonl").rename(folder / "bb.jsonl")  # the order stays
    renamed = digest(expand(str(folder)))
    (folder / "bb.jsonl").write_text("more")
    assert len({whole, renamed, digest(expand(str(folder)))}) == 3
    parts = expand(str(folder))
    (folder / "bb.jsonl").unlink()
    with pytest.raises(UserError, match="no such file or folder"):
        digest(parts)


def test_remarks_that_files_share_are_said_once() -> None:
    notes = ["a.pdf: some pages hold no text", "a.pdf: lines recur", "b.pdf: some pages hold no text", "c.pdf: some pages hold no text"]
    assert gathered(notes) == ["a.pdf and 2 more: some pages hold no text", "a.pdf: lines recur"]
