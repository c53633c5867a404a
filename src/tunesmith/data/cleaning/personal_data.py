"""Personal data in texts: found, then reported, masked, pseudonymised, or a reason to drop the row.

Nothing that is hidden may be kept in clear anywhere: whoever writes a row, a reject or a report passes it through `hide` or `hide_in` first.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import secrets
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import field_validator, model_validator

from tunesmith.core.errors import UserError, some
from tunesmith.core.settings import Settings
from tunesmith.data.cleaning import pii_patterns

Kind = Literal["email", "phone", "iban", "card", "ip", "national_id", "name", "address"]
NAMED: tuple[Kind, ...] = ("name", "address")
"""The kinds that only a model finds."""
LEAST_KEY = 16
"""Characters of a key: 128 bits at one byte each, where guessing ends (NIST SP 800-57, table 2)."""


class PrivacySettings(Settings):
    """What is done with personal data."""

    action: Literal["report", "mask", "pseudonymise", "drop"] | None = None
    """report: count it. mask: [EMAIL] in its place. pseudonymise: a mark that is the same for the same value. drop: leave the row out. null: not looked for."""
    kinds: tuple[Kind, ...] = ("email", "phone", "iban", "card", "ip", "national_id")
    """What is looked for. `name` and `address` need `names`, and are both looked for with it unless one of them stands here."""
    countries: tuple[str, ...] = pii_patterns.COUNTRIES
    """ISO codes of the countries whose national ids are looked for, and as whose phone numbers those without + are read, in this order."""
    names: str | None = None
    """Folder of a token-classification model that finds names and addresses. null: they are not looked for."""
    key: str | None = None
    """NAME of the environment variable that holds the key of the marks (16 characters or more), never the key itself: with it, the marks of two
    preparations are the same. null: a random key for each preparation, which is written nowhere."""

    @field_validator("countries")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not set(value) <= set(pii_patterns.COUNTRIES):
            import phonenumbers

            unknown = [code for code in value if code not in phonenumbers.SUPPORTED_REGIONS]
            if unknown:
                raise ValueError(f"{some(unknown)} must be ISO 3166 codes of two capital letters, such as DE or GB")
        return value

    @model_validator(mode="after")
    def _names_need_a_model(self) -> PrivacySettings:
        if self.names is None and set(self.kinds) & set(NAMED):
            raise ValueError(f"kinds={some(kind for kind in self.kinds if kind in NAMED)} needs `names`, the folder of a model that finds them")
        return self

    @property
    def wanted(self) -> frozenset[str]:
        """The kinds that are looked for."""
        return frozenset(self.kinds) | (frozenset(NAMED) if self.names and not set(self.kinds) & set(NAMED) else frozenset())


class Span(NamedTuple):
    """Where something stands: characters [start, end) of a text, and what it is."""

    start: int
    end: int
    kind: str


class Hidden(NamedTuple):
    """Texts without what was found in them, how often each kind was found in each text, and the texts as they are placed: the same for any key."""

    texts: list[str]
    found: list[Counter[str]]
    placed: list[str]


_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(rf"\d(?:(?:[{pii_patterns.BLANK}./()\u2010-\u2013-]{{0,3}}\d){{5}}|\d?[A-Za-z][\dL-V]{{2}}[A-Za-z][\dL-V]{{3}})")
_FINDERS: tuple[tuple[str, re.Pattern[str] | None, Callable[[str, tuple[str, ...]], Iterator[pii_patterns.Place]]], ...] = (
    ("email", None, lambda text, countries: pii_patterns.emails(text)),
    ("iban", _NUMBER, lambda text, countries: pii_patterns.ibans(text)),
    ("card", _NUMBER, lambda text, countries: pii_patterns.cards(text)),
    ("ip", _DIGIT, lambda text, countries: pii_patterns.ips(text)),
    ("national_id", _NUMBER, pii_patterns.national_ids),
    ("phone", _NUMBER, pii_patterns.phones),
)
"""Kind, what every finding of it holds (cheap to look for; all but e-mail also hold a digit), and its finder; the better the proof the earlier."""


def find(text: str, settings: PrivacySettings) -> list[Span]:
    """Everything personal in a text that needs no model.

    Args:
        text: any text.
        settings: kinds and countries; `action` is not looked at.

    Returns:
        Spans in order, which do not overlap: what has the better proof is taken first (an IBAN is not a phone number). A value that was found once
        is found wherever it stands, whatever the words around it.
    """
    found: list[Span] = []
    work, more = text, True
    while more:  # what is blanked may have stood in another's way: a mask leaves nothing for a second mask
        before = len(found)
        for kind, likely, finder in _FINDERS[: len(_FINDERS) if _DIGIT.search(work) else 1]:
            if likely is None or likely.search(work):
                places = _apart(finder(work, settings.countries))
                found += [Span(start, end, kind) for start, end in places]
                work = _blank(work, places)
        for value, kind in {text[start:end]: kind for start, end, kind in found}.items():
            if value in work:
                places = [match.span() for match in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", work)]
                found += [Span(start, end, kind) for start, end in places]
                work = _blank(work, places)
        more = len(found) > before
    return sorted(span for span in found if span.kind in settings.wanted) if found else found


def _apart(places: Iterable[pii_patterns.Place]) -> list[pii_patterns.Place]:
    """In order and without overlaps: of two that begin together the longer, else the first."""
    out: list[pii_patterns.Place] = []
    for start, end in sorted(places, key=lambda place: (place[0], -place[1])):
        if not out or start >= out[-1][1]:
            out.append((start, end))
    return out


def _blank(text: str, places: Sequence[pii_patterns.Place]) -> str:
    """Brackets in the place of findings: to the finders, what a mask will be, at the same length."""
    out, at = [], 0
    for start, end in places:
        out += [text[at:start], "[", "]" * (end - start - 1)]
        at = end
    return "".join(out) + text[at:] if places else text


def key_of(settings: PrivacySettings, environment: Mapping[str, str] = os.environ) -> bytes:
    """The key of the marks: what the environment holds under the name of `settings.key`, or a random one. Never write it anywhere.

    A hash without a key would be no protection: there are some 10^10 phone numbers, and a graphics card hashes as many in seconds, so that whoever has
    the marks has the numbers. With HMAC-SHA256 (RFC 2104) one must know the key to try them.

    Raises:
        UserError: the variable is not set, or holds fewer than 16 characters.
    """
    if settings.key is None:
        return secrets.token_bytes(32)
    value = environment.get(settings.key, "")
    if len(value) < LEAST_KEY:
        what = f"the environment variable `{settings.key}` " + (f"holds {len(value)} characters; a key has at least {LEAST_KEY}" if value else "is not set")
        remedy = f'export {settings.key}="$(openssl rand -hex 32)" and keep it, or leave data.privacy.key out for a random key'
        raise UserError(what, "recipe, `data.privacy.key`", remedy)
    return value.encode()


Named = Callable[[Sequence[str]], list[list[tuple[int, int, str]]]]
"""Texts -> (start, end, `name` or `address`) of each: what `models.names.finder` gives."""


def hide(texts: Sequence[str], settings: PrivacySettings, key: bytes, named: Named | None = None) -> Hidden:
    """Take what is personal out of texts.

    Args:
        texts: a batch.
        settings: `report` leaves the texts as they are; `drop` masks them, for the rejects: the caller leaves out every row with a finding.
        key: of the marks of `pseudonymise` (`key_of`).
        named: finds names and addresses, where `settings.names` is given.

    Returns:
        The texts (one without findings is the same object) and the counts by kind of each. Masking what is masked changes nothing. `placed` is for
        hashes alone, never to be written: whoever guesses a value finds its mark there.
    """
    spans = [find(text, settings) for text in texts]
    if named is not None and settings.wanted & set(NAMED):
        spans = [_with_named(ours, theirs, settings) for ours, theirs in zip(spans, named(texts), strict=True)]
    hidden = [_marked(text, found, settings, key) if found else text for text, found in zip(texts, spans, strict=True)]
    placed = hidden
    if settings.action == "pseudonymise":
        placed = [_marked(text, found, settings, b"") if found else text for text, found in zip(texts, spans, strict=True)]
    return Hidden(hidden, [Counter(span.kind for span in found) for found in spans], placed)


def _with_named(ours: list[Span], theirs: list[tuple[int, int, str]], settings: PrivacySettings) -> list[Span]:
    """What a model found beside what we found: where both claim characters, ours keep them and the rest of a name is hidden all the same."""
    both = list(ours)
    for start, end, kind in theirs:
        at = start
        for span in ours if kind in settings.wanted else ():
            if span.start < end and at < span.end:
                both += [Span(at, span.start, kind)] if at < span.start else []
                at = span.end
        both += [Span(at, end, kind)] if at < end and kind in settings.wanted else []
    return sorted(both)


def _marked(text: str, spans: list[Span], settings: PrivacySettings, key: bytes) -> str:
    if settings.action in (None, "report"):
        return text
    out, at = [], 0
    for start, end, kind in spans:
        mark = kind.upper()
        if settings.action == "pseudonymise":
            mark += "-" + _pseudonym(text[start:end], kind, settings.countries, key)
        out += [text[at:start], f"[{mark}]"]
        at = end
    return "".join(out) + text[at:]


_MARK = 12
_AS_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


def _pseudonym(value: str, kind: str, countries: tuple[str, ...], key: bytes) -> str:
    """Twelve of the letters a to p, 48 bits: among a million values two share a mark with a probability of 0.2 %. No digits, so that no mark is a number."""
    digest = hmac.new(key, f"{kind}:{normal(value, kind, countries)}".encode(), "sha256").hexdigest()
    return digest[:_MARK].translate(_AS_LETTERS)


def normal(value: str, kind: str, countries: tuple[str, ...] = ()) -> str:
    """One form for all ways to write a value: what the mark of a pseudonym is made of.

    E-mail addresses without disguise and in lower case, phone numbers as E.164, IP addresses in their short form, names by their words alone,
    all else as its letters and digits.
    """
    value = unicodedata.normalize("NFKC", value)
    if kind == "email":
        return pii_patterns.plain_email(value)
    if kind == "phone":
        return pii_patterns.e164(value, countries) or pii_patterns.compact(value)
    if kind == "ip":
        return str(ipaddress.ip_address(value))
    if kind in NAMED:
        return " ".join(re.findall(r"\w+", value.casefold()))
    return pii_patterns.compact(value)


def hide_in(value: Any, settings: PrivacySettings, key: bytes, named: Named | None = None) -> Any:
    """`hide` for every text of a JSON value, keys and whole numbers too: for rejected rows, which hold what was read.

    Args:
        value: nested dicts, lists, texts, numbers, booleans, None; not changed.
        settings, key, named: as for `hide`.

    Returns:
        A copy. A number in which something is found becomes text. Two keys that get the same mark are told apart by a count.
    """
    if isinstance(value, str):
        return hide([value], settings, key, named).texts[0]
    if isinstance(value, float) and value.is_integer() and hide([str(int(value))], settings, key, named).texts[0] != str(int(value)):
        return hide([str(int(value))], settings, key, named).texts[0]  # what pandas makes of whole numbers beside gaps
    if isinstance(value, int) and not isinstance(value, bool):
        hidden = hide([str(value)], settings, key, named).texts[0]
        return value if hidden == str(value) else hidden
    if isinstance(value, dict):
        out: dict[Any, Any] = {}
        for name, inner in value.items():
            hidden = one = hide_in(name, settings, key, named)
            while one in out:
                one = f"{hidden} ({len(out) + 1})"
            out[one] = hide_in(inner, settings, key, named)
        return out
    return [hide_in(inner, settings, key, named) for inner in value] if isinstance(value, (list, tuple)) else value
