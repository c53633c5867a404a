"""The solver of a linear head: its gradient, its optimum, its choice of a penalty, and that nothing of it depends on luck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.core.errors import Interrupted
from tunesmith.models.heads import LinearHead, Output
from tunesmith.objectives.classification import Classification, ClassificationSettings
from tunesmith.tokens.examples import Batch, VectorExamples
from tunesmith.training import convex, optimum
from tunesmith.training.hardware import Machine
from tunesmith.training.settings import TrainSettings

LABELS = ["a", "b", "c", "d"]
MACHINE = Machine("cpu", "test", "fp32", 1)


def rows(count: int, seed: int = 0, several: bool = False, noise: float = 0.6, width: int = 10) -> tuple[torch.Tensor, list[list[str]]]:
    """Vectors of length 1 with a large common part, as a base gives them, and their labels."""
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, width, generator=draw)
    scores = vectors[:, :4] + noise * torch.randn(count, 4, generator=draw)
    labels = [[LABELS[i] for i in range(4) if one[i] > 0.5] for one in scores] if several else [[LABELS[int(one)]] for one in scores.argmax(-1)]
    return torch.nn.functional.normalize(vectors + 3, dim=-1), labels


def objective(several: bool = False, labels: Sequence[Sequence[str]] = (), **settings: Any) -> Classification:
    return Classification(LABELS, several, ClassificationSettings(**settings), labels)


def examples(made: Classification, given: tuple[torch.Tensor, list[list[str]]], weights: Any = None) -> VectorExamples:
    return VectorExamples(given[0], made.targets(given[1], weights))


def problem(made: Classification, one: VectorExamples) -> optimum.Problem:
    return optimum.Problem(made, one.batch(np.arange(len(one))))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four strengths in place of twelve."""
    monkeypatch.setattr(convex, "PENALTIES", (10.0, 1.0, 0.1, 0.01))


def solved(
    made: Classification, train: VectorExamples, valid: VectorExamples | None = None, groups: Any = None, stop: Any = lambda: None, **settings: Any
) -> Any:
    """(model, outcome, events) of a whole solution."""
    torch.manual_seed(settings.get("seed", 0))
    model, events = LinearHead(train.vectors_ND.shape[1], len(LABELS), 0.0, "mean"), []
    outcome = convex.solve(model, made, train, valid, TrainSettings(**settings), MACHINE, events.append, stop, groups)
    return model, outcome, events


# --- the loss ---------------------------------------------------------------------------------------------------------------------

CASES = [
    pytest.param(False, {}, False, id="one label"),
    pytest.param(False, {"class_weights": "balanced", "label_smoothing": 0.1}, True, id="weights"),
    pytest.param(True, {}, False, id="several"),
    pytest.param(True, {"class_weights": "balanced", "label_smoothing": 0.1}, True, id="several, weights"),
]


def case(several: bool, settings: dict[str, Any], weighted: bool, count: int = 60) -> tuple[Classification, VectorExamples]:
    given = rows(count, several=several)
    made = objective(several, given[1], **settings)
    return made, examples(made, given, np.linspace(0.5, 2, count) if weighted else None)


class Linear(torch.nn.Module):
    """A float64 layer on vectors, so that the objective's own loss can be asked at any weights."""

    def __init__(self, weight_CD: torch.Tensor, bias_C: torch.Tensor) -> None:
        super().__init__()
        self.weight_CD, self.bias_C = weight_CD, bias_C

    def forward(self, vectors: torch.Tensor) -> Output:
        return Output(vectors.double() @ self.weight_CD.T + self.bias_C)


def penalized(made: Classification, whole: Batch, space: optimum.Space, start: optimum.Start, penalty: float, moved: torch.Tensor) -> torch.Tensor:
    """The documented loss of all rows, as a function of the distances from the anchor in the space's axes (R + 1, C)."""
    here = optimum.Solution(start.weight_RC + moved[:-1], start.bias_C + moved[-1])
    total = made.loss(Linear(*space.layer(here)), whole).total
    return total + penalty / 2 * moved.square().sum()


