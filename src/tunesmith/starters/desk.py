"""The starter data set `starter/desk`: texts of shops and their service desks, written by a seeded grammar and never stored.

The words and sentences lie in desk_words.yaml, whose head explains the notation; here is what turns them into documents. Every choice
goes through one `Chooser`, which adds up -ln(probability), so that each document knows what an ideal coder of the grammar pays for it:
an upper bound of the grammar's own -ln p(text), and a floor that no model trained on these texts can pass by much.
"""

from __future__ import annotations

import math
import re
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import NamedTuple

WORDS = Path(__file__).parent / "desk_words.yaml"

KINDS = {"message": 2.0, "exchange": 1.0, "chat": 0.85, "article": 1.1, "product": 1.8, "review": 1.8, "story": 1.0, "question": 1.0, "task": 1.9}
"""kind of document -> how often it comes, relative to the others. Kinds with short texts come more often: all have about equal shares of the words."""


class Document(NamedTuple):
    """One text of the starter data set."""

    text: str
    kind: str
    """One of KINDS."""
    nats: float
    """-ln of the probability of the choices that made this text, the choice of its kind included."""


class Chooser:
    """The only source of randomness. `nats` is -ln of the probability of all choices so far."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed).random  # of Random, `random` alone promises the same numbers in every version of Python
        self.nats = 0.0

    def below(self, count: int) -> int:
        """One of 0 .. count-1, each as likely as the others. With a count of 1 nothing is chosen and nothing is paid."""
        if count == 1:
            return 0
        self.nats += math.log(count)
        return int(self._random() * count)

    def weighted(self, weights: Sequence[float]) -> int:
        """An index of the weights, as likely as its weight's share of their sum."""
        sums = list(accumulate(weights))
        drawn = self._random() * sums[-1]
        index = next(i for i, upper in enumerate(sums) if drawn < upper)
        self.nats -= math.log(weights[index] / sums[-1])
        return index


class Page:
    """One document while it is written: its facts, and which alternatives it has used."""

    def __init__(self, chooser: Chooser, grammar: Grammar) -> None:
        self.chooser, self.grammar = chooser, grammar
        self.facts: dict[str, str] = {}
        self.used: dict[str, list[int]] = {}
        self.steps: list[str] = []

    def one_of(self, rule: str, options: Sequence[Writer]) -> str:
        """The text of one alternative. None comes twice in a document before all have come, unless the rule is named any.*"""
        if len(options) == 1:
            return options[0](self)
        if rule.startswith("any."):
            return options[self.chooser.below(len(options))](self)
        used = self.used.setdefault(rule, [])
        if len(used) == len(options):
            used.clear()
        index = self.chooser.below(len(options) - len(used))
        for earlier in used:  # in ascending order
            index += earlier <= index
        insort(used, index)
        return options[index](self)

    def rule(self, name: str) -> str:
        """A fresh text of a rule, or a fact that is worked out from others."""
        made = MADE.get(name)
        return made(self) if made else self.one_of(name, self.grammar.rules[name])

    def fact(self, name: str) -> str:
        """What the document says of `name`, settled when it is first asked for."""
        found = self.facts.get(name)
        if found is None:
            found = self.facts[name] = self.rule(name)
        return found

    def number(self, name: str) -> int:
        """A fact that is a whole number."""
        return int(self.fact(name))


Writer = Callable[[Page], str]


class Grammar(NamedTuple):
    """The compiled desk_words.yaml."""

    rules: Mapping[str, Sequence[Writer]]
    plans: Sequence[tuple[Writer, Sequence[tuple[bool, Writer]]]]
    """How-tos: the goal, then the steps in order, each with whether it may be left out."""
    pairs: frozenset[str]
    """The kinds of goods that are plural: boots, jeans."""


# ---- facts that are worked out, by name; a template uses them like rules


def _plan(page: Page) -> str:
    """Chooses what a how-to is about and which of its steps are told; the text is its goal."""
    goal, steps = page.grammar.plans[page.chooser.below(len(page.grammar.plans))]
    page.steps = [write(page) for may_go, write in steps if not may_go or page.chooser.below(2)]
    return goal(page)


def _in_prose(page: Page) -> str:
    """The chosen steps as sentences: First, ... Then ... Finally, ..."""
    last = len(page.steps) - 1
    words = [page.rule("say.first" if i == 0 else "say.last" if i == last else "say.then") for i in range(last + 1)]
    return " ".join(f"{word} {text}." for word, text in zip(words, page.steps, strict=True))


def _forget(page: Page) -> str:
    """A new part of the same document begins: only how its parts are labelled stays known."""
    page.facts = {name: page.facts[name] for name in ("labels",) if name in page.facts}
    return ""


def _side(fact: str, side: int) -> Writer:
    """One side of a pair `left~right`."""
    return lambda page: page.fact(fact).split("~")[side]


