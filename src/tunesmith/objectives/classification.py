"""Classification: one label a row (softmax cross-entropy), or any number of labels (sigmoid cross-entropy a label).

1. The loss is a weighted sum over rows divided by the sum of the rows' weights, over the whole optimizer step (as torch's `weight=` does).
2. With several labels a row's loss is the mean over the labels, as in transformers.
3. `class_weights: balanced` weighs a row by N / (C * rows of its label), scikit-learn's rule; with several labels it is each label's
   positive weight, negatives / positives, bounded by 100.
4. Label smoothing: Szegedy et al. 2016 (https://arxiv.org/abs/1512.00567, section 7).

Shapes: N rows, B rows of a batch, S sequences (windows) of a batch, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from tunesmith.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tunesmith.models.catalog import Base
    from tunesmith.models.load import Head
    from tunesmith.objectives import Loss, Objective, Sums
    from tunesmith.tokens.examples import Batch, Examples, Targets
    from tunesmith.tokens.reader import Reader

MOST_POSITIVE_WEIGHT = 100.0
ROWS = ("labelled",)


class ClassificationSettings(Settings):
    """Predict the label, or the labels, of a text."""

    kind: Literal["classification"] = "classification"
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rare labels count more in the loss, each label the same in all."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """This share of the target is spread over all labels."""


def make(settings: ClassificationSettings, base: Base, data: Path) -> Objective:
    """The objective for prepared rows: label names and their counts are read from the folder `data`."""
    from tunesmith.data import rows
    from tunesmith.files import read_json

    names = read_json(data / "labels.json")
    train_labels = rows.label_lists(rows.read(data / "train.parquet")) if settings.class_weights == "balanced" else ()
    return Classification(names["labels"], names["multi_label"], settings, train_labels)


class Classification:
    """The objective for given label names.

    Args:
        labels: C names in order.
        multi_label: whether a row has any number of them.
        settings: weights and smoothing.
        train_labels: each training row's labels, for balanced weights.
    """

    def __init__(
        self, labels: list[str], multi_label: bool, settings: ClassificationSettings, train_labels: Sequence[Sequence[str]] = ()
    ) -> None:
        import torch

        self.labels, self.multi_label, self.settings = labels, multi_label, settings
        self._index = {name: index for index, name in enumerate(labels)}
        self._weights_C: torch.Tensor | None = None
        if settings.class_weights == "balanced" and train_labels:
            counts_C = np.zeros(len(labels))
            for one in train_labels:
                for name in one:
                    counts_C[self._index[name]] += 1
            seen = np.maximum(counts_C, 1)
            n = len(train_labels)
            weights_C = np.minimum((n - counts_C) / seen, MOST_POSITIVE_WEIGHT) if multi_label else n / ((counts_C > 0).sum() * seen)
            self._weights_C = torch.tensor(weights_C, dtype=torch.float32)

    writing = None

    def head(self, dropout: float | None) -> Head:
        """One score a label."""
        from tunesmith.models.load import Head

        return Head(self.labels, self.multi_label, dropout)

    def examples(self, path: Path, reader: Reader) -> Examples:
        """Texts as tokens, labels as numbers."""
        from tunesmith.data import rows
        from tunesmith.tokens import encode
        from tunesmith.tokens.examples import TokenExamples, joined

        targets: list[Targets] = []

        def chunks() -> Iterator[tuple[Sequence[str], Sequence[str | None]]]:
            for batch in rows.batches(path, rows=rows.GROUP_ROWS):
                targets.append(self.targets(rows.label_lists(batch), batch.column("weight").to_numpy()))
                yield rows.strings(batch, "text"), rows.strings(batch, "text_pair")

        tokens = encode.stored(reader.tokenizer, chunks(), reader.limit, reader.truncation, reader.scratch, rows.count(path))
        return TokenExamples(tokens, joined(targets), reader.tokenizer.pad_id)

    def targets(self, labels: Sequence[Sequence[str]], weights: Sequence[float] | np.ndarray | None = None) -> Targets:
        """Label names of N rows as tensors: int64 (N,), or float32 (N, C) when a row has any number."""
        import torch

        from tunesmith.tokens.examples import Targets

        if self.multi_label:
            values_N = torch.zeros(len(labels), len(self.labels))
            for row, one in enumerate(labels):
                values_N[row, [self._index[name] for name in one]] = 1
        else:
            values_N = torch.tensor([self._index[one[0]] for one in labels])
        weights_N = None if weights is None or (np.asarray(weights) == 1).all() else torch.tensor(weights, dtype=torch.float32)
        return Targets(values_N, weights_N)

    def units(self, batch: Batch) -> float:
        """The sum of the rows' weights."""
        return float(self._units(batch))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The weighted sum over rows, with the plain counts beside it."""
        from tunesmith.objectives import Loss

        logits_BC = self.logits(model, batch)
        assert batch.targets is not None
        losses_B = losses(logits_BC, batch.targets, self.multi_label, self.settings.label_smoothing, self._weights_C)
        weights_B = self._row_weights(batch)
        total = losses_B.sum() if weights_B is None else (losses_B * weights_B).sum()
        return Loss(total, {"loss": total.detach(), "units": self._units(batch), **self._hits(logits_BC.detach(), batch)})

    def measure(self, model: nn.Module, batch: Batch) -> Sums:
        """Sums of the plain loss, rows and hits."""
        logits_BC = self.logits(model, batch)
        assert batch.targets is not None
        plain = losses(logits_BC, batch.targets, self.multi_label).sum()
        return {"loss": plain, "units": float(batch.rows), **self._hits(logits_BC, batch)}

    def summary(self, sums: dict[str, float]) -> dict[str, float]:
        """Mean loss; accuracy, or micro F1 with several labels."""
        loss = sums["loss"] / max(sums["units"], 1e-12)
        if self.multi_label:
            return {"loss": loss, "micro_f1": 2 * sums["hits"] / max(sums["predicted"] + sums["true"], 1e-12)}
        return {"loss": loss, "accuracy": sums["hits"] / max(sums["rows"], 1e-12)}

    def score(self, figures: dict[str, float]) -> tuple[float, ...]:
        """Accuracy (micro F1) first, then the lower loss: a classifier's loss often grows by overconfidence while it still gets better."""
        return (figures["micro_f1" if self.multi_label else "accuracy"], -figures["loss"])

    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """logits_BC in fp32; the windows of a long text are averaged.

        More windows than `batches.WINDOW_TOKENS` allows go through the model in parts. While training, each part keeps its input alone and is computed
        again in the backward pass (Chen et al. 2016, https://arxiv.org/abs/1604.06174): same loss, same gradient, bounded memory.
        """
        if batch.rows_S is None:
            return _logits(model, batch.inputs)
        logits_SC = _in_parts(model, batch.inputs)
        summed_BC = logits_SC.new_zeros(batch.rows, logits_SC.shape[1]).index_add(0, batch.rows_S, logits_SC)
        counts_B = batch.rows_S.bincount(minlength=batch.rows)
        return summed_BC / counts_B[:, None]

    def probabilities(self, logits_BC: torch.Tensor) -> torch.Tensor:
        """Softmax, or a sigmoid for each label."""
        return logits_BC.sigmoid() if self.multi_label else logits_BC.softmax(-1)

    def _units(self, batch: Batch) -> torch.Tensor | float:
        weights_B = self._row_weights(batch)
        return float(batch.rows) if weights_B is None else weights_B.sum()

    def _row_weights(self, batch: Batch) -> torch.Tensor | None:
        if self._weights_C is None or self.multi_label:
            return batch.weights_B
        assert batch.targets is not None
        by_class_B = self._weights_C.to(batch.targets.device)[batch.targets]
        return by_class_B if batch.weights_B is None else by_class_B * batch.weights_B

    def _hits(self, logits_BC: torch.Tensor, batch: Batch) -> Sums:
        assert batch.targets is not None
        if self.multi_label:
            predicted_BC, true_BC = logits_BC > 0, batch.targets > 0.5
            return {"rows": float(batch.rows), "hits": (predicted_BC & true_BC).sum(), "predicted": predicted_BC.sum(), "true": true_BC.sum()}
        return {"rows": float(batch.rows), "hits": (logits_BC.argmax(-1) == batch.targets).sum()}


