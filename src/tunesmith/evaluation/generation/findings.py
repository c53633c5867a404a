"""The evaluation of generated text, or of likelihoods alone, in words and pictures; `findings` for text.

As cautious as there: better or worse is said only when the interval of the difference leaves zero out and the p-value, adjusted
for the number of models compared with, is below 0.05. The headline metric decides; perplexity is named beside it, because a
model may copy the references' words and yet find them less likely, or the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tunesmith.core.sections import Bars, Block, Lines, Sample, Samples, Section, Series, Table, Tone, Words
from tunesmith.evaluation.classification.findings import FEW_GROUPS, NEGLIGIBLE, SURE, WIDE, Reading, called, rows_needed
from tunesmith.evaluation.generation.measure import GENERAL
from tunesmith.evaluation.generation.metrics import LESS_IS_BETTER, SHARES

NAMES = {
    "rouge_l": "ROUGE-L",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "exact_match": "exact match",
    "bleu": "BLEU",
    "chrf": "chrF",
    "length_ratio": "length ratio",
    "ended": "ended by itself",
    "nll": "loss per token",
    "perplexity": "perplexity",
}
MEANINGS = {
    "rouge_l": "how much of the reference's words an answer has in the same order, and how little else",
    "rouge_1": "the words that answer and reference share",
    "rouge_2": "the pairs of words that answer and reference share",
    "exact_match": "the share of answers equal to the reference but for white space",
    "bleu": "the runs of one to four words that answers share with the references, 0 to 100",
    "chrf": "the runs of one to six characters that answers share with the references, 0 to 100",
    "nll": "how surprised the model is by a token of the true text, in nats; lower is better",
    "perplexity": "how many tokens the model wavers between, on average, where one is true; lower is better",
}

CUT_OFF = 0.1
"""More answers than this stopped by the limit of tokens get a remark. A convention of ours, like the next three."""
LENGTHS = (0.67, 1.5)
"""Answers shorter or longer than the references by more than these factors get a remark."""
FORGOT = 0.02
"""Change of the loss on general text, in nats a token (2 % of perplexity), below which forgetting is called negligible."""
FORGOT_MUCH = 0.2
"""Change (22 % of perplexity) from which it is called large and colours the verdict."""

Scale = Literal["share", "score", "nats", "perplexity", "ratio"]


def scale(metric: str) -> Scale:
    """How a metric is written: per cent and points, 0 to 100, nats, perplexity, or a ratio."""
    if metric in SHARES:
        return "share"
    scales: dict[str, Scale] = {"bleu": "score", "chrf": "score", "perplexity": "perplexity", "length_ratio": "ratio"}
    return scales.get(metric, "nats")


def _number(metric: str, value: float) -> str:
    """A value without its unit: `41.2`, `2.345`, `12.30`, `1,234`."""
    kind = scale(metric)
    if kind == "perplexity":
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
    digits = {"share": 1, "score": 1, "nats": 3, "ratio": 2}[kind]
    return f"{100 * value if kind == 'share' else value:,.{digits}f}"


def show(metric: str, value: float) -> str:
    """A metric's value as a reader expects it: `41.2 %` for a share, else the number."""
    return _number(metric, value) + (" %" if scale(metric) == "share" else "")


def show_interval(metric: str, entry: Mapping[str, float]) -> str:
    """`41.2 % (39.8 to 42.6)`."""
    return f"{show(metric, entry['value'])} ({_number(metric, entry['low'])} to {_number(metric, entry['high'])})"


def _amount(metric: str, difference: float) -> str:
    """`3.1 points higher`, `0.020 lower`, `the same` when it would be shown as zero."""
    size = _number(metric, abs(difference))
    if float(size.replace(",", "")) == 0:
        return "the same"
    return f"{size}{' points' if scale(metric) in ('share', 'score') else ''} {'higher' if difference > 0 else 'lower'}"


