"""SQL sources: what a query gives, that nothing can be written, and what a user is told."""

from __future__ import annotations

import builtins
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.core.errors import UserError
from tunesmith.data.readers import sql
from tunesmith.data.readers.snapshot import collect

Make = Callable[[Path], str]


def sqlite_file(folder: Path) -> str:
    with sqlite3.connect(folder / "shop.db") as connection:
        connection.executescript("""
            CREATE TABLE tickets (id INTEGER PRIMARY KEY, message TEXT, queue TEXT, score REAL);
            INSERT INTO tickets VALUES (1, 'Où est mon colis ?', 'post', 0.5), (2, 'größe'' ; --', NULL, NULL), (3, 'line' || char(10) || 'two', 'post', 2.0);
            CREATE TABLE "odd names" ("order" TEXT, "a ""b" TEXT);
            CREATE TABLE files (name TEXT, content BLOB);
            INSERT INTO files VALUES ('a', x'00ff');
            CREATE TABLE broken (t TEXT);
            INSERT INTO broken VALUES (CAST(x'ff' AS TEXT));
            CREATE VIEW posts AS SELECT * FROM tickets WHERE queue = 'post';
        """)
    connection.close()
    return f"sqlite:///{folder}/shop.db"


def duckdb_file(folder: Path) -> str:
    with duckdb.connect(str(folder / "shop.duckdb")) as connection:
        connection.execute("""
            CREATE TABLE tickets (id INTEGER, message TEXT, queue TEXT, score DOUBLE);
            INSERT INTO tickets VALUES (1, 'Où est mon colis ?', 'post', 0.5), (2, 'größe'' ; --', NULL, NULL), (3, 'line' || chr(10) || 'two', 'post', 2.0);
            CREATE TABLE files AS SELECT 'a' AS name, '\\x00'::BLOB AS content;
            CREATE SCHEMA other;
            CREATE TABLE other.notes (t TEXT);
        """)
    return f"duckdb:///{folder}/shop.duckdb"


BOTH = pytest.mark.parametrize("make", [sqlite_file, duckdb_file])


def rows(url: str, query: str | None, folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in collect(url, query, folder / "out").read_bytes().split(b"\n")[:-1]]


def refused(url: str, query: str | None, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        collect(url, query, folder / "out")
    assert not any((folder / "out").iterdir()) if (folder / "out").exists() else True, "something was left behind"
    assert caught.value.remedy
    return str(caught.value)


@BOTH
def test_rows_as_the_query_gives_them(tmp_path: Path, make: Make) -> None:
    found = rows(make(tmp_path), "SELECT id, message, queue, score FROM tickets ORDER BY id DESC; -- the last first", tmp_path)
    assert found == [
        {"id": 3, "message": "line\ntwo", "queue": "post", "score": 2.0},
        {"id": 2, "message": "größe' ; --", "queue": None, "score": None},
        {"id": 1, "message": "Où est mon colis ?", "queue": "post", "score": 0.5},
    ]
    assert [list(row) for row in found] == [["id", "message", "queue", "score"]] * 3


def test_types_of_duckdb(tmp_path: Path) -> None:
    url = duckdb_file(tmp_path)
    query = """
        SELECT 19.90::DECIMAL(9,2) AS price, 7::DECIMAL(9,2) AS whole, 170141183460469231731687303715884105727::HUGEINT AS huge, DATE '2024-02-29' AS day,
        'infinity'::DATE AS never, TIMESTAMPTZ '2024-01-01 10:00:00+02' AS at,
        INTERVAL 1 MONTH AS span, [1, 2] AS list, {'a': DATE '2024-01-01', 'b': NULL} AS pair,
        '{"role": "user", "n": [1]}'::JSON AS message, NULL::JSON AS nothing, 'nan'::DOUBLE AS nan, ['inf'::DOUBLE] AS inf, true AS yes,
        uuid '00000000-0000-0000-0000-000000000001' AS name, MAP {'k': [TIMESTAMPTZ '2024-01-01 10:00:00+02']} AS "M""p" ORDER BY price
    """
    assert rows(url, query, tmp_path) == [
        {
            "price": 19.9,
            "whole": 7,
            "huge": 170141183460469231731687303715884105727,
            "day": "2024-02-29",
            "never": "infinity",
            "at": "2024-01-01 08:00:00+00",
            "span": "1 month",
            "list": [1, 2],
            "pair": {"a": "2024-01-01", "b": None},
            "message": {"role": "user", "n": [1]},
            "nothing": None,
            "nan": None,
            "inf": [None],
            "yes": True,
            "name": "00000000-0000-0000-0000-000000000001",
            'M"p': {"k": ["2024-01-01 08:00:00+00"]},
        }
    ]


@BOTH
@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM tickets",
        "SELECT 1; DELETE FROM tickets",
        "WITH x AS (SELECT 1) DELETE FROM tickets",
        "WITH x AS (SELECT 1) INSERT INTO tickets (id) SELECT 9",
        "ATTACH 'OUT.db' AS o",
        "COPY tickets TO 'OUT.csv'",
        "PRAGMA writable_schema = 1",
        "/* SELECT */ DROP TABLE tickets",
        "VACUUM INTO 'OUT.db'",
    ],
)
def test_nothing_is_written(tmp_path: Path, make: Make, query: str) -> None:
    url = make(tmp_path)
    path = Path(url.partition("://")[2][1:])
    before, names = path.read_bytes(), sorted(one.name for one in tmp_path.iterdir())
    assert refused(url, query.replace("OUT", f"{tmp_path}/OUT"), tmp_path)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir() if one.name != "out") == names


