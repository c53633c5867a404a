"""Focal and asymmetric loss against their formulas taken literally, in double precision, and at extreme scores."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tunesmith.core.errors import Problems
from tunesmith.core.settings import build
from tunesmith.objectives.classification import Classification, ClassificationSettings, losses
from tunesmith.objectives.losses import asymmetric, focal
from tunesmith.recipe import Recipe
from tunesmith.tokens.examples import Batch, VectorExamples


class Fixed(torch.nn.Module):
    """A model that answers with given logits."""

    def __init__(self, logits_BC: torch.Tensor) -> None:
        super().__init__()
        self.logits_BC = logits_BC

    def forward(self, vectors: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits_BC)


def batch_of(objective: Classification, labels: list[list[str]]) -> Batch:
    return VectorExamples(torch.zeros(len(labels), 1), objective.targets(labels)).batch(np.arange(len(labels)))


@pytest.fixture
def logits_BC() -> torch.Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3


@pytest.fixture
def targets_BC() -> torch.Tensor:
    return (torch.rand(7, 4, generator=torch.Generator().manual_seed(1)) < 0.4).double()


WEIGHTS = torch.tensor([1.0, 5.0, 0.5, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_is_its_formula(logits_BC: torch.Tensor, targets_BC: torch.Tensor, gamma: float) -> None:
    for weights_C in (None, WEIGHTS):
        naive = torch.zeros(7, dtype=torch.float64)
        for row in range(7):
            for c in range(4):
                p = 1 / (1 + math.exp(-float(logits_BC[row, c])))
                true = bool(targets_BC[row, c])
                p_true = p if true else 1 - p
                naive[row] += -((1 - p_true) ** gamma) * math.log(p_true) * (float(weights_C[c]) if true and weights_C is not None else 1) / 4
        assert torch.allclose(focal(logits_BC, targets_BC, gamma, weights_C), naive, rtol=1e-12)
    labels_B = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    p_B = logits_BC.softmax(-1)[torch.arange(7), labels_B]
    assert torch.allclose(focal(logits_BC, labels_B, gamma), -((1 - p_B) ** gamma) * p_B.log(), rtol=1e-10)


@pytest.mark.parametrize(("positive", "negative", "margin"), [(0.0, 4.0, 0.05), (1.0, 4.0, 0.05), (0.0, 0.0, 0.0), (2.0, 2.0, 0.0), (0.5, 0.5, 0.2)])
def test_asymmetric_is_its_formula(logits_BC: torch.Tensor, targets_BC: torch.Tensor, positive: float, negative: float, margin: float) -> None:
    for weights_C in (None, WEIGHTS):
        naive = torch.zeros(7, dtype=torch.float64)
        for row in range(7):
            for c in range(4):
                p = 1 / (1 + math.exp(-float(logits_BC[row, c])))
                shifted = max(p - margin, 0)
                if targets_BC[row, c]:
                    naive[row] += -((1 - p) ** positive) * math.log(p) * (1 if weights_C is None else float(weights_C[c])) / 4
                else:
                    naive[row] += -(shifted**negative) * math.log(1 - shifted) / 4
        assert torch.allclose(asymmetric(logits_BC, targets_BC, positive, negative, margin, weights_C), naive, rtol=1e-12)


def test_the_cases_of_the_docstrings() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    assert float(focal(one * math.log(4), one, 2)) == pytest.approx(0.008926, abs=1e-6)
    assert float(asymmetric(-one * math.log(3), 0 * one, 0, 4, 0.05)) == pytest.approx(0.000357, abs=1e-6)
    assert float(asymmetric(-one * math.log(3), one, 0, 4, 0.05)) == pytest.approx(1.386, abs=1e-3)


def test_without_focusing_both_are_cross_entropy(logits_BC: torch.Tensor, targets_BC: torch.Tensor) -> None:
    plain = losses(logits_BC, targets_BC, True, 0.0, WEIGHTS)
    assert torch.allclose(focal(logits_BC, targets_BC, 0, WEIGHTS), plain) and torch.allclose(asymmetric(logits_BC, targets_BC, 0, 0, 0, WEIGHTS), plain)
    labels_B = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    assert torch.allclose(focal(logits_BC, labels_B, 0), F.cross_entropy(logits_BC, labels_B, reduction="none"))


@pytest.mark.parametrize("scale", [0.0, 20.0, 200.0, 1e4])
def test_extreme_scores_have_finite_losses_and_gradients(scale: float) -> None:
    for gamma in (0.0, 0.5, 2.0):
        for of in (
            lambda z, gamma=gamma: focal(z, torch.tensor([[1.0, 0, 1, 0]]), gamma),
            lambda z, gamma=gamma: focal(z, torch.tensor([0]), gamma),
            lambda z, gamma=gamma: focal(z, torch.tensor([1]), gamma),
            lambda z, gamma=gamma: asymmetric(z, torch.tensor([[1.0, 0, 1, 0]]), gamma, gamma, 0.05),
            lambda z, gamma=gamma: asymmetric(z, torch.tensor([[1.0, 0, 1, 0]]), gamma, gamma, 0.0),
        ):
            logits_BC = (torch.tensor([[1.0, 1.0, -1.0, -1.0]]) * scale).requires_grad_()
            loss = of(logits_BC).sum()
            loss.backward()
            assert logits_BC.grad is not None and torch.isfinite(loss) and torch.isfinite(logits_BC.grad).all(), (scale, gamma)


def test_gradients_are_those_of_the_formula(logits_BC: torch.Tensor, targets_BC: torch.Tensor) -> None:
    assert torch.autograd.gradcheck(lambda z: focal(z, targets_BC, 2.0, WEIGHTS), logits_BC.requires_grad_())
    assert torch.autograd.gradcheck(lambda z: focal(z, torch.tensor([0, 1, 2, 3, 0, 1, 2]), 2.0), logits_BC)
    assert torch.autograd.gradcheck(lambda z: asymmetric(z, targets_BC, 1.0, 4.0, 0.05, WEIGHTS), logits_BC)


def test_settings_that_would_have_no_effect_are_refused() -> None:
    for values, said in (
        ({"focal_gamma": 3}, "focal_gamma needs loss: focal, found cross_entropy"),
        ({"loss": "focal", "margin": 0.1}, "margin needs loss: asymmetric, found focal"),
        ({"loss": "focal", "label_smoothing": 0.1}, "label_smoothing needs loss: cross_entropy, found focal"),
    ):
        with pytest.raises(Problems, match=said):
            build(ClassificationSettings, values, "recipe")
    made = ClassificationSettings(loss="asymmetric", margin=0.1)
    assert build(ClassificationSettings, made.model_dump(), "recipe") == made  # the resolved recipe, with all defaults, is read again


def test_the_objective_learns_by_the_chosen_loss_and_measures_by_the_plain_one(logits_BC: torch.Tensor, targets_BC: torch.Tensor) -> None:
    names = ["a", "b", "c", "d"]
    rows = [[names[c] for c in range(4) if one[c]] for one in targets_BC.tolist()]
    for settings, expected in (
        (ClassificationSettings(loss="focal", focal_gamma=1.5), focal(logits_BC, targets_BC, 1.5)),
        (ClassificationSettings(loss="asymmetric", positive_gamma=1), asymmetric(logits_BC, targets_BC, 1, 4, 0.05)),
    ):
        objective = Classification(names, True, settings)
        batch = batch_of(objective, rows)
        assert float(objective.loss(Fixed(logits_BC), batch).total) == pytest.approx(float(expected.sum()), rel=1e-5)
        assert objective.measure(Fixed(logits_BC), batch)["loss"] == pytest.approx(float(losses(logits_BC, targets_BC, True).sum()), rel=1e-5)


def test_focal_with_one_label_a_row_keeps_balanced_weights(logits_BC: torch.Tensor) -> None:
    rows = [["a"], ["a"], ["b"], ["c"], ["d"], ["a"], ["b"]]
    objective = Classification(["a", "b", "c", "d"], False, ClassificationSettings(loss="focal", class_weights="balanced"), rows)
    labels_B = torch.tensor(["abcd".index(row[0]) for row in rows])
    weights_B = torch.tensor([7 / (4 * n) for n in (3, 2, 1, 1)])[labels_B]
    expected = float((focal(logits_BC, labels_B, 2.0) * weights_B).sum())
    assert float(objective.loss(Fixed(logits_BC), batch_of(objective, rows)).total) == pytest.approx(expected, rel=1e-5)


def test_a_recipe_with_one_label_a_row_takes_no_asymmetric_loss() -> None:
    values = {"data": {"train": "some.csv"}, "objective": {"loss": "asymmetric"}}
    with pytest.raises(Problems, match=r"objective\.loss: asymmetric needs data\.multi_label: true; with one label a row take focal or cross_entropy"):
        build(Recipe, values, "recipe")
    assert build(Recipe, {**values, "data": {"train": "some.csv", "multi_label": True}}, "recipe").objective.kind == "classification"
    assert build(Recipe, {**values, "objective": {"loss": "focal"}}, "recipe").objective.kind == "classification"
