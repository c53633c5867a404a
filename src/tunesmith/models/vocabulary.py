"""Train the word table only where the data touch it.

Half of a small encoder's parameters are rows of its word table, of which a data set uses a few thousand. A row that no text uses has a zero
gradient in every step, so its two moments stay zero and AdamW does nothing to it but decay. So the model trains with a table of the used
rows alone, and the others are multiplied once, at the end, by the decay that they have missed: the same weights (up to the rounding of
one product in place of many) for a fraction of the memory, the gradient and the update.

Shapes: V rows of the whole table, U used rows, D width, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from tunesmith.tokens.examples import Examples, TokenExamples

if TYPE_CHECKING:
    import torch
    from torch import nn

WORTH_IT = 0.5
"""Compact when at most this share of the table is used."""


@dataclass(frozen=True)
class Whole:
    """The table as it was: table_VD, and which of its rows the model still holds."""

    table_VD: torch.Tensor
    used_U: npt.NDArray[np.int64]
    padding: int | None


def compact(model: nn.Module, examples: list[Examples]) -> tuple[Whole | None, list[Examples]]:
    """Cut the model's word table down to the rows that occur, and renumber the tokens.

    Args:
        model: changed in place where it pays: its table learns, is not shared with an output layer, and is mostly unused.
        examples: all that the model will see until `restore`.

    Returns:
        What `restore` needs (None: nothing was changed), and the examples to use instead.
    """
    import torch

    lookup = getattr(model, "get_input_embeddings", None)
    table: Any = lookup() if lookup else None
    if not isinstance(table, torch.nn.Embedding) or not table.weight.requires_grad or not all(isinstance(e, TokenExamples) for e in examples):
        return None, examples
    tokens = [cast(TokenExamples, one) for one in examples]
    output = getattr(model, "get_output_embeddings", lambda: None)()
    if output is not None and output.weight is table.weight:
        return None, examples
    pads = [one.pad_id for one in tokens]
    used_U = np.unique(np.concatenate([np.asarray(pads, np.int32), *(one.tokens.ids_T for one in tokens)])).astype(np.int64)
    if len(used_U) > WORTH_IT * table.num_embeddings:
        return None, examples
    whole = Whole(table.weight.detach().clone(), used_U, table.padding_idx)
    number_V = np.zeros(table.num_embeddings, np.int32)
    number_V[used_U] = np.arange(len(used_U))
    small = torch.nn.Embedding(len(used_U), table.embedding_dim, None if table.padding_idx is None else int(number_V[table.padding_idx]))
    small.weight.data = whole.table_VD[torch.from_numpy(used_U)].clone()
    model.set_input_embeddings(small)  # type: ignore[operator]  # transformers models have it
    renumbered = [replace(one, tokens=replace(one.tokens, ids_T=number_V[one.tokens.ids_T]), pad_id=int(number_V[one.pad_id])) for one in tokens]
    return whole, list(renumbered)


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
    table_VD = whole.table_VD * decay
    table_VD[torch.from_numpy(whole.used_U)] = small.weight.detach().cpu().to(table_VD.dtype)
    table = torch.nn.Embedding(table_VD.shape[0], table_VD.shape[1], whole.padding)
    table.weight.data = table_VD
    model.set_input_embeddings(table)  # type: ignore[operator]
