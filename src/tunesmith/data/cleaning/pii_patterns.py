"""Where a text holds what identifies a person: candidates by their shape, checked by their checksum and by the word before them.

A digit run alone proves little: one order number in ten passes Luhn's check, and nearly every run of nine digits is a phone number somewhere.
So a finder asks for a shape that nothing else has ("(202) 555-0143"), or for a shape, a checksum and no word that says otherwise ("order 4111..."),
or for the word itself ("call 2025550143"). Checksums are python-stdnum's, numbering plans those of phonenumbers; the words are ours.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import cache

Place = tuple[int, int]
"""First character and the one after the last."""

BLANK = r" \u00a0\u2009\u202f"
"""Spaces that people and word processors put inside numbers: plain, no-break, thin, narrow no-break."""
LETTER = r"A-Za-z0-9\u00c0-\u024f\u0370-\u04ff"
"""Letters of addresses in Latin, Greek and Cyrillic, and digits: other scripts are often written right up to an address, without a space."""

WORDS = {
    "US": r"ssn|social(?: security)?",
    "GB": r"nino|n\.?i\.? (?:no|nr|num)|nat(?:ional)?\.? ins",
    "DE": r"steuer\w*[ -]?(?:id\w*|nr|nummer)?|id[ -]?nr|tax[ -]?id|tin\b",
    "FR": r"nir\b|(?:num[eé]ro de )?s[eé]cu|vitale",
    "ES": r"dni|nie\b|nif",
    "IT": r"codice fiscale|c\.?f\.?(?=\W)",
    "NL": r"bsn|burgerservice|sofi",
    "PL": r"pesel",
    "IN": r"aadh?aa?r|uidai|uid\b",
    "BR": r"cpf",
    "card": r"(?:credit|debit|bank|kredit)[ -]?(?:card|karte)|card(?: n|:| is|$| $)|karte|carte|tarjeta|visa|mastercard|amex",
    "version": (
        r"ver(?:sion\w*)?\b|versión|v\.|firmware|kernel|driver|treiber|build|release[ds]?|upgraded?|updated?|patch(?:ed)?|app\b|lib\w+|section|sect?\.|§|chapter|kapitel|clause|"
        r"abschnitt|paragraph|article|oid\b"
    ),
    "phone": (
        r"(?:tele)?phone|tel(?=[\W_])|tel[eé]f\w+|t[eé]l[eé]?ph\w+|t[eé]l(?=\W)|tfno|mobil\w*|mob(?=\W)|m[oó]vil|cell(?:ulare|phone)?\b|celular|handy\w*|"
        r"land ?line|call(?:ed)?\b|calling|rang|ring\w*|dial|text (?:me|us)|sms|whats ?app|fax|hotline|(?:my|his|her|our|your) (?:new |old )?(?:number|#|no\b)|"
        r"reach (?:me|us)|"
        r"(?:an|zurück|zurueck)?rufen|r[uü]ckruf\w*|erreichbar|durchwahl|appele[rz]\w*|rappele[rz]|joignable|portable|mon num[eé]ro|ll[aá]m\w+|chiam\w+|"
        r"mijn nummer|bel(?:len)?\b|telefoon\w*|dzwo\w+|zadzwo\w+|kom(?:[oó]rk\w*|\.)|lig(?:a|ue)\b|numer kontaktowy|nr kontaktowy|contact|kont?akt|contatt\w+"
    ),
    "other": (
        r"order|invoice|receipt|ref(?:erence)?\b|r[eé]f(?=\W)|track(?:ing)?|parcel|package|shipment|ticket|case|incident|ids?\b|account|acct|"
        r"(?:customer|user) (?:no|num|#)|member\w*|policy|contract|booking|batch|lot\b|job|pid|tid|serial|s/n|p/n|part|sku|is[bs]n\S*|ean|gtin|upc|imei|epoch|"
        r"timestamp|row|line|value|bytes|licen[cs]e|voucher|gift|loyalty|page|model|room|zip|plz|gps|lat|lon|usps|dhl|ups\b|population|vat\b|nip\b|regon|hrb|"
        r"docket|pmid|doi|arxiv|bestell\w*|auftrag\w*|rechnung\w*|kunden\w*|vertrag\w*|sendung\w*|paket\w*|konto\w*|blz|lieferschein\w*|teilenummer|serien\w*|"
        r"lizenz|commande|facture|colis|dossier|pedido|factura|albar[aá]n|referencia|pieza|p[oó]liza|ordine|fattura|ordre|zam[.oó]\w*|faktur\w*|zlecen\w*|"
        r"factuur|bestelling|pakket|encomenda|protocolo|total|gesamt|price|prix"
    ),
}
"""What the word before a number says that it is. The nearest one counts."""
_ENDS = {"other": r"(?:e?s|e?d|ing|id|nr|no|num(?:ber|mer)?)?(?![^\W\d_])", "version": r"(?:e?s)?(?![^\W\d_])"}
"""How a word that saves a number from being hidden may end: `later`, `London` and `partner` say nothing of `lat`, `lon` and `part`."""
_SAYS = "|".join(f"(?P<{kind}>(?:{words}){_ENDS.get(kind, '')})" for kind, words in WORDS.items())
_WORD = re.compile(rf"(?<![{LETTER}])(?:{_SAYS})")
_STOP = re.compile(r"[\d\[\]]")
_REACH, _REACH_OTHER = 40, 20
"""Characters in which that word is looked for, and in which one that says `other` must begin (conventions of ours): "the parcel came, but 4111..." is a card.
A digit or a bracket ends them, so that a mark in a number's place changes nothing."""