def _range(metric: str, low: float, high: float) -> str:
    """`2.2 to 4.1 points higher`, or `0.9 points lower to 1.9 points higher`."""
    if low < 0 < high:
        return f"{_amount(metric, low)} to {_amount(metric, high)}".replace("the same", "no difference")
    nearer, farther = sorted((low, high), key=abs)
    return f"{_number(metric, abs(nearer))} to {_amount(metric, farther)}"


def _p(comparison: Mapping[str, Any]) -> str:
    value = comparison.get("p_adjusted", comparison["p"])
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def reading(comparison: Mapping[str, Any]) -> Reading:
    """What a comparison shows: better, worse, equal (any difference is below `findings.NEGLIGIBLE`), or unclear.

    For shares that is a point, for BLEU and chrF a point of their hundred, for the loss 0.01 nats a token, for perplexity never.
    """
    low, high, metric = comparison["low"], comparison["high"], comparison["metric"]
    if comparison.get("p_adjusted", comparison["p"]) < SURE and (low > 0 or high < 0):
        return "better" if (low > 0) != (metric in LESS_IS_BETTER) else "worse"
    least = {"share": NEGLIGIBLE, "score": 100 * NEGLIGIBLE, "nats": NEGLIGIBLE}.get(scale(metric), 0.0)
    return "equal" if -least < low and high < least else "unclear"


def _sentence(comparison: Mapping[str, Any], models: Mapping[str, Any], rows: int) -> str:
    """One comparison in one or two sentences."""
    metric, against, verdict = comparison["metric"], called(comparison["against"]), reading(comparison)
    values = " against ".join(show(metric, models[name][metric]["value"]) for name in (comparison["model"], comparison["against"]))
    if comparison["low"] == comparison["high"] == 0:  # on every resample: equal losses, of the same weights most likely
        return f"No different from {against}: {NAMES[metric]} is the same ({values})."
    fact = f"{NAMES[metric]} is {_amount(metric, comparison['difference'])} ({values}"
    interval = _range(metric, comparison["low"], comparison["high"])
    if verdict in ("better", "worse"):
        return f"{verdict.capitalize()} than {against}: {fact}; 95 % interval {interval}; {_p(comparison)})."
    sure = f"anything from {interval} fits the data (95 % interval; {_p(comparison)})"
    if verdict == "equal":
        return f"As good as {against}, and no better: {fact}); {sure}."
    said = f"Not shown to be better than {against}: {fact}), but {sure}."
    good_sign = (comparison["difference"] > 0) != (metric in LESS_IS_BETTER)
    needed = rows_needed(rows, comparison)
    return said + (f" If the gain really is that large, it would take about {needed:,} test rows to show it." if good_sign and needed else "")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _headline(found: Mapping[str, Any], metric: str) -> tuple[str, Tone]:
    """The verdict in one line, and its colour: by the headline metric against each model, then by perplexity."""
    read, side = ({c["against"]: reading(c) for c in found["comparisons"] if c["metric"] == m} for m in (metric, "perplexity"))
    if not read:
        return "The tuned model was compared with nothing: whether tuning helped is not known", "warn"
    agree = metric != "nll" and side == read
    on = NAMES["perplexity"] if metric == "nll" else NAMES[metric] + (" and perplexity" if agree else "")
    better, worse, other = ([called(n) for n, r in read.items() if r in kinds] for kinds in (["better"], ["worse"], ["equal", "unclear"]))
    tone: Tone
    if worse:
        said, tone = f"The tuned model is worse than {_listed(worse)} on {on}", "bad"
        said += f", though better than {_listed(better)}" if better else ""
    elif not other:
        said, tone = f"The tuned model is better than {_listed(better)} on {on}", "good"
    elif better:
        said, tone = f"The tuned model is better than {_listed(better)} on {on}, but not shown to be better than {_listed(other)}", "warn"
    else:
        said = f"The tuned model is NOT shown to be better than {_listed(other)} on {on}"
        tone = "bad" if all(r == "equal" for r in read.values()) else "warn"
    if agree or metric == "nll" or len(read) > 1 or len(side) != 1:
        return said, tone
    beside = next(iter(side.values()))
    if beside == "better":
        said += ", though better on perplexity"
        tone = "bad" if worse else "warn"
    elif beside == "worse":
        said += f", {'but' if better else 'and'} worse on perplexity"
        tone = "warn" if tone == "good" else tone
    elif better:
        said += ", but not shown to be on perplexity"
    return said, tone


