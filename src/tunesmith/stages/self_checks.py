"""Three checks in every run, on a few rows each: a fault that would give a wrong model without a word becomes an error.

adapt: after a method has adapted a base, with all that makes it fast (our own forwards, states computed once, a smaller word table), it
       computes what transformers' own forward computes.
batch: a row alone and the same row among others have the same scores.
save:  what was saved, loaded by the code that `predict` uses, has the trained model's scores.

A check compares the numbers that the loss is computed from (`Objective.scores`): logits of labels, or of the next token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tunesmith.objectives import Objective
    from tunesmith.tokens.examples import Examples

ROWS = 4
"""Rows of a check: the shortest, the longest that is not too long, and two between."""
MOST_TOKENS = 128
"""Longer rows are passed over where shorter ones are there: a check takes milliseconds, and padding and truncation show in short rows too."""
ALLOWED = 1e-3
"""Largest difference, as a share of the largest score. Products in another order differ by 1e-6 of a score in a small base, and by 1e-4 after
a hundred layers (fp32 has 6e-8 a number). The faults that these checks are for have differed by 1e-2 and more."""
SMALLEST = 1e-2
"""Scores are taken to be at least this large: at the start a head's scores may all be nearly 0."""
REMEDIES = {
    "adapt": "choose another base or method; please report it with the base's config.json",
    "batch": "please report it with the base's config.json and tokenizer_config.json; another base or method may work",
    "save": "nothing was saved; please report it with the recipe; method: full may work",
}


@dataclass(frozen=True)
class Apart:
    """One check: the largest difference found, and the largest allowed."""

    found: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.found <= self.allowed  # NaN fails


class SelfChecks:
    """The checks of one training.

    Args:
        objective: whose scores are compared.
        examples: the training rows as tokens, before a method changes them.
    """

    def __init__(self, objective: Objective, examples: Examples) -> None:
        self._objective, self._examples = objective, examples
        self._rows = _some_rows(examples)
        self._results: dict[str, Apart] = {}

    def reference(self, model: nn.Module) -> list[torch.Tensor] | None:
        """Each row's scores by transformers' own forward; None for a model that does not take tokens (it learns from vectors)."""
        if getattr(model, "small", False):
            return None
        return self._each(model, self._objective.reference, self._examples)

    def adapted(self, model: nn.Module, examples: Examples, expected: list[torch.Tensor] | None) -> None:
        """Check an adapted model: `adapt` and `batch`.

        Args:
            model: as it will be trained.
            examples: as it will take them.
            expected: what `reference` gave.
        """
        if expected is None:
            return
        alone = self._each(model, self._objective.scores, examples)
        self._results["adapt"] = _apart(alone, expected)
        self._batch(model, examples, alone)

    def saved(self, model: nn.Module, examples: Examples, loaded: nn.Module) -> None:
        """Check what was saved: `save`, and what `adapted` could not check before.

        Args:
            model: trained, with the whole of what was saved.
            examples: as it was trained on.
            loaded: the saved model; it takes tokens.
        """
        scores = self._each(loaded, self._objective.scores, self._examples)
        self._results["save"] = _apart(scores, self._each(model, self._objective.scores, examples))
        if "adapt" not in self._results:
            self._results["adapt"] = _apart(scores, self._each(loaded, self._objective.reference, self._examples))
            self._batch(loaded, self._examples, scores)

    def require(self) -> None:
        """Refuse a training that a check has found wrong.

        Raises:
            UserError: which check, how far apart, and what to do.
        """
        what = {
            "adapt": "the adapted base does not compute what transformers computes",
            "batch": "a row's result depends on the rows in its batch",
            "save": "the saved model does not compute what the trained one does",
        }
        for name, one in self._results.items():
            if not one.passed:
                text = f"self-check `{name}` failed: {what[name]} (scores differ by {one.found:.2g}, at most {one.allowed:.2g} is rounding)"
                raise UserError(text, "training", REMEDIES[name])

    def facts(self) -> dict[str, Any]:
        """For run.json: how far apart the scores were, how far they may be, and on how many rows."""
        found = {name: {"apart": float(f"{one.found:.2g}"), "allowed": float(f"{one.allowed:.2g}")} for name, one in sorted(self._results.items())}
        return {"rows": len(self._rows), **found}

    def _batch(self, model: nn.Module, examples: Examples, alone: list[torch.Tensor]) -> None:
        import torch

        if len(self._rows) > 1:
            together = _quietly(model, lambda: self._objective.scores(model, examples.batch(self._rows)))
            self._results["batch"] = _apart([together], [torch.cat(alone)])

    def _each(self, model: nn.Module, scores: Any, examples: Examples) -> list[torch.Tensor]:
        """Each row's scores, computed alone."""
        found: list[torch.Tensor] = _quietly(model, lambda: [scores(model, examples.batch(row_1)) for row_1 in self._rows[:, None]])
        return found


def _some_rows(examples: Examples) -> Any:
    """Indices of ROWS examples of unlike lengths, the shortest and the longest of those within MOST_TOKENS among them."""
    order = np.argsort(examples.lengths_N, kind="stable")
    short = order[examples.lengths_N[order] <= MOST_TOKENS]
    chosen = short if len(short) > 1 else order[:2]
    return chosen[np.unique(np.linspace(0, len(chosen) - 1, ROWS).round().astype(int))]


def _apart(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> Apart:
    pairs = list(zip(ours, theirs, strict=True))
    found = np.max([float((one - other).abs().max()) for one, other in pairs])  # NaN stays NaN
    return Apart(float(found), ALLOWED * max(SMALLEST, *(float(other.abs().max()) for _, other in pairs)))


def _quietly(model: nn.Module, work: Any) -> Any:
    """Do something in eval mode and without gradients; the model's mode is as before."""
    import torch

    training = model.training
    model.eval()
    with torch.no_grad():
        done = work()
    model.train(training)
    return done
