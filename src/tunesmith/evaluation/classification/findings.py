"""The evaluation in words and pictures: a verdict that a manager understands, and the report's sections.

The verdict reads only what every `evaluation.json` holds (house.md, section 3), so it serves any objective; a section appears
when the evaluation has what it shows. Cautious throughout: a model is called better only when the interval of the difference
lies above zero and the p-value, adjusted for the number of baselines, is below 0.05.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tunesmith.core.sections import Bars, Block, Heatmap, Lines, Quotes, Section, Series, Table, Tone, Words
from tunesmith.evaluation.classification.cuts import BORROWED
from tunesmith.evaluation.classification.metrics import ERRORS, MULTI_LABEL, SINGLE_LABEL

LESS_IS_BETTER = ERRORS | {"perplexity", "loss"}
SHARES = (frozenset(SINGLE_LABEL) | frozenset(MULTI_LABEL)) - {"log_loss"}
"""Metrics shown in per cent and points."""

NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "weighted_f1": "weighted F1",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "log_loss": "log loss",
    "ece": "calibration error (ECE)",
}
CALLED = {
    "tuned": "the tuned model",
    "majority": "the commonest label",
    "tfidf": "TF-IDF with logistic regression",
    "base": "the untuned base",
}
"""How a reader who has not seen the recipe knows the models; a run's name stands for itself."""
MEANINGS = {
    "accuracy": "the share of rows answered right",
    "macro_f1": "how well each label is found, averaged over labels so that rare ones count as much as common ones",
    "micro_f1": "how well labels are found, each decision counting the same",
    "weighted_f1": "how well each label is found, averaged by how common it is",
    "log_loss": "how far the probabilities are from the truth; lower is better",
}

SURE = 0.05
NEGLIGIBLE = 0.01
"""Differences below one point are called small. A convention of ours: no source."""
WIDE = 0.10
"""An interval wider than ten points is called rough. A convention of ours."""
FEW_OF_A_LABEL = 5
"""Below this median of test rows a label, a macro average rests on a correction of its bias (`few_rows`). In `make coverage` the
correction matters at 2 or 3 rows a label and not at 10; 5 is a convention of ours between them."""
FEW_GROUPS = 20
"""Below this number of groups a cluster bootstrap is unreliable. Source: Cameron and Miller 2015 (J. Human Resources 50)."""

Reading = Literal["better", "worse", "equal", "unclear"]


def reading(comparison: Mapping[str, Any]) -> Reading:
    """What a comparison shows: better, worse, equal (any difference is below `NEGLIGIBLE`), or unclear."""
    low, high, metric = comparison["low"], comparison["high"], comparison["metric"]
    if comparison.get("p_adjusted", comparison["p"]) < SURE and (low > 0 or high < 0):
        return "better" if (low > 0) != (metric in LESS_IS_BETTER) else "worse"
    return "equal" if metric in SHARES and -NEGLIGIBLE < low and high < NEGLIGIBLE else "unclear"


def called(model: str) -> str:
    """A model's name for a reader."""
    return CALLED.get(model, model)


def show(metric: str, value: float) -> str:
    """A metric's value as a reader expects it: `93.5 %`, or `0.412` for what is not a share."""
    return f"{100 * value:.1f} %" if metric in SHARES else f"{value:.3f}"


def show_interval(metric: str, entry: Mapping[str, float]) -> str:
    """`93.5 % (92.6 to 94.3)`."""
    scale, digits = (100, 1) if metric in SHARES else (1, 3)
    return f"{show(metric, entry['value'])} ({scale * entry['low']:.{digits}f} to {scale * entry['high']:.{digits}f})"


def _amount(metric: str, difference: float) -> str:
    """`3.1 points higher`, `0.020 lower`, `the same` when it would be shown as zero."""
    if abs(difference) < 0.0005:
        return "the same"
    size = f"{100 * abs(difference):.1f} points" if metric in SHARES else f"{abs(difference):.3f}"
    return f"{size} {'higher' if difference >= 0 else 'lower'}"