def verdict(evaluation: Mapping[str, Any], split: str = "test") -> tuple[str, list[str], Tone]:
    """Is the tuned model better than the untuned base, by how much, how sure is that, and what did it forget?

    Args:
        evaluation: what `evaluation.json` holds, of `measure_text`; the headline metric decides.
        split: whose rows to go by.

    Returns:
        The headline, sentences in plain English, and a tone: good (better than every model compared with), bad (worse than one,
        or shown to be no better), else warn; also warn instead of good when it lost much of its grip on general text.
    """
    metric, found = evaluation["headline"], evaluation["splits"][split]
    tuned, rows, groups = found.get("tuned", "tuned"), found["rows"], found.get("groups")
    own = found["models"][tuned]
    headline, tone = _headline(found, metric)
    shown = "perplexity" if metric == "nll" and "perplexity" in own else metric
    first = f"On {rows:,} {split} rows the tuned model's {NAMES[shown]} is {show_interval(shown, own[shown])}, with a 95 % interval."
    sentences = [first + (f" {NAMES[shown][:1].upper() + NAMES[shown][1:]} is {MEANINGS[shown]}." if shown in MEANINGS else "")]
    for decides in dict.fromkeys((shown, "perplexity")):
        sentences += [_sentence(c, found["models"], rows) for c in found["comparisons"] if c["metric"] == decides and c["model"] == tuned]
    sentences += [f"Loss and perplexity are not compared with {called(name)}: it cuts the texts into other tokens." for name in found.get("apart", [])]
    sentences += _remarks(own, metric)
    if groups is not None and groups < FEW_GROUPS:
        sentences.append(f"The rows belong to only {groups:,} groups that count as one each, so the intervals themselves are rough.")
    if GENERAL in evaluation["splits"]:
        said, forgot = forgetting(evaluation["splits"][GENERAL])
        sentences.append(said)
        if forgot == "bad" and tone == "good":
            tone = "warn"
    return headline, sentences, tone


def _remarks(own: Mapping[str, Mapping[str, float]], metric: str) -> list[str]:
    """What a reader has to know before trusting the figures."""
    said = []
    width = own[metric]["high"] - own[metric]["low"]
    if metric in SHARES and width > WIDE:
        said.append(f"The test set is small: the figure is known only to within about {50 * width:.0f} points either way.")
    if "ended" in own and own["ended"]["value"] < 1 - CUT_OFF:
        said.append(f"{100 * (1 - own['ended']['value']):.0f} % of its answers were cut off at the limit of tokens, which lowers every figure.")
    ratio = own["length_ratio"]["value"] if "length_ratio" in own else 1.0
    if not LENGTHS[0] <= ratio <= LENGTHS[1]:
        said.append(f"Its answers have {ratio:.2f} times the words of the references: they are too {'short' if ratio < 1 else 'long'}.")
    return said


