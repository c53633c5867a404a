"""Documents out of text, Markdown, HTML, PDF and Word files."""

from __future__ import annotations

import codecs
import logging
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from tunesmith.core.errors import UserError
from tunesmith.core.files import as_user_error
from tunesmith.data.readers import formats
from tunesmith.data.readers.formats import BadRow

END_OF_DOCUMENT = "<|endoftext|>"
"""A line that holds only this ends a document, as in the corpora of GPT-2."""
MOST_XML_BYTES = 1 << 29
"""A Word file whose text unpacks to more is refused; a book of 10,000,000 characters takes about a third of it."""

Wrong = tuple[str, str, str]
"""A short reason to count by, what was found, the remedy."""


def divided(lines: Callable[[], Iterator[tuple[str, int]]], name: str, notes: list[str]) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """A text file's documents: divided by lines of END_OF_DOCUMENT where there are any, else by blank lines, else each line is one.

    Args:
        lines: reads the file anew: its lines with their ends, and how many characters each has.
        name: what messages call the file.
        notes: gets what divides the documents.

    Yields:
        The 1-based line that a document begins on, and the document, or why it is bad.
    """
    by = _division(lines())
    said = {
        "mark": f"each part between lines of `{END_OF_DOCUMENT}` is one document",
        "blank": f"each block between blank lines is one document; to divide it otherwise put lines of `{END_OF_DOCUMENT}` between documents",
        "line": f"without blank lines each line is one document; to divide it otherwise put lines of `{END_OF_DOCUMENT}` between documents",
    }
    notes.append(f"{name}: {said[by]}")
    held: list[str] = []
    start, length = 1, 0

    def document() -> dict[str, Any] | BadRow:
        text = "".join(held).rstrip()
        if length > formats.MOST_LINE_CHARACTERS:
            return BadRow(name, start, *_too_long(length, f"divide it with lines of `{END_OF_DOCUMENT}`"), {"text": text[:1000]})
        return {"text": text}

    for number, (line, size) in enumerate(lines(), 1):
        text = line.strip()
        ends = text == END_OF_DOCUMENT if by == "mark" else not text
        if not ends and (held or text):  # blank lines in front of a document are no part of it
            start, length = (start, length + size + 1) if held else (number, size)
            if length <= formats.MOST_LINE_CHARACTERS or not held:
                held.append(line)
        if held and (ends or by == "line"):
            yield start, document()
            held = []
    if held:
        yield start, document()


def _division(lines: Iterator[tuple[str, int]]) -> str:
    """mark, blank or line: what divides the documents."""
    text_before, blank, between = False, False, False
    for line, _ in lines:
        text = line.strip()
        if text == END_OF_DOCUMENT:
            return "mark"
        between = between or (blank and bool(text))
        text_before = text_before or bool(text)
        blank = text_before and not text
    return "blank" if between else "line"


def _too_long(length: int, remedy: str) -> Wrong:
    return "document too long", f"a document of {length:,} characters, the limit is {formats.MOST_LINE_CHARACTERS:,}", remedy


def whole(path: Path, kind: str, name: str) -> tuple[str | BadRow, list[str]]:
    """The text of a file that is one document.

    Args:
        path: the file, which is there.
        kind: .md, .html, .htm, .pdf or .docx.
        name: what messages call the file.

    Returns:
        The text, or why it is bad, and remarks to say aloud, worded alike for all files.

    Raises:
        UserError: the file cannot be opened, or what reads it is not installed.
    """
    remarks: list[str] = []
    try:
        found = {".md": _plain, ".html": _html, ".htm": _html, ".pdf": _pdf, ".docx": _docx}[kind](path, remarks)
    except OSError as error:
        raise as_user_error(error, path) from error
    except UserError as error:
        if isinstance(error.__cause__, ImportError) or formats.of_the_system(error.__cause__):
            raise
        line = error.where.removeprefix(f"{path}:")
        return BadRow(name, int(line) if line.isdecimal() else 1, "unreadable document", error.what, error.remedy), []
    if isinstance(found, str) and not found.strip():
        found = "no text", "there is no text in it", "delete the file"
    if isinstance(found, str) and len(found) > formats.MOST_LINE_CHARACTERS:
        found = _too_long(len(found), "divide it into several files")
    return (found, remarks) if isinstance(found, str) else (BadRow(name, 1, *found), [])


