"""What the documentation says of the code is so: recipes build, verbs, options, keys, defaults, files, papers and links exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic.fields import FieldInfo
from typer.main import get_command

import tunesmith
from tunesmith import recipe
from tunesmith.cli import app
from tunesmith.core.settings import Settings, parse_yaml, write_yaml

ROOT = Path(__file__).parent.parent
SRC = Path(tunesmith.__file__).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), SRC / "starters" / "tickets" / "DATASHEET.md"]
TEXTS = {path.name: path.read_text("utf-8") for path in PAGES}
MAY_BE_ABSENT: set[str] = set()
"""Pages and pictures made by measurements; a clone in which they were not made yet still passes."""


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """(page:line, content) of every fenced block of a language."""
    for name, text in TEXTS.items():
        for found in re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S):
            yield f"{name}:{text.count(chr(10), 0, found.start()) + 1}", found[1]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every `tunesmith ...` in a shell block or between backticks: (page, its words)."""
    for name, text in TEXTS.items():
        fenced = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
        spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        lines = [line.partition("#")[0] for block in fenced for line in block.splitlines()]
        for line in [*lines, *spans]:
            for found in re.finditer(r"(?:^|\| )tunesmith +([a-z-].*)", line.strip()):
                yield name, found[1].split()


def slug(heading: str) -> str:
    """The anchor that GitHub and its kin give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def members(field: FieldInfo) -> list[type[Settings]]:
    """The settings classes a field may hold, in the order of the annotation."""
    found: list[type[Settings]] = []
    queue: list[Any] = [field.annotation]
    while queue:
        one = queue.pop(0)
        if isinstance(one, type) and issubclass(one, Settings):
            found.append(one)
        else:
            queue += get_args(one)
    return found


def documented() -> dict[str, dict[str, str]]:
    """docs/recipe.md: heading -> key -> default as written."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^## ", TEXTS["recipe.md"], flags=re.M)[1:]:
        heading, _, body = part.partition("\n")
        rows = re.findall(r"^\| `([a-z_]+)` \| (.+?) (?<!\\)\| ", body, re.M)
        assert len({key for key, _ in rows}) == len(rows), f"{heading}: a key stands twice"
        found[heading.strip("`")] = {key: default.replace("\\|", "|") for key, default in rows}
    return found


def expected() -> dict[str, type[Settings]]:
    """Heading -> the settings class whose keys it must list, for every class that can be reached from the recipe."""
    found: dict[str, type[Settings]] = {"Top level": recipe.Recipe}
    for name, field in recipe.Recipe.model_fields.items():
        for cls in members(field):
            kind = cls.model_fields.get("kind")
            found[f"{name}: {kind.default}" if kind else name] = cls
            for inner, deeper in cls.model_fields.items():
                for one in members(deeper):
                    found[f"{name}.{inner}"] = one
                    assert not any(members(last) for last in one.model_fields.values()), f"{one.__name__} holds settings: this test must look deeper"
    return found


def test_the_pages_are_seen() -> None:
    assert len(TEXTS) == len(PAGES) and {"README.md", "recipe.md", "PAPERS.md", "DATASHEET.md"} <= TEXTS.keys()
    assert len(list(blocks("yaml"))) >= 5 and len(list(blocks("python"))) >= 4 and len(list(commands())) >= 20


@pytest.mark.parametrize(("where", "text"), list(blocks("yaml")))
def test_recipes_build(where: str, text: str, tmp_path: Path) -> None:
    """Each block as it stands; one without data is a part of a recipe."""
    path = tmp_path / "documented.yaml"
    values = parse_yaml(text, where)
    path.write_text(text if "data" in values else write_yaml({"data": {"train": "some.csv"}, **values}), "utf-8")
    assert recipe.load(path).data.train


@pytest.mark.parametrize(("where", "text"), list(blocks("python")))
def test_python_is_python(where: str, text: str) -> None:
    names = {node.attr for node in ast.walk(ast.parse(text, where)) if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("ts", "tunesmith")}
    assert names <= set(tunesmith.__all__), where


def test_verbs_and_options_exist() -> None:
    verbs: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]  # a group has them
    for page, (verb, *words) in commands():
        assert verb in verbs or verb.startswith("--"), f"{page}: tunesmith {verb}"
        if verb not in verbs:
            continue
        command = verbs[verb]
        if words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        wrong = [word for word in words if word.startswith("--") and word not in options]
        assert not wrong, f"{page}: tunesmith {verb} has no {wrong}"


def test_every_verb_is_documented() -> None:
    verbs: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]  # a group has them
    assert set(verbs) == {words[0] for page, words in commands() if page == "runs.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", TEXTS[page.name], flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists() or path in MAY_BE_ABSENT, f"{page.name}: {link}"
        if anchor and path.exists():
            assert anchor in [slug(heading) for heading in re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.M)], f"{page.name}: {link}"


def test_every_key_of_the_recipe_is_documented_and_no_other() -> None:
    keys = {heading: set(cls.model_fields) for heading, cls in expected().items()}
    assert {heading: set(rows) for heading, rows in documented().items()} == keys


def test_defaults_are_the_ones_documented() -> None:
    written = documented()
    for heading, cls in expected().items():
        for key, field in cls.model_fields.items():
            said = written[heading][key]
            default = field.get_default(call_default_factory=True)
            if field.is_required():
                assert said == "required", f"{heading}: {key}"
            elif isinstance(default, Settings) and said == "see below":
                continue
            else:
                value = default.model_dump(mode="json") if isinstance(default, Settings) else list(default) if isinstance(default, tuple) else default
                found = parse_yaml(said.strip("`"), f"recipe.md, {heading}, {key}")
                assert value in (found, {"kind": found}), f"{heading}: {key} is {value!r}, documented as {said}"


def test_methods_own_numbers_are_the_ones_documented() -> None:
    from tunesmith import methods

    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+, [\de.-]+|null, null)[^|]* \|$", TEXTS["methods.md"], re.M))
    assert set(rows) == set(methods.NAMES)
    said = {key: re.search(rf"^\| `{key}` .*auto or null: (.+) \|$", TEXTS["recipe.md"], re.M) for key in ("epochs", "learning_rate")}

    def read(number: str) -> float | None:
        return None if number == "null" else float(number)

    for name, numbers in rows.items():
        method = methods.get(name)
        assert [read(number) for number in numbers.split(", ")] == [method.epochs, method.learning_rate], name
        for key, found in said.items():
            assert found and read(dict(one.rsplit(" ", 1) for one in found[1].split(", "))[name]) == getattr(method, key), (name, key)


def test_the_tour_names_every_file() -> None:
    tour = re.findall(r"^([a-z_/]+\.py) {2,}\S", TEXTS["CONTRIBUTING.md"], re.M)
    files = {path.relative_to(SRC).as_posix(): ast.parse(path.read_text("utf-8")).body for path in SRC.rglob("*.py")}
    told = {name for name, body in files.items() if not name.endswith("__init__.py") or len(body) > 1}  # others are a docstring alone
    assert sorted(tour) == sorted(told)


def test_the_papers_are_those_that_the_code_cites() -> None:
    cited = re.compile(r"arxiv(?:\.org/abs/| )(\d{4}\.\d{4,5})", re.I)
    code = {number for path in SRC.rglob("*.py") for number in cited.findall(path.read_text("utf-8"))}
    assert code and set(cited.findall(TEXTS["PAPERS.md"])) == code


def test_no_place_of_one_machine_is_named() -> None:
    assert {name: found for name, text in TEXTS.items() if (found := re.findall(r"(?<![\w.])/(?:work|tmp|home|root)/\S*", text))} == {}
