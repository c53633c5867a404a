"""How often the 95 % intervals of `evaluation.json` hold the truth: prints the table that docstrings of the room quote.

    PYTHONPATH=src python tests/evaluation/coverage_table.py        (one minute; not a test)

Each line: classes, rows, error rate, rows a group, skew of the classes; the share of 300 trials whose interval holds the value
that the same model has on 200,000 rows, for each metric of one model and (d_) each difference of two.
"""

import numpy as np

from tunesmith.evaluation import classification
from tunesmith.evaluation.measure import evaluate

TRIALS, MANY = 300, 200_000


def answers(rng, labels, classes, error, confusable):
    """Probabilities of a model that errs at a rate a row, towards labels that look alike."""
    wrong, answer = rng.random(len(labels)) < error, labels.copy()
    for c in range(classes):
        mine = wrong & (labels == c)
        answer[mine] = rng.choice(classes, mine.sum(), p=confusable[c])
    sure = np.where(wrong, rng.uniform(0.4, 1, len(labels)), rng.uniform(0.6, 1, len(labels)))
    probabilities = np.repeat(((1 - sure) / (classes - 1))[:, None], classes, axis=1)
    probabilities[np.arange(len(labels)), answer] = sure
    return probabilities


def draw(rng, classes, rows, error, group_size, skew):
    """Labels, two models' probabilities, and groups with an error rate of their own."""
    share = 1 / np.arange(1, classes + 1) ** skew
    confusable = np.random.default_rng(5).dirichlet(np.full(classes, 0.3), classes)
    groups = np.arange(rows) // group_size
    rate = rng.beta(2 * error, 2 * (1 - error), rows)[groups] if group_size > 1 else np.full(rows, error)
    labels = rng.choice(classes, rows, p=share / share.sum())
    return labels, *(answers(rng, labels, classes, times * rate, confusable) for times in (1.0, 1.3)), groups


def line(classes, rows, error, group_size=1, skew=0):
    labels, first, second, _ = draw(np.random.default_rng(99), classes, MANY, error, group_size, skew)
    true, other = classification.scores(labels, first), classification.scores(labels, second)
    held: dict[str, list[bool]] = {}
    for trial in range(TRIALS):
        labels, first, second, groups = draw(np.random.default_rng(trial), classes, rows, error, group_size, skew)
        found = evaluate(
            {"tuned": first, "base": second},
            labels,
            [str(c) for c in range(classes)],
            groups=groups.tolist() if group_size > 1 else None,
            seed=trial,
            resamples=1000,
        )["splits"]["test"]
        for name, entry in found["models"]["tuned"].items():
            held.setdefault(name, []).append(entry["low"] <= true[name] <= entry["high"])
        for one in found["comparisons"]:
            truth = true[one["metric"]] - other[one["metric"]]
            held.setdefault("d_" + one["metric"], []).append(one["low"] <= truth <= one["high"])
    figures = "  ".join(f"{name} {np.mean(trials):.2f}" for name, trials in held.items())
    print(f"C={classes} N={rows} error={error} group={group_size} skew={skew}: {figures}", flush=True)


if __name__ == "__main__":
    for case in [(3, 40, 0.05), (3, 40, 0.2), (5, 200, 0.1), (20, 200, 0.15), (77, 770, 0.1), (20, 300, 0.05, 1, 1)]:
        line(*case)
    for case in [(5, 1000, 0.1), (5, 400, 0.15, 10), (5, 100, 0.15, 10)]:
        line(*case)
