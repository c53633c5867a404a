"""Variants of texts: what they may touch, that they are the same in any order, and what a model's answers must keep."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import UserError
from tunesmith.data import rows
from tunesmith.data.augmentation import augment, noise
from tunesmith.data.augmentation.augment import AugmentSettings
from tunesmith.data.texts import even

WORDS = {"card": ("bank card",), "log in": ("sign in", "enter"), "money": ("cash",)}
LOCAL = ("typos", "keyboard", "drop", "swap", "synonyms")
KEPT = ["12", "3,50", "+49-151", "me@mail.org", "https://x.org/a?b=c", "www.shop.example", "{name}", "{first name}", "[EMAIL]", "<b>", "#tag", "a_b", "½"]
TEXT = "Hello, I cannot log in with the new card [NAME] since 12 May, please write to me@mail.org about {order id} and my money"

PLAIN = ["card", "Money", "not", "log", "in", "please", "WHERE", "don't", "été", "a", "...", "(well)", "привет"]
pieces = st.lists(st.sampled_from([*KEPT, *PLAIN]), min_size=1, max_size=14)
texts = st.tuples(pieces, st.sampled_from([" ", "  ", "\n"])).map(lambda drawn: drawn[1].join(drawn[0]))


def made_by(how: str, text: str, rate: float = 0.2, seed: int = 0) -> str:
    rng = random.Random(seed)
    return noise.synonyms(text, rate, rng, WORDS) if how == "synonyms" else noise.LOCAL[how](text, rate, rng)


@given(texts | st.text(max_size=60))
def test_pieces_join_to_the_text(text: str) -> None:
    split, free = noise.parts(text)
    assert "".join(split) == text and all(split) and all(split[at][0].isalpha() for at in free)


@settings(max_examples=300)
@given(text=texts, how=st.sampled_from(LOCAL), seed=st.integers(0, 9), rate=st.sampled_from([0.1, 0.5]))
def test_numbers_addresses_and_placeholders_are_never_touched(text: str, how: str, seed: int, rate: float) -> None:
    new = made_by(how, text, rate, seed)
    assert noise.scan(new)[1] == noise.scan(text)[1]
    for one in KEPT:
        assert new.count(one) == text.count(one)


@settings(max_examples=300)
@given(text=texts | st.text(max_size=40), row=st.text(max_size=4), count=st.integers(1, 6), rate=st.sampled_from([0.05, 0.5]))
def test_variants_differ_are_not_blank_and_hang_on_the_id_alone(text: str, row: str, count: int, rate: float) -> None:
    wanted = AugmentSettings(steps=LOCAL, variants=count, rate=rate)
    made = augment.variants(text, row, wanted, WORDS)
    assert made == augment.variants(text, row, wanted, WORDS) and len(made) <= count
    names = [even(new) for _, new in made]
    assert even(text) not in names and len(set(names)) == len(names) and all(name for name in names)


def test_each_step_by_example() -> None:
    assert {made_by("typos", "card", 0.1, seed) for seed in range(60)} == {"crad", "cadr", "crd", "cad", "caard", "carrd"}
    assert {made_by("keyboard", "Quit", 0.1, seed) for seed in range(200)} == {"Wuit", "Auit"} | {
        word for k, letter in enumerate("uit", 1) for near in noise.NEIGHBOURS[letter] for word in ["Quit"[:k] + near + "Quit"[k + 1 :]]
    }
    assert {made_by("drop", "I do not pay", 0.1, seed) for seed in range(40)} == {"do not pay", "I not pay", "I do not"}
    assert {made_by("swap", "pay by card, now", 0.1, seed) for seed in range(40)} == {"by pay card, now", "pay card by, now"}
    assert {made_by("synonyms", "Log in for Money", 0.1, seed) for seed in range(60)} == {"Sign in for Money", "Enter for Money", "Log in for Cash"}
    assert made_by("synonyms", "MY CARD", 0.1) == "MY BANK CARD"


def test_the_longest_phrase_wins_and_those_that_overlap_are_not_mixed() -> None:
    assert {noise.synonyms("log in", 0.5, random.Random(n), {"log": ("wood",), "log in": ("sign in",)}) for n in range(20)} == {"sign in"}
    words = {"log in": ("sign in",), "in money": ("with cash",)}
    assert {noise.synonyms("log in money", 0.5, random.Random(n), words) for n in range(20)} == {"sign in money", "log with cash"}


def test_what_touches_a_placeholder_is_one_code_with_it() -> None:
    assert noise.scan("see ID-[NUMBER] or {name}s (20%).")[1] == ["ID-", "[NUMBER]", "{name}", "s", "20%"]
    assert [noise.parts("see ID-[NUMBER] or {name}s")[0][at] for at in noise.parts("see ID-[NUMBER] or {name}s")[1]] == ["see", "or"]


def test_neighbours_are_the_keys_that_touch() -> None:
    assert noise.NEIGHBOURS["g"] == list("bfhtvy") and noise.NEIGHBOURS["q"] == list("aw") and noise.NEIGHBOURS["m"] == list("jkn")
    assert all(a in noise.NEIGHBOURS[b] for a, beside in noise.NEIGHBOURS.items() for b in beside)


def test_the_rate_is_a_share_of_the_words_and_one_at_least() -> None:
    text = " ".join(f"word{chr(97 + n % 26) * 2}" for n in range(40))
    for how, rate, changed in (("typos", 0.1, 4), ("keyboard", 0.25, 10), ("typos", 0.001, 1)):
        assert sum(a != b for a, b in zip(text.split(), made_by(how, text, rate).split(), strict=True)) == changed
    assert len(made_by("drop", text, 0.25).split()) == 30


def test_steps_that_find_nothing_change_nothing() -> None:
    nothing = {"typos": "a bc 1234", "keyboard": "привет", "drop": "hello", "swap": "no, no", "synonyms": "hello there"}
    assert {how: made_by(how, text) for how, text in nothing.items()} == nothing
    assert made_by("drop", "never not can't") == "never not can't"
    assert augment.variants("[NAME] 12", "a", AugmentSettings(steps=LOCAL, variants=9), WORDS) == []
    assert augment.variants(TEXT, "a", AugmentSettings()) == []


def test_steps_take_turns_from_one_that_the_id_draws() -> None:
    wanted = AugmentSettings(steps=("typos", "drop"), variants=2)
    turns = [tuple(how for how, _ in augment.plan(str(row), wanted)) for row in range(40)]
    assert set(turns) == {("typos", "drop"), ("drop", "typos")}
    assert augment.variants(TEXT, "a", wanted) != augment.variants(TEXT, "a", wanted.model_copy(update={"seed": 1}))


def test_the_same_numbers_are_drawn_as_ever() -> None:
    """A new version of Tunesmith or of Python must not change the rows of an old recipe unsaid."""
    assert augment.variants("where is my new card", "row-1", AugmentSettings(steps=("typos", "keyboard", "drop", "swap"), variants=4)) == [
        ("swap", "where is new my card"),
        ("typos", "where is my new cad"),
        ("keyboard", "where is my new catd"),
        ("drop", "where is my new"),
    ]


def stand_in(prompts: list[str]) -> list[str]:
    """A model that puts a word in front of the message."""
    return [prompt.split("Message: ")[1].split("\nRewritten message:")[0].join(('"Well, ', '"\n\nAnother line.')) for prompt in prompts]


def answered(answer: str, text: str = "pay 12 to [NAME] now") -> list[tuple[str, list[str]]]:
    return augment.generated([([text], [0])], ["a"], AugmentSettings(steps=("paraphrase",)), {"paraphrase": lambda prompts: [answer] * len(prompts)})[0]


def test_a_paraphrase_is_the_first_line_without_its_quotes() -> None:
    made = augment.generated([(["pay 12 {x}"], [0])], ["a"], AugmentSettings(steps=("paraphrase",)), {"paraphrase": stand_in})
    assert made == [[("paraphrase", ["Well, pay 12 {x}"])]]
    assert answered("  “[NAME] gets 12.”\nExplanation") == [("paraphrase", ["[NAME] gets 12."])]


@pytest.mark.parametrize(
    "answer",
    ["", " \n", "pay  12 to [NAME] now", "pay 13 to [NAME]", "pay to [NAME]", "pay 12 to Bob", "pay 12 or 12 to [NAME]", "12 [NAME] " + "and so on " * 9],
)
def test_answers_that_could_make_the_label_false_are_refused(answer: str) -> None:
    assert answered(answer) == []


def test_a_word_is_replaced_by_a_model() -> None:
    seen: list[str] = []

    def fill(masked: list[str]) -> list[str]:
        seen.extend(masked)
        return [" account "] * len(masked)

    wanted = AugmentSettings(steps=("replace",))
    assert augment.generated([(["My CARD 12"], [0])], ["a"], wanted, {"replace": fill}) == [[("replace", ["My ACCOUNT 12"])]]
    assert seen == ["My [MASK] 12"]
    for text, answer in (("My card", "card"), ("My card", "two words"), ("My card", "12"), ("My card", ""), ("not a 12", "x"), ("[MASK] card", "x")):
        assert augment.generated([([text], [0])], ["a"], wanted, {"replace": lambda masked, word=answer: [word] * len(masked)}) == [[]]


def test_a_model_is_called_once_with_all_questions() -> None:
    calls: list[int] = []

    def fill(masked: list[str]) -> list[str]:
        calls.append(len(masked))
        return ["other"] * len(masked)

    found = [([f"some words {n}x here"], [0]) for n in range(5)]
    wanted = AugmentSettings(steps=("replace",), variants=2)
    together = augment.generated(found, list("abcde"), wanted, {"replace": fill})
    assert calls == [10]
    assert together[3] == augment.generated(found[3:4], ["d"], wanted, {"replace": fill})[0]  # whatever the company


LABELLED = rows.table({"id": ["r1", "r2", "r3"], "text": ["where is my card", "pay the money back", "log in fails"], "labels": [["card"], ["card"], ["login"]]})


COUNTS = {"card": 2, "login": 1}


def test_new_rows_of_labelled_ones() -> None:
    new = augment.augmented(LABELLED, AugmentSettings(steps=("drop",), variants=2), COUNTS)
    assert {row["origin"] for row in new} == {"augmented:drop"} and set(new[0]) == set(LABELLED.column_names)
    labels = dict(zip(rows.strings(LABELLED, "id"), rows.label_lists(LABELLED), strict=True))
    assert all(row["labels"] == labels[row["id"].split("~")[0]] for row in new)
    assert len({row["id"] for row in new}) == len(new) > 3 and {"r1~a1", "r2~a1", "r3~a1"} <= {row["id"] for row in new}


@given(st.permutations(range(3)))
def test_the_order_of_rows_does_not_matter(order: list[int]) -> None:
    wanted = AugmentSettings(steps=("typos", "drop", "swap"), variants=3)
    both = [augment.augmented(one, wanted, COUNTS) for one in (LABELLED, LABELLED.take(rows.pa.array(order)))]
    assert sorted(both[0], key=lambda row: row["id"]) == sorted(both[1], key=lambda row: row["id"])


def test_only_some_labels() -> None:
    one = AugmentSettings(steps=("drop",), labels=("login",))
    assert {row["id"] for row in augment.augmented(LABELLED, one, COUNTS)} == {"r3~a1"}
    few = AugmentSettings(steps=("drop",), fewer_than=2)
    assert augment.augmented(LABELLED, few, COUNTS) == augment.augmented(LABELLED, one, COUNTS)
    assert augment.augmented(LABELLED, AugmentSettings(steps=("drop",), labels=("card",), fewer_than=2), COUNTS) == []


def test_of_a_dialogue_only_the_user_changes() -> None:
    roles = ("system", "user", "assistant", "user", "assistant")
    messages = [{"role": role, "content": f"{role} writes some plain words here"} for role in roles]
    train = rows.table({"id": ["a"], "together": ["c1"], "messages": [messages]}, rows.DIALOGUE)
    models = {"paraphrase": lambda prompts: ["other words of the user"] * len(prompts)}
    new = augment.augmented(train, AugmentSettings(steps=("typos", "paraphrase"), variants=2), {}, models=models)
    assert [row["origin"] for row in new] == ["augmented:typos", "augmented:paraphrase"] and [row["together"] for row in new] == ["c1"] * 2
    for row in new:
        for old, one in zip(messages, row["messages"], strict=True):
            assert one["role"] == old["role"] and (one["content"] == old["content"]) == (old["role"] != "user")


def test_of_a_completion_only_the_prompt_changes_and_a_document_is_a_text() -> None:
    train = rows.table({"id": ["a"], "prompt": ["some plain words"], "completion": ["the answer"]}, rows.COMPLETION)
    swap = AugmentSettings(steps=("swap",))
    (row,) = augment.augmented(train, swap, {})
    assert row["completion"] == "the answer" and Counter(row["prompt"].split()) == Counter(["some", "plain", "words"]) and row["prompt"] != "some plain words"
    pairs = LABELLED.set_column(9, "text_pair", rows.pa.array(["with a pair"] * 3))
    assert {row["text_pair"] for row in augment.augmented(pairs, swap, COUNTS)} == {"with a pair"}
    assert len(augment.augmented(rows.table({"id": ["a"], "text": ["plain words"]}, rows.DOCUMENT), swap, {})) == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"steps": ("synonyms",)}, "step `synonyms` of `data.augment.steps` needs a list\n  -> name it in data.augment.synonyms, or leave the step out"),
        ({"steps": ("paraphrase",)}, "step `paraphrase` of `data.augment.steps` needs a model\n  -> name it in data.augment.writer, or leave the step out"),
        ({"steps": ("replace",)}, "step `replace` of `data.augment.steps` needs a model\n  -> name it in data.augment.masked, or leave the step out"),
        (
            {"steps": ("drop",), "labels": ("logn",)},
            "`augment.labels`: no row of train has the label `logn`, did you mean `login`?\n  -> the labels are `card`, `login`",
        ),
    ],
)
def test_settings_that_do_not_go_with_the_data(wanted: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(UserError) as caught:
        augment.checked(AugmentSettings(**wanted), COUNTS, None, {})
    assert str(caught.value) == f"recipe: {message}"


def test_labels_of_rows_without_labels() -> None:
    with pytest.raises(UserError, match="go with labelled rows only"):
        augment.checked(AugmentSettings(steps=("drop",), fewer_than=9), None, None, {})


def test_synonyms_are_read(tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text("# ours\nCard,bank card, card ,plastic\n\nlog  in\tsign in\tenter\nCARD,plastic,debit card\n", "utf-8-sig")
    assert noise.read_synonyms(path) == {"card": ("bank card", "plastic", "debit card"), "log in": ("sign in", "enter")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a,b\ncard\n", ":2: `card` names no word with a synonym\n  -> write a word, a comma, and what may stand in its place"),
        (b"card,Card\n", ":1: `card,Card` names no word with a synonym\n  -> write a word, a comma, and what may stand in its place"),
        (b"one two three four,x\n", ":1: `one two three four` is not one to three plain words\n  -> give one to three words, without numbers and marks"),
        (b"24h,day\n", ":1: `24h` is not one to three plain words\n  -> give one to three words, without numbers and marks"),
        (b"# nothing\n", ": no synonyms in it\n  -> write a word, a comma, and what may stand in its place on each line"),
        (b"caf\xe9,bar\n", ": byte 0xE9 is not UTF-8\n  -> save the file as UTF-8"),
    ],
)
def test_a_list_that_cannot_be_used(text: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_bytes(text)
    with pytest.raises(UserError) as caught:
        noise.read_synonyms(path)
    assert str(caught.value) == f"{path}{message}"


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        noise.read_synonyms(tmp_path / "words.csv")
