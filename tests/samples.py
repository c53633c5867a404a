"""Rows that any method learns in seconds."""

from __future__ import annotations

import csv
import random
from pathlib import Path

COLOURS = {"red": "apple brick rose cherry ruby", "green": "leaf grass lime moss fern", "blue": "sky sea ink jeans lake"}


def colour_rows(count: int = 120, seed: int = 0) -> list[dict[str, str]]:
    """Sentences whose words give away one of three labels: learnable by anything, in seconds."""
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        label = draw.choice(sorted(COLOURS))
        words = draw.sample(COLOURS[label].split(), 2)
        filler = draw.sample("the old man saw one very near his big house on that day with some great joy".split(), draw.randint(2, 6))
        text = " ".join([*filler[:2], *words, *filler[2:], str(index)])
        rows.append({"text": text, "label": label, "who": f"p{draw.randint(0, count // 3)}"})
    return rows


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    """Rows as a CSV file."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
