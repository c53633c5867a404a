"""SQL databases as sources: the rows of one reading query, a thousand at a time; SQLite, DuckDB and PostgreSQL.

The database is opened so that it can only be read, whatever the query says.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.errors import UserError, nearest, some
from tunesmith.core.files import as_user_error

FETCH_ROWS = 1000
ELSEWHERE = ("http", "https", "ftp", "s3", "gs", "az", "abfs", "hdfs")
"""Schemes of files on other machines."""
BLANKED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$""", re.S)
"""What of a query is no SQL: literals, quoted names, comments."""
READING = ("SELECT", "WITH", "VALUES", "TABLE", "FROM")
DUCKDB_MEMORY = "1GB"
"""Beyond this DuckDB sorts and joins on the disk. A convention of ours: it runs inside our process, and its own default is 80 % of the machine's memory."""
CONNECT_SECONDS = 10
AS_JSON = "to_json({})"

Columns = Iterable[tuple[str, str, str]]


class Database(NamedTuple):
    """An open database: what a query gives (column names, rows), its columns as (schema or nothing, table, column), what it raises, whether it is gone."""

    select: Callable[[str], tuple[list[str], Iterator[Sequence[Any]]]]
    columns: Callable[[], Columns]
    errors: tuple[type[Exception], ...]
    lost: Callable[[], bool]


