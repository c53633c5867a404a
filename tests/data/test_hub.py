"""Data sets of the Hub, from a stand-in for its server on this machine and from its cache without any network."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunesmith.core.errors import UserError
from tunesmith.data.readers import hub
from tunesmith.data.readers.snapshot import collect

COMMIT = {"main": "a" * 40, "v1": "b" * 40, hub.CONVERTED: "c" * 40}
Repos = dict[str, dict[str, dict[str, bytes]]]
"""repository -> commit -> file -> content."""


def parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


class StandIn(BaseHTTPRequestHandler):
    """The three answers of the Hub that a download needs: what a revision is, which files it has, and a file."""

    repos: Repos

    def do_GET(self) -> None:
        owner_and_name = "/".join(self.path.split("?")[0].removeprefix("/api").split("/")[2:4])
        repo = self.repos.get(owner_and_name)
        rest = self.path.split("?")[0].partition(f"{owner_and_name}/")[2].replace("%2F", "/")
        if repo is None:
            return self.answer(404, headers={"X-Error-Code": "RepoNotFound"})
        if "gated" in owner_and_name:
            return self.answer(403, headers={"X-Error-Code": "GatedRepo"})
        kind, _, rest = rest.partition("/")
        if kind == "revision":
            commit = COMMIT.get(rest, rest)
            return self.json({"id": owner_and_name, "sha": commit}) if commit in repo else self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        if kind == "tree":
            files = repo[rest.partition("/")[0]]
            return self.json([{"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()} for name, data in files.items()])
        commit, _, name = rest.partition("/")
        data = repo[COMMIT.get(commit, commit)][name]
        self.answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT.get(commit, commit)})

    do_HEAD = do_GET

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Repos], None]]:
    """Answers for the Hub with some repositories until the test ends; its cache is the test's own."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    at = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", at)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", at + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def start(repos: Repos) -> None:
        StandIn.repos = repos

    yield start
    server.shutdown()
    server.server_close()


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    from huggingface_hub import constants

    def cut() -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    return cut


