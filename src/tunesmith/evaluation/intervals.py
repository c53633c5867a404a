"""How sure a figure is: 95 % intervals, paired comparisons and p-values for any metric that is a function of sums of rows.

A metric comes as the sparse statistics of its rows and a function from their sums to values (`classification.row_sums` and
`metrics`; perplexity would be loss and tokens, and exp of their ratio). One resample is one weighted sum of rows, so all
resamples of all models are one sparse product, and the cost does not depend on the number of classes.
Rows that belong together (one customer, one document) are drawn, flipped and counted together, as one unit. Coverages quoted
in this file: `make coverage`.

Legend: N rows, G units (groups, or rows when there are none), K columns of sums, B resamples, b resamples at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.errors import UserError
from tunesmith.core.statistics import Z, wilson

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Mapping[str, Floats]]
"""From sums (..., K) to named values (...,)."""

RESAMPLES = 2000
"""Resamples of a bootstrap, flips of a test. Source: Efron and Tibshirani 1993, section 14.4: 1,000 and more for intervals."""

FEW = 10
"""With fewer wrong (or right, or differing) units than this the bootstrap is too narrow; see `widen_near_edge`."""

CELLS = 1 << 19
"""Weights held at a time (G x b, 4 MiB): fits a core's cache, and bounds memory whatever N is."""


def numbered(groups: Sequence[Any] | None, rows: int) -> NDArray[np.int64]:
    """Number the units: (N,) with values 0..G-1. A row whose group is None is a unit of its own."""
    if groups is None:
        return np.arange(rows)
    assert len(groups) == rows
    numbers: dict[Any, int] = {}
    keys = ((True, i) if group is None else (False, group) for i, group in enumerate(groups))
    return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64, rows)


def unit_of_rows(groups: Sequence[Any] | None, rows: int) -> NDArray[np.int64]:
    """`numbered`, for test rows.

    Raises:
        UserError: fewer than two units, from which nothing can be inferred.
    """
    units = numbered(groups, rows)
    if rows == 0 or units.max() == 0:
        raise UserError(
            f"{rows} test rows in {min(rows, 1)} group: an interval needs at least two groups of rows that are independent",
            "the test split",
            "add test rows, or choose another `together` column",
        )
    return units


def unit_sums(rows_NK: Any, units_N: NDArray[np.int64]) -> Any:
    """Add up the statistics of the rows of each unit: sparse (N, K) -> sparse (G, K)."""
    from scipy.sparse import csr_array

    N, G = len(units_N), int(units_N.max()) + 1
    return csr_array((np.ones(N), (units_N, np.arange(N))), shape=(G, N)) @ csr_array(rows_NK)