def forgetting(found: Mapping[str, Any], base: str = "base") -> tuple[str, Tone]:
    """What the tuned model lost on a text of another kind, in a sentence, and how bad that is.

    Args:
        found: the split `general` of `measure_text.with_forgetting`.
        base: the model before tuning.

    Returns:
        The sentence, and a tone: good (no worse than `FORGOT`), bad (surely above `FORGOT` and at least `FORGOT_MUCH`), plain
        where the two cannot be compared, else warn.
    """
    tuned, models = found.get("tuned", "tuned"), found["models"]
    source = f"On general text ({found['source']})" if found.get("source") else "On general text"
    change = next((c for c in found["comparisons"] if c["metric"] == "nll" and c["against"] == base), None)
    if change is None:
        return f"{source} forgetting could not be measured: before and after tuning the model cuts it into other tokens.", "plain"
    values = " after tuning, ".join(show("nll", models[name]["nll"]["value"]) for name in (tuned, base))
    rise = [100 * math.expm1(min(change[key], 50.0)) for key in ("difference", "low", "high")]
    sure = f"perplexity {rise[0]:+.1f} %, 95 % interval {rise[1]:+.1f} to {rise[2]:+.1f} %; {_p(change)}".replace("-", "−")
    fact = f"the loss per token is {values} before ({sure})"
    read = reading(change)
    if change["high"] < FORGOT:
        gained = " It even gained there." if read == "better" else ""
        return f"{source} it forgot next to nothing: {fact}.{gained}", "good"
    if read == "worse" and change["difference"] >= FORGOT_MUCH and change["low"] > FORGOT:
        return f"{source} it forgot much: {fact}. A lower learning rate, fewer epochs, LoRA, or general rows mixed into training would keep more.", "bad"
    if read == "worse":
        return f"{source} it forgot a little: {fact}.", "warn"
    return f"{source} forgetting is neither shown nor ruled out: {fact}.", "warn"


def sections(evaluation: Mapping[str, Any], split: str = "test") -> list[Section]:
    """The report's sections on one split, in reading order: results, `distribution`, `samples`, `forgetting`.

    Args:
        evaluation: what `evaluation.json` holds, of `measure_text`.
        split: whose rows to show.
    """
    found = evaluation["splits"][split]
    made = [_against(evaluation["headline"], found)]
    if found.get("distribution"):
        made.append(Section("distribution", "Row by row", _spread(found["distribution"], found.get("tuned", "tuned"))))
    if found.get("samples"):
        made.append(Section("samples", "Read for yourself", _samples(found)))
    if GENERAL in evaluation["splits"] and split != GENERAL:
        made.append(Section("forgetting", "What it forgot", _forgot(evaluation["splits"][GENERAL])))
    return made


def _against(headline: str, found: Mapping[str, Any]) -> Section:
    models, tuned = found["models"], found.get("tuned", "tuned")
    names = sorted((n for n in models if headline in models[n]), key=lambda n: models[n][headline]["value"], reverse=headline not in LESS_IS_BETTER)
    metrics = sorted((m for m in models[tuned] if m in NAMES), key=lambda m: m != headline)
    table = Table(  # metrics down, models across: ten columns would not fit a page, let alone a phone
        ["Metric", *(called(n) for n in names)],
        [[NAMES[m], *(show_interval(m, models[n][m]) if m in models[n] else None for n in names)] for m in metrics],
        f"{found['rows']:,} rows; 95 % intervals in brackets; the metric that decides is stressed",
        emphasis=0,
    )
    bars = Bars(
        [called(n) for n in names],
        [models[n][headline]["value"] for n in names],
        NAMES[headline] + (" (lower is better)" if headline in LESS_IS_BETTER else ""),
        [(models[n][headline]["low"], models[n][headline]["high"]) for n in names],
        names.index(tuned),
        "Bars with 95 % intervals. Intervals of two models may overlap although their difference on the same rows is certain.",
        (0.0, 1.0) if headline in SHARES else None,
    )
    blocks: list[Block] = [bars, table]
    if found["comparisons"]:
        said = "The tuned model less the other, on the same rows. The adjusted p-values allow for the number of models compared with (Holm)."
        if "nll" in models[tuned]:
            said += " Of loss and perplexity, less is better."
        if found.get("groups") is not None:
            said += f" The rows belong to {found['groups']:,} groups (`together`) that count as one each in intervals and tests."
        blocks += [Words(said), _differences(found["comparisons"])]
    if found.get("signatures"):
        blocks.append(Table(["Metric", "How it is computed"], [[NAMES.get(m, "ROUGE"), s] for m, s in found["signatures"].items()]))
    return Section("baselines", "Against the untuned base" if set(models) <= {tuned, "base"} else "Against the others", blocks)


