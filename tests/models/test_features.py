"""The cache of a frozen base's vectors: what is read of it, what it gives back, and what goes when it is full."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch

from tunesmith.models import catalog, features
from tunesmith.tokens import encode, tokenization
from tunesmith.tokens.examples import Targets, TokenExamples

TEXTS = [f"the {noun} in place {number}" for noun in ("rose", "leaf", "sky") for number in range(20)]


class Room:
    """A base with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.base = catalog.resolve(catalog.ModelSettings(base=str(folder)))
        self.reader = tokenization.load(self.base.folder)

    def vectors(self, texts: list[str], limit: int = 64) -> features.Vectors:
        tokens = encode.encode(self.reader, texts, None, limit, "windows")
        return features.vectors(self.base, TokenExamples(tokens, Targets(None), self.reader.pad_id))

    def segments(self) -> list[Path]:
        return sorted(features.cache_folder().glob("*/segment-*"))


@pytest.fixture
def room(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "BATCH_TOKENS", 40)
    monkeypatch.setattr(features, "CHUNK_BATCHES", 2)
    return Room(tiny_base)


def test_a_warm_cache_gives_the_bits_of_a_cold_one(room: Room) -> None:
    """Whatever part was there before, and in whatever order and however often texts are asked for."""
    cold = room.vectors(TEXTS)
    assert cold.computed == 60 and len(room.segments()) > 5
    warm = room.vectors(TEXTS)
    assert warm.computed == 0 and torch.equal(warm.vectors_ND, cold.vectors_ND) and warm.sha256 == cold.sha256
    some = [5, 41, 5, 0, 59]
    again = room.vectors([TEXTS[row] for row in some] + ["a new one"])
    assert again.computed == 1 and torch.equal(again.vectors_ND[:5], cold.vectors_ND[some])


def test_windows_of_a_text_are_averaged_and_shared(room: Room) -> None:
    long = " ".join(TEXTS[:4])
    made = room.vectors([long, TEXTS[0], long], 12)
    tokens = encode.encode(room.reader, [long], None, 12, "windows")
    each = features.vectors(room.base, TokenExamples(tokens, Targets(None), room.reader.pad_id).sequences())
    assert each.computed == 0 and len(each.vectors_ND) > 2
    assert torch.allclose(made.vectors_ND[0], each.vectors_ND.mean(0), atol=1e-6) and torch.equal(made.vectors_ND[0], made.vectors_ND[2])


def test_only_the_segments_that_hold_a_wanted_vector_are_read(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.vectors(TEXTS)
    read: list[str] = []
    opened = safetensors.safe_open

    class Watched:
        def __init__(self, path: Path, kind: str) -> None:
            self.file = opened(path, kind)

        def __enter__(self) -> Watched:
            self.inner = self.file.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.__exit__(*error)

        def get_tensor(self, name: str) -> Any:
            read.append(name)
            return self.inner.get_tensor(name)

        def get_slice(self, name: str) -> Any:
            return self.inner.get_slice(name)

    monkeypatch.setattr(safetensors, "safe_open", Watched)
    room.vectors(TEXTS[:1])
    assert read.count("vectors") == 1 and read.count("keys") == 2 * len(room.segments())


@pytest.mark.parametrize("damage", ["cut", "no keys", "keys of another length"])
def test_a_damaged_segment_is_computed_again(room: Room, damage: str) -> None:
    from safetensors.numpy import load_file, save_file

    cold = room.vectors(TEXTS)
    path = room.segments()[1]
    whole = load_file(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        save_file({"vectors": whole["vectors"]} | ({} if damage == "no keys" else {"keys": whole["keys"][:-1]}), path)
    mended = room.vectors(TEXTS)
    assert mended.computed == len(whole["keys"]) and float((mended.vectors_ND - cold.vectors_ND).abs().max()) < 1e-6
    assert room.vectors(TEXTS).computed == 0


def test_a_full_cache_loses_what_was_not_read_for_longest_of_the_table_in_use_too(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.vectors(TEXTS)
    first = room.segments()
    for path in first:
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    old = {path for path in first if path.stat().st_mtime < time.time() - 3600}
    room.vectors(TEXTS[:1])  # one segment is fresh again
    read_again = old - {path for path in first if path.stat().st_mtime < time.time() - 3600}
    assert len(read_again) == 1
    monkeypatch.setattr(features, "MOST_BYTES", 0)
    made = room.vectors(["a text that was never there", TEXTS[30]])
    assert made.computed == 1
    left = set(room.segments())
    used = {path for path in first if path in left} - read_again
    assert read_again < left and len(used) == 1 and len(left) == 3  # the fresh one, the one just read, the one just written
    assert np.isfinite(made.vectors_ND.numpy()).all()
