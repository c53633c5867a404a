"""What supervised fine-tuning and continued pre-training share: the cross-entropy of the next token, where it is learnt.

The vocabulary's product is made only for learnt places and in chunks, and the gradient of each chunk at once with its loss, so that
never more than CHUNK_NUMBERS logits exist (the idea of Liger's fused loss, https://arxiv.org/abs/2410.10989).

Shapes: T places of all rows, U learnt places, D hidden size, V vocabulary, C places of a chunk, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from tunesmith.core.errors import UserError
from tunesmith.models.fast import llama
from tunesmith.models.fast.fused_linear import at_least_fp32
from tunesmith.models.loading import Head
from tunesmith.objectives import Loss, Sums
from tunesmith.tokens.sequences import NOT_LEARNT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tunesmith.models.metadata import Writing
    from tunesmith.tokens.examples import Batch
    from tunesmith.tokens.reader import Reader
    from tunesmith.tokens.sequences import TextExamples

CHUNK_NUMBERS = 16_000_000
"""Logits held at once: 64 MB of fp32."""
CHECKED_PLACES = 16
"""Learned places of a row whose logits the self-checks compare: more would cost memory (places x vocabulary) and show nothing new."""


@dataclass(frozen=True)
class Vocabulary:
    """A language model's output layer: logits = cap * tanh(scale * (states @ weight.T + bias) / cap), or without the cap where it is 0.

    The cap is Gemma 2's (https://arxiv.org/abs/2408.00118, section 2); the scale is Cohere's and Granite's.
    """

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None = None
    scale: float = 1.0
    cap: float = 0.0

    def logits(self, states_UD: torch.Tensor) -> torch.Tensor:
        """logits_UV, in fp32 at least."""
        logits_UV = at_least_fp32(F.linear(states_UD, self.weight_VD, self.bias_V))
        if self.scale != 1:
            logits_UV = logits_UV * self.scale
        return self.cap * torch.tanh(logits_UV / self.cap) if self.cap else logits_UV


class NextToken:
    """The objective.

    Args:
        label_smoothing: share of the target that is spread over the vocabulary.
        examples: prepared rows -> sequences with learnt tokens.
        writing: how a text is written and where it ends, for whoever uses the model later.
    """

    def __init__(self, label_smoothing: float, examples: Callable[[Path, Reader], TextExamples], writing: Writing) -> None:
        self.label_smoothing, self.examples, self.writing = label_smoothing, examples, writing

    def head(self, dropout: float | None) -> Head:
        """A language model's own output layer."""
        return Head(None, dropout=dropout)

    def units(self, batch: Batch) -> float:
        """Learnt tokens."""
        assert batch.targets is not None
        return float((batch.targets != NOT_LEARNT).sum())

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The sum over learnt tokens, in nats."""
        states_UD, targets_U, words = self._learnt(model, batch)
        total, _, hits = chunked_loss(states_UD, words, targets_U, self.label_smoothing)
        return Loss(total, {"loss": total.detach(), "units": float(len(targets_U)), "hits": hits})

    def measure(self, model: nn.Module, batch: Batch) -> Sums:
        """Sums of the plain loss, tokens and hits."""
        states_UD, targets_U, words = self._learnt(model, batch)
        _, plain, hits = chunked_loss(states_UD, words, targets_U, 0.0)
        return {"loss": plain, "units": float(len(targets_U)), "hits": hits}

    def summary(self, sums: dict[str, float]) -> dict[str, float]:
        """Mean loss a token and the share of next tokens guessed."""
        units = max(sums["units"], 1e-12)
        return {"loss": sums["loss"] / units, "token_accuracy": sums["hits"] / units}

    def score(self, figures: dict[str, float]) -> tuple[float, ...]:
        """The lower loss."""
        return (-figures["loss"],)

    def scores(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits at some learned places of each row, row by row: what the loss is computed from."""
        hidden_TD = llama.states(model, batch.inputs["ids"], batch.inputs["lengths"].tolist(), batch.inputs.get("states"))
        return vocabulary(model).logits(hidden_TD[_some_places(batch)])

    def reference(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """`scores` by transformers' own forward, each row alone."""
        parts = []
        for ids_L in torch.split(batch.inputs["ids"], batch.inputs["lengths"].tolist()):
            ids_1L = ids_L[None]
            logits_1LV: torch.Tensor = model(input_ids=ids_1L, attention_mask=torch.ones_like(ids_1L)).logits
            parts.append(logits_1LV[0, -len(ids_L) :].float())  # a prompt of soft vectors has logits of its own before the row's
        return torch.cat(parts)[_some_places(batch)]

    def _learnt(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, Vocabulary]:
        """States and targets of the learnt places, and the vocabulary's weights."""
        assert batch.targets is not None
        hidden_TD = llama.states(model, batch.inputs["ids"], batch.inputs["lengths"].tolist(), batch.inputs.get("states"))
        learnt_T = batch.targets != NOT_LEARNT
        return hidden_TD[learnt_T], batch.targets[learnt_T], vocabulary(model)


def _some_places(batch: Batch) -> torch.Tensor:
    """Up to CHECKED_PLACES learned places of each row, evenly spread, among all places of a batch."""
    assert batch.targets is not None
    found, start = [], 0
    for length in batch.inputs["lengths"].tolist():
        learned = torch.nonzero(batch.targets[start : start + length] != NOT_LEARNT)[:, 0] + start
        found.append(learned[:: max(1, len(learned) // CHECKED_PLACES)][:CHECKED_PLACES])
        start += length
    return torch.cat(found)


def vocabulary(model: Any) -> Vocabulary:
    """A language model's output layer. The self-check after adapting holds its logits against transformers' own.

    Raises:
        UserError: an adapter lies on it.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    layer, config = bare.get_output_embeddings(), bare.config.get_text_config()
    if not isinstance(layer, nn.Linear):
        raise UserError("an adapter lies on the output layer of this base, and it cannot learn there", "recipe, `method.targets`", "leave that layer out")
    scale = float(getattr(config, "logit_scale", None) or 1) / float(getattr(config, "logits_scaling", None) or 1)
    return Vocabulary(layer.weight, layer.bias, scale, float(getattr(config, "final_logit_softcapping", None) or 0))


def row_losses(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's loss and learnt tokens.

    Args:
        model: a causal language model.
        batch: R rows.

    Returns:
        losses_R in nats (sums) and tokens_R.
    """
    assert batch.targets is not None
    lengths_R = batch.inputs["lengths"]
    hidden_TD = llama.states(model, batch.inputs["ids"], lengths_R.tolist())
    words = vocabulary(model)
    learnt_T = batch.targets != NOT_LEARNT
    rows_U = torch.repeat_interleave(torch.arange(len(lengths_R), device=hidden_TD.device), lengths_R.to(hidden_TD.device))[learnt_T]
    states_UD, targets_U = hidden_TD[learnt_T], batch.targets[learnt_T]
    size = max(1, CHUNK_NUMBERS // words.weight_VD.shape[0])
    parts = [
        F.cross_entropy(words.logits(states_UD[start : start + size]), targets_U[start : start + size], reduction="none")
        for start in range(0, len(targets_U), size)
    ]
    losses_U = torch.cat(parts) if parts else at_least_fp32(hidden_TD.new_zeros(0))
    losses_R = losses_U.new_zeros(len(lengths_R)).index_add(0, rows_U, losses_U)
    return losses_R, rows_U.bincount(minlength=len(lengths_R))


def chunked_loss(
    states_UD: torch.Tensor, words: Vocabulary, targets_U: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy of states @ weight.T against targets, summed, without ever holding all logits.

    Worked by hand: one state [1], weights [[0], [ln 3]], target 1 gives logits [0, ln 3], probabilities [1/4, 3/4] and a loss of ln 4/3.

    Args:
        states_UD: of the learnt places.
        words: the output layer; its weight and bias learn where they require grad.
        targets_U: int64 ids.
        smoothing: share of the target spread evenly over the vocabulary.

    Returns:
        The smoothed sum in nats (with gradient), the plain sum, and how many targets have the largest logit.
    """
    weight_VD, bias_V = words.weight_VD, words.bias_V
    if not torch.is_grad_enabled():  # else what learns would be differentiated while only measuring too
        states_UD, weight_VD, bias_V = states_UD.detach(), weight_VD.detach(), None if bias_V is None else bias_V.detach()
    total, plain, hits = _ChunkedLoss.apply(states_UD, weight_VD, bias_V, targets_U, smoothing, words.scale, words.cap)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return total, plain, hits


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        smoothing: float,
        scale: float,
        cap: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        size = max(1, CHUNK_NUMBERS // weight.shape[0])
        wide = torch.promote_types(states.dtype, torch.float32)
        total, plain = (torch.zeros((), dtype=wide, device=states.device) for _ in range(2))
        hits = torch.zeros((), dtype=torch.int64, device=states.device)
        to_states = torch.empty_like(states) if context.needs_input_grad[0] else None
        # Added up in fp32: with bf16 weights a hundred chunks would round a hundred times.
        to_weight = torch.zeros_like(weight, dtype=wide) if context.needs_input_grad[1] else None
        to_bias = torch.zeros_like(bias) if bias is not None and context.needs_input_grad[2] else None
        for start in range(0, len(targets), size):
            some, aims = states[start : start + size], targets[start : start + size, None]
            logits_CV = at_least_fp32(F.linear(some, weight, bias))
            rise_CV: torch.Tensor | float = scale  # d logit / d product
            if scale != 1:
                logits_CV *= scale
            if cap:
                bent_CV = torch.tanh(logits_CV / cap)
                logits_CV, rise_CV = bent_CV * cap, (1 - bent_CV * bent_CV) * scale
            hits += (logits_CV.argmax(-1) == aims[:, 0]).sum()
            normal_C1 = logits_CV.logsumexp(-1, keepdim=True)
            own = (normal_C1 - logits_CV.gather(1, aims)).sum()
            plain += own
            total += own if not smoothing else (1 - smoothing) * own + smoothing * (normal_C1[:, 0] - logits_CV.mean(-1)).sum()
            if to_states is None and to_weight is None:
                continue
            slope_CV = logits_CV.sub_(normal_C1).exp_()
            if smoothing:
                slope_CV.sub_(smoothing / weight.shape[0])
            slope_CV.scatter_add_(1, aims, torch.full_like(aims, smoothing - 1, dtype=wide))
            if scale != 1 or cap:
                slope_CV.mul_(rise_CV)
            slope_CV = slope_CV.to(weight.dtype)
            if to_states is not None:
                torch.mm(slope_CV, weight, out=to_states[start : start + size])
            if to_weight is not None:
                to_weight += slope_CV.T @ some
            if to_bias is not None:
                to_bias += slope_CV.sum(0)
        context.gradients = (to_states, None if to_weight is None else to_weight.to(weight.dtype), to_bias)
        context.mark_non_differentiable(plain, hits)
        return total, plain, hits

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [None if one is None else one.mul_(gradients[0].to(one.dtype)) for one in context.gradients]
        context.gradients = None
        return (*scaled, None, None, None, None)
