"""The recipe: the settings of all rooms, composed, and resolved so that every default is spelled out."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tunesmith import methods, objectives, starters
from tunesmith.core.errors import UserError, some
from tunesmith.core.settings import Settings, build, read_yaml, with_override
from tunesmith.data.kinds import layout
from tunesmith.data.preparation import inputs
from tunesmith.data.readers import snapshot
from tunesmith.data.row_index import SIDES
from tunesmith.data.settings import DataSettings, SourceSettings
from tunesmith.methods import MethodSettings
from tunesmith.methods.full import FullSettings
from tunesmith.models.catalog import ModelSettings
from tunesmith.objectives import ObjectiveSettings
from tunesmith.objectives.classification import ClassificationSettings
from tunesmith.training.settings import TrainSettings

BESIDE = (("augment", "synonyms"), ("augment", "masked"), ("augment", "writer"), ("privacy", "names"), ("inspect", "terms"))
"""Keys below `data` that name a file or a folder."""
LANGUAGE_BASE = "starter/scribe"
"""The base of an objective that writes texts, where the recipe names none."""
NAME_RULE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""A run's name is a folder's: lower case, so that it is one name on every disk."""


class EvaluateSettings(Settings):
    """What the tuned model is compared with."""

    against: tuple[Literal["majority", "tfidf", "base"], ...] = ("majority", "tfidf", "base")
    """base: the untuned base. For labels also majority: always the commonest label. tfidf: TF-IDF with logistic regression. and the
    base is the nearest class mean of its vectors (of up to 100 training rows a label). A language model is measured against its base alone."""
    target_accuracy: float | None = Field(0.95, gt=0, lt=1)
    """Fit on validation the confidence from which answers are this often right, so that the model may abstain below it. null: no threshold."""
    most_rows: int = Field(300, ge=2)
    """Rows that a language model is measured on, drawn by the seed where there are more: each is answered and compared with its reference."""
    max_new_tokens: int = Field(128, ge=1)
    """Most tokens of an answer while measuring."""
    general: str | None = "starter/desk"
    """Plain documents of another kind, a file or starter/NAME, on which a language model's forgetting is measured. null: not measured."""
    general_rows: int = Field(100, ge=2)
    """How many of them."""
    resamples: int = Field(2000, ge=100, le=100_000)
    """Bootstrap resamples behind each interval."""
    seed: int = Field(0, ge=0)
    """Of the resampling and of the TF-IDF baseline."""


class Threshold(Settings):
    """A bound on one figure of the tuned model on the test rows."""

    at_least: float | None = None
    """Fail below this."""
    at_most: float | None = None
    """Fail above this."""
    by: Literal["value", "lower", "upper"] = "value"
    """Which number to hold against the bound: the figure, or an end of its 95 % interval."""

    @model_validator(mode="after")
    def _one_bound(self) -> Threshold:
        if self.at_least is None and self.at_most is None:
            raise ValueError("needs at_least or at_most")
        return self