@pytest.mark.parametrize("anchor", ["zero", "means"])
@pytest.mark.parametrize(("several", "settings", "weighted"), CASES)
def test_no_direction_leads_below_the_solution(several: bool, settings: dict[str, Any], weighted: bool, anchor: optimum.Anchor) -> None:
    """The objective's own gradient, by autograd over all rows as one batch plus the penalty, vanishes there and not at the anchor."""
    made, train = case(several, settings, weighted)
    one = problem(made, train)
    space = optimum.Space(one, 4, several)
    start = space.anchors[anchor]
    found = space.solve(start, 0.3, tolerance=1e-9)

    def slope(moved: torch.Tensor) -> float:
        leaf = moved.clone().requires_grad_()
        penalized(made, one.batch, space, start, 0.3, leaf).backward()
        assert leaf.grad is not None
        return float(leaf.grad.norm())

    end = torch.cat([found.weight_RC - start.weight_RC, (found.bias_C - start.bias_C)[None]])
    assert slope(end) < 1e-5 * slope(torch.zeros_like(end))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_by_logits_is_the_objectives(dtype: torch.dtype) -> None:
    made, train = case(False, {"class_weights": "balanced", "label_smoothing": 0.1}, True)
    one, logits = problem(made, train), torch.randn(60, 4, generator=torch.Generator().manual_seed(3)).to(dtype)
    loss, slope = one.gradient(logits)
    step = torch.zeros_like(logits, dtype=torch.float64)
    step[7, 2] = 1e-4
    above, below = one.gradient(logits.double() + step)[0], one.gradient(logits.double() - step)[0]
    assert slope.dtype == dtype and float(slope[7, 2]) == pytest.approx((above - below) / 2e-4, rel=1e-4)
    assert loss == pytest.approx(one.gradient(logits.double())[0], rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("count", [6, 200], ids=["fewer rows than axes", "more rows"])
def test_it_is_scikit_learns_optimum(weighted: bool, count: int) -> None:
    """With nothing on the constants that matters: scikit-learn penalizes none, so it is held against the same loss with one more column."""
    from scipy.optimize import minimize

    given = rows(count)
    made = objective()
    weights_N = np.linspace(0.5, 2, count).astype(np.float32) if weighted else np.ones(count, np.float32)
    train = examples(made, given, weights_N)
    space = optimum.Space(problem(made, train), 4, False)
    start, penalty = space.anchors["zero"], 0.1
    found = space.solve(start, penalty, tolerance=1e-10)
    x_ND = (given[0].double().numpy() - space.center_D.numpy()) / space.scale
    target_N = train.targets.values_N.numpy()
    wide_NE = np.column_stack([x_ND, np.ones(count)])
    anchor_EC = np.vstack([np.zeros((10, 4)), start.bias_C.numpy()])

    def loss(values: Any) -> tuple[float, Any]:
        moved_EC = values.reshape(11, 4)
        scores_NC = wide_NE @ (anchor_EC + moved_EC)
        shares_NC = np.exp(scores_NC - scores_NC.max(1, keepdims=True))
        shares_NC /= shares_NC.sum(1, keepdims=True)
        value = -(weights_N * np.log(shares_NC[np.arange(count), target_N])).sum() + penalty / 2 * (moved_EC**2).sum()
        shares_NC[np.arange(count), target_N] -= 1
        return value, (wide_NE.T @ (weights_N[:, None] * shares_NC) + penalty * moved_EC).ravel()

    theirs = minimize(loss, np.zeros(44), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}).x.reshape(11, 4)
    weight_CD, _ = space.layer(found)
    ours = np.vstack([weight_CD.T.numpy() * space.scale, (found.bias_C - start.bias_C).numpy()])
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("several", [False, True])
def test_without_a_penalty_on_constants_it_would_be_scikit_learn_itself(several: bool) -> None:
    """The real LogisticRegression on the centered, scaled vectors; a constant column of 1 stands for our penalized constants."""
    from sklearn.linear_model import LogisticRegression

    given = rows(150, several=several)
    made = objective(several)
    train = examples(made, given)
    space = optimum.Space(problem(made, train), 4, several)
    start = optimum.Start("zero", torch.zeros_like(space.anchors["zero"].weight_RC), torch.zeros(4, dtype=torch.float64))
    # With several labels a row's loss is the mean over labels, so each label's own regression has a fourth of it.
    penalty = 0.5
    found = space.solve(start, penalty / (4 if several else 1), tolerance=1e-10)
    x_NE = np.column_stack([space.rows_NR.numpy(), np.ones(150)])
    ours = np.vstack([found.weight_RC.numpy(), found.bias_C.numpy()])
    make = lambda: LogisticRegression(C=1 / penalty, fit_intercept=False, tol=1e-11, max_iter=5000)  # noqa: E731
    target = train.targets.values_N.numpy()
    theirs = np.column_stack([make().fit(x_NE, target[:, c]).coef_[0] for c in range(4)]) if several else make().fit(x_NE, target).coef_.T
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


