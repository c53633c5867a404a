"""Which languages the texts are in, by py3langid (Lui and Baldwin 2012, https://aclanthology.org/P12-3005) on a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from threading import Thread
from typing import Any

SAMPLE = 300
LEAST_CHARACTERS = 20
"""Shorter texts are guesses: left out unless all are."""


def shares(texts: Sequence[str], most: int = SAMPLE) -> dict[str, float]:
    """The share of each language among some of the texts, commonest first.

    Args:
        texts: any number.
        most: so many of them, evenly spaced, are looked at.

    Returns:
        ISO 639-1 code -> share; languages under 2 % are left out. Empty when there is too little text to tell.
    """
    if _loading:
        _loading.pop().join()
    long = [text for text in texts if len(text) >= LEAST_CHARACTERS]
    sample = long[:: max(1, len(long) // most)][:most]
    if not sample:
        return {}
    counts = Counter(identifier().classify(text)[0] for text in sample)
    return {name: count / len(sample) for name, count in counts.most_common() if count >= 0.02 * len(sample)}


@lru_cache(maxsize=1)
def identifier() -> Any:
    """The model, held once for all who ask: `classify` and `rank` give languages with probabilities that sum to 1."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


_loading: list[Thread] = []


def load() -> None:
    """Begin to load the model, which takes half a second, while other things are done."""
    if not _loading and not identifier.cache_info().currsize:
        _loading.append(Thread(target=identifier, daemon=True))
        _loading[0].start()


def forget() -> None:
    """Let the model go, which takes 75 MB and half a second to load again."""
    identifier.cache_clear()
