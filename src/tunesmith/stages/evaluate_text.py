"""Stage `evaluate` for language models: losses and answers of the tuned model and its untuned base on rows neither has learnt."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tunesmith import objectives, starters
from tunesmith.core.errors import UserError, some
from tunesmith.core.files import staged_folder, write_json
from tunesmith.data import rows
from tunesmith.data.readers.stream import Stream
from tunesmith.data.settings import TEXT_NAMES
from tunesmith.models import metadata
from tunesmith.recipe import Recipe
from tunesmith.stages import Context, device_of, plain, reader
from tunesmith.tokens import batching

if TYPE_CHECKING:
    from tunesmith.evaluation.generation.measure import Answers
    from tunesmith.serving.generation import Writer
    from tunesmith.tokens.sequences import TextExamples

BATCH_ROWS, BATCH_TOKENS = 64, 4096


def measure(context: Context, split: str) -> None:
    """Measure the saved model on a side's rows -> evaluation.json and data/reference/."""
    from tunesmith.evaluation.generation import measure
    from tunesmith.evaluation.generation.measure import Answers

    run, recipe = context.run, context.recipe
    settings = recipe.evaluate
    chosen = sample(run.folder / "data" / f"{split}.parquet", settings.most_rows, settings.seed)
    prompts, references = asked(chosen)
    examples = _examples(context, chosen)
    general = general_text(recipe)
    beside = _general(context, general) if general else None
    models: dict[str, Answers] = {}
    lost: dict[str, Answers] = {}
    for name, load in _writers(context).items():  # one model after the other: two large ones need not fit side by side
        writer = load()
        models[name] = _answers(context, writer, examples, chosen, settings.max_new_tokens, "evaluate" if name == "tuned" else "evaluate the base")
        if beside is not None:
            nll_N, tokens_N = losses(writer.model, beside, int(beside.rows_N.max()) + 1)
            lost[name] = Answers(nll=nll_N, tokens=tokens_N)
        del writer
    result = measure.measure_text(
        models,
        references,
        shown(prompts),
        groups=groups_of(chosen),
        rows=rows.strings(chosen, "id"),
        split=split,
        seed=settings.seed,
        resamples=settings.resamples,
    )
    if general:
        source = general if general.startswith(starters.PREFIX) else Path(general).name
        result = measure.with_forgetting(result, lost, source, split=split, seed=settings.seed, resamples=settings.resamples)
    write_json(run.folder / "evaluation.json", plain(result))
    _reference(context, models["tuned"], references)


def answers(context: Context, table: Any, max_new_tokens: int, task: str) -> Answers:
    """What a run's saved model does on rows, which may be another run's: it reads them as it has learnt to.

    Args:
        context: of the run.
        table: prepared rows.
        max_new_tokens: most tokens of an answer.
        task: under which progress is told.
    """
    return _answers(context, _tuned(context), _examples(context, table), table, max_new_tokens, task)


def general_text(recipe: Recipe) -> str | None:
    """The text on which forgetting is measured; None where it is not, for want of a text or of a base to compare with."""
    compared = recipe.data.rows != "labelled" and recipe.model.scratch is None and "base" in recipe.evaluate.against
    return recipe.evaluate.general if compared else None


def general_file(recipe: Recipe) -> Path | None:
    """The file of that text; None where a grammar writes it."""
    name = general_text(recipe)
    if not name or name.removeprefix(starters.PREFIX) in starters.GRAMMARS:
        return None
    return starters.data_file(name) if name.startswith(starters.PREFIX) else Path(name)


def documents(path: Path, count: int) -> list[str]:
    """The first texts of a file.

    Raises:
        UserError: no such file, or fewer than two rows with a text in it.
    """
    found: list[str] = []
    for _, record in Stream(path):
        if isinstance(record, dict):
            texts = (value for name, value in record.items() if name.lower() in TEXT_NAMES and isinstance(value, str) and value.strip())
            found += islice(texts, 1)
        if len(found) == count:
            break
    if len(found) < 2:
        what = f"{len(found)} rows with a text in a column named like {some(TEXT_NAMES, 4)}; forgetting is measured on two or more"
        raise UserError(what, str(path), "set evaluate.general to plain documents, or to null")
    return found


def sample(path: Path, most: int, seed: int) -> Any:
    """Up to `most` rows of a file, drawn by the seed, in the file's order."""
    import pyarrow as pa

    total = rows.count(path)
    wanted = np.sort(np.random.default_rng(seed).choice(total, min(most, total), replace=False))
    parts, start = [], 0
    for batch in rows.batches(path):
        here = wanted[(wanted >= start) & (wanted < start + batch.num_rows)] - start
        if len(here):
            parts.append(batch.take(pa.array(here)))
        start += batch.num_rows
    return pa.Table.from_batches(parts)