def said(text: str, start: int) -> str:
    """The key of `WORDS` whose word stands nearest before a place, or nothing."""
    before = _STOP.split(text[max(0, start - _REACH) : start].lower())[-1]
    words = [(match.start(), match.lastgroup or "") for match in _WORD.finditer(before)]
    at, word = words[-1] if words else (0, "")
    return "" if word == "other" and len(before) - at > _REACH_OTHER else word


def compact(text: str) -> str:
    """Letters and digits alone, in upper case, digits of all scripts as 0 to 9."""
    return "".join(str(int(c)) if c.isdecimal() else c for c in text.upper() if c.isalnum())


# --- e-mail -------------------------------------------------------------------------------------------------------------------------------------------------

_LOCAL = rf"[{LETTER}_.+%'&~#-]"
_EMAIL = re.compile(
    rf"(?<![{LETTER}_.+%'&~#@-]){_LOCAL}{{1,64}}@(?:[{LETTER}](?:[{LETTER}-]{{0,61}}[{LETTER}])?\.)+(?:xn--[a-z0-9-]{{2,59}}|[^\W\d_]{{2,63}})(?![{LETTER}@])"
)
_AT = r"\s?[\[({<]\s?(?:at|arroba|arobase|@)\s?[\])}>]\s?"
_DOT = r"(?:\.|\s?[\[({<]\s?(?:dot|punto|ponto|punkt|point|\.)\s?[\])}>]\s?)"
_SAID = ((" (?:at|@) ", " (?:dot|punkt) "), (" arroba ", " (?:punto|ponto) "), (" arobase ", " point "))
_SAID_AT, _SAID_DOT = (f"(?:{'|'.join(words)})" for words in zip(*_SAID, strict=True))
_LABEL = rf"[{LETTER}-]{{1,63}}"
_ENDINGS = "com|org|net|edu|gov|info|io|co|eu|de|fr|es|nl|pl|pt|br|uk|ie|ca|au|nz|dk|fi|cz|example"
"""Of an address written out in words, where any word could end it: endings that are no words of their own ("a dot in ...")."""
_DISGUISED = re.compile(
    rf"(?<![{LETTER}_.+%@-])[{LETTER}_.+%-]{{1,64}}(?:{_AT}{_LABEL}(?:(?:{_DOT}|{_SAID_DOT}){_LABEL}){{0,3}}(?:{_DOT}|{_SAID_DOT})[a-z]{{2,24}}|"
    + "|".join(rf"{at}(?=[0-9-]*[a-z]){_LABEL}(?:(?:{dot}|{_DOT}){_LABEL}){{0,2}}(?:{dot}|\s?[\[(]dot[\])]\s?)(?:{_ENDINGS})" for at, dot in _SAID)
    + rf")(?![{LETTER}@])",
    re.IGNORECASE,
)
_DISGUISES = ("(at", "[at", "{at", "<at", "( at", "[ at", "arroba", "arobase", "(@", "[@", " dot ", "[dot", "(dot", " punto ", " punkt ", " point ", " ponto ")
_FILES = ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "py", "git", "html", "json")


