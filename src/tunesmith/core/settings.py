"""Settings in one form: frozen pydantic models beside their owners, read from YAML 1.2, with every mistake reported at once."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tunesmith.core.errors import Problems, UserError, nearest, some
from tunesmith.core.files import as_user_error

MOST_RECIPE_BYTES = 1_000_000
"""A recipe is a page; a megabyte of YAML is a mistake or an attack on the parser."""


class Settings(BaseModel):
    """Base of every settings class: frozen, unknown keys refused, a docstring under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


S = TypeVar("S", bound=Settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping (`2e-4` is a number, `no` is a word).

    Raises:
        UserError: not there, not UTF-8, not YAML (with line and column), a key given twice, or not a mapping.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise as_user_error(error, path) from error
    if len(data) > MOST_RECIPE_BYTES:
        raise UserError(f"a recipe of {len(data):,} bytes; the limit is {MOST_RECIPE_BYTES:,}", str(path), "put data into data files")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"byte 0x{data[error.start]:02X} is not UTF-8", str(path), "save the file as UTF-8") from error
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise UserError(
            f"expected `key: value` lines, found {'nothing' if value is None else type(value).__name__}",
            str(path),
            "start from `tunesmith init DATA`, which writes a recipe",
        )
    return value


def parse_yaml(text: str, where: str) -> Any:
    """Parse one YAML 1.2 document with the safe loader.

    Raises:
        UserError: with line and column.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        key = str(error.problem).split('"')[1] if '"' in str(error.problem) else "?"
        raise UserError(f"key `{key}` is given twice", f"{where}:{line}", "keep one of the two") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise UserError(f"not YAML: {error.problem}", place, "check indentation, colons and quotes there") from error
    except YAMLError as error:
        raise UserError(f"not YAML: {error}", where, "check indentation, colons and quotes") from error


def write_yaml(value: Mapping[str, Any]) -> str:
    """A mapping as YAML 1.2 text, in the order given."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel annotates the class attribute as None
    yaml.allow_unicode = True
    yaml.width = 1000
    out = io.StringIO()
    yaml.dump(dict(value), out)
    return out.getvalue()


def with_override(values: dict[str, Any], override: str) -> dict[str, Any]:
    """Apply one `key.path=value` from the command line; the value is YAML.

    Args:
        values: the recipe's mapping; not changed.
        override: such as `train.epochs=1`.

    Returns:
        A changed copy.

    Raises:
        UserError: there is no `=`, or the path runs through something that is not a mapping.
    """
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        several = "one recipe or source at a time; several files are a folder, or a glob in quotes: 'mails/*.csv'"
        raise UserError(f"`{override}` is not of the form key.path=value", "command line", several if Path(override).exists() else "for example train.epochs=1")
    keys = path.strip().split(".")
    copy = dict(values)
    here = copy
    for depth, key in enumerate(keys[:-1]):
        inner = here.get(key)
        if inner is None:
            inner = {}
        elif isinstance(inner, str):  # a short form, such as `method: lora`, is widened so that method.rank=4 works
            inner = {"kind" if key in ("method", "objective") else "base" if key == "model" else "source" if keys[0] == "data" else key: inner}
        elif not isinstance(inner, dict):
            raise UserError(f"`{'.'.join(keys[: depth + 1])}` has no keys below it", "command line", f"give it whole: {keys[0]}=...")
        here[key] = dict(inner)
        here = here[key]
    here[keys[-1]] = parse_yaml(text, f"command line, `{path}`")
    return copy


def build(cls: type[S], values: Mapping[str, Any], where: str) -> S:
    """Make settings from a mapping, or report every mistake in it together.

    Raises:
        Problems: one `UserError` a mistake, each naming the key, the value, the rule and the nearest valid key.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        mistakes: dict[str, list[Any]] = {}
        for one in error.errors():
            mistakes.setdefault(_key(one, values), []).append(one)
        # Of a union's members the one that looked inside knows best; that the whole is none of the others says nothing.
        inner = {key.rpartition(".")[0] for key in mistakes if "." in key}
        outer = {parent for key in inner for parent in (key, key.rpartition(".")[0])}
        said = {key: same for key, same in mistakes.items() if not (key in outer and isinstance(same[0].get("input"), (dict, list, tuple)))}
        raise Problems([_said(cls, key, same, where) for key, same in said.items()]) from None


def _key(one: Any, values: Mapping[str, Any]) -> str:
    """The key as the user wrote it: pydantic's place also names the members of the unions it tried."""
    here: Any = values
    steps = []
    for depth, step in enumerate(one["loc"]):
        if (isinstance(here, Mapping) and step in here) or (isinstance(here, (list, tuple)) and isinstance(step, int) and step < len(here)):
            here = here[step]
        elif one["type"] != "missing" or depth < len(one["loc"]) - 1:
            continue
        steps.append(str(step))
    return ".".join(steps)


