"""Every verb, as a shell calls it: what it prints, leaves and returns."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tunesmith
from tunesmith.core.errors import GateFailed, UserError
from tunesmith.data.cleaning import languages

Cli = Callable[..., tuple[int, str, str]]
HEAVY = ("torch", "transformers", "peft", "pyarrow", "sklearn", "scipy", "numpy", "tokenizers", "tunesmith.core.settings")


def in_a_shell(script: str) -> str:
    environ = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environ).stdout


# --- before anything runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["runs", "delete", "--help"], ["predict", "--help"]])
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    script = (
        "import sys; from tunesmith import cli\n"
        f"sys.argv = ['tunesmith', *{args!r}]\n"
        "try: cli.main()\nexcept SystemExit as left: assert not left.code\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    out = in_a_shell(script)
    assert out.endswith("loaded: []\n") and "Usage: tunesmith" in out


def test_help_takes_little_more_than_the_settings_library() -> None:
    """1.8 times what `import pydantic` takes, which settings need; both in processor seconds of this machine, the least of three in turn."""

    def seconds(*given: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *given], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    pairs = [(seconds("-m", "tunesmith", "--help"), seconds("-c", "import pydantic")) for _ in range(3)]
    assert min(ours for ours, _ in pairs) < 3 * min(theirs for _, theirs in pairs)


def test_help_names_every_verb(cli_: Cli) -> None:
    _, out, _ = cli_("--help")
    for verb in ("init", "check", "prepare", "train", "evaluate", "report", "run", "runs", "predict"):
        assert f"\n  {verb} " in out


def test_importing_sets_one_variable_and_does_nothing_else() -> None:
    script = (
        "import os, signal, sys, threading, warnings\n"
        "def state():\n"
        "    handlers = [signal.getsignal(s) for s in (2, 15)]\n"
        "    return dict(os.environ), os.getcwd(), list(warnings.filters), threading.active_count(), handlers, sys.path[:]\n"
        "before, loaded = state(), set(sys.modules)\nimport tunesmith\nafter = state()\n"
        "assert after[0].pop('OMP_WAIT_POLICY') == 'PASSIVE' and before == after, (before, after)\n"
        "print(sorted(name.partition('.')[0] for name in set(sys.modules) - loaded if name.partition('.')[0] not in sys.stdlib_module_names))\n"
        "os.environ['OMP_WAIT_POLICY'] = 'ACTIVE'; del sys.modules['tunesmith']; import tunesmith; print(os.environ['OMP_WAIT_POLICY'])"
    )
    assert in_a_shell(script) == "['tunesmith']\nACTIVE\n"


def test_the_module_gives_what_it_promises_and_no_more() -> None:
    script = "import tunesmith, sys\nprint(all(map(callable, (tunesmith.run, tunesmith.load, tunesmith.Finished))), 'torch' in sys.modules)"
    assert in_a_shell(script) == "True False\n"
    with pytest.raises(AttributeError, match="module 'tunesmith' has no attribute 'fit'"):
        tunesmith.fit  # noqa: B018


def test_wrong_use_is_code_2(cli_: Cli) -> None:
    assert cli_("rnu")[0] == 2 and "No such command 'rnu'" in cli_("rnu")[2]
    assert cli_("run", "--fersh")[0] == 2
    assert cli_("run") == (2, "", "error: command line: no recipe is given\n  -> tunesmith run RECIPE.yaml, or tunesmith init DATA to make one\n")


# --- init and check -----------------------------------------------------------------------------------------------------------------


def test_init_writes_a_recipe_that_checks(cli_: Cli, tmp_path: Path, colours: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli_("init", "colours.csv")
    target = tmp_path / "colours.yaml"
    assert code == 0 and target.read_text() == out.rstrip("\n") + "\n"
    for said in (
        "colours.csv: taking column `text` as the text",
        "colours.csv: taking column `label` as the label",
        "colours.csv: the rows are texts with labels, 120 of them",
        "3 labels in `label`, the commonest `",
        "other columns: who. One whose rows belong together goes under data.together, those for audits under data.attributes",
        "Written to colours.yaml. Next: tunesmith check colours.yaml",
    ):
        assert said in err
    before = target.read_bytes()
    said = "error: colours.yaml: there is a file of this name already\n  -> delete it, or write elsewhere with --output\n"
    assert cli_("init", "colours.csv") == (2, "", said) and target.read_bytes() == before
    code, out, err = cli_("check", target, f"model={tiny_base}")
    assert (code, err) == (0, "")
    first, *_, last = out.splitlines()
    assert first.endswith(" test; 3 labels; 0 rows left out") and last == f"The data can be used. Next: tunesmith run {target} model={tiny_base}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colours.csv", "colours.yaml"]
    (tmp_path / "deep").mkdir()
    assert cli_("init", colours, "-o", "deep/r.yaml")[0] == 0 and cli_("check", "deep/r.yaml", f"model={tiny_base}")[0] == 0


def test_the_next_command_can_be_pasted(cli_: Cli, tmp_path: Path, colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    colours.rename(tmp_path / "my data.csv")
    assert cli_("check", "my data.csv")[1].endswith("The data can be used. Next: tunesmith init 'my data.csv'\n")


def test_a_check_lets_go_of_what_told_the_languages(cli_: Cli, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("text,label\n" + "".join(f"please reset the password of my account number {i},{i % 2}\n" for i in range(60)))
    assert languages.shares(["please reset the password of my account"]) == {"en": 1.0} and languages.identifier.cache_info().currsize == 1
    code, out, _ = cli_("check", path, "data.duplicates.near=null")
    assert code == 0 and "2 labels" in out and languages.identifier.cache_info().currsize == 0


def test_init_says_what_it_cannot_use(cli_: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.csv").write_text("text,label\nonly one\n")
    assert cli_("init", "d.csv")[2].startswith("error: d.csv:2: 1 field, the header has 2\n")
    (tmp_path / "d.csv").write_text("text,label\n" + "".join(f"row {i},label {i}\n" for i in range(9)))
    code, _, err = cli_("init", "d.csv")
    assert code == 2 and err.startswith("error: d.csv:2: label `label 0` has one row; each label needs at least 2\n")
    assert "\ncolumn `label`: almost every row has a label of its own\n  -> name the column of the labels: data.label=COLUMN\n" in err
    assert "d.csv: 0 usable rows (bad rows: 9 label with one row); at least 8 are needed" in cli_("init", "d.csv", "data.on_bad_row=reject")[2]
    assert list(tmp_path.iterdir()) == [tmp_path / "d.csv"]


# --- a run, stage by stage and at once ------------------------------------------------------------------------------------------


def test_a_run_stage_by_stage_is_the_run_at_once(cli_: Cli, tmp_path: Path, recipe_file: Path) -> None:
    runs = tmp_path / "runs"
    folder = runs / "colours"
    quick = ("evaluate.against=[majority]", "--runs-dir", runs)

    def state(of: Path) -> list[tuple[str, str]]:
        return [(stage["name"], stage["status"]) for stage in json.loads((of / "run.json").read_text())["stages"]]

    code, out, _ = cli_("prepare", recipe_file, *quick)
    assert (code, out) == (0, f"colours: prepare is done. Next: tunesmith train {folder}\n")
    assert state(folder) == [("prepare", "finished"), ("inspect", "finished")] and not (folder / "model").exists()
    code, out, err = cli_("train", folder)
    assert (code, out) == (0, f"colours: train is done. Next: tunesmith evaluate {folder}\n") and "prepare: done before, reused" in err
    assert state(folder)[-1] == ("train", "finished") and not (folder / "evaluation.json").exists()
    assert cli_("evaluate", "colours", "--runs-dir", runs)[:2] == (0, f"colours: evaluate is done. Next: tunesmith report {folder}\n")
    assert not (folder / "report.html").exists()
    code, out, _ = cli_("report", "colours", "--runs-dir", runs)
    assert code == 0 and f"Report: {folder / 'report.html'}" in out and f'Try it: tunesmith predict {folder} "your text here"' in out
    assert "test rows, 95 % intervals)" in out and (folder / "report.html").exists()
    code, out_again, err = cli_("run", recipe_file, *quick)
    assert (code, out_again) == (0, out) and err.count("done before, reused") == 5

    code, _, err = cli_("run", recipe_file, *quick, "--fresh")
    assert code == 0 and "reused" not in err and "shared" not in err
    weights = [path.read_bytes() for path in sorted(runs.glob("colours*/model/model.safetensors"))]
    assert len(weights) == 2 and weights[0] == weights[1]

    code, out, _ = cli_("runs", "--runs-dir", runs)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and [line[:2] for line in lines] == [["colours", "finished"], ["colours-2", "finished"]]
    assert {line[-2] for line in lines} == {"macro_f1"} and len({line[-1] for line in lines}) == 1

    delete = ("runs", "delete", "colours", "--runs-dir", runs)
    assert cli_(*delete)[0] == 2 and "error: command line: nobody answered the question\n  -> add --yes to go on without it" in cli_(*delete)[2]
    assert "Nothing is deleted" in cli_(*delete, stdin="n\n")[1] and folder.exists()
    assert cli_(*delete, "--yes") == (0, "colours is deleted\n", "") and not folder.exists()
    assert cli_("runs", "delete", "colours-2", "--runs-dir", runs, stdin="y\n")[0] == 0
    assert cli_("runs", "--runs-dir", runs) == (0, f"No runs in {runs}. Start one: tunesmith run RECIPE\n", "")


def test_a_run_that_is_not_there(cli_: Cli, tmp_path: Path) -> None:
    said = f"error: command line: no run `nothing` in {tmp_path}\n  -> start one: tunesmith run RECIPE\n"
    for verb in (["train"], ["evaluate"], ["report"], ["predict"], ["runs", "delete"], ["run", "--resume"]):
        assert cli_(*verb, "nothing", "--runs-dir", tmp_path) == (2, "", said)


def test_resume_refuses_what_would_be_another_run(cli_: Cli, tmp_path: Path) -> None:
    code, _, err = cli_("run", "--resume", "colours", "train.seed=1", "--runs-dir", tmp_path)
    assert code == 2 and err.startswith("error: command line: `train.seed=1` cannot change within a run\n  -> only train.epochs, train.learning_rate, ")


def test_the_gate_decides_the_exit_code(cli_: Cli, tmp_path: Path, recipe_file: Path) -> None:
    command = ("run", recipe_file, "train.epochs=1", "evaluate.against=[majority]", "--runs-dir", tmp_path / "runs")
    assert cli_(*command, "gate.accuracy.at_least=0")[0] == 0
    code, _, err = cli_(*command, "gate.accuracy.at_least=1.01", "gate.macro_f1={at_most: -1, by: upper}")
    assert code == 3 and "The run is finished, but it did not pass its gate." in err
    assert "gate: accuracy is " in err and ", must be at least 1.01: FAILED\n" in err
    assert "macro_f1 (upper end of its 95 % interval) is " in err and ", must be at most -1: FAILED\n" in err
    state = json.loads((tmp_path / "runs" / "colours-2" / "run.json").read_text())
    assert state["status"] == "finished" and [one["passed"] for one in state["gate"]] == [False, False]
    figures = json.loads((tmp_path / "runs" / "colours-2" / "evaluation.json").read_text())["splits"]["test"]["models"]["tuned"]
    assert [one["value"] for one in state["gate"]] == [figures["accuracy"]["value"], figures["macro_f1"]["high"]]
    with pytest.raises(GateFailed):
        tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", train__epochs=1, evaluate__against=["majority"], gate__accuracy__at_least=1.01)
    code, _, err = cli_(*command, "gate.acuracy.at_least=0.5")
    assert code == 2 and "error: recipe, `gate`: the gate names an unknown figure `acuracy`, did you mean `accuracy`?\n  -> choose from " in err


def test_python_has_the_same_run(cli_: Cli, tmp_path: Path, recipe_file: Path) -> None:
    run = tunesmith.run(recipe_file, runs_dir=tmp_path / "runs", train__epochs=1, evaluate__against=["majority"])
    again = tunesmith.load(tmp_path / "runs" / "colours")
    assert run.folder == again.folder and run.status == again.status == "finished" and repr(run) == "<tunesmith run colours: finished>"
    value = json.loads((run.folder / "evaluation.json").read_text())["splits"]["test"]["models"]["tuned"]["macro_f1"]["value"]
    assert again.evaluation.test.tuned.macro_f1.value == value and run.training.steps > 0 and run.report.exists()
    assert cli_("run", recipe_file, "train.epochs=1", "evaluate.against=[majority]", "--runs-dir", tmp_path / "runs")[2].count("reused") == 5
    answer = again.predict(["a leaf"])[0]
    assert answer.label in answer.probabilities and again.predict([]) == []
    with pytest.raises(UserError, match="predict takes a list of texts, found one text"):
        again.predict("a leaf")
    with pytest.raises(UserError, match="no run `nothing`"):
        tunesmith.load(tmp_path / "runs" / "nothing")


def test_an_interrupt_is_130_and_the_same_command_goes_on(cli_: Cli, tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.listeners import progress

    command = ("run", recipe_file, "evaluate.against=[majority]", "train.checkpoint_steps=4", "--runs-dir", tmp_path / "runs")
    heard = progress.Teller.__call__

    def interrupting(self: progress.Teller, event: dict[str, object]) -> None:
        heard(self, event)
        if event["kind"] == "valid":
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(progress.Teller, "__call__", interrupting)
        code, _, err = cli_(*command)
    assert code == 130 and err.endswith("\nstopped; the same command goes on from here\n")
    assert cli_("runs", "--runs-dir", tmp_path / "runs")[1].split()[:2] == ["colours", "interrupted"]
    code, _, err = cli_(*command)
    assert code == 0 and "resumed at step" in err
