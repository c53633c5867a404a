"""Each fault is made on purpose, and the diagnosis must call it by its name, with its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tunesmith.objectives.classification import Classification, ClassificationSettings
from tunesmith.tokens.examples import VectorExamples
from tunesmith.training import diagnosis
from tunesmith.training.diagnosis import Chance, chance, sections

STEPS = 60


def events(train: Callable[[float], float], valid: Callable[[float], float], accuracy: Callable[[float], float] = lambda t: 0.5 + 0.4 * t) -> list[dict]:
    """Curves over t in (0, 1]: a training point a step, a validation point every tenth."""
    out: list[dict] = []
    for step in range(1, STEPS + 1):
        t = step / STEPS
        out.append({"kind": "step", "step": step, "loss": train(t), "accuracy": accuracy(t)})
        if step % 10 == 0:
            out.append({"kind": "valid", "step": step, "loss": valid(t), "accuracy": accuracy(t)})
    return out


def diagnose(told: list[dict], kept: int, rows: int, classes: int, trained: Chance | None = None, plain: Chance | None = None) -> list:
    """Equal labels and a plain loss, unless the test says otherwise."""
    even = chance([10] * classes, 10 * classes, False)
    return diagnosis.diagnose(told, kept, rows, classes, trained or (None if plain else even), plain or even)


def falling(t: float) -> float:
    return 2.0 * math.exp(-4 * t)


def names(found: list) -> set[str]:
    return {one.name for one in found}


def test_a_sound_run_is_called_steady_and_nothing_else() -> None:
    flat_end = lambda t: max(0.3, falling(t))  # noqa: E731
    found = diagnose(events(falling, flat_end), 60, 1000, 8)
    assert names(found) == {"steady"} and "step 60" in found[0].text and found[0].tone == "good"


def test_overfitting_names_the_step_since_when_and_the_rise() -> None:
    found = diagnose(events(falling, lambda t: 0.5 + 3 * (t - 0.5) ** 2, lambda t: 0.9 - 0.3 * abs(t - 0.5)), 30, 1000, 8)
    over = next(one for one in found if one.name == "overfitting")
    assert "since step 30" in over.text and "150 %" in over.text and over.tone == "warn" and "patience" in over.remedy


def test_overconfidence_without_loss_of_accuracy_is_no_alarm() -> None:
    found = diagnose(events(falling, lambda t: 0.5 + 3 * (t - 0.5) ** 2), 60, 1000, 8)
    over = next(one for one in found if one.name == "overfitting")
    assert over.tone == "plain" and "too sure of itself" in over.text


def test_underfitting_compares_with_a_blind_guess() -> None:
    found = diagnose(events(lambda t: 2.0 - 0.5 * t, lambda t: 1.9 - 0.2 * t), 60, 1000, 8)
    under = next(one for one in found if one.name == "underfitting")
    assert "2.08" in under.text and "train.epochs" in under.remedy


@pytest.mark.parametrize(("loss", "name"), [(lambda t: 2.1 + 0.1 * math.sin(40 * t), "nothing learned"), (lambda t: 2.0 + 3 * t, "learning rate too high")])
def test_a_loss_that_does_not_fall_points_at_the_learning_rate(loss: Callable[[float], float], name: str) -> None:
    found = diagnose(events(loss, lambda t: 2.2), 60, 1000, 8)
    assert found[0].name == name and found[0].tone == "bad" and "train.learning_rate" in found[0].remedy
    assert len(names(found) & {"nothing learned", "learning rate too high", "underfitting"}) == 1


def test_chances_worked_by_hand() -> None:
    assert chance([98, 2], 100, False).blind == pytest.approx(-0.98 * math.log(0.98) - 0.02 * math.log(0.02))
    assert chance([98, 2, 0], 100, False, balanced=True).blind == pytest.approx(math.log(2))
    assert chance([5, 5], 10, False, smoothing=0.3) == Chance(pytest.approx(math.log(2)), pytest.approx(-0.85 * math.log(0.85) - 0.15 * math.log(0.15)))
    one = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert chance([25, 50], 100, True) == Chance(pytest.approx((one + math.log(2)) / 2), 0)
    # Weight 3 on a quarter of the rows: as many yes as no, 0.75 each.
    assert chance([25], 100, True, balanced=True).blind == pytest.approx(2 * 0.75 * math.log(2))
    assert chance([25], 100, True, smoothing=0.2).floor == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("settings", [{}, {"balanced": True}, {"smoothing": 0.2}, {"balanced": True, "smoothing": 0.2}], ids=str)
def test_chances_are_the_least_that_the_objectives_loss_can_reach(multi_label: bool, settings: dict) -> None:
    """The blind loss is the objective's own, at the constant scores where its gradient vanishes; the floor, at free scores of each row."""
    labels = [["a"]] * 12 + [["b"]] * 6 + ([["a", "b"], [], ["c"]] if multi_label else [["c"]] * 2)
    objective = Classification(
        ["a", "b", "c"],
        multi_label,
        ClassificationSettings(class_weights="balanced" if settings.get("balanced") else "none", label_smoothing=settings.get("smoothing", 0.0)),
        labels,
    )
    found = chance([sum(name in one for one in labels) for name in "abc"], len(labels), multi_label, **settings)
    batch = VectorExamples(torch.zeros(len(labels), 1), objective.targets(labels)).batch(np.arange(len(labels)))
    for shape, expected in (((1, 3), found.blind), ((len(labels), 3), found.floor)):
        scores = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        least = torch.optim.LBFGS([scores], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe")

        def loss(scores: torch.Tensor = scores, least: torch.optim.LBFGS = least) -> torch.Tensor:
            least.zero_grad()
            model = lambda vectors: SimpleNamespace(logits=scores.expand(len(labels), 3))  # noqa: E731
            value = objective.loss(model, batch).total / objective.units(batch)  # type: ignore[arg-type]
            value.backward()
            return value

        least.step(loss)
        assert float(loss().detach()) == pytest.approx(expected, abs=1e-5)


def test_twenty_labels_at_ln_2_have_learned_nothing() -> None:
    several = chance([50] * 20, 1000, True)
    found = diagnose(events(lambda t: 0.69, lambda t: 0.69), 60, 1000, 20, several)
    assert found[0].name == "nothing learned" and "0.69" in found[0].text and "0.20" in found[0].text


def test_a_binary_loss_that_rises_is_a_rate_too_high() -> None:
    found = diagnose(events(lambda t: 0.3 + 1.7 * t, lambda t: 1.0), 60, 1000, 20, chance([50] * 20, 1000, True))
    assert found[0].name == "learning rate too high" and "underfitting" not in names(found)


def test_the_prior_of_unequal_labels_is_nothing_learned() -> None:
    uneven = chance([980, 20], 1000, False)
    prior = lambda t: 0.098 + 0.6 * math.exp(-12 * t)  # noqa: E731
    assert diagnose(events(prior, prior), 60, 1000, 2, uneven)[0].name == "nothing learned"
    learned = lambda t: 0.01 + 0.6 * math.exp(-12 * t)  # noqa: E731
    assert names(diagnose(events(learned, lambda t: 0.02), 60, 1000, 2, uneven)) == {"steady"}


def test_smoothing_leaves_a_loss_that_is_no_underfitting() -> None:
    smooth = chance([500, 500], 1000, False, smoothing=0.3)
    perfect = lambda t: 0.423 + 0.27 * math.exp(-9 * t)  # noqa: E731
    assert names(diagnose(events(perfect, lambda t: 0.05), 60, 1000, 2, smooth)) == {"steady"}
    half = lambda t: 0.62 + 0.07 * math.exp(-9 * t)  # noqa: E731
    assert "underfitting" in names(diagnose(events(half, lambda t: 0.5), 60, 1000, 2, smooth))


def test_where_the_training_loss_is_no_cross_entropy_the_validation_loss_is_judged() -> None:
    even = chance([500, 500], 1000, False)
    tiny = lambda t: 0.05 - 0.04 * t  # noqa: E731
    found = diagnose(events(tiny, lambda t: 0.69), 60, 1000, 2, None, even)
    assert found[0].name == "nothing learned" and "the validation loss ended at 0.69" in found[0].text
    assert names(diagnose(events(tiny, lambda t: 0.1), 60, 1000, 2, None, even)) == {"steady"}
    assert diagnose(events(lambda t: 0.05 + t, lambda t: 0.1), 60, 1000, 2, None, even)[0].name == "learning rate too high"


def test_a_spike_is_placed() -> None:
    found = diagnose(events(lambda t: 6.0 if abs(t - 0.5) < 1e-9 else max(0.4, falling(t)), lambda t: 0.4), 60, 1000, 8)
    spike = next(one for one in found if one.name == "spike")
    assert "6.00 at step 30" in spike.text


def test_skipped_steps_few_rows_a_gap_and_a_run_cut_short() -> None:
    told = [{"kind": "skipped", "step": 7, "what": "loss"}, *events(falling, lambda t: 1 - 0.5 * t)]
    assert {"not finite", "too little data", "unfinished"} <= names(diagnose(told, 60, 50, 10))
    apart = events(falling, lambda t: 0.5)
    for event in apart:
        event["accuracy"] = 0.99 if event["kind"] == "step" else 0.8
    assert "gap" in names(diagnose(apart, 60, 1000, 8))


def test_the_section_draws_both_sides_and_marks_the_kept_step() -> None:
    (section,) = sections(events(falling, falling), 50, diagnose(events(falling, falling), 50, 1000, 8))
    lines = [block for block in section.blocks if hasattr(block, "series")]
    assert [len(block.series) for block in lines] == [2, 2] and lines[0].marks == [(50, "kept")]