# --- the anchors ------------------------------------------------------------------------------------------------------------------


def test_a_strong_penalty_is_the_nearest_class_mean() -> None:
    from tunesmith.evaluation.classification.baselines import nearest_mean

    given, test = rows(40), rows(300, 1)
    made = objective()
    train = examples(made, given)
    space = optimum.Space(problem(made, train), 4, False)
    weight_CD, bias_C = space.layer(space.solve(space.anchors["means"], 1e9))
    ours = (test[0].double() @ weight_CD.T + bias_C).argmax(1).numpy()
    theirs = nearest_mean(given[0].numpy(), train.targets.values_N.numpy(), test[0].numpy(), 4).argmax(1)
    # The baseline's vectors have length 1 after centering and weigh alike in the means; ours keep the lengths they have.
    assert (ours == theirs).mean() > 0.9


def test_the_mean_of_a_label_leaves_out_the_row_that_is_held_against_it() -> None:
    """The factor against a search over many, with each row's means computed by loops from the other rows."""
    given = rows(30, noise=2.0)
    made = objective()
    train = examples(made, given)
    space = optimum.Space(problem(made, train), 4, False)
    x_NR, target_N = space.rows_NR.numpy(), train.targets.values_N.numpy()
    assert np.bincount(target_N).min() > 1
    cosines_NC = np.zeros((30, 4))
    for row in range(30):
        for label in range(4):
            total = sum(x_NR[other] for other in range(30) if other != row and target_N[other] == label)
            # Rows sum to 0, but for the one left out: the share of the label in all rows' sum is taken from its own sum.
            total = total + (target_N == label).mean() * x_NR[row]
            cosines_NC[row, label] = x_NR[row] @ total / np.linalg.norm(total)
    losses = {}
    for factor in np.exp(np.linspace(-2, 5, 1500)):
        scores = factor * cosines_NC
        losses[factor] = (np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1)) + scores.max(1) - scores[np.arange(30), target_N]).mean()
    best = min(losses, key=losses.__getitem__)
    assert np.exp(-1.9) < best < np.exp(4.9)
    lengths_C = space.anchors["means"].weight_RC.norm(dim=0).numpy()
    assert lengths_C == pytest.approx(np.full(4, best), rel=0.02) and space.anchors["means"].bias_C.abs().max() == 0


def test_a_label_without_rows_has_no_direction_and_does_not_spoil_the_factor() -> None:
    given = rows(40)
    short, wide = Classification(LABELS, False, ClassificationSettings()), Classification([*LABELS, "e", "f"], False, ClassificationSettings())
    spaces = [optimum.Space(problem(made, examples(made, given)), count, False) for made, count in ((short, 4), (wide, 6))]
    lengths = [space.anchors["means"].weight_RC.norm(dim=0).numpy() for space in spaces]
    # Two more labels at 0 ask for a larger factor; directions of their own, which every row would have, asked for one near 0.
    assert lengths[1][4:].tolist() == [0, 0] and lengths[0][0] < lengths[1][0] < 2 * lengths[0][0]


def test_without_a_row_to_hold_against_a_mean_the_factor_is_the_baselines() -> None:
    made = Classification(["a", "b"], False, ClassificationSettings())
    alone = VectorExamples(torch.tensor([[1.0], [-1.0]]), made.targets([["a"], ["b"]]))
    lone = optimum.Space(optimum.Problem(made, alone.batch(np.arange(2))), 2, False)
    assert float(lone.anchors["means"].weight_RC.norm(dim=0)[0]) == pytest.approx(optimum.FACTOR)


# --- the choice -------------------------------------------------------------------------------------------------------------------