def _differences(comparisons: Sequence[Mapping[str, Any]]) -> Table:
    units = {"share": " (points)", "score": " (points)", "nats": " (nats)"}
    rows = [
        [called(c["against"]), NAMES[c["metric"]] + units.get(scale(c["metric"]), ""),
         *(_signed(c["metric"], c[key]) for key in ("difference", "low", "high")), _p({"p": c["p"]}), _p(c), reading(c)]
        for c in comparisons
    ]  # fmt: skip
    return Table(["Against", "Metric", "Difference", "Low", "High", "p", "p, adjusted", "Reading"], rows, "Differences")


def _signed(metric: str, difference: float) -> str:
    sign = {"the same": ""}.get(_amount(metric, difference), "+" if difference > 0 else "−")
    return sign + _number(metric, abs(difference))


def _spread(distribution: Mapping[str, Any], tuned: str) -> list[Block]:
    metric, edges = distribution["metric"], distribution["edges"]
    middles = [(low + high) / 2 for low, high in zip(edges, edges[1:], strict=False)]
    order = sorted(distribution["models"], key=lambda name: name != tuned)
    series = [Series(called(name), middles, [100 * share for share in distribution["models"][name]]) for name in order]
    caption = f"How the rows are spread: a model with the same average may be even, or very good here and useless there. {len(middles)} bins."
    return [Lines(series, f"{NAMES[metric]} of a row", "% of rows", caption)]


KINDS = {
    "random": "Picked at random from all rows, before anything was known of them",
    "gain": "Where tuning helped most, by ROUGE-L",
    "loss": "Where tuning did most harm, by ROUGE-L",
}


def _samples(found: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [Words("Figures do not tell whether an answer is true or polite. No row is shown twice.")]
    for kind, caption in KINDS.items():
        chosen = [_sample(one, found.get("tuned", "tuned")) for one in found["samples"] if one["kind"] == kind]
        if chosen:
            blocks.append(Samples(chosen, caption))
        elif kind == "loss" and not any(len(one["rouge_l"]) < 2 or _harmed(one) for one in found["samples"]):  # a draw at random may hold the only one
            blocks.append(Words("No row is worse than before by ROUGE-L.", "good"))
    return blocks


def _harmed(one: Mapping[str, Any]) -> bool:
    before, after = one["rouge_l"].values()
    return bool(after < before)


def _sample(one: Mapping[str, Any], tuned: str) -> Sample:
    names = list(one["answers"])
    scores = [(f"ROUGE-L, {called(name)}", show("rouge_l", one["rouge_l"][name])) for name in names]
    above = [("prompt", one["prompt"])] if one.get("prompt") is not None else []
    beside = [(called(name), one["answers"][name]) for name in names]
    return Sample([("row", one["row"]), *scores], [*above, ("reference", one["reference"])], beside, names.index(tuned))


def _forgot(found: Mapping[str, Any]) -> list[Block]:
    said, tone = forgetting(found)
    models, tuned = found["models"], found.get("tuned", "tuned")
    names = sorted(models, key=lambda name: name == tuned)
    shown = ("nll", "perplexity")
    table = Table(
        ["Model", *(NAMES[m] for m in shown)],
        [[called(name), *(show_interval(m, models[name][m]) for m in shown)] for name in names],
        f"{found['rows']:,} pieces of general text, {found['tokens']:,} tokens; 95 % intervals in brackets",
        emphasis=names.index(tuned),
    )
    blocks: list[Block] = [Words(said, tone), table]
    if found["comparisons"]:
        blocks.append(_differences(found["comparisons"]))
    return blocks
