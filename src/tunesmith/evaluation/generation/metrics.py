"""Metrics of generated text and of likelihoods, all of them functions of one row of column sums.

As in `classification`: each row becomes a vector of statistics (`score`, `likelihood`), and the metrics of a test set depend
only on the sum of those vectors (`metrics`). BLEU and chrF are the corpus figures, so a bootstrap resample adds up n-gram
counts and never reads a text again. With sacrebleu's and rouge-score's own settings (named in `signatures`) the figures equal
theirs. We differ in one thing: the words of ROUGE are letters and digits of any script (`words`), where rouge-score knows only
a-z and 0-9 and so finds nothing in Greek and half of French; on ASCII both are the same.

Exact match compares texts after NFC, without space at the ends and with any run of white space as one space; case counts.
ROUGE is the F-measure of a row, averaged over rows, without stemming. No model is needed here, and none is loaded.

Legend: N rows, K columns of sums (`COLUMNS`), ... any leading axes (none for the figure, B for resamples).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.errors import UserError, some

Floats = NDArray[np.float64]

GENERATED = ("rouge_l", "rouge_1", "rouge_2", "exact_match", "bleu", "chrf", "length_ratio")
LIKELIHOOD = ("nll", "perplexity")
LESS_IS_BETTER = frozenset({"nll", "perplexity", "forgetting"})
SHARES = frozenset({"rouge_l", "rouge_1", "rouge_2", "exact_match", "ended"})
"""Metrics in [0, 1]. BLEU and chrF keep the 0 to 100 in which the field quotes them."""

ROW, EXACT, ENDED, NLL, TOKENS = range(5)
ROUGE, WORDS, BLEU, CHRF = slice(5, 8), slice(8, 10), slice(10, 20), slice(20, 38)
COLUMNS = 38
"""K: one a row; exact; ended; nats; tokens; ROUGE-1, -2, -L; words of answer and reference; BLEU: lengths of answer and
reference, matches and totals of 1- to 4-grams; chrF: answer's, reference's and common n-grams for each of 6 orders."""

ORDERS = 4
"""n-grams of BLEU. Source: Papineni et al. 2002 (ACL)."""
BETA = 2
"""Weight of recall in chrF. Source: Popović 2015 (WMT); sacrebleu's default."""

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that set no space between words: there each character counts as a word."""


@dataclass(frozen=True)
class TextScores:
    """What is left of one model's answers once they are scored."""

    sums_NK: Floats
    """The statistics of each row, columns as `COLUMNS` says; zeros where nothing was measured."""
    names: tuple[str, ...]
    """The metrics that these columns can give."""


def normalised(text: str) -> str:
    """A text as exact match compares it; see the top of the file."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def words(text: str) -> list[str]:
    """The words of ROUGE and of the length ratio: lower case, runs of letters, digits and marks; see `UNSPACED`."""
    found: list[str] = _pattern().findall(unicodedata.normalize("NFC", text).lower())
    return found


@cache
def _pattern() -> Any:
    import regex

    return regex.compile(rf"[{UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{UNSPACED}]]+", regex.V1)


class _Words:
    """`words` in the form that rouge-score takes."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def bleu_tokenizer(references: Sequence[str]) -> str:
    """sacrebleu's tokenizer for a language: `13a`, or where most letters belong to unspaced scripts `zh` (only Chinese) or `char`."""
    import regex

    text = "".join(references)
    letters, unspaced = (len(regex.findall(pattern, text)) for pattern in (r"\p{L}", f"[{UNSPACED}]"))
    if 2 * unspaced <= letters:
        return "13a"
    return "zh" if unspaced == len(regex.findall(r"\p{Han}", text)) else "char"


def signatures(tokenizer: str) -> dict[str, str]:
    """How BLEU, chrF and ROUGE were computed, in the form in which papers quote it."""
    from importlib.metadata import version

    from sacrebleu import __version__

    return {
        "bleu": f"nrefs:1|case:mixed|eff:no|tok:{tokenizer}|smooth:exp|version:{__version__}",
        "chrf": f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{__version__}",
        "rouge": f"rouge-score {version('rouge-score')}, F-measure, no stemming, words of any script",
    }


