"""Cleaning: pure steps over texts, each off unless asked for and counted, and filters of whole rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from pydantic import Field, field_validator, model_validator

from tunesmith.core.errors import counted, nearest, some
from tunesmith.core.settings import Settings
from tunesmith.data.cleaning.languages import identifier
from tunesmith.data.readers import html
from tunesmith.data.texts import composed

LANGUAGES = (
    "ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr fuv fy ga gcf gcr gd gl gom grc gu gug guw ha"
    " hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko ku ky la lb lg lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm"
    " pl ps pt qu ro ru rw sa sdh se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo yue zh zu"
).split()
"""What py3langid 0.4 can tell apart; loading its model to check a recipe would take 0.6 s."""
LEAST_LETTERS = 30
"""Texts with fewer letters are not judged. Of program messages in 26 languages 3.1 % would leave wrongly at 20 to 30 letters, 1.0 % at 30 to 40,
0.5 % at 40 to 60; of English questions (Banking77, CLINC150) none from 20 letters on."""
IDEOGRAPHS = "\u2e80"
"""From here on a letter (Chinese, Japanese, Korean) says as much as three."""
UNLIKELY = 0.05
"""A row leaves when all wanted languages together are less probable. Of the messages of 30 to 40 letters 14.7 % would leave wrongly at 0.5; at 0.02 2.8 % of
the strangers would stay, 1.0 % at this."""
JUDGED = 1000
"""A language shows in so many characters; the rest would only take time."""

SHARE, LEAST = 0.05, 10
"""A line is boilerplate when it stands in more than one in twenty texts, and in ten: the share that the data card warns of in answers. Conventions of ours."""
WORDY = 12
"""Letters a recurring line must have: `}`, `---`, `else:`, `Answer:` recur because they carry structure. A convention of ours."""


class CleanSettings(Settings):
    """Which steps change the texts, in this order, and which rows leave."""

    html: bool = False
    """HTML to text, where a text looks like HTML."""
    unicode: bool = False
    """Repair what was decoded wrongly (`schÃ¶n` to `schön`) and compose accents (NFC). Quotes, dashes and ligatures stay."""
    control: bool = False
    """Remove control characters, terminal colours, zero-width characters, soft hyphens and marks of text direction."""
    whitespace: bool = False
    """One kind of line break and of space, no spaces at line ends, one blank line at most. Indentation and spaces within a line stay."""
    boilerplate: bool | tuple[str, ...] = False
    """true: lines that recur in many texts leave. A list: these lines, and those where a pattern /.../ is found, in any case. A text of nothing else stays."""
    lower: bool = False
    """Lower case, for classic baselines."""
    stem: str | None = None
    """Lower-cased words to their stems, for classic baselines: a language of snowballstemmer, as in english. null: words stay."""
    least_characters: int = Field(0, ge=0)
    """Shorter rows leave, in characters. 0: none."""
    most_characters: int | None = Field(None, ge=1)
    """Longer rows leave, in characters. null: none."""
    languages: tuple[str, ...] = ()
    """Rows that look like another language leave: ISO 639-1 codes, as in [en, de]. Empty: all stay."""

    @field_validator("boilerplate")
    @classmethod
    def _patterns(cls, value: bool | tuple[str, ...]) -> bool | tuple[str, ...]:
        for line in () if isinstance(value, bool) else value:
            if not line.strip():
                raise ValueError("has a blank line; runs of blank lines are the step `whitespace`")
            if pattern := _pattern(line):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"`{line}` is no pattern: {error}; a line that is meant as it is goes without the slashes") from None
        return value

    @field_validator("stem")
    @classmethod
    def _stemmer(cls, value: str | None) -> str | None:
        if value is not None:
            import snowballstemmer

            if value not in (known := snowballstemmer.algorithms()):
                raise ValueError(f"`{value}` has no stemmer{nearest(value, known)}; there are {some(known, 50)}")
        return value

    @field_validator("languages")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for language in value:
            if language not in LANGUAGES:
                raise ValueError(f"`{language}` is no language that can be told; codes are like en, de, fr, zh (Norwegian is no and nn)")
        return value

    @model_validator(mode="after")
    def _some_length(self) -> CleanSettings:
        if self.most_characters is not None and self.most_characters < self.least_characters:
            raise ValueError(f"most_characters={self.most_characters} is below least_characters={self.least_characters}: no row is left")
        return self


Step = tuple[str, Callable[[str], str]]


class Cleaned(NamedTuple):
    """Texts and how many of them each step changed, by its name in the settings."""

    texts: list[str]
    counts: Counter[str]


def clean(texts: Sequence[str], settings: CleanSettings, lines: frozenset[str] = frozenset()) -> Cleaned:
    """Texts after the steps that are on. A text that no step changes is the same object.

    Args:
        texts: any number, of any rows.
        lines: what `boilerplate` found in a sample; read when `settings.boilerplate` is true.

    Returns:
        As many texts in the same order; some may be blank now. Cleaning twice is cleaning once, except that HTML in HTML (a page that shows its code) is read
        the second time, and that a stem may have a stem.
    """
    counts: Counter[str] = Counter()
    steps = list(_steps(settings, lines))
    again = [step for step in steps if step[0] not in ("html", "stem")]
    cleaned = []
    for text in texts:
        changed: list[str] = []
        after = _through(text, steps, changed)
        if changed:
            before = text
            while after is not before:  # what one step takes away may bring together what another mends
                before, after = after, _through(after, again, changed)
            counts.update(set(changed))
        cleaned.append(after)
    return Cleaned(cleaned, counts)


def _steps(settings: CleanSettings, lines: frozenset[str]) -> Iterator[Step]:
    if settings.html:
        yield "html", lambda text: html.to_text(text) if html.looks_like_html(text) else text
    if settings.unicode:
        yield "unicode", repair
    if settings.control:
        yield "control", visible
    if settings.boilerplate:
        given = settings.boilerplate if isinstance(settings.boilerplate, tuple) else ()
        patterns = [re.compile(pattern, re.IGNORECASE) for line in given if (pattern := _pattern(line))]
        yield "boilerplate", partial(without, lines=lines | {_key(line) for line in given if not _pattern(line)}, patterns=patterns)
    if settings.whitespace:  # after it: where a line left, blank lines meet
        yield "whitespace", tidy
    if settings.lower:
        yield "lower", str.lower
    if settings.stem:
        yield "stem", partial(stemmed, language=settings.stem)


def _through(text: str, steps: Sequence[Step], changed: list[str]) -> str:
    for name, change in steps:
        if (after := change(text)) is not text and after != text:
            text = after
            changed.append(name)
    return text


def repair(text: str) -> str:
    """Undo wrong decoding line by line (ftfy, https://ftfy.readthedocs.io) and normalise to NFC.

    Of ftfy only `fix_encoding` is called: straight quotes, spelled-out ligatures and the like would be a change of style, not a repair. Nor may it write
    U+FFFD over the remains of a character, which a reader may still understand.
    """
    if text.isascii():
        return text
    while True:  # composing may show what was wrong; ftfy loops likewise
        fixed = "\n".join(map(_decoded, text.split("\n"))) if suspect().search(text) else text
        fixed = composed(fixed)
        if fixed == text:
            return text
        text = fixed


def _decoded(line: str) -> str:
    import ftfy

    return ftfy.fix_encoding(line, ftfy.TextFixerConfig(replace_lossy_sequences=False)) if suspect().search(line) else line


@lru_cache(maxsize=1)
def suspect() -> re.Pattern[str]:
    """What stands in all that `ftfy.badness.is_bad` takes for mojibake, which costs ten times as much to ask: two neighbours beyond ASCII of which one is no
    plain letter, and a few characters of their own. Most accented texts have none. A test tries all of ftfy's characters."""
    from ftfy.badness import MOJIBAKE_CATEGORIES as GROUPS

    common = GROUPS["common"]
    strange = "".join(GROUPS[name] for name in ("bad", "law", "currency", "start_punctuation", "end_punctuation", "numeric", "upper_accented", "box")) + "°"
    alone = "(?<=[\x80-\x9fÃÂЂ])|(?<=[Œœ])(?![A-Za-z])"
    return re.compile(f"[^\\x00-\\x7f](?:{alone}|(?<=[ØÙÎÐ√])[{common}]|(?<=[{strange}])[^\\x00-\\x7f{common}]|(?<![{common}])[{strange}])")


INVISIBLE = re.compile(
    r"(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f)"  # the flags of England, Scotland, Wales (UTS #51) are spelled in tags
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # terminal colours and the like (ECMA-48, 5.4)
    r"|[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
JOINERS = re.compile("(?<![\u200c\u200d])(?:(?<![^\x00-\u02ff])[\u200c\u200d]+|[\u200c\u200d]+(?![^\x00-\u02ff]))")
"""Runs of joiners beside Latin letters or nothing; between others they make emoji and the letters of Persian and Hindi. Looked at from their start alone:
linear."""


def visible(text: str) -> str:
    """Without control characters (white space stays), invisible characters and marks of direction, which hide what a text says (https://trojansource.codes)."""
    if text.isprintable() or text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return JOINERS.sub("", INVISIBLE.sub(r"\1", text))


BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
SPACES = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
BLANK = re.compile("\n{3,}")


def tidy(text: str) -> str:
    """Line breaks are \\n, exotic spaces plain ones; no space at line ends, one blank line at most, none at the ends of the text.

    Spaces at the start and within a line stay: they are the indentation of code and the columns of tables.
    """
    if text.isprintable() and not text.endswith(" "):
        return text
    if text.replace("\n", "").isprintable() and " \n" not in text and "\n\n\n" not in text and not text.startswith("\n") and not text.endswith((" ", "\n")):
        return text
    text = SPACES.sub(" ", BREAKS.sub("\n", text))
    text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    return BLANK.sub("\n\n", text).strip("\n")


def _key(line: str) -> str:
    return " ".join(line.split()).lower()


def _pattern(line: str) -> str | None:
    return line[1:-1] if len(line) > 2 and line[0] == line[-1] == "/" else None


def boilerplate(sample: Sequence[str], settings: CleanSettings) -> frozenset[str]:
    """The lines for `clean`, found in a sample when `settings.boilerplate` is true; else none."""
    if settings.boilerplate is not True:
        return frozenset()
    return recurring(clean(sample, settings.model_copy(update={"boilerplate": False, "stem": None})).texts)


def recurring(texts: Iterable[str], share: float = SHARE, least: int = LEAST) -> frozenset[str]:
    """Lines that stand in many texts: footers, cookie notices, signatures.

    Args:
        texts: a sample. Texts of one line do not count: one that recurs as a whole is a duplicate.
        share: in more than this share of the texts with several lines.
        least: and in at least so many.

    Returns:
        The lines with at least WORDY letters, in lower case, white space made one space.
    """
    counts: Counter[str] = Counter()
    several = 0
    for text in texts:
        found = {_key(line) for line in text.splitlines()} - {""}
        if len(found) > 1:
            several += 1
            counts.update(found)
    often = (line for line, count in counts.items() if count >= least and count > share * several)
    return frozenset(line for line in often if sum(map(str.isalpha, line)) >= WORDY)


def without(text: str, lines: frozenset[str], patterns: Sequence[re.Pattern[str]] = ()) -> str:
    """The text without these lines (as `recurring` gives them), those with a pattern, and blank lines at its ends; a text of nothing else as it is."""
    parts = text.splitlines(keepends=True)
    kept = [part for part in parts if (key := _key(part)) not in lines and not any(pattern.search(key) for pattern in patterns)]
    return "".join(kept).strip("\r\n") if len(kept) < len(parts) and any(map(str.strip, kept)) else text


WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def stemmed(text: str, language: str) -> str:
    """Every word in lower case and without its endings, by Snowball (Porter 1980, https://snowballstem.org)."""
    return WORD.sub(lambda word: _stem(word.group(), language), text.lower())


@lru_cache(maxsize=1 << 16)
def _stem(word: str, language: str) -> str:
    import snowballstemmer

    return str(snowballstemmer.stemmer(language).stemWord(word))


def unwanted(text: str, settings: CleanSettings) -> tuple[str, str, str] | None:
    """Why a row leaves: a reason, what was found, and the remedy; None where it stays.

    Args:
        text: the row's texts, joined. A row that is blank leaves with any settings.
    """
    size, least, most = len(text), settings.least_characters, settings.most_characters
    if not text or text.isspace():
        return "nothing left", "cleaning left nothing of the text", "switch off the step of data.clean that emptied it, or delete the row"
    if size < least:
        return "too short", f"{counted(size, 'character')}, data.clean.least_characters is {least:,}", "lower it to keep such rows"
    if most is not None and size > most:
        return "too long", f"{counted(size, 'character')}, data.clean.most_characters is {most:,}", "raise it to keep such rows, or divide them"
    if settings.languages and (other := _stranger(text[:JUDGED], settings.languages)):
        return "another language", f"looks like `{other}`, data.clean.languages is {some(settings.languages)}", f"add `{other}` there to keep such rows"
    return None


def _stranger(text: str, wanted: Sequence[str]) -> str | None:
    """The language of a text that is hardly one of the wanted; None for those, for short texts, and for what is no language (code, numbers)."""
    if sum(3 if letter >= IDEOGRAPHS else 1 for letter in text if letter.isalpha()) < LEAST_LETTERS:
        return None
    ranked = identifier().rank(text)
    likely = sum(share for language, share in ranked if language in wanted)
    return None if likely >= UNLIKELY or ranked[0][0] == "zxx" else str(ranked[0][0])
