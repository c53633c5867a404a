"""Snapshots: the same rows give the same bytes, a file is there whole or not at all, and no password is anywhere."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import UserError
from tunesmith.core.files import sha256_file
from tunesmith.data.readers import formats, stream
from tunesmith.data.readers import snapshot as room
from tunesmith.data.readers.snapshot import collect, is_remote, placed, refuse_password, shown


def database(path: Path, rows: Iterable[tuple[Any, ...]], columns: str = "id, text") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE t ({columns})")
        connection.executemany(f"INSERT INTO t VALUES ({','.join('?' * len(columns.split(',')))})", rows)
    connection.close()
    return f"sqlite:///{path}"


def test_what_is_remote() -> None:
    for value in ("sqlite:///a.db", "duckdb:////a/b.duckdb", "postgresql://u:${P}@h/d", "hub:a/b", "mysql://x", "https://x/y.csv", "${DATABASE_URL}"):
        assert is_remote(value), value
    for value in ("a.csv", "/a/b.csv", "hub/a.csv", "sqlite.db", "c:/a.csv", "none", "${HOME}/a.csv", "a:b.csv", "../hub:x", "données/a b.csv"):
        assert not is_remote(value), value


def test_a_relative_database_is_taken_from_the_recipes_folder(tmp_path: Path) -> None:
    assert placed("sqlite:///shop.db", tmp_path) == f"sqlite:///{tmp_path}/shop.db"
    assert placed("duckdb:///a/shop.db", tmp_path) == f"duckdb:///{tmp_path}/a/shop.db"
    for value in ("sqlite:////data/shop.db", "sqlite:///~/shop.db", "sqlite:///${DATA}/shop.db", "postgresql://h/d", "hub:a/b"):
        assert placed(value, tmp_path) == value


def test_the_same_rows_are_the_same_file(tmp_path: Path) -> None:
    rows = [(number, f"text {number}") for number in range(300)]
    first = collect(database(tmp_path / "a.db", rows), "SELECT * FROM t", tmp_path / "one")
    random.Random(0).shuffle(rows)
    second = collect(database(tmp_path / "a.db", rows), "SELECT * FROM t", tmp_path / "two")
    assert first.name == second.name and first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b'{"id": 0, "text": "text 0"}\n')
    third = collect(database(tmp_path / "a.db", [*rows, (300, "more")]), "SELECT * FROM t", tmp_path / "two")
    assert third == second and sha256_file(third) != sha256_file(first)
    ordered = collect(f"sqlite:///{tmp_path}/a.db", "SELECT * FROM t ORDER BY id DESC", tmp_path / "two")
    assert ordered != third and ordered.read_bytes().startswith(b'{"id": 300, ')


def test_more_rows_than_are_sorted_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(number * 7919 % 5000, "x" * (number % 50)) for number in range(5000)]
    url = database(tmp_path / "a.db", rows)
    at_once = collect(url, "SELECT * FROM t", tmp_path / "one").read_bytes()
    monkeypatch.setattr(room, "SORTED_BYTES", 20_000)
    seen: list[int] = []
    merged = collect(url, "SELECT * FROM t", tmp_path / "two", seen.append)
    assert merged.read_bytes() == at_once
    assert [path.name for path in merged.parent.iterdir()] == [merged.name]
    lines = at_once.splitlines()
    assert lines == sorted(lines) and len(lines) == 5000
    assert seen == [1000, 2000, 3000, 4000, 5000]


def test_what_is_told(tmp_path: Path) -> None:
    url = database(tmp_path / "shop.db", [(number, "x") for number in range(2500)])
    seen: list[int] = []
    said: list[str] = []
    path = collect(url, "SELECT * FROM t", tmp_path, seen.append, say=said.append)
    assert seen == [1000, 2000, 2500]
    assert said == [f"{path.name}: the query has no ORDER BY, so the rows are put in the order of their contents"] and path.name.startswith("shop-")
    said.clear()
    collect(url, "SELECT * FROM t LIMIT 9", tmp_path, say=said.append)
    assert said[0].endswith("; its LIMIT may choose other rows each time")
    said.clear()
    collect(url, "SELECT * FROM t ORDER BY id LIMIT 9", tmp_path, say=said.append)
    assert said == []


def test_two_sides_of_one_database_do_not_meet(tmp_path: Path) -> None:
    url = database(tmp_path / "shop.db", [(1, "a"), (2, "b")])
    paths = [collect(url, f"SELECT * FROM t WHERE id = {number}", tmp_path) for number in (1, 2)]
    assert [path.read_bytes() for path in paths] == [b'{"id": 1, "text": "a"}\n', b'{"id": 2, "text": "b"}\n']


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    url = database(tmp_path / "shop.db", [(number, "x" if number < 1500 else b"\xff") for number in range(2000)])
    with pytest.raises(UserError, match=r"column `text` holds binary data \(row 1501\)"):
        collect(url, "SELECT * FROM t ORDER BY id", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), JSON, min_size=1, max_size=4))
def test_a_record_comes_back_from_its_line(record: dict[str, Any]) -> None:
    line = room._line(record)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert json.loads(line) == record


def test_values_that_json_lacks() -> None:
    values = [Decimal("19.90"), Decimal("7.00"), Decimal("12345678901234567890123"), Decimal("NaN"), Decimal("1E400"), float("inf"), [float("nan")]]
    assert json.loads(room._line({"v": values}))["v"] == [19.9, 7, 12345678901234567890123, None, None, None, [None]]
    assert room._line({"v": "\ud800"}) == b'{"v": "\\ud800"}\n'
    with pytest.raises(TypeError):
        room._line({"v": [memoryview(b"x")]})


@settings(max_examples=25)  # each writes two files
@given(rows=st.lists(st.tuples(st.integers(-9, 9) | st.none(), st.text(st.characters(exclude_categories=["Cs"]))), min_size=1, max_size=20))
def test_the_readers_find_every_row(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int | None, str]]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    path = collect(database(folder / "a.db", rows), "SELECT id, text FROM t ORDER BY rowid", folder)
    expected = [{"id": number, "text": text} for number, text in rows]
    assert [record for _, record in formats.read(path).records] == expected
    assert [record for _, record in stream.Stream(path)] == expected


SECRET = "p@ss/w:o%rd?"


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("postgresql://u:p@ss/w:o%rd?@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgresql://u:secret@h/d?sslmode=require", "postgresql://u:***@h/d?sslmode=require"),
        ("postgresql://:secret@h/d", "postgresql://:***@h/d"),
        ("postgresql://h/d?user=u&password=secret&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("postgresql://u:a${P}@h/d", "postgresql://u:***@h/d"),
    ],
)
def test_a_password_in_the_recipe_is_refused(value: str, seen: str) -> None:
    assert shown(value) == seen
    with pytest.raises(UserError) as caught:
        refuse_password(value)
    assert str(caught.value).startswith(f"{seen}: a password stands in the URL; it would be kept in the run's files\n  -> write ${{DATABASE_PASSWORD}} in")
    with pytest.raises(UserError, match="a password stands in the URL"):
        collect(value, "SELECT 1", Path("nowhere"))


def test_urls_without_a_password_pass() -> None:
    for value in ("postgresql://u:${P}@h:5432/d", "postgresql://u@h:5432/d", "postgresql://h:5432/d", "postgresql:///d?host=/run", "sqlite:///a@b.db"):
        refuse_password(value)
    assert shown("postgresql://u:${P}@h:5432/d") == "postgresql://u:***@h:5432/d"
    assert shown("postgresql://u@h:5432/d") == "postgresql://u@h:5432/d"


def test_a_variable_that_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_PASSWORD", raising=False)
    for value in ("postgresql://u:${SHOP_PASSWORD}@127.0.0.1:1/d", "${SHOP_PASSWORD}"):
        with pytest.raises(UserError, match=r"the environment variable `SHOP_PASSWORD` is not set\n  -> set it before the run: export SHOP_PASSWORD=..."):
            collect(value, "SELECT 1", tmp_path)


@pytest.mark.parametrize(
    ("value", "whole"),
    [
        ("postgresql://${SHOP_USER}:${SHOP_PASSWORD}@127.0.0.1:1/d", ""),
        ("postgresql://127.0.0.1:${SHOP_PASSWORD}/d?password=${SHOP_PASSWORD}", ""),
        ("postgresql://127.0.0.1/d?host=${SHOP_PASSWORD}", ""),
        ("${SHOP}", "postgresql://u:p%40ss%2Fw:o%25rd%3F@127.0.0.1:1/d"),
        ("${SHOP}", f"postgresql://u:{SECRET}@[broken/d"),
        ("${SHOP}", f"mysql://u:{SECRET}@127.0.0.1/d"),
        ("${SHOP}", SECRET),
    ],
)
def test_a_password_is_in_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, whole: str) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", SECRET)
    monkeypatch.setenv("SHOP_USER", "anna")
    monkeypatch.setenv("SHOP", whole)
    said: list[str] = []
    with pytest.raises(UserError) as caught:
        collect(value, "SELECT 1", tmp_path, say=said.append)
    chain = [caught.value]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)  # type: ignore[arg-type]
    text = " ".join(map(str, [*chain, *said]))
    for form in (SECRET, "p%40ss%2Fw:o%25rd%3F", "w:o%rd"):
        assert form not in text
    assert shown(value) in text
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_hidden_in_either_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP", "postgresql://u:p%40ss@h/d")
    secrets: set[str] = set()
    assert room._whole("${SHOP}", "here", secrets) == "postgresql://u:p%40ss@h/d"
    assert room._hidden("for u p%40ss, p@ss; postgresql://u:p%40ss@h/d", secrets) == "for u ***, ***; ***"


def test_a_password_is_not_in_the_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_FOLDER", str(tmp_path / SECRET))
    database(tmp_path / SECRET / "shop.db", [(1, "a")])
    path = collect("sqlite:///${SHOP_FOLDER}/shop.db", "SELECT * FROM t", tmp_path / "out")
    assert path.read_bytes() == b'{"id": 1, "text": "a"}\n' and "w:o%rd" not in str(path)


def test_keys_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`query` goes with databases alone\n  -> leave query out"):
        collect("hub:a/b", "SELECT 1", tmp_path)
    with pytest.raises(UserError, match="`split` goes with data sets of the Hub alone\n  -> leave split out"):
        collect(database(tmp_path / "a.db", []), "SELECT * FROM t", tmp_path, split="test")
