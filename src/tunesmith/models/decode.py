"""Texts written token by token, many at a time: greedy or drawn, each row ending where it should.

Nucleus sampling: Holtzman et al. 2020 (https://arxiv.org/abs/1904.09751, section 3.1); repetition penalty: Keskar et al. 2019
(https://arxiv.org/abs/1909.05858, section 4.1), over the prompt and what was written, as transformers has it.
A row's text depends on its prompt, its number and the settings alone, never on the rows beside it: each row draws from its own stream.

Shapes: R rows of a batch, V vocabulary, W the most probable tokens looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tunesmith.core.errors import UserError
from tunesmith.models import kv_cache

CACHE_TOKENS = 32_768
"""Places that the rows of a batch may take in memory together, prompts and answers: 0.8 GB in fp32 for 24 layers with 128 key and 128 value numbers."""
MOST_ROWS = 256
"""Rows of a batch, so that their logits stay bounded too."""
NUCLEUS = 256
"""Tokens sorted first for `top_p`; only rows whose nucleus is wider sort the whole vocabulary."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: most tokens of an answer, its end token included.
        temperature: 0 takes the most probable token; 1 draws from the model's own probabilities, less sharpens them.
        top_p: draw from the fewest tokens that have this probability together. 1: from all.
        top_k: draw from this many. 0: from all.
        repetition_penalty: the logits of tokens that were there before are divided by it (multiplied where negative). 1: none.
        seed: same seed, same texts.

    Raises:
        UserError: a value outside its range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        rules = (
            ("max_new_tokens", self.max_new_tokens >= 1, "must be at least 1"),
            ("temperature", 0 <= self.temperature <= 100, "must lie in [0, 100]"),
            ("top_p", 0 < self.top_p <= 1, "must lie above 0 and at most at 1"),
            ("top_k", self.top_k >= 0, "must be at least 0, which means all tokens"),
            ("repetition_penalty", 0 < self.repetition_penalty <= 100, "must lie above 0 and at most at 100; 1 means none"),
            ("seed", self.seed >= 0, "must be at least 0"),
        )
        for name, good, rule in rules:
            if not good:
                raise UserError(f"`{name}={getattr(self, name)}` {rule}", "sampling", f"leave {name} out for {getattr(Sampling, name)}")


