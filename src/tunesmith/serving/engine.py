"""A saved classifier that answers: the same engine evaluates, predicts and (later) serves, so what is measured is what ships.

Shapes: N texts, Q sequences (Q = N, or more when long texts become windows), C labels.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tunesmith import methods
from tunesmith.core.errors import UserError
from tunesmith.core.files import read_json
from tunesmith.evaluation.classification import cuts
from tunesmith.methods import Saved
from tunesmith.models import metadata
from tunesmith.models.loading import Head
from tunesmith.tokens import batching, encode, tokenization
from tunesmith.tokens.examples import Targets, TokenExamples

if TYPE_CHECKING:
    from torch import nn

BATCH_ROWS = 256
BATCH_TOKENS, BATCH_TOKENS_DEVICE = 4096, 65_536
"""Padded tokens of a batch: enough for full speed, bounded memory on long texts. Windows of a text may lie in several batches.
The second is for a GPU, which needs many at once to be busy; an estimate, not measured."""


@dataclass(frozen=True)
class Prediction:
    """One text's answer: its label (or labels), how probable it is, the model's label names with the probability of each, and whether
    that is sure enough to answer (None: no threshold was fitted)."""

    labels: list[str]
    probability: float
    names: list[str] = field(repr=False)
    values: array[float] = field(repr=False)
    """Four bytes a label: as a dict, a thousand labels take 49 kB a text."""
    sure: bool | None = None

    @property
    def probabilities(self) -> dict[str, float]:
        """Each label's probability, in the order of the model's labels; built on each call."""
        return dict(zip(self.names, self.values.tolist(), strict=True))

    @property
    def label(self) -> str:
        """The label, or several joined by `|`."""
        return "|".join(self.labels)


class Classifier:
    """A trained classifier, loaded from a run's `model/`."""

    def __init__(self, about: metadata.About, model: nn.Module, reader: tokenization.Tokenizer, calibration: dict[str, Any], device: str) -> None:
        self.about, self._model, self._reader, self._device = about, model, reader, device
        self.temperature = float(calibration["temperature"])
        self.abstention: dict[str, Any] | None = calibration["abstention"]
        self.chosen: dict[str, Any] | None = calibration.get("cuts")
        self.cuts = cuts.of(calibration)

    def logits(
        self, texts: Sequence[str], pairs: Sequence[str | None] | None = None, progress: Callable[[int, int], None] = lambda done, of: None
    ) -> npt.NDArray[np.float32]:
        """Scores of N texts.

        Args:
            texts: N texts of any length; those beyond the limit are read as in training.
            pairs: N second texts for models of pairs.
            progress: called with (texts done, N).

        Returns:
            logits_NC.
        """
        import torch

        tokens = encode.encode(self._reader, texts, pairs, self.about.max_tokens, self.about.truncation)
        # Windows are read apart, whichever rows they belong to: a long text needs no more memory than short ones.
        examples = TokenExamples(tokens, Targets(None), self._reader.pad_id).sequences()
        out_QC = np.zeros((len(examples), len(self.about.labels)), np.float32)
        done = 0
        place = torch.device(self._device)
        most = BATCH_TOKENS if place.type == "cpu" else BATCH_TOKENS_DEVICE
        with torch.inference_mode():
            for some in batching.in_order(examples.lengths_N, BATCH_ROWS, most):
                batch = examples.batch(some).to(place)
                out_QC[some] = self._model(**batch.inputs).logits.float().cpu().numpy()
                done += len(some)
                progress(done * len(texts) // len(examples), len(texts))
        if tokens.windows_N is None:
            return out_QC
        return (np.add.reduceat(out_QC, tokens.rows_N[:-1]) / tokens.windows_N[:, None]).astype(np.float32)

    def probabilities(self, texts: Sequence[str], pairs: Sequence[str | None] | None = None) -> npt.NDArray[np.float32]:
        """probabilities_NC, calibrated: each row sums to 1, or, with several labels, each is a label's own."""
        return to_probabilities(self.logits(texts, pairs) / self.temperature, self.about.multi_label)

    def predict(self, texts: Sequence[str], pairs: Sequence[str | None] | None = None) -> list[Prediction]:
        """The answer for each text."""
        least = self.abstention["threshold"] if self.abstention else None
        return answers(self.probabilities(texts, pairs), self.about.labels, self.about.multi_label, least, self.cuts)


def to_probabilities(logits_NC: npt.NDArray[np.floating[Any]], multi_label: bool) -> npt.NDArray[np.float32]:
    """Softmax over labels, or a sigmoid for each."""
    from scipy.special import expit, softmax

    out_NC: npt.NDArray[np.float32] = (expit(logits_NC) if multi_label else softmax(logits_NC.astype(np.float64), axis=1)).astype(np.float32)
    return out_NC


def answers(
    probabilities_NC: npt.NDArray[np.float32],
    labels: list[str],
    multi_label: bool,
    least: float | None = None,
    cut: float | npt.NDArray[np.float64] = cuts.DEFAULT,
) -> list[Prediction]:
    """Probabilities -> predictions: the most probable label, or all that reach their `cut`; sure from a probability of `least`."""
    out = []
    for row_C, given_C in zip(probabilities_NC.astype(np.float32, copy=False), probabilities_NC >= cut, strict=True):
        values = array("f", row_C.tobytes())
        if multi_label:
            chosen = np.flatnonzero(given_C).tolist()
            out.append(Prediction([labels[c] for c in chosen], min((values[c] for c in chosen), default=1 - max(values)), labels, values))
        else:
            best = int(row_C.argmax())
            out.append(Prediction([labels[best]], values[best], labels, values, None if least is None else values[best] >= least))
    return out


def load(folder: Path, device: str = "cpu") -> Classifier:
    """Load a classifier.

    Args:
        folder: a run's `model/`.
        device: cpu or cuda.

    Raises:
        UserError: no model there, a language model, or its base is gone or changed.
    """
    about = metadata.read(folder)
    if about.writing is not None:
        raise UserError(f"this model writes texts ({about.objective}), it gives no labels", str(folder), "use tunesmith predict or tunesmith chat")
    head = Head(about.labels, about.multi_label)
    model = methods.get(about.method).load(Saved(folder, head, lambda: metadata.base_of(about)))
    model.to(device)
    source = folder if (folder / "tokenizer.json").exists() else metadata.base_of(about).folder
    calibrated = folder / metadata.CALIBRATION
    calibration = read_json(calibrated) if calibrated.exists() else {"temperature": 1.0, "abstention": None}
    return Classifier(about, model, tokenization.load(source, about.prefix, about.pad_id), calibration, device)