def _weights(G: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each unit is drawn in each resample, (G, b) at a time; every column adds up to G."""
    rng = np.random.default_rng([seed, 0])
    width = max(1, min(resamples, CELLS // G))
    for start in range(0, resamples, width):
        b = min(width, resamples - start)
        drawn = rng.integers(0, G, (b, G)) * b + np.arange(b)[:, None]  # resample by resample, whatever the width
        yield np.bincount(drawn.ravel(), minlength=G * b).reshape(G, b).astype(np.float64)


def bootstrap(
    models: Sequence[Any], statistic: Statistic, seed: int, resamples: int = RESAMPLES
) -> list[dict[str, Floats]]:
    """Draw units with replacement, the same draws for every model, so that differences of two models are paired.

    Args:
        models: for each model its sparse sums a unit, (G, K); G is the same, K need not be.
        statistic: from sums to values.
        seed: same seed, same draws.
        resamples: B.

    Returns:
        For each model, each value in each resample, (B,).

    Source: Efron and Tibshirani 1993; units as clusters: Field and Welsh 2007 (J. R. Statist. Soc. B 69, cluster bootstrap).
    """
    turned = [model.T.tocsr() for model in models]  # (K, G), so that the product runs along contiguous resamples
    found: list[dict[str, list[Floats]]] = [{} for _ in models]
    for weights_Gb in _weights(models[0].shape[0], resamples, seed):
        for model_KG, values in zip(turned, found, strict=True):
            for name, value_b in statistic(np.ascontiguousarray((model_KG @ weights_Gb).T)).items():
                values.setdefault(name, []).append(value_b)
    return [{name: np.concatenate(pieces) for name, pieces in values.items()} for values in found]


def half_width(values_B: Floats, units: int) -> float:
    """Half the width of a 95 % interval: Student's t times the standard deviation of a bootstrap distribution.

    The spread of resamples is right also where their location is not. With few rows a label, nearly all resamples lie below
    the figure, so that intervals made from their quantiles collapse or miss their own figure.

    Args:
        values_B: the metric, or the difference of two models, in each resample.
        units: G, at least 2. A resample of G units is too narrow by sqrt((G-1)/G), which is put right.

    Source: Efron and Tibshirani 1993, section 12.2 (t interval with the bootstrap standard error); the factor: Hesterberg 2015
    (arXiv 1411.5279).
    """
    from scipy.special import stdtrit

    return float(np.sqrt(units / (units - 1)) * stdtrit(units - 1, 0.975) * values_B.std(ddof=1))


def symmetric(value: float, values_B: Floats, units: int) -> tuple[float, float]:
    """95 % interval of a difference of two models on the same units: value +- `half_width`. Arguments as there."""
    half = half_width(values_B, units)
    return value - half, value + half


def of_share(value: float, half: float, units: int, lower: float | None = None, upper: float | None = None) -> tuple[float, float]:
    """95 % interval of a metric in [0, 1], symmetric on the scale of log odds, so that it leans away from the nearer end.

    With 10 groups of 10 rows such intervals of macro F1 cover the truth in 95 % of trials, value +- half in 89 %.

    Args:
        value: the figure; the interval always holds it.
        half: of `half_width`.
        units: G; log odds are cut off at 1 - 1/(4G), for a faultless test set has infinite ones.
        lower, upper: centers of the two ends when bias is taken off (`few_rows.centers`); None: the value.

    Source: delta method on the logit, as for a single share: Agresti 2013, "Categorical Data Analysis", section 1.4 and 3.1.
    """
    from scipy.special import expit, logit

    def end(center: float, sign: int) -> float:
        cut = min(max(center, 1 / (4 * units)), 1 - 1 / (4 * units))
        return float(expit(logit(cut) + sign * half / (cut * (1 - cut))))

    return min(value, end(value if lower is None else lower, -1)), max(value, end(value if upper is None else upper, 1))


SKEWED = 0.5
"""Most that skewness over sqrt(G) counts in `of_ratio`. Skewness from a single bad row of 40 would double the width; a
convention of ours, by simulation."""


def of_ratio(above_G: Floats, below_G: Floats) -> tuple[float, float]:
    """95 % interval of a ratio of sums without an upper end: log loss, nats a token, ratio of lengths.

    Losses are skewed: a few rows carry much of the sum. A symmetric interval of few units then ends too low (10 groups of 10
    rows: 88 % coverage). This one leans by the skewness of the units. It is cut at 0 and always holds the ratio.

    Args:
        above_G, below_G: the two sums of each unit.

    Source: Hall 1992 (J. R. Statist. Soc. B 54, "On the removal of skewness by transformation"), the cubic transformation,
    with t quantiles in place of normal ones.
    """
    from scipy.special import stdtrit

    G, below = len(above_G), float(below_G.sum())
    value = float(above_G.sum()) / below
    rest_G = above_G - value * below_G
    variance = float((rest_G**2).mean())
    if variance == 0:
        return value, value
    error, t = np.sqrt(variance * G * G / (G - 1)) / below, float(stdtrit(G - 1, 0.975))
    lean = float((rest_G**3).mean()) / variance**1.5 / np.sqrt(G)
    lean = min(SKEWED, max(-SKEWED, lean))

    def turned(z: float) -> float:
        return z if abs(lean) < 1e-6 else float(3 / lean * (np.cbrt(1 + lean * (z - lean / 6)) - 1))

    return max(0.0, min(value, value - error * turned(t))), max(value, value - error * turned(-t))


def of_ece(value: float, values_B: Floats, gaps_Gb: Floats, forecasts: float, wrong: float) -> tuple[float, float]:
    """95 % interval of the ECE.

    An ECE adds up absolute gaps, so noise raises it, and a resample's noise raises it again. Three corrections:
    the lower end goes down by twice what resampling adds; it is 0 when a calibrated model would often show as much;
    the variance counts two more wrong and two more right units, because bins without an error pretend to have no noise.

    Args:
        value: the ECE. values_B: in each resample.
        gaps_Gb: sum of (outcome - confidence) of each unit in each bin.
        forecasts: how many there are: rows, or rows times labels.
        wrong: share of them that are wrong.

    Source: corrections of our own, by simulation; two and two: Agresti and Coull 1998 (American Statistician 52); mean and
    variance of an absolute normal variable: Leone, Nelson and Nottingham 1961 (Technometrics 3).
    """
    G = len(gaps_Gb)
    smoothed = (G * wrong + 2) / (G + 4)
    lacking = max(0.0, smoothed * (1 - smoothed) - wrong * (1 - wrong))
    used_b = (gaps_Gb != 0).any(0)
    half = float(np.hypot(half_width(values_B, G), Z * np.sqrt(lacking / forecasts)))
    added = max(0.0, float(values_B.mean()) - value)
    noise_b = np.sqrt((gaps_Gb[:, used_b] ** 2).sum(0) * G / (G - 1) + lacking * forecasts / max(1, used_b.sum())) / forecasts
    by_chance = np.sqrt(2 / np.pi) * noise_b.sum() + Z * np.sqrt((1 - 2 / np.pi) * (noise_b**2).sum())
    low = 0.0 if value <= by_chance else max(0.0, value - 2 * added - half)
    return low, min(1.0, value + half)


def widen_near_edge(low: float, high: float, value: float, right_G: Floats) -> tuple[float, float]:
    """Keep a share's bootstrap interval honest when almost nothing (or almost everything) is wrong.

    A model without errors has the same figure in every resample, and an interval of zero width is a lie. When fewer than
    `FEW` units hold an error (or fewer than that hold anything right) the interval is made at least as wide, to either side,
    as the Wilson interval of the share of those units, times how wrong they are on average (1 when there are none, and for
    independent rows). Exact for accuracy of independent rows, an approximation for F1 and its like: of macro F1 with 40
    rows and 5 % errors the plain bootstrap covers the truth in 75 % of trials, this in 97 %. Not for the log loss, which
    has no upper end: see `measure._log_loss`.

    Args:
        low, high: the bootstrap interval. value: the figure, in [0, 1].
        right_G: share of right rows in each unit.
    """
    units, wrong_G = len(right_G), 1 - right_G
    rare_G = wrong_G if (wrong_G > 0).sum() <= (right_G > 0).sum() else right_G
    bearing = rare_G[rare_G > 0]
    if len(bearing) >= min(FEW, units):
        return low, high
    least, most = (end - len(bearing) / units for end in wilson(len(bearing), units))
    size = float(bearing.mean()) if len(bearing) else 1.0
    below, above = (most, -least) if rare_G is wrong_G else (-least, most)
    return float(max(0.0, min(low, value - size * below))), float(min(1.0, max(high, value + size * above)))


def widen_few_differing(low: float, high: float, value: float, first_G: Floats, second_G: Floats) -> tuple[float, float]:
    """`widen_near_edge` for the difference of two models that differ on fewer than `FEW` units.

    Args:
        low, high: the bootstrap interval. value: the difference of two shares, first less second.
        first_G, second_G: share of right rows in each unit.

    Source: Bonett and Price 2012 (J. Educ. Behav. Stat. 37), "Adjusted Wald confidence interval for a difference of
    binomial proportions based on paired data".
    """
    apart, units = np.abs(first_G - second_G)[first_G != second_G], len(first_G)
    if len(apart) >= min(FEW, units):
        return low, high
    first, second = only(first_G, second_G)
    least, most = (end - (first - second) / units for end in bonett_price(first, second, units))
    size = float(apart.mean()) if len(apart) else 1.0
    return max(-1.0, min(low, value + size * least)), min(1.0, max(high, value + size * most))


def only(first_G: Floats, second_G: Floats) -> tuple[int, int]:
    """Units that only (or more of) the first gets right, and only (or more of) the second."""
    return int((first_G > second_G).sum()), int((second_G > first_G).sum())


def bonett_price(first_only: int, second_only: int, units: int) -> tuple[float, float]:
    """95 % interval of a difference of two paired shares; never of zero width. Source: see `widen_few_differing`."""
    first, second = (first_only + 1) / (units + 2), (second_only + 1) / (units + 2)
    half = Z * np.sqrt((first + second - (first - second) ** 2) / (units + 2))
    return float(max(-1.0, first - second - half)), float(min(1.0, first - second + half))


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided p-value that two models are right equally often, from the independent rows where only one is.

    Source: McNemar 1947; exact binomial form, as `statsmodels.stats.contingency_tables.mcnemar(exact=True)`. It is what
    `sign_flip` would give for accuracy with all 2^N flips.
    """
    from scipy.special import bdtr

    differing = first_only + second_only
    p = min(1.0, 2 * bdtr(min(first_only, second_only), differing, 0.5)) if differing else 1.0
    return float(max(p, 1e-300))  # 2^-1075 is no longer a number, but a p-value of zero is never true


def sign_flip(first_GK: Any, second_GK: Any, statistic: Statistic, seed: int, flips: int = RESAMPLES) -> dict[str, float]:
    """Two-sided p-value of the difference of two models in any metric, by exchanging their answers on random units.

    If the models were equally good, which of the two gave which answer to a row would not matter. The p-value is the share
    of random exchanges whose difference is at least as large as the one observed, the observed one counted too, so it is
    never 0 and never below 1 / (flips + 1).

    Args:
        first_GK, second_GK: sparse sums a unit of either model. statistic: from sums to values.
        seed, flips: same seed, same exchanges.

    Returns:
        A p-value for each value of `statistic`.

    Source: approximate randomisation: Noreen 1989; Yeh 2000 (COLING, "More accurate tests for the statistical
    significance of result differences"); the + 1: Phipson and Smyth 2010.
    """
    first, second = np.asarray(first_GK.sum(0)), np.asarray(second_GK.sum(0))
    here, there = statistic(first), statistic(second)
    G, rng = first_GK.shape[0], np.random.default_rng([seed, 1])
    moved_KG = (first_GK - second_GK).T.tocsr()
    beyond = dict.fromkeys(here, 1)
    width = max(1, min(flips, CELLS // G))
    for start in range(0, flips, width):
        b = min(width, flips - start)
        moved_bK = (moved_KG @ rng.integers(0, 2, (b, G)).T.astype(np.float64, order="C")).T
        one, other = statistic(first - moved_bK), statistic(second + moved_bK)
        for name in beyond:
            # the margin keeps exact ties of counts, which floating point may split, on the side of no difference
            beyond[name] += int((np.abs(one[name] - other[name]) >= abs(here[name] - there[name]) - 1e-12).sum())
    return {name: count / (flips + 1) for name, count in beyond.items()}