def records(url: str, query: str | None, place: str, resolve: Callable[[str], str]) -> Iterator[dict[str, Any]]:
    """The rows that a query gives, as they come from the database.

    Args:
        url: sqlite:///PATH, duckdb:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE, with variables that `resolve` knows in any part.
        query: one SELECT, WITH, VALUES or TABLE statement.
        place: the URL as messages may show it.
        resolve: puts the environment's values in place of variables; applied to each part of the URL, so that a value needs no escapes.

    Yields:
        Column -> value; dates and times as the database writes them (text), all else as its driver gives it.

    Raises:
        UserError: no such database, no connection, no query, a query that does not only read or that the database refuses, or a column that occurs
            twice. A driver's words stand in some of them: the caller hides what is secret.
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        what = f"`{scheme}://` is no source of rows{nearest(scheme, SCHEMES)}"
        remedy = "give sqlite:///PATH, duckdb:///PATH, postgresql://USER:${PASSWORD}@HOST/DATABASE, hub:OWNER/NAME or a file"
        raise UserError(what, place, "download it, and give the file" if scheme in ELSEWHERE else remedy)
    with SCHEMES[scheme](url, place, resolve) as database:
        if not (query or "").strip():
            raise _no_query(database, place)
        statement = one_statement(query or "", place)
        try:
            names, rows = database.select(statement)
            if twice := [name for name in names if names.count(name) > 1]:
                what = f"the query gives column `{twice[0]}` {names.count(twice[0])} times"
                raise UserError(what, place, f"name each in the query: SELECT a.{twice[0]} AS first_{twice[0]}, ...")
            for row in rows:
                yield dict(zip(names, row, strict=True))
        except database.errors as error:
            raise _refused(str(error), database, place) from None


def one_statement(query: str, place: str) -> str:
    """The query without the semicolon and the comments behind it, when it is one statement that reads.

    The database itself is asked to write nothing; this is the same said early, in words.

    Raises:
        UserError: several statements, or one that is no SELECT, WITH, VALUES or TABLE.
    """
    body = _blanked(query).rstrip("; \t\r\n")
    if ";" in body:
        raise _several(place)
    start = len(body) - len(body.lstrip("( \t\r\n"))
    if re.split(r"\W", body[start:], maxsplit=1)[0].upper() not in READING:
        begins = query[start:].split(maxsplit=1)[0] if query[start:].strip() else ""
        raise UserError(f"the query begins with `{begins[:40]}`; only reading is allowed", place, "begin it with SELECT, WITH, VALUES or TABLE")
    return query[: len(body)]


def _several(place: str) -> UserError:
    return UserError("the query has several statements", place, "keep one SELECT; parts of it can stand in WITH name AS (...)")


def ordered(query: str) -> bool:
    """Whether the rows come in an order that the query says: ORDER BY outside of all parentheses."""
    flat, before = _blanked(query), ""
    while flat != before:
        flat, before = re.sub(r"\([^()]*\)", " ", flat), flat
    return re.search(r"\border\s+by\b", flat, re.I) is not None


def _blanked(query: str) -> str:
    """The query, as long as before, with spaces in place of comments and quotes in place of literals and quoted names."""
    return BLANKED.sub(lambda found: (" " if found[0].startswith(("--", "/*")) else "'") * len(found[0]), query)


def _file(url: str, place: str, resolve: Callable[[str], str]) -> Path:
    """The path of sqlite:///PATH."""
    rest = url.partition("://")[2]
    if not rest.startswith("/") or rest == "/":
        remedy = "write sqlite:///shop.db for a file beside the recipe, or sqlite:////data/shop.db for /data/shop.db (duckdb likewise)"
        raise UserError("the URL of a database file has three slashes and a path", place, remedy)
    path = Path(os.path.expanduser(resolve(rest[1:])))
    if not path.exists():
        near = nearest(path.name, [one.name for one in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise UserError(f"no such file{near}", place, "check the path; it is taken from the recipe's folder")
    if not path.is_file():
        raise UserError("not a plain file", place, "give the file of the database")
    try:
        with open(path, "rb"):  # a driver says `unable to open` for every cause
            return path
    except OSError as error:
        raise as_user_error(error, path) from error


@contextmanager
def _sqlite(url: str, place: str, resolve: Callable[[str], str]) -> Iterator[Database]:
    import sqlite3

    def select(query: str) -> tuple[list[str], Iterator[Sequence[Any]]]:
        cursor = connection.execute(query)
        return [column[0] for column in cursor.description], cursor

    def columns() -> Columns:
        where = "type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
        for (table,) in connection.execute(f"SELECT name FROM sqlite_master WHERE {where}").fetchall():
            with suppress(sqlite3.Error):  # a view of a table that is gone
                yield from (("", table, column) for (column,) in connection.execute("SELECT name FROM pragma_table_info(?) ORDER BY cid", [table]).fetchall())

    path = _file(url, place, resolve)
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.Error as error:
            raise UserError(f"SQLite cannot open it: {error}", place, "give a file that SQLite wrote; for one of DuckDB write duckdb:///PATH") from None
        yield Database(select, columns, (sqlite3.Error,), lost=lambda: False)


@contextmanager
def _duckdb(url: str, place: str, resolve: Callable[[str], str]) -> Iterator[Database]:
    try:
        import duckdb
    except ImportError:
        raise _missing("duckdb", "duckdb", place) from None

    def select(query: str) -> tuple[list[str], Iterator[Sequence[Any]]]:
        if len(connection.extract_statements(query)) != 1:  # in the database's own eyes: its literals may end elsewhere than BLANKED thinks
            raise _several(place)
        given = connection.sql(query)
        names, types = list(given.columns), [str(kind) for kind in given.types]
        if len(set(names)) < len(names):
            return names, iter(())
        # Lists, structs and JSON come as JSON, dates and times as text: the driver needs pytz for a time with its zone and knows no date `infinity`.
        how = {name: as_text for name, kind in zip(names, types, strict=True) if (as_text := _duckdb_text(kind))}
        changed = ", ".join(f"{as_text.format(quoted(name))} AS {quoted(name)}" for name, as_text in how.items())
        result = connection.execute(f"SELECT *{f' REPLACE ({changed})' if changed else ''} FROM (\n{query}\n)")
        parsed = [name in how and how[name] == AS_JSON for name in names]
        rows = (row for batch in iter(lambda: result.fetchmany(FETCH_ROWS), []) for row in batch)
        if not any(parsed):
            return names, rows
        return names, ([json.loads(value) if parse and value is not None else value for parse, value in zip(parsed, row, strict=True)] for row in rows)

    def columns() -> Columns:
        schema = "CASE table_schema WHEN 'main' THEN '' ELSE table_schema END"
        found = connection.execute(f"SELECT {schema}, table_name, column_name FROM information_schema.columns ORDER BY 1, 2, ordinal_position").fetchall()
        return [(str(schema), str(table), str(column)) for schema, table, column in found]

    path = _file(url, place, resolve)
    with tempfile.TemporaryDirectory() as spill:
        settings: dict[str, Any] = {"enable_external_access": "false", "memory_limit": DUCKDB_MEMORY, "temp_directory": spill}
        try:
            opened = duckdb.connect(str(path), read_only=True, config=settings)
        except duckdb.Error as error:
            locked = "lock" in str(error)
            remedy = "close the program that has it open" if locked else "give a file that DuckDB wrote; for one of SQLite write sqlite:///PATH"
            raise UserError(f"DuckDB cannot open it: {_one_line(str(error))}", place, remedy) from None
        with closing(opened) as connection:
            yield Database(select, columns, (duckdb.Error,), lost=lambda: False)


def _duckdb_text(kind: str) -> str | None:
    """What turns a DuckDB type into text that Python can take, if it needs that; bytes stay bytes, to be refused."""
    if "BLOB" in kind:
        return None
    if kind == "JSON" or kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")):
        return AS_JSON
    return "CAST({} AS VARCHAR)" if kind.startswith(("DATE", "TIME", "INTERVAL")) else None


@contextmanager
def _postgresql(url: str, place: str, resolve: Callable[[str], str]) -> Iterator[Database]:
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
        from psycopg.types.string import TextLoader
    except ImportError:
        raise _missing("psycopg", "postgres", place) from None

    def select(query: str) -> tuple[list[str], Iterator[Sequence[Any]]]:
        cursor = connection.cursor("tunesmith_rows")  # named: kept by the server, which hands out FETCH_ROWS at a time and takes one statement only
        cursor.itersize = FETCH_ROWS
        cursor.execute(query.encode())  # bytes, since the driver's types take a text for its author's own words
        return [column.name for column in cursor.description or ()], iter(cursor)

    def columns() -> Columns:
        connection.rollback()
        schema = "CASE WHEN table_schema = ANY(current_schemas(false)) THEN '' ELSE table_schema END"
        where = "table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2, ordinal_position"
        found = connection.execute(f"SELECT {schema}, table_name, column_name FROM information_schema.columns WHERE {where}".encode())
        return [(str(schema), str(table), str(column)) for schema, table, column in found]

    try:
        given = {key: resolve(str(value)) for key, value in conninfo_to_dict(url).items()}
    except psycopg.ProgrammingError:  # its message may repeat the password
        raise UserError("not a URL of PostgreSQL", place, "write postgresql://USER:${PASSWORD}@HOST:5432/DATABASE") from None
    parts: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "application_name": "tunesmith"} | given | {"client_encoding": "utf8"}
    try:
        opened = psycopg.connect(**parts)
    except psycopg.Error as error:
        raise _no_connection(_one_line(str(error)), place) from None
    with closing(opened) as connection:
        connection.read_only = True
        for name in ("date", "time", "timetz", "timestamp", "timestamptz", "interval"):  # Python knows no date `infinity`, none before Christ, and no month
            connection.adapters.register_loader(name, TextLoader)
        # The same rows are the same text whoever asks; and all rows are wanted, not the first ones soon.
        for setting in ("TimeZone = 'UTC'", "DateStyle = ISO", "IntervalStyle = postgres", "extra_float_digits = 1", "cursor_tuple_fraction = 1"):
            connection.execute(f"SET LOCAL {setting}".encode())
        yield Database(select, columns, (psycopg.Error,), lost=lambda: connection.closed)


SCHEMES: dict[str, Callable[[str, str, Callable[[str], str]], AbstractContextManager[Database]]] = {
    "sqlite": _sqlite,
    "duckdb": _duckdb,
    "postgresql": _postgresql,
    "postgres": _postgresql,
}


def _missing(package: str, extra: str, place: str) -> UserError:
    return UserError(f"the package `{package}` is not installed", place, f"pip install 'tunesmith[{extra}]'")


def quoted(*names: str) -> str:
    """A name in SQL, with its schema where it has one."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names if name)


def _no_query(database: Database, place: str) -> UserError:
    tables: dict[tuple[str, str], list[str]] = {}
    for schema, table, column in database.columns():
        tables.setdefault((schema, table), []).append(column)
    if not tables:
        return UserError("the database has no tables that can be read", place, "check that it is the right database, and the user's rights")
    first, columns = next(iter(tables.items()))
    proposed = f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(*first)} ORDER BY {quoted(columns[0])}"
    listed = some(f"{schema}.{table}" if schema else table for schema, table in tables)
    return UserError(f"a database needs a query; its tables are {listed}", place, f"add one: query: {proposed}")


def _refused(text: str, database: Database, place: str) -> UserError:
    """The database's own message, with the nearest name where one in it does not exist."""
    said = _one_line(text)
    remedy = "correct the query"
    unknown = re.search(r'(?:no such (?:table|column): |relation "|column "?|Table with name |Referenced column ")([\w.]+)', said)
    if database.lost():
        return UserError(f"the connection was lost: {said}", place, "give the same command again; nothing was kept")
    names = list(database.columns())
    tables = list(dict.fromkeys(f"{schema}.{table}" if schema else table for schema, table, _ in names))
    if unknown and ("table" in said.lower() or "relation" in said) and "column" not in said.lower():
        return UserError(said + _near(unknown[1], tables, said), place, f"correct the query; the tables are {some(tables)}")
    if unknown:
        return UserError(said + _near(unknown[1].rpartition(".")[2], [column for *_, column in names], said), place, remedy)
    return UserError(f"the database refused the query: {said}", place, remedy)


def _near(name: str, valid: Iterable[str], said: str) -> str:
    return "" if "Did you mean" in said or "Perhaps you meant" in said or "Candidate" in said else nearest(name, valid)


def _no_connection(said: str, place: str) -> UserError:
    remedy = "check that the server runs, its host and port, and that this machine may reach it"
    if "password" in said or "authentication" in said:
        remedy = "check the user, and the variable that holds the password: postgresql://USER:${DATABASE_PASSWORD}@HOST/DATABASE"
    elif "does not exist" in said:
        remedy = "check the names of the database and the user at the end and the beginning of the URL"
    return UserError(f"no connection: {said}", place, remedy)


def _one_line(text: str) -> str:
    """A driver's message in one line: without the query that it repeats and the mark below."""
    return " ".join(re.split(r"\n\s*LINE \d+:", text)[0].split())[:500]
