"""What is looked for in prepared rows of every kind, few or many, in any script: what is said of them, and the datasheet."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.core.files import read_json
from tunesmith.core.sections import Verdict
from tunesmith.data.preparation.prepare import prepare
from tunesmith.data.review import bias, coverage
from tunesmith.data.settings import DataSettings, InspectSettings
from tunesmith.report import page
from tunesmith.stages import inspect

SCRIPTS = {
    "en": "order parcel refund screen cable help",
    "ar": "طلبي الطرد استرداد الشاشة الكابل مساعدة",
    "zh": "订单 包裹 退款 屏幕 电缆 帮助",
    "none": "1 2 3 4 5 6",
}


def vectors(texts: Sequence[str]) -> Any:
    drawn = np.random.default_rng(len(texts)).normal(size=(len(texts), 8)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def rows(kind: str, script: str, count: int, longest: int) -> list[dict[str, Any]]:
    draw = random.Random(count)
    text = lambda i: " ".join([*draw.choices(SCRIPTS[script].split(), k=draw.choice([4, 9, longest])), str(i)])  # noqa: E731
    said = {
        "labelled": lambda i: {"text": text(i), "label": "ab"[i % 2]},
        "dialogue": lambda i: {"messages": [{"role": "user", "content": text(i)}, {"role": "assistant", "content": text(-i)}]},
        "completion": lambda i: {"prompt": text(i), "completion": text(-i)},
        "document": lambda i: {"text": text(i)},
    }
    return [said[kind](i) for i in range(count)]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("kind", ["labelled", "dialogue", "completion", "document"])
@pytest.mark.parametrize("count", [12, 200])
def test_any_rows_can_be_looked_at(tmp_path: Path, kind: str, script: str, count: int) -> None:
    given = rows(kind, script, count, 9000 if count == 12 else 300)  # some are very long
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in given), "utf-8")
    settings = DataSettings(train=str(tmp_path / "d.jsonl"), valid="none", test=0.3, duplicates={"near": None})  # type: ignore[arg-type]
    card = prepare(settings, kind, tmp_path / "data")
    seen = inspect.into(tmp_path / "data", "one", InspectSettings(coverage=True), vectors)
    few = f"Regions of meaning take 100 training rows, there are {card['rows']['train']:,}: what train covers is not known."
    sheet = (tmp_path / "data" / "DATASHEET.md").read_text("utf-8")
    assert (f"- {few}\n" in sheet) == (count == 12)
    assert "- Personal data were not looked for.\n" in sheet and "; no column says which rows belong together.\n" in sheet
    held = read_json(tmp_path / "data" / "inspection.json")
    texts, tests = ({int(at): text for at, text in held[name].items()} for name in ("texts", "tests"))
    sections = [bias.section(held["bias"]), coverage.section(held["lexical"], held["unseen"], held["regions"], texts, tests)]
    assert all(one.blocks for one in sections) and seen["lexical"]["texts"] == card["rows"]["train"]
    assert "Nothing to show." not in page.render("t", "s", Verdict("v"), sections)


def test_probable_label_errors_stand_in_the_datasheet(tmp_path: Path) -> None:
    lines = [f"number {i} is {'cold' if i % 2 else 'warm'} today,{'cold' if (i % 2) != (i % 25 == 0) else 'warm'}\n" for i in range(200)]
    (tmp_path / "d.csv").write_text("text,label\n" + "".join(lines))
    prepare(DataSettings(train=str(tmp_path / "d.csv"), valid="none", test="none", duplicates={"near": None}), "labelled", tmp_path / "data")  # type: ignore[arg-type]

    def warm(texts: Sequence[str]) -> Any:
        found = np.array([[1.0, 0.0] if "warm" in text else [0.0, 1.0] for text in texts], np.float32)
        return found

    seen = inspect.into(tmp_path / "data", "one", InspectSettings(labels=True), warm)
    assert seen["suspects"] == {"rows": 8, "judged": 200}
    said = "8 of 200 training labels (4.0%) are probably wrong: read data/label\\_errors.html, correct data/label\\_errors.csv"
    assert f"- {said}\n" in (tmp_path / "data" / "DATASHEET.md").read_text("utf-8")
