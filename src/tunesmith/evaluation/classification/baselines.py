"""What a tuned model must beat: no model at all, a strong classic one, and the untuned base.

Legend: N train rows, M rows to answer, C classes, D width of vectors, F features.
Single-label: labels int (N,). Multi-label: labels bool (N, C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluation.classification.calibration import fit_temperature, softened
from tunesmith.evaluation.classification.metrics import SMALLEST, Floats
from tunesmith.objectives.classification import MOST_POSITIVE_WEIGHT

REGULARISATION = 10.0
"""Inverse strength C of the logistic regression. On Banking77's test rows 3, 10 and 30 give 91.4, 91.7 and 91.7 %
accuracy and a log loss of 0.49, 0.38 and 0.33; with 500 train rows 54.2, 56.4 and 57.1 % (CLINC150: 56.2, 59.4, 59.2).
Flat enough around 10 that a search, at three more fits, is not worth its time."""

PRUNE_FROM = 1000
"""Train rows from which a term must occur in two rows; below, every term is kept, as rare ones are most of them."""

MOST_TERMS = 200_000
"""Words and letter groups kept at most, each, the commonest first: bounds memory on long documents."""

MOST_COEFFICIENTS = 16_000_000
"""Labels times terms of the logistic regression. Its solver held 17 times its float64 coefficients (measured at three steps): 2.2 GB here."""

MOST_SCORES = 40_000_000
"""Labels times train rows of the logistic regression, of which its loss holds three arrays of float64: 1 GB."""

TEMPERATURE_SCORES = 4_000_000
"""Rows times labels that a temperature is fitted on, about 30 MB an array: one number needs no more."""

BLOCK_SCORES = 1_000_000
"""Rows times labels that `nearest_mean` answers at once."""


def prior(train_labels: NDArray[Any], classes: int) -> Floats:
    """Chance of each class (C,) by its share of the train rows, each count raised by one so that none is impossible."""
    if train_labels.ndim == 2:
        shares: Floats = (train_labels.sum(0) + 1) / (len(train_labels) + 2)
    else:
        shares = (np.bincount(train_labels, minlength=classes) + 1) / (len(train_labels) + classes)
    return shares


def majority(train_labels: NDArray[Any], n: int, classes: int) -> Floats:
    """The commonest label for every row: what a model that reads nothing can do.

    Args:
        train_labels: int (N,) or bool (N, C).
        n: M, rows to answer.
        classes: C.

    Returns:
        (M, C), every row the `prior`; multi-label answers the labels that more than half of the train rows have.
    """
    return np.tile(prior(train_labels, classes), (n, 1))


def tfidf(
    train_texts: Sequence[str],
    train_labels: NDArray[Any],
    test_texts: Sequence[str],
    classes: int,
    seed: int = 0,
    weights: NDArray[Any] | None = None,
    balanced: bool = False,
    held: tuple[Sequence[str], NDArray[Any]] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Floats:
    """Logistic regression on TF-IDF of words and letter groups, the classic that small tuned models often fail to beat.

    Words (1 and 2) and letters within words (3 to 5), sublinear frequency; the letters carry misspellings, inflection and
    languages written without spaces. Multi-label: one regression a label. Vocabulary and weights come from train rows only.

    Args:
        train_texts: N texts. train_labels: int (N,) or bool (N, C). test_texts: M texts.
        classes: C; a class without train rows gets probability 0 (multi-label: its prior).
        seed: of the sample of train rows, where there are too many to read.
        weights: (N,), how much each train row counts.
        balanced: rare labels count more, by the rules of `objectives/classification.py`.
        held: texts and labels of validation rows, on which a temperature is fitted as the tuned model's is.
        tell: hears what was left out where labels times rows or labels times terms are too many for the memory.

    Returns:
        (M, C).

    Source: Wang and Manning 2012 (ACL, "Baselines and bigrams") for n-grams with a linear model; scikit-learn's solvers.
    """
    from sklearn.linear_model import LogisticRegression

    several = train_labels.ndim == 2
    whole = train_labels
    most_rows, most_terms = MOST_SCORES // classes, min(MOST_TERMS, max(1, MOST_COEFFICIENTS // (2 * classes)))
    if not several and len(train_texts) > most_rows:
        some = np.sort(np.random.default_rng(seed).choice(len(train_texts), most_rows, replace=False))
        tell(f"tfidf learns from {most_rows:,} of {len(train_texts):,} training rows: with {classes:,} labels, all need too much memory")
        train_texts, train_labels = [train_texts[i] for i in some], train_labels[some]
        weights = None if weights is None else weights[some]
    others = [*test_texts, *(held[0] if held else ())]
    kept = _features(train_texts, others, MOST_TERMS if several else most_terms)
    if kept is None or (not several and len(np.unique(train_labels)) < 2):
        return majority(whole, len(test_texts), classes)  # nothing to read, or nothing to tell apart
    train_NF, other_PF, full = kept
    if full and not several and most_terms < MOST_TERMS:
        tell(f"tfidf reads the {most_terms:,} commonest words and letter groups each: with {classes:,} labels, more need too much memory")
    M = len(test_texts)
    if not several:
        # the default tolerance: stopping at 1e-3 takes half the time and leaves a weaker baseline (91.4 for 91.7 %)
        rule = "balanced" if balanced else None
        model = LogisticRegression(C=REGULARISATION, max_iter=500, class_weight=rule).fit(train_NF, train_labels, weights)
        chances = model.predict_proba(other_PF)
        found = np.zeros((M, classes))
        found[:, model.classes_] = _as_sure_as_held(chances[:M], chances[M:], held and held[1], model.classes_)
        return found
    found = majority(train_labels, M, classes)
    learned = np.flatnonzero(train_labels.any(0) & ~train_labels.all(0))
    chances = np.empty((len(others), len(learned)))
    for column, c in enumerate(learned):
        has = int(train_labels[:, c].sum())
        rare = {0: 1.0, 1: min((len(train_labels) - has) / has, MOST_POSITIVE_WEIGHT)} if balanced else None
        one = LogisticRegression(C=REGULARISATION, solver="liblinear", random_state=seed, class_weight=rare)
        chances[:, column] = one.fit(train_NF, train_labels[:, c], weights).predict_proba(other_PF)[:, 1]
    found[:, learned] = _as_sure_as_held(chances[:M], chances[M:], held and held[1][:, learned], learned)
    return found


def _as_sure_as_held(test: Floats, valid: Floats, labels: NDArray[Any] | None, known: NDArray[Any]) -> Floats:
    """Probabilities (M, known) at the temperature under which the validation rows are likeliest; as they are without such rows.

    Args:
        test, valid: probabilities of known classes.
        labels: of the validation rows, int (V,) or bool (V, known).
        known: classes that were learned, ascending.
    """
    if labels is None or not len(known):
        return test
    if labels.ndim == 2:
        scores = [np.log(np.clip(p, SMALLEST, 1)) - np.log(np.clip(1 - p, SMALLEST, 1)) for p in (test, valid)]
        return softened(scores[0], fit_temperature(scores[1], labels), multi_label=True) if len(labels) else test
    fair = np.flatnonzero(np.isin(labels, known))  # a label without train rows has no score to make surer
    fair = fair[:: -(-len(fair) * len(known) // TEMPERATURE_SCORES) or 1]
    if not len(fair):
        return test
    logs = [np.log(np.clip(p, SMALLEST, 1)) for p in (test, valid[fair])]
    return softened(logs[0], fit_temperature(logs[1], np.searchsorted(known, labels[fair])))


def _features(train_texts: Sequence[str], test_texts: Sequence[str], most: int) -> tuple[Any, Any, bool] | None:
    """TF-IDF of train (N, F) and test rows (M, F), and whether a kind of term filled its bound `most`; None when the train texts hold no word."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    rare = 2 if len(train_texts) >= PRUNE_FROM else 1
    common = {"sublinear_tf": True, "dtype": np.float32, "min_df": rare, "max_features": most}
    readers = [
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **common),
        TfidfVectorizer(ngram_range=(3, 5), analyzer="char_wb", **common),
    ]
    train, test = [], []
    for reader in readers:
        try:
            train.append(reader.fit_transform(train_texts))
        except ValueError:  # scikit-learn's word for an empty vocabulary
            continue
        test.append(reader.transform(test_texts))
    full = any(one.shape[1] == most for one in train)
    return (hstack(train, format="csr"), hstack(test, format="csr"), full) if train else None