def _money(page: Page, amount: int) -> str:
    """`5 pounds`, `1 pound`."""
    return f"{amount} {page.fact('coins')}" if amount != 1 else f"1 {page.fact('currency')}"


def _dearer(sign: int) -> Writer:
    """Of the articles i1 and i2 with prices p1 and p2, the dearer (sign 1) or the cheaper (sign -1)."""
    return lambda page: page.fact("i1" if sign * (page.number("p1") - page.number("p2")) > 0 else "i2")


NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

MADE: dict[str, Writer] = {
    "many": lambda page: "yes" if page.fact("cat") in page.grammar.pairs else "",
    "mail": lambda page: page.rule("mailbox").lower().replace("'", ""),
    "goal": _plan,
    "stepcount": lambda page: NUMBERS[len(page.steps)],
    "firststep": lambda page: page.steps[0],
    "laststep": lambda page: page.steps[-1],
    "secondstep": lambda page: page.steps[1],
    "numbered_steps": lambda page: "\n".join(f"{i}. {text[0].upper()}{text[1:]}." for i, text in enumerate(page.steps, 1)),
    "bullet_steps": lambda page: "\n".join(f"- {text[0].upper()}{text[1:]}" for text in page.steps),
    "prose_steps": _in_prose,
    "forget": _forget,
    "left": _side("pair", 0),
    "right": _side("pair", 1),
    "dearer": _dearer(1),
    "cheaper": _dearer(-1),
    "high": lambda page: str(max(page.number("p1"), page.number("p2"))),
    "low": lambda page: str(min(page.number("p1"), page.number("p2"))),
    "sum": lambda page: str(page.number("p1") + page.number("p2")),
    "gap": lambda page: str(abs(page.number("p1") - page.number("p2"))),
    "gap_money": lambda page: _money(page, page.number("gap")),
    "change_back": lambda page: str(page.number("note") - page.number("p1")),
    "change_money": lambda page: _money(page, page.number("change_back")),
    "times": lambda page: str(page.number("p1") * page.number("count")),
    "remain": lambda page: str(page.number("stock") - page.number("sold")),
    "hours": lambda page: str(page.number("closes") + 12 - page.number("opens")),
    "before": lambda page: str(page.number("opens") - 1),
    "after": lambda page: str(page.number("opens") + 1),
    "sorted": lambda page: ", ".join(sorted(page.fact(f"w{i}") for i in (1, 2, 3))),
    "backwards": lambda page: ", ".join(page.fact(f"w{i}") for i in (3, 2, 1)),
    "upper": lambda page: page.fact("w1").upper(),
    "initial": lambda page: page.fact("w1")[0].upper(),
    "letters": lambda page: str(len(page.fact("w1"))),
    "older": lambda page: page.fact("n1" if page.number("p1") > page.number("p2") else "n2"),
    "younger": lambda page: page.fact("n2" if page.number("p1") > page.number("p2") else "n1"),
}


# ---- the notation of desk_words.yaml, compiled once to functions of the page


def _sequence(parts: list[str | Writer]) -> Writer:
    """Parts one after the other. Neighbouring texts are joined here, once."""
    joined: list[str | Writer] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    if not joined:
        return lambda page: ""
    if len(joined) == 1:
        only = joined[0]
        return (lambda page: only) if isinstance(only, str) else only
    return lambda page: "".join([part if part.__class__ is str else part(page) for part in joined])  # type: ignore[operator]  # mypy does not narrow by class


def _slot(inside: str) -> Writer:
    """What stands between { and }."""
    if inside.startswith("^"):
        plain = _slot(inside[1:])

        def capital(page: Page) -> str:
            text = plain(page)
            return text[:1].upper() + text[1:]

        return capital
    if inside[0] in "@!":
        name, _, body = inside[1:].partition("=")
        silent = inside[0] == "!"
        made = _template(body) if body else None

        def keep(page: Page) -> str:
            if made and name not in page.facts:
                page.facts[name] = made(page)
            text = page.fact(name)
            return "" if silent else text

        return keep
    name, _, fact = inside.partition(":")
    if fact:
        return lambda page: page.rule(f"{name}.{page.fact(fact)}")
    return lambda page: page.rule(name)


def _branch(inside: str) -> Writer:
    """What stands between < and >."""
    name, _, rest = inside.partition("?")
    yes, no = (_template(text) for text in _split(rest, "|"))
    if name == "many":
        return lambda page: (yes if page.fact("many") else no)(page)
    return lambda page: (yes if name in page.facts else no)(page)


def _choice(inside: str) -> Writer:
    """What stands between [ and ]."""
    options = _alternatives(f"[{inside}]", _split(inside, "|"))
    count = len(options)
    return lambda page: options[page.chooser.below(count)](page)


