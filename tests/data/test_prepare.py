"""From files to sides: nothing is lost, nothing leaks, nothing moves, and the same input gives the same bytes."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import UserError
from tunesmith.data import rows
from tunesmith.data.preparation import prepare as preparation
from tunesmith.data.preparation import split
from tunesmith.data.readers.formats import BadRow
from tunesmith.data.row_index import SIDES
from tunesmith.data.settings import DataSettings, DuplicateSettings
from tunesmith.data.texts import even as key

Row = dict[str, Any]
few = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))

texts = st.text(alphabet="abc dé\n,;\"'|", min_size=1, max_size=6).filter(str.strip)
tables = st.lists(
    st.fixed_dictionaries({"text": texts, "label": st.sampled_from(["x", "y", "y", "z"]), "who": st.sampled_from([f"p{i}" for i in range(40)])}),
    min_size=30,
    max_size=60,
)


@dataclass(frozen=True)
class Prepared:
    """What a preparation wrote, read again."""

    splits: dict[str, Any]
    labels: list[str]
    multi_label: bool
    card: dict[str, Any]
    rejected: list[BadRow]


def prepare(settings: DataSettings) -> Prepared:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        card = preparation.prepare(settings.model_copy(update={"duplicates": DuplicateSettings(near=None)}), "labelled", out)
        names = json.loads((out / "labels.json").read_text())
        lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text("utf-8").splitlines()]
        bad = [BadRow(one["file"], one["line"], one["reason"], one["what"], one["remedy"], one["row"]) for one in lines]
        tables = {side: rows.read(out / f"{side}.parquet") for side in SIDES if (out / f"{side}.parquet").exists()}
        return Prepared(tables, names["labels"], names["multi_label"], card, sorted(bad, key=lambda one: one.line))


def prepared(data: list[Row], **more: Any) -> Prepared:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(data[0]))
            writer.writeheader()
            writer.writerows(data)
        return prepare(
            DataSettings(**{"train": str(path), "text": "text", "label": "label", "on_bad_row": "reject", "valid": 0.2, "test": 0.3} | more)
        )


def usable(data: list[Row], **more: Any) -> Prepared | None:
    """None where a random draw has too few rows or labels for three sides."""
    try:
        return prepared(data, **more)
    except UserError as error:
        assert any(part in str(error) for part in ("usable row", "all rows bear", "no row is left")), error
        return None


def sides(one: Prepared) -> dict[tuple[str, str | None], str]:
    return {
        (key(text), group): side
        for side, table in one.splits.items()
        for text, group in zip(rows.strings(table, "text"), rows.strings(table, "together"), strict=True)
    }


def kept(one: Prepared) -> list[int]:
    return [line for table in one.splits.values() for line in table.column("line").to_pylist()]


@few
@given(tables, st.randoms(use_true_random=False), st.booleans())
def test_no_order_of_rows_moves_a_row(data: list[Row], random_: random.Random, grouped: bool) -> None:
    more = {"together": "who"} if grouped else {}
    first = usable(data, **more)
    mixed = list(data)
    random_.shuffle(mixed)
    second = usable(mixed, **more)
    if first and second:
        before, after = sides(first), sides(second)
        assert all(after[row] == side for row, side in before.items() if row in after)
        assert before if grouped else before == after


@few
@given(tables, tables, st.booleans())
def test_no_added_row_moves_another(data: list[Row], more_rows: list[Row], grouped: bool) -> None:
    more = {"together": "who"} if grouped else {}
    first, second = usable(data, **more), usable(data + more_rows, **more)
    if first and second:
        before, after = sides(first), sides(second)
        assert all(after[row] == side for row, side in before.items() if row in after)


@few
@given(tables, st.booleans())
def test_every_row_is_kept_or_left_out_and_no_side_sees_another(data: list[Row], grouped: bool) -> None:
    data = [*data, {"text": " ", "label": "x", "who": "p1"}, {"text": "once", "label": "lonely", "who": "p2"}]
    one = usable(data, **({"together": "who"} if grouped else {}))
    if one is None:
        return
    assert len(kept(one)) + len(one.rejected) == len(data)
    assert len(set(kept(one)) | {bad.line for bad in one.rejected}) == len(data)
    assert sum(one.card["rows"].values()) + sum(one.card["rejected"].values()) == len(data)
    by_side = {side: set(map(key, rows.strings(table, "text"))) for side, table in one.splits.items()}
    assert not by_side["train"] & (by_side["valid"] | by_side["test"]) and not by_side["valid"] & by_side["test"]
    assert sum(map(len, by_side.values())) == len(kept(one))  # one of each text
    if grouped:
        groups = [set(rows.strings(table, "together")) for table in one.splits.values()]
        assert sum(map(len, groups)) == len(set().union(*groups))
        assert not any("group" in bad.reason for bad in one.rejected)  # by the division itself, not by dropping rows after it


@few
@given(st.lists(st.sampled_from([f"g{i}" for i in range(200)]), min_size=1, max_size=50), st.integers(0, 3))
def test_the_place_of_a_name_depends_on_it_and_the_seed_alone(names: list[str], seed: int) -> None:
    found = split.positions(names, seed)
    assert found.tolist() == [int.from_bytes(hashlib.sha256(f"{seed}\x1f{name}".encode()).digest()[:8], "big") / 2**64 for name in names]
    assert (0 <= found).all() and (found < 1).all() and (found != split.positions(names, seed + 1)).all()


def test_a_group_is_on_one_side_without_losing_a_row() -> None:
    one = prepared([{"text": f"row {i}", "label": "xy"[i % 2], "who": f"p{i % 40}"} for i in range(160)], together="who")
    groups = {side: set(rows.strings(table, "together")) for side, table in one.splits.items()}
    assert sum(map(len, groups.values())) == 40 and one.rejected == [] and sum(one.card["rows"].values()) == 160


def test_shares_hold_and_a_larger_valid_takes_nothing_from_test() -> None:
    data = [{"text": f"row {i}", "label": "xy"[i % 2]} for i in range(2000)]
    small, large = prepared(data, valid=0.1, test=0.2), prepared(data, valid=0.4, test=0.2)
    counts = [small.splits[side].num_rows / 2000 for side in ("train", "valid", "test")]
    for found, wanted in zip(counts, (0.7, 0.1, 0.2), strict=True):
        assert abs(found - wanted) < 5 * (wanted * (1 - wanted) / 2000) ** 0.5  # five standard errors
    assert small.splits["test"].equals(large.splits["test"])
    other = prepared(data, valid=0.1, test=0.2, split_seed=1)
    assert sides(other) != sides(small)
    assert set(prepared(data, valid="none", test=0.2).splits) == {"train", "test"}


FILLER = [{"text": f"row {i}", "label": "xy"[i % 2]} for i in range(60)]


def labels_of(one: Prepared) -> dict[str, list[str]]:
    return {text: labels for table in one.splits.values() for text, labels in zip(rows.strings(table, "text"), rows.label_lists(table), strict=True)}


def test_equal_texts_with_different_labels_keep_the_majority_and_none_on_a_tie() -> None:
    disputed = [
        ("most", "x"),
        ("most", "y"),
        (" most ", "x"),
        ("tie", "x"),
        ("tie", "y"),
        ("three", "x"),
        ("three", "y"),
        ("three", "z"),
        ("z", "z"),
        ("agree", "x"),
    ]
    one = prepared([*({"text": t, "label": lab} for t, lab in [*disputed, ("agree", "x")]), *FILLER])
    found = labels_of(one)
    assert found["most"] == ["x"] and found["agree"] == ["x"] and "tie" not in found and "three" not in found
    said = [(bad.line, bad.reason, bad.what, bad.remedy) for bad in one.rejected]
    decide, nothing = "decide on one label for this text", "nothing to do: the first is kept"
    assert said == [
        (3, "conflicting labels", "the same text is also labelled `x`", decide),
        (4, "duplicate", "equal to line 2", nothing),
        (5, "conflicting labels", "the same text is also labelled `y`", decide),
        (6, "conflicting labels", "the same text is also labelled `x`", decide),
        (7, "conflicting labels", "the same text is also labelled `y`", decide),
        (8, "conflicting labels", "the same text is also labelled `x`", decide),
        (9, "conflicting labels", "the same text is also labelled `x`", decide),
        (12, "duplicate", "equal to line 11", nothing),
    ]
    assert one.card["rejected"] == {"conflicting labels": 6, "duplicate": 2}


def write(path: Path, data: Iterable[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data), "utf-8")
    return path


def test_a_users_test_file_is_measured_as_it_is(tmp_path: Path) -> None:
    train = [*FILLER, {"text": "shared", "label": "x"}, {"text": " shared\t", "label": "x"}]
    test = [
        {"text": "own", "label": "x"},
        {"text": "own", "label": "x"},
        {"text": "own", "label": "y"},
        {"text": "shared", "label": "y"},
        {"text": "c", "label": "new"},
    ]
    files = write(tmp_path / "train.jsonl", train), write(tmp_path / "test.jsonl", test)
    before = [path.read_bytes() for path in files]
    one = prepare(DataSettings(train=str(files[0]), test=str(files[1]), valid=0.2, text="text", label="label"))
    assert rows.strings(one.splits["test"], "text") == ["own", "own", "own", "shared", "c"]
    assert rows.label_lists(one.splits["test"]) == [["x"], ["x"], ["y"], ["y"], ["new"]]
    assert "shared" not in {key(text) for side in ("train", "valid") for text in rows.strings(one.splits[side], "text")}
    assert sorted(bad.reason for bad in one.rejected) == ["duplicate", "in test too"] and one.labels == ["new", "x", "y"]
    assert "1 label without a training row (new): they cannot be predicted. Add rows or merge them." in one.card["warnings"]
    assert [path.read_bytes() for path in files] == before


def test_no_group_is_in_train_and_in_a_users_test_file(tmp_path: Path) -> None:
    train = [{**row, "who": f"p{i % 6}"} for i, row in enumerate(FILLER)]
    test = [{"text": f"later {i}", "label": "x", "who": "p3"} for i in range(3)]
    files = write(tmp_path / "train.jsonl", train), write(tmp_path / "test.jsonl", test)
    one = prepare(DataSettings(train=str(files[0]), test=str(files[1]), valid=0.4, text="text", label="label", together="who"))
    assert set(rows.strings(one.splits["train"], "together")) | set(rows.strings(one.splits["valid"], "together")) == {"p0", "p1", "p2", "p4", "p5"}
    assert len(one.rejected) == 10 and {bad.reason for bad in one.rejected} == {"its group is in test"}
    assert one.rejected[0].what.endswith("row has the together value `p3`, which is also in test")


@pytest.mark.parametrize("form", ["text", "list", "separator"])
def test_several_labels(tmp_path: Path, form: str) -> None:
    several = [["b", "a"], [], ["a"], ["c", "a", "c"], ["b", "c"]]
    written: dict[str, Any] = {"text": "|".join, "list": lambda one: one, "separator": " ; ".join}
    data = [{"text": f"row {i}", "label": written[form](several[i % 5])} for i in range(50)]
    one = prepare(
        DataSettings(train=str(write(tmp_path / "d.jsonl", data)), multi_label=True, label_separator=";" if form == "separator" else "|", valid=0.2, test=0.2)
    )
    assert one.labels == ["a", "b", "c"] and one.multi_label
    assert labels_of(one) == {f"row {i}": sorted(set(several[i % 5])) for i in range(50)}
    assert one.card["labels"]["a"] == {side: sum("a" in labels for labels in rows.label_lists(table)) for side, table in one.splits.items()}


def test_a_row_with_two_lonely_labels_is_left_out_once(tmp_path: Path) -> None:
    data = [{"text": f"row {i}", "label": ["a"] if i % 2 else ["b"]} for i in range(40)] + [{"text": "odd", "label": ["a", "p", "q"]}]
    one = prepare(DataSettings(train=str(write(tmp_path / "d.jsonl", data)), multi_label=True, on_bad_row="reject"))
    assert [(bad.line, bad.reason) for bad in one.rejected] == [(41, "label with one row")] and sum(one.card["rows"].values()) == 40


@pytest.mark.parametrize(("value", "label"), [(3, "3"), (3.0, "3"), (3.5, "3.5"), (True, "true"), (" x ", "x"), ("NaN", "NaN")])
def test_a_label_of_any_plain_kind_is_a_name(tmp_path: Path, value: Any, label: str) -> None:
    data = [{"text": f"row {i}", "label": value if i % 2 else "other"} for i in range(40)]
    assert prepare(DataSettings(train=str(write(tmp_path / "d.jsonl", data)))).labels == sorted(["other", label])


def test_columns_are_kept_and_attributes_are_no_input(tmp_path: Path) -> None:
    data = [
        {
            "key": i,
            "text": f"row {i}",
            "pair": f"second {i}",
            "label": "xy"[i % 2],
            "who": i // 2,
            "when": f"2024-01-{i % 28 + 1:02}",
            "sex": ["f", "m", None][i % 3],
            "noise": "n",
        }
        for i in range(60)
    ]
    columns = {"id": "key", "text_pair": "pair", "together": "who", "time": "when", "attributes": ("sex",)}
    one = prepare(DataSettings(train=str(write(tmp_path / "d.jsonl", data)), **columns))
    for table in one.splits.values():
        for row in table.to_pylist():
            i = int(row["id"])
            assert (row["text"], row["text_pair"], row["labels"], row["together"], row["time"]) == (
                f"row {i}",
                f"second {i}",
                ["xy"[i % 2]],
                str(i // 2),
                data[i]["when"],
            )
            assert dict(row["attributes"]) == ({"sex": data[i]["sex"]} if data[i]["sex"] else {})
            assert (row["source"], row["line"], row["origin"], row["weight"]) == ("d.jsonl", i + 1, "original", 1.0)
    assert table.column_names == [field.name for field in rows.LABELLED]


def test_columns_are_guessed_aloud(tmp_path: Path) -> None:
    data = [{"Message": f"row {i}", "Queue": "xy"[i % 2]} for i in range(40)]
    one = prepare(DataSettings(train=str(write(tmp_path / "d.jsonl", data))))
    assert one.card["notes"] == ["d.jsonl: taking column `Message` as the text", "d.jsonl: taking column `Queue` as the label"]
    assert one.card["columns"] == {"text": "Message", "text_pair": None, "label": "Queue"}


def test_the_same_input_gives_the_same_bytes_and_the_card_counts_right(tmp_path: Path) -> None:
    data = [*FILLER, {"text": "row 1", "label": "y"}, {"text": "", "label": "x"}, {"text": "alone", "label": "once"}, {"text": "half \ud83d", "label": "x"}]
    path = write_ascii(tmp_path / "d.jsonl", data)
    for name in ("a", "b"):
        preparation.prepare(DataSettings(train=str(path), on_bad_row="reject", duplicates={"near": None}), "labelled", tmp_path / name)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert set(names) == {"train.parquet", "valid.parquet", "test.parquet", "rejected.jsonl", "labels.json", "card.json"}
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    card = json.loads((tmp_path / "a" / "card.json").read_text())
    tables = {side: rows.read(tmp_path / "a" / f"{side}.parquet") for side in ("train", "valid", "test")}
    assert card["rows"] == {side: table.num_rows for side, table in tables.items()} and sum(card["rows"].values()) == 60
    assert card["labels"] == {name: {side: rows.label_lists(table).count([name]) for side, table in tables.items()} for name in ("x", "y")}
    assert [one["sha256"] for one in card["files"].values()] == [hashlib.sha256(path.read_bytes()).hexdigest()]
    left_out = [json.loads(line) for line in (tmp_path / "a" / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert sorted((one["line"], one["reason"]) for one in left_out) == [
        (61, "duplicate"),
        (62, "no text"),
        (63, "label with one row"),
        (64, "broken character"),
    ]
    assert all(one["file"] == "d.jsonl" and one["what"] and one["remedy"] and one["row"] for one in left_out)
    assert card["rejected"] == {"duplicate": 1, "no text": 1, "label with one row": 1, "broken character": 1}


def write_ascii(path: Path, data: Iterable[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return path


def test_an_id_is_the_content_or_the_users_own(tmp_path: Path) -> None:
    one, two = (prepared(data) for data in (FILLER, list(reversed(FILLER))))
    ids = [{text: name for t in p.splits.values() for text, name in zip(rows.strings(t, "text"), rows.strings(t, "id"), strict=True)} for p in (one, two)]
    assert ids[0] == ids[1] and len(set(ids[0].values())) == 60


def test_labels_that_a_side_lacks_are_said(tmp_path: Path) -> None:
    train = [{"text": f"text {number} of many", "label": "xyz"[number % 3]} for number in range(60)]
    sides = {"valid": [{"text": f"valid {n}", "label": "xy"[n % 2]} for n in range(20)], "test": [{"text": f"test {n}", "label": "x"} for n in range(120)]}
    paths = {side: str(write(tmp_path / f"{side}.jsonl", data)) for side, data in ({"train": train} | sides).items()}
    warnings = prepare(DataSettings(**paths)).card["warnings"]  # type: ignore[arg-type]
    assert "2 labels without a test row (y, z): nothing is measured of them. Add rows or merge them." in warnings
    assert "1 label without a valid row (z): the kept step and the calibration do not heed them. Add rows or merge them." in warnings