def test_the_chosen_penalty_has_the_lowest_loss_on_valid_rows_and_noise_asks_for_a_stronger_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convex, "MANY_ROWS_A_LABEL", 20)  # one path alone
    made, kept = objective(), {}
    for noise in (0.1, 3.0):
        train, valid = (examples(made, rows(count, seed, noise=noise, width=60)) for count, seed in ((80, 0), (400, 1)))
        _, outcome, events = solved(made, train, valid)
        told = [e for e in events if e["kind"] == "valid"]
        least = min(told, key=lambda e: e["tempered_loss"])
        assert (outcome.kept_step, outcome.facts["penalty"], outcome.facts["anchor"]) == (least["step"], least["penalty"], least["anchor"])
        assert outcome.facts["held_rows"] == 400 and least["best"] and [e["step"] for e in told] == list(range(1, len(told) + 1))
        assert len([e for e in events if e["kind"] == "step"]) == len(told) == outcome.state.step
        kept[noise] = outcome.facts["penalty"]
    assert kept[3.0] > kept[0.1]


def tries(*blocks: Any) -> list[convex._Try]:
    anchors: list[optimum.Anchor] = ["means", "means", "zero"]
    return [convex._Try(n + 1, anchors[n], 10.0 ** (1 - n), float(np.mean(one)), np.asarray(one, float)) for n, one in enumerate(blocks)]


def test_the_strongest_within_a_standard_error_is_taken_on_the_path_of_means_alone() -> None:
    draw = np.random.default_rng(0)
    best, noise = np.ones(convex.BLOCKS), draw.normal(size=convex.BLOCKS)
    noise -= noise.mean()
    error = noise.std(ddof=1) / convex.BLOCKS**0.5  # of the mean over blocks
    assert convex._chosen(tries(best + noise + 0.9 * error, best, best + 1)).step == 1  # cannot be told from the best
    assert convex._chosen(tries(best + noise + 1.1 * error, best, best + 1)).step == 2
    assert convex._chosen(tries(best + 9, best + noise + 0.9 * error, best)).step == 2  # the best may be of the other path
    assert convex._chosen(tries(best + 9, best + 9, best)).step == 3


@pytest.mark.usefixtures("short")
def test_few_valid_rows_are_joined_by_folds_and_enough_are_not() -> None:
    made = objective()
    train = examples(made, rows(100))
    assert solved(made, train, examples(made, rows(20, 1)))[1].facts["held_rows"] == 120
    assert solved(made, train, examples(made, rows(convex.ENOUGH_VALID, 1)))[1].facts["held_rows"] == convex.ENOUGH_VALID
    _, outcome, _ = solved(made, train)
    assert outcome.facts["held_rows"] == 100 and outcome.state.best_figures == {} and outcome.state.best_score == []


@pytest.mark.usefixtures("short")
def test_many_rows_need_fewer_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convex, "ENOUGH_HELD", 30)
    made = objective()
    assert solved(made, examples(made, rows(100)))[1].facts["held_rows"] == 40  # two folds of 20
    monkeypatch.setattr(convex, "MOST_ROWS", 50)
    _, outcome, _ = solved(made, examples(made, rows(100)))
    assert outcome.facts["held_rows"] == 40


def test_a_group_is_never_on_both_sides() -> None:
    names = [f"group {row % 7}" for row in range(100)]
    folds = list(convex._folds(names, np.random.default_rng(0)))
    assert len(folds) == convex.FOLDS and sorted(np.concatenate([out for _, out in folds])) == list(range(100))
    for kept, out in folds:
        assert not {names[row] for row in kept} & {names[row] for row in out} and len(kept) + len(out) == 100
    assert list(convex._folds(["one"] * 9, np.random.default_rng(0))) == []


@pytest.mark.usefixtures("short")
def test_copies_in_one_group_do_not_flatter_a_weak_penalty() -> None:
    """Each row three times with labels that mean nothing: copies on both sides would be learned by heart and look right."""
    given = rows(40, noise=100.0)
    made = objective()
    tripled = examples(made, (given[0].repeat(3, 1), given[1] * 3))
    apart, together = (solved(made, tripled, groups=groups)[2] for groups in (None, [str(row % 40) for row in range(120)]))
    best = [max(e["accuracy"] for e in events if e["kind"] == "valid") for events in (apart, together)]
    assert best[0] > best[1] + 0.1