def emails(text: str) -> Iterator[Place]:
    """E-mail addresses, also as `name (at) example dot com`; not user:password@host of a URL, `logo@2x.png`, `git@host`."""
    if "@" in text:
        for match in _EMAIL.finditer(text):
            found = match[0]
            start = match.start() + len(found) - len(found.lstrip(".-'&#~"))
            local, _, domain = text[start : match.end()].partition("@")
            in_url = "://" in (text[max(0, start - 100) : start].split() or [""])[-1]
            if local and local != "git" and not in_url and domain.rpartition(".")[2].lower() not in _FILES:
                yield start, match.end()
    low = text.lower()
    if any(one in low for one in _DISGUISES):
        yield from (match.span() for match in _DISGUISED.finditer(text))


def plain_email(found: str) -> str:
    """An address in lower case and without its disguise."""
    plain = re.sub(rf"{_DOT}|{_SAID_DOT}", ".", found, flags=re.IGNORECASE)
    return re.sub(rf"{_AT}|{_SAID_AT}", "@", plain, flags=re.IGNORECASE).casefold()


# --- numbers of accounts ------------------------------------------------------------------------------------------------------------------------------------

_IBAN = re.compile(rf"\d(?<=[A-Za-z]{{2}}.)(?<![A-Za-z0-9]{{3}}.)\d(?:[{BLANK}-]?[A-Za-z0-9]){{11,30}}", re.ASCII)


@cache
def _iban_length(country: str) -> int:
    """Characters of a country's IBANs, or 0 (registry of ISO 13616, as python-stdnum has it)."""
    from stdnum import numdb

    _, about = numdb.get("iban").info(country)[0]
    return 4 + sum(int(number) for number in re.findall(r"\d+", about["bban"])) if "bban" in about else 0


def ibans(text: str) -> Iterator[Place]:
    """IBANs of the right length whose remainder modulo 97 is 1."""
    from stdnum import iban

    for match in _IBAN.finditer(text):
        start = match.start() - 2
        left = _iban_length(text[start : start + 2].upper())
        end = start
        while left and end < match.end():
            left -= text[end].isalnum()
            end += 1
        if end > start and not left and not text[end : end + 1].isalnum() and iban.is_valid(text[start:end], check_country=False):
            yield start, end


_CARD = re.compile(
    rf"\d(?<![\w+-].)(?<!\d\..)(?:\d{{3}}([{BLANK}-])\d{{4}}\1\d{{4}}\1\d{{4}}(?:\1\d{{3}})?|(?<=3)\d{{3}}([{BLANK}-])\d{{6}}\2\d{{4,5}}|\d{{12,18}})(?![\w-])(?![.,]\d)"
)
_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d{4}|222[1-9]\d\d|22[3-9]\d{3}|2[3-6]\d{4}|27[01]\d{3}|2720\d\d)\d{10}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|"
    r"6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}|(?:50[1-3]\d|5893|6304|67\d\d)\d{8,15}"
)
"""Visa, Mastercard, American Express, Diners, Discover, JCB, UnionPay, Maestro (ISO/IEC 7812 ranges, https://en.wikipedia.org/wiki/Payment_card_number)."""


