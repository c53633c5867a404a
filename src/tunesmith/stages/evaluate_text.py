"""Stage `evaluate` for language models: losses and answers of the tuned model and its untuned base on rows neither has learnt."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tunesmith import objectives, starters
from tunesmith.data import rows, sources
from tunesmith.data.validate import TEXT_NAMES
from tunesmith.errors import UserError, some
from tunesmith.files import staged_folder, write_json
from tunesmith.stages import Context, plain, reader
from tunesmith.tokens import batches

if TYPE_CHECKING:
    from tunesmith.evaluation.measure_text import Answers
    from tunesmith.serving.generation import Writer
    from tunesmith.tokens.text import TextExamples

BATCH_ROWS, BATCH_TOKENS = 64, 4096


def measure(context: Context, split: str) -> None:
    """Measure the saved model on a side's rows -> evaluation.json and data/reference/."""
    from tunesmith.evaluation import measure_text

    run, recipe = context.run, context.recipe
    settings = recipe.evaluate
    chosen = _chosen(run.folder / "data" / f"{split}.parquet", settings.most_rows, settings.seed)
    groups = rows.strings(chosen, "together")
    writers = _writers(context)
    prompts, references = _asked(chosen)
    with tempfile.TemporaryDirectory() as folder:  # the same way in as in training: from a file of rows
        rows.write(chosen, Path(folder) / "rows.parquet")
        examples = _examples(context, Path(folder) / "rows.parquet")
    models = {name: _answers(context, writer, examples, chosen, prompts, name) for name, writer in writers.items()}
    result = measure_text.measure_text(
        models,
        references,
        None if prompts is None else [_shown(one) for one in prompts],
        groups=groups if any(group is not None for group in groups) else None,
        rows=rows.strings(chosen, "id"),
        split=split,
        seed=settings.seed,
        resamples=settings.resamples,
    )
    if settings.general and "base" in writers:
        general = _general(context, writers)
        result = measure_text.with_forgetting(result, general, settings.general, split=split, seed=settings.seed, resamples=settings.resamples)
    write_json(run.folder / "evaluation.json", plain(result))
    _reference(context, models["tuned"], references)


def _chosen(path: Path, most: int, seed: int) -> Any:
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


def _writers(context: Context) -> dict[str, Writer]:
    """The tuned model, and its base where there is one worth comparing with."""
    from tunesmith.serving import generation

    tuned = generation.load(context.run.folder / "model")
    base = context.base
    if "base" not in context.recipe.evaluate.against or not any(base.folder.glob("*.safetensors")):
        return {"tuned": tuned}
    assert tuned.about.writing is not None
    return {"tuned": tuned, "base": generation.of_base(base, tuned.about.writing, tuned.about.max_tokens)}


def _asked(table: Any) -> tuple[list[list[dict[str, str]]] | None, list[str] | None]:
    """What the model is asked, and the answers wanted: the last assistant turn of a dialogue; (None, None) for documents."""
    if "messages" in table.schema.names:
        dialogues = table.column("messages").to_pylist()
        last = [max(i for i, message in enumerate(one) if message["role"] == "assistant") for one in dialogues]
        return [one[:at] for one, at in zip(dialogues, last, strict=True)], [one[at]["content"] for one, at in zip(dialogues, last, strict=True)]
    if "prompt" in table.schema.names:
        return [[{"role": "user", "content": prompt}] for prompt in rows.strings(table, "prompt")], rows.strings(table, "completion")
    return None, None


def _shown(messages: list[dict[str, str]]) -> str:
    """A prompt as a reader of the report sees it."""
    return messages[0]["content"] if len(messages) == 1 else "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _examples(context: Context, path: Path) -> TextExamples:
    recipe = context.recipe
    objective = objectives.get(recipe.objective.kind).make(recipe.objective, context.base, context.run.folder / "data")
    made: Any = objective.examples(path, reader(context.base, recipe))
    return made  # type: ignore[no-any-return]  # language models' objectives give these


def _answers(context: Context, writer: Writer, examples: TextExamples, table: Any, prompts: Any, name: str) -> Answers:
    from tunesmith.evaluation.measure_text import Answers
    from tunesmith.models.decode import Sampling

    nll_N, tokens_N = losses(writer.model, examples, table.num_rows)
    if prompts is None:
        return Answers(nll=nll_N, tokens=tokens_N)
    sampling = Sampling(max_new_tokens=context.recipe.evaluate.max_new_tokens)
    written = writer.answer(prompts, sampling, context.progress("evaluate" if name == "tuned" else "evaluate the base"))
    return Answers([one.text for one in written], [one.ended for one in written], nll_N, tokens_N)


def losses(model: Any, examples: TextExamples, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Each row's loss in nats and learnt tokens; a row in several pieces is their sum, a row left out has no tokens."""
    import torch

    from tunesmith.objectives import next_token

    nll_N, tokens_N = np.zeros(count), np.zeros(count, np.int64)
    with torch.inference_mode():
        for some in batches.in_order(examples.lengths_N, BATCH_ROWS, BATCH_TOKENS, packed=True):
            losses_R, tokens_R = next_token.row_losses(model, examples.batch(some))
            np.add.at(nll_N, examples.rows_N[some], losses_R.double().cpu().numpy())
            np.add.at(tokens_N, examples.rows_N[some], tokens_R.cpu().numpy())
    return nll_N, tokens_N


def _general(context: Context, writers: dict[str, Writer]) -> dict[str, Answers]:
    """Losses of every model on a text that has nothing to do with the training rows."""
    from tunesmith.evaluation.measure_text import Answers
    from tunesmith.tokens import text

    settings = context.recipe.evaluate
    assert settings.general is not None
    documents = _documents(settings.general, settings.general_rows)
    read = reader(context.base, context.recipe)
    tuned = writers["tuned"]
    assert tuned.about.writing is not None
    pieces = text.documents(read.tokenizer, iter([documents]), tuned.about.writing.ends[0], read.limit)
    examples = text.TextExamples(pieces, read.scratch, text.Losses())
    out = {}
    for name, writer in writers.items():
        nll_N, tokens_N = losses(writer.model, examples, len(documents))
        out[name] = Answers(nll=nll_N, tokens=tokens_N)
    return out


def _documents(name: str, count: int) -> list[str]:
    """The first texts of a file, or texts of a starter's grammar that no recipe learns from.

    Raises:
        UserError: no such starter or file, or no column of texts in it.
    """
    if name.removeprefix(starters.PREFIX) in starters.GRAMMARS:
        return starters.held_out(name, count)
    path = starters.data_file(name) if name.startswith(starters.PREFIX) else Path(name)
    records = sources.read(path)
    column = next((one for one in records.columns if one.lower() in TEXT_NAMES), None)
    if column is None:
        raise UserError("no column of texts", str(path), f"evaluate.general wants one named like {some(TEXT_NAMES, 4)}")
    return [str(record[column]) for _, record in records.records[:count]]


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
