"""The model card: what is unknown is left out, texts stay texts, the whole stays short."""

from __future__ import annotations

import json

from tunesmith.report.card import Card, escape, model_card

SCORES = {
    "tuned": {"accuracy": {"value": 0.93, "low": 0.91, "high": 0.94}, "macro_f1": {"value": 0.912, "low": 0.897, "high": 0.926}},
    "base": {"accuracy": {"value": 0.88}},
}
FULL = Card(
    name="tickets",
    summary="Sorts support tickets into eight queues.",
    license="apache-2.0",
    languages=["en"],
    base_model="starter/minilm",
    tags=["text-classification", "lora"],
    intended_use=["Routing of English tickets."],
    limits=["Confuses refunds with billing."],
    data={"rows": 16000, "together": None},
    training={"learning_rate": 2e-4},
    rows=2000,
    scores=SCORES,
    headline="macro_f1",
    shell=["tunesmith predict runs/tickets 'where is my parcel'"],
    python=["import tunesmith as ts"],
    versions={"torch": "2.13.0"},
)


def test_a_full_card() -> None:
    text = model_card(FULL)
    assert text.startswith('---\nlicense: "apache-2.0"\nbase_model: "starter/minilm"\nlanguage: ["en"]\n')
    assert "## Evaluation (test split, 2,000 rows)" in text
    assert "| **tuned** | 0.912 (0.897 to 0.926) | 0.930 (0.910 to 0.940) |" in text
    assert "| base | – | 0.880 |" in text
    assert "| learning\\_rate | 0.0002 |" in text and "together" not in text
    assert "```sh\ntunesmith predict runs/tickets 'where is my parcel'\n```" in text


def test_what_is_unknown_is_left_out() -> None:
    assert model_card(Card("tickets")) == "# tickets\n"


def test_hostile_texts_stay_texts() -> None:
    hostile = '# x\n---\n[a](javascript:b) <script> | `c` ![d](e) "f": \\ \u2028\x07'
    several = [hostile]
    card = Card(hostile, hostile, hostile, several, hostile, several, several, several, {hostile: hostile}, python=["a ``` b"])
    text = model_card(card)
    front, body = text.split("\n---\n", 1)
    license = json.loads(front.splitlines()[1].removeprefix("license: "))
    assert license == '# x --- [a](javascript:b) <script> | `c` ![d](e) "f": \\'
    for unescaped in ("\n---", "](", " <script>", "\n# x"):
        assert unescaped not in body.replace("\\]", "")
    assert "````python\na ``` b\n````" in body
    row = next(line for line in body.splitlines() if line.startswith("| \\# x"))
    assert row.replace("\\|", "").count("|") == 3


def test_starts_of_lines_that_mean_lists_are_escaped() -> None:
    texts = {"- a": "\\- a", "1. a": "1\\. a", "+ a": "\\+ a", "=== ": "\\===", "a - b": "a - b", "12 a": "12 a", "0.2": "0.2"}
    assert {text: escape(text) for text in texts} == texts


def test_a_card_stays_under_120_lines() -> None:
    many = {f"m{n}": dict.fromkeys((f"k{k}" for k in range(20)), {"value": 0.5, "low": 0.4, "high": 0.6}) for n in range(50)}
    things = [f"thing {n}" for n in range(200)]
    pairs = dict.fromkeys(things, 1)
    versions = dict.fromkeys(things, "1")
    card = Card("n", "s", "l", things, "b", things, things, things, pairs, pairs, "test", 1, many, "k3", things, things, versions)
    text = model_card(card)
    assert text.count("\n") < 120 and "194 more in the run's report.html." in text
