"""Text, Markdown, HTML, PDF and Word files as documents: what is read, in which order, and what is said of one that holds no text."""

from __future__ import annotations

import gzip
import io
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import UserError
from tunesmith.data.readers import documents, formats, html
from tunesmith.data.readers.formats import BadRow
from tunesmith.data.readers.stream import Stream


def read(path: Path, content: bytes) -> tuple[Any, list[str]]:
    """The text of a file that is one document, or (line, reason, what, remedy); and the notes."""
    path.write_bytes(content)
    stream = Stream(path, "in/" + path.name)
    ((line, value),) = stream
    assert list(stream.columns) == ["text", "folder"] and stream.at == len(content) and path.read_bytes() == content
    if isinstance(value, BadRow):
        assert (value.source, value.line) == ("in/" + path.name, line)
        return (line, value.reason, value.what, value.remedy), stream.notes
    assert line == 1 and list(value) == ["text", "folder"] and value["folder"] == "in"
    return value["text"], stream.notes


# --- text, Markdown, HTML -------------------------------------------------------------------------------------------------------


def test_markdown_is_one_document_as_it_is(tmp_path: Path) -> None:
    assert read(tmp_path / "a.md", b"\xef\xbb\xbf# Title\r\n\r\n    code\n\nend\n") == ("# Title\n\n    code\n\nend\n", [])
    assert read(tmp_path / "a.md.gz", gzip.compress(b"# Title\n")) == ("# Title\n", [])


def test_html_becomes_text_in_the_encoding_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(tmp_path / "a.html", b"<!DOCTYPE html><h1>Title</h1><p>One<p>two")[0].split() == ["Title", "One", "two"]
    monkeypatch.setattr(html, "to_text", lambda page: page.partition(">")[2])
    page = '<meta http-equiv="Content-Type" content="text/html; charset=%s">caf\u00e9 \u201cx\u201d'
    for name, encoding in (
        ("iso-8859-1", "cp1252"),
        ("utf-8", "utf-8"),
        ("shift_jis_2004", "shift_jis_2004"),
        ("no-such", "utf-8"),
        ("hex", "utf-8"),
        ("utf-16", "utf-8"),
    ):
        assert read(tmp_path / "a.htm", (page % name).encode(encoding)) == ("caf\u00e9 \u201cx\u201d", [])
    assert read(tmp_path / "b.html", "<p>\u20ac".encode("utf-16"))[0] == "\u20ac"
    assert read(tmp_path / "b.html", b"\xef\xbb\xbf" + (page % "iso-8859-1").encode())[0] == "caf\u00e9 \u201cx\u201d"
    wrong, _ = read(tmp_path / "c.html", b"<meta charset=euc-kr>\nab\xff")
    assert wrong == (
        2,
        "unreadable document",
        "byte 0xFF at column 3 is not euc_kr, which the file names as its encoding",
        "correct the name, or save the page as UTF-8",
    )


UNREADABLE = [
    ("a.md", b"", 1, "no text", "there is no text in it", "delete the file"),
    ("a.md", b" \n\n", 1, "no text", "there is no text in it", "delete the file"),
    (
        "a.md",
        b"one\nb\xe9\n",
        2,
        "unreadable document",
        "byte 0xE9 at column 2 is not UTF-8",
        "if it is Windows or Latin-1 text: iconv -f WINDOWS-1252 -t UTF-8 a.md > utf8.md",
    ),
    ("a.md", b"one\n\0\n", 2, "unreadable document", "a NUL character", "export the file again; it is damaged"),
    ("a.md", "one".encode("utf-16"), 1, "unreadable document", "encoded as UTF-16, must be UTF-8", "iconv -f UTF-16 -t UTF-8 a.md > utf8.md"),
    ("a.md.gz", gzip.compress(b"one")[:-4], 1, "unreadable document", "the gzip archive is cut off", "copy or download the file again"),
    (
        "a.html",
        b"<p>one\nb\xe9\n",
        2,
        "unreadable document",
        "byte 0xE9 at column 2 is not UTF-8",
        "if it is Windows or Latin-1 text: iconv -f WINDOWS-1252 -t UTF-8 a.html > utf8.html",
    ),
    ("a.html", b"<p> <script>x</script>", 1, "no text", "there is no text in it", "delete the file"),
    ("a.html", b"%PDF-1.4", 1, "unreadable document", "named .html but holds a PDF", "export the rows as .html, or name the file by what it is"),
    ("a.pdf", b"", 1, "unreadable document", "the file is empty: no records in it", "give a file with rows"),
    ("a.pdf", b"<html>", 1, "unreadable document", "looks like an HTML page, perhaps a saved error page", "download the data file itself"),
    ("a.pdf", b"some text", 1, "unreadable document", "named .pdf but is not a PDF", "name the file by what it is"),
    ("a.docx", b"", 1, "unreadable document", "the file is empty: no records in it", "give a file with rows"),
    ("a.docx", b"\xd0\xcf\x11\xe0rest", 1, "encrypted", "it is encrypted, or an old .doc file", "open it in Word and save it as .docx without a password"),
    ("a.docx", b"%PDF-1.4", 1, "unreadable document", "named .docx but holds a PDF", "export the rows as .docx, or name the file by what it is"),
    ("a.docx", b"text", 1, "unreadable document", "named .docx but is no Word file", "name the file by what it is"),
    ("a.docx", b"PK\x03\x04rest", 1, "damaged document", "damaged Word file (File is not a zip file)", "open it in Word and save it again"),
]


