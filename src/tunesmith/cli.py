"""argv -> one verb. Nothing heavy is imported until a verb needs it: `tunesmith --help` answers at once."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.core.errors import GateFailed, Interrupted, UserError, counted

if TYPE_CHECKING:
    from tunesmith.pipeline import Options
    from tunesmith.runs import Run

app = typer.Typer(
    help="Take raw data to a fine-tuned language model that is measured and documented.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
runs_app = typer.Typer(help="List runs, or delete one.", invoke_without_command=True, no_args_is_help=False, rich_markup_mode=None)
app.add_typer(runs_app, name="runs")

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder of all runs.")]
Recipe = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings to change: key.path=value ...", metavar="[KEY=VALUE]...")]
Query = Annotated[str | None, typer.Option("--query", help="The SELECT that gives the rows of a database.")]
Split = Annotated[str | None, typer.Option("--split", help="The split of a data set of the Hub; train when absent.")]
RunName = Annotated[str, typer.Argument(help="A run's name, or its folder.", metavar="RUN")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:N or mps.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew although a run of the same recipe and data is there.")]
RUNS = Path("runs")
AFTER = {"inspect": ("prepare", "train"), "train": ("train", "evaluate"), "evaluate": ("evaluate", "report")}
"""The last stage of a verb -> the verb, and the next one."""
RESUMABLE = ("train.epochs", "train.learning_rate", "train.patience")
"""What `run --resume` may change without making another run of it."""


class _Stopper:
    """Turns SIGINT and SIGTERM into a polite request while training, and into an exception elsewhere or when asked twice."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.polite = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.polite or self.asked is not None:
            raise Interrupted(number)
        self.asked = number

    def poll(self) -> int | None:
        """The signal that came, if any. The first poll says that somebody listens."""
        self.polite = True
        return self.asked


@contextmanager
def _options(runs_dir: Path, fresh: bool = False, until: str = "report", tensorboard: bool = False) -> Iterator[Options]:
    from tunesmith.listeners.progress import Teller
    from tunesmith.pipeline import Options

    stopper, teller = _Stopper(), Teller()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stopper)

    def listen(event: dict[str, Any]) -> None:
        teller(event)
        if event["kind"] == "stage" and event["status"] == "finished":
            stopper.polite = False
            if stopper.asked is not None:  # it came when the loop had polled for the last time
                raise Interrupted(stopper.asked)

    try:
        yield Options(runs_dir, fresh, until, listen, stopper.poll, tensorboard)
    finally:
        teller.close()


@app.command()
def init(
    data: Annotated[str, typer.Argument(help="A file, a folder, a glob in quotes, a database's URL, hub:OWNER/NAME or starter/NAME.")],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The recipe to write; named after the data when absent.")] = None,
    query: Query = None,
    split: Split = None,
) -> None:
    """Read and check data, and write a recipe for them."""
    from tunesmith.init import default_target, first_recipe

    target = output or default_target(data)
    with _reading() as reading:
        text, said = first_recipe(data, target, overrides or [], query, split, reading)
    for line in said:
        typer.echo(line, err=True)
    typer.echo(text)
    typer.echo(f"Written to {target}. Next: {_command('check', str(target))}", err=True)