def cards(text: str) -> Iterator[Place]:
    """Payment cards: an issuer's range and length, Luhn's check, and no word that says it is something else."""
    from stdnum import luhn

    for match in _CARD.finditer(text):
        number = compact(match[0])
        if _ISSUER.fullmatch(number) and luhn.is_valid(number) and said(text, match.start()) not in ("other", "version"):
            yield match.span()


# --- IP -----------------------------------------------------------------------------------------------------------------------------------------------------

_V4 = re.compile(r"\d(?<![\w.-].)(?<!\w/.)\d{0,2}(?:\.\d{1,3}){3}(?!\w|\.\d|-[A-Za-z])", re.ASCII)
_V6 = re.compile(r"(?<![\w:.])[\da-fA-F]{0,4}(?::[\da-fA-F]{0,4}){2,8}(?:(?:\.\d{1,3}){3})?(?![\w:])", re.ASCII)
_V6_RANGES = re.compile(r"(?:[23][\da-f]{3}|f[cde][\da-f]{2}):|::ffff:", re.IGNORECASE)
"""Global, local and mapped addresses, the ranges that hosts have (https://www.iana.org/assignments/ipv6-address-space); 12:34::2 is a time or a slice."""
_LEAST_APART = 8
"""Characters between two versions ("1.2.3.4 vs 1.2.3.5", "1.2.3.4 -> 1.2.3.5"), at most (a convention of ours)."""


def ips(text: str) -> Iterator[Place]:
    """IPv4 and IPv6 addresses; not versions, netmasks, loopback and the unspecified address, which are nobody's."""
    if "::" in text or text.count(":") > 6:  # an IPv6 address without :: has seven
        for match in _V6.finditer(text):
            found = match[0] if match[0].endswith("::") else match[0].rstrip(":")
            if _V6_RANGES.match(found) and _is_v6(found):
                yield match.start(), match.start() + len(found)
    end_of_version = -_REACH
    for match in _V4.finditer(text):
        octets = match[0].split(".")
        if any(int(octet) > 255 or (octet[0] == "0" and octet != "0") for octet in octets):  # what an octet holds
            continue
        if said(text, match.start()) == "version" or match.start() - end_of_version < _LEAST_APART:
            end_of_version = match.end()
        elif octets[0] not in ("0", "127", "255"):
            yield match.span()


def _is_v6(found: str) -> bool:
    try:
        ipaddress.IPv6Address(found)
    except ValueError:
        return False
    return True


# --- national ids -------------------------------------------------------------------------------------------------------------------------------------------


def _ssn(number: str) -> bool:
    """No area 000 or 666, no group 00, no serial 0000; 9xx is the range of taxpayer numbers (ITIN), which are as personal.

    Source: https://www.ssa.gov/employer/randomization.html
    """
    return number[:3] not in ("000", "666") and number[3:5] != "00" and number[5:] != "0000"


def _nino(number: str) -> bool:
    """Prefixes in use, and QQ, which stands in every example (https://www.gov.uk/hmrc-internal-manuals/national-insurance-manual/nim39110)."""
    first, second = number[0], number[1]
    bad = first in "DFIUV" or second in "DFIQUVO" or number[:2] in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ") or first == "Q"
    return number[:2] == "QQ" or not bad


@cache
def _checks() -> dict[str, Callable[[str], bool]]:
    from stdnum.br import cpf
    from stdnum.de import idnr
    from stdnum.es import dni, nie
    from stdnum.fr import nir
    from stdnum.in_ import aadhaar
    from stdnum.it import codicefiscale
    from stdnum.nl import bsn
    from stdnum.pl import pesel

    return {
        **{"US": _ssn, "GB": _nino, "DE": idnr.is_valid, "FR": nir.is_valid, "ES": lambda number: dni.is_valid(number) or nie.is_valid(number)},
        **{"IT": codicefiscale.is_valid, "NL": bsn.is_valid, "PL": pesel.is_valid, "IN": aadhaar.is_valid},
        "BR": lambda number: len(set(number)) > 1 and cpf.is_valid(number),
    }