def _logits(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    output: Any = model(**inputs)
    logits_SC: torch.Tensor = output.logits.float()
    return logits_SC


def _in_parts(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """logits_SC of sequences, as many at once as `WINDOW_TOKENS` allows."""
    import torch

    from tunesmith.tokens import batches

    sequences, length = inputs["attention_mask"].shape
    size = max(1, batches.WINDOW_TOKENS // length)
    if sequences <= size:
        return _logits(model, inputs)
    parts = []
    for start in range(0, sequences, size):
        part = {name: value[start : start + size] for name, value in inputs.items()}
        if torch.is_grad_enabled():
            from torch.utils.checkpoint import checkpoint

            parts.append(checkpoint(_logits, model, part, use_reentrant=False))
        else:
            parts.append(_logits(model, part))
    return torch.cat(parts)


def losses(
    logits_BC: torch.Tensor, targets: torch.Tensor, multi_label: bool, smoothing: float = 0.0, positive_weights_C: torch.Tensor | None = None
) -> torch.Tensor:
    """Each row's loss in nats.

    Args:
        logits_BC: scores.
        targets: int64 (B,), or 0/1 float (B, C) when `multi_label`.
        multi_label: sigmoid a label and their mean, in place of a softmax.
        smoothing: label smoothing.
        positive_weights_C: weight of a label's presence, for `multi_label` alone.

    Returns:
        losses_B.
    """
    from torch.nn import functional as F

    if multi_label:
        smooth = targets * (1 - smoothing) + 0.5 * smoothing
        weights = None if positive_weights_C is None else positive_weights_C.to(logits_BC.device)
        return F.binary_cross_entropy_with_logits(logits_BC, smooth, pos_weight=weights, reduction="none").mean(-1)
    return F.cross_entropy(logits_BC, targets, label_smoothing=smoothing, reduction="none")