def score(
    references: Sequence[str],
    answers: Sequence[str],
    *,
    ended: Sequence[bool] | None = None,
    nll: NDArray[Any] | None = None,
    tokens: NDArray[Any] | None = None,
    tokenizer: str | None = None,
    rows: Sequence[str] | None = None,
) -> TextScores:
    """Score one model's answers.

    An empty answer scores 0 everywhere. A row whose reference holds no letter and no digit (an emoji) scores 0 in ROUGE, as
    nothing there can be matched; exact match and chrF still see it.

    Args:
        references, answers: N texts each.
        ended: whether each answer stopped by itself (end token), not at the limit of tokens; None when not known.
        nll, tokens: as `likelihood`, of the references; None when not measured.
        tokenizer: a tokenizer of sacrebleu's BLEU; None: `bleu_tokenizer`.
        rows: ids for messages; None numbers the rows from 1.

    Raises:
        UserError: an empty reference, against which no answer can be right or wrong.
    """
    assert len(references) == len(answers) > 0, (len(references), len(answers))
    ids = [str(i + 1) for i in range(len(references))] if rows is None else rows
    empty = [name for name, text in zip(ids, references, strict=True) if not text.strip()]
    if empty:
        raise UserError(
            f"{len(empty)} of {len(references)} references are empty (rows {some(empty, 5)}): no answer can be held against nothing",
            "the rows that the model is measured on",
            "fill in the answers of these rows, or leave the rows out",
        )
    sums_NK = np.zeros((len(references), COLUMNS))
    if nll is not None and tokens is not None:
        sums_NK += likelihood(nll, tokens).sums_NK
    sums_NK[:, ROW] = 1
    sums_NK[:, EXACT] = [normalised(a) == normalised(r) for r, a in zip(references, answers, strict=True)]
    sums_NK[:, ROUGE] = _rouge(references, answers)
    sums_NK[:, WORDS] = [[_length(a), _length(r)] for r, a in zip(references, answers, strict=True)]
    sums_NK[:, BLEU], sums_NK[:, CHRF] = _counts(references, answers, tokenizer or bleu_tokenizer(references))
    names = [*GENERATED]
    if sums_NK[:, BLEU][:, 1].max() < ORDERS:
        names.remove("bleu")  # not even a perfect answer would score: no reference has a 4-gram
    if ended is not None:
        sums_NK[:, ENDED] = np.asarray(ended, np.float64)
        names.append("ended")
    return TextScores(sums_NK, (*names, *(LIKELIHOOD if nll is not None else ())))


def likelihood(nll: NDArray[Any], tokens: NDArray[Any]) -> TextScores:
    """Statistics of rows of which only the likelihood is known (documents).

    Args:
        nll: (N,) negative log-likelihood of each row, summed over its tokens, in nats.
        tokens: (N,) tokens that the sum runs over; a row with none (cut off whole) counts for nothing.

    Raises:
        UserError: a value that is not finite, or no token at all.
    """
    assert nll.shape == tokens.shape and nll.ndim == 1 and len(nll) > 0 and tokens.min() >= 0, (nll.shape, tokens.shape)
    broken = int((~np.isfinite(nll)).sum())
    if broken:
        raise UserError(
            f"the loss of {broken} of {len(nll)} rows is not a finite number",
            "the rows that the model is measured on",
            "train again with a lower `train.learning_rate` or with `train.precision: fp32`",
        )
    if not tokens.any():
        raise UserError("no row has a token to be measured on", "the rows that the model is measured on", "raise the limit of tokens, or give longer texts")
    sums_NK = np.zeros((len(nll), COLUMNS))
    sums_NK[:, ROW], sums_NK[:, NLL], sums_NK[:, TOKENS] = 1, nll, tokens
    return TextScores(sums_NK, LIKELIHOOD)


def _length(text: str) -> int:
    """Words; a text of signs alone counts as one, so that the ratio of lengths is defined."""
    return len(words(text)) or bool(text.strip())


def _rouge(references: Sequence[str], answers: Sequence[str]) -> Floats:
    """F-measures of ROUGE-1, -2 and -L, (N, 3). Source: Lin 2004 (Text Summarization Branches Out)."""
    from rouge_score.rouge_scorer import RougeScorer

    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(kinds, tokenizer=_Words())  # a tokenizer of ours leaves no place for its stemmer: it is off
    found = [scorer.score(reference, answer) for reference, answer in zip(references, answers, strict=True)]
    return np.array([[one[kind].fmeasure for kind in kinds] for one in found])


def _counts(references: Sequence[str], answers: Sequence[str], tokenizer: str) -> tuple[Floats, Floats]:
    """n-gram counts of BLEU (N, 10) and chrF (N, 18), in sacrebleu's order."""
    from sacrebleu import metrics as sacrebleu

    # No public method gives the counts of each row of chrF; an oracle test notices when this one changes.
    # force: a text that looks tokenized already is the user's own, and a warning on stderr would help nobody.
    made = sacrebleu.BLEU(tokenize=tokenizer, force=True), sacrebleu.CHRF()
    bleu, chrf = (np.array(metric._extract_corpus_statistics(list(answers), [list(references)]), np.float64) for metric in made)
    return bleu, chrf


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros(np.broadcast_shapes(above.shape, below.shape)), where=below > 0)