# --- a run ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("several", "settings", "weighted"), CASES)
def test_the_model_gives_the_solution_and_the_same_bits_again(several: bool, settings: dict[str, Any], weighted: bool) -> None:
    made, train = case(several, settings, weighted)
    valid = examples(made, rows(50, 1, several))
    first, outcome, events = solved(made, train, valid, seed=3)
    again, other, told = solved(made, train, valid, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert events == told and not first.training and outcome.facts == other.facts
    space = optimum.Space(problem(made, train), 4, several)
    weight_CD, bias_C = space.layer(space.solve(space.anchors[outcome.facts["anchor"]], outcome.facts["penalty"]))
    with torch.inference_mode():
        logits = first(train.vectors_ND).logits
    wanted = train.vectors_ND.double() @ weight_CD.T + bias_C
    assert float((logits - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    assert np.array_equal(convex.logits(first, train), logits.numpy())


def test_the_heads_first_weights_do_not_matter() -> None:
    made = objective()
    train, valid = examples(made, rows(60)), examples(made, rows(convex.ENOUGH_VALID, 1))
    first, other = (solved(made, train, valid, seed=seed)[0] for seed in (0, 1))
    assert torch.equal(first.linear.weight, other.linear.weight)


@pytest.mark.usefixtures("short")
def test_a_signal_ends_it_between_two_solutions() -> None:
    made, calls = objective(), [0]

    def stop() -> int | None:
        calls[0] += 1
        return 15 if calls[0] == 4 else None

    events: list[dict[str, Any]] = []
    with pytest.raises(Interrupted):
        convex.solve(LinearHead(10, 4, 0.0, "mean"), made, examples(made, rows(60)), None, TrainSettings(), MACHINE, events.append, stop)
    assert [e["step"] for e in events if e["kind"] == "valid"] == [1, 2, 3] and events[0] == {"kind": "began", "step": 0}


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_handful_of_rows(count: int) -> None:
    """One row in all, and one row a label: finite weights, and each row of its own label."""
    made = objective()
    vectors = torch.nn.functional.normalize(torch.eye(10)[:count] + 1, dim=-1)
    train = examples(made, (vectors, [[LABELS[row]] for row in range(count)]))
    model, outcome, _ = solved(made, train)
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    if count > 1:
        assert convex.logits(model, train)[:, :count].argmax(1).tolist() == list(range(count))
    assert outcome.facts["held_rows"] == (count if count > 1 else 0)


@pytest.mark.usefixtures("short")
def test_rows_that_are_all_alike() -> None:
    """No vector says anything: the model says how frequent the labels are, or that all are alike."""
    made = objective()
    train = examples(made, (torch.ones(20, 10) / 10**0.5, [["a"]] * 15 + [["b"]] * 5))
    scores = convex.logits(solved(made, train)[0], train)
    assert np.isfinite(scores).all() and np.ptp(scores, axis=0).max() < 1e-5


@pytest.mark.usefixtures("short")
def test_float32_and_vectors_that_are_not_turned_give_the_same_within_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    made = objective()
    train, valid = examples(made, rows(150)), examples(made, rows(300, 1))
    exact = convex.logits(solved(made, train, valid)[0], valid)
    monkeypatch.setattr(optimum, "MOST_AXES", 5)
    straight = convex.logits(solved(made, train, valid)[0], valid)
    assert np.abs(straight - exact).max() < 1e-3 * np.abs(exact).max()
    monkeypatch.setattr(optimum, "SINGLE_FROM", 1)
    single = convex.logits(solved(made, train, valid)[0], valid)
    assert np.abs(single - exact).max() < 1e-2 * np.abs(exact).max()


def test_many_rows_a_label_leave_out_the_class_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convex, "MANY_ROWS_A_LABEL", 20)
    made, valid = objective(), examples(objective(), rows(300, 1))
    seen = {count: {e["anchor"] for e in solved(made, examples(made, rows(count)), valid)[2] if e["kind"] == "valid"} for count in (79, 80)}
    assert seen == {79: {"means", "zero"}, 80: {"zero"}}


def test_settings_of_steps_are_named_and_others_are_not() -> None:
    said = convex.idle(TrainSettings(epochs=3, schedule="cosine", keep_best=False), 0.1)
    assert said is not None and all(f"`{name}`" in said or name in said for name in ("train.epochs", "train.schedule", "train.keep_best", "method.dropout"))
    assert "without steps" in said and "train.seed" not in said
    assert convex.idle(TrainSettings(epochs=None, learning_rate=None, seed=4, seeds=2, threads=1, device="cpu", precision="fp32"), 0.0) is None
    assert "train.device has no effect" in str(convex.idle(TrainSettings(device="cuda"), 0.0)).replace("`", "")