def rows(value: str, folder: Path, split: str | None = None, said: list[str] | None = None) -> list[dict[str, Any]]:
    path = collect(value, None, folder / "out", split=split, say=(said if said is not None else []).append)
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def refused(value: str, folder: Path, split: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        collect(value, None, folder / "refused", split=split)
    assert not (folder / "refused").exists() or not list((folder / "refused").iterdir())
    return str(caught.value)


PARTS = {
    "README.md": b"# A set without a header\n",
    "data/train-00000-of-00002.parquet": parquet([{"text": "one", "label": 1}, {"text": "zwei ü", "label": None}]),
    "data/train-00001-of-00002.parquet": parquet([{"text": "three", "label": 3}]),
    "data/test-00000-of-00001.parquet": parquet([{"text": "four", "label": 4}]),
}


def test_parts_in_order_then_from_the_cache(tmp_path: Path, serve: Callable[[Repos], None], offline: Callable[[], None]) -> None:
    serve({"owner/name": {"a" * 40: PARTS, "b" * 40: {"train.jsonl": lines("older")}}})
    said: list[str] = []
    expected = [{"text": "one", "label": 1}, {"text": "zwei ü", "label": None}, {"text": "three", "label": 3}]
    assert rows("hub:owner/name", tmp_path, said=said) == expected
    assert said == ["hub:owner/name: 2 files of the split `train` at commit aaaaaaaaaaaa; a name with @COMMIT stays at one commit"]
    assert rows("hub:owner/name@v1", tmp_path) == [{"text": "older"}]
    offline()
    assert rows("hub:owner/name", tmp_path) == expected
    assert rows(f"hub:owner/name@{'a' * 40}", tmp_path) == expected
    what = "hub:owner/name: the Hub cannot be reached, and not all of it is in the cache\n  -> connect, unset HF_HUB_OFFLINE and try again; or give a file"
    assert refused("hub:owner/name", tmp_path, "test") == what
    (missing,) = (tmp_path / "cache").rglob("train-00001-of-00002.parquet")
    missing.unlink()
    assert refused("hub:owner/name", tmp_path) == what
    assert refused("hub:owner/other", tmp_path).startswith("hub:owner/other: the Hub cannot be reached")


def test_a_cache_without_a_list_of_files(tmp_path: Path, offline: Callable[[], None]) -> None:
    folder = tmp_path / "cache" / "datasets--owner--name"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    (snapshot / "train.jsonl").write_bytes(lines("one", "two"))
    offline()
    said: list[str] = []
    assert rows("hub:owner/name", tmp_path, said=said) == [{"text": "one"}, {"text": "two"}]
    assert said[0] == "hub:owner/name: without a network, and the cache does not say which files there are: the rows are those of the files in it"


def test_a_set_made_by_a_script_is_read_from_the_hubs_own_parquet(tmp_path: Path, serve: Callable[[Repos], None]) -> None:
    script = {"README.md": b"", "name.py": b"raise SystemExit('this must never run')", "dataset_infos.json": b"{}"}
    made = {"default/train/0000.parquet": parquet([{"text": "made"}]), "default/partial-test_x/0000.parquet": parquet([{"text": "part"}])}
    serve({"owner/name": {"a" * 40: script, "c" * 40: made}, "owner/bare": {"a" * 40: script}})
    assert rows("hub:owner/name", tmp_path) == [{"text": "made"}]
    assert rows("hub:owner/name", tmp_path, "test_x") == [{"text": "part"}]
    remedy = "choose a data set with Parquet, JSON lines or CSV; scripts of data sets are not run"
    assert refused("hub:owner/bare", tmp_path).endswith(f"and the Hub has made no Parquet of it\n  -> {remedy}")
    assert refused("hub:owner/bare@main", tmp_path).startswith("hub:owner/bare@main: no files of rows in it, only `.json`, `.md`, `.py`\n")


def test_binary_columns_are_left_out_and_said(tmp_path: Path, serve: Callable[[Repos], None]) -> None:
    pictures = [{"text": "a", "image": None}, {"text": "b", "image": {"bytes": b"\x89PNG", "path": None}}, {"text": "c", "image": {"bytes": b"x", "path": "c"}}]
    serve({"owner/name": {"a" * 40: {"train.parquet": parquet(pictures)}}})
    said: list[str] = []
    assert [row["text"] for row in rows("hub:owner/name", tmp_path, said=said)] == ["a", "b", "c"]
    assert said[1:] == ["hub:owner/name: column `image` holds binary data (row 2) and is left out"]


def test_what_is_said(tmp_path: Path, serve: Callable[[Repos], None]) -> None:
    bad = {"train.jsonl": lines("one") + b"{broken\n"}
    split = {"validation.jsonl": lines("v"), "test.jsonl": lines("t")}
    serve({"owner/bad": {"a" * 40: bad}, "owner/name": {"a" * 40: split}, "owner/gated": {}})
    for value, asked, text in (
        ("hub:owner", None, "not the name of a data set\n  -> write hub:OWNER/NAME, hub:OWNER/NAME/CONFIG or hub:OWNER/NAME@REVISION"),
        ("hub:owner/none", None, "no such data set on the Hub, or a private one\n  -> check the name; for a private one set HF_TOKEN"),
        ("hub:owner/gated", None, "its owner gives access on request\n  -> accept its terms at https://huggingface.co/datasets/owner/gated, then set HF_TOKEN"),
        ("hub:owner/name@v9", None, "it has no revision `v9`\n  -> give a branch, a tag or a commit that is there"),
        ("hub:owner/name", None, "it has 2 splits: `test`, `validation`\n  -> choose one: name it beside the source: split: ..."),
        ("hub:owner/name", "tst", "no split `tst`, did you mean `test`?\n  -> it has `test`, `validation`"),
        ("hub:owner/name/de", None, "no configuration `de`\n  -> it has no configurations; leave the name out"),
        ("hub:owner/bad", None, "hub:owner/bad: train.jsonl:2: not JSON"),
    ):
        assert text in refused(value, tmp_path, asked), value
    assert rows("hub:owner/name", tmp_path, "valid") == [{"text": "v"}]


MARKED: list[dict[str, Any]] = [{"config_name": "x", "data_files": "a.csv"}, {"config_name": "y", "data_files": "b.csv", "default": True}]
CHOSEN: list[tuple[list[str], list[dict[str, Any]], str | None, dict[str, list[str]]]] = [
    (["train.csv", "README.md"], [], None, {"train": ["train.csv"]}),
    (["rows.jsonl", "more.jsonl", "config.json"], [], None, {"train": ["more.jsonl", "rows.jsonl"]}),
    (["a.parquet", "b.parquet", "a.csv"], [], None, {"train": ["a.parquet", "b.parquet"]}),
    (["a.parquet", "a.csv"], [], None, {"train": ["a.parquet"]}),
    (["data/train.csv", "data/dev.csv", "data/eval.csv"], [], None, {"train": ["data/train.csv"], "validation": ["data/dev.csv"], "test": ["data/eval.csv"]}),
    (["test/0.csv", "train/0.csv", "train/1.csv"], [], None, {"test": ["test/0.csv"], "train": ["train/0.csv", "train/1.csv"]}),
    (["data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"], [], None,
     {"train_gen": ["data/train_gen-00000-of-00001.parquet"], "train_sft": ["data/train_sft-00000-of-00001.parquet"]}),
    (["trained.csv", "latest.csv"], [], None, {"train": ["latest.csv", "trained.csv"]}),
    (["de/train.csv", "en/train.csv"], [], "en", {"train": ["en/train.csv"]}),
    (["a.csv", "b.csv"], [{"config_name": "x", "data_files": "b.csv"}], None, {"train": ["b.csv"]}),
    (["a.csv", "b.csv", "d/c.csv"], [{"config_name": "x", "data_files": [{"split": "train", "path": ["a.csv", "d/*"]}, {"split": "b", "path": "b.*"}]}], None,
     {"train": ["a.csv", "d/c.csv"], "b": ["b.csv"]}),
    (["a.csv", "d/b.csv", "d/e/c.csv"], [{"config_name": "x", "data_files": {"train": "*.csv", "all": "**/*.csv"}}], None,
     {"train": ["a.csv"], "all": ["a.csv", "d/b.csv", "d/e/c.csv"]}),
    (["a.csv", "b.csv"], MARKED, None, {"train": ["b.csv"]}),
    (["a.csv", "b.csv"], MARKED, "x", {"train": ["a.csv"]}),
    (["x/train.csv", "x/test.csv", "y/train.csv"], [{"config_name": "x", "data_dir": "x"}], None, {"train": ["x/train.csv"], "test": ["x/test.csv"]}),
    ([".hidden/a.csv", "README.md"], [], None, {}),
]  # fmt: skip


@pytest.mark.parametrize(("names", "configs", "config", "expected"), CHOSEN)
def test_which_files_are_which_split(names: list[str], configs: list[dict[str, Any]], config: str | None, expected: dict[str, list[str]]) -> None:
    assert hub.choose(names, configs, config, "here") == expected


def test_several_configurations() -> None:
    several = [{"config_name": "x", "data_files": "a.csv"}, {"config_name": "y", "data_files": "b.csv"}]
    with pytest.raises(UserError, match=r"it has 2 configurations: `x`, `y`\n  -> choose one: write hub:OWNER/NAME/CONFIG"):
        hub.choose(["a.csv", "b.csv"], several, None, "here")
    with pytest.raises(UserError, match=r"it has 2 configurations: `de`, `en`"):
        hub.converted(["de/train/0000.parquet", "en/train/0000.parquet"], None, "here")


def test_configurations_stand_at_the_top_of_the_card(tmp_path: Path, serve: Callable[[Repos], None]) -> None:
    easy = "- config_name: easy\n  data_files:\n  - split: train\n    path: one.csv\n"
    card = f"---\nlicense: cc0-1.0\nconfigs:\n{easy}- config_name: hard\n  data_files: two.csv\n---\n# Set\n".encode()
    files = {"README.md": card, "one.csv": b"text\nfirst\n", "two.csv": b"text\nsecond\n"}
    serve({"owner/name": {"a" * 40: files}, "owner/wrong": {"a" * 40: {"README.md": b"---\na: [\n---\n", "one.csv": b"text\nx\n"}}})
    assert rows("hub:owner/name/hard", tmp_path) == [{"text": "second"}]
    assert rows("hub:owner/name/easy@main", tmp_path) == [{"text": "first"}]
    assert refused("hub:owner/name/esy", tmp_path) == "hub:owner/name/esy: no configuration `esy`, did you mean `easy`?\n  -> it has `easy`, `hard`"
    assert "hub:owner/wrong: README.md:" in refused("hub:owner/wrong", tmp_path)
