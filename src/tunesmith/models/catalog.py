"""Which base a name means, what it can read, and whether it is the one we think it is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from tunesmith import starters
from tunesmith.core.errors import UserError, nearest, some
from tunesmith.core.files import read_json, sha256_file, sha256_json
from tunesmith.core.settings import Settings
from tunesmith.models import scratch
from tunesmith.models.scratch import ScratchSettings
from tunesmith.tokens.encode import Truncation
from tunesmith.tokens.tokenization import BEHIND_PADDING

Pooling = Literal["mean", "first"]


class ModelSettings(Settings):
    """Which base, and how it reads texts. `model: NAME` is short for `model: {base: NAME}`."""

    base: str = "starter/minilm"
    """starter/NAME, a folder with a Hugging Face model, or a name on the Hub."""
    max_tokens: int | None = Field(None, ge=8)
    """Most tokens read of a text, special tokens included. null: the base's own limit."""
    truncation: Truncation = "head"
    """What is kept of a longer text: head, tail, head_tail, or windows (all of it, in overlapping windows whose logits are averaged)."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout while training, for every rate in the base's config. null: the base's own."""
    prefix: str = ""
    """Text to put before every text that is read, where the base was trained with one ("query: "). A run proposes it where the base's folder names one."""
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
    max_tokens (its limit), hidden_size, licence, languages ("" and () when unknown), pooling (how its sentence vectors were trained: mean or first;
    "" when its folder does not say), prefixes (texts that it was trained to see before a text, by their names).
    """

    name: str
    folder: Path
    sha256: str
    config: dict[str, Any]
    max_tokens: int
    hidden_size: int
    licence: str = ""
    languages: tuple[str, ...] = field(default=())
    pooling: Pooling | Literal[""] = ""
    prefixes: dict[str, str] = field(default_factory=dict)


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
    licence, languages = _readme(folder)
    return Base(
        name,
        folder,
        _identity(folder, TEMPLATE_FILE),
        config,
        most_tokens(config),
        width(config),
        licence,
        languages,
        _pooling(folder),
        _prefixes(folder),
    )


def most_tokens(config: dict[str, Any]) -> int:
    """Most tokens that a base can read, from its config.json; 512 where it names no limit."""
    text = config | config.get("text_config", {})
    limits = [int(limit) for key in ("max_position_embeddings", "n_positions") if (limit := text.get(key))]
    if config.get("model_type") in BEHIND_PADDING:
        limits = [limit - 1 - (config.get("pad_token_id") or 1) for limit in limits]
    return min(limits or [512])


def width(config: dict[str, Any]) -> int:
    """Size of a base's last hidden states, from its config.json; 0 where no known key names it."""
    text = config | config.get("text_config", {})
    # OPT projects its states back to this size after the last layer.
    keys = ("word_embed_proj_dim", "hidden_size", "d_model", "dim", "n_embd")
    return int(next((text[key] for key in keys if text.get(key)), 0))


def require_causal(base: Base) -> None:
    """Refuse a base that cannot learn to write.

    A masked language model sees the words it should predict, and transformers loads it as a causal one without a word. An encoder-decoder
    loses its encoder there.

    Raises:
        UserError: the base is one of these, or transformers has no causal language model of its kind.
    """
    if not base.config:  # a model from scratch, before it is made
        return
    from transformers.models.auto import modeling_auto as auto

    kind = str(base.config.get("model_type", ""))
    architectures = [str(name) for name in base.config.get("architectures") or []]
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    if base.config.get("is_encoder_decoder"):
        what = f"a base of the kind `{kind}` is an encoder-decoder, and this objective trains a decoder alone"
    elif kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not (causal and base.config.get("is_decoder")):
        what = f"a base of the kind `{kind}` is a masked language model: it reads the words it should predict, and cannot learn to write"
    elif kind not in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        what = f"transformers has no causal language model of the kind `{kind}`"
    else:
        return
    remedy = "choose a base that writes, such as a Llama, Qwen, or GPT-2 folder; or objective: classification, which takes this base"
    raise UserError(f"{base.name} cannot be trained to write: {what}", "recipe, `model`", remedy)


def _pooling(folder: Path) -> Pooling | Literal[""]:
    """What a sentence encoder's folder says of its vectors, as sentence-transformers writes it; "" where it says nothing known."""
    path = folder / "1_Pooling" / "config.json"
    facts = read_json(path) if path.exists() else {}
    if facts.get("pooling_mode_cls_token"):
        return "first"
    return "mean" if facts.get("pooling_mode_mean_tokens") else ""


def _prefixes(folder: Path) -> dict[str, str]:
    """Texts that a sentence encoder wants before a text, by their names: sentence-transformers' prompts, else what the model card quotes."""
    path, card = folder / "config_sentence_transformers.json", folder / "README.md"
    facts = read_json(path) if path.exists() else {}
    named = {str(name): text for name, text in (facts.get("prompts") or {}).items() if isinstance(text, str) and text}
    if not named and card.exists():
        text = card.read_text("utf-8", "replace")
        named = {name: f"{name}: " for name in ("query", "passage") if re.search(rf"""["'`]{name}: ?[^\n]{{0,200}}["'`]""", text)}
    return named


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
        wanted = ["*.safetensors", "*.json", "1_Pooling/*.json", "*.txt", "*.jinja", "README.md", "*.model"]
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
    from tunesmith.core.settings import parse_yaml

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
