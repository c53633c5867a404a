"""Settings: YAML 1.2 as its specification has it, overrides, and every mistake named by the key that the user wrote."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from tunesmith.core.errors import Problems, UserError
from tunesmith.core.settings import Settings, build, parse_yaml, read_yaml, with_override, write_yaml


class Small(Settings):
    kind: Literal["small"] = "small"


class Large(Settings):
    kind: Literal["large"] = "large"
    width: int = Field(8, ge=1)


class Inner(Settings):
    rate: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"
    names: tuple[str, ...] = ()
    on: bool = True
    file: str


class Bound(Settings):
    at_least: float = 0


class Outer(Settings):
    inner: Inner
    size: Annotated[Small | Large, Field(discriminator="kind")] = Small()
    share: float | str = 0.1
    gate: dict[str, Bound] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1e3", 1000.0),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("NO", "NO"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("012", 12),
        ("0o14", 12),
        ("12:30", "12:30"),
        ("[no, 1]", ["no", 1]),
    ],
)
def test_yaml_is_1_2(text: str, value: Any) -> None:
    found = parse_yaml(text, "here")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: 1\nb: 2\na: 3\n", ":3: key `a` is given twice\n  -> keep one of the two"),
        (b"train:\n  seed: 1\n  seed: 2\n", ":3: key `seed` is given twice\n  -> keep one of the two"),
        (b"a: [1\nb: 2\n", ":2:2: not YAML: expected ',' or ']', but got ':'\n  -> check indentation, colons and quotes there"),
        (b"a: 1\n\tb: 2\n", ":2:1: not YAML: found character '\\t' that cannot start any token\n  -> check indentation, colons and quotes there"),
        (b"", ": expected `key: value` lines, found nothing\n  -> start from `tunesmith init DATA`, which writes a recipe"),
        (b"- a\n", ": expected `key: value` lines, found list\n  -> start from `tunesmith init DATA`, which writes a recipe"),
        (b"a: caf\xe9\n", ": byte 0xE9 is not UTF-8\n  -> save the file as UTF-8"),
        (b"#" * 1_000_001, ": a recipe of 1,000,001 bytes; the limit is 1,000,000\n  -> put data into data files"),
    ],
)
def test_a_file_that_is_not_a_recipe(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert str(caught.value) == f"{path}{said}"


def test_yaml_makes_no_objects() -> None:
    with pytest.raises(UserError, match="not YAML: could not determine a constructor for the tag"):
        parse_yaml("!!python/object/apply:os.system ['true']", "here")


def test_a_mark_at_the_start_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfname: a\n")
    assert read_yaml(tmp_path / "r.yaml") == {"name": "a"}


def test_what_is_written_reads_back_the_same() -> None:
    value = {"z": 1, "a": {"text": "a: b # c\nd", "no": "no", "rate": 2e-4, "none": None, "list": ["yes", 1.0, True], "é": "→"}, "e": {}, "l": []}
    text = write_yaml(value)
    assert parse_yaml(text, "here") == value and list(parse_yaml(text, "here")) == ["z", "a", "e", "l"]


@pytest.mark.parametrize(
    ("override", "out"),
    [
        ("a.b=2", {"a": {"b": 2, "c": 3}, "method": "lora", "model": "x", "objective": "o"}),
        ("a.d.e=[1, no]", {"a": {"b": 1, "c": 3, "d": {"e": [1, "no"]}}, "method": "lora", "model": "x", "objective": "o"}),
        ("new.key=2e-4", {"a": {"b": 1, "c": 3}, "method": "lora", "model": "x", "objective": "o", "new": {"key": 2e-4}}),
        ("method=full", {"a": {"b": 1, "c": 3}, "method": "full", "model": "x", "objective": "o"}),
        ("method.rank=4", {"a": {"b": 1, "c": 3}, "method": {"kind": "lora", "rank": 4}, "model": "x", "objective": "o"}),
        ("model.max_tokens=32", {"a": {"b": 1, "c": 3}, "method": "lora", "model": {"base": "x", "max_tokens": 32}, "objective": "o"}),
        ("objective.smoothing=0.1", {"a": {"b": 1, "c": 3}, "method": "lora", "model": "x", "objective": {"kind": "o", "smoothing": 0.1}}),
        (
            "data.train.query=SELECT 1",
            {"a": {"b": 1, "c": 3}, "data": {"train": {"source": "sqlite:///s.db", "query": "SELECT 1"}}, "method": "lora", "model": "x", "objective": "o"},
        ),
        ("a=", {"a": None, "method": "lora", "model": "x", "objective": "o"}),
        ("name=a=b", {"a": {"b": 1, "c": 3}, "method": "lora", "model": "x", "objective": "o", "name": "a=b"}),
    ],
)
def test_an_override_changes_one_place_and_not_its_source(override: str, out: dict[str, Any]) -> None:
    values: dict[str, Any] = {"a": {"b": 1, "c": 3}, "method": "lora", "model": "x", "objective": "o"}
    if override.startswith("data."):
        values["data"] = {"train": "sqlite:///s.db"}
    before = copy.deepcopy(values)
    assert with_override(values, override) == out
    assert values == before


def test_a_second_source_on_the_command_line_is_no_override(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("x")
    with pytest.raises(UserError, match=r"-> one recipe or source at a time; several files are a folder, or a glob in quotes: 'mails/\*\.csv'"):
        with_override({}, str(tmp_path / "b.csv"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("epochs", "command line: `epochs` is not of the form key.path=value\n  -> for example train.epochs=1"),
        ("=1", "command line: `=1` is not of the form key.path=value\n  -> for example train.epochs=1"),
        ("a.b.c=1", "command line: `a.b` has no keys below it\n  -> give it whole: a=..."),
        ("a.b=[1", "command line, `a.b`:1:3: not YAML: "),
    ],
)
def test_an_override_that_cannot_be(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        with_override({"a": {"b": 3}}, override)
    assert str(caught.value).startswith(said)


DEFAULT = "change the value, or leave the key out for its default"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, ["`inner` is missing\n  -> add it: inner: ..."]),
        ({"inner": {}}, ["`inner.file` is missing\n  -> add it: inner: file: ..."]),
        ({"inner": "f"}, ["`inner=f` must hold keys of its own\n  -> write it as inner: {rate: ...}; valid there: `rate`, `names`, `on`, `file`"]),
        ({"inner": {"file": "f", "rate": 2}}, [f"`inner.rate=2` must be less than or equal to 1 or `auto`\n  -> {DEFAULT}"]),
        ({"inner": {"file": None}}, [f"`inner.file=null` must be text\n  -> {DEFAULT}"]),
        ({"inner": {"file": "f", "on": "maybe"}}, [f"`inner.on=maybe` must be a valid boolean, unable to interpret input\n  -> {DEFAULT}"]),
        ({"inner": {"file": "f", "names": "x"}}, [f"`inner.names=x` must be a list\n  -> {DEFAULT}"]),
        ({"inner": {"file": "f", "names": ["x", 3]}}, [f"`inner.names.1=3` must be text\n  -> {DEFAULT}"]),
        ({"inner": {"file": "f"}, "share": [1]}, [f"`share` must be a valid number or text\n  -> {DEFAULT}"]),
        ({"inner": {"file": "f"}, "size": {"width": 3}}, ["`size.kind` is missing\n  -> add size.kind, one of "]),
        ({"inner": {"file": "f"}, "size": {"kind": "larg"}}, ["`size: larg` is not known, did you mean `large`?\n  -> choose one of `small`, `large`"]),
        ({"inner": {"file": "f"}, "size": {"kind": "large", "width": 0}}, [f"`size.width=0` must be greater than or equal to 1\n  -> {DEFAULT}"]),
        ({"inner": {"file": "f"}, "size": {"kind": "large", "wdth": 1}}, ["unknown key `size.wdth`, did you mean `width`?\n  -> valid here: `kind`, `width`"]),
        ({"inner": {"file": "f"}, "size": {"kind": "small", "width": 1}}, ["unknown key `size.width`\n  -> valid here: `kind`"]),
        ({"inner.file": "f", "inner": {"file": "f"}}, ["unknown key `inner.file`\n  -> write it as inner: {file: ...}"]),
        ({"inner": {"file": "f"}, "gate": {"f1": {"at_lest": 1}}}, ["unknown key `gate.f1.at_lest`, did you mean `at_least`?\n  -> valid here: `at_least`"]),
        (
            {"inner": {"file": "f"}, "gate": {"f1": 1}},
            ["`gate.f1=1` must hold keys of its own\n  -> write it as gate: f1: {at_least: ...}; valid there: `at_least`"],
        ),
        (
            {"inner": {"file": "f", "rate": 0, "of": 1}, "shar": 1},
            ["`inner.rate=0` must be greater than 0 or `auto`", "`inner.of`", "`shar`, did you mean `share`?"],
        ),
    ],
)
def test_mistakes_are_said_by_the_key_that_was_written(values: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(Problems) as caught:
        build(Outer, values, "r.yaml")
    assert len(caught.value.errors) == len(said)
    for error, part in zip(caught.value.errors, said, strict=True):
        assert str(error).startswith("r.yaml: ") and part in str(error)


def test_settings_cannot_change() -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match="frozen"):
        Inner(file="f").file = "g"  # type: ignore[misc]
