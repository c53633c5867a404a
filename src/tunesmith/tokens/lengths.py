"""How long the rows are in tokens: what a limit cuts, which limit would do, and what padding costs.

Everything but the answers is worked out from (length, how many rows have it), so ten million rows cost one sort.

Shapes: N rows, V different lengths in ascending order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tunesmith.core.errors import counted
from tunesmith.core.sections import Bars, Block, Lines, Series, Table, Words
from tunesmith.tokens.encode import WINDOW_OVERLAP, Truncation

Integers = npt.NDArray[np.int64]
How = Truncation | Literal["pairs", "pieces"]
"""What becomes of a row beyond the limit; `pairs`: the longer of its two texts is cut first; `pieces`: it is divided into sequences that lose
nothing, as documents are."""

KEEP = 0.99
"""A recommended limit keeps this share of the tokens and leaves this share of the answers whole. A convention of ours."""
SMALLEST = 64
"""The first limit that is considered; each next one is twice as long, so that few shapes come up. A convention of ours."""
PERCENTS = (5, 25, 50, 75, 90, 95, 99)
MOST_POINTS = 50
"""Points of the curve of lengths that are kept for drawing."""


def report(
    lengths_N: npt.NDArray[Any],
    limit: int,
    truncation: How = "head",
    answers_N: npt.NDArray[Any] | None = None,
    longest: int | None = None,
    special: int = 0,
    batch_rows: int = 32,
) -> dict[str, Any]:
    """Describe the lengths of rows as they are before anything is cut.

    Args:
        lengths_N: tokens of each row, special ones included. At least one row.
        limit: most tokens of a sequence.
        truncation: what is kept of a longer row.
        answers_N: tokens from where each row's last answer begins to the row's end (so the figures of a dialogue are those of its last answer,
            and what a template writes behind it counts with it); 0 where there is none. None: rows without answers.
        longest: most tokens that the base can read; None where it has no end.
        special: tokens of `lengths_N` that every window repeats, such as [CLS] and [SEP].
        batch_rows: rows of the padded batches that are compared.

    Returns:
        Plain data. `rows`, `total` (tokens before cutting), `p5` ... `p99`, `most`; `limit`, `truncation`, `cut_rows`, `cut_tokens`,
        `windows` (sequences more than rows), `answers_cut`, `answers_lost` (of rows with answers: a part, or all of it is beyond the limit);
        `limits` (what other limits lose), `recommended`, `padding` (with `used`: which of its kinds a training makes), `curve` (share of rows
        not longer than), `said`.
    """
    assert len(lengths_N)
    values_V, counts_V = (np.asarray(one, np.int64) for one in np.unique(lengths_N, return_counts=True))
    pairs = None if answers_N is None else _pairs(lengths_N, answers_N)
    below_V = np.cumsum(counts_V)
    rows, total, most = int(below_V[-1]), int((values_V * counts_V).sum()), int(values_V[-1])
    report: dict[str, Any] = {"rows": rows, "total": total, "limit": limit, "truncation": truncation}
    # The smallest length that at least this share of the rows is not longer than: a length that occurs (numpy's "inverted_cdf").
    report |= {f"p{q}": int(values_V[np.searchsorted(below_V, int(np.ceil(rows * q / 100)))]) for q in PERCENTS} | {"most": most}
    losing = truncation if truncation == "tail" else "head"

    def lost(at: int) -> dict[str, Any]:
        return {"limit": at} | _cut(values_V, counts_V, at) | ({} if pairs is None else _answers(*pairs, at, losing))

    whole = truncation in ("windows", "pieces")
    here = lost(limit)
    report |= here if not whole else {"cut_rows": 0, "cut_tokens": 0}
    report["windows"] = _more(values_V, counts_V, limit, truncation, special) if whole else 0
    report["limits"] = [lost(at) for at in ladder(most, longest)]
    answered = 0 if pairs is None else int(pairs[2][pairs[1] > 0].sum())
    report["recommended"] = _recommended(report["limits"], rows, total, longest, answered, whole)
    packed = truncation == "pieces" or pairs is not None  # as `text.TextExamples` are; texts with labels lie beside others of like length
    report["padding"] = {"used": "packed" if packed else "sorted"} | padding(values_V, counts_V, limit, batch_rows)
    thin = np.unique(np.searchsorted(values_V, np.geomspace(max(1, values_V[0]), max(1, most), MOST_POINTS).round()).clip(max=len(values_V) - 1))
    report["curve"] = [[int(values_V[at]), round(float(below_V[at] / rows), 5)] for at in thin]
    report["said"] = _said(report)
    return report


def ladder(most: int, longest: int | None) -> list[int]:
    """Limits to be considered: 64, 128, 256 ... until the longest row fits or the base reads no more."""
    end = most if longest is None else min(most, longest)
    limits = [SMALLEST]
    while limits[-1] < end:
        limits.append(limits[-1] * 2)
    return limits if longest is None else sorted({min(one, longest) for one in limits})


def _cut(values_V: Integers, counts_V: Integers, limit: int) -> dict[str, int]:
    over_V = np.maximum(values_V - limit, 0)
    return {"cut_rows": int(counts_V[over_V > 0].sum()), "cut_tokens": int((over_V * counts_V).sum())}


def _pairs(lengths_N: npt.NDArray[Any], answers_N: npt.NDArray[Any]) -> tuple[Integers, Integers, Integers]:
    """The different pairs of a length and its answer's, and how many rows have each."""
    assert len(lengths_N) == len(answers_N) and (answers_N <= lengths_N).all()
    keys_N = lengths_N.astype(np.int64)
    keys_N <<= 32  # in place: 8 bytes a row are enough
    keys_N |= answers_N
    keys, counts = np.unique(keys_N, return_counts=True)
    return keys >> 32, keys & 0xFFFFFFFF, counts