_SHAPES = {
    "US": (r"\d{3}-\d\d-\d{4}", r"\d{3}([ -]?)\d\d\1\d{4}"),
    "GB": (r"[A-Z]{2} ?\d\d ?\d\d ?\d\d ?[A-D]", r"[A-Za-z]{2} ?\d\d ?\d\d ?\d\d ?[A-Da-d]"),
    "DE": (r"\d\d \d{3} \d{3} \d{3}|\d{11}", ""),
    "FR": (r"[12] ?\d\d ?\d\d ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d", ""),
    "ES": (r"(?:\d{8}|\d\d\.\d{3}\.\d{3}|[XYZ]-?\d{7})-?[A-Z]", r"(?:\d{8}|\d\d\.\d{3}\.\d{3}|[XYZxyz][ -]?\d{7})[ -]?[A-Za-z]"),
    "IT": (r"[A-Za-z]{6}[\dL-V]{2}[A-Za-z][\dL-V]{2}[A-Za-z][\dL-V]{3}[A-Za-z]", ""),
    "NL": (r"\d{4}\.\d\d\.\d{3}", r"\d{3}[ .]?\d{3}[ .]?\d{3}|\d{4}[ .]\d\d[ .]\d{3}"),
    "PL": (r"\d{11}", ""),
    "IN": (r"[2-9]\d{3}([ -])\d{4}\1\d{4}", r"[2-9]\d{3}([ -]?)\d{4}\1\d{4}"),
    "BR": (r"\d{3}\.\d{3}\.\d{3}-\d\d|\d{11}", r"\d{3}\.?\d{3}\.?\d{3}[ -]?\d\d"),
}
"""Country -> how its number is written where that says enough, and how (if it is more) where its own word stands before it."""
COUNTRIES = tuple(_SHAPES)
_NUMBERED = re.compile(r"\d(?:(?:[ .-]?\d){8}|(?:[ .]?\d){5,7}[ -]?[A-Za-z](?![A-Za-z])|\d?[A-Za-z][\dL-V]{2}[A-Za-z][\dL-V]{3}[A-Za-z])")
"""What all of them hold; it begins with a digit, so that a scan for it costs little."""


_LETTERS_BEFORE = re.compile(r"(?:[A-Za-z]{1,2}[ -]|[A-Za-z]{1,6})\Z")


@cache
def _shape(country: str, worded: bool) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?<!\d[ .,/:])(?:{_SHAPES[country][worded]})(?!\w|[ .,/:-]\d)", re.ASCII)


def national_ids(text: str, countries: tuple[str, ...]) -> Iterator[Place]:
    """Numbers that a state gives a person, with a right checksum where they have one."""
    for match in _NUMBERED.finditer(text):
        digit = match.start()
        letters = _LETTERS_BEFORE.search(text[max(0, digit - 6) : digit])
        for start in (digit, digit - len(letters[0])) if letters else (digit,):
            word = said(text, start)
            if word not in ("other", "phone", "version"):
                yield from _ids_at(text, start, word, countries)


def _ids_at(text: str, start: int, word: str, countries: tuple[str, ...]) -> Iterator[Place]:
    for country in countries:
        if country in _SHAPES:
            found = _shape(country, word == country and bool(_SHAPES[country][True])).match(text, start)
            if found and _checks()[country](compact(found[0])):
                yield found.span()


# --- phones -------------------------------------------------------------------------------------------------------------------------------------------------

