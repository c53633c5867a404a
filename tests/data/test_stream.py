"""Rows that are streamed: the same as if all were in memory, none lost, none moved, whole or not at all, and small whatever the file."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import Interrupted, Problems, UserError
from tunesmith.data import row_index, rows
from tunesmith.data.preparation import card, first_pass, progress, split
from tunesmith.data.preparation.prepare import prepare as prepare_stream
from tunesmith.data.readers import formats
from tunesmith.data.readers import stream as streams
from tunesmith.data.review import card_section
from tunesmith.data.settings import DataSettings

Record = dict[str, Any]
few = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))

words = st.text(alphabet="ab é\n", max_size=4)
records = st.fixed_dictionaries({"prompt": words.map("ask {}".format), "completion": words, "who": st.sampled_from([f"p{i}" for i in range(30)])})
files = st.lists(records, min_size=40, max_size=80)


def write(path: Path, data: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in data), "utf-8")
    return path


def even(text: str) -> str:
    return " ".join(text.split())


def prepared(folder: Path, data: list[Record], **more: Any) -> tuple[Record, dict[str, list[Record]], list[Record]]:
    """The card, the rows by side, and the rows left out; `valid` and `test` may be lists of records."""
    sides = {side: str(write(folder / f"{side}.jsonl", value)) for side, value in more.items() if side in ("valid", "test") and isinstance(value, list)}
    shares = {"valid": 0.2, "test": 0.3} | more | sides
    made = DataSettings(**{"train": str(write(folder / "d.jsonl", data)), "on_bad_row": "reject", "rows": "completion", "duplicates": {"near": None}} | shares)
    card = prepare_stream(made, made.rows or "", folder / "out")
    kept = {side: rows.read(folder / "out" / f"{side}.parquet").to_pylist() for side in card["rows"]}
    assert {side: len(found) for side, found in kept.items()} == card["rows"]
    left = [json.loads(line) for line in (folder / "out" / "rejected.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert Counter(one["reason"] for one in left) == card["rejected"] and all(one["what"] and one["remedy"] for one in left)
    return card, kept, left


def usable(data: list[Record], **more: Any) -> tuple[Record, dict[str, list[Record]], list[Record]] | None:
    """None where a random draw has too few rows for three sides."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return prepared(Path(folder), data, **more)
        except UserError as error:
            assert any(part in str(error) for part in ("usable row", "no row is left")), error
            return None


def in_memory(data: list[Record], test: list[Record] | None, grouped: bool) -> tuple[dict[str, list[int]], Counter[str]]:
    """The same by dictionaries: lines by side, and reasons."""
    out: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    reasons: Counter[str] = Counter()

    def key(one: Record) -> str:
        return f"{even(one['prompt'])}\x1f{even(one['completion'])}"

    measured = [one for one in test or [] if one["completion"].strip()]
    reasons["no completion"] += len(test or []) - len(measured)
    held, groups = {key(one) for one in measured}, {one["who"] for one in measured} if grouped else set()
    out["test"] += [line for line, one in enumerate(test or [], 1) if one in measured]
    seen: set[str] = set()
    for line, one in enumerate(data, 1):
        side = row_index.SIDES[split.sides([one["who"] if grouped else key(one)], 0.2, 0.0 if test is not None else 0.3, 0)[0]]
        if not one["completion"].strip():
            reasons["no completion"] += 1
        elif key(one) in seen:
            reasons["duplicate"] += 1
        elif key(one) in held:
            reasons["in test too"] += 1
        elif one["who"] in groups:
            reasons["its group is in test"] += 1
        else:
            out[side].append(line)
        seen |= {key(one)} if one["completion"].strip() else set()
    return out, +reasons


