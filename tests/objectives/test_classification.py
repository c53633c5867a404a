"""Losses against torch's and transformers' own, and the figures that training shows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from exact import TIGHT
from torch.nn import functional as F

from tunesmith.objectives import numbers
from tunesmith.objectives.classification import Classification, ClassificationSettings, losses
from tunesmith.tokens.examples import Batch, VectorExamples

LABELS = ["a", "b", "c"]


def fixed(logits_BC: torch.Tensor) -> torch.nn.Module:
    """A model that answers with given logits."""

    class Fixed(torch.nn.Module):
        def forward(self, vectors: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=logits_BC)

    return Fixed()


def batch_of(objective: Classification, labels: list[list[str]], weights: list[float] | None = None) -> Batch:
    return VectorExamples(torch.zeros(len(labels), 1), objective.targets(labels, weights)).batch(np.arange(len(labels)))


@pytest.fixture
def logits_BC() -> torch.Tensor:
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double() * 3


ROWS = [["a"], ["a"], ["b"], ["a"], ["c"], ["b"]]
TARGETS = torch.tensor([0, 0, 1, 0, 2, 1])


def test_balanced_weights_equal_sklearn_and_torch(logits_BC: torch.Tensor) -> None:
    from sklearn.utils.class_weight import compute_class_weight

    objective = Classification(LABELS, False, ClassificationSettings(class_weights="balanced"), ROWS)
    batch = batch_of(objective, ROWS)
    weights = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=TARGETS.numpy()))
    loss = objective.loss(fixed(logits_BC), batch)
    expected = F.cross_entropy(logits_BC, TARGETS, weight=weights)
    assert float(loss.total) / objective.units(batch) == pytest.approx(float(expected), rel=1e-6)  # our weights are fp32
    part = batch_of(objective, ROWS[:2])  # the weights come from the training rows, not from the batch
    assert objective.units(part) == pytest.approx(2 * float(weights[0]))


def test_row_weights_equal_rows_that_are_repeated(logits_BC: torch.Tensor) -> None:
    objective = Classification(LABELS, False, ClassificationSettings())
    weighted = batch_of(objective, ROWS, [2, 1, 1, 1, 3, 1])
    loss = objective.loss(fixed(logits_BC), weighted)
    order = torch.tensor([0, 0, 1, 2, 3, 4, 4, 4, 5])
    assert float(loss.total) / objective.units(weighted) == pytest.approx(float(F.cross_entropy(logits_BC[order], TARGETS[order])), abs=TIGHT)
    assert objective.units(weighted) == 9
    both = Classification(LABELS, False, ClassificationSettings(class_weights="balanced"), ROWS)
    batch = batch_of(both, ROWS, [2, 1, 1, 1, 3, 1])
    weights = torch.tensor([6 / (3 * 3), 6 / (3 * 2), 6 / (3 * 1)]).double()
    expected = F.cross_entropy(logits_BC[order], TARGETS[order], weight=weights)
    assert float(both.loss(fixed(logits_BC), batch).total) / both.units(batch) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_equals_torch_and_the_paper(logits_BC: torch.Tensor, smoothing: float) -> None:
    ours = losses(logits_BC, TARGETS, False, smoothing)
    assert torch.allclose(ours, F.cross_entropy(logits_BC, TARGETS, label_smoothing=smoothing, reduction="none"), rtol=0, atol=TIGHT)
    spread_BC = F.one_hot(TARGETS, 3).double() * (1 - smoothing) + smoothing / 3  # Szegedy et al. 2016, section 7
    assert torch.allclose(ours, -(spread_BC * logits_BC.log_softmax(-1)).sum(-1), rtol=0, atol=TIGHT)


def test_smoothing_and_weights_shape_the_loss_but_not_the_measured_figures(logits_BC: torch.Tensor) -> None:
    objective = Classification(LABELS, False, ClassificationSettings(class_weights="balanced", label_smoothing=0.3), ROWS)
    batch = batch_of(objective, ROWS, [2, 1, 1, 1, 3, 1])
    figures = objective.summary(objective.measure(fixed(logits_BC), batch))
    assert figures["loss"] == pytest.approx(float(F.cross_entropy(logits_BC, TARGETS)), abs=TIGHT)
    assert figures["accuracy"] == pytest.approx(float((logits_BC.argmax(-1) == TARGETS).float().mean()))


SEVERAL = [["a", "b"], [], ["c"], ["a"], ["a", "b", "c"], ["b"]]


def test_several_labels_equal_the_loss_of_transformers(logits_BC: torch.Tensor) -> None:
    from transformers.loss.loss_utils import ForSequenceClassificationLoss

    objective = Classification(LABELS, True, ClassificationSettings())
    batch = batch_of(objective, SEVERAL)
    config = SimpleNamespace(problem_type="multi_label_classification", num_labels=3)
    theirs = ForSequenceClassificationLoss(batch.targets, logits_BC, config)
    assert float(objective.loss(fixed(logits_BC), batch).total) / 6 == pytest.approx(float(theirs), rel=1e-6)  # targets are fp32, and torch rounds to them


def test_several_labels_balanced_weigh_what_is_present(logits_BC: torch.Tensor) -> None:
    objective = Classification(LABELS, True, ClassificationSettings(class_weights="balanced"), SEVERAL)
    batch = batch_of(objective, SEVERAL)
    positive = torch.tensor([3 / 3, 3 / 3, 4 / 2])  # negatives / positives of a, b, c
    expected = F.binary_cross_entropy_with_logits(logits_BC, batch.targets, pos_weight=positive)
    assert float(objective.loss(fixed(logits_BC), batch).total) / objective.units(batch) == pytest.approx(float(expected), rel=1e-6)
    rare = Classification(LABELS, True, ClassificationSettings(class_weights="balanced"), [["a"]] + [["b"]] * 499)
    weighted = rare.loss(fixed(torch.zeros(1, 3)), batch_of(rare, [["a"]]))
    assert float(weighted.total) == pytest.approx(float(torch.log(torch.tensor(2.0))) * (100 + 1 + 1) / 3, rel=1e-6)  # bounded by 100


def test_micro_f1_is_sklearns(logits_BC: torch.Tensor) -> None:
    from sklearn.metrics import f1_score

    objective = Classification(LABELS, True, ClassificationSettings())
    batch = batch_of(objective, SEVERAL)
    figures = objective.summary(objective.measure(fixed(logits_BC), batch))
    assert figures["micro_f1"] == pytest.approx(f1_score(batch.targets.numpy(), (logits_BC > 0).numpy(), average="micro"))


def test_macro_f1_of_measured_parts_is_that_of_the_evaluation(logits_BC: torch.Tensor) -> None:
    from sklearn.metrics import f1_score

    from tunesmith.evaluation.classification.metrics import scores

    objective = Classification(LABELS, False, ClassificationSettings())
    parts = [objective.measure(fixed(logits_BC[s]), batch_of(objective, ROWS[s])) for s in (slice(0, 2), slice(2, 6))]
    summed: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            summed[name] = summed.get(name, 0.0) + value
    figures = objective.summary(summed)
    assert figures["macro_f1"] == pytest.approx(f1_score(TARGETS, logits_BC.argmax(-1), average="macro", zero_division=0), abs=1e-12)
    assert figures["macro_f1"] == pytest.approx(scores(TARGETS.numpy(), logits_BC.softmax(-1).numpy())["macro_f1"], abs=1e-12)
    assert "macro_f1" not in objective.summary(objective.loss(fixed(logits_BC), batch_of(objective, ROWS)).sums)


def test_of_unequal_labels_the_step_that_finds_the_rare_one_is_kept() -> None:
    """95 rows of one label and 5 of another: never giving the rare one is right in 95 rows, finding four of five with five slips in 94."""
    objective = Classification(["common", "rare"], False, ClassificationSettings())
    rows = [["common"]] * 95 + [["rare"]] * 5
    found = []
    for rare in ([], [0, 1, 2, 3, 4, 95, 96, 97, 98]):
        logits = torch.tensor([[0.0, 1.0] if row in rare else [1.0, 0.0] for row in range(100)])
        found.append(objective.summary(objective.measure(fixed(logits), batch_of(objective, rows))))
    never, finds = found
    assert never["accuracy"] > finds["accuracy"] and objective.score(finds) > objective.score(never)


def test_score_puts_macro_f1_first_and_then_the_lower_loss() -> None:
    objective = Classification(LABELS, False, ClassificationSettings())
    better, same_but_surer, worse = ({"macro_f1": a, "loss": loss} for a, loss in ((0.9, 0.5), (0.9, 0.4), (0.8, 0.1)))
    assert objective.score(same_but_surer) > objective.score(better) > objective.score(worse)


def test_a_loss_in_parts_adds_up_to_the_whole(logits_BC: torch.Tensor) -> None:
    objective = Classification(LABELS, False, ClassificationSettings(class_weights="balanced", label_smoothing=0.1), ROWS)
    weights = [2.0, 1, 1, 1, 3, 1]
    whole = objective.loss(fixed(logits_BC), batch_of(objective, ROWS, weights))
    parts = [objective.loss(fixed(logits_BC[s]), batch_of(objective, ROWS[s], weights[s])) for s in (slice(0, 1), slice(1, 4), slice(4, 6))]
    assert float(sum(p.total for p in parts)) == pytest.approx(float(whole.total), rel=1e-6)
    summed = {name: sum(numbers(p.sums)[name] for p in parts) for name in whole.sums}
    assert summed == pytest.approx(numbers(whole.sums), rel=1e-6)


def test_a_step_is_scored_at_the_best_cut_and_not_at_one_half(logits_BC: torch.Tensor) -> None:
    from sklearn.metrics import f1_score

    objective = Classification(LABELS, True, ClassificationSettings())
    batch = batch_of(objective, SEVERAL)
    assert batch.targets is not None
    figures = objective.summary(numbers(objective.measure(fixed(logits_BC), batch)))
    chances_BC = logits_BC.sigmoid().numpy()
    expected = max(f1_score(batch.targets.numpy(), chances_BC >= cut / 100, average="micro", zero_division=0) for cut in range(5, 100, 5))
    assert figures["best_cut_micro_f1"] == pytest.approx(expected) and expected > figures["micro_f1"]
    timid = objective.summary(numbers(objective.measure(fixed(batch.targets - 2.5), batch)))  # present labels at 0.18, absent ones at 0.08
    assert timid["micro_f1"] == 0 and timid["best_cut_micro_f1"] == 1
    blind = objective.summary(numbers(objective.measure(fixed(torch.zeros(6, 3)), batch)))
    assert objective.score(timid) > objective.score(blind)
    assert "best_cut_micro_f1" not in objective.summary(numbers(objective.loss(fixed(logits_BC), batch).sums))  # training steps are not scored
