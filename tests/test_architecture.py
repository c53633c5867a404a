"""What holds for the source as a whole and no type checker sees."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tunesmith
from tunesmith import methods, recipe

SRC = Path(tunesmith.__file__).parent
RECIPES = Path(__file__).parent.parent / "recipes"
FILES = {path.relative_to(SRC).as_posix(): path for path in sorted(SRC.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in FILES.items()}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call, with what is called as it is written: `self._adamw.step`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def where(*names: str) -> dict[str, list[str]]:
    """file -> calls whose last part is one of the names."""
    found: dict[str, list[str]] = {}
    for file, tree in TREES.items():
        for name, _ in calls(tree):
            if name.rpartition(".")[2] in names:
                found.setdefault(file, []).append(name)
    return found


def test_the_rules_below_see_the_source() -> None:
    assert len(FILES) > 50 and "training/loop.py" in FILES and sum(len(list(calls(tree))) for tree in TREES.values()) > 1000


def test_one_place_steps_an_optimizer() -> None:
    imports = [(file, str(node.module)) for file, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [file for file, module in imports if module.startswith("torch.optim")] == ["training/optimizer.py"]
    assert [file for file, module in imports if module == "tunesmith.training.optimizer"] == ["training/loop.py"]
    assert where("adamw") == {"training/optimizer.py": ["adamw"]}
    assert where("step") == {"training/loop.py": ["loop.step", "self.optimizer.step"]}  # the first calls the second, and that one adamw
    assert not any("optim." in name for tree in TREES.values() for name, _ in calls(tree))


def test_only_the_face_of_the_house_prints() -> None:
    assert set(where("print")) - {"listeners/progress.py"} <= {"cli.py", "serving/predicting.py", "serving/chatting.py"}
    assert all(name == "self.console.print" for name in where("print").get("listeners/progress.py", []))


def test_nothing_that_runs_code_from_data() -> None:
    imported = {
        alias.name.partition(".")[0]
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert not imported & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
    for file, tree in TREES.items():
        for name, call in calls(tree):
            assert name not in ("eval", "exec", "compile", "__import__", "torch.load", "torch.save", "os.system", "os.popen"), f"{file}: {name}"
            assert not name.endswith(("read_pickle", "to_pickle")), f"{file}: {name}"
            if name in ("np.load", "numpy.load"):
                assert any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in call.keywords), f"{file}: {name} may unpickle"
            if name == "YAML":
                assert any(k.arg == "typ" and ast.unparse(k.value) == "'safe'" for k in call.keywords), f"{file}: YAML that is not safe"
            for keyword in call.keywords:
                given = (keyword.arg, ast.unparse(keyword.value))
                assert given not in (("trust_remote_code", "True"), ("shell", "True"), ("allow_pickle", "True"), ("weights_only", "False")), f"{file}: {given}"


def test_files_stay_readable() -> None:
    long = {name: lines for name, path in FILES.items() if (lines := len(path.read_text("utf-8").splitlines())) > 500}
    assert long == {}


def test_every_file_says_what_it_is_for() -> None:
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_load(path: Path) -> None:
    one = recipe.load(path)
    assert one.name and one.train.epochs != "auto" and one.method.kind in methods.NAMES


def test_there_are_recipes() -> None:
    assert (RECIPES / "quickstart.yaml").exists()


KNOWN_ELSEWHERE = {
    "recipe.py": {"full"},  # the default method
    "init.py": {"features", "full", "lora"},  # what `init` proposes
    "report/run_page.py": set(methods.NAMES),  # in words, for the reader of a report
    "models/features.py": {"features"},  # a folder of the cache, not the method
}
"""Where a method's name stands outside of `methods/`, and why. A longer list means that the design leaks."""


def test_a_method_is_one_file_and_one_line() -> None:
    found: dict[str, set[str]] = {}
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            names: set[str] = set()
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = {node.value}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tunesmith.methods"):
                names = {(node.module or "").rpartition(".")[2], *(alias.name for alias in node.names)}
            if hit := names & set(methods.NAMES):
                found.setdefault(file, set()).update(hit)
    own = {f"methods/{name}.py" for name in methods.NAMES} | {"methods/__init__.py"}
    assert own <= set(found)
    assert {file: names for file, names in found.items() if file not in own and not names <= KNOWN_ELSEWHERE.get(file, set())} == {}
    stale = {file for file in KNOWN_ELSEWHERE if file not in found}
    assert stale == set()


def test_each_file_of_a_method_names_its_paper_or_says_that_it_has_none() -> None:
    for name in methods.NAMES:
        doc = ast.get_docstring(TREES[f"methods/{name}.py"]) or ""
        assert re.search(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}|We differ in nothing", doc), name