@pytest.mark.parametrize(("name", "content", "line", "reason", "what", "remedy"), UNREADABLE, ids=[f"{case[0]} {case[4][:20]}" for case in UNREADABLE])
def test_a_document_that_cannot_be_read_is_one_bad_row(tmp_path: Path, name: str, content: bytes, line: int, reason: str, what: str, remedy: str) -> None:
    if name.endswith(".pdf"):
        pytest.importorskip("pypdf")
    assert read(tmp_path / name, content) == ((line, reason, what, remedy), [])


def test_a_document_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MOST_LINE_CHARACTERS", 100)
    for name, content in (("a.md", b"word\n" * 25), ("a.html", b"<p>" + b"word " * 25), ("a.docx", word("<w:p><w:r><w:t>" + "x" * 150 + "</w:t></w:r></w:p>"))):
        (_, reason, what, remedy), _ = read(tmp_path / name, content)
        assert (reason, remedy) == ("document too long", "divide it into several files") and what.endswith(" characters, the limit is 100")
    assert read(tmp_path / "a.html", b"x" * 401)[0][2] == "more than 400 bytes, the limit of a page"
    monkeypatch.setattr(documents, "MOST_XML_BYTES", 100)
    assert "unpacks to" in read(tmp_path / "a.docx", word("<w:p/>"))[0][2]


def test_a_text_file_is_divided(tmp_path: Path) -> None:
    for content, found, said in (
        (b"a\nb\n<|endoftext|>\n\nc\n", [(1, "a\nb"), (5, "c")], "each part between lines of `<|endoftext|>` is one document"),
        (b"a\nb\n\n\nc\n", [(1, "a\nb"), (5, "c")], "each block between blank lines is one document"),
        (b"\na\nb\n", [(2, "a"), (3, "b")], "without blank lines each line is one document"),
    ):
        for name, data in (("a.txt", content), ("a.txt.gz", gzip.compress(content))):
            (tmp_path / name).write_bytes(data)
            stream = Stream(tmp_path / name)
            assert [(line, value["text"]) for line, value in stream if isinstance(value, dict)] == found
            assert stream.notes[0].startswith(f"{name}: {said}") and len(stream.notes) == 1


# --- PDF ------------------------------------------------------------------------------------------------------------------------


