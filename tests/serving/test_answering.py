"""`tunesmith predict` with a language model: rows come back whole and in order with the texts written beside them, or nothing does."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.models.decode import Sampling
from tunesmith.serving import generation, predicting
from tunesmith.tokens.chat_template import Message

Cli = Callable[..., tuple[int, str, str]]
TEXTS = ["what colour is rose 3?", "what colour is sky, 4?\nand why", "leaf"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def answers(run: Path, dialogues: list[list[Message]], **sampling: Any) -> list[tuple[str, bool]]:
    found = generation.load(run / "model").answer(dialogues, Sampling(**{"max_new_tokens": 16, **sampling}))
    return [(one.text, one.ended) for one in found]


def asking(*texts: str) -> list[list[Message]]:
    return [[{"role": "user", "content": text}] for text in texts]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_texts_from_the_command_line_and_from_stdin(cli_: Cli, talker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = cli_("predict", talker, *TEXTS, "--max-new-tokens", 16)
    found = [json.loads(line) for line in out.splitlines()]
    wanted = answers(talker, asking(*TEXTS))
    assert code == 0 and err == ""
    assert found == [{"prompt": text, "answer": said, "ended": ended} for text, (said, ended) in zip(TEXTS, wanted, strict=True)]
    given = ("--max-new-tokens", 16, "--temperature", 2, "--top-p", 0.8, "--seed", 4)
    code, out, _ = cli_("predict", talker, *given, stdin=f"{TEXTS[0]}\n\n{TEXTS[2]}\n")
    drawn = answers(talker, asking(TEXTS[0], TEXTS[2]), temperature=2, top_p=0.8, seed=4)
    assert code == 0 and [json.loads(line)["answer"] for line in out.splitlines()] == [said for said, _ in drawn] != [wanted[0][0], wanted[2][0]]
    monkeypatch.setattr(predicting.sys.stdout, "isatty", lambda: True, raising=False)
    shown: list[str] = []
    monkeypatch.setattr("builtins.print", lambda text, **_: shown.append(text))
    predicting.predict_texts(talker, TEXTS[:2], None, "cpu", {"max_new_tokens": 16})
    assert shown == [wanted[0][0] + "\n\n" + wanted[1][0]]


def test_dialogues_of_a_file(cli_: Cli, tmp_path: Path, talker: Path) -> None:
    """The last answer is not given away; what comes back holds it untouched."""
    system, user, said = ({"role": role, "content": text} for role, text in (("system", "so"), ("user", TEXTS[0]), ("assistant", "it is red.")))
    rows = [
        {"messages": [user, said], "n": 1},
        {"messages": [system, user, said, {"role": "user", "content": TEXTS[2]}], "n": 2},
        {"messages": [system, user], "n": None},
    ]
    (tmp_path / "d.jsonl").write_text(lines(rows))
    code, out, err = cli_("predict", talker, "-i", tmp_path / "d.jsonl", "-o", tmp_path / "out.jsonl", "--max-new-tokens", 16)
    assert (code, out, err) == (0, "", f"written to {tmp_path / 'out.jsonl'}\n")
    back = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    wanted = answers(talker, [[user], rows[1]["messages"], [system, user]])  # type: ignore[list-item]
    assert [(row.pop("answer"), row.pop("ended")) for row in back] == wanted and back == rows
    shared = [{"conversations": [{"from": "human", "value": TEXTS[0]}, {"from": "gpt", "value": "no"}], "system": "so"}]
    (tmp_path / "s.jsonl").write_text(lines(shared))
    code, out, _ = cli_("predict", talker, "-i", tmp_path / "s.jsonl", "--max-new-tokens", 16)
    assert code == 0 and json.loads(out)["answer"] == answers(talker, [[user]])[0][0]


@pytest.mark.parametrize("name", ["prompt", "Question", "instruction", "text", "body"])
def test_prompts_of_a_table(cli_: Cli, tmp_path: Path, talker: Path, name: str) -> None:
    for file, mark in (("d.csv", ","), ("d.tsv", "\t")):
        with open(tmp_path / file, "w", newline="") as opened:
            csv.writer(opened, delimiter=mark).writerows([("key", name), *((f"0{i}", text) for i, text in enumerate(TEXTS))])
        chosen = ("--text", "body") if name == "body" else ()
        code, out, err = cli_("predict", talker, "-i", tmp_path / file, "--max-new-tokens", 5, *chosen)
        assert code == 0 and err == ""
        back = list(csv.DictReader(io.StringIO(out, newline=""), delimiter=mark))
        wanted = [(said, "yes" if ended else "no") for said, ended in answers(talker, asking(*TEXTS), max_new_tokens=5)]
        assert [(row["key"], row[name]) for row in back] == [(f"0{i}", text) for i, text in enumerate(TEXTS)]
        assert [(row["answer"], row["ended"]) for row in back] == wanted and list(back[0]) == ["key", name, "answer", "ended"]


def test_a_model_that_goes_on_with_texts(cli_: Cli, teller: Path) -> None:
    code, out, _ = cli_("predict", teller, "once there was", "--max-new-tokens", 8)
    [wanted] = generation.load(teller / "model").complete(["once there was"], Sampling(max_new_tokens=8))
    assert code == 0 and json.loads(out) == {"prompt": "once there was", "answer": wanted.text, "ended": wanted.ended}


def test_a_prompt_that_is_cut_is_said(cli_: Cli, talker: Path) -> None:
    code, out, err = cli_("predict", talker, "leaf", "leaf 3 " * 200, "--max-new-tokens", 8)
    said = "note: 1 of 2 prompts leave no room for an answer within 128 tokens; what does not fit was left out from their beginning\n"
    assert code == 0 and len(out.splitlines()) == 2 and err == said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"ask": "a"},
            "no column of questions: none is named `messages`, `prompt`, `question`, `instruction`, `text`\n  -> the columns are `ask`; choose with --text",
        ),
        ({"prompt": "a", "answer": "b"}, "column `answer` is there already\n  -> rename it, so that nothing is overwritten"),
        ({"prompt": " "}, "column `prompt` holds no text\n  -> fill it in or leave it out"),
        ({"messages": "a"}, "column `messages` holds no list of messages\n  -> write JSON lines: "),
        ({"messages": []}, "column `messages` holds no list of messages\n  -> write JSON lines: "),
        ({"messages": [{"role": "assistant", "content": "b"}]}, "column `messages` asks nothing: no message before the answer is the user's\n  -> "),
        ({"messages": [{"role": "user", "content": " "}]}, "message 1 (user) is blank\n  -> fill it in or delete the row"),
        ({"messages": [{"role": "usr", "content": "a"}]}, "role `usr` of message 1 is not known, did you mean `user`?\n  -> "),
    ],
)
def test_a_file_that_asks_nothing(cli_: Cli, tmp_path: Path, talker: Path, content: dict[str, Any], said: str) -> None:
    (tmp_path / "d.jsonl").write_text(lines([content]))
    code, out, err = cli_("predict", talker, "-i", tmp_path / "d.jsonl", "-o", tmp_path / "out.jsonl")
    assert (code, out) == (2, "") and err.startswith(f"error: d.jsonl:1: {said}") and not (tmp_path / "out.jsonl").exists()


def test_what_else_cannot_be_answered(cli_: Cli, tmp_path: Path, talker: Path) -> None:
    assert cli_("predict", talker, "a", " ") == (2, "", "error: text 2: a text holds no text\n  -> fill it in or leave it out\n")
    said = "error: d.jsonl:1: no column `promt`, did you mean `prompt`?\n  -> the columns are `prompt`; choose with --text\n"
    (tmp_path / "d.jsonl").write_text(lines([{"prompt": "a"}]))
    assert cli_("predict", talker, "-i", tmp_path / "d.jsonl", "--text", "promt") == (2, "", said)
    said = "error: sampling: `top_p=3.0` must lie above 0 and at most at 1\n  -> leave top_p out for 1.0\n"
    assert cli_("predict", talker, "a", "--top-p", 3) == (2, "", said)