def _said(cls: type[BaseModel], key: str, same: list[Any], where: str) -> UserError:
    """One error for one key: what every member of a union finds wrong with its value is joined by `or`."""
    one = same[0]
    steps = [str(step) for step in one["loc"]]
    value = one.get("input")
    if one["type"] == "extra_forbidden":
        valid = _fields_at(cls, steps[:-1])
        first, _, rest = steps[-1].partition(".")
        if rest and first in valid:
            return UserError(f"unknown key `{key}`", where, f"write it as {first}: {{{rest.replace('.', ': {')}: ...{'}' * (rest.count('.') + 1)}")
        return UserError(f"unknown key `{key}`{nearest(steps[-1], valid)}", where, f"valid here: {some(valid, 30)}")
    if one["type"] == "missing":
        return UserError(f"`{key}` is missing", where, f"add it: {key.replace('.', ': ')}: ...")
    if one["type"] == "union_tag_not_found":
        return UserError(f"`{key}.kind` is missing", where, f"add {key}.kind, one of {some(_tags(cls, steps[0]))}")
    if one["type"] == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in one["ctx"]["expected_tags"].split(",")]
        tag = str(one["ctx"]["tag"])
        return UserError(f"`{key}: {tag}` is not known{nearest(tag, tags)}", where, f"choose one of {some(tags)}")
    if one["type"] in ("model_type", "model_attributes_type"):
        fields = _fields_at(cls, steps)
        remedy = f"write it as {key.replace('.', ': ')}: {{{fields[0]}: ...}}; valid there: {some(fields)}"
        return UserError(f"`{key}={_shown(value)}` must hold keys of its own", where, remedy)
    rules = list(dict.fromkeys(_rule(each) for each in same))
    joined = rules[0] + "".join(f" or {rule.removeprefix('must be ')}" for rule in rules[1:])
    remedy = "choose one of these" if all(each["type"] == "literal_error" for each in same) else "change the value, or leave the key out for its default"
    shown = "" if isinstance(value, (dict, list, Settings)) or one["type"] == "invalid_key" else f"={_shown(value)}"
    return UserError(f"`{key}{shown}` {joined}" if key else joined, where, remedy)


def _rule(one: Any) -> str:
    words = {"string_type": "text", "tuple_type": "a list", "dict_type": "keys with values", "invalid_key": "text, as every key is"}
    message = str(one["msg"])
    if one["type"] == "value_error":
        return message.removeprefix("Value error, ")
    if one["type"] == "literal_error":
        return f"must be {one['ctx']['expected'].replace(chr(39), '`')}"
    if one["type"] in words:
        return f"must be {words[one['type']]}"
    return f"must be {message.removeprefix('Input should be ')}" if message.startswith("Input should be ") else message[0].lower() + message[1:]


def _shown(value: Any) -> str:
    """A value as YAML has it."""
    return {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)


def _tags(cls: type[BaseModel], name: str) -> list[str]:
    return [str(m.model_fields["kind"].default) for m in _members(cls, name) if "kind" in m.model_fields]


def _members(cls: type[BaseModel], name: str) -> list[type[BaseModel]]:
    from typing import get_args

    if name not in cls.model_fields:
        return []
    found: list[type[BaseModel]] = []
    queue: list[Any] = [cls.model_fields[name].annotation]
    while queue:
        one = queue.pop()
        if isinstance(one, type) and issubclass(one, BaseModel):
            found.append(one)
        else:
            queue.extend(get_args(one))
    return found


def _fields_at(cls: type[BaseModel], steps: list[str]) -> list[str]:
    """The valid keys of the settings at a place, looking through unions by their tag."""
    here = cls
    for depth, step in enumerate(steps):
        members = _members(here, step)
        if not members:
            continue
        after = steps[depth + 1] if depth + 1 < len(steps) else ""
        here = next((m for m in members if "kind" in m.model_fields and m.model_fields["kind"].default == after), members[0])
    return list(here.model_fields)
