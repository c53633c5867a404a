"""From the answers and likelihoods of several models on the same test rows to `evaluation.json`; `measure` for text.

Intervals and p-values are those of `measure`, with the same resamples for all models and metrics, so that every difference is
paired:

1. exact match and `ended` of independent rows: Wilson interval; difference in exact match: exact McNemar p-value.
2. all else, and everything when rows belong together: metrics with an upper end have t times the bootstrap's standard deviation
   over units on the scale of log odds (`intervals.of_share`), widened near both ends; the others are ratios of sums
   (`intervals.of_ratio`). Differences: `intervals.symmetric`, p-value by `intervals.sign_flip` (answers exchanged row by row, or
   unit by unit).
3. p-values of one metric against several models carry Holm's adjustment beside them (`p_adjusted`).

Forgetting is the change in loss on a text of another kind. It is measured like any split, under the name `general`, and its
difference stands among the tuned model's figures as `forgetting`, where a gate finds it.

Legend: N rows, G units, K columns of sums, B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.statistics import holm, wilson
from tunesmith.evaluation import intervals
from tunesmith.evaluation.generation import metrics
from tunesmith.evaluation.generation.metrics import Floats, TextScores

GENERAL = "general"
"""The split that holds the text on which forgetting is measured."""
SAMPLES = 4
"""Rows shown of each kind: at random, largest gains, largest losses."""
LONGEST = 2000
"""Characters kept of a text in a sample; more nobody reads."""
BINS = 10
"""Bins of the distribution over rows. Of short references ROUGE-L takes so few values that finer bins would show a comb."""


@dataclass(frozen=True)
class Answers:
    """What one model did on the N rows. A field is None when it was not measured; all models give the same fields, or fewer."""

    texts: Sequence[str] | None = None
    """What it wrote after each prompt."""
    ended: Sequence[bool] | None = None
    """Whether it stopped by itself, not at the limit of tokens."""
    nll: NDArray[Any] | None = None
    """Negative log-likelihood of each reference (or document), summed over its tokens, in nats."""
    tokens: NDArray[Any] | None = None
    """Tokens that each sum runs over."""


def measure_text(
    models: Mapping[str, Answers],
    references: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    *,
    groups: Sequence[Any] | None = None,
    rows: Sequence[str] | None = None,
    headline: str | None = None,
    tuned: str = "tuned",
    split: str = "test",
    seed: int = 0,
    resamples: int = intervals.RESAMPLES,
    samples: int = SAMPLES,
) -> dict[str, Any]:
    """Measure models on the same rows and compare the tuned one with each of the others.

    Args:
        models: name -> what it did on all rows; contains `tuned`. Without `texts` only likelihoods are measured.
        references: the answers wanted (N); None for documents.
        prompts: what the models were asked (N), for the samples; None leaves them out.
        groups: the `together` value of each row, None for a row on its own; None when the data have no such column.
        rows: ids of the rows; None numbers them.
        headline: the metric that decides; None: `rouge_l` where texts were written, else `nll` (lower is better).
        tuned: the model to compare.
        split: the name of these rows in the result; several results merge by their `splits`.
        seed, resamples: same seed, same result, bit for bit.
        samples: rows of each kind to show, 0 for none.

    Returns:
        What `evaluation.json` holds. In `splits[split]`, beside house.md's `rows`, `models` and `comparisons`: `groups`, `tuned`,
        `seed`, `resamples`, `tokens` (measured), `distribution` (a metric of each row, counted in bins), `apart` (models whose
        tokens differ, so that losses are not compared), and where texts were written `signatures` and `samples`.

    Raises:
        UserError: fewer than two independent groups of rows, an empty reference, a loss that is not finite.
    """
    assert tuned in models
    scores = {name: _score(answers, references, rows) for name, answers in models.items()}
    N = len(scores[tuned].sums_NK)
    assert all(len(one.sums_NK) == N for one in scores.values()), "models saw different rows"
    units = intervals.unit_of_rows(groups, N)
    written = models[tuned].texts is not None
    headline = headline or ("rouge_l" if written else "nll")
    assert headline in scores[tuned].names, (headline, scores[tuned].names)
    found: dict[str, Any] = {"rows": N, "groups": None if groups is None else int(units.max()) + 1, "tuned": tuned, "seed": seed, "resamples": resamples}
    found["tokens"] = int(scores[tuned].sums_NK[:, metrics.TOKENS].sum())
    found["models"] = figures(scores, units, groups is None, seed, resamples)
    found["comparisons"] = comparisons(scores, units, groups is None, tuned, headline, seed, resamples)
    found["distribution"] = _distribution(scores, "rouge_l" if written else "nll")
    with_loss = [name for name, one in scores.items() if "nll" in scores[tuned].names and "nll" in one.names]
    found["apart"] = [name for name in with_loss if not metrics.same_tokens(scores[tuned], scores[name])]
    if written and references is not None:
        found["signatures"] = metrics.signatures(metrics.bleu_tokenizer(references))
        ids = [str(row) for row in (range(N) if rows is None else rows)]
        found["samples"] = _samples(models, scores, references, prompts, ids, tuned, samples, seed)
    return {"headline": headline, "splits": {split: found}}


def with_forgetting(
    evaluation: Mapping[str, Any],
    models: Mapping[str, Answers],
    source: str,
    *,
    groups: Sequence[Any] | None = None,
    tuned: str = "tuned",
    base: str = "base",
    split: str = "test",
    seed: int = 0,
    resamples: int = intervals.RESAMPLES,
) -> dict[str, Any]:
    """Add what the models lost on a text of another kind.

    Args:
        evaluation: of `measure_text`; left as it is.
        models: `tuned` and `base` -> `nll` and `tokens` of each piece of the general text.
        source: what text it is, for the reader.
        groups: pieces of one document belong together.
        split: where the figure `forgetting` goes: nats a token that the tuned model lost (negative: gained), lower is better.
        Others as `measure_text`.

    Returns:
        A copy with the split `general`, and `forgetting` among the tuned model's figures (absent when the two models cut the
        text into different tokens).

    Raises:
        UserError: as `measure_text`.
    """
    found = measure_text(models, groups=groups, tuned=tuned, split=GENERAL, seed=seed, resamples=resamples)["splits"][GENERAL]
    found["source"] = source
    splits = {**evaluation["splits"], GENERAL: found}
    change = next((c for c in found["comparisons"] if c["metric"] == "nll" and c["against"] == base), None)
    if change is not None and split in evaluation["splits"]:
        before = evaluation["splits"][split]
        lost = {"value": change["difference"], "low": change["low"], "high": change["high"]}
        splits[split] = {**before, "models": {**before["models"], tuned: {**before["models"][tuned], "forgetting": lost}}}
    return {**evaluation, "splits": splits}


def _score(answers: Answers, references: Sequence[str] | None, rows: Sequence[str] | None) -> TextScores:
    if answers.texts is None:
        assert answers.nll is not None and answers.tokens is not None, "neither texts nor likelihoods"
        return metrics.likelihood(answers.nll, answers.tokens)
    assert references is not None
    return metrics.score(references, answers.texts, ended=answers.ended, nll=answers.nll, tokens=answers.tokens, rows=rows)


def figures(
    scores: Mapping[str, TextScores], units_N: NDArray[np.int64], independent: bool, seed: int, resamples: int = intervals.RESAMPLES
) -> dict[str, dict[str, dict[str, float]]]:
    """Every metric of every model with its 95 % interval, by the rules at the top of this file.

    Args:
        scores: model -> its scores, all on the same rows.
        units_N: of `intervals.unit_of_rows`.
        independent: whether each row is a unit of its own.
        seed, resamples: same seed, same draws.

    Returns:
        model -> metric -> {"value", "low", "high"}.
    """
    sums_GK = [intervals.unit_sums(one.sums_NK, units_N) for one in scores.values()]
    drawn = intervals.bootstrap(sums_GK, metrics.metrics, seed, resamples)
    shown: dict[str, dict[str, dict[str, float]]] = {}
    for (name, one), sums, values_B in zip(scores.items(), sums_GK, drawn, strict=True):
        shown[name] = {}
        for metric, value in metrics.values(one).items():
            share_G, full = share_of_units(sums, metric)
            if metric in ("exact_match", "ended") and independent:
                low, high = wilson(share_G.sum(), len(share_G))
            elif full:
                half = intervals.half_width(values_B[metric], len(share_G)) / full
                low, high = intervals.of_share(value / full, half, len(share_G))
                low, high = (full * end for end in intervals.widen_near_edge(low, high, value / full, share_G))
            else:
                low, high = _without_end(sums, metric)
            shown[name][metric] = {"value": value, "low": float(low), "high": float(high)}
    return shown


def comparisons(
    scores: Mapping[str, TextScores],
    units_N: NDArray[np.int64],
    independent: bool,
    tuned: str,
    headline: str,
    seed: int,
    resamples: int = intervals.RESAMPLES,
) -> list[dict[str, Any]]:
    """The tuned model less each other one, in every metric that both have; arguments as `figures` and `measure_text`.

    Returns:
        Lines of `comparisons` in evaluation.json with `p_adjusted`, those of the headline first. `difference` keeps its sign:
        a loss that fell is negative (see `text.LESS_IS_BETTER`).
    """
    sums_GK = {name: intervals.unit_sums(one.sums_NK, units_N) for name, one in scores.items()}
    drawn = dict(zip(sums_GK, intervals.bootstrap(list(sums_GK.values()), metrics.metrics, seed, resamples), strict=True))
    totals = {name: metrics.values(one) for name, one in scores.items()}
    lines: dict[str, list[dict[str, Any]]] = {metric: [] for metric in sorted(scores[tuned].names, key=lambda m: m != headline)}
    for name in (name for name in scores if name != tuned):
        p_values = intervals.sign_flip(sums_GK[tuned], sums_GK[name], metrics.metrics, seed, resamples)
        p_values["perplexity"] = p_values["nll"]  # one is the exp of the other: the same question has one answer
        for metric in metrics.shared(scores, tuned, name):
            (here_G, full), (there_G, _) = share_of_units(sums_GK[tuned], metric), share_of_units(sums_GK[name], metric)
            if metric == "exact_match" and independent:
                p_values[metric] = intervals.mcnemar(*intervals.only(here_G, there_G))
            difference = totals[tuned][metric] - totals[name][metric]
            low, high = intervals.symmetric(difference, drawn[tuned][metric] - drawn[name][metric], len(here_G))
            if full:
                low, high = (full * end for end in intervals.widen_few_differing(low / full, high / full, difference / full, here_G, there_G))
            line = {"model": tuned, "against": name, "metric": metric, "difference": difference, "low": float(low), "high": float(high)}
            lines[metric].append(line | {"p": p_values[metric]})
    for of_one_metric in lines.values():
        for line, adjusted in zip(of_one_metric, holm([line["p"] for line in of_one_metric]), strict=True):
            line["p_adjusted"] = adjusted
    return [line for of_one_metric in lines.values() for line in of_one_metric]


def share_of_units(sums_GK: Any, metric: str) -> tuple[Floats, float]:
    """How right each unit is, for `intervals.widen_near_edge`, and the metric's upper end (0: it has none).

    BLEU and chrF have no share of their own in a unit (BLEU of a single short answer is 0 even when it is perfect): both go by
    chrF of the unit, which is 1 only where every character is right and 0 only where none is.
    """
    found = metrics.metrics(sums_GK.toarray())
    if metric in ("bleu", "chrf"):
        return found["chrf"] / 100, 100.0
    return found[metric], 1.0 if metric in metrics.SHARES else 0.0


def _without_end(sums_GK: Any, metric: str) -> tuple[float, float]:
    """95 % interval of a metric without an upper end; perplexity is the exp of `nll`, and so is its interval."""
    columns = {"length_ratio": [metrics.WORDS.start, metrics.WORDS.start + 1]}.get(metric, [metrics.NLL, metrics.TOKENS])
    low, high = intervals.of_ratio(*sums_GK[:, columns].toarray().T)
    return (float(np.exp(low)), float(np.exp(high))) if metric == "perplexity" else (low, high)


def _distribution(scores: Mapping[str, TextScores], metric: str) -> dict[str, Any]:
    """How a metric of single rows is spread: edges of `BINS` equal bins, and of each model the share of rows in each."""
    values = {name: metrics.by_row(one, metric) for name, one in scores.items() if metric in one.names}
    if metric in metrics.SHARES:
        low, high = 0.0, 1.0
    else:  # a few rows of an odd length would leave everything else in one bin
        low, high = (float(end) for end in np.quantile(np.concatenate(list(values.values())), [0.01, 0.99]))
        low, high = (low, high) if high > low else (low - 0.5, low + 0.5)
    edges = np.linspace(low, high, BINS + 1)
    shares = {name: (np.histogram(np.clip(of_N, low, high), edges)[0] / len(of_N)).tolist() for name, of_N in values.items()}
    return {"metric": metric, "edges": edges.tolist(), "models": shares}


def _samples(
    models: Mapping[str, Answers],
    scores: Mapping[str, TextScores],
    references: Sequence[str],
    prompts: Sequence[str] | None,
    ids: Sequence[str],
    tuned: str,
    each: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows to read, chosen by ROUGE-L: largest gains, largest losses, and others at random; without another model only those.

    Each row is shown once. The draw at random is made first, so that it is one from all rows and not from what is left over.
    """
    others = [name for name, one in models.items() if name != tuned and one.texts is not None]
    shown = [*(["base"] if "base" in others else others[:1]), tuned]
    by_row = {name: metrics.by_row(scores[name], "rouge_l") for name in shown}
    drawn = np.random.default_rng([seed, 2]).permutation(len(ids))[:each]
    chosen = [("random", int(i)) for i in sorted(drawn)]
    if len(shown) > 1:
        gain_N = by_row[tuned] - by_row[shown[0]]
        for kind, sign in (("gain", 1), ("loss", -1)):
            order = [int(i) for i in np.argsort(-sign * gain_N, kind="stable") if sign * gain_N[i] > 0 and i not in drawn]
            chosen += [(kind, i) for i in order[:each]]
    return [
        {
            "row": ids[i],
            "kind": kind,
            "prompt": None if prompts is None else _cut(prompts[i]),
            "reference": _cut(references[i]),
            "answers": {name: _cut((models[name].texts or [])[i]) for name in shown},
            "rouge_l": {name: float(by_row[name][i]) for name in shown},
        }
        for kind, i in chosen
    ]


def _cut(said: str) -> str:
    return said if len(said) <= LONGEST else said[:LONGEST].rstrip() + " […]"
