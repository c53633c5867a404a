"""Which side a row is on: a hash of its group (or its text) decides, so a row stays on its side when the data grow."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from tunesmith.data import duplicates, rows


def position(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on the name and the seed alone (64 bits of SHA-256)."""
    digest = hashlib.sha256(f"{seed}\x1f{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def side(name: str, valid: float, test: float, seed: int) -> str:
    """train, valid or test: where a name's position lies. Test is cut first, so a row of test stays there whatever valid is."""
    at = position(name, seed)
    return "test" if at < test else "valid" if at < test + valid else "train"


def assign(table: pa.Table, valid: float, test: float, seed: int) -> dict[str, pa.Table]:
    """Divide rows into train, valid and test.

    Args:
        table: rows; those with one `together` value go to one side, others by their text.
        valid, test: shares in expectation; 0 leaves that side out.
        seed: another number, another division.

    Returns:
        A table for each side with a share.
    """
    together = rows.strings(table, "together")
    sides: dict[str, list[int]] = {one: [] for one, share in (("train", 1.0), ("valid", valid), ("test", test)) if share}
    for index, (group, name) in enumerate(zip(together, duplicates.keys(table), strict=True)):
        sides[side(group if group is not None else name, valid, test, seed)].append(index)
    return {name: table.take(pa.array(indices, pa.int64())) for name, indices in sides.items()}
