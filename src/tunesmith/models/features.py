"""Embed once, use many times: one cache of frozen-base vectors on disk, shared by every run and every purpose.

A vector is found by what made it: the base's and tokenizer's hash, layer, pooling and dtype name the folder, the token ids name the
row. Training on frozen features, the untuned-base baseline, choosing a base, label checks and drift all read the same folder.

Layout: `<cache>/features/<key>/segment-000007.safetensors` holds keys_N (16-byte hashes) and vectors_ND; segments only ever appear whole.
Shapes: N texts, D hidden size, B texts of a batch, L padded tokens.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tunesmith.core.errors import UserError
from tunesmith.core.files import as_user_error, cache, locked, sha256_bytes, sha256_json, staged_file, sweep_staging
from tunesmith.models.catalog import Base, Pooling
from tunesmith.tokens import batching
from tunesmith.tokens.examples import TokenExamples

if TYPE_CHECKING:
    import torch
    from torch import nn

BATCH_TOKENS, BATCH_TOKENS_DEVICE = 2048, 65_536
"""Padded tokens of one forward pass: large enough for full-speed matrix products, small enough to stay in the processor's cache. The second is for
a GPU, which needs many at once to be busy; an estimate, not measured."""
ROOM = 1.5
"""A GPU must have this many times the size of a base's weights free to compute with them: the rest is for states. An estimate."""
CHUNK_BATCHES = 64
"""A segment is written after this many batches, so a killed run keeps what it has computed."""
MOST_BYTES = 4_000_000_000
"""Size of all cached vectors together; the segments not read for longest go first, whichever table they belong to."""
IN_USE_SECONDS = 3600
"""A segment read within this time may be in use by another process and stays."""


@dataclass(frozen=True)
class Vectors:
    """vectors_ND float32 in the order asked for, the table's hash (what a run records), and how many were computed anew."""

    vectors_ND: torch.Tensor
    sha256: str
    computed: int


def cache_folder() -> Path:
    """Where cached vectors lie."""
    return cache() / "features"


def vectors(
    base: Base,
    examples: TokenExamples,
    pooling: Pooling | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    device: str = "cpu",
) -> Vectors:
    """The frozen base's vector of each row, from the cache where it is there.

    Args:
        base: whose last hidden layer is read.
        examples: N rows of tokens; a row of several windows gets the mean of its windows' vectors, so that its logits are the mean of theirs.
        pooling: mean over tokens, or the first token's state. Each is scaled to length 1. None: as the base was trained, else the mean.
        progress: called with (rows done, rows to compute).
        device: where to compute what is missing. Vectors of another kind of device differ in their last bits and have a table of their own.

    Returns:
        The vectors and the hash of exactly this table.

    Raises:
        UserError: the cache cannot be written (no space, no permission).
    """
    import torch

    pooling = pooling or base.pooling or "mean"
    kind = {} if torch.device(device).type == "cpu" else {"device": torch.device(device).type}
    folder = cache_folder() / sha256_json({"base": base.sha256, "layer": -1, "pooling": pooling, "dtype": "float32", "version": 1} | kind)[:32]
    keys_Q = _keys(examples)
    places = {name: place for place, name in enumerate(dict.fromkeys(keys_Q))}
    held = {name for _, names in _segments(folder) for name in names if name in places}
    fresh: dict[bytes, int] = {}
    for sequence, name in enumerate(keys_Q):
        if name not in held:
            fresh.setdefault(name, sequence)
    del held
    if fresh:
        with locked(folder / "lock"):
            sweep_staging(folder)
            _compute(base, examples, pooling, list(fresh), np.fromiter(fresh.values(), np.int64), folder, progress, device)
    table_UD, used = _read(folder, places)
    if fresh:
        _evict(used)
    table_QD = table_UD if len(places) == len(keys_Q) else table_UD[np.fromiter((places[name] for name in keys_Q), np.int64, len(keys_Q))]
    if len(keys_Q) != len(examples):
        rows_N = examples.tokens.rows_N
        table_QD = (np.add.reduceat(table_QD, rows_N[:-1]) / np.diff(rows_N)[:, None]).astype(np.float32)
    vectors_ND = torch.from_numpy(table_QD)
    return Vectors(vectors_ND, sha256_bytes(vectors_ND.numpy().tobytes()), len(fresh))


def _keys(examples: TokenExamples) -> list[bytes]:
    """16 bytes for each sequence's ids: the same text under the same limit has the same key."""
    t = examples.tokens
    types = t.types_T
    out = []
    for start, stop in zip(t.offsets_Q[:-1], t.offsets_Q[1:], strict=True):
        digest = hashlib.blake2b(t.ids_T[start:stop].tobytes(), digest_size=16)
        if types is not None:
            digest.update(types[start:stop].tobytes())
        out.append(digest.digest())
    return out


