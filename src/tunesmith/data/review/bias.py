"""Bias in the data: whose rows bear a label more often, which identity terms go with a label, what is out of balance.

What is compared is a sample of rows (`diversity.sample`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tunesmith.core.errors import counted
from tunesmith.core.sections import Bars, Block, Section, Table, Words
from tunesmith.data.review import identity_terms, label_rates
from tunesmith.data.review.label_rates import FEWEST, MOST_VALUES, Group

NOT_COMPARED = (
    f"No label rates were compared: that takes labels, and {FEWEST} independent rows with a value of an attribute (data.attributes) or with an identity term."
)
DOMINANT = 0.9
"""Share of the rows with one value from which the others are too few. A convention of ours."""
OTHERS = "(other values)"
"""Stands for the values beyond MOST_VALUES."""
MOST_LABELS = 10
"""Labels whose rates are listed for every group; those of findings always are."""
SHOWN = 10


def report(sample: pa.Table, rows: int, terms: identity_terms.Terms = identity_terms.IDENTITY, languages: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Look for bias among training rows.

    Args:
        sample, rows: from `diversity.sample`.
        terms: the identity terms, such as those of `identity_terms.read`.
        languages: share of each language, as `languages.shares` gives it.

    Returns:
        Plain data: `rows`, `sample`, `units` (groups of rows that count as one), `tests`, `findings` (what to look at first, each with `kind`, `text`
        and, of comparisons, `numbers`), `attributes` (for each value its rows and the rates of labels), `mentions`, `terms` (z-scores), `balance`.
    """
    units_N = np.unique(sample.column("unit").to_numpy(), return_inverse=True)[1]
    attributes = _attributes(sample)
    hits, sizes_N = identity_terms.mentions(sample.column("text").to_pylist(), terms)
    said = list(identity_terms.groups(hits, terms))
    balance = {"source": _shares(Counter(sample.column("source").to_pylist())), "language": dict(languages or {})}
    balance |= {name: _shares(Counter(values)) for name, values in attributes.items()}
    out: dict[str, Any] = {"rows": rows, "sample": len(sample), "units": int(units_N.max(initial=-1)) + 1, "tests": 0, "balance": balance, "terms": []}
    groups = [group for name, values in attributes.items() for group in label_rates.by_value(name, values)]
    found: list[dict[str, Any]] = []
    labels_NL, names, compared = _labels(sample)
    if names:
        found, out["tests"] = label_rates.compare([*groups, *said], labels_NL[:, compared], [names[at] for at in compared], units_N)
        found = [one for one in found if one["group"].kind == "attribute" or identity_terms.longer_texts_aside(one, labels_NL, names, sizes_N)]
        out["terms"] = identity_terms.associations(hits, terms, labels_NL, names, sizes_N)
    found.sort(key=lambda one: -one["cautious"])
    shown = {one["label"] for one in found} | {names[at] for at in compared[:MOST_LABELS]}
    at = [index for index in range(len(names)) if names[index] in shown]
    out["attributes"] = [label_rates.of_attribute(name, values, labels_NL, names, at, units_N) for name, values in attributes.items()]
    out["mentions"] = [{"dimension": one.name, "group": one.value, "rows": int(one.inside_N.sum())} for one in said if one.inside_N.any()]
    numbers = [{key: value for key, value in one.items() if key != "group"} | {"by": one["group"].name, "value": one["group"].value} for one in found]
    out["findings"] = [
        {"kind": f"label by {one['group'].kind}", "text": _say(one), "numbers": figures} for one, figures in zip(found, numbers, strict=True)
    ] + [{"kind": "balance", "text": text} for text in _unbalanced(balance, attributes, units_N, bool(names))]
    return out


def _attributes(sample: pa.Table) -> dict[str, list[str | None]]:
    """The value that each row has of each attribute; None where it has none."""
    maps = [dict(pairs or ()) for pairs in sample.column("attributes").to_pylist()]
    return {name: [one.get(name) or None for one in maps] for name in sorted({name for one in maps for name in one})}


def _shares(counts: Counter[Any]) -> dict[str, float]:
    shown = counts.most_common(MOST_VALUES)
    rest = counts.total() - sum(count for _, count in shown)
    return {value or "(not given)": count / counts.total() for value, count in shown} | ({OTHERS: rest / counts.total()} if rest else {})


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


def _unbalanced(
    balance: Mapping[str, Mapping[str, float]], attributes: Mapping[str, Sequence[str | None]], units_N: npt.NDArray[np.int64], labelled: bool
) -> list[str]:
    out = []
    for name, shares in balance.items():
        most = max((value for value in shares if value != OTHERS), key=lambda value: shares[value], default="")
        if len(shares) > 1 and shares[most] > DOMINANT:
            out.append(f"{shares[most]:.1%} of the rows have the {name} `{most}`: little is learnt of the rest, and little can be measured there.")
    for name, values in attributes.items():
        units = Counter(value for value, _ in {(value, unit) for value, unit in zip(values, units_N.tolist(), strict=True) if value})
        few = [value for value, count in units.items() if count < FEWEST]
        if len(units) > MOST_VALUES:
            common = [value for value, _ in Counter(value for value in values if value).most_common(MOST_VALUES)]
            enough = MOST_VALUES - len(set(common) & set(few))
            which = f"the {MOST_VALUES} commonest" if enough == MOST_VALUES else f"{enough or 'none'} of the {MOST_VALUES} commonest"
            why = "" if enough == MOST_VALUES else f", as that takes {FEWEST} independent rows"
            said = f"; {which} {'was' if enough == 1 else 'were'} compared{why}" if labelled else ""
            out.append(f"`{name}` has {len(units):,} values{said}. Put them in bands, such as ages by decade.")
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
    else:
        blocks.append(Words(NOT_COMPARED))
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
    for name, shares in report["balance"].items():
        if len(shares) > 1:
            blocks.append(Bars(list(shares), [100 * share for share in shares.values()], "training rows, %", caption=f"Balance of {name}"))
    return Section("bias", "Bias in the data", blocks)