@few
@given(files, st.none() | st.lists(records, min_size=5, max_size=9), st.booleans(), st.sampled_from([5, 500_000]))
def test_streamed_rows_are_those_of_memory_and_none_is_lost(data: list[Record], test: list[Record] | None, grouped: bool, band: int) -> None:
    more: dict[str, Any] = {"together": "who"} if grouped else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_index, "BAND_ROWS", band)
        patch.setattr(row_index, "BLOCK_ROWS", 7)
        patch.setattr(first_pass, "PIECE_ROWS", 9)
        found = usable(data, **more, **({"test": test} if test is not None else {}))
    if found is None:
        return
    card, kept, left = found
    wanted, reasons = in_memory(data, test, grouped)
    assert {side: [row["line"] for row in one] for side, one in kept.items()} == wanted and card["rejected"] == reasons
    assert sum(card["rows"].values()) + sum(card["rejected"].values()) == len(data) + len(test or [])
    everything = [("d.jsonl", i + 1) for i in range(len(data))] + [("test.jsonl", i + 1) for i in range(len(test or []))]
    assert sorted([(row["source"], row["line"]) for one in kept.values() for row in one] + [(one["file"], one["line"]) for one in left]) == everything
    train = [even(row["prompt"]) for row in kept["train"]]
    assert card["same_prompt"] == sum(one in {even(row["prompt"]) for row in kept["test"]} for one in train)


@few
@given(files, st.randoms(use_true_random=False), st.booleans())
def test_no_order_of_rows_moves_a_row(data: list[Record], random_: random.Random, grouped: bool) -> None:
    more: dict[str, Any] = {"together": "who"} if grouped else {}
    first = usable(data, **more)
    mixed = list(data)
    random_.shuffle(mixed)
    second = usable(mixed, **more)
    if first and second:
        before, after = (
            {(even(row["prompt"]), even(row["completion"]), row["together"]): side for side, one in kept.items() for row in one}
            for _, kept, _ in (first, second)
        )
        assert all(after[row] == side for row, side in before.items() if row in after)
        assert grouped or before == after
        if not grouped:
            assert {name: first[0][name] for name in ("rows", "rejected", "same_prompt")} == {
                name: second[0][name] for name in ("rows", "rejected", "same_prompt")
            }


FILLER = [{"prompt": f"ask {i}", "completion": f"say {i} in words"} for i in range(60)]


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    data = [
        *FILLER,
        {"prompt": " ask  1", "completion": "say 1\nin words"},
        {"prompt": "both", "completion": "files"},
        {"prompt": "valid", "completion": "too"},
    ]
    test = [{"prompt": "both", "completion": "files"}] * 2 + [{"prompt": "own", "completion": "x"}]
    valid = [{"prompt": "valid", "completion": "too"}, {"prompt": "both", "completion": "files"}]
    before = {name: write(tmp_path / f"{name}.jsonl", one).read_bytes() for name, one in (("test", test), ("valid", valid))}
    card, kept, left = prepared(tmp_path, data, test=test, valid=valid)
    nothing = "nothing to do: it left train"
    assert [(one["line"], one["reason"], one["what"], one["remedy"]) for one in left] == [
        (61, "duplicate", "equal to line 2", "nothing to do: the first is kept"),
        (62, "in test too", "this train row's text is also in test", nothing),
        (63, "in valid too", "this train row's text is also in valid", nothing),
    ]
    assert left[0]["row"] == {"prompt": " ask  1", "completion": "say 1\nin words"}
    assert card["rows"] == {"train": 60, "valid": 2, "test": 3} and len(kept["test"]) == 3
    assert "1 row in both valid.jsonl and test.jsonl: the kept step is chosen with a look at the test rows" in card["notes"]
    assert {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in before} == before
    assert {side: one["sha256"] for side, one in card["files"].items() if side != "train"} == {
        side: hashlib.sha256(content).hexdigest() for side, content in before.items()
    }


def test_no_group_is_in_train_and_in_a_users_file(tmp_path: Path) -> None:
    data = [{**row, "who": f"p{i % 6}"} for i, row in enumerate(FILLER)]
    card, kept, left = prepared(tmp_path, data, together="who", test=[{"prompt": f"later {i}", "completion": "x", "who": "p3"} for i in range(3)], valid=0.4)
    assert {row["together"] for side in ("train", "valid") for row in kept[side]} == {"p0", "p1", "p2", "p4", "p5"}
    assert card["rejected"] == {"its group is in test": 10}
    assert left[0]["what"].endswith("row has the together value `p3`, which is also in test") and left[0]["remedy"].startswith("nothing to do: it left ")