_PHONE = re.compile(rf"[+(\d](?<![\w.,/+#-].)(?:(?<=\+)|(?<!\d[ :-].))(?:[{BLANK}./()\u2010-\u2013-]{{0,3}}\d){{6,19}}(?!\w|[,:]\d|[{BLANK}]?[€$£%])")
_DATE = re.compile(r"(?<!\d)(?<!\d[./-])(?:\d{1,2}([./-])\d{1,2}\1(?:19|20)?\d\d|(?:19|20)\d\d([./-])\d{1,2}\2\d{1,2})(?![./-]?\d)")
_NORTH_AMERICA = re.compile(r"(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])\d{3}[ .-]\d{4}")
_AFTER = re.compile(
    r" ?\((?:home|work|office|mobile|cell|private|day|evenings?|privat|mobil|dienstlich|bureau|domicile|casa|oficina|ufficio|thuis|werk|dom|praca)\b",
    re.IGNORECASE,
)
"""What stands after a number says it too."""
_LOCAL_NUMBER = re.compile(r"[2-9]\d\d[ .-]?\d{4}")
"""A North American number without its area, as one says it to a neighbour."""
_AREA = re.compile(r"\(0?\d{2,5}\)[ ]?\d")
_TRUNK = re.compile(r"\(?0\d")
_LEAST, _LEAST_TRUNK, _MOST = 7, 9, 15
"""Digits: of the shortest number, of a national one with its 0, and of the longest (ITU-T E.164)."""


def phones(text: str, countries: tuple[str, ...]) -> Iterator[Place]:
    """Phone numbers: with + or 00 from anywhere, else as one of the countries writes them, or with a word such as `call` before them."""
    for match in _PHONE.finditer(text):
        start, end = match.span()
        start += match[0][0] == "(" and ")" not in match[0]
        word = "phone" if _AFTER.match(text, end) else said(text, start)
        if word == "phone" and _LOCAL_NUMBER.fullmatch(text[start:end]) and "US" in countries:
            yield start, end
            continue
        while end > start:
            if _is_phone(text[start:end], word, countries):
                yield start, end
                break
            end = _without_last_group(text, start, end)


def _without_last_group(text: str, start: int, end: int) -> int:
    """Two numbers may stand side by side: the end without what follows the last space, or `start` when nothing is left."""
    space = max(text.rfind(blank, start, end) for blank in " \u00a0\u202f")
    return start if space < 0 else start + len(text[start:space].rstrip(" \u00a0\u202f./()-"))


def _is_phone(found: str, word: str, countries: tuple[str, ...]) -> bool:
    groups = re.findall(r"\d+", found.replace("(0)", ""))
    digits = sum(map(len, groups))
    if not _LEAST <= digits <= _MOST + 2 or digits < 2 * len(groups) - 1 or _DATE.search(found) or ("/" in found and found[0] not in "+(0"):
        return False
    if found.startswith("+"):
        return e164(found, ()) is not None
    if found.startswith("00"):
        return word != "other" and e164("+" + found[2:], ()) is not None
    if word == "phone":
        return digits <= _MOST and e164(found, countries) is not None
    if word or len(groups) == 1:
        return False
    written = _NORTH_AMERICA.fullmatch(found) or _AREA.match(found) or (_TRUNK.match(found) and digits >= _LEAST_TRUNK)
    return bool(written) and e164(found, countries) is not None


def _fits(digits: str, country: str) -> bool:
    """Whether a country has numbers of this length, which is tried in a hundredth of the time that parsing takes."""
    trunk, lengths = _lengths(country)
    return len(digits) in lengths or len(digits.removeprefix(trunk)) in lengths


@cache
def _lengths(country: str) -> tuple[str, frozenset[int]]:
    import phonenumbers

    plan = phonenumbers.PhoneMetadata.metadata_for_region(country)
    assert plan is not None and plan.general_desc is not None  # the settings know the country
    return plan.national_prefix or "", frozenset(plan.general_desc.possible_length)


def e164(found: str, countries: tuple[str, ...]) -> str | None:
    """A phone number as +CCNNN..., read as the first of the countries that could have it; None where none could.

    Numbers of the right length count: the numbering plans of phonenumbers leave out those that are reserved for films and examples, and lag behind new ranges.
    """
    import phonenumbers

    possible = None
    digits = compact(found)
    for country in (None,) if found.startswith("+") else countries:
        if country is not None and not _fits(digits, country):
            continue
        try:
            number = phonenumbers.parse(found, country)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number):
            return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        if possible is None and phonenumbers.is_possible_number(number):
            possible = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return possible
