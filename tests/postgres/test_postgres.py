"""PostgreSQL for real; `tests/postgres/run.sh` starts one and sets TUNESMITH_POSTGRES_URL, without which these tests are skipped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.errors import UserError
from tunesmith.core.files import sha256_file
from tunesmith.data.readers.snapshot import collect

URL = os.environ.get("TUNESMITH_POSTGRES_URL", "")
ROWS = 100_000

pytestmark = pytest.mark.skipif(not URL, reason="tests/postgres/run.sh sets TUNESMITH_POSTGRES_URL")

TABLES = f"""
    CREATE SCHEMA tunesmith_test;
    CREATE TABLE tunesmith_test.tickets AS SELECT i AS id, 'Größe ' || i || E' \\n "quoted" \\t 😀 ' || repeat('x', i % 200) AS message,
        CASE WHEN i % 7 = 0 THEN NULL ELSE 'queue ' || i % 5 END AS queue, (i * 1.25)::numeric(12, 2) AS price, DATE '2024-02-28' + i % 3 AS day
        FROM generate_series(1, {ROWS}) AS i ORDER BY random();
    CREATE TABLE tunesmith_test."Odd" ("the ""text" text, "order" int);
    INSERT INTO tunesmith_test."Odd" VALUES ('a', 1);
    CREATE TYPE tunesmith_test.mood AS ENUM ('sad', 'glad');
    CREATE SEQUENCE tunesmith_test.counter;
