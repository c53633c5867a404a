"""`model/tunesmith.json`: what a saved model is, so that whoever loads it needs nothing else of the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from tunesmith.core.errors import UserError
from tunesmith.core.files import read_json, write_json
from tunesmith.models import catalog
from tunesmith.tokens.encode import Truncation

NAME = "tunesmith.json"
CALIBRATION = "calibration.json"
"""Beside it: the temperature, the confidence from which a wanted accuracy is promised, and of several labels a row each label's cut."""


@dataclass(frozen=True)
class Writing:
    """How a language model's texts are written: the chat template ("": as they are), the special tokens it names, and the ids that end an answer."""

    template: str
    tokens: dict[str, str]
    ends: list[int]


@dataclass(frozen=True)
class About:
    """Facts of a saved model.

    Attributes: objective and method by name; base and base_sha256 (of `catalog.Base`); labels in order (none for a language model);
    multi_label; max_tokens and truncation as in training; writing (None for a classifier); prefix (text before every text); pad_id (what fills
    rows up; None: saved before this was kept, then the tokenizer's).
    """

    objective: str
    method: str
    base: str
    base_sha256: str
    labels: list[str]
    multi_label: bool
    max_tokens: int
    truncation: Truncation
    writing: Writing | None = None
    prefix: str = ""
    pad_id: int | None = None


def write(about: About, folder: Path) -> None:
    """Write the facts beside the weights."""
    write_json(folder / NAME, asdict(about))


def read(folder: Path) -> About:
    """Read them back.

    Raises:
        UserError: the folder holds no model of ours.
    """
    if not (folder / NAME).exists():
        raise UserError("no trained model here", str(folder), "run the recipe to its end first: tunesmith run RECIPE")
    try:
        facts = read_json(folder / NAME)
        writing = facts.pop("writing", None)
        return About(**facts, writing=Writing(**writing) if writing else None)
    except TypeError as error:
        raise UserError(f"{NAME} was written by another version ({error})", str(folder), "train again with this version") from error


def base_of(about: About) -> catalog.Base:
    """The base that a saved model needs, checked to be the same as in training.

    Raises:
        UserError: it is gone or has changed.
    """
    base = catalog.resolve(catalog.ModelSettings(base=about.base))
    if base.sha256 != about.base_sha256:
        raise UserError("the base is not the one this model was trained on (its hash differs)", about.base, "restore the base, or train again")
    return base