def test_a_log_that_waits_is_left_waiting(tmp_path: Path) -> None:
    """Who opens SQLite's write-ahead log to write brings the file up to date on leaving; the rows in the log are read all the same."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as writer:
        writer.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
        (tmp_path / "copy").mkdir()
        for name in ("shop.db", "shop.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / "copy" / name)
    before = (tmp_path / "copy" / "shop.db").read_bytes()
    assert rows(f"sqlite:///{tmp_path}/copy/shop.db", "SELECT * FROM t", tmp_path) == [{"x": 1}]
    assert (tmp_path / "copy" / "shop.db").read_bytes() == before and (tmp_path / "copy" / "shop.db-wal").stat().st_size


@pytest.mark.parametrize("query", ["SELECT * FROM read_text('SECRET')", "SELECT * FROM 'SECRET.csv'", "FROM glob('SECRET*')", "SELECT * FROM tickets_frame"])
def test_duckdb_reads_nothing_but_the_database(tmp_path: Path, query: str) -> None:
    tickets_frame = pa.table({"t": ["in our process"]})  # noqa: F841  # DuckDB would find it by its name
    (tmp_path / "secret").write_text("hidden")
    (tmp_path / "secret.csv").write_text("a\nhidden\n")
    assert "hidden" not in refused(duckdb_file(tmp_path), query.replace("SECRET", f"{tmp_path}/secret"), tmp_path)


def test_sqlite_writes_nothing_whatever_it_is_asked(tmp_path: Path) -> None:
    """The connection itself refuses, should a statement ever come past the look at its first word."""
    with sql._sqlite(sqlite_file(tmp_path), "here", str) as database:
        for query in ("DELETE FROM tickets", "CREATE TEMP TABLE x (a)", "SELECT 1; SELECT 2"):
            with pytest.raises(sqlite3.Error, match=r"readonly|one statement"):
                database.select(query)


def test_what_sqlite_can_select_from(tmp_path: Path) -> None:
    url = sqlite_file(tmp_path)
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.executescript("""
            CREATE VIRTUAL TABLE search USING fts5(body);
            INSERT INTO search VALUES ('my parcel is late');
            CREATE VIEW gone AS SELECT * FROM nowhere;
            CREATE TABLE made (y TEXT, x TEXT GENERATED ALWAYS AS (y || '!') STORED);
            INSERT INTO made VALUES ('[1, "b"]');
        """)
    connection.close()
    for query, expected in (
        ("SELECT id FROM posts ORDER BY id", [{"id": 1}, {"id": 3}]),
        ("SELECT body FROM search WHERE search MATCH 'parcel'", [{"body": "my parcel is late"}]),
        ("SELECT value FROM made, json_each(made.y) ORDER BY 1", [{"value": 1}, {"value": "b"}]),
        ("SELECT x FROM made", [{"x": '[1, "b"]!'}]),
        ("VALUES (1)", [{"column1": 1}]),
        ("WITH RECURSIVE n(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n WHERE v < 3) SELECT v FROM n ORDER BY v DESC", [{"v": 3}, {"v": 2}, {"v": 1}]),
    ):
        assert rows(url, query, tmp_path) == expected
    assert "shop.db: no such table: main.nowhere" in refused(url, "SELECT * FROM gone", tmp_path / "x")
    assert "its tables are `broken`, `files`, `made`" in refused(url, None, tmp_path / "x")


SAID = [
    (sqlite_file, "select * from ticket", "no such table: ticket, did you mean `tickets`?\n  -> correct the query; the tables are"),
    (duckdb_file, "select * from ticket", 'Table with name ticket does not exist! Did you mean "tickets"?\n  -> correct the query; the tables are `files`'),
    (sqlite_file, "select mesage from tickets", "no such column: mesage, did you mean `message`?\n  -> correct the query"),
    (duckdb_file, "select mesage from tickets", 'Referenced column "mesage" not found in FROM clause! Candidate bindings: "message"'),
    (sqlite_file, "select * from tickets where", "the database refused the query: incomplete input\n  -> correct the query"),
    (duckdb_file, "select * from tickets where", "the database refused the query: Parser Error: syntax error at or near \"where\"\n  -> correct"),
    (sqlite_file, "select id, id from tickets", "the query gives column `id` 2 times\n  -> name each in the query: SELECT a.id AS first_id, ..."),
    (duckdb_file, "select * from tickets a join tickets b using (queue)", "the query gives column `id` 2 times"),
    (sqlite_file, "select * from files", "column `content` holds binary data (row 1)\n  -> leave the column out of the query, or turn it into text there"),
    (duckdb_file, "select * from files", "column `content` holds binary data (row 1)"),
    (duckdb_file, "select [content] as c from files", "column `c` holds binary data (row 1)"),
    (sqlite_file, "select * from broken", "the database refused the query: Could not decode to UTF-8 column 't'"),
    (sqlite_file, "select * from tickets where id > 9", "the source gave no rows\n  -> check what the query asks for"),
    (duckdb_file, "select * from tickets where id > 9", "the source gave no rows\n  -> check what the query asks for"),
    (sqlite_file, "drop table tickets", "the query begins with `drop`; only reading is allowed\n  -> begin it with SELECT, WITH, VALUES or TABLE"),
    (duckdb_file, "select 1; select 2", "the query has several statements\n  -> keep one SELECT; parts of it can stand in WITH name AS (...)"),
    (sqlite_file, "select 1 as x$a$; select 2 as y$a$", "the database refused the query: You can only execute one statement at a time"),
    (duckdb_file, "select e'\\'' ; drop table tickets --'", "the query has several statements\n  -> keep one SELECT"),
    (sqlite_file, None, "a database needs a query; its tables are `broken`, `files`, `odd names`, `posts`, `tickets`\n  -> add one: query: SEL"),
    (duckdb_file, " ", '`files`, `tickets`, `other.notes`\n  -> add one: query: SELECT "name", "content" FROM "files" ORDER BY "name"'),
]


@pytest.mark.parametrize(("make", "query", "text"), SAID, ids=[f"{case[0].__name__[:6]}-{case[1]}" for case in SAID])
def test_what_is_said(tmp_path: Path, make: Make, query: str | None, text: str) -> None:
    url = make(tmp_path)
    found = refused(url, query, tmp_path)
    assert found.startswith(f"{url}: ") and text in found


def test_the_proposed_query_runs(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.executescript("""CREATE TABLE "my ""order" ("group" TEXT, "x y" TEXT); INSERT INTO "my ""order" VALUES (1, 2)""")
    connection.close()
    query = refused(f"sqlite:///{tmp_path}/a.db", None, tmp_path).partition("add one: query: ")[2]
    assert rows(f"sqlite:///{tmp_path}/a.db", query, tmp_path) == [{"group": "1", "x y": "2"}]


def test_files_that_are_no_database(tmp_path: Path) -> None:
    sqlite_file(tmp_path), duckdb_file(tmp_path)
    (tmp_path / "text.db").write_text("not a database, but a text that is long enough to look like one, or so it may seem to some" * 20)
    (tmp_path / "empty.db").touch()
    cases = {
        "sqlite:///{}/shp.db": "no such file, did you mean `shop.db`?\n  -> check the path; it is taken from the recipe's folder",
        "sqlite:///{}": "not a plain file",
        "sqlite:///{}/text.db": "SQLite cannot open it: file is not a database\n  -> give a file that SQLite wrote",
        "sqlite:///{}/shop.duckdb": "SQLite cannot open it: file is not a database\n  -> give a file that SQLite wrote; for one of DuckDB write duckdb:///PATH",
        "duckdb:///{}/text.db": "not a valid DuckDB database file!\n  -> give a file that DuckDB wrote; for one of SQLite write sqlite:///PATH",
        "duckdb:///{}/shop.db": "DuckDB cannot open it",
        "sqlite:///{}/empty.db": "no such table: t",
        "sqlite://shop.db": "the URL of a database file has three slashes and a path\n  -> write sqlite:///shop.db for a file beside the recipe",
        "sqlite3:///{}/shop.db": "`sqlite3://` is no source of rows, did you mean `sqlite`?\n  -> give sqlite:///PATH",
        "https://host/a.csv": "`https://` is no source of rows\n  -> download it, and give the file",
        "mysql://host/db": "`mysql://` is no source of rows\n  -> give sqlite:///PATH, duckdb:///PATH, postgresql://USER:${PASSWORD}@HOST/DATABASE, ",
    }
    for url, text in cases.items():
        assert text in refused(url.format(tmp_path), "SELECT * FROM t", tmp_path), url
    assert "no tables that can be read" in refused(f"sqlite:///{tmp_path}/empty.db", None, tmp_path)


@pytest.mark.parametrize(("url", "package", "extra"), [("postgresql://u:${P}@127.0.0.1/x", "psycopg", "postgres"), ("duckdb:///DB", "duckdb", "duckdb")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, package: str, extra: str) -> None:
    importing = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    found = refused(url.replace("DB", f"{tmp_path}/shop.duckdb"), "SELECT 1", tmp_path)
    assert found.endswith(f"the package `{package}` is not installed\n  -> pip install 'tunesmith[{extra}]'")


def test_statements() -> None:
    one = sql.one_statement
    with_comment = "-- why\nWITH a AS (SELECT ';') SELECT * FROM a"
    for query in ("select 1", " (SELECT 1) UNION (SELECT 2)", with_comment, "VALUES(1)", "table t", "SELECT*FROM t", 'select "a;b"'):
        assert one(query, "here") == query
        assert one(f"{query} ;\n -- end; of it", "here") == query
    for query, word in (("", ""), (";", ";"), ("/* a */ (insert into t)", "insert"), ("selection", "selection"), ("explain select", "explain"), ("'a'", "'a'")):
        with pytest.raises(UserError, match=f"here: the query begins with `{word}`; only reading is allowed"):
            one(query, "here")
    for query in ("select 1; select 2", "select ';'; drop table t", "select 1 /* ; */; select 2", "select 1;;select 2"):
        with pytest.raises(UserError, match="several statements"):
            one(query, "here")


ORDERED = {
    "select * from t order by id": True,
    "SELECT * FROM t\nORDER\n BY id LIMIT 3;": True,
    "select * from (select * from t order by id) x": False,
    "select row_number() over (order by (id)) from t": False,
    "select 'order by' from t -- order by id": False,
    'select "order by" from t': False,
    "select order_by from t": False,
    "with a as (select 1) select f((1), (2)) from a order by (1)": True,
}


@pytest.mark.parametrize(("query", "expected"), ORDERED.items())
def test_order(query: str, expected: bool) -> None:
    assert sql.ordered(query) is expected


@given(st.text(alphabet="a '\"$;()-/*\n\\E", max_size=40))
def test_a_literal_is_never_taken_for_sql(text: str) -> None:
    literal = "'" + text.replace("'", "''") + "'"
    assert sql.one_statement(f"SELECT {literal} ;", "here").strip() == f"SELECT {literal}"
    assert not sql.ordered(f"SELECT {literal}, 'order by'")


def test_a_large_result_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are taken from the driver as they are asked for: after the first, the driver has not been asked for the last."""
    taken: list[int] = []
    connect = sqlite3.connect

    def connected(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.create_function("seen", 1, lambda value: taken.append(value) or value)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connected)
    query = "WITH RECURSIVE n(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n WHERE v < 5000) SELECT seen(v) AS v FROM n"
    stream = sql.records(sqlite_file(tmp_path), query, "here", str)
    assert next(stream) == {"v": 1}
    assert len(taken) < 10
    stream.close()