def _range(metric: str, low: float, high: float) -> str:
    """`2.2 to 4.1 points higher`, or `0.9 points lower to 1.9 points higher`."""
    if low < 0 < high:
        return f"{_amount(metric, low)} to {_amount(metric, high)}".replace("the same", "no difference")
    nearer, farther = sorted((low, high), key=abs)
    number = f"{100 * abs(nearer):.1f}" if metric in SHARES else f"{abs(nearer):.3f}"
    return f"{number} to {_amount(metric, farther)}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def rows_needed(rows: int, comparison: Mapping[str, Any]) -> int | None:
    """Test rows that would show a difference of the size measured in four of five tries, to two figures.

    The interval shrinks with the root of the rows; 80 % power at 5 % needs it 2.8 standard errors away from zero.

    Returns:
        None when the difference measured is (nearly) zero, or more than a million rows would be needed.

    Source: the usual sample size formula, (1.96 + 0.84)^2 variance / difference^2.
    """
    error = (comparison["high"] - comparison["low"]) / 2 / 1.96
    if abs(comparison["difference"]) < 1e-9:
        return None
    needed = rows * (2.8 * error / comparison["difference"]) ** 2
    return int(float(f"{needed:.1e}")) if rows < needed <= 1e6 else None


def _sentence(comparison: Mapping[str, Any], models: Mapping[str, Any], rows: int) -> str:
    """One comparison in one or two sentences."""
    metric, against = comparison["metric"], comparison["against"]
    name, verdict = NAMES.get(metric, metric), reading(comparison)
    amount = _amount(metric, comparison["difference"])
    values = " against ".join(show(metric, models[m][metric]["value"]) for m in (comparison["model"], against))
    p = comparison.get("p_adjusted", comparison["p"])
    sure = f"anything from {_range(metric, comparison['low'], comparison['high'])} fits the data (95 % interval; {_p(p)})"
    if verdict in ("better", "worse"):
        small = metric in SHARES and abs(comparison["difference"]) < NEGLIGIBLE
        what = f"{'Slightly ' if small else ''}{verdict if small else verdict.capitalize()} than {called(against)}"
        interval = _range(metric, comparison["low"], comparison["high"])
        return f"{what}: {name} is {amount} ({values}; 95 % interval {interval}; {_p(p)})."
    if verdict == "equal":
        return f"As good as {called(against)}, and no better: {name} is {amount} ({values}); {sure}."
    text = f"Not shown to be better than {called(against)}: {name} is {amount} ({values}), but {sure}."
    good_sign = (comparison["difference"] > 0) != (metric in LESS_IS_BETTER)
    needed = rows_needed(rows, comparison)
    if good_sign and needed:
        text += f" If the gain really is that large, it would take about {needed:,} test rows to show it."
    return text


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]  # `capitalize` would make F1 f1


def _listed(models: Sequence[str]) -> str:
    names = [called(model) for model in models]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _headline(read: Mapping[str, Reading]) -> tuple[str, Tone]:
    """The verdict in one line, and its colour, from what each baseline's comparison shows."""
    better, worse, other = ([n for n, r in read.items() if r in kinds] for kinds in (["better"], ["worse"], ["equal", "unclear"]))
    if not read:
        return "The tuned model was compared with nothing: whether tuning helped is not known", "warn"
    if worse:
        text = f"The tuned model is worse than {_listed(worse)}"
        return text + (f", though better than {_listed(better)}" if better else ""), "bad"
    if not other:
        return f"The tuned model is better than {_listed(better)}", "good"
    if better:
        tone: Tone = "bad" if "majority" in other else "warn"
        return f"The tuned model is better than {_listed(better)}, but not shown to be better than {_listed(other)}", tone
    text = f"The tuned model is NOT shown to be better than {_listed(other)}"
    return text, "bad" if "majority" in other or all(r == "equal" for r in read.values()) else "warn"


