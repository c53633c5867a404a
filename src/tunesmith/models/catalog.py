"""Which base a name means, what it can read, and whether it is the one we think it is."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tunesmith import starters
from tunesmith.errors import UserError, nearest, some
from tunesmith.files import read_json, sha256_file, sha256_json
from tunesmith.models import scratch
from tunesmith.models.scratch import ScratchSettings
from tunesmith.settings import Settings
from tunesmith.tokens.encode import Truncation


class ModelSettings(Settings):
    """Which base, and how it reads texts. `model: NAME` is short for `model: {base: NAME}`."""

    base: str = "starter/minilm"
    """starter/NAME, a folder with a Hugging Face model, or a name on the Hub."""
    max_tokens: int | None = Field(None, ge=8)
    """Most tokens read of a text, special tokens included. null: the base's own limit."""
    truncation: Truncation = "head"
    """What is kept of a longer text: head, tail, head_tail, or windows (all of it, in overlapping windows whose logits are averaged)."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout while training, everywhere in the base. null: the base's own."""
    scratch: ScratchSettings | None = None
    """Begin with a new model of this size, with random weights and a tokenizer trained on the rows, in place of a base. null: no."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"base": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class Base:
    """A base that is here, on disk.

    Attributes: name (as the recipe has it), folder, sha256 (of weights, config and tokenizer together), config (its config.json),
    max_tokens (its limit), hidden_size, licence, languages ("" and () when unknown).
    """

    name: str
    folder: Path
    sha256: str
    config: dict[str, Any]
    max_tokens: int
    hidden_size: int
    licence: str = ""
    languages: tuple[str, ...] = field(default=())


IDENTITY_FILES = ("*.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
TEMPLATE_FILE = "chat_template.jinja"
"""What a dialogue becomes hangs on it too. A model from scratch has ours, which `scratch.identity` counts."""
UNSAFE_KEYS = ("auto_map", "trust_remote_code")
"""Config keys that ask a loader to run code that comes with the weights (CVE-2026-4372 and its kin)."""


def resolve(settings: ModelSettings) -> Base:
    """Find a base and check that it is safe to load.

    Raises:
        UserError: it is not there, has no safetensors weights, asks for code of its own, or its hash is wrong.
    """
    base = _found(settings) if settings.scratch is None else made(settings.scratch)
    if settings.max_tokens and settings.max_tokens > base.max_tokens:
        raise UserError(
            f"`model.max_tokens={settings.max_tokens}` is beyond the base's limit of {base.max_tokens}",
            "recipe",
            f"set it to at most {base.max_tokens}, or model.truncation: windows to read longer texts",
        )
    return base


def _found(settings: ModelSettings) -> Base:
    name = settings.base
    if name.startswith(starters.PREFIX):
        folder = starters.base_folder(name)
    elif os.path.isdir(os.path.expanduser(name)):
        folder = Path(os.path.expanduser(name))
    else:
        folder = _from_hub(name)
    if not (folder / "config.json").exists():
        raise UserError("no config.json: not a Hugging Face model folder", str(folder), "give the folder that holds config.json and model.safetensors")
    config = read_json(folder / "config.json")
    unsafe = [key for key in UNSAFE_KEYS if key in config]
    if unsafe:
        what = f"its config.json has `{unsafe[0]}`, which runs code that comes with the model"
        raise UserError(what, str(folder), "use a base that transformers knows by itself")
    if not any(folder.glob("*.safetensors")):
        what = "no .safetensors weights (other formats can run code when loaded)"
        raise UserError(what, str(folder), "convert them with save_pretrained, which writes safetensors")
    limits = [config.get(key) for key in ("max_position_embeddings", "n_positions")]
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert"):
        limits = [limit - 2 for limit in limits if limit]  # positions start behind the padding index there
    licence, languages = _readme(folder)
    return Base(
        name,
        folder,
        _identity(folder, TEMPLATE_FILE),
        config,
        min([limit for limit in limits if limit] or [512]),
        int(config.get("hidden_size") or config.get("dim") or config.get("n_embd") or 0),
        licence,
        languages,
    )


def made(settings: ScratchSettings, folder: Path | None = None) -> Base:
    """A model from scratch as a base: before its folder is made, known by its settings alone."""
    if folder is None or not (folder / "config.json").exists():
        return Base("scratch", folder or Path(), scratch.identity(settings), {}, settings.max_tokens, settings.width)
    return Base("scratch", folder, _identity(folder), read_json(folder / "config.json"), settings.max_tokens, settings.width)


def _identity(folder: Path, *more: str) -> str:
    return sha256_json({path.name: sha256_file(path) for pattern in (*IDENTITY_FILES, *more) for path in sorted(folder.glob(pattern))})


def _from_hub(name: str) -> Path:
    known = [starters.PREFIX + short for short in starters.BASES]
    remedy = f"give a folder with config.json and model.safetensors, a starter ({some(known)}), or a Hub name while online"
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"no base at `{name}`{nearest(name, known)}", "recipe, `model`", remedy)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted = ["*.safetensors", "*.json", "*.txt", "*.jinja", "README.md", "*.model"]
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0][:160]
        raise UserError(f"no base `{name}` here, and the Hub did not give it ({reason})", "recipe, `model`", remedy) from error


def _readme(folder: Path) -> tuple[str, tuple[str, ...]]:
    """Licence and languages from the front matter of a model card, where there is one."""
    readme = folder / "README.md"
    if not readme.exists():
        return "", ()
    text = readme.read_text("utf-8", "replace")
    if not text.startswith("---"):
        return "", ()
    from tunesmith.settings import parse_yaml

    try:
        front = parse_yaml(text[3:].split("\n---", 1)[0], str(readme))
    except UserError:
        return "", ()
    languages = front.get("language", []) if isinstance(front, dict) else []
    languages = [languages] if isinstance(languages, str) else languages
    return str(front.get("license", "")), tuple(str(one) for one in languages)


def of_task(folder: Path, ending: str, what: str) -> Base:
    """A model of the user's beside the base, in a local folder.

    Args:
        folder: as transformers saves it.
        ending: of its architecture's name, such as ForMaskedLM.
        what: it is called in messages.

    Raises:
        UserError: there is no such folder, or it holds another kind of model.
    """
    remedy = f"give the folder of a {what}, with config.json and model.safetensors"
    if not folder.is_dir():
        raise UserError("there is no such folder", str(folder), remedy)
    base = resolve(ModelSettings(base=str(folder.resolve())))
    architectures = [str(name) for name in base.config.get("architectures") or ["nothing"]]
    if not any(name.endswith(ending) for name in architectures):
        raise UserError(f"not a {what}: `architectures` in its config.json says {some(architectures)}", str(folder), remedy)
    return base