def pdf(*pages: list[str]) -> bytes:
    """A PDF of these lines; a page without lines holds a drawing and no text."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"]
    kids = []
    for lines in pages:
        shown = b" T* ".join(b"(" + line.encode("cp1252").replace(b"(", b"\\(").replace(b")", b"\\)") + b") Tj" for line in lines)
        content = b"BT /F1 12 Tf 14 TL 72 720 Td " + shown + b" ET" if lines else b"0 0 100 100 re f"
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        kids.append(len(objects) + 1)
        objects.append(b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>" % len(objects))
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), b" ".join(b"%d 0 R" % kid for kid in kids))
    out, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"xref\n0 %d\n0000000000 65535 f \n%strailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        table,
        len(objects) + 1,
        len(out),
    )


def test_a_pdf_page_by_page(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    assert read(tmp_path / "a.pdf", pdf(["One line", "caf\u00e9 (two)"], ["three"])) == ("One line\ncaf\u00e9 (two)\nthree", [])


def test_what_recurs_on_pages_goes_and_divided_words_are_joined(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    bodies = [["It is an exam-", "ple of a well-", "known and well-known thing.", "Anna-"], ["Maria came."], ["Third page."], ["Fourth page."]]
    text, notes = read(tmp_path / "a.pdf", pdf(*(["Report of 2024", *body, f"Page {number} of 4"] for number, body in enumerate(bodies, 1))))
    assert text == "It is an example of a well-known and well-known thing.\nAnna-\nMaria came.\nThird page.\nFourth page."
    assert notes == [
        "in/a.pdf: lines that recur at the top or the bottom of pages were left out",
        "in/a.pdf: words divided by a hyphen at a line's end were joined",
    ]
    assert documents.joined(["przy-", "k\u0142ad, Anna-", "Maria, soft\u00ad", "ened, 3-", "5"]) == "przyk\u0142ad, Anna-\nMaria, softened, 3-\n5"
    assert documents.without_furniture([["Same", "a"], ["Same", "b"]]) == (["Same", "a", "Same", "b"], False)  # two pages are too few to tell
    assert documents.without_furniture([["T", "1"], ["T", "2"], ["T", "3"], ["x"], ["y"], ["z"]])[1] is False  # on half of the pages only


def test_a_pdf_of_pictures_and_one_with_some(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    remedy = "let a program read them first: ocrmypdf in.pdf out.pdf"
    pictures = (1, "no text layer", "no text in any of its 3 pages: they are pictures, as a scanner makes them", remedy)
    assert read(tmp_path / "a.pdf", pdf([], [], [])) == (pictures, [])
    assert read(tmp_path / "b.pdf", pdf([]))[0][2].startswith("no text in its page: ")
    assert read(tmp_path / "c.pdf", pdf(["One"], [])) == ("One", ["in/c.pdf: some pages hold no text: they are empty, or pictures that `ocrmypdf` could read"])


def test_an_encrypted_or_damaged_pdf(tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    for password, found in (("secret", (1, "encrypted", "it is encrypted, and asks for a password")), ("", "One")):
        writer, out = pypdf.PdfWriter(clone_from=io.BytesIO(pdf(["One"]))), io.BytesIO()
        writer.encrypt(password, owner_password="owner", algorithm="RC4-128")
        writer.write(out)
        value, _ = read(tmp_path / "a.pdf", out.getvalue())
        assert (value if isinstance(value, str) else value[:3]) == found
    (_, reason, what, remedy), _ = read(tmp_path / "a.pdf", b"%PDF-1.4 and no more")
    assert reason == "damaged document" and what.startswith("damaged PDF (") and "qpdf in.pdf out.pdf" in remedy


def test_without_the_extra_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.pdf", pdf(["One"]))
    assert str(caught.value) == f"{tmp_path / 'a.pdf'}: reading PDF needs the package pypdf\n  -> pip install 'tunesmith[documents]'"


# --- Word -----------------------------------------------------------------------------------------------------------------------

NAMES = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'


def word(body: str, part: str = "word/document.xml") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
        archive.writestr("_rels/.rels", f'<Relationships><Relationship Id="r" Type="{kind}" Target="/{part}"/></Relationships>')
        archive.writestr(part, f"<w:document {NAMES}><w:body>{body}</w:body></w:document>")
    return out.getvalue()


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def cell(*paragraphs: str) -> str:
    return f"<w:tc>{''.join(f'<w:p>{run(one)}</w:p>' for one in paragraphs)}</w:tc>"


def test_word_paragraphs_and_tables_in_their_order(tmp_path: Path) -> None:
    table = f"<w:tbl><w:tr>{cell('a', 'a2')}{cell('b')}</w:tr><w:tr><w:tc><w:tbl><w:tr>{cell('c')}</w:tr></w:tbl><w:p/></w:tc>{cell('d')}</w:tr></w:tbl>"
    before = f"<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr>{run('One ')}{run('&amp; two')}<w:r><w:tab/><w:t>three</w:t><w:br/><w:t>four</w:t></w:r></w:p>"
    text, _ = read(tmp_path / "a.docx", word(f"{before}{table}<w:p>{run('after')}</w:p>", "word/document2.xml"))
    assert text == "One & two\tthree\nfour\na a2\tb\nc\td\nafter"


def test_word_text_that_stands_deeper_is_read_and_what_was_deleted_is_not(tmp_path: Path) -> None:
    box = f"<w:txbxContent><w:p>{run('box')}</w:p></w:txbxContent>"
    body = (
        f"<w:p><w:ins>{run('inserted ')}</w:ins><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del><w:hyperlink>{run('link')}</w:hyperlink></w:p>"
        f"<w:sdt><w:sdtContent><w:p>{run('control')}</w:p></w:sdtContent></w:sdt>"
        f"<w:p><w:pPr><w:numPr/><w:pPrChange><w:pPr><w:numPr/></w:pPr></w:pPrChange></w:pPr>{run('item')}</w:p>"
        f"<w:p><w:r><mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent></w:r></w:p>"
    )
    assert read(tmp_path / "a.docx", word(body))[0].split("\n") == ["inserted link", "control", "- item", "box"]


@pytest.mark.parametrize("body", ["<w:p>", "<w:p/>" + "<w:x>" * 60_000 + "</w:x>" * 59_999])
def test_damaged_word_xml_and_depth(tmp_path: Path, body: str) -> None:
    assert read(tmp_path / "a.docx", word(body))[0][1] == "damaged document"


def test_a_word_file_without_its_text(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("other", "x")
    assert read(tmp_path / "a.docx", out.getvalue())[0][1:3] == (
        "damaged document",
        "damaged Word file (\"There is no item named '_rels/.rels' in the archive\")",
    )
    assert read(tmp_path / "a.docx", word(run("x"))[:-30])[0][1] == "damaged document"


# --- any bytes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.pdf", "a.docx"])
@given(st.data())
@settings(max_examples=40, deadline=5000)
def test_any_bytes_are_a_document_or_a_bad_row(name: str, data: st.DataObject) -> None:
    if name == "a.pdf":
        pytest.importorskip("pypdf")
    content = bytearray({"a.pdf": pdf(["One", "two"]), "a.docx": word(f"<w:p>{run('One')}</w:p>")}[name])
    for _ in range(data.draw(st.integers(0, 4))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    with tempfile.TemporaryDirectory() as folder:
        found, notes = read(Path(folder, name), bytes(content[: data.draw(st.integers(4, 2 * len(content)))]))
    assert found if isinstance(found, str) else all(found) and not notes
