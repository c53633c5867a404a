"""Stage `begin`: for a model from scratch, its tokenizer and config, made from the training rows -> `base/`. Others have theirs already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tunesmith.core.files import sha256_json, staged_folder
from tunesmith.data import rows
from tunesmith.models.scratch import ScratchSettings
from tunesmith.runs import Run
from tunesmith.stages import FORMAT, Context


def stage(context: Context, kin: list[Run]) -> None:
    """Make the base, or reuse what is made; nothing to do where the recipe names one."""
    settings = context.recipe.model.scratch
    if settings is None:
        return
    from tunesmith.models import scratch

    run = context.run

    def work() -> None:
        with staged_folder(run.folder / "base") as staging:
            into(settings, run.folder / "data" / "train.parquet", staging)

    decides = {"scratch": scratch.identity(settings), "rows": run.output_hash("prepare"), "format": FORMAT}
    run.stage("begin", sha256_json(decides), ["base"], work, kin)


def into(settings: ScratchSettings, train: Path, folder: Path) -> None:
    """Make the base from a file of training rows, in an empty folder."""
    from tunesmith.models import scratch

    scratch.make(settings, _texts(train), folder)


def _texts(path: Path) -> Iterator[list[str]]:
    for batch in rows.batches(path):
        if "messages" in batch.schema.names:
            yield [message["content"] for messages in batch.column("messages").to_pylist() for message in messages]
        else:
            yield [text for name in ("text", "prompt", "completion") if name in batch.schema.names for text in batch.column(name).to_pylist()]