"""


def execute(sql: str) -> None:
    import psycopg

    variables = {"${TUNESMITH_POSTGRES_PASSWORD}": os.environ.get("TUNESMITH_POSTGRES_PASSWORD", "")}
    parts = {key: variables.get(str(value), value) for key, value in psycopg.conninfo.conninfo_to_dict(URL).items()}
    with psycopg.connect(**parts, autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute(sql.encode())


@pytest.fixture(scope="module", autouse=True)
def tables() -> Iterator[None]:
    execute("DROP SCHEMA IF EXISTS tunesmith_test CASCADE;" + TABLES)
    yield
    execute("DROP SCHEMA tunesmith_test CASCADE")


def rows(query: str, folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in collect(URL, query, folder).read_bytes().split(b"\n")[:-1]]


def refused(query: str | None, folder: Path, url: str = URL) -> str:
    with pytest.raises(UserError) as caught:
        collect(url, query, folder)
    assert list(folder.iterdir()) == []
    text = str(caught.value)
    assert os.environ["TUNESMITH_POSTGRES_PASSWORD"] not in text and "\n  -> " in text
    return text


def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    seen: list[int] = []
    said: list[str] = []
    path = collect(URL, "SELECT * FROM tunesmith_test.tickets ORDER BY id;", tmp_path, seen.append, say=said.append)
    found = path.read_bytes().split(b"\n")[:-1]
    assert len(found) == ROWS and seen[-1] == ROWS and said == []
    for number in (1, 2, 7, 40, ROWS):
        row = json.loads(found[number - 1])
        assert row.pop("price") == number * 1.25
        assert row == {
            "id": number,
            "message": f'Größe {number} \n "quoted" \t 😀 ' + "x" * (number % 200),
            "queue": None if number % 7 == 0 else f"queue {number % 5}",
            "day": ["2024-02-28", "2024-02-29", "2024-03-01"][number % 3],
        }


def test_the_same_rows_are_the_same_file_however_they_lie(tmp_path: Path) -> None:
    query = "SELECT id, message, queue FROM tunesmith_test.tickets WHERE id <= 20000"
    said: list[str] = []
    first = collect(URL, query, tmp_path / "a", say=said.append)
    execute("UPDATE tunesmith_test.tickets SET queue = queue WHERE id % 3 = 0")  # moves rows, changes nothing
    second = collect(URL, query, tmp_path / "b")
    assert sha256_file(first) == sha256_file(second)
    assert said == [f"{first.name}: the query has no ORDER BY, so the rows are put in the order of their contents"]
    execute("UPDATE tunesmith_test.tickets SET queue = 'other' WHERE id = 5")
    assert sha256_file(collect(URL, query, tmp_path / "b")) != sha256_file(first)


def test_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")  # where the session would begin
    query = """
        SELECT 7.00::numeric(9, 2) AS whole, 'NaN'::numeric AS nan, 'infinity'::float8 AS inf, 12345678901234567890::numeric AS large, true AS yes,
        NULL AS nothing,
        DATE 'infinity' AS never, DATE '0044-03-15 BC' AS ides, TIMESTAMP '2024-01-01 10:00:00.5' AS plain, TIMESTAMPTZ '2024-01-01 10:00:00+02' AS at,
        INTERVAL '1 month 2 days' AS span, TIME '10:00' AS clock, ARRAY['a', NULL, 'ü'] AS list, ARRAY[[1, 2], [3, 4]] AS grid,
        ARRAY[DATE '2024-01-01'] AS days,
        '[{"role": "user", "content": "x"}]'::jsonb AS messages, '{"b": 1, "a": [1.5]}'::json AS object, 'glad'::tunesmith_test.mood AS mood,
        inet '10.0.0.1/8' AS net,
        '00000000-0000-0000-0000-000000000001'::uuid AS name, int4range(1, 5) AS span2, 100 % 7 AS rest, '%s' AS percent
    """
    (found,) = rows(query, tmp_path)
    assert found.pop("span2").startswith("[1, 5)")
    assert found == {
        "whole": 7,
        "nan": None,
        "inf": None,
        "large": 12345678901234567890,
        "yes": True,
        "nothing": None,
        "never": "infinity",
        "ides": "0044-03-15 BC",
        "plain": "2024-01-01 10:00:00.5",
        "at": "2024-01-01 08:00:00+00",
        "span": "1 mon 2 days",
        "clock": "10:00:00",
        "list": ["a", None, "ü"],
        "grid": [[1, 2], [3, 4]],
        "days": ["2024-01-01"],
        "messages": [{"role": "user", "content": "x"}],
        "object": {"b": 1, "a": [1.5]},
        "mood": "glad",
        "net": "10.0.0.1/8",
        "name": "00000000-0000-0000-0000-000000000001",
        "rest": 2,
        "percent": "%s",
    }


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("DELETE FROM tunesmith_test.tickets", "the query begins with `DELETE`; only reading is allowed"),
        ("WITH gone AS (DELETE FROM tunesmith_test.tickets RETURNING *) SELECT * FROM gone", "refused the query: DECLARE CURSOR must not contain data-"),
        ("SELECT 1; COMMIT; DROP TABLE tunesmith_test.tickets", "the query has several statements"),
        ("SELECT E'\\'' ; COMMIT; SET default_transaction_read_only = off; DROP TABLE tunesmith_test.tickets --'", "cannot insert multiple"),
        ("SELECT nextval('tunesmith_test.counter')", "cannot execute nextval() in a read-only transaction"),
        ("SELECT set_config('transaction_read_only', 'off', false), nextval('tunesmith_test.counter')", "read-write mode must be set before any query"),
        ("SELECT * FROM tunesmith_test.tickets FOR UPDATE", "in a read-only transaction"),
        ("SELECT * INTO tunesmith_test.copied FROM tunesmith_test.tickets", "SELECT ... INTO is not allowed here"),
    ],
)
def test_nothing_is_written(tmp_path: Path, query: str, text: str) -> None:
    assert text in refused(query, tmp_path)
    (tmp_path / "after").mkdir()
    used, copied = "(SELECT is_called FROM tunesmith_test.counter)", "to_regclass('tunesmith_test.copied')"
    after = f"SELECT count(*) AS n, {used} AS used, {copied} AS copied FROM tunesmith_test.tickets"
    assert rows(after, tmp_path / "after") == [{"n": ROWS, "used": False, "copied": None}]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (None, 'its tables are `tunesmith_test.Odd`, `tunesmith_test.tickets`\n  -> add one: query: SELECT "the ""text", "order" FROM '),
        ("SELECT * FROM tunesmith_test.ticket", 'relation "tunesmith_test.ticket" does not exist, did you mean `tunesmith_test.tickets`?\n  -> correct the'),
        ("SELECT messag FROM tunesmith_test.tickets", 'column "messag" does not exist, did you mean `message`?\n  -> correct the query'),
        ("SELECT * FROM tunesmith_test.tickets WHERE", "the database refused the query: syntax error at end of input\n  -> correct the query"),
        ("SELECT id, id FROM tunesmith_test.tickets", "the query gives column `id` 2 times"),
        ("SELECT * FROM tunesmith_test.tickets WHERE id < 0", "the source gave no rows\n  -> check what the query asks for"),
        ("SELECT 'x'::bytea AS picture", "column `picture` holds binary data (row 1)\n  -> leave the column out of the query, or turn it into text there"),
        ("SELECT 1 / (id - 5) AS x FROM tunesmith_test.tickets ORDER BY id", "the database refused the query: division by zero"),
        ("SELECT pg_terminate_backend(pg_backend_pid()) AS x", "the connection was lost: terminating connection"),
    ],
)
def test_what_is_said(tmp_path: Path, query: str | None, text: str) -> None:
    assert text in refused(query, tmp_path)


def test_connections_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, _, end = URL.rpartition("/")
    assert 'database "nowhere" does not exist\n  -> check the names of the database and the user' in refused("SELECT 1", tmp_path, f"{start}/nowhere")
    closed = URL.replace(start.rpartition(":")[2], "1")
    assert "no connection: " in (said := refused("SELECT 1", tmp_path, closed)) and said.endswith("that this machine may reach it")
    assert "not a URL of PostgreSQL" in refused("SELECT 1", tmp_path, f"{start}/{end}?no_such=1")
    secret = os.environ["TUNESMITH_POSTGRES_PASSWORD"]
    monkeypatch.setenv("TUNESMITH_POSTGRES_PASSWORD", "wrong")
    said = refused("SELECT 1", tmp_path)
    assert 'no connection: connection failed: connection to server at "127.0.0.1"' in said and "password authentication failed for user" in said
    assert said.endswith("-> check the user, and the variable that holds the password: postgresql://USER:${DATABASE_PASSWORD}@HOST/DATABASE")
    assert "wrong" not in said and secret not in said and "${TUNESMITH" not in said


def test_a_whole_url_in_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quote: Callable[[str], str]) -> None:
    url = URL.replace("${TUNESMITH_POSTGRES_PASSWORD}", quote(os.environ["TUNESMITH_POSTGRES_PASSWORD"]))
    monkeypatch.setenv("DATABASE_URL", url)
    assert collect("${DATABASE_URL}", "SELECT 1 AS one", tmp_path).read_bytes() == b'{"one": 1}\n'
    for one in tmp_path.iterdir():
        one.unlink()
    monkeypatch.setenv("DATABASE_URL", url.replace("tester", "nobody"))
    assert quote(os.environ["TUNESMITH_POSTGRES_PASSWORD"]) not in refused("SELECT 1", tmp_path, "${DATABASE_URL}")


@pytest.fixture
def quote() -> Callable[[str], str]:
    from urllib.parse import quote

    return lambda text: quote(text, safe="")


def test_the_proposed_query_runs(tmp_path: Path) -> None:
    query = refused(None, tmp_path).partition("add one: query: ")[2]
    assert rows(query, tmp_path) == [{'the "text': "a", "order": 1}]
