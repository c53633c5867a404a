"""Whole or not at all: what a failure at any moment leaves under the final name, and locks between processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.core import files
from tunesmith.core.errors import UserError


class Stop(Exception):
    """What the tests break off with."""


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_file_is_the_old_or_the_new_one(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "deep" / "file"
    if before is not None:
        files.write_bytes(path, before)
    with pytest.raises(Stop), files.staged_file(path) as staging:
        staging.write_bytes(b"half")
        raise Stop
    assert (path.read_bytes() if path.exists() else None) == before
    assert [p.name for p in path.parent.iterdir()] == (["file"] if before is not None else [])
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new" and [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_is_the_old_or_the_new_one(tmp_path: Path, before: bool) -> None:
    path = tmp_path / "model"
    if before:
        path.mkdir()
        (path / "weights").write_text("old")
    with pytest.raises(Stop), files.staged_folder(path) as staging:
        (staging / "weights").write_text("half")
        raise Stop
    assert [p.name for p in tmp_path.iterdir()] == (["model"] if before else [])
    if before:
        assert (path / "weights").read_text() == "old"
    with files.staged_folder(path) as staging:
        (staging / "inner").mkdir()
        (staging / "inner" / "new").write_text("new")
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["model", "model/inner", "model/inner/new"]


def test_a_failed_rename_or_flush_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, function, lambda *args: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
            with pytest.raises(UserError, match="the system refused: Input/output error"):
                files.write_bytes(path, b"new")
        assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_everything_is_flushed_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda fd: (did.append("flush " + Path(os.readlink(f"/proc/self/fd/{fd}")).name.split("-")[-1]), fsync(fd))[1])
    monkeypatch.setattr(files.os, "replace", lambda a, b: (did.append("rename"), replace(a, b))[1])
    files.write_bytes(tmp_path / "file", b"x")
    assert did == ["flush file", "rename", f"flush {tmp_path.name.split('-')[-1]}"]
    did.clear()
    with files.staged_folder(tmp_path / "model") as staging:
        (staging / "weights").write_text("w")
    assert did == ["flush weights", "flush model", "rename", f"flush {tmp_path.name.split('-')[-1]}"]


def test_a_full_disk_is_known_by_whoever_reports_it(tmp_path: Path) -> None:
    rust = "Error while serializing: I/O error: No space left on device (os error 28)"  # safetensors: no OSError, only its words
    for stage in (files.staged_file, files.staged_folder):
        for error in (OSError(errno.ENOSPC, "x"), RuntimeError(rust)):
            with pytest.raises(UserError, match=r"model: no space left on the disk \([\d,.]+ MB free\)"), stage(tmp_path / "model"):
                raise error
    assert list(tmp_path.iterdir()) == []


def test_our_own_errors_pass_through(tmp_path: Path) -> None:
    mine = UserError("a", "b", "c")
    with pytest.raises(UserError) as caught, files.staged_file(tmp_path / "f"):
        raise mine
    assert caught.value is mine


def test_leftovers_of_the_dead_are_swept_and_nothing_else(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tunesmith.core import files\n"
        f"with files.staged_folder(Path({str(tmp_path)!r}) / 'model') as s:\n    (s / 'half').write_text('x')\n"
        f"    with files.staged_file(Path({str(tmp_path)!r}) / 'file') as f:\n        f.write_text('x'); os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    (tmp_path / "kept").write_text("x")
    assert len([p for p in tmp_path.iterdir() if p.name.startswith(files.STAGING)]) == 2 and not (tmp_path / "model").exists()
    files.sweep_staging(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_lock_keeps_another_process_out_until_its_holder_dies(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    script = f"from pathlib import Path; from tunesmith.core import files\nwith files.locked(Path({str(lock)!r})):\n    print('held', flush=True); input()\n"
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="busy"), files.locked(lock, lambda: UserError("busy")):
            raise AssertionError("two hold one lock")
    finally:
        holder.kill()
        holder.communicate()
    with files.locked(lock, lambda: UserError("busy")):
        pass


def test_links_share_and_copies_stand_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "inner").mkdir(parents=True)
    (tmp_path / "a" / "inner" / "f").write_text("x")
    files.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "inner" / "f").samefile(tmp_path / "a" / "inner" / "f")
    monkeypatch.setattr(files.os, "link", lambda *args: (_ for _ in ()).throw(OSError(errno.EXDEV, "x")))
    files.link_or_copy(tmp_path / "a" / "inner" / "f", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "x" and not (tmp_path / "c").samefile(tmp_path / "a" / "inner" / "f")


def test_json_is_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"é": [1, None]})
    assert files.read_json(path) == {"é": [1, None]} and "é" in path.read_text("utf-8")
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(path, {"a": float("nan")})
    assert files.read_json(path) == {"é": [1, None]}
    path.write_text('{"a": ')
    with pytest.raises(UserError) as caught:
        files.read_json(path)
    assert str(caught.value).startswith(f"{path}: not readable as JSON (") and str(caught.value).endswith("-> restore it, or delete it and run again")


def test_hashes() -> None:
    assert files.sha256_json({"a": 1, "b": [2]}) == files.sha256_json({"b": [2], "a": 1}) != files.sha256_json({"a": 1, "b": [3]})
    assert files.sha256_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


@pytest.mark.parametrize("answer", ["here", errno.EOPNOTSUPP, errno.EINVAL, "absent"], ids=str)
def test_a_reserved_file_has_its_size_and_its_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int | str) -> None:
    """With the system's call, and by writing zeros where the filesystem or the system has none."""

    def refuses(*_: int) -> None:
        raise OSError(answer, "as the test says")

    if answer == "absent":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    elif answer != "here":
        monkeypatch.setattr(os, "posix_fallocate", refuses, raising=False)
    size = 2 * len(files.ZEROS) + 3
    with open(tmp_path / "file", "w+b") as file:
        files.reserve(file.fileno(), size)
        assert file.read() == bytes(size)
    found = (tmp_path / "file").stat()
    assert found.st_blocks * 512 >= size or not found.st_blocks  # a filesystem that compresses zeros counts none
    with open(tmp_path / "empty", "wb") as file:
        files.reserve(file.fileno(), 0)


def test_a_full_disk_is_not_taken_for_one_that_cannot_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with open(tmp_path / "file", "wb") as file, pytest.raises(OSError, match="no space left"):
        files.reserve(file.fileno(), 10)
    assert not (tmp_path / "file").stat().st_size