def _plain(path: Path, remarks: list[str]) -> str | Wrong:
    with formats.text(path) as (file, _, _):
        text = file.read(formats.MOST_LINE_CHARACTERS + 1)
    if "\0" in text:
        raise formats.nul_in(path, text.count("\n", 0, text.index("\0")) + 1)
    return text


def _html(path: Path, remarks: list[str]) -> str | Wrong:
    """The text of a page, in the encoding that its first 1,024 bytes name (the HTML standard looks as far), else UTF-8."""
    from tunesmith.data.readers.html import to_text

    with formats.opened(path) as (file, _):
        data = file.read(4 * formats.MOST_LINE_CHARACTERS + 1)
    if len(data) > 4 * formats.MOST_LINE_CHARACTERS:  # a character of UTF-8 takes four bytes at most
        return "document too long", f"more than {len(data) - 1:,} bytes, the limit of a page", "divide it into several files"
    named = re.search(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([\w-]+)""", data[:1024], re.IGNORECASE)
    encoding = _encoding(named[1].decode("ascii", "replace") if named else "utf-8")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif data.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    else:
        formats.refuse_encoding(data[:200], path)
    try:
        return to_text(data.decode(encoding))
    except UnicodeDecodeError as error:
        line, column = data.count(b"\n", 0, error.start) + 1, error.start - data.rfind(b"\n", 0, error.start)
        raise formats.not_utf8(path, line, column, data[error.start], encoding) from error


def _encoding(name: str) -> str:
    """The encoding that browsers take a name for (https://encoding.spec.whatwg.org/#names-and-labels); UTF-8 for a name that is none of theirs."""
    try:
        found = codecs.lookup(name).name
    except LookupError:
        return "utf-8"
    if found in ("iso8859-1", "ascii"):
        return "cp1252"
    return found if re.match(r"cp\d|iso8859|iso2022_jp$|koi8|mac|gb|big5|shift_jis|euc", found) else "utf-8"


def _pdf(path: Path, remarks: list[str]) -> str | Wrong:
    """The text of a PDF's pages: lines as they stand, without what recurs at the top and the bottom, words divided at line ends joined."""
    try:
        import pypdf
    except ImportError as error:
        raise UserError("reading PDF needs the package pypdf", str(path), "pip install 'tunesmith[documents]'") from error
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it remarks on every oddity of a file, some thousand times
    with open(path, "rb") as file:
        head = file.read(1024)
        if not head:
            raise formats.nothing_in(path, 0)
        if b"%PDF-" not in head:
            formats.refuse_disguise(head, path)
            raise UserError("named .pdf but is not a PDF", str(path), "name the file by what it is")
        try:
            reader = pypdf.PdfReader(file, strict=False)
            if reader.is_encrypted and not reader.decrypt(""):
                return "encrypted", "it is encrypted, and asks for a password", "save it without one: qpdf --decrypt --password=... in.pdf out.pdf"
            count, length, pages = len(reader.pages), 0, []
            for page in reader.pages:
                pages.append(page.extract_text().splitlines())
                length += sum(map(len, pages[-1]))
                if length > 2 * formats.MOST_LINE_CHARACTERS:  # some of it may be furniture
                    return _too_long(length, "divide it into several files")
        except pypdf.errors.DependencyError:
            return "encrypted", "it is encrypted", "save it without: qpdf --decrypt in.pdf out.pdf"
        except Exception as error:  # what a parser raises on a damaged file has no end
            if formats.of_the_system(error):
                raise
            what = f"damaged PDF ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            return "damaged document", what, "open it and print it into a new PDF, or mend it: qpdf in.pdf out.pdf"
    if not any(map(any, pages)):
        what = f"no text in {'its page' if count == 1 else f'any of its {count:,} pages'}: they are pictures, as a scanner makes them"
        return "no text layer", what, "let a program read them first: ocrmypdf in.pdf out.pdf"
    if not all(map(any, pages)):
        remarks.append("some pages hold no text: they are empty, or pictures that `ocrmypdf` could read")
    lines, recurring = without_furniture(pages)
    if recurring:
        remarks.append("lines that recur at the top or the bottom of pages were left out")
    text = joined(lines)
    if len(text.splitlines()) < len(lines):
        remarks.append("words divided by a hyphen at a line's end were joined")
    return text


def without_furniture(pages: Sequence[Sequence[str]]) -> tuple[list[str], bool]:
    """The lines of all pages but headers, footers and page numbers, and whether there were any.

    Such a line is the first or the last of its page, again and again: numbers aside the same on at least three pages and on more than half of
    them. Two lines at either end are looked at. A convention of ours.
    """
    kept = [[line for line in page if line.strip()] for page in pages]
    found = False
    for end in (0, 0, -1, -1):
        seen = Counter(_form(page[end]) for page in kept if page)
        often = {form for form, count in seen.items() if count >= 3 and 2 * count > len(pages)}
        found = found or bool(often)
        for page in kept:
            if page and _form(page[end]) in often:
                del page[end]
    return [line for page in kept for line in page], found


def _form(line: str) -> str:
    return re.sub(r"\d+", "0", " ".join(line.split()))


def joined(lines: Sequence[str]) -> str:
    """Lines as one text, with words that a hyphen divides at a line's end made whole.

    The hyphen stays where the next line does not go on with a small letter, and where the text has the word with a hyphen elsewhere.
    """
    text = "\n".join(lines)
    hyphenated = {word.lower() for word in re.findall(r"[^\W\d_]+-[^\W\d_]+", text)}

    def join(found: re.Match[str]) -> str:
        first, last = found[1], found[3]
        if not last[0].islower():
            return found[0]
        keep = found[2] == "-" and f"{first}-{last}".lower() in hyphenated
        return f"{first}{'-' if keep else ''}{last}"

    return re.sub(r"([^\W\d_]+)([-\u00ad\u2010])[ \t]*\n[ \t]*([^\W\d_]+)", join, text)


def _docx(path: Path, remarks: list[str]) -> str | Wrong:
    """The text of a Word file, paragraph by paragraph, a table's cells divided by tabs.

    Read as its XML (ECMA-376), since python-docx leaves out what stands in tracked insertions, content controls and text boxes.
    """
    with open(path, "rb") as file:
        head = file.read(200)
    if not head:
        raise formats.nothing_in(path, 0)
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        return "encrypted", "it is encrypted, or an old .doc file", "open it in Word and save it as .docx without a password"
    if not head.startswith(b"PK\x03\x04"):
        formats.refuse_disguise(head, path)
        raise UserError("named .docx but is no Word file", str(path), "name the file by what it is")
    try:
        with zipfile.ZipFile(path) as archive:
            with archive.open("_rels/.rels") as file:
                parts = [one.get("Target", "") for one in ElementTree.parse(file).iter() if one.get("Type", "").endswith("/officeDocument")]
            part = archive.getinfo(parts[0].lstrip("/"))
            if part.file_size > MOST_XML_BYTES:
                return "document too long", f"its text unpacks to {part.file_size:,} bytes, the limit is {MOST_XML_BYTES:,}", "divide it into several files"
            with archive.open(part) as file:
                return _word_text(file)
    except (zipfile.BadZipFile, zlib.error, ElementTree.ParseError, EOFError, ValueError, LookupError, RuntimeError, OSError) as error:
        if formats.of_the_system(error):
            raise
        what = f"damaged Word file ({' '.join(str(error).split())[:200]})"
        return "damaged document", what, "open it in Word and save it again"


def _word_text(file: IO[bytes]) -> str | Wrong:
    out: list[str] = []
    inside: Counter[str] = Counter()
    length = 0
    for event, element in ElementTree.iterparse(file, ("start", "end")):
        tag = element.tag.rpartition("}")[2]
        if event == "start":
            inside[tag] += 1
            continue
        inside[tag] -= 1
        text = ""
        if inside["Fallback"] or inside["pPrChange"]:  # the same again for other readers; what a tracked change did away with
            continue
        if tag == "t":
            text = element.text or ""
        elif tag == "numPr":
            text = "- "
        elif tag in ("tab", "br", "cr") and inside["r"]:
            text = "\t" if tag == "tab" else "\n"
        elif tag == "p":
            text = " " if inside["tc"] else "\n"
            element.clear()
        elif tag == "tc":
            text = " " if inside["tc"] else "\t"
        elif tag == "tr":
            text = " " if inside["tc"] else "\n"
            element.clear()
        out.append(text)
        length += len(text)
        if length > 2 * formats.MOST_LINE_CHARACTERS:
            return _too_long(length, "divide it into several files")
    lines = (re.sub(r" *\t *", "\t", line).rstrip() for line in "".join(out).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
