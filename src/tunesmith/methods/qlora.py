"""QLoRA: LoRA on a frozen base whose weights are kept in four bits.

Dettmers et al. 2023 (https://arxiv.org/abs/2305.14314, equations 5 and 6): Y = X dequantised(W_NF4) + X L1 L2, the scales of W quantised a
second time. We differ:
1. The base is read in full and quantised layer by layer on the CPU; only then it goes to the device. That machine needs memory for it once.
2. The adapters compute in the run's precision: bf16 as in the paper, or fp32. The optimizer is the one of all methods; no pages.
3. The output layer, word table, norms and a classifier's head stay as they are; the head learns.
4. The rank and the layers are LoRA's defaults of this house; the paper has rank 64 on all linear layers, dropout 0.05 to 0.1.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.methods.lora import LowRankSettings, examples, save, wrapped

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.methods import Saved
    from tunesmith.models.catalog import Base
    from tunesmith.models.loading import Head

__all__ = ["QloraSettings", "adapt", "epochs", "examples", "learning_rate", "load", "save", "text_epochs", "text_learning_rate"]


class QloraSettings(LowRankSettings):
    """Low-rank adapters on a base in four bits; needs the extra `tunesmith[qlora]`."""

    kind: Literal["qlora"] = "qlora"


learning_rate = 1e-3
epochs = 6
text_learning_rate = 2e-4
text_epochs = 3


def adapt(base: Base, head: Head, settings: QloraSettings) -> nn.Module:
    """The base in four bits with adapters and a head; only these require grad.

    Raises:
        UserError: bitsandbytes is not installed, or none of the target names is a layer of the base.
    """
    return wrapped(quantised(base, head), base, head, settings)


def quantised(base: Base, head: Head) -> nn.Module:
    """The base with its layers' linear weights in NF4.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    from tunesmith.core.errors import UserError

    if find_spec("bitsandbytes") is None:
        raise UserError("method `qlora` needs bitsandbytes, which is not installed", "recipe, `method`", "pip install 'tunesmith[qlora]', or use lora")
    import torch
    from bitsandbytes import nn as bits

    from tunesmith.models import layers, loading

    model: Any = loading.adapted(base, head)
    for layer in layers.stack(model):
        for path, one in list(layer.named_modules()):
            if type(one) is torch.nn.Linear:
                owner, _, name = path.rpartition(".")
                setattr(layer.get_submodule(owner), name, _small(bits, one))
    model.is_loaded_in_4bit = True  # PEFT asks for it
    made: nn.Module = model
    return made


def _small(bits: Any, linear: Any) -> nn.Module:
    """One linear layer in NF4, its scales quantised too."""
    small: Any = bits.Linear4bit(linear.in_features, linear.out_features, linear.bias is not None, compress_statistics=True, quant_type="nf4", device="meta")
    small.weight = bits.Params4bit(linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=small)
    small.bias = linear.bias
    # Its packed form for CPUs computes in bf16 whatever the model does, and changes under a training that measures in between.
    small.support_avx512bf16_for_cpu = False
    made: nn.Module = small.to("cpu")  # this call quantises
    made.train(linear.training)
    return made


def load(saved: Saved) -> nn.Module:
    """Base and adapters in eval mode; not merged, for merged weights would be rounded to four bits again."""
    from peft import PeftModel

    from tunesmith.models import loading

    model = quantised(saved.base(), saved.head)
    with loading.quiet():
        adapted: nn.Module = PeftModel.from_pretrained(model, saved.folder, is_trainable=False, local_files_only=True)
    adapted.eval()
    return adapted
