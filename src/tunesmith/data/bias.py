"""Bias in the data: whose rows bear a label more often, which identity terms go with a label, what is out of balance.

What is compared is a sample of rows (`diversity.sample`). Rows that share a `together` value are one unit and not independent: fifty messages of
one customer say less than those of fifty. Rates stay those of the rows, as a reader counts them. For intervals and tests, rows and labels are
divided by the design effect, 1 + (m - 1) r: m is the size of the unit that a row is in, on average, r how alike the rows of a unit are in the
label (Rao and Scott 1992, Biometrics 48, "A simple method for the analysis of clustered binary data"; the effect after Donald and Donner 1987,
Statistics in Medicine 6). So a unit counts as one row where its rows all have the same label, and as its rows where they are not more alike than
any. To keep one row of each unit would be as valid and throw the others away. r is taken over all rows: with an effect estimated in each group
alone, tests at the 5 % level raised a false alarm in 12 to 24 % of simulated data sets whose units differ in size or label, this way in 0 to 3 %.

Shapes: N rows, U units, L labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tunesmith.data.diversity import words
from tunesmith.errors import UserError, counted
from tunesmith.sections import Bars, Block, Section, Table, Words
from tunesmith.settings import read_yaml

Terms = Mapping[str, Mapping[str, Sequence[str]]]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LEVEL = 0.01
"""Chance of any difference at all being found where labels are random, over all comparisons together; a reviewer has little time."""
Z = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""
FOUR_FIFTHS = 0.8
"""Rates are unlike when one is less than this part of the other, of the label or of its absence (29 CFR 1607.4 D, the four-fifths rule)."""
FEWEST = 20
"""Independent rows that a group needs to be compared, rows that a term needs to be listed. This and DOMINANT are conventions of ours."""
DOMINANT = 0.9
MOST_VALUES = 20
"""Values of an attribute that are compared, the commonest first."""
MOST_LABELS = 10
"""Labels whose rates are listed for every group; those of findings always are."""
SHOWN = 10

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


@dataclass(frozen=True)
class Group:
    """Rows to be compared with others: those with an attribute's value, or that mention people. `other`: the value of the others, if they have one."""

    kind: str
    name: str
    value: str
    inside_N: Mask
    outside_N: Mask
    other: str | None = None


def read_terms(path: Path) -> Terms:
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


def wilson(count: Any, of: Any) -> tuple[Any, Any]:
    """95 % score interval of a share (Wilson 1927) for numbers or arrays, whole or not: those divided by a design effect are not."""
    share = count / of
    centre, half = share + Z**2 / (2 * of), Z * np.sqrt(share * (1 - share) / of + Z**2 / (4 * of**2))
    scale = 1 + Z**2 / of  # at the ends the formula gives 0 and 1 but for rounding
    return np.where(share > 0, (centre - half) / scale, 0.0)[()], np.where(share < 1, (centre + half) / scale, 1.0)[()]


def holm(p_values: Floats, tests: int) -> Floats:
    """p-values adjusted for `tests` comparisons (Holm 1979), those not given being 1."""
    order = np.argsort(p_values, kind="stable")
    raised = np.empty(len(p_values))
    raised[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * (tests - np.arange(len(p_values)))))
    return raised


def alike(labels_NL: Any, units_N: npt.NDArray[np.int64]) -> Floats:
    """How alike the rows of a unit are in each label: the intraclass correlation (L,), 0 (not more than any rows) to 1 (all the same).

    Source: the analysis-of-variance estimator; Ridout, Demétrio and Firth 1999, Biometrics 55, "Estimating intraclass correlation for binary data".
    """
    from scipy.sparse import csr_array

    N, L = labels_NL.shape
    unit_N = np.unique(units_N, return_inverse=True)[1]
    size_U = np.bincount(unit_N)
    U = len(size_U)
    if U in (1, N):
        return np.full(L, float(U == 1))
    sums_UL = csr_array((np.ones(N), (unit_N, np.arange(N))), shape=(U, N)) @ labels_NL
    sum_L = np.asarray(sums_UL.sum(0)).ravel()
    squares_L = sums_UL.multiply(sums_UL).T @ (1 / size_U)
    between_L, within_L = (squares_L - sum_L**2 / N) / (U - 1), (sum_L - squares_L) / (N - U)
    size = (N - (size_U**2).sum() / N) / (U - 1)
    alike_L: Floats = np.clip((between_L - within_L) / np.maximum(between_L + (size - 1) * within_L, 1e-12), 0, 1)
    return alike_L