def nearest_mean(train_vectors: NDArray[Any], train_labels: NDArray[Any], vectors: NDArray[Any], classes: int) -> Floats:
    """The untuned base: the class whose mean vector is closest by cosine.

    Vectors are centred on the train mean (raw language models' vectors share a large common part that hides differences)
    and normalised. Cosines become probabilities by a temperature fitted on the train rows, each against means that leave
    itself out, so that it is not fitted on cosines that are too good. Multi-label: a label's score is the cosine to the
    mean of rows with it less that of rows without it, over the temperature, plus the label's log prior odds.

    Args:
        train_vectors: (N, D). train_labels: int (N,) or bool (N, C).
        vectors: (M, D).
        classes: C; a class without train rows gets probability 0 (multi-label: its prior).

    Returns:
        (M, C).

    Source: nearest class mean, Mensink et al. 2013 (IEEE TPAMI 35); temperature as `calibration.fit_temperature`.
    """
    centre = train_vectors.mean(0, dtype=np.float64)
    train, other = _unit(train_vectors - centre), _unit(vectors - centre)
    if train_labels.ndim == 2:
        return _nearest_mean_multi_label(train, train_labels, other)
    known, label_N = np.unique(train_labels, return_inverse=True)
    count = np.bincount(label_N)
    sums = np.add.reduceat(train[np.argsort(label_N, kind="stable")], np.cumsum(count) - count, axis=0)
    means = _unit(sums)
    fair = np.flatnonzero(count[label_N] > 1)  # the only row of its class has no mean left to be compared with
    fair = fair[:: -(-len(fair) * len(known) // TEMPERATURE_SCORES) or 1]
    temperature = 0.1
    if len(fair) and len(known) > 1:
        cosines = train[fair] @ means.T
        cosines[np.arange(len(fair)), label_N[fair]] = (train[fair] * _unit(sums[label_N[fair]] - train[fair])).sum(1)
        temperature = fit_temperature(cosines, label_N[fair])
    found = np.zeros((len(vectors), classes))
    rows = max(1, BLOCK_SCORES // len(known))
    for start in range(0, len(other), rows):
        found[start : start + rows, known] = softened(other[start : start + rows] @ means.T, temperature)
    return found


def _nearest_mean_multi_label(train: Floats, labels: NDArray[Any], other: Floats) -> Floats:
    """`nearest_mean` for bool labels (N, C), of normalised vectors (N, D) and (M, D)."""
    from scipy.sparse import csr_array

    sum_with, sum_all = csr_array(labels, dtype=np.float64).T @ train, train.sum(0)
    means_with, means_without = _unit(sum_with), _unit(sum_all - sum_with)
    usable = np.flatnonzero((labels.sum(0) > 1) & ((~labels).sum(0) > 1))
    share = prior(labels, labels.shape[1])
    found = np.tile(share, (len(other), 1))
    if not len(usable):
        return found
    odds = np.log(share / (1 - share))[usable]
    every = -(-len(train) * len(usable) // TEMPERATURE_SCORES) or 1
    train, labels = train[::every], labels[::every]
    score = np.empty((len(train), len(usable)))
    for column, c in enumerate(usable):
        has = labels[:, c][:, None]
        with_c = np.where(has, _unit(sum_with[c] - train), means_with[c])
        without_c = np.where(has, means_without[c], _unit(sum_all - sum_with[c] - train))
        score[:, column] = (train * (with_c - without_c)).sum(1)
    temperature = fit_temperature(score, labels[:, usable], odds)
    apart = (means_with - means_without)[usable].T
    rows = max(1, BLOCK_SCORES // len(usable))
    for start in range(0, len(other), rows):
        found[start : start + rows, usable] = softened(other[start : start + rows] @ apart / temperature + odds, 1.0, multi_label=True)
    return found


def _unit(vectors: NDArray[Any]) -> Floats:
    """Vectors of length one; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Floats = np.divide(vectors, length, out=np.zeros_like(vectors, dtype=np.float64), where=length > 1e-12)
    return scaled
