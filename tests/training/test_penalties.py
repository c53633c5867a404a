"""Each thing that a path of penalties can show is made on purpose, and must be said with its numbers."""

from __future__ import annotations

from typing import Any

from tunesmith.training.penalties import diagnose, sections

RECORD: dict[str, Any] = {"kept_step": 2, "penalty": 0.3, "anchor": "zero", "held_rows": 240, "path_end": ""}


def path(train_accuracy: float = 0.9, held_accuracy: float = 0.88, train_loss: float = 0.3) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for step, (anchor, penalty) in enumerate([("means", 3.0), ("zero", 0.3), ("zero", 0.1)], 1):
        at = {"step": step, "anchor": anchor, "penalty": penalty}
        out.append({"kind": "step", **at, "loss": train_loss, "accuracy": train_accuracy})
        out.append({"kind": "valid", **at, "best": step == 2, "loss": 0.5, "tempered_loss": 0.4, "accuracy": held_accuracy})
    return out


def names(found: list[Any]) -> list[str]:
    return [one.name for one in found]


def test_a_sound_path_says_what_was_chosen_of_how_many_and_on_what() -> None:
    found = diagnose(path(), RECORD, 1000, 8)
    assert names(found) == ["chosen"]
    assert "Of 3 penalties, 0.3 toward zero weights" in found[0].text and "240 held-out rows" in found[0].text and "0.400 nats" in found[0].text


def test_overfitting_and_underfitting_come_from_the_chosen_point() -> None:
    (gap,) = [one for one in diagnose(path(0.99, 0.8), RECORD, 1000, 8) if one.name == "gap"]
    assert "99 % on training rows and 80 % on held-out rows" in gap.text
    (under,) = [one for one in diagnose(path(0.5, 0.5, 1.8), RECORD, 1000, 8) if one.name == "underfitting"]
    assert "accuracy 0.50 and a loss of 1.80; a blind guess has 2.08" in under.text and under.tone == "warn"
    assert "underfitting" not in names(diagnose(path(0.95, 0.9, 1.8), RECORD, 1000, 8))  # small logits alone are mended by calibration


def test_both_ends_of_the_path_few_rows_and_no_choice_are_told() -> None:
    assert "weakest penalty" in diagnose(path(), RECORD | {"path_end": "weak"}, 1000, 8)[1].text
    strong = diagnose(path(), RECORD | {"path_end": "strong", "anchor": "means", "kept_step": 1}, 1000, 8)
    assert "close to the nearest class mean" in strong[1].text
    few = diagnose(path(), RECORD, 40, 8)
    assert names(few)[0] == "too little data" and "5 each" in few[0].text
    none = diagnose([], RECORD | {"anchor": "means", "kept_step": 0, "held_rows": 0}, 1, 2)
    assert "no choice" in names(none) and "No row could be held out" in none[0].text + none[1].text


def test_the_chart_has_penalties_of_the_chosen_anchor_alone() -> None:
    (section,) = sections(path(), RECORD, diagnose(path(), RECORD, 1000, 8))
    charts = [block for block in section.blocks if hasattr(block, "series")]
    assert len(charts) == 2 and charts[0].log_x and charts[0].marks == [(0.3, "kept")] and "penalty" in charts[0].x_label
    assert [(one.name, list(one.x)) for one in charts[0].series] == [("training", [0.1, 0.3]), ("held out", [0.1, 0.3])]