CLOSES = {"{": "}", "[": "]", "<": ">"}
INSIDE: dict[str, Callable[[str], Writer]] = {"{": _slot, "[": _choice, "<": _branch}


def _split(text: str, at: str) -> list[str]:
    """The text's parts between separators that no bracket encloses."""
    parts, depth, start = [], 0, 0
    for i, sign in enumerate(text):
        depth += (sign in "{[<") - (sign in "}]>")
        if sign == at and not depth:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def _template(text: str) -> Writer:
    """A text with slots, choices and branches, as a function of the page.

    Raises:
        ValueError: a bracket without its partner, or a choice with two equal alternatives.
    """
    parts: list[str | Writer] = []
    start, depth = 0, 0
    for i, sign in enumerate(text):
        if sign in CLOSES:
            if not depth:
                parts.append(text[start:i])
                start = i
            depth += 1
        elif sign in CLOSES.values():
            depth -= 1
            if depth < 0 or (not depth and CLOSES[text[start]] != sign):
                raise ValueError(f"unbalanced {sign} in: {text}")
            if not depth:
                parts.append(INSIDE[text[start]](text[start + 1 : i]))
                start = i + 1
    if depth:
        raise ValueError(f"unclosed bracket in: {text}")
    parts.append(text[start:])
    return _sequence(parts)


def _alternatives(name: str, texts: list[str]) -> list[Writer]:
    """The alternatives of a rule or a choice; `name` is for the message.

    Raises:
        ValueError: two are equal.
    """
    if len(set(texts)) < len(texts):
        raise ValueError(f"{name} has two equal alternatives, which would be paid for and not be seen")
    return [_template(text.replace("\\n", "\n")) for text in texts]


@cache
def grammar() -> Grammar:
    """The grammar of desk_words.yaml, compiled on first use."""
    from ruamel.yaml import YAML

    loaded = YAML(typ="safe").load(WORDS.read_text("utf-8"))
    rules = {name: _alternatives(name, [word.strip() for word in text.split(",")]) for name, text in loaded["lists"].items()}
    pairs = frozenset(word.strip() for word in loaded["lists"]["pairs"].split(","))
    rules |= {name: _alternatives(name, re.sub(r"\\\n *", "", text).removesuffix("\n").split("\n")) for name, text in loaded["rules"].items()}
    plans = []
    for block in loaded["steps"]:
        goal, *steps = block.strip().split("\n")
        plans.append((_template(goal), [(step.startswith("? "), _template(step.removeprefix("? "))) for step in steps]))
    return Grammar(rules, plans, pairs)


# ---- what is put right when a text is done: spaces where an optional word was left out, `a` before a vowel, capitals

_SPACE = re.compile(r" +(?=[ .,;:?!\n]|$)")
_ARTICLE = re.compile(r"\b([Aa])(?= \"?([A-Za-z0-9]+))")
_AN = re.compile(r"(?:hour|honest|honour|heir|11\b|18\b|8\d?\b)")
_A = re.compile(r"(?:uni(?![nm])|use|usu|eu|one\b|once|uku|uten)")
_START = re.compile(r"(?:(?:^|\n|[.!?] )\"?|[ (]\"(?!\w*\"))([a-zà-ÿ])(?![\w.-]*@)")


def _with_article(match: re.Match[str]) -> str:
    word = match[2].lower()
    vowel = bool(_AN.match(word)) if word[0] not in "aeiou" else not _A.match(word)
    return match[1] + "n" if vowel else match[1]


def polish(text: str) -> str:
    """The text with single spaces, `an` where it belongs and every sentence and quotation begun with a capital."""
    text = _ARTICLE.sub(_with_article, _SPACE.sub("", text))
    return _START.sub(lambda match: match[0][:-1] + match[1].upper(), text)


@cache
def identity() -> str:
    """Twelve hex digits that change whenever the documents may: the hash of the words and of this file."""
    return blake2b(WORDS.read_bytes() + Path(__file__).read_bytes(), digest_size=6).hexdigest()


def compose(chooser: Chooser) -> tuple[str, str]:
    """The text and the kind of one document, made by the chooser's choices."""
    kind = tuple(KINDS)[chooser.weighted(tuple(KINDS.values()))]
    return polish(Page(chooser, grammar()).rule(kind)), kind


def documents(count: int, seed: int = 0, first: int = 0) -> Iterator[Document]:
    """Documents of `starter/desk`.

    Args:
        count: how many.
        seed: another seed, other documents.
        first: the number of the first document. Document i depends on `seed` and i alone, so that any part of the whole can be had without the rest.

    Yields:
        The documents, in order. `nats` is in nats for the whole document.
    """
    for i in range(first, first + count):
        chooser = Chooser(int.from_bytes(blake2b(f"{seed}:{i}".encode(), digest_size=8).digest(), "big"))
        text, kind = compose(chooser)
        yield Document(text, kind, chooser.nats)