@dataclass(frozen=True)
class Generated:
    """One row's new tokens, without the end token, and whether there was one (else a limit ended it)."""

    ids: list[int]
    ended: bool


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    ends: Collection[int],
    settings: Sampling,
    most_places: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Go on after each prompt.

    Args:
        model: a causal language model in eval mode, bare or wrapped by PEFT.
        prompts: token ids of each row, at least one.
        ends: ids that end a text.
        settings: how tokens are chosen.
        most_places: the base's limit: a row's prompt and answer never have more tokens together.
        progress: called with (rows done, rows).

    Returns:
        What each row got, in the order given. A prompt that fills the limit gets nothing.
    """
    texts: list[list[int]] = [[] for _ in prompts]
    rooms = _rooms(prompts, settings, most_places)
    done = rooms.count(0)
    for step in steps(model, prompts, ends, settings, most_places):
        before = done
        for row, one in step:
            texts[row].append(one)
            done += one in ends or len(texts[row]) == rooms[row]
        if progress is not None and done > before:
            progress(done, len(prompts))
    stopped = [bool(ids) and ids[-1] in ends for ids in texts]
    return [Generated(ids[:-1] if ended else ids, ended) for ids, ended in zip(texts, stopped, strict=True)]


def steps(model: Any, prompts: Sequence[Sequence[int]], ends: Collection[int], settings: Sampling, most_places: int) -> Iterator[list[tuple[int, int]]]:
    """As `generate`, told step by step.

    Yields:
        (row, id) of each row that got a token, end tokens included. A long batch is divided by `CACHE_TOKENS`, so its rows may come one
        part after the other.
    """
    assert all(prompts), "an empty prompt has no next token"
    ends = frozenset(ends)
    rooms = _rooms(prompts, settings, most_places)
    for rows in divided([len(prompt) for prompt in prompts], rooms):
        yield from _batch(model, rows, prompts, rooms, ends, settings)


def divided(lengths: Sequence[int], rooms: Sequence[int]) -> Iterator[list[int]]:
    """Rows that are written together: of like length, and within `CACHE_TOKENS` even if all go to their limit.

    Args:
        lengths: tokens of each prompt.
        rooms: most new tokens of each; rows of 0 are left out.
    """
    # The longest first: what memory the whole takes shows at once.
    order = sorted((row for row in range(len(lengths)) if rooms[row]), key=lambda row: (-lengths[row], row))
    start = 0
    while start < len(order):
        stop, places = start + 1, lengths[order[start]] + rooms[order[start]]
        while stop < len(order) and stop - start < MOST_ROWS:
            places = max(places, lengths[order[start]] + rooms[order[stop]])
            if places * (stop + 1 - start) > CACHE_TOKENS:
                break
            stop += 1
        yield order[start:stop]
        start = stop


def _rooms(prompts: Sequence[Sequence[int]], settings: Sampling, most_places: int) -> list[int]:
    return [max(0, min(settings.max_new_tokens, most_places - len(prompt))) for prompt in prompts]


def _batch(
    model: Any, rows: list[int], prompts: Sequence[Sequence[int]], rooms: list[int], ends: frozenset[int], settings: Sampling
) -> Iterator[list[tuple[int, int]]]:
    past = kv_cache.make(model)
    logits_RV = past.read([prompts[row] for row in rows])
    streams = [np.random.default_rng([settings.seed, row]) for row in rows] if settings.temperature else []
    seen_RV = _seen(logits_RV, [prompts[row] for row in rows]) if settings.repetition_penalty != 1 else None
    made = 0
    while True:
        drawn = [stream.random() for stream in streams]
        with torch.inference_mode():
            ids_R = choose(logits_RV, settings, torch.tensor(drawn, dtype=torch.float64, device=logits_RV.device), seen_RV)
        ids: list[int] = ids_R.tolist()
        made += 1
        yield list(zip(rows, ids, strict=True))
        going = [place for place, (row, one) in enumerate(zip(rows, ids, strict=True)) if one not in ends and made < rooms[row]]
        if not going:
            return
        if len(going) < len(rows):
            past.keep(going)
            rows, streams = [rows[place] for place in going], [streams[place] for place in going] if streams else []
            ids_R = ids_R[going]
            seen_RV = None if seen_RV is None else seen_RV[going]
        if seen_RV is not None:
            seen_RV[torch.arange(len(rows), device=ids_R.device), ids_R] = True
        logits_RV = past.advance(ids_R)


def _seen(logits_RV: torch.Tensor, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    seen_RV = torch.zeros(logits_RV.shape, dtype=torch.bool, device=logits_RV.device)
    for row, prompt in enumerate(prompts):
        seen_RV[row, torch.tensor(prompt, device=logits_RV.device)] = True
    return seen_RV


def choose(logits_RV: torch.Tensor, settings: Sampling, drawn_R: torch.Tensor, seen_RV: torch.Tensor | None = None) -> torch.Tensor:
    """The next token of each row.

    Worked by hand: probabilities [1/2, 3/10, 1/5] with top_p 0.8 leave the first two, 5/8 and 3/8 of what is left; a draw of 0.6 falls on the
    first, one of 0.7 on the second.

    Args:
        logits_RV: fp32.
        settings: how to choose.
        drawn_R: fp64, of each row's own stream, even in [0, 1); not read where temperature is 0.
        seen_RV: tokens that the repetition penalty falls on.

    Returns:
        ids_R.
    """
    if seen_RV is not None:
        punished_RV = torch.where(logits_RV > 0, logits_RV / settings.repetition_penalty, logits_RV * settings.repetition_penalty)
        logits_RV = torch.where(seen_RV, punished_RV, logits_RV)
    if not settings.temperature:
        return logits_RV.argmax(-1)
    # The largest logit is 0 before it is divided, so that no temperature overflows.
    scaled_RV = (logits_RV - logits_RV.amax(-1, keepdim=True)) / settings.temperature
    V = scaled_RV.shape[1]
    if settings.top_k:
        top_RW, ids_RW = scaled_RV.topk(min(settings.top_k, V))
        return _drawn(top_RW.softmax(-1), ids_RW, settings.top_p, drawn_R)
    chances_RV = scaled_RV.softmax(-1)
    if settings.top_p == 1:
        return _drawn(chances_RV, None, 1.0, drawn_R)
    chances_RW, ids_RW = chances_RV.topk(min(NUCLEUS, V))
    out_R = _drawn(chances_RW, ids_RW, settings.top_p, drawn_R)
    wide_R = chances_RW.sum(-1) < settings.top_p
    if V > NUCLEUS and bool(wide_R.any()):
        sorted_RV, ids_RV = chances_RV[wide_R].sort(descending=True, stable=True)
        out_R[wide_R] = _drawn(sorted_RV, ids_RV, settings.top_p, drawn_R[wide_R])
    return out_R


def _drawn(chances_RW: torch.Tensor, ids_RW: torch.Tensor | None, top_p: float, drawn_R: torch.Tensor) -> torch.Tensor:
    """Draw from falling probabilities (or from all, in any order, where `ids_RW` is None), cut behind `top_p`."""
    chances_RW = chances_RW.double()
    if top_p < 1:
        before_RW = chances_RW.cumsum(-1) - chances_RW
        chances_RW = chances_RW.masked_fill(before_RW >= top_p, 0)
    sums_RW = chances_RW.cumsum(-1)
    places_R1 = torch.searchsorted(sums_RW, drawn_R[:, None] * sums_RW[:, -1:], right=True).clamp(max=sums_RW.shape[1] - 1)
    return places_R1[:, 0] if ids_RW is None else ids_RW.gather(1, places_R1)[:, 0]
