"""Cleaning: each step mends what it is for and nothing else, is counted, and changes nothing a second time."""

from __future__ import annotations

import re
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tunesmith.data.cleaning import clean, languages
from tunesmith.data.cleaning.clean import CleanSettings

CASES = [
    ("unicode", "schÃ¶n, itâ€™s\nschön", "schön, it’s\nschön"),
    ("unicode", "voilÃ le travail", "voilà le travail"),
    ("unicode", "Cafe\u0301", "Café"),
    ("unicode", "â€œHelloâ€?", "“Helloâ€?"),
    ("control", "a\x00b\x7f\x1b[1;31mred\x1b[0m\tc\n", "abred\tc\n"),
    ("control", "\ufeffun\u200bsicht\u00adbar \u202eevil\u202c", "unsichtbar evil"),
    ("control", "pa\u200dy\u200c \u200d", "pay "),
    ("control", "hi\U000e0041\U000e0042", "hi"),
    ("whitespace", "a \r\nb\rc\u2028d\x0ce\x85f", "a\nb\nc\nd\ne\nf"),
    ("whitespace", "1\u00a0000\u202f€\u3000x", "1 000 € x"),
    ("whitespace", "\n \n  a\t \n\n \n\n  b  c \n\n", "  a\n\n  b  c"),
    ("html", "<p>a</p><p>b &amp; c</p>", "a\n\nb & c"),
    ("lower", "ÄBC Straße", "äbc straße"),
]
ASIS = [
    ("unicode", "“quotes” ‘single’ … – ﬁne Ｗide ½ №"),
    ("unicode", "Grüße“, l’été, cœur, „Öl“, 3.000\u00a0€, ŻÓŁĆ, naïve, Θα, Ещё «да», 你好，"),
    ("control", "\U0001f468\u200d\U0001f469\u200d\U0001f467 نمی\u200cخواهم क्\u200dष"),
    ("control", "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f\r\n\t\x0c\u00a0"),
    ("whitespace", "# Title\n\n```python\ndef f(a):\n    if a:\n\treturn  1\n```\n\n| a   | b |\n- x\n  - y"),
    ("whitespace", " world"),
    ("html", "a < b, List<String>, <3"),
]


def each(texts: list[str], settings: CleanSettings) -> list[tuple[str, str, str] | None]:
    return [clean.unwanted(text, settings) for text in texts]


def one(text: str, lines: frozenset[str] = frozenset(), **steps: Any) -> str:
    return clean.clean([text], CleanSettings(**steps), lines).texts[0]


@pytest.mark.parametrize(("step", "text", "expected"), CASES, ids=range(len(CASES)))
def test_a_step_mends_and_is_counted(step: str, text: str, expected: str) -> None:
    cleaned = clean.clean(["fine", text], CleanSettings(**{step: True}))
    assert cleaned.texts == ["fine", expected]
    assert cleaned.counts == {step: 1}


@pytest.mark.parametrize(("step", "text"), ASIS, ids=range(len(ASIS)))
def test_what_is_right_stays_the_same_object(step: str, text: str) -> None:
    cleaned = clean.clean([text], CleanSettings(**{step: True}))
    assert cleaned.texts[0] is text
    assert not cleaned.counts


def test_by_default_nothing_is_touched() -> None:
    texts = ["<p>\x00 schÃ¶n \r\n", ""]
    cleaned = clean.clean(texts, CleanSettings())
    assert all(after is before for after, before in zip(cleaned.texts, texts, strict=True))
    assert not cleaned.counts


def test_what_one_step_uncovers_another_mends() -> None:
    assert one("Ã\u200b¶ e\u200b\u0301", unicode=True, control=True) == "ö é"
    cleaned = clean.clean(["<p>sch&Atilde;&para;n</p>\x00"], CleanSettings(html=True, unicode=True))
    assert cleaned.texts[0].startswith("schön")
    assert cleaned.counts == {"html": 1, "unicode": 1}


def test_code_that_a_page_shows_stays() -> None:
    """The exception to `twice is once`: what was escaped in HTML is text, and a second cleaning would read it as HTML."""
    assert one("<p>Write</p><pre>&lt;b&gt;x&lt;/b&gt;</pre>", html=True, unicode=True, whitespace=True) == "Write\n\n<b>x</b>"


