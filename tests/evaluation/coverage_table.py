"""How often every 95 % interval and every promise of `evaluation.json` holds: the table that docstrings of the room quote.

    make coverage                                                            (2,000 trials a line; two processes)
    PYTHONPATH=src python tests/evaluation/coverage_table.py --trials 200 --only zipf

Each line is a world with a known truth: labels, test rows, a model that errs, another that errs 1.3 times as often. A trial
draws a test set and evaluates it as a run does. A cell is the share of trials whose interval holds the truth. `d_` marks the
differences of the two models. The command ends with 1 when a cell lies below its floor, or an interval without its own value.

Trials are seeded one by one, so that the table does not depend on the number of processes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from tunesmith.evaluation.classification import calibration, metrics
from tunesmith.evaluation.classification.measure import evaluate
from tunesmith.evaluation.generation.measure import comparisons, figures
from tunesmith.evaluation.generation.metrics import TextScores, score, values

TRIALS = 2000
RESAMPLES = 300
"""Of each trial. With 1,000 no coverage of `77 labels x 3` changes by more than one point."""
FLOOR = 0.90
"""Least share of trials in which a 95 % interval must hold the truth."""
BROKEN = 0.05
"""Most trials in which a promise of 95 % certainty may be broken."""
TRUTH_ROWS = 200_000
"""Rows whose figures stand for the truth: their own error is below a tenth of an interval of 1,000 rows."""
OTHER = 1.3
"""The second model errs this many times as often."""


@dataclass(frozen=True)
class World:
    """Test sets of one kind."""

    name: str
    rows_of_label: tuple[int, ...]
    """Test rows of each label."""
    error: float
    """Share of rows that the first model gets wrong; labels differ by up to a factor of 3."""
    group: int = 1
    """Rows that belong together; a group has an error rate of its own, with a correlation of one third."""
    fixed: bool = True
    """Each label has exactly its rows, as in our split. False: rows are drawn at random."""
    calibrated: bool = False
    """Confidence is the chance of being right. False: it is too low for most rows, the ECE is about 0.15."""
    several: bool = False
    """Several labels a row."""
    exceptions: tuple[tuple[str, float], ...] = ()
    """(metric, floor) of cells that cannot reach `FLOOR`, as docs/evaluation.md says."""


def _zipf(labels: int, rows: int) -> tuple[int, ...]:
    share = 1 / np.arange(1, labels + 1)
    return tuple(int(n) for n in np.maximum(1, np.round(share / share.sum() * rows)))


WORLDS = [
    World("100 labels, Zipf, 998 rows", _zipf(100, 998), 0.2),
    World("100 labels, Zipf, at random", _zipf(100, 998), 0.2, fixed=False),
    World("77 labels x 3", (3,) * 77, 0.15),
    World("150 labels x 2", (2,) * 150, 0.2),
    World("300 labels x 2", (2,) * 300, 0.3),
    # One row a label: resamples know nothing of a label's spread, and the bias of a difference is not taken off.
    World("1,000 labels x 1", (1,) * 1000, 0.3, exceptions=(("macro_recall", 0.88), ("d_macro_f1", 0.80))),
    World("77 labels x 10", (10,) * 77, 0.1),
    World("20 labels, Zipf, 300 rows", _zipf(20, 300), 0.05, fixed=False),
    World("5 labels, 20 rows", (4,) * 5, 0.2, fixed=False),
    World("3 labels, 40 rows", (14, 13, 13), 0.2, fixed=False),
    World("3 labels, 40 rows, 5 % wrong", (14, 13, 13), 0.05, fixed=False),
    World("5 labels, 100 rows", (20,) * 5, 0.1, fixed=False),
    World("5 labels, 1,000 rows", (200,) * 5, 0.1, fixed=False),
    World("3 labels, 40 rows, calibrated", (14, 13, 13), 0.15, fixed=False, calibrated=True),
    World("5 labels, 200 rows, calibrated", (40,) * 5, 0.15, fixed=False, calibrated=True),
    World("5 labels, 40 groups of 5", (40,) * 5, 0.15, group=5, fixed=False),
    World("5 labels, 10 groups of 10", (20,) * 5, 0.15, group=10, fixed=False),
    World("5 labels, 40 groups of 10", (80,) * 5, 0.15, group=10, fixed=False),
    World("5 labels, 20 groups of 20", (80,) * 5, 0.15, group=20, fixed=False),
    World("77 labels, 154 groups of 5", (10,) * 77, 0.15, group=5, fixed=False),
    World("several of 5 labels, 40 rows", (20,) * 5, 0.1, several=True, fixed=False),
    # The rarest labels have about two rows, and how many is chance: the figures of such labels vary more than resamples show.
    World(
        "several of 50 labels, 200 rows",
        _zipf(50, 400),
        0.1,
        several=True,
        fixed=False,
        exceptions=(("macro_precision", 0.85), ("macro_recall", 0.88), ("d_macro_f1", 0.87)),
    ),
]


@cache
def _confusable(labels: int) -> tuple[Any, Any]:
    """Cumulated chances of each wrong answer (C, C), and how hard each label is (C,)."""
    rng = np.random.default_rng(5)
    chance = rng.dirichlet(np.full(labels, 0.3), labels)
    np.fill_diagonal(chance, 0)
    chance = 0.9 * chance / chance.sum(1, keepdims=True) + 0.1 * (1 - np.eye(labels)) / (labels - 1)
    return np.cumsum(chance, 1), 0.5 + rng.random(labels)


def draw(world: World, rng: np.random.Generator, times: int = 1) -> tuple[Any, list[Any], Any]:
    """Labels, probabilities of both models, and groups of `times` test sets in one."""
    counts = np.array(world.rows_of_label)
    C, N = len(counts), int(counts.sum()) * times
    if world.several:
        return _several(world, rng, times)
    cumulated, hard = _confusable(C)
    labels = np.tile(np.repeat(np.arange(C), counts), times) if world.fixed else rng.choice(C, N, p=counts / counts.sum())
    groups = np.arange(N) // world.group
    if world.group > 1:
        rate = rng.beta(2 * world.error, 2 * (1 - world.error), groups[-1] + 1)[groups]
    elif world.calibrated:
        rate = rng.beta(2 * world.error, 2 * (1 - world.error), N)
    else:
        rate = world.error * (hard * counts.sum() / (hard @ counts))[labels]
    models = []
    for factor in (1.0, OTHER):
        chance = np.minimum(rate * factor, 1 - 1 / C if world.calibrated else 0.95)
        wrong = rng.random(N) < chance
        other = np.searchsorted((cumulated + np.arange(C)[:, None]).ravel(), labels + rng.random(N) * (1 - 1e-9)) - labels * C
        answers = np.where(wrong, np.clip(other, 0, C - 1), labels)
        sure = 1 - chance if world.calibrated else np.where(wrong, rng.uniform(0.4, 1, N), rng.uniform(0.6, 1, N))
        sure = np.clip(sure, 1 / C + 1e-6, 0.9999)
        probabilities = np.repeat(((1 - sure) / (C - 1))[:, None], C, axis=1)
        probabilities[np.arange(N), answers] = sure
        models.append(probabilities)
    return labels, models, groups


def _several(world: World, rng: np.random.Generator, times: int) -> tuple[Any, list[Any], Any]:
    """Several labels a row: twice as many labels as rows, each true with its share, each decided wrongly at a rate."""
    counts, hard = np.array(world.rows_of_label), _confusable(len(world.rows_of_label))[1]
    N = int(counts.sum()) // 2 * times
    labels = rng.random((N, len(counts))) < np.minimum(0.6, 2 * counts / counts.sum())
    models = []
    for factor in (1.0, OTHER):
        missed = world.error * factor * hard * np.where(labels, 1.5, 1.5 * counts / counts.sum())
        answers = labels ^ (rng.random(labels.shape) < missed)
        models.append(np.where(answers, rng.uniform(0.5, 1, labels.shape), rng.uniform(0, 0.5, labels.shape)))
    return labels, models, np.arange(N)


def truth(world: World) -> dict[str, float]:
    """The figures of both models on `TRUTH_ROWS` rows, and their differences."""
    rng, N = np.random.default_rng([99, 0]), sum(world.rows_of_label)
    step = max(1, 4000 // N)
    totals: list[Any] = [0.0, 0.0]
    for _ in range(0, max(1, TRUTH_ROWS // N), step):
        labels, models, _ = draw(world, rng, step)
        for i, probabilities in enumerate(models):
            totals[i] = totals[i] + np.asarray(metrics.row_sums(labels, probabilities).sum(0))
    first, second = (metrics.metrics(sums, world.several) for sums in totals)
    return {m: float(v) for m, v in first.items()} | {f"d_{m}": float(v - second[m]) for m, v in first.items()}


def trial(world: World, seed: int) -> dict[str, tuple[float, float, float]]:
    """(value, low, high) of each metric and difference on one test set."""
    labels, models, groups = draw(world, np.random.default_rng([seed, 1]))
    found = evaluate(
        {"tuned": models[0], "base": models[1]},
        labels,
        [str(c) for c in range(models[0].shape[1])],
        groups=groups.tolist() if world.group > 1 else None,
        headline="micro_f1" if world.several else "macro_f1",
        seed=seed,
        resamples=RESAMPLES,
    )["splits"]["test"]
    cells = {m: (e["value"], e["low"], e["high"]) for m, e in found["models"]["tuned"].items()}
    return cells | {f"d_{c['metric']}": (c["difference"], c["low"], c["high"]) for c in found["comparisons"]}


# --- texts -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """Test sets of answers of 12 words, each word right at a rate of its row, and losses of as many documents.

    To score texts is slow, so rows are drawn from a bank of `BANK` scored rows. The figures of the bank are the truth.
    """

    name: str
    rows: int
    group: int = 1
    exceptions: tuple[tuple[str, float], ...] = ()


BANK = 4000
TEXTS = [Texts("texts, 40 rows", 40), Texts("texts, 200 rows", 200), Texts("texts, 20 groups of 5", 100, 5)]


@cache
def _bank(group: int) -> dict[str, TextScores]:
    rng = np.random.default_rng([98, group])
    level = np.repeat(rng.normal(size=BANK // group), group)
    words = rng.integers(0, 400, (BANK, 12))
    references = [" ".join(f"w{w}" for w in row) for row in words]
    tokens, scores = rng.integers(5, 80, BANK), {}
    for name, shift in (("tuned", 0.0), ("base", 0.4)):
        right = rng.random((BANK, 12)) < 1 / (1 + np.exp(shift - 1.5 - level - 0.6 * rng.normal(size=BANK)))[:, None]
        kept = right | (rng.random((BANK, 12)) < 0.9)
        texts = [" ".join(f"w{w}" if right[i, j] else "x" for j, w in enumerate(row) if kept[i, j]) for i, row in enumerate(words)]
        nll = np.exp(0.5 + shift / 4 + 0.4 * level + 0.5 * rng.normal(size=BANK)) * tokens
        scores[name] = score(references, texts, ended=(rng.random(BANK) < 0.95).tolist(), nll=nll, tokens=tokens)
    return scores


def truth_of_texts(world: Texts) -> dict[str, float]:
    """The figures of both models on the whole bank, and their differences."""
    first, second = (values(one) for one in _bank(world.group).values())
    return dict(first) | {f"d_{m}": v - second[m] for m, v in first.items()}


def trial_of_texts(world: Texts, seed: int) -> dict[str, tuple[float, float, float]]:
    """As `trial`, of texts."""
    drawn = np.random.default_rng([seed, 4]).integers(0, BANK // world.group, world.rows // world.group)
    rows = (drawn[:, None] * world.group + np.arange(world.group)).ravel()
    scores = {name: replace(one, sums_NK=one.sums_NK[rows]) for name, one in _bank(world.group).items()}
    units, alone = np.arange(world.rows) // world.group, world.group == 1
    found = figures(scores, units, alone, seed, RESAMPLES)["tuned"]
    compared = comparisons(scores, units, alone, "tuned", "rouge_l", seed, RESAMPLES)
    cells = {m: (e["value"], e["low"], e["high"]) for m, e in found.items()}
    return cells | {f"d_{c['metric']}": (c["difference"], c["low"], c["high"]) for c in compared}


# --- promises ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Promise:
    """Validation rows in groups; every second kind has rare groups that are wholly wrong, the hardest case."""

    name: str
    groups: int
    size: int
    accuracy: float
    """Of all rows; confidence tells nothing unless `informed`, so that any promise of more is broken."""
    rare: float = 0.0
    """Share of groups that are wholly wrong."""
    informed: bool = False
    uneven: bool = False
    """Sizes of groups are geometric."""


TARGET = 0.95
PROMISES = [
    Promise("promise, 600 rows, 94 % right", 600, 1, 0.94),
    Promise("promise, 120 groups of 5, 94 % right", 120, 5, 0.94),
    Promise("promise, 60 groups of 10, 94 % right", 60, 10, 0.94),
    Promise("promise, 30 groups of 20, 94 % right", 30, 20, 0.94),
    Promise("promise, 120 groups of 20, 94.5 % right", 120, 20, 0.945),
    Promise("promise, 60 groups of 10, 5 % wholly wrong", 60, 10, 0.99, rare=0.05),
    Promise("promise, 120 groups of 20, 3 % wholly wrong", 120, 20, 0.97, rare=0.03),
    Promise("promise, 240 uneven groups of 10, 3 % wholly wrong", 240, 10, 0.975, rare=0.03, uneven=True),
    Promise("promise, 600 rows, confidence tells", 600, 1, 0.0, informed=True),
    Promise("promise, 400 groups of 5, confidence tells", 400, 5, 0.0, informed=True),
    Promise("promise, 200 groups of 10, confidence tells", 200, 10, 0.0, informed=True),
    Promise("promise, 300 groups of 20, confidence tells", 300, 20, 0.0, informed=True),
]


def _validation(world: Promise, rng: np.random.Generator, groups: int) -> tuple[Any, Any, Any]:
    """right, confidence and group of each row."""
    size_G = np.maximum(1, rng.geometric(1 / world.size, groups)) if world.uneven else np.full(groups, world.size)
    group_N = np.repeat(np.arange(groups), size_G)
    if world.informed:  # a group moves the log odds of its rows by one standard deviation of 0.9: correlation 0.2
        odds = rng.normal(2.8, 2.0, len(group_N))
        chance = 1 / (1 + np.exp(-odds - 0.9 * rng.normal(size=groups)[group_N]))
        return rng.random(len(group_N)) < chance, 1 / (1 + np.exp(-odds)), group_N
    rate = world.accuracy * (rng.random(groups) >= world.rare) if world.rare else rng.beta(7 / 3 * world.accuracy, 7 / 3 * (1 - world.accuracy), groups)
    if not world.rare and world.size == 1:
        rate = np.full(groups, world.accuracy)
    return rng.random(len(group_N)) < rate[group_N], rng.random(len(group_N)), group_N


@cache
def _accuracy_above(world: Promise) -> tuple[Any, Any]:
    """Confidences, falling, and the accuracy of all rows at least as sure."""
    right, confidence, _ = _validation(world, np.random.default_rng(97), 2_000_000 // world.size)
    order = np.argsort(-confidence)
    return -confidence[order], np.cumsum(right[order]) / np.arange(1, len(right) + 1)


def promise(world: Promise, seed: int) -> dict[str, tuple[float, float, float]]:
    """`broken` as 0 or 1, and the share answered."""
    right, confidence, group_N = _validation(world, np.random.default_rng([seed, 2]), world.groups)
    fitted = calibration.fit_abstention(right, confidence, TARGET, groups=group_N.tolist() if world.size > 1 else None)
    if fitted.threshold is None:
        return {"broken": (0, 0, 0), "answered": (0, 0, 0)}
    if world.informed:
        sure, accuracy = _accuracy_above(world)
        true = float(accuracy[max(0, np.searchsorted(sure, -fitted.threshold, side="right") - 1)])
    else:
        true = world.accuracy * (1 - world.rare)
    return {"broken": (float(true < TARGET),) * 3, "answered": (fitted.coverage,) * 3}


# --- the table ---------------------------------------------------------------------------------------------------------


def line(world: Any, trials: int, each: Callable[..., Any] = map) -> tuple[str, list[str]]:
    """One line of the table, and what is wrong with it."""
    if isinstance(world, Promise):
        found = list(each(partial(promise, world), range(trials)))
        broken, answered = (float(np.mean([one[key][0] for one in found])) for key in ("broken", "answered"))
        wrong = [f"{world.name}: broken in {broken:.3f}"] if broken > BROKEN else []
        return f"{world.name}: broken {broken:.3f}  rows answered {answered:.2f}", wrong
    texts = isinstance(world, Texts)
    true = truth_of_texts(world) if texts else truth(world)
    found = list(each(partial(trial_of_texts if texts else trial, world), range(trials)))
    cells, wrong, floors = [], [], dict(world.exceptions)
    for metric in found[0]:
        value, low, high = np.array([one[metric] for one in found]).T
        covered = float(((low <= true[metric]) & (true[metric] <= high)).mean())
        outside = int(((value < low - 1e-12) | (value > high + 1e-12)).sum())
        cells.append(f"{metric} {covered:.3f}" + ("*" if metric in floors else ""))
        if covered < floors.get(metric, FLOOR):
            wrong.append(f"{world.name}: {metric} covers {covered:.3f}, floor {floors.get(metric, FLOOR):.2f}")
        if outside:
            wrong.append(f"{world.name}: {metric} lies outside its own interval in {outside} of {trials}")
    return f"{world.name}: " + "  ".join(cells), wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--only", default="", help="lines whose name contains this")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    wrong: list[str] = []
    print(f"{asked.trials:,} trials a line; * marks a documented exception with a floor of its own")
    with ProcessPoolExecutor(asked.processes) as pool:
        for world in [*WORLDS, *TEXTS, *PROMISES]:
            if asked.only in world.name:
                started = time.monotonic()
                said, faults = line(world, asked.trials, partial(pool.map, chunksize=10))
                wrong += faults
                print(f"{said}   ({time.monotonic() - started:.0f} s)", flush=True)
    print("\n".join(["below the bound:", *wrong]) if wrong else "every cell is within its bound")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