@app.command()
def check(
    what: Annotated[str, typer.Argument(help="A recipe, or data as for init.", metavar="DATA_OR_RECIPE")],
    overrides: Overrides = None,
    rejected: Annotated[Path | None, typer.Option("--rejected", help="Write every row left out, with the reason, to this file (JSON lines).")] = None,
    query: Query = None,
    split: Split = None,
) -> None:
    """Read and check data, or all that a recipe's run would use; write nothing."""
    from tunesmith import objectives, pipeline
    from tunesmith import recipe as recipes
    from tunesmith.data.preparation.card import NAMES

    recipe = Path(what).suffix.lower() in (".yaml", ".yml")
    if recipe and (option := "--query" if query is not None else "--split" if split is not None else ""):
        raise UserError(f"{option} goes with data, not with a recipe", "command line", "write it into the recipe, beside the source: data.train: {source: ...}")
    with _reading() as reading:
        if recipe:
            card, tokens, seen = pipeline.check(recipes.load(Path(what), overrides or []), rejected, reading)
        else:
            card, tokens, seen = pipeline.check_data(recipes.of_data(what, overrides or [], query, split), rejected, reading)
    counts = ", ".join(f"{count:,} {side}" for side, count in card["rows"].items())
    labels = f"{len(card['labels'])} labels; " if card["labels"] else ""
    typer.echo(f"{NAMES[card['kind']]}: {counts}; {labels}{counted(sum(card['rejected'].values()), 'row')} left out")
    for reason, count in sorted(card["rejected"].items(), key=lambda item: -item[1]):
        typer.echo(f"  left out, {reason}: {count:,}")
    for step, count in card["changed"].items():
        typer.echo(f"  cleaned, {step}: {counted(count, 'text')}")
    said = [tokens["said"]] if tokens else []
    for text in [*card["notes"], *said, *(f"warning: {w}" for w in card["warnings"]), *(f"look at: {text}" for text in seen)]:
        typer.echo(f"  {text}")
    options = [word for name, value in (("--query", query), ("--split", split)) if value is not None for word in (name, value)]
    try:
        objectives.for_rows(card["kind"])
    except UserError as error:
        typer.echo(f"The data can be read, but {error.what}.\n  -> {error.remedy}")
        return
    typer.echo(f"The data can be used. Next: {_command('run' if recipe else 'init', what, *(overrides or []), *options)}")


def _command(*words: str) -> str:
    """A command of ours as a shell takes it."""
    return shlex.join(["tunesmith", *words])


@contextmanager
def _reading() -> Iterator[Callable[[int, int, int], None]]:
    """Shows how far the reading of data is."""
    with _telling("prepare") as tell:
        begun = time.monotonic()
        yield lambda done, of, rows: tell(done, of, rows=rows, seconds=time.monotonic() - begun)


@app.command()
def prepare(recipe: Recipe, overrides: Overrides = None, runs_dir: RunsDir = RUNS, fresh: Fresh = False) -> None:
    """Check, clean and split the data into a run; train nothing yet."""
    _run(recipe, overrides, runs_dir, fresh, "inspect")


@app.command()
def run(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")] = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS,
    fresh: Fresh = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write the training curve for TensorBoard into the run as well.")] = False,
    resume: Annotated[str | None, typer.Option("--resume", help="Go on with this run; KEY=VALUE may change " + ", ".join(RESUMABLE))] = None,
) -> None:
    """Carry a recipe through: check, prepare, train, evaluate, report. A stopped run goes on where it was."""
    if resume is not None:
        changes = [*([str(recipe)] if recipe else []), *(overrides or [])]
        _resume(resume, changes, runs_dir)
    elif recipe is None:
        raise UserError("no recipe is given", "command line", "tunesmith run RECIPE.yaml, or tunesmith init DATA to make one")
    else:
        _run(recipe, overrides, runs_dir, fresh, "report", tensorboard)


def _run(recipe: Path, overrides: list[str] | None, runs_dir: Path, fresh: bool, until: str, tensorboard: bool = False) -> None:
    from tunesmith import pipeline
    from tunesmith import recipe as recipes

    resolved = recipes.load(recipe, overrides or [])
    with _options(runs_dir, fresh, until, tensorboard) as options:
        _tell(options, lambda: pipeline.run(resolved, options))


def _resume(name: str, changes: list[str], runs_dir: Path) -> None:
    from tunesmith import pipeline, runs

    wrong = [change for change in changes if change.partition("=")[0].strip() not in RESUMABLE]
    if wrong:
        raise UserError(f"`{wrong[0]}` cannot change within a run", "command line", f"only {', '.join(RESUMABLE)} can; give the recipe again for a new run")
    one = runs.find(runs_dir, name)
    with _options(runs_dir) as options:
        _tell(options, lambda: pipeline.resume(one, changes, options))


def _tell(options: Options, work: Callable[[], Run]) -> None:
    try:
        one = work()
    except GateFailed:
        typer.echo("The run is finished, but it did not pass its gate.", err=True)
        raise
    if options.until == "report":
        typer.echo(_summary(one))
    else:
        done, after = AFTER[options.until]
        typer.echo(f"{one.name}: {done} is done. Next: tunesmith {after} {one.folder}")