def _answers(lengths: Integers, answers: Integers, counts: Integers, limit: int, truncation: str) -> dict[str, int]:
    """Rows whose last answer loses a part, and all of it."""
    kept = np.minimum(answers, limit) if truncation == "tail" else np.clip(limit - (lengths - answers), 0, answers)
    lost = (kept == 0) & (answers > 0)
    return {"answers_cut": int(counts[(kept < answers) & ~lost].sum()), "answers_lost": int(counts[lost].sum())}


def _more(values_V: Integers, counts_V: Integers, limit: int, truncation: How, special: int) -> int:
    """Sequences more than rows, when longer rows become several (`encode._cut` and `text.documents` make them)."""
    if truncation == "pieces":  # neighbours share one token
        return int(((np.maximum(values_V - 2, 0) // max(1, limit - 1)) * counts_V).sum())
    room = limit - special
    over_V = np.maximum(values_V - limit, 0)
    return int((-(-over_V // max(1, int(room * (1 - WINDOW_OVERLAP)))) * counts_V).sum())


def _recommended(limits: list[dict[str, Any]], rows: int, total: int, longest: int | None, answered: int, whole: bool) -> dict[str, Any]:
    """The smallest limit that keeps KEEP of the tokens and of the answers, and why."""

    def kept(one: Mapping[str, Any]) -> tuple[float, float]:
        hurt = one.get("answers_cut", 0) + one.get("answers_lost", 0)
        return 1 - one["cut_tokens"] / max(1, total), 1 - hurt / max(1, answered)

    best = next((one for one in limits if min(kept(one)) >= KEEP), limits[-1])
    tokens, answers = kept(best)
    also = f" and leaves {_percent(answers)} of the answers whole" if answered else ""
    if min(tokens, answers) >= KEEP:
        why = f"{best['limit']} is the smallest of {', '.join(str(one['limit']) for one in limits)} that keeps {KEEP:.0%} of the tokens"
        why = f"{why}{' and of the answers' if answered else ''}: it keeps {_percent(tokens)}{also}"
    elif whole:
        why = f"the base reads {longest} tokens at most; longer rows are divided and lose nothing"
    else:
        why = f"the base reads {longest} tokens at most, which keeps {_percent(tokens)} of them{also}: divide long rows, or take a base that reads more"
    return {"limit": best["limit"], "tokens_kept": tokens, "answers_whole": answers if answered else None, "rows_cut": best["cut_rows"] / rows, "reason": why}


def padding(values_V: Integers, counts_V: Integers, limit: int, batch_rows: int) -> dict[str, Any]:
    """What padded batches cost: rows cut to the limit, in random order, sorted by length, and packed (none outside attention).

    Args:
        values_V, counts_V: the different lengths, ascending, and how many rows have each.
        limit: most tokens of a row; one that is divided counts as its first piece.
        batch_rows: rows of a batch.

    Returns:
        `tokens` that are not padding; `random`, `sorted` and `packed`, each with `padding` (tokens) and `share` (of the padded batch).
        `random` is the expectation over all orders: the longest of b rows of N is at most v with the chance C(n, b) / C(N, b) where n rows are.
    """
    cut_V = np.minimum(values_V, limit)
    below_V = np.cumsum(counts_V)
    rows, tokens = int(below_V[-1]), int((cut_V * counts_V).sum())

    def widest(size: int) -> float:
        chance_V = np.ones(len(below_V))
        for index in range(size):
            chance_V *= np.maximum(below_V - index, 0) / (rows - index)
        return float((cut_V * np.diff(chance_V, prepend=0)).sum())

    rest = rows % batch_rows
    random = (rows - rest) * (widest(batch_rows) if rows >= batch_rows else 0.0) + (rest * widest(rest) if rest else 0.0)
    ends = np.minimum(np.arange(batch_rows, rows + batch_rows, batch_rows), rows)
    in_order = int((np.diff(ends, prepend=0) * cut_V[np.searchsorted(below_V, ends)]).sum())
    padded = {"random": random, "sorted": in_order, "packed": tokens}
    return {"batch_rows": batch_rows, "tokens": tokens} | {
        name: {"padding": round(size - tokens), "share": max(0.0, (size - tokens) / max(1, size))} for name, size in padded.items()
    }


def _percent(share: float) -> str:
    """A share that is rounded neither to nothing nor to all: 0.03 % and 99.97 % stay what they are."""
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    return f"{100 * share:.2g} %" if share < 0.01 else f"{100 * share:.1f} %" if share < 0.99 else f"{min(99.99, 100 * share):.2f} %"


PARTS = {"tail": "beginnings", "head_tail": "middles", "pairs": "longer texts"}
"""What a row loses to the limit; with any other truncation: its end."""


def _said(report: Mapping[str, Any]) -> str:
    """The report in a few sentences."""
    limit, rows, truncation = report["limit"], report["rows"], report["truncation"]
    lengths = f"Training rows have {report['p50']:,} tokens at the median, {report['p95']:,} at the 95th percentile, {report['most']:,} at most"
    if report["windows"]:
        kind = "overlapping windows" if truncation == "windows" else "pieces"
        return f"{lengths}; those beyond {limit:,} are read in {kind}, {report['windows']:,} more than there are rows, and nothing is cut."
    if not report["cut_rows"]:
        return f"{lengths}; the limit of {limit:,} cuts none."
    tokens, share = counted(report["cut_tokens"], "token"), _percent(report["cut_tokens"] / report["total"])
    said = f"{lengths}. The limit of {limit:,} cuts {tokens} ({share}) from the {PARTS.get(truncation, 'ends')} of "
    said += f"{report['cut_rows']:,} of {rows:,} rows ({_percent(report['cut_rows'] / rows)})."
    if "answers_cut" in report:
        said += f" Last answers cut: {report['answers_cut']:,}; lost: {report['answers_lost']:,}."
    ways = _ways(report)
    return f"{said} To lose less: {'; '.join(ways)}." if ways else said


def _ways(report: Mapping[str, Any]) -> list[str]:
    """What to set in the recipe so that less is cut."""
    best, truncation = report["recommended"], report["truncation"]
    ways = []
    if best["limit"] > report["limit"]:
        answers = "" if best["answers_whole"] is None else f" and {_percent(best['answers_whole'])} of the last answers whole"
        ways.append(f"model.max_tokens: {best['limit']} keeps {_percent(best['tokens_kept'])} of the tokens{answers}")
    if "answers_cut" in report:
        return ways if truncation == "tail" else [*ways, "model.truncation: tail keeps the last answers"]
    return ways if truncation == "pairs" else [*ways, "model.truncation: windows reads all of every row"]


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The report as blocks of a section."""
    answers = "answers_cut" in report["limits"][0]
    rows, total = report["rows"], max(1, report["total"])
    head = ["limit", "rows cut", "rows cut, %", "tokens lost, %", *(["answers cut", "answers lost"] if answers else [])]
    lines: list[list[str | float | int | None]] = []
    for one in report["limits"]:
        shares = [100 * one["cut_rows"] / rows, 100 * one["cut_tokens"] / total]
        lines.append([one["limit"], one["cut_rows"], *shares, *([one["answers_cut"], one["answers_lost"]] if answers else [])])
    waste = report["padding"]
    used, spared = waste["used"], waste["random"]["padding"] - waste[waste["used"]]["padding"]
    spare = f"{'Packed batches' if used == 'packed' else 'Batches of rows of like length'} spare {spared:,} tokens of padding an epoch."
    names = {"random": "padded, in random order", "sorted": "padded, rows of like length together", "packed": "packed, none outside attention"}
    limit, best = report["limit"], report["recommended"]
    other = best["limit"]
    marks = [(limit, f"limit {limit}, as recommended")] if limit == other else [(limit, f"limit {limit}"), (other, f"recommended {other}")]
    curve = Series("rows", [x for x, _ in report["curve"]], [100 * y for _, y in report["curve"]])
    lengths = [["tokens", *(report[f"p{q}"] for q in PERCENTS), report["most"]]]
    what = "What a limit would cut, if nothing is divided" if report["truncation"] in ("windows", "pieces") else "What a limit would cut"
    return [
        Words(report["said"], "warn" if report["cut_rows"] else "plain"),
        Table(["", *(f"{q} %" for q in PERCENTS), "most"], lengths, "This share of the rows is not longer than"),
        Lines([curve], "tokens", "rows not longer, %", "Lengths of the training rows", marks, log_x=True),
        Table(head, lines, f"{what}; the recommended one is stressed", 1, [one["limit"] for one in report["limits"]].index(other)),
        Words(f"Recommended limit: {best['reason']}."),
        Bars([names[key] for key in names], [100 * waste[key]["share"] for key in names], "padding, % of what is computed",
             emphasis=list(names).index(used), caption=f"What batches of {waste['batch_rows']} rows waste on padding; this run's kind is stressed"),
        *([Words(spare)] if spared > 0 else []),
    ]  # fmt: skip