def _writers(context: Context) -> dict[str, Callable[[], Writer]]:
    """How to load the tuned model, and its base where there is one worth comparing with, on the device of the training if it is here."""
    from tunesmith.serving import generation

    base, loaders = context.base, {"tuned": lambda: _tuned(context)}
    if "base" in context.recipe.evaluate.against and any(base.folder.glob("*.safetensors")):
        about = metadata.read(context.run.folder / "model")
        assert about.writing is not None
        writing = about.writing
        loaders["base"] = lambda: generation.of_base(base, writing, about.max_tokens, device_of(context))
    return loaders


def _tuned(context: Context) -> Writer:
    from tunesmith.serving import generation

    return generation.load(context.run.folder / "model", device_of(context))


def asked(table: Any) -> tuple[list[list[dict[str, str]]] | None, list[str] | None]:
    """What the model is asked, and the answers wanted: the last assistant turn of a dialogue; (None, None) for documents."""
    if "messages" in table.schema.names:
        dialogues = table.column("messages").to_pylist()
        last = [max(i for i, message in enumerate(one) if message["role"] == "assistant") for one in dialogues]
        return [one[:at] for one, at in zip(dialogues, last, strict=True)], [one[at]["content"] for one, at in zip(dialogues, last, strict=True)]
    if "prompt" in table.schema.names:
        return [[{"role": "user", "content": prompt}] for prompt in rows.strings(table, "prompt")], rows.strings(table, "completion")
    return None, None


def shown(prompts: list[list[dict[str, str]]] | None) -> list[str] | None:
    """Prompts as a reader of the report sees them."""
    if prompts is None:
        return None
    return [one[0]["content"] if len(one) == 1 else "\n".join(f"{message['role']}: {message['content']}" for message in one) for one in prompts]


def groups_of(table: Any) -> list[Any] | None:
    """The `together` value of each row; None where no row has one."""
    groups = rows.strings(table, "together")
    return groups if any(group is not None for group in groups) else None


def _examples(context: Context, table: Any) -> TextExamples:
    recipe = context.recipe
    objective = objectives.get(recipe.objective.kind).make(recipe.objective, context.base, context.run.folder / "data")
    with tempfile.TemporaryDirectory() as folder:  # the same way in as in training: from a file of rows
        rows.write(table, Path(folder) / "rows.parquet")
        made: Any = objective.examples(Path(folder) / "rows.parquet", reader(context.base, recipe))
    return made  # type: ignore[no-any-return]  # language models' objectives give these


def _answers(context: Context, writer: Writer, examples: TextExamples, table: Any, max_new_tokens: int, task: str) -> Answers:
    from tunesmith.evaluation.generation.measure import Answers
    from tunesmith.models.decode import Sampling

    nll_N, tokens_N = losses(writer.model, examples, table.num_rows)
    prompts, _ = asked(table)
    if prompts is None:
        return Answers(nll=nll_N, tokens=tokens_N)
    written = writer.answer(prompts, Sampling(max_new_tokens=max_new_tokens), context.progress(task))
    return Answers([one.text for one in written], [one.ended for one in written], nll_N, tokens_N)


def losses(model: Any, examples: TextExamples, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Each row's loss in nats and learnt tokens; a row in several pieces is their sum, a row left out has no tokens."""
    import torch

    from tunesmith.objectives import next_token

    nll_N, tokens_N, rows_N = np.zeros(count), np.zeros(count, np.int64), examples.rows_N
    device = next(model.parameters()).device
    with torch.inference_mode():
        for some in batching.in_order(examples.lengths_N, BATCH_ROWS, BATCH_TOKENS, packed=True):
            losses_R, tokens_R = next_token.row_losses(model, examples.batch(some).to(device))
            np.add.at(nll_N, rows_N[some], losses_R.double().cpu().numpy())
            np.add.at(tokens_N, rows_N[some], tokens_R.cpu().numpy())
    return nll_N, tokens_N


def _general(context: Context, source: str) -> TextExamples:
    """A text that has nothing to do with the training rows, as tokens."""
    from tunesmith.tokens import sequences

    path, count = general_file(context.recipe), context.recipe.evaluate.general_rows
    texts = starters.held_out(source, count) if path is None else documents(path, count)
    read = reader(context.base, context.recipe)
    writing = metadata.read(context.run.folder / "model").writing
    assert writing is not None
    return sequences.TextExamples(sequences.documents(read.tokenizer, iter([texts]), writing.ends[0], read.limit), read.scratch, sequences.Losses())


def _reference(context: Context, tuned: Answers, references: list[str] | None) -> None:
    """What drift will be measured against: losses of held-out rows and lengths of answers."""
    facts: dict[str, Any] = {"base_sha256": context.base.sha256}
    if tuned.nll is not None and tuned.tokens is not None:
        some = tuned.tokens > 0
        facts["nll"] = np.percentile(tuned.nll[some] / tuned.tokens[some], np.arange(0, 101, 10))
    if tuned.texts is not None:
        facts["answer_words"] = np.percentile([len(text.split()) for text in tuned.texts], np.arange(0, 101, 10))
    with staged_folder(context.run.folder / "data" / "reference") as staging:
        write_json(staging / "reference.json", plain(facts))