def test_ids_are_the_users_own_or_the_content(tmp_path: Path) -> None:
    data = [{**row, "key": i} for i, row in enumerate(FILLER)]
    twice = [*data, {"prompt": "a", "completion": "b", "key": 3}, {"prompt": "c", "completion": "d", "key": " "}, {"prompt": "e", "completion": "f", "key": 3}]
    card, kept, left = prepared(tmp_path, twice, id="key", test=data[:2])
    assert sorted(int(row["id"]) for side in ("train", "valid") for row in kept[side]) == list(range(2, 60))
    said = {one["line"]: (one["reason"], one["what"], one["remedy"]) for one in left}
    assert said[62] == ("no id", "column `key` is blank", "fill it, or leave data.id out")
    for line in (61, 63):
        assert said[line] == ("repeated id", "id `3` was used before, at line 4", "ids must be unique; correct one")
    assert card["rejected"] == {"no id": 1, "repeated id": 2, "in test too": 2}
    where = tmp_path / "out" / "rejected.jsonl"
    with pytest.raises(Problems) as caught:
        prepare_stream(DataSettings(train=str(tmp_path / "d.jsonl"), rows="completion", id="key"), "completion", tmp_path / "out", None, where)
    said = ["d.jsonl:61: id `3` was used before, at line 4", "d.jsonl:63: id `3` was used before, at line 4\n  -> ids must be unique; correct one"]
    assert [str(one) for one in caught.value.errors][1:] == said
    assert str(caught.value).endswith(f"3 bad rows; all are in {where}. Mend them, or go on without them: data.on_bad_row=reject")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rejected.jsonl"] and len(where.read_text().splitlines()) == 3
    _, one, _ = prepared(tmp_path, FILLER)
    _, two, _ = prepared(tmp_path, FILLER[::-1])
    named = [{row["prompt"]: row["id"] for found in kept.values() for row in found} for kept in (one, two)]
    assert named[0] == named[1] and len(set(named[0].values())) == 60


def test_columns_are_kept_and_attributes_may_be_rare(tmp_path: Path) -> None:
    data = [{**row, "when": f"2024-01-{i % 28 + 1:02}"} | ({"sex": "f"} if i > 55 else {}) for i, row in enumerate(FILLER)]
    _, kept, _ = prepared(tmp_path, data, time="when", attributes=("sex",))
    for row in (row for one in kept.values() for row in one):
        i = row["line"] - 1
        assert (row["time"], row["attributes"]) == (data[i]["when"], [("sex", "f")] if i > 55 else [])


def test_many_bad_rows_are_counted_and_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [*FILLER, *[{"prompt": "x", "completion": ""}] * 60])
    with pytest.raises(Problems) as caught:
        prepare_stream(DataSettings(train=str(path), rows="completion"), "completion", tmp_path / "out")
    assert str(caught.value).count("the completion in column `completion` is blank") == 50
    assert str(caught.value).endswith("\nand 10 more\n  -> 60 bad rows. Mend them, or go on without them: data.on_bad_row=reject")
    assert list((tmp_path / "out").iterdir()) == []  # nobody asked for a file of them
    path.write_text("{\n" * 200)
    with pytest.raises(Problems, match="and 150 more\n  -> 200 bad rows"):
        prepare_stream(DataSettings(train=str(path), rows="completion"), "completion", tmp_path / "out")