def effective(labels_NL: Any, alike_L: Floats, units_N: npt.NDArray[np.int64], mask_N: Mask) -> tuple[Floats, Floats, Floats]:
    """Rates of the labels among some rows, and for how many independent rows these count, with each label and in all: three (L,)."""
    rows = np.flatnonzero(mask_N)
    rate_L = np.asarray(labels_NL[rows].sum(0)).ravel() / len(rows)
    size_U = np.bincount(np.unique(units_N[rows], return_inverse=True)[1])
    n_L = len(rows) / (1 + ((size_U**2).sum() / len(rows) - 1) * alike_L)
    return rate_L, rate_L * n_L, n_L


def compare(groups: Sequence[Group], labels_NL: Any, names: Sequence[str], units_N: npt.NDArray[np.int64]) -> tuple[list[dict[str, Any]], int]:
    """Find labels that are more or less frequent in a group than in the rows it is compared with.

    Args:
        groups: whom to compare.
        labels_NL: sparse, 1 where a row has a label.
        names: of the labels.
        units_N: rows with one number count together.

    Returns:
        The comparisons that hold after Holm's correction (Fisher's exact test on the effective counts), whose 95 % intervals do not overlap and
        whose rates are unlike by FOUR_FIFTHS, each with `cautious`, the end of Newcombe's interval of the difference that lies nearest 0
        (Newcombe 1998, Statistics in Medicine 17, method 10); and how many comparisons were made. A label is not compared where fewer than
        one row with it, or without it, would be expected in the smaller of the two groups.
    """
    tests, p_values = 0, []
    found: list[dict[str, Any]] = []
    alike_L = alike(labels_NL, units_N)
    for group in groups:
        if min(len(np.unique(units_N[mask])) for mask in (group.inside_N, group.outside_N)) < FEWEST:
            continue
        (rate_L, k_L, n_L), (other_L, m_L, o_L) = (effective(labels_NL, alike_L, units_N, mask) for mask in (group.inside_N, group.outside_N))
        (low_L, high_L), (below_L, above_L) = wilson(k_L, n_L), wilson(m_L, o_L)
        pooled_L = (k_L + m_L) / (n_L + o_L)
        tested_L = np.minimum(pooled_L, 1 - pooled_L) * np.minimum(n_L, o_L) >= 1
        tests += int(tested_L.sum())
        for at in np.flatnonzero(tested_L & ((low_L > above_L) | (below_L > high_L))).tolist():
            table = [[round(k_L[at]), round(n_L[at] - k_L[at])], [round(m_L[at]), round(o_L[at] - m_L[at])]]
            p_values.append(_exact(table))
            p, q = float(rate_L[at]), float(other_L[at])
            ends = [(p, float(low_L[at]), float(high_L[at])), (q, float(below_L[at]), float(above_L[at]))]
            (high, least, _), (low, _, most) = sorted(ends, reverse=True)
            found.append({
                "group": group, "label": names[at], "rate": p, "low": ends[0][1], "high": ends[0][2], "rows": int(group.inside_N.sum()),
                "other_rate": q, "other_low": ends[1][1], "other_high": ends[1][2], "other_rows": int(group.outside_N.sum()),
                "cautious": high - low - float(np.hypot(high - least, most - low)),
            })  # fmt: skip
    for one, adjusted in zip(found, holm(np.array(p_values), tests), strict=True):
        one["p"] = float(adjusted)
    return [one for one in found if one["p"] < LEVEL and _unlike(one["rate"], one["other_rate"])], tests


