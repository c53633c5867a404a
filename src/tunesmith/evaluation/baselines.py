"""What a tuned model must beat: no model at all, a strong classic one, and the untuned base.

Legend: N train rows, M rows to answer, C classes, D width of vectors, F features.
Single-label: labels int (N,). Multi-label: labels bool (N, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluation.calibration import fit_temperature, softened
from tunesmith.evaluation.classification import Floats

REGULARISATION = 10.0
"""Inverse strength C of the logistic regression. On Banking77's test rows 3, 10 and 30 give 91.4, 91.7 and 91.7 %
accuracy and a log loss of 0.49, 0.38 and 0.33; with 500 train rows 54.2, 56.4 and 57.1 % (CLINC150: 56.2, 59.4, 59.2).
Flat enough around 10 that a search, at three more fits, is not worth its time."""

PRUNE_FROM = 1000
"""Train rows from which a term must occur in two rows; below, every term is kept, as rare ones are most of them."""

MOST_TERMS = 200_000
"""Words and letter groups kept at most, each, the commonest first: bounds memory on long documents."""


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
    train_texts: Sequence[str], train_labels: NDArray[Any], test_texts: Sequence[str], classes: int, seed: int = 0
) -> Floats:
    """Logistic regression on TF-IDF of words and letter groups, the classic that small tuned models often fail to beat.

    Words (1 and 2) and letters within words (3 to 5), sublinear frequency; the letters carry misspellings, inflection and
    languages written without spaces. Multi-label: one regression a label. Vocabulary and weights come from train rows only.

    Args:
        train_texts: N texts. train_labels: int (N,) or bool (N, C). test_texts: M texts.
        classes: C; a class without train rows gets probability 0 (multi-label: its prior).
        seed: for scikit-learn's solvers; those used here draw nothing, so every seed gives the same.

    Returns:
        (M, C).

    Source: Wang and Manning 2012 (ACL, "Baselines and bigrams") for n-grams with a linear model; scikit-learn's solvers.
    """
    from sklearn.linear_model import LogisticRegression

    kept = _features(train_texts, test_texts)
    if kept is None or (train_labels.ndim == 1 and len(np.unique(train_labels)) < 2):
        return majority(train_labels, len(test_texts), classes)  # nothing to read, or nothing to tell apart
    train_NF, test_MF = kept
    if train_labels.ndim == 1:
        # the default tolerance: stopping at 1e-3 takes half the time and leaves a weaker baseline (91.4 for 91.7 %)
        model = LogisticRegression(C=REGULARISATION, max_iter=500, random_state=seed).fit(train_NF, train_labels)
        found = np.zeros((len(test_texts), classes))
        found[:, model.classes_] = model.predict_proba(test_MF)
        return found
    found = majority(train_labels, len(test_texts), classes)
    for c in np.flatnonzero(train_labels.any(0) & ~train_labels.all(0)):
        one = LogisticRegression(C=REGULARISATION, solver="liblinear", random_state=seed).fit(train_NF, train_labels[:, c])
        found[:, c] = one.predict_proba(test_MF)[:, 1]
    return found


def _features(train_texts: Sequence[str], test_texts: Sequence[str]) -> tuple[Any, Any] | None:
    """TF-IDF of train (N, F) and test rows (M, F), or None when the train texts hold no word."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    rare = 2 if len(train_texts) >= PRUNE_FROM else 1
    common = {"sublinear_tf": True, "dtype": np.float32, "min_df": rare, "max_features": MOST_TERMS}
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
    return (hstack(train, format="csr"), hstack(test, format="csr")) if train else None


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
    member = np.eye(len(known))[label_N]
    sums, count = member.T @ train, member.sum(0)
    cosines = train @ _unit(sums).T
    cosines[np.arange(len(train)), label_N] = (train * _unit(sums[label_N] - train)).sum(1)
    fair = count[label_N] > 1  # the only row of its class has no mean left to be compared with
    temperature = fit_temperature(cosines[fair], label_N[fair]) if fair.any() and len(known) > 1 else 0.1
    found = np.zeros((len(vectors), classes))
    found[:, known] = softened(other @ _unit(sums).T, temperature)
    return found


def _nearest_mean_multi_label(train: Floats, labels: NDArray[Any], other: Floats) -> Floats:
    """`nearest_mean` for bool labels (N, C), of normalised vectors (N, D) and (M, D)."""
    sum_with, sum_all = labels.T.astype(np.float64) @ train, train.sum(0)
    means_with, means_without = _unit(sum_with), _unit(sum_all - sum_with)
    usable = np.flatnonzero((labels.sum(0) > 1) & ((~labels).sum(0) > 1))
    share = prior(labels, labels.shape[1])
    found = np.tile(share, (len(other), 1))
    if not len(usable):
        return found
    odds = np.log(share / (1 - share))[usable]
    score = np.empty((len(train), len(usable)))
    for column, c in enumerate(usable):
        has = labels[:, c][:, None]
        with_c = np.where(has, _unit(sum_with[c] - train), means_with[c])
        without_c = np.where(has, means_without[c], _unit(sum_all - sum_with[c] - train))
        score[:, column] = (train * (with_c - without_c)).sum(1)
    temperature = fit_temperature(score, labels[:, usable], odds)
    distance = (other @ (means_with - means_without).T)[:, usable]
    found[:, usable] = softened(distance / temperature + odds, 1.0, multi_label=True)
    return found


def _unit(vectors: NDArray[Any]) -> Floats:
    """Vectors of length one; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Floats = np.divide(vectors, length, out=np.zeros_like(vectors, dtype=np.float64), where=length > 1e-12)
    return scaled
