"""Identity terms: whom texts mention, and which labels go with the words that are used for them.

Shapes: N rows, L labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.core.errors import UserError
from tunesmith.core.settings import read_yaml
from tunesmith.core.statistics import Z
from tunesmith.data.review.coverage import words
from tunesmith.data.review.label_rates import FEWEST, Floats, Group, Mask

Terms = Mapping[str, Mapping[str, Sequence[str]]]

IDENTITY: Terms = {
    "gender": {
        "women": "she her hers woman women girl girls mother wife daughter lady ladies female".split(),
        "men": "he him his man men boy boys father husband son gentleman male".split(),
        "trans and non-binary people": ["transgender", "nonbinary", "non-binary", "trans man", "trans woman"],
    },
    "age": {
        "young people": ["teen", "teens", "teenager", "teenagers", "adolescent", "adolescents", "millennials", "young people", "young man", "young woman"],
        "old people": ["elderly", "pensioner", "pensioners", "retiree", "retirees", "old people", "old man", "old woman", "old lady", "grandmother",
                       "grandfather", "grandma", "grandpa", "senior citizen", "senior citizens"],
    },
    "religion": {
        "Muslims": "muslim muslims islam islamic mosque".split(),
        "Christians": "christian christians christianity catholic catholics protestant protestants".split(),
        "Jews": "jew jews jewish judaism synagogue".split(),
        "Hindus": "hindu hindus hinduism".split(),
        "Buddhists": "buddhist buddhists buddhism".split(),
        "people without a religion": "atheist atheists atheism".split(),
    },
    "ethnicity": {
        "Black people": ["black people", "black person", "black man", "black men", "black woman", "black women", "african american", "african americans"],
        "white people": ["white people", "white person", "white man", "white men", "white woman", "white women", "caucasian"],
        "Asians": "asian asians chinese japanese korean vietnamese filipino".split(),
        "Latinos": "latino latinos latina latinas latinx hispanic hispanics mexican mexicans".split(),
        "Arabs": "arab arabs arabic".split(),
        "Africans": "african africans nigerian nigerians".split(),
        "Indians": "indian indians pakistani pakistanis".split(),
        "Roma": "roma romani gypsy gypsies".split(),
        "indigenous people": ["indigenous", "native american", "native americans", "aboriginal"],
        "migrants": "immigrant immigrants migrant migrants refugee refugees foreigner foreigners".split(),
    },
    "disability": {
        "people with disabilities": ["disabled", "disability", "disabilities", "wheelchair", "deaf", "blind man", "blind woman", "blind person"],
        "autistic people": "autistic autism".split(),
        "people with mental illness": ["mental illness", "mentally ill", "bipolar", "schizophrenia", "schizophrenic"],
    },
    "sexuality": {
        "gay and lesbian people": "gay gays lesbian lesbians homosexual homosexuals queer".split(),
        "bisexual people": "bisexual bisexuals".split(),
        "straight people": ["heterosexual", "heterosexuals", "straight people", "straight man", "straight woman"],
    },
}  # fmt: skip
"""English words by whom they speak of. A list of ours; the dimensions are among those of article 21 of the EU's Charter of Fundamental Rights.
Words that mostly mean something else (black, white, old, blind, straight, Polish) stand only beside a person."""


def read(path: Path) -> Terms:
    """Identity terms of the user's own, as YAML: dimension -> group -> list of words or phrases.

    Raises:
        UserError: not there, not YAML, or of another form.
    """
    terms = read_yaml(path)
    form = "write a dimension, below it groups, each with a list: `gender: {women: [she, her], men: [he, him]}`"
    for dimension, groups in terms.items():
        if not isinstance(groups, dict) or not groups:
            raise UserError(f"`{dimension}` holds no groups of terms", str(path), form)
        for group, listed in groups.items():
            if not isinstance(listed, list) or not listed:
                raise UserError(f"`{dimension}.{group}` holds no list of terms", str(path), form)
            for term in listed:
                if not isinstance(term, str) or not words(term):
                    what = f"`{dimension}.{group}` has the term `{term}`, which is no word"
                    raise UserError(what, str(path), "terms are words or phrases, numbers in quotes")
    return terms


def mentions(texts: Iterable[str], terms: Terms) -> tuple[list[set[str]], npt.NDArray[np.int64]]:
    """Which terms each text has, and how many different words it has (N,)."""
    begins: dict[str, list[tuple[str, str]]] = {}
    for term in {term for groups in terms.values() for listed in groups.values() for term in listed}:
        parts = words(term.replace("'", " ").replace("’", " "))
        begins.setdefault(parts[0], []).append((term, f" {' '.join(parts)} " if len(parts) > 1 else ""))
    found, sizes = [], []
    for text in texts:
        listed = words(text.replace("'", " ").replace("’", " "))  # she's, a man's
        seen = set(listed)
        sizes.append(len(seen))
        said = f" {' '.join(listed)} "
        found.append({term for word in begins.keys() & seen for term, phrase in begins[word] if phrase in said})
    return found, np.array(sizes, np.int64)


def log_odds(of_label: Any, label_words: Any, of_all: Any, all_words: Any) -> Any:
    """Weighted log-odds of a term in the texts with a label against all other texts, as z-scores; numbers or arrays.

    Args:
        of_label, of_all: texts with the term, among those with the label and among all.
        label_words, all_words: different words of each text, summed over those with the label and over all.

    Each text counts a word once, as a word that was said is likely to be said again. The prior has as many words as the texts with the label,
    spread as in all texts. It pulls rare terms to no association: where there is none the z-scores spread by about 0.7 rather than 1.

    Source: Monroe, Colaresi and Quinn 2008, "Fightin' Words", Political Analysis 16, the model with an informative Dirichlet prior.
    """
    prior = np.asarray(of_all, np.float64) * label_words / all_words
    here, there = of_label + prior, np.asarray(of_all) - of_label + prior
    rest_here, rest_there = 2 * label_words - here, all_words - label_words + label_words - there
    return (np.log(here / rest_here) - np.log(there / rest_there)) / np.sqrt(1 / here + 1 / there)


def groups(hits: Sequence[set[str]], terms: Terms) -> Iterator[Group]:
    for dimension, groups in terms.items():
        for name, listed in groups.items():
            inside_N = np.array([not one.isdisjoint(listed) for one in hits], bool)
            yield Group("mention", dimension, name, inside_N, ~inside_N)


def _z(inside_N: Mask, labels_NL: Any, sizes_N: npt.NDArray[np.int64]) -> Floats:
    of_label = np.asarray(labels_NL[np.flatnonzero(inside_N)].sum(0)).ravel()
    z: Floats = log_odds(of_label, labels_NL.T @ sizes_N, int(inside_N.sum()), int(sizes_N.sum()))
    return z


def longer_texts_aside(one: dict[str, Any], labels_NL: Any, names: Sequence[str], sizes_N: npt.NDArray[np.int64]) -> bool:
    """Whether a group is still mentioned more (or less) often among as many words: long texts mention more of everything."""
    one["z"] = float(_z(one["group"].inside_N, labels_NL, sizes_N)[names.index(one["label"])])
    return bool(abs(one["z"]) > Z and (one["z"] > 0) == (one["rate"] > one["other_rate"]))


def associations(hits: Sequence[set[str]], terms: Terms, labels_NL: Any, names: Sequence[str], sizes_N: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """Each term that enough texts have, with the label that it goes with (or not with) most, strongest first."""
    rows: dict[str, list[int]] = {}
    for at, one in enumerate(hits):
        for term in one:
            rows.setdefault(term, []).append(at)
    out = []
    for dimension, groups in terms.items():
        for group, listed in groups.items():
            for term in dict.fromkeys(listed):
                if len(rows.get(term, ())) >= FEWEST:
                    mask_N = np.zeros(len(hits), bool)
                    mask_N[rows[term]] = True
                    z_L = _z(mask_N, labels_NL, sizes_N)
                    best = int(np.argmax(np.abs(z_L)))
                    of = {"term": term, "dimension": dimension, "group": group, "rows": len(rows[term]), "label": names[best]}
                    out.append(of | {"rows_in_label": int(labels_NL[rows[term]][:, [best]].sum()), "z": float(z_L[best])})
    return sorted(out, key=lambda one: (-abs(one["z"]), one["term"]))