def _exact(table: list[list[int]]) -> float:
    """Fisher's exact test, two-sided. What it takes (50 MB, 0.6 s) is loaded once there is something to test."""
    from scipy.stats import fisher_exact

    return float(fisher_exact(table).pvalue)


def _unlike(p: float, q: float) -> bool:
    return min(p, q) < FOUR_FIFTHS * max(p, q) or min(1 - p, 1 - q) < FOUR_FIFTHS * max(1 - p, 1 - q)


def report(sample: pa.Table, rows: int, terms: Terms = IDENTITY, languages: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Look for bias among training rows.

    Args:
        sample, rows: from `diversity.sample`.
        terms: the identity terms, such as those of `read_terms`.
        languages: share of each language, as `languages.shares` gives it.

    Returns:
        Plain data: `rows`, `sample`, `units` (groups of rows that count as one), `tests`, `findings` (what to look at first, each with `kind`, `text`
        and, of comparisons, `numbers`), `attributes` (for each value its rows and the rates of labels), `mentions`, `terms` (z-scores), `balance`.
    """
    units_N = np.unique(sample.column("unit").to_numpy(), return_inverse=True)[1]
    attributes = _attributes(sample)
    hits, sizes_N = mentions(sample.column("text").to_pylist(), terms)
    said = list(_mentioned(hits, terms))
    balance = {"source": _shares(Counter(sample.column("source").to_pylist())), "language": dict(languages or {})}
    balance |= {name: _shares(Counter(values)) for name, values in attributes.items()}
    out: dict[str, Any] = {"rows": rows, "sample": len(sample), "units": int(units_N.max(initial=-1)) + 1, "tests": 0, "balance": balance, "terms": []}
    groups = [group for name, values in attributes.items() for group in _valued(name, values)]
    found: list[dict[str, Any]] = []
    labels_NL, names, compared = _labels(sample)
    if names:
        found, out["tests"] = compare([*groups, *said], labels_NL[:, compared], [names[at] for at in compared], units_N)
        found = [one for one in found if one["group"].kind == "attribute" or _longer_texts_aside(one, labels_NL, names, sizes_N)]
        out["terms"] = _terms(hits, terms, labels_NL, names, sizes_N)
    found.sort(key=lambda one: -one["cautious"])
    shown = {one["label"] for one in found} | {names[at] for at in compared[:MOST_LABELS]}
    at = [index for index in range(len(names)) if names[index] in shown]
    out["attributes"] = [_rates(name, values, labels_NL, names, at, units_N) for name, values in attributes.items()]
    out["mentions"] = [{"dimension": one.name, "group": one.value, "rows": int(one.inside_N.sum())} for one in said if one.inside_N.any()]
    numbers = [{key: value for key, value in one.items() if key != "group"} | {"by": one["group"].name, "value": one["group"].value} for one in found]
    out["findings"] = [
        {"kind": f"label by {one['group'].kind}", "text": _say(one), "numbers": figures} for one, figures in zip(found, numbers, strict=True)
    ] + [{"kind": "balance", "text": text} for text in _unbalanced(balance, attributes, units_N)]
    return out


def _attributes(sample: pa.Table) -> dict[str, list[str | None]]:
    """The value that each row has of each attribute; None where it has none."""
    maps = [dict(pairs or ()) for pairs in sample.column("attributes").to_pylist()]
    return {name: [one.get(name) or None for one in maps] for name in sorted({name for one in maps for name in one})}


def _shares(counts: Counter[Any]) -> dict[str, float]:
    return {value or "(not given)": count / counts.total() for value, count in counts.most_common(MOST_VALUES)}


def _labels(sample: pa.Table) -> tuple[Any, list[str], list[int]]:
    """Sparse (N, L), the labels' names, and the indices of those to be compared, commonest first: of two that exclude each other only the rarer."""
    from scipy.sparse import csr_array

    lists = [one or [] for one in sample.column("labels").to_pylist()]
    counts = Counter(label for one in lists for label in set(one))
    names = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    number = {name: at for at, name in enumerate(names)}
    columns = [sorted({number[label] for label in one}) for one in lists]
    starts = np.cumsum([0, *map(len, columns)])
    flat = np.array([at for one in columns for at in one], np.int64)
    either = len(names) == 2 and all(len(one) == 1 for one in columns)
    return csr_array((np.ones(len(flat)), flat, starts), shape=(len(lists), len(names))), names, [1] if either else list(range(len(names)))


def _valued(name: str, values: Sequence[str | None]) -> list[Group]:
    """Each value of an attribute against the others; two values once, against each other."""
    column = np.array([value or "" for value in values], object)
    counts = Counter(value for value in values if value)
    common = sorted(counts, key=lambda value: (-counts[value], value))[:MOST_VALUES]
    if len(counts) == 2:
        return [Group("attribute", name, common[1], column == common[1], column == common[0], common[0])]
    return [Group("attribute", name, value, column == value, (column != value) & (column != "")) for value in common] if len(counts) > 2 else []


def _mentioned(hits: Sequence[set[str]], terms: Terms) -> Iterator[Group]:
    for dimension, groups in terms.items():
        for name, listed in groups.items():
            inside_N = np.array([not one.isdisjoint(listed) for one in hits], bool)
            yield Group("mention", dimension, name, inside_N, ~inside_N)


def _z(inside_N: Mask, labels_NL: Any, sizes_N: npt.NDArray[np.int64]) -> Floats:
    of_label = np.asarray(labels_NL[np.flatnonzero(inside_N)].sum(0)).ravel()
    z: Floats = log_odds(of_label, labels_NL.T @ sizes_N, int(inside_N.sum()), int(sizes_N.sum()))
    return z


def _longer_texts_aside(one: dict[str, Any], labels_NL: Any, names: Sequence[str], sizes_N: npt.NDArray[np.int64]) -> bool:
    """Whether a group is still mentioned more (or less) often among as many words: long texts mention more of everything."""
    one["z"] = float(_z(one["group"].inside_N, labels_NL, sizes_N)[names.index(one["label"])])
    return bool(abs(one["z"]) > Z and (one["z"] > 0) == (one["rate"] > one["other_rate"]))


def _terms(hits: Sequence[set[str]], terms: Terms, labels_NL: Any, names: Sequence[str], sizes_N: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
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


def _rates(
    name: str, values: Sequence[str | None], labels_NL: Any, names: Sequence[str], at: Sequence[int], units_N: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """The rates of some labels for each value of an attribute."""
    column, listed = np.array([value or "" for value in values], object), []
    alike_L = alike(labels_NL[:, at], units_N)
    for value, count in Counter(value for value in values if value).most_common(MOST_VALUES):
        one: dict[str, Any] = {"value": value, "rows": count, "units": len(np.unique(units_N[column == value])), "labels": {}}
        if at:
            rate_L, k_L, n_L = effective(labels_NL[:, at], alike_L, units_N, column == value)
            low_L, high_L = wilson(k_L, n_L)
            one["labels"] = {names[index]: [float(rate_L[i]), float(low_L[i]), float(high_L[i])] for i, index in enumerate(at)}
        listed.append(one)
    return {"attribute": name, "values": listed}


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.1 or share == 0 else f"{100 * share:.1f}"


def _say(one: Mapping[str, Any]) -> str:
    """A comparison in words. Of two values of an attribute the one with the higher rate comes first."""
    group: Group = one["group"]
    here = (one["rate"], one["low"], one["high"], one["rows"])
    there = (one["other_rate"], one["other_low"], one["other_high"], one["other_rows"])
    if group.kind == "mention":
        first, second = f"in texts that mention {group.value}", "in the others"
    else:
        first, second = f"where `{group.name}` is `{group.value}`", f"where it is `{group.other}`" if group.other else "where it is something else"
    if group.other and there[0] > here[0]:
        here, there = there, here
        first, second = f"where `{group.name}` is `{group.other}`", f"where it is `{group.value}`"
    shares = [f"({_percent(rate)} % of {rows:,} rows, {_percent(low)} to {_percent(high)})" for rate, low, high, rows in (here, there)]
    if not there[0]:
        return f"The label `{one['label']}` occurs {first} {shares[0]} and never {second} {shares[1]}."
    times = here[0] / there[0]
    return f"The label `{one['label']}` is {times:.2g} times as frequent {first} {shares[0]} as {second} {shares[1]}."


def _unbalanced(balance: Mapping[str, Mapping[str, float]], attributes: Mapping[str, Sequence[str | None]], units_N: npt.NDArray[np.int64]) -> list[str]:
    out = []
    for name, shares in balance.items():
        most = max(shares, key=lambda value: shares[value], default="")
        if len(shares) > 1 and shares[most] > DOMINANT:
            out.append(f"{shares[most]:.1%} of the rows have the {name} `{most}`: little is learnt of the rest, and little can be measured there.")
    for name, values in attributes.items():
        units = Counter(value for value, _ in {(value, unit) for value, unit in zip(values, units_N.tolist(), strict=True) if value})
        few = [value for value, count in units.items() if count < FEWEST]
        if len(units) > MOST_VALUES:
            out.append(f"`{name}` has {len(units):,} values; the {MOST_VALUES} commonest were compared. Put them in bands, such as ages by decade.")
        elif few and len(units) > 1:
            listed = ", ".join(f"`{value}` ({units[value]})" for value in sorted(few)[:5])
            out.append(f"{counted(len(few), 'value')} of `{name}` with fewer than {FEWEST} independent rows: {listed}. Nothing can be said of them.")
    return out


def section(report: Mapping[str, Any]) -> Section:
    """A section of the report: what to look at first, then rates, terms and balance."""
    found = report["findings"]
    compared = [one for one in found if "numbers" in one]
    many = f" in a sample of {report['sample']:,} of {report['rows']:,} rows" if report["sample"] < report["rows"] else ""
    units = f", rows with one `together` value taken together ({report['units']:,} in all)" if report["units"] < report["sample"] else ""
    said = f"{counted(report['tests'], 'comparison')} of label rates{many}{units}"
    blocks: list[Block] = []
    if compared:
        blocks.append(Words(f"{said}: {counted(len(compared), 'difference')} beyond chance. A difference is a question, not yet a fault. The largest first:"))
    elif report["tests"]:
        blocks.append(Words(f"{said}: no difference beyond chance. Where there are few rows, one may still be there."))
    blocks += [Words(one["text"], "warn") for one in found[:SHOWN]]
    if len(found) > SHOWN:
        blocks.append(Words(f"{len(found) - SHOWN} more are in the data card."))
    shown = dict.fromkeys((one["numbers"]["by"], one["numbers"]["label"]) for one in compared if one["kind"] == "label by attribute")
    for name, label in list(shown)[:3]:
        values = next(one["values"] for one in report["attributes"] if one["attribute"] == name)
        rates = [[100 * share for share in one["labels"][label]] for one in values]
        caption = f"Rows with the label {label}, by {name}"
        names = [f"{one['value']} ({one['rows']:,} rows)" for one in values]
        blocks.append(Bars(names, [rate[0] for rate in rates], "%", [(rate[1], rate[2]) for rate in rates], caption=caption))
    if report["terms"]:
        lines = [[one["term"], one["group"], one["rows"], one["label"], one["rows_in_label"], one["z"]] for one in report["terms"][: 2 * SHOWN]]
        caption = "Identity terms and the label each goes with most, or least (z below 0); beyond 2 and -2 is rare by chance for a single term"
        blocks.append(Table(["term", "of", "rows", "label", "with it", "z"], lines, caption, 1))
    if report["mentions"]:
        rows = [[one["dimension"], one["group"], one["rows"]] for one in report["mentions"]]
        blocks.append(Table(["", "mentioned", "rows"], rows, "Rows that mention people, by the list of identity terms"))
    lines = [[name, value, 100 * share] for name, shares in report["balance"].items() for value, share in shares.items() if len(shares) > 1]
    if lines:
        blocks.append(Table(["", "value", "rows, %"], lines, "Balance", 1))
    return Section("bias", "Bias in the data", blocks)