def test_too_few_rows_or_sides(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", FILLER[:6])
    made = DataSettings(train=str(path), rows="completion")
    with pytest.raises(UserError) as caught:
        prepare_stream(made, "completion", tmp_path / "out")
    assert str(caught.value) == f"{path}: 6 usable rows; at least 8 are needed\n  -> add rows"
    write(path, FILLER)
    with pytest.raises(UserError) as caught:
        prepare_stream(made.model_copy(update={"test": 1e-6}), "completion", tmp_path / "out")
    assert str(caught.value) == f"{path}: no row is left for test\n  -> add rows, enlarge data.test, or check `together`"
    (tmp_path / "b.txt").write_text("one\n\ntwo")
    with pytest.raises(UserError, match=r"2 usable rows; at least 8 are needed\n  -> add documents; in a .txt file blank lines, or lines of `<|endoftext|>`"):
        prepare_stream(DataSettings(train=str(tmp_path / "b.txt")), "document", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# --- whole or not, and the same bytes -----------------------------------------------------------------------------------------------


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [*FILLER, FILLER[0], {"prompt": "x"}])
    told: list[tuple[int, int]] = []
    for name in ("a", "b", "b"):  # what an earlier one left is in nobody's way
        prepare_stream(DataSettings(train=str(path), rows="completion", on_bad_row="reject"), "completion", tmp_path / name, lambda *one: told.append(one))
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["card.json", "rejected.jsonl", "test.parquet", "train.parquet", "valid.parquet"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    assert told[-1][0] == told[-1][1] > path.stat().st_size and all(done <= of for done, of, _ in told) and told[-1][2] > 0


@pytest.mark.parametrize("where", ["reading", "writing", "card"])
def test_an_interrupted_preparation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    path = write(tmp_path / "d.jsonl", FILLER * 3)
    made = DataSettings(train=str(path), rows="completion")
    prepare_stream(made, "completion", tmp_path / "out")

    def stop(*anything: Any) -> Any:
        raise Interrupted(15)

    if where == "card":
        monkeypatch.setattr(card, "make", stop)
    else:
        monkeypatch.setattr(progress.Teller, where, stop)
    with pytest.raises(Interrupted):
        prepare_stream(made, "completion", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", FILLER)
    reading = iter(streams.Stream(path))
    next(reading)
    with path.open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"it was changed while it was read\n  -> wait until it is written, then give the same command again"):
        list(reading)


def test_a_streamed_file_has_small_groups_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = rows.table({"id": [str(i) for i in range(10_000)], "text": [f"text {i}" for i in range(10_000)]}, rows.DOCUMENT)
    for size in (7, 1024, 9000):
        with rows.writer(tmp_path / f"{size}.parquet", rows.DOCUMENT) as file:
            for batch in table.to_batches(size):
                file.write(batch)
        assert file.count == rows.count(tmp_path / f"{size}.parquet") == 10_000
    contents = {(tmp_path / f"{size}.parquet").read_bytes() for size in (7, 1024, 9000)}
    assert len(contents) == 1 and rows.read(tmp_path / "7.parquet").equals(table)
    found = pq.read_metadata(tmp_path / "7.parquet")
    assert [found.row_group(i).num_rows for i in range(found.num_row_groups)] == [4096, 4096, 1808]
    parts = list(rows.batches(tmp_path / "7.parquet", ["text"], 100))
    assert max(one.num_rows for one in parts) <= 100 and pa.Table.from_batches(parts).column("text").to_pylist() == table.column("text").to_pylist()
    monkeypatch.setattr(rows, "GROUP_BYTES", 1)
    with rows.writer(tmp_path / "long.parquet", rows.DOCUMENT) as file:
        for batch in table.to_batches(10):
            file.write(batch)
    assert pq.read_metadata(tmp_path / "long.parquet").num_row_groups == 1000
    with pytest.raises(ZeroDivisionError), rows.writer(tmp_path / "none.parquet", rows.DOCUMENT) as file:
        raise ZeroDivisionError
    assert not (tmp_path / "none.parquet").exists() and not list(tmp_path.glob(".staging-*"))
    for read in (rows.count, lambda path: list(rows.batches(path))):
        with pytest.raises(UserError, match="cannot be read as rows"):
            read(tmp_path / "none.parquet")


def test_a_file_that_is_read_through_is_never_held(tmp_path: Path) -> None:
    path, draw = tmp_path / "rows.parquet", random.Random(0)
    with rows.writer(path, rows.DOCUMENT) as file:
        for _ in range(48):
            file.write(rows.table({"text": [draw.randbytes(250).hex() for _ in range(1024)]}, rows.DOCUMENT).to_batches()[0])
    before, most, count = pa.total_allocated_bytes(), 0, 0
    for batch in rows.batches(path):
        count += batch.num_rows
        most = max(most, pa.total_allocated_bytes() - before)
    assert count == 48 * 1024 and path.stat().st_size > 12e6
    assert most < 6e6, most  # pages and what they are unpacked from; with pyarrow's reading ahead it is the whole file and more


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what a process needed")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from tunesmith.data import rows\nfrom tunesmith.data.cleaning import languages\nfrom tunesmith.data.preparation import card, first_pass, prepare\n"
        "from tunesmith.data.settings import DataSettings\n"
        "languages.load = languages.shares = lambda *texts: {}\n"  # that model takes a hundred megabytes for a moment, which would hide what rows take
        "import time\nfrom tunesmith.core import workers\neach = workers.Crew.each\n"
        "def helped(self, pieces):\n"  # from the first piece on, whatever else the machine does: what helpers cost does not grow
        "    while len(self._ready) < len(self._helpers):\n        time.sleep(0.01)\n"
        "    return each(self, pieces)\n"
        "workers.Crew.each = helped\n"
        "rows.BATCH_ROWS = rows.GROUP_ROWS = first_pass.PIECE_ROWS = card.SAMPLE = 50\n"  # so that the small file fills every buffer too
        "prepare.prepare(DataSettings(train=sys.argv[1], rows='document', text='text', duplicates={'near': None}), 'document', Path(sys.argv[2]))\n"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"  # getrusage would count the process it was started from
    )
    peaks = []
    for count in (2000, 7400):  # both are so large that another process helps, which has a price of its own
        texts = ({"text": f"{i} " + " ".join(str(i * j % 9973) for j in range(1000))} for i in range(count))
        path = write(tmp_path / f"{count}.jsonl", list(texts))
        command = [sys.executable, "-c", script, path, tmp_path / str(count)]
        # Arrow's own allocator gives memory back when it gets to it: 20 MB more or less, by what else the machine does
        done = subprocess.run(command, env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"}, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert path.stat().st_size > 34e6
    assert peaks[1] - peaks[0] < 10, peaks  # MB; to hold the texts and their rows would take 60 more


# --- readers ------------------------------------------------------------------------------------------------------------------------

TABLE = "text,label\n"
FILES: list[tuple[str, bytes]] = [
    ("a.csv", b'text,label\r\n"one\r\ntwo",x\r\n\r\nb,y'),
    ("mac.csv", b"text,label\ra;;;,x\rb,y\r"),
    ("semi.csv", b"\n\n\xef\xbb\xbf text;label\na, b;x\nc;d;e\n"),
    ("semi2.csv", b"\xef\xbb\xbf\ntext;label\na, b;x\nc;d;e\n"),
    ("tabs.tsv", b"text\tlabel\na;;; b\tx\n"),
    ("a.jsonl", b'\xef\xbb\xbf{"text": "a\xe2\x80\xa8b"}\r\n\n  \n3\n{"text": "b", "more": null}\n{"text": 1, "text": 2}\n{"a": NaN}\n{"text": "c"'),
    ("deep.jsonl", b'{"a": ' + b"[" * 40 + b"]" * 40 + b'}\n{"a": "' + b"[" * 40 + b'"}\n'),
    ("a.json", b' \n[{"text": "a"}, 3, {"text": "b"}]'),
    ("cut.json", b'[{"text": "a"},\n {"text": '),
    ("empty.csv", b""),
    ("blank.csv", b"\n \r\n\n"),
    ("blank.jsonl", b"\n \r\n\n"),
    ("latin.csv", TABLE.encode() * 5000 + "caf\xe9 au lait,x\n".encode("latin-1")),
    ("latin.jsonl", b'{"text": "a"}\n' * 100_000 + '{"a": "\u00fcber \u20ac"}\n{"text": "b\xe9"}\n'.encode("utf-8")[:-5] + b"\xe9\n"),
    ("cutbyte.jsonl", b'{"text": "a"}\n{"text": "b\xe2\x82'),
    ("wide.csv", TABLE.encode("utf-16")),
    ("wide.jsonl", '{"text": "a"}\n'.encode("utf-16-le")),
    ("nul.csv", TABLE.encode() + b"a\0b,x\n"),
    ("nul.jsonl", b'{"text": "a"}\n{"text": "\0"}\n'),
    ("quote.csv", TABLE.encode() + b'"never closed,red\nanother,green\n'),
    ("twice.csv", b"text,text\na,b\n"),
    ("json.csv", b'{"text": "a"}\n'),
    ("table.jsonl", TABLE.encode() + b"a,b\n"),
    ("lfs.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"),
    ("page.jsonl", b"\n<!DOCTYPE html><html><body>404</body></html>"),
    ("zip.csv", b"PK\x03\x04rest"),
    ("p.jsonl", b"\x80\x04rest"),
    ("text.parquet", b"text,label\n"),
    ("empty.parquet", b""),
    ("cut.parquet", b"PAR1rest"),
    ("data.xlsx", b"PK"),
]


@pytest.mark.parametrize(("name", "content"), FILES, ids=[case[0] for case in FILES])
def test_streaming_reads_as_reading_whole(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    def whole() -> Any:
        found = formats.read(path)
        return sorted([*found.records, *((one.line, one) for one in found.bad)], key=lambda one: one[0]), found.columns, found.notes

    def streamed() -> Any:
        stream = streams.Stream(path)
        return list(stream), list(stream.columns), stream.notes

    said = []
    for read in (whole, streamed):
        try:
            said.append(read())
        except UserError as error:
            said.append(str(error).replace(", .parquet, .txt", ", .parquet"))
    assert said[0] == said[1]


def test_a_file_with_nothing_in_it_and_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError) as caught:
            list(streams.Stream(tmp_path / name))
        return str(caught.value)

    assert said("a.csv", "text,label\n").endswith("a.csv: no records in it\n  -> give a file with at least a few rows")
    monkeypatch.setattr(formats, "MOST_LINE_CHARACTERS", 100)
    assert "a.csv:2: not CSV: a field of more than 100 characters\n" in said("a.csv", "text,label\n" + "x" * 200 + ",y\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 200}) + '\n{"text": "y"}\n' + json.dumps({"text": "x" * 300}))
    found = list(streams.Stream(tmp_path / "a.jsonl"))
    assert [(line, isinstance(one, dict) or (one.reason, one.what)) for line, one in found] == [
        (1, ("line too long", "212 characters, the limit is 100")),
        (2, True),
        (3, ("line too long", "312 characters, the limit is 100")),
    ]
    (tmp_path / "a.txt").write_text("short\n\n" + "word word\n" * 20 + "\nend\n")
    one, two, three = streams.Stream(tmp_path / "a.txt")
    assert (one, three) == ((1, {"text": "short"}), (24, {"text": "end"})) and two[0] == 3 and isinstance(two[1], formats.BadRow)
    assert (two[1].reason, two[1].what) == ("document too long", "a document of 199 characters, the limit is 100")
    assert two[1].remedy == "divide it with lines of `<|endoftext|>`"


# --- the card, and a first recipe ---------------------------------------------------------------------------------------------------


def test_lengths_are_exact_and_long_ones_nearly_so() -> None:
    some, long = card.Lengths(), card.Lengths()
    import numpy as np

    values = np.arange(1000) ** 2 % 60_000
    some.add(values[:400])
    some.add(values[400:])
    ordered = sorted(values.tolist())
    assert some.summary() == {"p5": ordered[50], "p50": ordered[500], "p95": ordered[950], "most": ordered[-1]}
    long.add(values * 1000)
    bars = some.histogram()
    assert len(bars["upto"]) == 16 and sum(bars["rows"]) == 1000 and bars["upto"][-1] == ordered[990]
    for low, upto, rows_in in zip([-1, *bars["upto"]], bars["upto"][:-1], bars["rows"], strict=False):
        assert rows_in == sum(low < value <= upto for value in ordered)
    narrow, steep = card.Lengths(), card.Lengths()
    narrow.add(np.arange(1000) % 20 + 80)
    assert narrow.histogram()["upto"][0] == 82 and narrow.histogram()["rows"][:2] == [150, 50]  # none of 0 to 79, where no row is
    steep.add(np.r_[np.full(960, 40), np.full(40, 5000)])
    found = steep.histogram()
    assert found["upto"][0] < 60 and found["upto"][-1] == 5000 and found["upto"][-1] - found["upto"][-2] > 20 * (found["upto"][1] - found["upto"][0])
    assert card.Lengths().histogram() == {"upto": [], "rows": []}
    assert all(abs(long.at(q) - ordered[10 * q] * 1000) <= 0.011 * ordered[10 * q] * 1000 + 1 for q in (50, 95))
    assert card.Lengths().summary() == {"p5": 0, "p50": 0, "p95": 0, "most": 0}


def test_a_share_that_was_not_asked_for_is_said(tmp_path: Path) -> None:
    data = [{"prompt": f"prompt {i} of many", "completion": f"completion {i}", "who": "one" if i < 60 else f"w{i}"} for i in range(160)]
    made = [prepared(tmp_path, data, together="who", valid=0.2, test=0.4, split_seed=seed)[0] for seed in range(6)]
    assert len({max(one["rows"], key=one["rows"].__getitem__) for one in made}) > 1  # the large group is not always on one side
    for one in made:
        for side, asked in (("valid", 0.2), ("test", 0.4)):
            share = one["rows"][side] / 160
            said = f"{side} has {share:.0%} of the rows, {asked:.0%} was asked for: rows with one `who` are not divided."
            said += " Another data.split_seed divides them anew."
            assert (said in one["warnings"]) == (not asked / 1.5 <= share <= asked * 1.5)
    said = [text for one in made for text in one["warnings"] if "was asked for" in text]
    assert 0 < len(said) < 12

    days = [{"prompt": f"prompt {i} of many", "completion": f"completion {i}", "day": f"2026-03-{1 + i // 50:02}"} for i in range(200)]
    of_days = prepared(tmp_path, days, time="day", split_by="time", valid=0.1, test=0.2)[0]["warnings"]
    why = "was asked for: rows with one `day` are not divided. Give data.time more precisely."
    assert [text for text in of_days if "asked" in text] == [f"valid has 25% of the rows, 10% {why}"]
    words = [f"{draw.choice('bcdfgkl')}{draw.choice('aeiou')}{draw.choice('mnprst')}" for draw in (random.Random(i) for i in range(3000))]
    alike = [{"text": f"{' '.join(words[i // 4 * 14 :][:14])} n{i % 4}"} for i in range(800)]
    of_alike = prepared(tmp_path, alike, rows="document", valid="none", test=0.2, duplicates={"near": 0.7})[0]["warnings"]
    assert any("20% was asked for: near-duplicates left the other sides. See data.duplicates.near." in text for text in of_alike)


@pytest.mark.parametrize("kind", ["completion", "dialogue", "document"])
def test_the_card_is_a_section_of_the_report(tmp_path: Path, kind: str) -> None:
    data = [{"text": f"a text of many English words, number {i}"} for i in range(60)] if kind == "document" else [*FILLER, {"prompt": "x"}]
    card, kept, _ = prepared(tmp_path, data, rows=kind)
    (section,) = card_section.sections(card)
    assert section.title == "Data" and len(section.blocks) >= 4
    lengths = sorted(len(row.get("text") or row.get("completion") or row["messages"][-1]["content"]) for row in kept["train"])
    found = card["characters"]["texts" if kind == "document" else "answers"]
    assert (found["p50"], found["most"]) == (lengths[len(lengths) // 2], lengths[-1])
    assert json.loads((tmp_path / "out" / "card.json").read_text()) == card and card["labels"] == {}