class Recipe(Settings):
    """One run, from data to report."""

    name: str = ""
    """The run's name. Empty: the recipe's file name."""
    data: DataSettings
    model: ModelSettings = ModelSettings()
    objective: ObjectiveSettings = ClassificationSettings()
    """Absent: what suits the rows (labels: classification; dialogues, prompts with completions: sft; plain texts: pretraining)."""
    method: MethodSettings = FullSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    gate: dict[str, Threshold] = Field(default_factory=dict)
    """Figures that must hold for exit code 0, such as `macro_f1: {at_least: 0.85, by: lower}`."""

    @field_validator("name")
    @classmethod
    def _folder_name(cls, value: str) -> str:
        if value and not NAME_RULE.fullmatch(value):
            raise ValueError("must begin with a-z or 0-9 and hold only these, `.`, `_` and `-`, at most 64 in all")
        return value

    @field_validator("method", "objective", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _whole_models_alone_begin_from_nothing(self) -> Recipe:
        if self.model.scratch is not None and not isinstance(self.method, FullSettings):
            raise ValueError(f"model.scratch takes method: full, found {self.method.kind}; random weights that do not learn are worth nothing")
        return self

    @model_validator(mode="after")
    def _a_loss_for_several_labels_has_several(self) -> Recipe:
        if isinstance(self.objective, ClassificationSettings) and self.objective.loss == "asymmetric" and not self.data.multi_label:
            raise ValueError("objective.loss: asymmetric needs data.multi_label: true; with one label a row take focal or cross_entropy")
        return self

    @field_validator("objective", mode="before")
    @classmethod
    def _kind_by_its_keys(cls, value: Any, info: ValidationInfo) -> Any:
        """Settings without a kind are those of the objective that suits the rows, or else of the first, that has all of them."""
        if not isinstance(value, dict) or "kind" in value:
            return value
        fits = [name for name in objectives.NAMES if value.keys() <= type(objectives.settings(name)).model_fields.keys()]
        if len(fits) > 1 and "data" in info.data:
            suits = objectives.for_rows(kind_of(info.data["data"]))
            fits = [suits] if suits in fits else fits
        return {"kind": fits[0] if fits else objectives.NAMES[0], **value}


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and resolve it.

    Args:
        path: a YAML file; paths of data and base in it are taken from its folder.
        overrides: `key.path=value` from the command line; paths in them are taken from where you stand.

    Returns:
        The recipe with a name, absolute paths, and numbers in place of `auto`.

    Raises:
        UserError: everything that is wrong with it, at once.
    """
    inputs.forget()
    values = _placed(read_yaml(path), path.parent)
    for override in overrides:
        values = _placed(with_override(values, override), Path.cwd())
    return resolve(build(Recipe, values, str(path)), path.stem)


def of_data(source: str, overrides: Sequence[str] = (), query: str | None = None, split: str | None = None) -> Recipe:
    """A recipe of nothing but its data, for rows of any kind, also those that no objective takes.

    Args: as `values_of`.
    """
    inputs.forget()
    recipe = build(Recipe, values_of(source, overrides, query, split), "command line")
    data = _with_starters(recipe.data)
    return recipe.model_copy(update={"name": Path(source).stem or "data", "data": data.model_copy(update={"rows": kind_of(data)})})


def values_of(source: str, overrides: Sequence[str] = (), query: str | None = None, split: str | None = None) -> dict[str, Any]:
    """What the command line says of data, as a recipe's values with absolute paths.

    Args:
        source: of the training rows; paths are taken from where you stand, here and in the overrides.
        overrides: `key.path=value`.
        query, split: of the source.
    """
    more = {key: value for key, value in (("query", query), ("split", split)) if value is not None}
    values: dict[str, Any] = {"data": {"train": {"source": source, **more} if more else source}}
    for override in overrides:
        values = with_override(values, override)
    return _placed(values, Path.cwd())


def _placed(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values with relative paths made absolute from a folder, so that a run can be resumed from anywhere."""
    out = dict(values)
    if isinstance(data := values.get("data"), dict):
        out["data"] = data | {key: _source_placed(data[key], folder) for key in (*SIDES, "corrections") if key in data}
        for section, key in BESIDE:
            if isinstance(one := data.get(section), dict) and isinstance(one.get(key), str):
                out["data"][section] = one | {key: _source_placed(one[key], folder)}
    model = values.get("model")
    base = model.get("base") if isinstance(model, dict) else model
    if isinstance(base, str) and not base.startswith(starters.PREFIX) and (folder / base).is_dir():
        place = str((folder / base).absolute())
        out["model"] = model | {"base": place} if isinstance(model, dict) else place
    evaluate = values.get("evaluate")
    general = evaluate.get("general") if isinstance(evaluate, dict) else None
    if isinstance(evaluate, dict) and isinstance(general, str) and not general.startswith(starters.PREFIX):
        out["evaluate"] = evaluate | {"general": str((folder / os.path.expanduser(general)).absolute())}
    return out


def _source_placed(value: Any, folder: Path) -> Any:
    """A source, or a list of them, with relative paths made absolute; shares, starters, databases and the Hub stay as they are."""
    if isinstance(value, (list, tuple)):
        return [_source_placed(one, folder) for one in value]
    if isinstance(value, dict):
        return value | {"source": _source_placed(value["source"], folder)} if "source" in value else value
    if not isinstance(value, str) or value == "none" or value.startswith(starters.PREFIX) or snapshot.is_remote(value):
        if not isinstance(value, str) or not snapshot.is_remote(value):
            return value
        snapshot.refuse_password(value)
        return snapshot.placed(value, folder)
    return str((folder / os.path.expanduser(value)).absolute())


def _with_starters(data: DataSettings) -> DataSettings:
    """The settings with the starters' files in place of their names."""

    def named(value: str) -> str:
        return str(starters.data_file(value)) if value.startswith(starters.PREFIX) else value

    found: dict[str, Any] = {side: named(value) for side in SIDES if isinstance(value := getattr(data, side), str)}
    for side in ("valid", "test"):
        if isinstance(one := getattr(data, side), SourceSettings):
            found[side] = one.model_copy(update={"source": named(one.source)})
    if isinstance(data.train, tuple):
        found["train"] = tuple(one.model_copy(update={"source": named(one.source)}) for one in data.train)
    return data.model_copy(update=found)


def kind_of(data: DataSettings) -> str:
    """What the rows are (`layouts.infer`), by the first file of the training rows.

    Raises:
        UserError: there is no such file, or what is no file cannot be collected.
    """
    return data.rows or layout.infer(data, _first_file(_with_starters(data)))


def _first_file(data: DataSettings) -> Path:
    try:
        return inputs.inputs(data.model_copy(update={"valid": "none", "test": "none", "out_of_scope": None}))["train"][0].path
    except UserError:
        if snapshot.is_remote(inputs.sources_of(data, "train")[0].source):
            raise  # what a database says cannot be asked twice
        return Path(inputs.sources_of(data, "train")[0].source)


def resolve(recipe: Recipe, stem: str) -> Recipe:
    """Fill in the name, the starters' files, the objective that suits the rows, and what suits the method."""
    data = _with_starters(recipe.data)
    objective = recipe.objective if "objective" in recipe.model_fields_set else objectives.settings(objectives.for_rows(kind_of(data)))
    taken = objectives.get(objective.kind).ROWS
    if data.rows is not None and data.rows not in taken:
        what = f"`data.rows={data.rows}` does not go with `objective={objective.kind}`, which takes {some(taken)}"
        raise UserError(what, "recipe", f"use objective: {objectives.for_rows(data.rows)}, or leave data.rows out")
    if data.rows is None:
        kind = taken[0] if len(taken) == 1 else kind_of(data)
        data = data.model_copy(update={"rows": kind if kind in taken else taken[0]})
    writes = "labelled" not in taken
    model = recipe.model
    if writes and "base" not in model.model_fields_set:
        model = model.model_copy(update={"base": LANGUAGE_BASE})
    method = methods.get(recipe.method.kind)
    train = recipe.train
    # A method that writes no text (features) has no defaults for it; adapting says so in its own words.
    epochs, rate = (getattr(method, "text_" + name, getattr(method, name)) if writes else getattr(method, name) for name in ("epochs", "learning_rate"))
    auto = ({"epochs": epochs} if train.epochs in ("auto", None) else {}) | ({"learning_rate": rate} if train.learning_rate in ("auto", None) else {})
    name = recipe.name or re.sub(r"[^a-z0-9._-]", "-", stem.lower()).strip("-._")[:64] or "run"
    update = {"name": name, "data": data, "model": model, "objective": objective, "train": train.model_copy(update=auto)}
    return recipe.model_copy(update=update)


def dump(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, every default spelled out."""
    return recipe.model_dump(mode="json")
