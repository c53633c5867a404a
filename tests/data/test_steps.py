"""Rows are the same whoever mends them."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core import workers
from tunesmith.data.preparation import first_pass, prepare
from tunesmith.data.settings import DataSettings

WORDS = "where is my order it came late and the box was open who pays for the way back to the shop".split()
ODD = [
    {"text": "schÃ¶n, my card  is lost\u00a0 ", "label": "card"},
    {"text": "write to ann.miller@example.org now", "label": "ann.miller@example.org"},
    {"text": "  ", "label": "card"},
    {"text": "no label", "label": ""},
    {"text": "half \ud83d", "label": "card"},
    {"text": ["a list"], "label": "card"},
    {"text": "corrected by hand", "label": "card", "key": "k1"},
    {"text": "dropped by hand", "label": "card", "key": "k2"},
    {"text": "a lonely label", "label": "lonely"},
]


def labelled(count: int) -> list[dict[str, Any]]:
    """Rows of which some repeat, and some are odd."""
    plain = [{"text": " ".join(WORDS[(at * step) % len(WORDS)] for step in range(1, 9)) + f" {at % 90}", "label": f"topic {at % 3}"} for at in range(count)]
    out = [one | {"key": f"row {at}"} for at, one in enumerate(plain)]
    for at, one in enumerate(ODD * 3):
        out.insert(at * 11, {"key": f"odd {at}"} | one)
    return out


def dialogues(count: int) -> list[dict[str, Any]]:
    said = [(f"{WORDS[at % 20]} {at % 70}?\u00a0", f"{WORDS[at % 19]}  !") for at in range(count)] + [("and no answer", "")]
    return [{"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]} for asked, answer in said]


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "labelled": (labelled, {"id": "key", "privacy": {"action": "pseudonymise", "key": "PRIVATE"}}),
    "dialogue": (dialogues, {}),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_several_processes_make_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    make, more = KINDS[kind]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in make(300)) + "no JSON\n")
    (tmp_path / "b.csv").write_text("key,text,label\n" + "".join(f"b{at},text {at} of the second file,topic 1\n" for at in range(40)))
    (tmp_path / "right.csv").write_text("id,suggested,correct\nk1,,topic 2\nk2,,-\n")
    monkeypatch.setenv("PRIVATE", "a key of sixteen characters")
    train = [str(tmp_path / "a.jsonl"), *([str(tmp_path / "b.csv")] if kind == "labelled" else [])]
    corrections = str(tmp_path / "right.csv") if kind == "labelled" else None
    clean = {"unicode": True, "whitespace": True, "boilerplate": True}
    settings = DataSettings(train=train, on_bad_row="reject", clean=clean, corrections=corrections, duplicates={"near": 0.7}, **more)
    monkeypatch.setattr(first_pass, "LEAST_BYTES", 0)
    monkeypatch.setattr(first_pass, "PIECE_ROWS", 16)
    real, asked = workers.Crew._begun, workers._Helper.done
    killed, answered = list[int](), list[int]()

    def counted(self: Any, message: Any) -> Any:
        answered.append(1)
        return asked(self, message)

    def and_killed(self: Any, helper: Any) -> None:
        real(self, helper)
        killed.append(os.kill(helper._process.pid, signal.SIGKILL) or 1)

    def waiting(self: Any, *given: Any) -> Any:
        while len(self._crew._ready) < len(self._crew._helpers) and not killed:
            time.sleep(0.01)
        return pieces(self, *given)

    pieces = first_pass.FirstPass._pieces
    monkeypatch.setattr(workers._Helper, "done", counted)
    monkeypatch.setattr(first_pass.FirstPass, "_pieces", waiting)
    found = []
    for name, count in (("none", 0), ("one", 1), ("two", 2), ("killed", 1)):
        monkeypatch.setattr(first_pass, "helpers", lambda count=count: count)
        monkeypatch.setattr(workers.Crew, "_begun", and_killed if name == "killed" else real)
        folder = tmp_path / name
        prepare.prepare(settings, kind, folder)
        found.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
        assert len(answered) >= 3 * count or name == "killed"
    assert killed == [1] and found[0] == found[1] == found[2] == found[3] and {"card.json", "train.parquet", "rejected.jsonl"} <= set(found[0])
    reasons = {json.loads(line)["reason"] for line in found[0]["rejected.jsonl"].splitlines()}
    expected = {"labelled": {"no text", "no label", "broken character", "dropped by hand", "repeated id"}, "dialogue": {"duplicate", "not JSON"}}
    assert expected[kind] <= reasons, reasons