def test_the_quick_look_finds_all_that_ftfy_calls_bad() -> None:
    from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad

    ranges = [found for group in MOJIBAKE_CATEGORIES.values() for found in re.findall("(?s).-.|.", group)]
    characters = [chr(code) for found in ranges for code in range(ord(found[0]), ord(found[-1]) + 1)]
    characters += list("²³ŸŠžāЂў \n")
    assert len(characters) > 450
    seen = 0
    around = ["a", " ", *"ÂÃÎÐØÙàРΒβ‚√≈āéÉœ€„’»¦░²"]
    texts = [a + b for a in characters for b in characters] + [a + b + c for a in around for b in characters for c in around]
    for text in texts:
        if is_bad(text):
            seen += 1
            assert clean.suspect().search(text), ascii(text)
    assert seen > 50_000
    assert clean.suspect().search("вЂ") and not clean.suspect().search("Schöne Grüße aus l’été – żółć „x“ Привет 你好")


TEXTS = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.sampled_from(
            ["Ã", "¶", "â€", "™", "schÃ¶n", "e\u0301", "\u0301", " ", "  ", "\t", "\r", "\n", "\r\n", "\n\n\n", "\u00a0",
             "\u2028", "\x85", "\x0c", "\x1c", "\x00", "\x1b[0m", "\x1b", "[",
             "\u200b", "\u200d", "\u200c", "\u202e",
             "\U0001f3f4", "\U000e0067", "\U000e007f", "क", "A", "İ", "Σ", "É", "Sent from my phone", "sent FROM\u3000my phone",
             "über", "Œ ", "’"]
        ),
    ),
    max_size=8,
).map("".join)  # fmt: skip
LINES = ("Sent from my phone", "/ü.er/")
STEPS: list[dict[str, Any]] = [{"unicode": True}, {"control": True}, {"whitespace": True}, {"boilerplate": LINES}, {"lower": True}, {"html": True}]
STEPS.append({key: value for step in STEPS for key, value in step.items()})


@pytest.mark.parametrize("steps", STEPS, ids="-".join)
@given(texts=st.lists(TEXTS, max_size=3))
def test_twice_is_once_and_counts_are_of_changed_texts(steps: dict[str, Any], texts: list[str]) -> None:
    settings = CleanSettings(**steps)
    first = clean.clean(texts, settings)
    assert len(first.texts) == len(texts)
    changed = sum(after is not before for before, after in zip(texts, first.texts, strict=True))
    assert changed <= sum(first.counts.values()) and max(first.counts.values(), default=0) <= len(texts)
    if len(steps) == 1:
        assert sum(first.counts.values()) == sum(after != before for before, after in zip(texts, first.texts, strict=True)) == changed
    second = clean.clean(first.texts, settings)
    assert second.texts == first.texts
    assert not second.counts


def printed(text: str) -> str:
    return "".join(letter for letter in text if not letter.isspace() and unicodedata.category(letter) not in ("Cc", "Cf"))


@given(TEXTS.filter(lambda text: "\x1b" not in text))
def test_white_space_and_control_lose_nothing_to_be_seen(text: str) -> None:
    assert printed(clean.visible(text)) == printed(text)
    assert "".join(clean.tidy(text).split()) == "".join(text.split())
    assert len(clean.visible(text)) == len(text) or not text.isprintable()


def test_a_run_of_joiners_takes_linear_time() -> None:
    text = "क" + "\u200d" * 100_000 + "क"
    start = time.process_time()
    assert clean.visible(text) == text
    assert time.process_time() - start < 2, "0.03 s; looking at every place anew takes a minute"


def test_tidy_finds_all_in_a_text_of_several_lines() -> None:
    """The short cut for texts with nothing to do must not pass these."""
    for text in ("a \nb", "a\n\n\nb", "\na", "a\n", "a\nb ", "a\n\tb\t", "a\n\u00a0b"):
        assert clean.tidy(text) != text, text
    assert clean.tidy("a\n\tb") == "a\n\tb"


FOOTER = "This message is confidential."


def mails(count: int) -> list[str]:
    return [f"Question {number} about\nmy card\n\n{FOOTER.upper() if number % 2 else FOOTER} \nBye" for number in range(count)]


def test_lines_that_recur_are_found_and_leave() -> None:
    settings = CleanSettings(boilerplate=True, lower=True)
    lines = clean.boilerplate([*mails(20), *(f"one line {n}" for n in range(900)), *[FOOTER] * 50], settings)
    assert lines == {FOOTER.lower()}, "neither `Bye` and `my card`, too short, nor texts of one line"
    cleaned = clean.clean([*mails(1), FOOTER, f"\n{FOOTER}\n", f"a\n\n{FOOTER}"], settings, lines)
    assert cleaned.texts == ["question 0 about\nmy card\n\nbye", FOOTER.lower(), f"\n{FOOTER.lower()}\n", "a"]
    assert cleaned.counts["boilerplate"] == 2, "a text of nothing else is a duplicate, not boilerplate"
    assert clean.boilerplate(mails(20), CleanSettings()) == frozenset()
    assert clean.boilerplate(mails(20), CleanSettings(boilerplate=True, stem="english")) == lines


