"""Classification: one label a row (softmax cross-entropy), or any number of labels (sigmoid cross-entropy a label).

1. The loss is a weighted sum over rows divided by the sum of the rows' weights, over the whole optimizer step (as torch's `weight=` does).
2. With several labels a row's loss is the mean over the labels, as in transformers.
3. `class_weights: balanced` weighs a row by N / (C * rows of its label), scikit-learn's rule; with several labels it is each label's
   positive weight, negatives / positives, bounded by 100.
4. Label smoothing: Szegedy et al. 2016 (https://arxiv.org/abs/1512.00567, section 7).
5. `loss` has two more, see `losses.py`. The curves and the kept step use the plain loss in any case.
6. With several labels the kept step has the best micro F1 over `KEPT_BY_CUTS`, not at 0.5: the cuts are chosen after training, and at 0.5
   a model of rare labels scores 0 for many steps in which it learns.

Shapes: N rows, B rows of a batch, S sequences (windows) of a batch, C labels, K cuts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from tunesmith.core.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tunesmith.models.catalog import Base
    from tunesmith.models.loading import Head
    from tunesmith.objectives import Loss, Objective, Sums
    from tunesmith.tokens.examples import Batch, Examples, Targets
    from tunesmith.tokens.reader import Reader

MOST_POSITIVE_WEIGHT = 100.0
KEPT_BY_CUTS = tuple(percent / 100 for percent in range(5, 100, 5))
"""Cuts tried for all labels in common when a step is scored. Nearer ones could not be told apart on a few hundred rows."""
ROWS = ("labelled",)


class ClassificationSettings(Settings):
    """Predict the label, or the labels, of a text."""

    kind: Literal["classification"] = "classification"
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rare labels count more in the loss, each label the same in all."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """This share of the target is spread over all labels."""
    loss: Literal["cross_entropy", "focal", "asymmetric"] = "cross_entropy"
    """focal: what is sure and right counts for less. asymmetric: the same, for absent labels more than for present ones (several labels only)."""
    focal_gamma: float = Field(2.0, ge=0, le=10)
    """focal: how much less. 0 is cross_entropy. The default is the paper's."""
    positive_gamma: float = Field(0.0, ge=0, le=10)
    """asymmetric: how much less labels count that are present and found. The default is the paper's."""
    negative_gamma: float = Field(4.0, ge=0, le=10)
    """asymmetric: how much less labels count that are absent and left out. The default is the paper's."""
    margin: float = Field(0.05, ge=0, lt=1)
    """asymmetric: absent labels of a probability up to this do not count. The default is the paper's."""

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> ClassificationSettings:
        owners = {"focal_gamma": "focal", "positive_gamma": "asymmetric", "negative_gamma": "asymmetric", "margin": "asymmetric"}
        for key, owner in owners.items():
            if self.loss != owner and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} needs loss: {owner}, found {self.loss}")
        if self.loss != "cross_entropy" and self.label_smoothing:
            raise ValueError(f"label_smoothing needs loss: cross_entropy, found {self.loss}")
        return self


