"""Files that appear whole or not at all, and hashes that say what they hold.

Every artefact of a run is written under a hidden name, flushed to the disk and renamed. After a crash, a full disk or a
lost power supply there is the old file or the new one, never half of either.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError

STAGING = ".staging-"
"""Prefix of every name that is not finished yet; whoever finds one without its writer may delete it."""

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
SURROUNDINGS = (*FULL, *FORBIDDEN)
"""System errors that are the user's to mend wherever they come up, never a fault of ours."""


def sha256_bytes(data: bytes) -> str:
    """Hex digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex digest of a JSON value, the same for equal values whatever the order of their keys."""
    return sha256_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode())


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder (a rename, a new file) survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache() -> Path:
    """The folder of all that can be made again: $TUNESMITH_CACHE, else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("TUNESMITH_CACHE") or Path(home) / "tunesmith")


def fsync_file(path: Path) -> None:
    """Flush a file that a library has written and closed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def as_user_error(error: OSError, path: Path) -> UserError:
    """Say a failed read or write in a user's words.

    Args:
        error: what the system said.
        path: the file or folder that was wanted.

    Returns:
        An error naming the cause: no space (with the free bytes), no permission, not there, or the system's words.
    """
    if error.errno in FULL:
        folder = next((p for p in [path, *path.parents] if p.is_dir()), Path("/"))
        free = shutil.disk_usage(folder).free
        return UserError(
            f"no space left on the disk ({free / 1e6:,.1f} MB free)",
            str(path),
            "free some space or choose another place with --runs-dir, then give the same command again: it resumes",
        )
    if error.errno in FORBIDDEN:
        return UserError("no permission to read or write here", str(path), "change its owner or mode, or choose another place")
    if error.errno == errno.ENOENT:
        return UserError("no such file or folder", str(path), "check the path; it is taken from where you stand")
    return UserError(f"the system refused: {error.strerror or error}", str(path), "check the disk and the path")


ZEROS = bytes(1 << 20)
"""What `reserve` writes at once where the system cannot set space aside."""


def reserve(descriptor: int, size: int) -> None:
    """Give an empty open file its size and all of its space on the disk.

    A file that is mapped without this is sparse. The first write to a page that the full disk has no room for then kills the process with SIGBUS.

    Args:
        descriptor: of the file, open for writing.
        size: bytes.

    Raises:
        OSError: the disk has less space than that (ENOSPC, EDQUOT), or the system allows no file of this size (EFBIG).
    """
    if not size:
        return
    if hasattr(os, "posix_fallocate"):  # macOS has none
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
    place = 0
    while place < size:
        place += os.pwrite(descriptor, ZEROS[: size - place], place)


def _system_error(error: Exception) -> OSError | None:
    """The system's error behind an exception: safetensors wraps a full disk in a class of its own and keeps only its text."""
    if isinstance(error, OSError):
        return error
    return OSError(errno.ENOSPC, "no space left on device") if "No space left on device" in str(error) else None


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a hidden name beside `path`; on leaving without an error it is flushed and takes its final name.

    Args:
        path: the final name; its folder is made when absent.

    Raises:
        UserError: no space, no permission.
    """
    staging = path.parent / f"{STAGING}{os.getpid()}-{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield staging
        fsync_file(staging)
        os.replace(staging, path)
        fsync_folder(path.parent)
    except Exception as error:
        if cause := _system_error(error):
            raise as_user_error(cause, path) from error
        raise
    finally:
        staging.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """As `staged_file`, for a folder: everything below it is flushed, then the folder takes its final name.

    A folder already there under the final name is moved aside and deleted after the rename.
    """
    staging = path.parent / f"{STAGING}{os.getpid()}-{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        yield staging
        for folder, _, names in os.walk(staging, topdown=False):
            for name in names:
                fsync_file(Path(folder) / name)
            fsync_folder(Path(folder))
        if path.exists():
            old = path.parent / f"{STAGING}old-{os.getpid()}-{path.name}"
            os.replace(path, old)
            os.replace(staging, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(staging, path)
        fsync_folder(path.parent)
    except Exception as error:
        if cause := _system_error(error):
            raise as_user_error(cause, path) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing."""
    with staged_file(path) as staging:
        staging.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file (indented, UTF-8, no NaN) whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        UserError: it is not there or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise as_user_error(error, path) from error
    except ValueError as error:
        raise UserError(f"not readable as JSON ({error})", str(path), "restore it, or delete it and run again") from error


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file or folder a second name: hard links where the disk allows, copies elsewhere."""

    def one(from_path: str, to_path: str) -> None:
        try:
            os.link(from_path, to_path)
        except OSError:
            shutil.copy2(from_path, to_path)

    if source.is_dir():
        with staged_folder(target) as staging:
            shutil.copytree(source, staging, copy_function=one, dirs_exist_ok=True)
    else:
        with staged_file(target) as staging:
            one(str(source), str(staging))


def sweep_staging(folder: Path) -> None:
    """Delete what a killed writer left half-written in a folder. The caller holds the folder's lock."""
    for leftover in folder.glob(f"{STAGING}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, busy: Callable[[], UserError] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file; the system drops it when the process dies.

    Args:
        path: the lock's file, made when absent.
        busy: makes the error to raise when another process holds the lock; None waits for it instead.

    Raises:
        UserError: what `busy` says, or no permission.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise as_user_error(error, path) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            assert busy is not None
            raise busy() from None
        yield
    finally:
        os.close(descriptor)