def _segments(folder: Path) -> Iterator[tuple[Path, list[bytes]]]:
    """Each segment of a table with its keys; its vectors stay on disk. A damaged segment is deleted and will be computed again."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("segment-*.safetensors")):
        try:
            with safe_open(path, "numpy") as file:
                keys_N = file.get_tensor("keys")
                sound = keys_N.dtype == np.uint8 and keys_N.shape == (file.get_slice("vectors").get_shape()[0], 16)
        except (SafetensorError, KeyError, ValueError):
            sound = False
        except FileNotFoundError:  # another process was faster
            continue
        except OSError as error:
            raise as_user_error(error, path) from error
        if not sound:
            path.unlink(missing_ok=True)
            continue
        raw = keys_N.tobytes()
        yield path, [raw[start : start + 16] for start in range(0, len(raw), 16)]


def _read(folder: Path, places: dict[bytes, int]) -> tuple[npt.NDArray[np.float32], set[Path]]:
    """The vectors of some keys, in memory segment by segment.

    Args:
        folder: the table, which holds all of them.
        places: the keys, and where each one's vector goes.

    Returns:
        vectors_UD, and the segments they came from.
    """
    from safetensors import SafetensorError, safe_open

    out_UD: npt.NDArray[np.float32] | None = None
    filled_U, used = np.zeros(len(places), bool), set()
    for path, names in _segments(folder):
        rows = [row for row, name in enumerate(names) if name in places]
        if not rows:
            continue
        try:
            with safe_open(path, "numpy") as file:
                found_ND = file.get_tensor("vectors")
            os.utime(path)
        except (OSError, SafetensorError):  # deleted by another process since its keys were read
            continue
        if out_UD is None:
            out_UD = np.empty((len(places), found_ND.shape[1]), np.float32)
        at = np.fromiter((places[names[row]] for row in rows), np.int64, len(rows))
        out_UD[at], filled_U[at] = found_ND[rows], True
        used.add(path)
    if out_UD is None or not filled_U.all():
        raise UserError("cached vectors were deleted while they were in use", str(folder), "run the same command again: it computes them once more")
    return out_UD, used


def _compute(
    base: Base,
    examples: TokenExamples,
    pooling: Pooling,
    keys: list[bytes],
    sequences: npt.NDArray[np.int64],
    folder: Path,
    progress: Callable[[int, int], None],
    device: str,
) -> None:
    """Embed what is missing, longest texts first (an out-of-memory error then comes at once), one segment a chunk of batches.

    Chunks are cut from the list of missing texts alone: a run killed between two segments goes on with the same batches, bit for bit.
    """
    import torch
    from safetensors.numpy import save_file

    from tunesmith.models import loading

    model = loading.encoder(base)
    place = placed(model, device)
    single, most = examples.sequences(), batch_tokens(place)
    plan = batching.in_order(single.lengths_N[sequences], most // 4, most)[::-1]
    done = 0
    number = len(list(folder.glob("segment-*.safetensors")))
    for start in range(0, len(plan), CHUNK_BATCHES):
        chunk_keys, chunk_vectors = [], []
        for rows in plan[start : start + CHUNK_BATCHES]:
            with torch.inference_mode():
                batch = single.batch(sequences[rows]).to(place)
                chunk_vectors.append(pool(model, batch.inputs, pooling).cpu().numpy())
            chunk_keys += [keys[row] for row in rows]
            done += len(rows)
            progress(done, len(keys))
        table = {"keys": np.frombuffer(b"".join(chunk_keys), np.uint8).reshape(-1, 16), "vectors": np.concatenate(chunk_vectors)}
        while (path := folder / f"segment-{number:06d}.safetensors").exists():
            number += 1
        with staged_file(path) as staging:
            save_file(table, staging)


def placed(model: nn.Module, device: str) -> torch.device:
    """Move a model that only computes to a device, in fp32, if it has room there; else it stays on the CPU.

    Returns:
        Where it is.
    """
    import torch

    place = torch.device(device)
    if place.type == "cuda":
        size = sum(one.numel() * one.element_size() for one in model.parameters())
        place = place if torch.cuda.mem_get_info(place)[0] >= ROOM * size else torch.device("cpu")
    model.to(place)
    return place


def batch_tokens(place: torch.device) -> int:
    """Padded tokens of one forward pass on a device."""
    return BATCH_TOKENS if place.type == "cpu" else BATCH_TOKENS_DEVICE


def pool(model: nn.Module, inputs: dict[str, torch.Tensor], pooling: Pooling) -> torch.Tensor:
    """Vectors of length 1 for a batch.

    Args:
        model: an encoder whose output has `last_hidden_state` (B, L, D).
        inputs: its arguments, `attention_mask` among them.
        pooling: mean over the tokens that are not padding, or the first token.

    Returns:
        vectors_BD.
    """
    import torch

    hidden_BLD = model(**inputs).last_hidden_state.float()
    mask_BL1 = inputs["attention_mask"].unsqueeze(-1).float()
    pooled_BD = hidden_BLD[:, 0] if pooling == "first" else (hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)
    return torch.nn.functional.normalize(pooled_BD, dim=-1)


def _evict(used: set[Path]) -> None:
    """Delete the segments read longest ago, of any table, until all of them fit in MOST_BYTES; never those in use."""
    segments = []
    for path in cache_folder().glob("*/segment-*"):
        with suppress(FileNotFoundError):  # another process was faster
            segments.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in segments)
    for when, size, path in sorted(segments):
        if total <= MOST_BYTES:
            return
        if path not in used and time.time() - when >= IN_USE_SECONDS:
            path.unlink(missing_ok=True)
            total -= size