def _summary(one: Run) -> str:
    from tunesmith import runs
    from tunesmith.models import metadata

    evaluation = runs.evaluation_of(one)
    lines = []
    if evaluation:
        from tunesmith.evaluation import table, verdict

        split, found = next(item for item in evaluation["splits"].items() if item[0] in ("test", "valid"))
        headline, sentences, _ = verdict(evaluation, split)
        lines += [headline, *sentences, "", *table(evaluation, split, {name: name for name in found["models"]})]
        lines.append(f"({found['rows']:,} {split} rows, 95 % intervals)")
    writing = metadata.read(one.folder / "model").writing
    tried = f"tunesmith chat {one.folder}" if writing and writing.template else f'tunesmith predict {one.folder} "your text here"'
    lines += ["", f"Report: {one.folder / 'report.html'}", f"Try it: {tried}"]
    return "\n".join(lines)


def _stage_verb(name: str, runs_dir: Path, stage: str) -> None:
    from tunesmith import pipeline, runs

    with _options(runs_dir, until=stage) as options:
        _tell(options, lambda: pipeline.again(runs.find(runs_dir, name), stage, options))


@app.command()
def train(run: RunName, runs_dir: RunsDir = RUNS) -> None:
    """Train a prepared run, or go on with it."""
    _stage_verb(run, runs_dir, "train")


@app.command()
def evaluate(
    run: RunName,
    runs_dir: RunsDir = RUNS,
    against: Annotated[str | None, typer.Option("--against", help="Compare with this run's model, on the first run's test rows.")] = None,
) -> None:
    """Measure a trained run on its test rows, against its baselines; or two runs' models against each other."""
    if against is None:
        _stage_verb(run, runs_dir, "evaluate")
        return
    from tunesmith import runs
    from tunesmith.stages import compare

    with _options(runs_dir) as options:
        one, other = runs.find(runs_dir, run, options.listen), runs.find(runs_dir, against)
        result = compare.against(one, other)
    typer.echo("\n".join(compare.said(result, one, other)))
    typer.echo(f"Written to {one.folder / f'comparison-{other.name}.json'}")


@app.command()
def report(run: RunName, runs_dir: RunsDir = RUNS) -> None:
    """Write report.html and MODEL_CARD.md of an evaluated run."""
    _stage_verb(run, runs_dir, "report")


@app.command()
def predict(
    run: RunName,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; none reads them from stdin, one a line.")] = None,
    input: Annotated[Path | None, typer.Option("--input", "-i", help="A .csv, .tsv, .jsonl or .parquet file; its rows come back with columns added.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write; absent writes to stdout.")] = None,
    column: Annotated[str | None, typer.Option("--text", help="The column of the text; absent takes the training data's.")] = None,
    device: Device = "cpu",
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", help="Most tokens of a written answer; 256 when absent.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0, when absent, writes the most probable words.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Draw from the likeliest tokens that have this probability together.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same texts.")] = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Answer for texts, or for the rows of a file: with labels, or with texts where the model writes."""
    from tunesmith import runs
    from tunesmith.serving import predicting

    one = runs.find(runs_dir, run)
    asked = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    sampling = {name: value for name, value in asked.items() if value is not None}
    if input is not None and texts:
        raise UserError("both texts and --input are given", "command line", "give one of the two")
    with _telling("predict") as progress:
        if input is not None:
            predicting.predict_file(one.folder, input, output, column, device, sampling, progress)
            return
        texts = texts or _lines_of_stdin()
        if not texts:
            raise UserError("no text is given", "command line", 'tunesmith predict RUN "a text", or pipe texts in, or --input FILE')
        predicting.predict_texts(one.folder, texts, output, device, sampling, progress)


@contextmanager
def _telling(task: str) -> Iterator[Callable[..., None]]:
    """Shows how far a task is, from the first it is told until all is done."""
    from tunesmith.listeners.progress import Teller

    teller = Teller()

    def tell(done: int, of: int, **more: float) -> None:
        teller({"kind": "progress", "task": task, "done": done, "of": of, **more})
        if done == of:
            teller.close()

    try:
        yield tell
    finally:
        teller.close()


@app.command()
def chat(
    run: RunName,
    system: Annotated[str | None, typer.Option("--system", help="What the model is told before the dialogue.")] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="0 writes the most probable words.")] = 0.7,
    top_p: Annotated[float, typer.Option("--top-p", help="Draw from the likeliest tokens that have this probability together.")] = 0.95,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Most tokens of an answer.")] = 256,
    seed: Annotated[int, typer.Option("--seed", help="Same seed and questions, same answers.")] = 0,
    device: Device = "cpu",
    runs_dir: RunsDir = RUNS,
) -> None:
    """Talk with a model that was trained on dialogues; lines of a pipe are turns of one dialogue."""
    from tunesmith import runs
    from tunesmith.models.decode import Sampling
    from tunesmith.serving import chatting

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    chatting.chat(runs.find(runs_dir, run).folder, system, sampling, device)


