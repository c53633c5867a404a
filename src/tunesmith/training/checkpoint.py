"""Checkpoints that survive anything: staged, flushed, hashed file by file, renamed. The newest whole one wins.

`checkpoints/step-000120/`: weights.safetensors (trainable, fp32), moments.safetensors, random.safetensors, state.json, and manifest.json
with the size and hash of each and the identity of the training it belongs to. No pickle anywhere.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import read_json, sha256_file, staged_folder, write_json

if TYPE_CHECKING:
    import torch

FILES = ("weights.safetensors", "moments.safetensors", "random.safetensors", "state.json")


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint on disk, verified."""

    folder: Path
    state: dict[str, Any]

    def tensors(self, kind: str) -> dict[str, torch.Tensor]:
        """The tensors of `weights`, `moments` or `random`."""
        from safetensors.torch import load_file

        return load_file(self.folder / f"{kind}.safetensors")


def folder_of(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return checkpoints / f"step-{step:06d}"


def save(
    checkpoints: Path,
    step: int,
    identity: str,
    weights: dict[str, torch.Tensor],
    moments: dict[str, torch.Tensor],
    random: dict[str, torch.Tensor],
    state: dict[str, Any],
) -> Path:
    """Write the checkpoint of a step, whole or not at all.

    Raises:
        UserError: no space, no permission; older checkpoints are as they were.
    """
    from safetensors.torch import save_file

    final = folder_of(checkpoints, step)
    with staged_folder(final) as staging:
        for kind, tensors in (("weights", weights), ("moments", moments), ("random", random)):
            try:
                save_file({name: value.contiguous() for name, value in tensors.items()}, staging / f"{kind}.safetensors")
            except Exception as error:
                raise _as_os_error(error) from error
        write_json(staging / "state.json", state)
        manifest = {name: {"bytes": (staging / name).stat().st_size, "sha256": sha256_file(staging / name)} for name in FILES}
        write_json(staging / "manifest.json", {"identity": identity, "step": step, "files": manifest})
    return final


def _as_os_error(error: Exception) -> Exception:
    """safetensors wraps the system's error into its own, with the number in the text only."""
    import errno
    import os

    if "os error 28" in str(error) or "No space left" in str(error):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return error


def damage(folder: Path, identity: str) -> str:
    """What is wrong with a checkpoint, in words; empty when it is whole and belongs to this training."""
    try:
        manifest = read_json(folder / "manifest.json")
        if manifest["identity"] != identity:
            return "it belongs to a training with other settings or data"
        if set(manifest["files"]) != set(FILES) or manifest["step"] != int(folder.name.removeprefix("step-")):
            return "its manifest does not fit it"
        for name, about in manifest["files"].items():
            path = folder / name
            if not path.is_file() or path.is_symlink():
                return f"{name} is missing"
            if path.stat().st_size != about["bytes"] or sha256_file(path) != about["sha256"]:
                return f"{name} is not what was written (size or hash differs)"
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    return ""


def _newest_first(checkpoints: Path) -> list[tuple[int, Path]]:
    """Steps and folders of all checkpoints, by number: as text, step-1000000 would sort before step-999999."""
    found = [(folder.name.removeprefix("step-"), folder) for folder in checkpoints.glob("step-*") if folder.is_dir()]
    return sorted(((int(step), folder) for step, folder in found if step.isdecimal()), reverse=True)


def newest(checkpoints: Path, identity: str, with_best: bool = True) -> tuple[Checkpoint | None, list[str]]:
    """Find the newest whole checkpoint of a training.

    Args:
        checkpoints: their folder.
        identity: of the training.
        with_best: pass over one whose best step's checkpoint is gone or damaged: its training could not end as it should.

    Returns:
        It, or None; and a warning for each damaged one that was passed over.
    """
    warnings: list[str] = []
    for step, folder in _newest_first(checkpoints):
        wrong = damage(folder, identity)
        if not wrong:
            found = Checkpoint(folder, read_json(folder / "state.json"))
            best = found.state["best_step"]
            if not with_best or best in (None, step) or not (wrong := damage(folder_of(checkpoints, best), identity)):
                return found, warnings
            wrong = f"the best step's checkpoint, {folder_of(checkpoints, best).name}, goes with it, and {wrong}"
        warnings.append(f"checkpoint {folder.name} is passed over: {wrong}")
    return None, warnings


def at(checkpoints: Path, step: int, identity: str) -> Checkpoint:
    """The checkpoint of a step.

    Raises:
        UserError: it is gone or damaged.
    """
    folder = folder_of(checkpoints, step)
    wrong = damage(folder, identity) if folder.is_dir() else "it is gone"
    if wrong:
        raise UserError(f"the best checkpoint cannot be used: {wrong}", str(folder), "give the same command again: it goes on from an older one")
    return Checkpoint(folder, read_json(folder / "state.json"))


def tidy(checkpoints: Path, step: int, keep: int, best: int | None, most_bytes: float | None) -> None:
    """Delete old checkpoints.

    Args:
        checkpoints: their folder.
        step: the newest, just saved; it is never deleted. What claims a later step is damaged or of another training, and goes.
        keep: how many of the newest stay.
        best: the best step, which is never deleted.
        most_bytes: delete more while all together exceed this; None: no bound.
    """
    folders = []
    for number, folder in _newest_first(checkpoints):
        if number > step:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            folders.append((number, folder, sum(f.stat().st_size for f in folder.iterdir())))
    total = sum(size for _, _, size in folders)
    for index in range(len(folders) - 1, 0, -1):
        number, folder, size = folders[index]
        if number != best and (index >= keep or (most_bytes is not None and total > most_bytes)):
            total -= size
            shutil.rmtree(folder, ignore_errors=True)
