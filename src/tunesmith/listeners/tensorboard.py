"""The training curve for TensorBoard (extra `[tensorboard]`): a listener of a run's events, like the progress bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.runs import Listener


def writer(folder: Path) -> Listener:
    """A listener that writes each `step` and `valid` event's figures.

    Args:
        folder: where TensorBoard's files go.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise UserError("TensorBoard is not installed", "--tensorboard", "pip install 'tunesmith[tensorboard]'") from error
    summary: Any = SummaryWriter(str(folder))

    def listen(event: dict[str, Any]) -> None:
        side = {"step": "train", "valid": "valid"}.get(event["kind"])
        if side is not None:
            for name, value in event.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool) and name not in ("step", "time"):
                    summary.add_scalar(f"{name}/{side}", value, event["step"])
            summary.flush()

    return listen
