"""Train the word table only where the data touch it. The model still takes the tokenizer's ids: the small table renumbers them by itself.

Half of a small encoder's parameters are rows of its word table, of which a data set uses a few thousand. A row that no text uses has a zero
gradient in every step, so its two moments stay zero and AdamW does nothing to it but decay. So the model trains with a table of the used
rows alone, and the others are multiplied once, at the end, by the decay that they have missed: the same weights (up to the rounding of
one product in place of many) for a fraction of the memory, the gradient and the update.

Shapes: V rows of the whole table, U used rows, D width, T tokens.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from tunesmith.tokens.examples import Examples, TokenExamples

if TYPE_CHECKING:
    from torch import nn

WORTH_IT = 0.5
"""Compact when at most this share of the table is used."""


@dataclass(frozen=True)
class Whole:
    """The table as it was, and which of its rows the model still holds."""

    table: Any
    used_U: npt.NDArray[np.int64]


SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "cls_token_id", "sep_token_id", "mask_token_id", "unk_token_id")
"""Ids of a config that a model may put into a row by itself."""


def compact(model: nn.Module, examples: list[Examples]) -> Whole | None:
    """Cut the model's word table down to the rows that occur.

    The small table is of the same class as the whole one, with all it does beside looking up (Gemma's scales its rows), and maps ids
    to its own rows. An id that does not occur in the examples has no row: reading it is an error.

    Args:
        model: changed in place where it pays: its table learns, is not shared with an output layer, and is mostly unused.
        examples: all that the model will see until `restore`.

    Returns:
        What `restore` needs; None: nothing was changed.
    """
    import torch

    lookup = getattr(model, "get_input_embeddings", None)
    table: Any = lookup() if lookup else None
    if not isinstance(table, torch.nn.Embedding) or not table.weight.requires_grad or not all(isinstance(e, TokenExamples) for e in examples):
        return None
    tokens = [cast(TokenExamples, one) for one in examples]
    output = getattr(model, "get_output_embeddings", lambda: None)()
    if output is not None and output.weight is table.weight:
        return None
    config: Any = model.config
    named = [one for name in SPECIAL_IDS for one in _listed(getattr(config, name, None)) if 0 <= one < table.num_embeddings]
    named += [one.pad_id for one in tokens] + _listed(table.padding_idx)
    used_U = np.unique(np.concatenate([np.asarray(named, np.int32), *(one.tokens.ids_T for one in tokens)])).astype(np.int64)
    if len(used_U) > WORTH_IT * table.num_embeddings:
        return None
    number_V = torch.full((table.num_embeddings,), -1)
    number_V[torch.from_numpy(used_U)] = torch.arange(len(used_U))
    weight_VD = table.weight
    table.weight = torch.nn.Parameter(weight_VD.detach()[:0])  # copied without its rows, of which there may be a gigabyte
    small: Any = copy.deepcopy(table)
    table.weight = weight_VD
    small.weight = torch.nn.Parameter(weight_VD.detach()[torch.from_numpy(used_U)].clone())
    small.num_embeddings = len(used_U)
    small.padding_idx = None if table.padding_idx is None else int(number_V[table.padding_idx])
    small.register_buffer("number_V", number_V, persistent=False)
    small.register_forward_pre_hook(lambda module, given: (module.number_V[given[0]], *given[1:]))
    model.set_input_embeddings(small)  # type: ignore[operator]  # transformers models have it
    return Whole(table, used_U)


def _listed(ids: Any) -> list[int]:
    """The ids that a config's value names: one, several, or none."""
    return [one for one in (ids if isinstance(ids, list) else [ids]) if isinstance(one, int)]


def restore(model: nn.Module, whole: Whole | None, decay: float) -> None:
    """Put the whole table back, the used rows as they are now and the others decayed.

    Args:
        model: as `compact` left it, trained since.
        whole: from `compact`.
        decay: product of (1 - learning rate * weight decay) over all steps taken (`Optimizer.decay`).
    """
    import torch

    if whole is None:
        return
    small: Any = model.get_input_embeddings()  # type: ignore[operator]  # transformers models have it
    table_VD = whole.table.weight.detach() * decay
    table_VD[torch.from_numpy(whole.used_U)] = small.weight.detach().cpu().to(table_VD.dtype)
    whole.table.weight.data = table_VD
    model.set_input_embeddings(whole.table)  # type: ignore[operator]