def test_a_line_must_recur_often_enough() -> None:
    assert clean.recurring(mails(9)) == frozenset()
    others = [f"different {number}\nlines" for number in range(190)]
    assert clean.recurring([*mails(10), *others]) == frozenset(), "10 of 200 is not more than 5 %"
    assert clean.recurring([*mails(11), *others]) == {FOOTER.lower()}
    assert clean.recurring([f"{FOOTER}\n{FOOTER}\n{number}" for number in range(5)]) == frozenset(), "a text counts once"
    assert clean.recurring([FOOTER] * 50) == frozenset(), "a text of one line is a duplicate"


def test_lines_and_patterns_that_are_given() -> None:
    given_lines = ("All  rights reserved.", r"/^Page \d+ of \d+$/")
    text = "Home\n  all rights\u00a0reserved.\nPage 3 of 12\nsee page 3 of 12\nEnd"
    assert one(text, boilerplate=given_lines) == "Home\nsee page 3 of 12\nEnd"


def test_stems() -> None:
    cleaned = clean.clean(["Running cards, 12 cards’ can't", "run 12"], CleanSettings(stem="english"))
    assert cleaned.texts == ["run card, 12 card’ can't", "run 12"]
    assert cleaned.counts == {"stem": 1}
    assert one("Häuser", stem="german") == "haus"


ENGLISH = "I cannot log in to my account since yesterday, please reset the password."
GERMAN = "Ich kann mich seit gestern nicht mehr anmelden, bitte setzen Sie mein Passwort zurück."
DANISH = "Jeg vil gerne bestille et nyt kort til min mand."
CODED = "aGVsbG8gd29ybGQgdGhpcyBpcyBiYXNlNjQgZW5jb2RlZA=="
CHINESE = "请重置我的账户密码，我从昨天开始就无法登录，急需使用。"


def test_rows_of_another_language_leave() -> None:
    settings = CleanSettings(languages=("en",))
    found = each([ENGLISH, GERMAN, CHINESE, "Wie geht es dir heute?", "12345 67890 " * 10, "你好", CODED], settings)
    assert [row is None for row in found] == [True, False, False, True, True, True, True], "short texts, numbers and codes are not judged"
    assert found[1] == ("another language", "looks like `de`, data.clean.languages is `en`", "add `de` there to keep such rows")
    assert found[2] is not None and "`zh`" in found[2][1]
    assert each([ENGLISH, GERMAN], CleanSettings(languages=("en", "de"))) == [None, None]
    likeness = dict(languages.identifier().rank(DANISH))
    assert likeness["da"] > likeness["no"] > clean.UNLIKELY
    assert each([DANISH], CleanSettings(languages=("no",))) == [None], "what may well be a wanted language stays"
    assert each([ENGLISH * 20 + GERMAN * 100], settings) == [None], "the first 1,000 characters count"


def test_languages_are_those_of_py3langid() -> None:
    assert sorted([*clean.LANGUAGES, "zxx"]) == sorted(languages.identifier().labels)


def test_rows_that_are_too_short_or_too_long_leave() -> None:
    settings = CleanSettings(least_characters=2, most_characters=3)
    assert each(["a", "ab", "abc", "abcd", " \n"], settings) == [
        ("too short", "1 character, data.clean.least_characters is 2", "lower it to keep such rows"),
        None,
        None,
        ("too long", "4 characters, data.clean.most_characters is 3", "raise it to keep such rows, or divide them"),
        ("nothing left", "cleaning left nothing of the text", "switch off the step of data.clean that emptied it, or delete the row"),
    ]
    assert each(["", "x" * 10_000], CleanSettings()) == [("nothing left", *each([""], settings)[0][1:]), None]  # type: ignore[index]  # no None there


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"stem": "englisch"}, "`englisch` has no stemmer, did you mean `english`?; there are `arabic`"),
        ({"languages": ["nb"]}, "`nb` is no language that can be told; codes are like en, de, fr, zh (Norwegian is no and nn)"),
        ({"boilerplate": ["/(/"]}, "`/(/` is no pattern: missing ), unterminated subpattern at position 0; a line that is meant as it is goes without"),
        ({"boilerplate": ["  "]}, "has a blank line; runs of blank lines are the step `whitespace`"),
        ({"least_characters": 5, "most_characters": 4}, "most_characters=4 is below least_characters=5: no row is left"),
    ],
)
def test_mistakes_in_the_settings(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        CleanSettings.model_validate(keys)
