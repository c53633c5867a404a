"""`tunesmith export`: a run's model as a plain Hugging Face folder, checked before it has its name.

Adapters are merged into the base's weights. What is checked: transformers alone, without any of our faster forwards, loads the folder in fp32 and
gives the logits that base and adapters give side by side.

Shapes: T tokens of a text, V vocabulary (or C labels).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tunesmith import methods
from tunesmith.core.errors import UserError
from tunesmith.core.files import staged_folder
from tunesmith.methods import Saved
from tunesmith.models import loading, metadata
from tunesmith.models.loading import Head
from tunesmith.tokens import tokenization

if TYPE_CHECKING:
    import torch

    from tunesmith.models.metadata import About, Writing

FORMS = ("merged",)
MOST_APART = 1e-4
"""Largest difference of a logit that is rounding and not a fault. A convention of ours: fp32 models differ by 1e-5 when products are taken in another order."""
TEXTS = (
    "A short text.",
    "The parcel that I ordered on 3 May has not arrived; where is it, and when will I have it?",
    "Größe, naïve, 東京, приве́т: words of other scripts. 1,234.50 € (-17 %)",
)
"""What both models read for the check."""


@dataclass(frozen=True)
class Exported:
    """Where the model lies, and the largest difference of its logits from the run's own."""

    folder: Path
    apart: float


def merged(run: Path, output: Path) -> Exported:
    """Write a run's model so that `AutoModelForCausalLM` (or `ForSequenceClassification`) and servers load it as any other.

    Args:
        run: a run's folder.
        output: the folder to write; it must not exist.

    Returns:
        The folder and how far its logits are from the run's.

    Raises:
        UserError: no model there, `output` is there already, the method has no plain form, or the logits differ by more than `MOST_APART`.
    """
    about = metadata.read(run / "model")
    if output.exists():
        raise UserError("there is something here already", str(output), "give another --output, or delete it first")
    head = Head(about.labels or None, about.multi_label) if about.writing is None else Head(None)
    saved = Saved(run / "model", head, lambda: metadata.base_of(about))
    model: Any = methods.get(about.method).load(saved)
    if not _plain(model):
        what = f"method `{about.method}` has no plain Hugging Face form: what it learnt stands beside the base's own weights"
        raise UserError(what, str(run), "share the run's model/ with the base's name, or train with a method whose weights merge")
    source = run / "model" if (run / "model" / "tokenizer.json").exists() else metadata.base_of(about).folder
    with staged_folder(output) as staging:
        if about.writing is not None:
            _end(model, about.writing)
        with loading.quiet():
            model.save_pretrained(staging)
        for name in loading.TOKENIZER_FILES:
            if (source / name).exists():
                shutil.copyfile(source / name, staging / name)
        if about.writing is not None and about.writing.template:
            # Also where it is the tokenizer's own: this file is what counts, whatever tokenizer_config.json has.
            (staging / "chat_template.jinja").write_text(about.writing.template, "utf-8")
        del model
        apart = _apart(staging, about, saved)
        if not apart <= MOST_APART:  # NaN too
            what = f"the merged model's logits differ from the run's by up to {apart:.2g}, more than {MOST_APART:g}; nothing was written"
            raise UserError(what, str(output), "please report it with the recipe; the run's own model/ is as good as before")
    return Exported(output, apart)


def _plain(model: Any) -> bool:
    """Whether a model is one of transformers' own classes with nothing put into it, and in full precision."""
    from transformers import PreTrainedModel

    foreign = any(type(one).__module__.startswith("tunesmith.") and any(True for _ in one.parameters()) for one in model.modules())
    return isinstance(model, PreTrainedModel) and not foreign and getattr(model.config, "quantization_config", None) is None


def _end(model: Any, writing: Writing) -> None:
    """Let whoever generates with the model stop where it learnt to stop."""
    from transformers import GenerationConfig

    old, made = model.generation_config, cast(Any, GenerationConfig)  # partly typed
    model.generation_config = made(
        bos_token_id=old.bos_token_id, eos_token_id=writing.ends, pad_token_id=old.pad_token_id if old.pad_token_id is not None else writing.ends[0]
    )


def _apart(folder: Path, about: About, saved: Saved) -> float:
    """The largest difference of logits between the exported folder, as transformers loads it, and the run's model before merging."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto: Any = AutoModelForCausalLM if about.writing is not None else AutoModelForSequenceClassification
    reader = tokenization.load(folder)
    rows = [list(reader.prefix + tuple(reader.library.encode(text, add_special_tokens=False).ids) + reader.suffix)[: about.max_tokens] for text in TEXTS]
    with loading.quiet(), torch.inference_mode():
        theirs: Any = auto.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32).eval()
        given = [_logits(theirs, row) for row in rows]
        del theirs
        ours = _unmerged(saved)
        return max(float((_logits(ours, row) - one).abs().max()) for row, one in zip(rows, given, strict=True))


def _unmerged(saved: Saved) -> Any:
    """The run's model with adapters beside the base's weights where it has such, else as it is loaded."""
    if not (saved.folder / "adapter_config.json").exists():
        return loading.saved(saved.folder, saved.head)
    from peft import PeftModel

    model = PeftModel.from_pretrained(loading.adapted(saved.base(), saved.head), saved.folder, is_trainable=False, local_files_only=True)
    return model.eval()


def _logits(model: Any, ids: list[int]) -> torch.Tensor:
    """logits_1TV, or logits_1C of a classifier."""
    import torch

    ids_1T = torch.tensor([ids])
    made: torch.Tensor = model(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T)).logits.float()
    return made