@app.command()
def export(
    run: RunName,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write; it must not exist yet.")],
    to: Annotated[str, typer.Option("--to", help="merged: a plain Hugging Face model, adapters merged into the base's weights.")] = "merged",
    runs_dir: RunsDir = RUNS,
) -> None:
    """Write a run's model for other programs, and check that it gives the same."""
    from tunesmith import runs
    from tunesmith.serving import exporting

    if to not in exporting.FORMS:
        raise UserError(f"`--to={to}` is not known", "command line", f"there is {', '.join(exporting.FORMS)}")
    made = exporting.merged(runs.find(runs_dir, run).folder, output)
    typer.echo(f"Written to {made.folder}. Read by transformers in fp32, its logits differ from the run's by {made.apart:.1g} at most.")


def _lines_of_stdin() -> list[str]:
    try:
        return [line.rstrip("\n") for line in sys.stdin if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"byte 0x{error.object[error.start]:02X} is not UTF-8", "stdin", "iconv -f WINDOWS-1252 -t UTF-8 turns Windows text into it") from error


@runs_app.callback()
def list_runs(context: typer.Context, runs_dir: RunsDir = RUNS) -> None:
    """List runs, newest last."""
    if context.invoked_subcommand:
        return
    from tunesmith import runs

    found = sorted(runs.every(runs_dir), key=lambda one: str(one.state.get("created", "")))
    if not found:
        typer.echo(f"No runs in {runs_dir}. Start one: tunesmith run RECIPE")
    for one in found:
        evaluation = runs.evaluation_of(one)
        figure = ""
        if evaluation:
            split = next(iter(evaluation["splits"].values()))
            figure = f"{evaluation['headline']} {split['models']['tuned'][evaluation['headline']]['value']:.4f}"
        typer.echo(f"{one.name:24} {one.status:12} {str(one.state.get('created', ''))[:16]:18} {figure}")


@runs_app.command("delete")
def delete_run(run: RunName, runs_dir: RunsDir = RUNS, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete a run and all its files."""
    from tunesmith import runs

    one = runs.find(runs_dir, run)
    if not yes and not _confirmed(f"Delete {one.folder} and everything in it?"):
        typer.echo("Nothing is deleted")
        return
    runs.delete(one)
    typer.echo(f"{one.name} is deleted")


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort:
        raise UserError("nobody answered the question", "command line", "add --yes to go on without it") from None


def main() -> None:
    """The command `tunesmith`. Exit codes: 0 done, 1 our crash, 2 user error, 3 gate failed, 130/143 interrupted and resumable."""
    code: str | int | None
    stdout = sys.stdout
    try:
        code = app(standalone_mode=True)
    except SystemExit as left:  # how typer leaves, also when all went well
        # It leaves with 1 and another stdout when the reader has gone (`| head`), which is no fault of anybody.
        code = left.code if sys.stdout is stdout else 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except GateFailed as error:
        print(f"gate: {error}", file=sys.stderr)
        code = 3
    except (Interrupted, KeyboardInterrupt) as error:
        code = 128 + (error.signal_number if isinstance(error, Interrupted) else signal.SIGINT)
        print("\nstopped; the same command goes on from here", file=sys.stderr)
    except Exception as error:  # noqa: BLE001  # the last line of defence: say how to report it
        import traceback

        from tunesmith.core.files import SURROUNDINGS, as_user_error

        if isinstance(error, OSError) and error.errno in SURROUNDINGS and error.filename:
            print(f"error: {as_user_error(error, Path(os.fsdecode(error.filename)))}", file=sys.stderr)
            code = 2
        else:
            traceback.print_exc()
            print("\nThis is a fault of tunesmith, not of yours. Please report it with the lines above and `tunesmith runs`.", file=sys.stderr)
            code = 1
    try:
        stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())  # or Python complains while it shuts down
    sys.exit(code)