def make(settings: ClassificationSettings, base: Base, data: Path) -> Objective:
    """The objective for prepared rows: label names and their counts are read from the folder `data`."""
    from tunesmith.core.files import read_json
    from tunesmith.data import rows

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

        assert multi_label or settings.loss != "asymmetric"
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
        from tunesmith.models.loading import Head

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
        losses_B = self._losses(logits_BC, batch.targets)
        weights_B = self._row_weights(batch)
        total = losses_B.sum() if weights_B is None else (losses_B * weights_B).sum()
        return Loss(total, {"loss": total.detach(), "units": self._units(batch), **self._hits(logits_BC.detach(), batch)})

    def measure(self, model: nn.Module, batch: Batch) -> Sums:
        """Sums of the plain loss, rows and hits."""
        logits_BC = self.logits(model, batch)
        assert batch.targets is not None
        plain = losses(logits_BC, batch.targets, self.multi_label).sum()
        counts = self._at_cuts(logits_BC, batch) if self.multi_label else self._by_label(logits_BC, batch)
        return {"loss": plain, "units": float(batch.rows), **self._hits(logits_BC, batch), **counts}

    def summary(self, sums: dict[str, float]) -> dict[str, float]:
        """Mean loss; accuracy (and macro F1 of measured rows). With several labels micro F1 at 0.5, and of measured rows also at the best of several cuts."""
        loss = sums["loss"] / max(sums["units"], 1e-12)
        if self.multi_label:
            found = {"loss": loss, "micro_f1": 2 * sums["hits"] / max(sums["predicted"] + sums["true"], 1e-12)}
            if f"hits_{KEPT_BY_CUTS[0]}" in sums:
                at_K = [2 * sums[f"hits_{cut}"] / max(sums[f"predicted_{cut}"] + sums["true"], 1e-12) for cut in KEPT_BY_CUTS]
                found["best_cut_micro_f1"] = max(at_K)
            return found
        figures = {"loss": loss, "accuracy": sums["hits"] / max(sums["rows"], 1e-12)}
        present = {name.split()[1] for name in sums if name.startswith(("given ", "actual "))}
        if present:  # as `evaluation/classification/metrics.py` counts: over labels that are true or given
            f1 = [2 * sums.get(f"right {c}", 0.0) / (sums.get(f"given {c}", 0.0) + sums.get(f"actual {c}", 0.0)) for c in sorted(present)]
            figures["macro_f1"] = sum(f1) / len(f1)
        return figures

    def score(self, figures: dict[str, float]) -> tuple[float, ...]:
        """Macro F1 first, the headline and what gates are set on (with several labels micro F1 at its best cut), then the lower loss.

        A classifier's loss often grows by overconfidence while it still gets better. With 95 rows of one label and 5 of another, accuracy would
        keep a step that never gives the rare one.
        """
        return (figures["best_cut_micro_f1" if self.multi_label else "macro_f1"], -figures["loss"])

    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """logits_BC in fp32 (float64 of a float64 model); the windows of a long text are averaged.

        More windows than `batches.WINDOW_TOKENS` allows go through the model in parts. While training, each part keeps its input alone and is computed
        again in the backward pass (Chen et al. 2016, https://arxiv.org/abs/1604.06174): same loss, same gradient, bounded memory.
        """
        if batch.rows_S is None:
            return _logits(model, batch.inputs)
        logits_SC = _in_parts(model, batch.inputs)
        summed_BC = logits_SC.new_zeros(batch.rows, logits_SC.shape[1]).index_add(0, batch.rows_S, logits_SC)
        counts_B = batch.rows_S.bincount(minlength=batch.rows)
        return summed_BC / counts_B[:, None]

    def scores(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """logits_BC: what the loss is computed from."""
        return self.logits(model, batch)

    def reference(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """`scores` by transformers' own forward."""
        from tunesmith.models import loading

        with loading.plain(model):
            return self.logits(model, batch)

    def probabilities(self, logits_BC: torch.Tensor) -> torch.Tensor:
        """Softmax, or a sigmoid for each label."""
        return logits_BC.sigmoid() if self.multi_label else logits_BC.softmax(-1)

    def _losses(self, logits_BC: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Each row's training loss; balanced weights of one label a row come after it, as weights of rows."""
        from tunesmith.objectives.losses import asymmetric, focal

        settings, positive_C = self.settings, self._weights_C if self.multi_label else None
        if settings.loss == "focal":
            return focal(logits_BC, targets, settings.focal_gamma, positive_C)
        if settings.loss == "asymmetric":
            return asymmetric(logits_BC, targets, settings.positive_gamma, settings.negative_gamma, settings.margin, positive_C)
        return losses(logits_BC, targets, self.multi_label, settings.label_smoothing, positive_C)

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

    def _at_cuts(self, logits_BC: torch.Tensor, batch: Batch) -> dict[str, float]:
        """Of several labels a row: hits, and labels given, at each of `KEPT_BY_CUTS`."""
        import torch

        assert batch.targets is not None
        true_BC = batch.targets > 0.5
        given = [logits_BC >= math.log(cut / (1 - cut)) for cut in KEPT_BY_CUTS]
        counts = torch.stack([one.sum() for one in [*(given_BC & true_BC for given_BC in given), *given]]).tolist()
        names = [f"{name}_{cut}" for name in ("hits", "predicted") for cut in KEPT_BY_CUTS]
        return dict(zip(names, map(float, counts), strict=True))

    def _by_label(self, logits_BC: torch.Tensor, batch: Batch) -> dict[str, float]:
        """Of one label a row: rows given, actual and right of each label that occurs in the batch."""
        assert batch.targets is not None
        given_B = logits_BC.argmax(-1)
        out: dict[str, float] = {}
        for kind, labels in (("given", given_B), ("actual", batch.targets), ("right", given_B[given_B == batch.targets])):
            known, counts = np.unique(labels.cpu().numpy(), return_counts=True)
            out |= {f"{kind} {c}": float(n) for c, n in zip(known.tolist(), counts.tolist(), strict=True)}
        return out


def _logits(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    from tunesmith.models.fast.fused_linear import at_least_fp32

    output: Any = model(**inputs)
    return at_least_fp32(output.logits)


def _in_parts(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """logits_SC of sequences, as many at once as `WINDOW_TOKENS` allows."""
    import torch

    from tunesmith.tokens import batching

    sequences, length = inputs["attention_mask"].shape
    size = max(1, batching.WINDOW_TOKENS // length)
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
        smooth = targets.to(logits_BC.dtype) * (1 - smoothing) + 0.5 * smoothing
        weights = None if positive_weights_C is None else positive_weights_C.to(logits_BC)
        return F.binary_cross_entropy_with_logits(logits_BC, smooth, pos_weight=weights, reduction="none").mean(-1)
    return F.cross_entropy(logits_BC, targets, label_smoothing=smoothing, reduction="none")