def metrics(sums: Floats) -> dict[str, Floats]:
    """All metrics from sums of rows; those not measured come out as 0 (see `TextScores.names`).

    Args:
        sums: (..., K), weighted sums of the rows of a `TextScores`.

    Returns:
        Each metric (...,). exact_match, rouge_*, ended: shares of rows or of 1. bleu, chrf: 0 to 100. nll: nats a token;
        perplexity: its exp. length_ratio: words written / words of the references.
    """
    rows = sums[..., ROW]
    rouge = _ratio(sums[..., ROUGE], rows[..., None])
    written, wanted = np.moveaxis(sums[..., WORDS], -1, 0)
    nll = _ratio(sums[..., NLL], sums[..., TOKENS])
    return {
        "rouge_l": rouge[..., 2],
        "rouge_1": rouge[..., 0],
        "rouge_2": rouge[..., 1],
        "exact_match": _ratio(sums[..., EXACT], rows),
        "bleu": bleu(sums[..., BLEU]),
        "chrf": chrf(sums[..., CHRF]),
        "length_ratio": _ratio(written, wanted),
        "ended": _ratio(sums[..., ENDED], rows),
        "nll": nll,
        "perplexity": np.exp(np.minimum(nll, 700.0)),  # beyond it a float overflows
    }


def bleu(counts: Floats) -> Floats:
    """Corpus BLEU, 0 to 100, smoothed as sacrebleu does by default: the k-th order without a match counts as 1 / 2^k matches.

    Args:
        counts: (..., 10): length of answers, of references, matches of 1- to 4-grams, n-grams of the answers.

    Source: Papineni et al. 2002, equations 1 to 3; smoothing: Chen and Cherry 2014, method 3; sacrebleu 2.6.
    """
    written, wanted, right, total = counts[..., 0], counts[..., 1], counts[..., 2 : 2 + ORDERS], counts[..., 2 + ORDERS :]
    missing = right == 0
    precision = _ratio(np.where(missing, 0.5 ** np.cumsum(missing, -1), right), total)
    defined = (total > 0).all(-1) & (right > 0).any(-1)
    mean = np.exp(np.log(np.where(np.expand_dims(defined, -1), precision, 1.0)).mean(-1))
    short = np.exp(np.minimum(0.0, 1 - _ratio(wanted, written)))
    return np.where(defined, 100 * short * mean, 0.0)


def chrf(counts: Floats) -> Floats:
    """Corpus chrF, 0 to 100: mean precision and recall over the orders that both sides have, then F with beta 2.

    Args:
        counts: (..., 18): for each order n-grams of the answers, of the references, common ones.

    Source: Popović 2015; sacrebleu 2.6 without epsilon smoothing.
    """
    written, wanted, right = (counts[..., at::3] for at in range(3))
    both = (written > 0) & (wanted > 0)
    precision, recall = (_ratio((_ratio(right, below) * both).sum(-1), both.sum(-1)) for below in (written, wanted))
    return 100 * _ratio((1 + BETA**2) * precision * recall, BETA**2 * precision + recall)


def values(scores: TextScores) -> dict[str, float]:
    """The metrics of one model as plain numbers; names and meaning as `metrics`."""
    found = metrics(scores.sums_NK.sum(0))
    return {name: float(found[name]) for name in scores.names}


def by_row(scores: TextScores, metric: str) -> Floats:
    """A metric of each row alone (N,), for distributions and for choosing samples."""
    assert metric in scores.names, metric
    return metrics(scores.sums_NK)[metric]


def same_tokens(first: TextScores, second: TextScores) -> bool:
    """Whether two models' losses run over the same tokens; nats a token of different tokenizers cannot be compared."""
    return bool((first.sums_NK[:, TOKENS] == second.sums_NK[:, TOKENS]).all())


def shared(models: Mapping[str, TextScores], first: str, second: str) -> list[str]:
    """The metrics in which two models can be compared; neither a longer answer nor one that ended is better for it."""
    there = models[second].names if same_tokens(models[first], models[second]) else set(models[second].names) - set(LIKELIHOOD)
    return [name for name in models[first].names if name in there and name not in ("length_ratio", "ended")]
