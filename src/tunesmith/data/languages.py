"""Which languages the texts are in, by py3langid (Lui and Baldwin 2012, https://aclanthology.org/P12-3005) on a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

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
    import py3langid

    long = [text for text in texts if len(text) >= LEAST_CHARACTERS]
    sample = long[:: max(1, len(long) // most)][:most]
    if not sample:
        return {}
    counts = Counter(py3langid.classify(text)[0] for text in sample)
    return {name: count / len(sample) for name, count in counts.most_common() if count >= 0.02 * len(sample)}