def _disagreeing(headline: str, tuned: str, comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Baseline -> the comparison in a second metric that says otherwise than the headline's.

    The second metric is macro F1. It disagrees where one of the two says better and the other does not: common labels may hide what rare ones
    lose. Where macro F1 is the headline, the second is accuracy, which disagrees only where one says better and the other worse.
    """
    second = "accuracy" if headline == "macro_f1" else "macro_f1"
    read = {c["against"]: reading(c) for c in comparisons if c["metric"] == headline and c["model"] == tuned}
    found = {}
    for c in comparisons:
        if c["metric"] == second and c["model"] == tuned and c["against"] in read:
            pair = {reading(c), read[c["against"]]}
            if pair == {"better", "worse"} or (second == "macro_f1" and "better" in pair and len(pair) > 1):
                found[c["against"]] = c
    return found


def _otherwise(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The headline's second half: `by macro F1 it is worse than A and better than B`."""
    metric = next(iter(found.values()))["metric"]
    parts = []
    for words, kinds in (("worse than", ["worse"]), ("not shown to be better than", ["equal", "unclear"]), ("better than", ["better"])):
        if models := [name for name, c in found.items() if reading(c) in kinds]:
            parts.append(f"{words} {_listed(models)}")
    return f"by {NAMES[metric]} it is {' and '.join(parts)}"


def verdict(evaluation: Mapping[str, Any], split: str = "test") -> tuple[str, list[str], Tone]:
    """Is the tuned model better than each baseline, by how much, and how sure is that?

    Args:
        evaluation: what `evaluation.json` holds; the headline metric decides.
        split: whose rows to go by.

    Returns:
        The headline, sentences in plain English, and a tone: good (better than every baseline), bad (worse than one, or not
        shown to be better than the commonest label), else warn. A second metric that disagrees is named, and makes good warn.
    """
    metric, found = evaluation["headline"], evaluation["splits"][split]
    tuned, rows, groups = found.get("tuned", "tuned"), found["rows"], found.get("groups")
    entry = found["models"][tuned][metric]
    lines = [c for c in found["comparisons"] if c["metric"] == metric and c["model"] == tuned]
    headline, tone = _headline({c["against"]: reading(c) for c in lines})
    disagreeing = _disagreeing(metric, tuned, found["comparisons"])
    if disagreeing:
        headline += f" by {NAMES.get(metric, metric)}; {_otherwise(disagreeing)}"
        tone = "warn" if tone == "good" else tone
    accuracy = found["models"][tuned].get("accuracy")
    first = f"On {rows:,} {split} rows the tuned model "
    if accuracy is not None and metric != "accuracy":
        whole = "all labels right" if found.get("multi_label") else "right"
        first += f"gets {show_interval('accuracy', accuracy)} {whole} and "
    first += f"reaches a {NAMES.get(metric, metric)} of {show_interval(metric, entry)}, with 95 % intervals."
    sentences = [first + (f" {_capital(NAMES.get(metric, metric))} is {MEANINGS[metric]}." if metric in MEANINGS else "")]
    for c in lines:
        sentences.append(_sentence(c, found["models"], rows))
        if other := disagreeing.get(c["against"]):
            why = ", in which rare labels count as much as common ones," if other["metric"] == "macro_f1" else ""
            sentences.append(f"By {NAMES[other['metric']]}{why} it is otherwise. {_sentence(other, found['models'], rows)}")
    width = entry["high"] - entry["low"]
    if metric in SHARES and width > WIDE:
        sentences.append(f"The test set is small: the figure is known only to within about {50 * width:.0f} points either way.")
    few = _few_of_a_label(found)
    if few:
        sentences.append(few)
    if groups is not None and groups < FEW_GROUPS:
        sentences.append(f"The rows belong to only {groups:,} groups that count as one each, so the intervals themselves are rough.")
    return headline, sentences, tone


def _few_of_a_label(found: Mapping[str, Any]) -> str | None:
    """A sentence when half of the labels that occur have fewer than `FEW_OF_A_LABEL` test rows."""
    rows = sorted(c["support"] for c in found.get("per_class", []) if c["support"])
    if not rows or rows[(len(rows) - 1) // 2] >= FEW_OF_A_LABEL:
        return None
    return (
        f"Half of the labels have fewer than {FEW_OF_A_LABEL} test rows, so averages over labels are biased, and their intervals "
        "allow for that only roughly: add test rows of these labels."
    )


def sections(
    evaluation: Mapping[str, Any], texts: Mapping[str, str] | None = None, split: str = "test"
) -> list[Section]:
    """The report's sections on one split, in reading order.

    Args:
        evaluation: what `evaluation.json` holds.
        texts: row id -> text, at least of the rows in `worst_errors`; None shows the ids alone.
        split: whose rows to show.
    """
    found = evaluation["splits"][split]
    made = [_against(evaluation["headline"], found)]
    if "worst_errors" in found:
        made.append(Section("errors", "Where it errs", _errors(found, texts or {})))
    if "per_class" in found:
        made.append(Section("labels", "Each label", _labels(found), folded=len(found["per_class"]) > MOST_CLASSES))
    if "cuts" in found:
        made.append(Section("cuts", "From which probability a label is given", _cuts(found["cuts"], split)))
    if "calibration" in found:
        made.append(Section("calibration", "Do its probabilities mean what they say?", _calibration(found)))
    if "coverage" in found:
        made.append(Section("coverage", "Answering only when sure", _coverage(found)))
    return made


def _against(headline: str, found: Mapping[str, Any]) -> Section:
    models, tuned = found["models"], found.get("tuned", "tuned")
    names = sorted(models, key=lambda name: models[name][headline]["value"], reverse=headline not in LESS_IS_BETTER)
    metrics = sorted(models[tuned], key=lambda metric: metric != headline)
    table = Table(
        ["Model", *(NAMES.get(m, m) for m in metrics)],
        [[called(name), *(show_interval(m, models[name][m]) if m in models[name] else None for m in metrics)] for name in names],
        f"{found['rows']:,} rows; 95 % intervals in brackets",
        emphasis=names.index(tuned),
    )
    bars = Bars(
        [called(name) for name in names],
        [models[name][headline]["value"] for name in names],
        NAMES.get(headline, headline),
        [(models[name][headline]["low"], models[name][headline]["high"]) for name in names],
        names.index(tuned),
        "Bars with 95 % intervals. Intervals of two models may overlap although their difference on the same rows is certain.",
        (0.0, 1.0) if headline in SHARES else None,
    )
    rows = [
        [called(c["against"]), NAMES.get(c["metric"], c["metric"]), c["difference"], c["low"], c["high"], _p(c["p"]),
         _p(c.get("p_adjusted", c["p"])), reading(c)]
        for c in found["comparisons"]
    ]  # fmt: skip
    columns = ["Against", "Metric", "Difference", "Low", "High", "p", "p, adjusted", "Reading"]
    blocks: list[Block] = [bars, table]
    if rows:
        text = "The tuned model less the other, on the same rows. The adjusted p-values allow for the number of comparisons (Holm)."
        if found.get("groups") is not None:
            text += f" The rows belong to {found['groups']:,} groups (`together`) that count as one each in intervals and tests."
        blocks += [Words(text), Table(columns, rows, "Differences")]
    if "seeds" in found:
        spread = [[NAMES.get(m, m), s["mean"], s["spread"]] for m, s in found["seeds"].items() if m != "count"]
        blocks.append(Table(["Metric", "Mean", "Standard deviation"], spread, f"The same training with {found['seeds']['count']} seeds, on these rows"))
    return Section("baselines", "Against the baselines", blocks)


MOST_CLASSES = 20
"""A confusion matrix of more classes than this is cut to `SHOWN_CLASSES`, or nobody reads it."""
SHOWN_CLASSES = 15


def _errors(found: Mapping[str, Any], texts: Mapping[str, str]) -> list[Block]:
    blocks: list[Block] = []
    if "confusion" in found:
        blocks.append(_heatmap(found["confusion"], found["labels"]))
    if found.get("most_confused"):
        pairs = [[p["truth"], p["answer"], p["rows"], f"{100 * p['share']:.0f} %"] for p in found["most_confused"]]
        blocks.append(Table(["Truth", "Answer", "Rows", "Of that label's rows"], pairs, "The commonest confusions"))
    quotes = []
    for error in found["worst_errors"]:
        if "truth" in error:
            said = [("truth", error["truth"]), ("answer", error["answer"])]
        else:
            said = [("wrongly given" if error["given"] else "missed", error["label"])]
        said.append(("confidence", f"{100 * error['confidence']:.1f} %"))
        quotes.append([("row", error["row"]), *said, ("text", texts.get(error["row"], "(not kept)"))])
    if quotes:
        caption = "The errors it was surest of. Some may be right, and the label in the data wrong: read them first."
        blocks.append(Quotes(quotes, caption))
    else:
        blocks.append(Words("It made no error on these rows.", "good"))
    return blocks


def _heatmap(cells: Sequence[Sequence[int]], labels: Sequence[str]) -> Heatmap:
    """The whole confusion matrix, or of many classes those in the commonest confusions, partners side by side."""
    shown = list(range(len(labels)))
    caption = "Rows: the truth. Columns: the answer. Off the diagonal: errors."
    if len(labels) > MOST_CLASSES:
        wrong = sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: -cell[2])
        shown = list(dict.fromkeys(c for i, j, _ in wrong for c in (i, j)))[:SHOWN_CLASSES]
        caption += f" The {len(shown)} most confused of {len(labels)} labels."
    place = {c: i for i, c in enumerate(shown)}
    grid = [[0.0] * len(shown) for _ in shown]
    for truth, answer, count in cells:
        if truth in place and answer in place:
            grid[place[truth]][place[answer]] = float(count)
    names = [labels[c] for c in shown]
    return Heatmap(names, names, grid, "truth", "answer", caption)


def _labels(found: Mapping[str, Any]) -> list[Block]:
    ordered = sorted(found["per_class"], key=lambda c: (c["f1"], c["label"]))
    keys = ("label", "support", "precision", "recall", "recall_low", "recall_high", "f1")
    columns = ["Label", "Rows", "Precision", "Recall", "Low", "High", "F1"]
    caption = "Weakest first. Low and high: 95 % interval of the recall (Wilson, rows taken as independent)."
    rows: list[list[str | float | int | None]] = [[c[key] for key in keys] for c in ordered]
    if cuts := found.get("cuts"):
        place = {name: at for at, name in enumerate(found["labels"])}
        columns += ["Cut", "Validation rows"]
        rows = [[*row, cuts["by_label"][place[c["label"]]], cuts["positives"][place[c["label"]]]] for row, c in zip(rows, ordered, strict=True)]
        caption += " Cut: the label is given from this probability. Validation rows: those with the label, on which its cut was chosen."
    blocks: list[Block] = [Table(columns, rows, caption)]
    few = sum(c["support"] < 10 for c in ordered)
    if few:
        text = f"{few} of {len(ordered)} labels have fewer than 10 rows here; what is said of them one by one is rough."
        blocks.insert(0, Words(text, "warn"))
    return blocks


FEW_POSITIVES = 10
"""A cut chosen on fewer validation rows with the label is called rough. A convention of ours."""


def _cuts(cuts: Mapping[str, Any], split: str) -> list[Block]:
    """How the cuts were chosen, what they gain on rows they were not chosen on, and F1 over one cut for all labels."""
    few = sum(count < FEW_POSITIVES for count in cuts["positives"])
    text = (
        f"Each label has its own cut, chosen on {cuts['rows']:,} validation rows after calibration. One cut for all labels, {cuts['common']:.2f}, has "
        f"the best micro F1 there. A label's own cut has the label's best F1 after {BORROWED} positive rows of an average label are added to its own, "
        "so that few rows do not decide alone."
    )
    blocks: list[Block] = [Words(text)]
    if few:
        blocks.append(Words(f"{few} of {len(cuts['positives'])} labels have fewer than {FEW_POSITIVES} validation rows: their cuts are rough.", "warn"))
    if held := cuts["held_out"]:
        names = {"chosen": "with cuts chosen so", "common": "with one cut for all labels", "half": "at 0.5"}
        said = [", ".join(f"{show(metric, held[key][metric])} {words}" for key, words in names.items()) for metric in ("macro_f1", "micro_f1")]
        blocks.append(Words(f"On validation rows that the cuts were not chosen on, macro F1 is {said[0]}; micro F1 is {said[1]}."))
    sides = {"validation": cuts["curve"]} | ({} if split == "valid" else {split: cuts["here"]})
    series = [Series(f"{NAMES[metric]}, {side}", curve["cut"], curve[metric]) for side, curve in sides.items() for metric in ("micro_f1", "macro_f1")]
    caption = "What one cut for all labels gives. It was chosen on the validation rows"
    caption += "." if split == "valid" else f"; the {split} rows show how well it carries over, and chose nothing."
    marks = [(cuts["common"], f"common cut {cuts['common']:.2f}")]
    return [*blocks, Lines(series, "cut", "F1", caption, marks)]


def _calibration(found: Mapping[str, Any]) -> list[Block]:
    after, before = found["calibration"]["after"], found["calibration"].get("before")
    text = f"On average its probabilities are {100 * after['ece']:.1f} points away from how often they come true (ECE)"
    text += f"; before temperature scaling they were {100 * before['ece']:.1f} points away." if before else "."
    series = [Series("as served" if before else found.get("tuned", "tuned"), after["confidence"], after["accuracy"])]
    if before:
        series.append(Series("before scaling", before["confidence"], before["accuracy"]))
    outcome = "share that came true" if found.get("multi_label") else "share that was right"
    points = zip(after["confidence"], after["accuracy"], after["count"], strict=True)
    counts = [[f"{100 * confidence:.1f} %", f"{100 * share:.1f} %", n] for confidence, share, n in points]
    return [
        Words(text),
        Lines(series, "probability", outcome, "On the diagonal, probabilities are true; below it, too sure.", diagonal=True),
        Table(["Probability", "Came true", "Cases"], counts, "The points of the plot"),
    ]


def _fitted_on(fitted: Mapping[str, Any]) -> str:
    """What a promise rests on: `1,200 validation rows`, `120 groups of validation rows (1,200 rows)`."""
    if fitted.get("groups") is None:
        return f"{fitted['rows']:,} validation rows"
    return f"{fitted['groups']:,} groups of validation rows ({fitted['rows']:,} rows)"


def _coverage(found: Mapping[str, Any]) -> list[Block]:
    curve, fitted = found["coverage"], found.get("abstention")
    blocks: list[Block] = []
    marks: list[tuple[float, str]] = []
    if fitted and fitted["threshold"] is None:
        blocks.append(
            Words(
                f"No threshold can be promised to reach {100 * fitted['target']:.0f} % accuracy on new rows: the best that "
                f"{_fitted_on(fitted)} support is {100 * fitted['bound']:.1f} %.",
                "warn",
            )
        )
    elif fitted:
        here = fitted["here"]
        marks = [(here["coverage"], f"threshold {fitted['threshold']:.2f}")]
        text = (
            f"Answering only at a confidence of at least {fitted['threshold']:.3f}, accuracy on new rows like these is at least "
            f"{100 * fitted['target']:.0f} %, with {100 * fitted['certainty']:.0f} % certainty, fitted on "
            f"{_fitted_on(fitted)}. Here that answers {100 * here['coverage']:.0f} % of rows"
        )
        text += f", {show_interval('accuracy', here['accuracy'])} of them right." if here["accuracy"] else ": none."
        blocks.append(Words(text))
    lines = Lines([Series("accuracy", curve["coverage"], curve["accuracy"])], "share of rows answered", "accuracy on them",
                  "Surest rows first; the rest goes to a person.", marks)  # fmt: skip
    blocks.append(lines)
    if "out_of_scope" in found:
        out = found["out_of_scope"]
        blocks.append(
            Words(
                f"Rows that belong to no label ({out['rows']:,}): told apart by confidence with an AUROC of {out['auroc']:.3f}; "
                f"letting 95 % of proper rows through also lets {100 * out['fpr_at_95_recall']:.0f} % of these through."
            )
        )
    return blocks
