"""What the texts cover: how many different words, which words of test never occur in train, and which regions of meaning are thin.

Rows come as batches of any number; what is looked at is a sample of bounded size that hashes choose, so neither memory nor the result
depends on how many rows there are or in which order they come. Vectors are handed in; no model is known here.

Shapes: N training vectors, M test vectors, D numbers of a vector, K clusters, T words.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tunesmith.core.errors import counted
from tunesmith.core.sections import Bars, Block, Figures, Lines, Quotes, Section, Series, Words
from tunesmith.core.statistics import wilson
from tunesmith.data.preparation import card

SAMPLE = 20_000
"""Rows of the sample: a share is then known to within 0.7 points (95 %), and texts take 40 MB at most where they are of ASCII characters."""
SAMPLE_TEXT = 2000
"""What is kept of the texts of a row of the sample; of each of them, what `card.text_of` keeps."""
MOST_WORDS = 1_000_000
"""Words that are counted: about 3 s."""
CURVE = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000)
MOST_CLUSTERS = 50
FEWEST_VECTORS = 100
"""Below this there are no regions to speak of."""
EMPTY = 0.2
"""A cluster with less than this part of an even share is nearly empty. This, UNSEEN and FAR are conventions of ours."""
UNSEEN = 0.1
"""A share of test words that train lacks from which it is worth a warning."""
FAR = 0.02
"""So is a share of far test rows that is surely above this; 0.01 is what rows of the same kind have, by the definition of far."""
FAR_PERCENT = 99
MOST_NEAREST = 2000
"""Training rows whose own nearest neighbour is looked for; 20 of them lie beyond the 99th percentile, which so is known well enough."""
EXAMPLES = 3
SHOWN = 20
CHUNK = 512
"""Rows compared at once with all training rows."""

Vectors = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['’][^\W\u3040-\u30ff\u3400-\u9fff]+)*")
"""Letters and digits up to the next character that is neither; an apostrophe inside belongs to it, a Han or kana character is a word alone."""


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return WORD.findall(text.lower().replace("’", "'"))


def sample(batches: Iterable[pa.RecordBatch | pa.Table], most: int = SAMPLE) -> tuple[pa.Table, int]:
    """Choose rows by hash, those of one `together` value as a whole (but for the last value, which may be cut).

    Args:
        batches: rows of any kind (`rows.KINDS`), with whatever columns their schema has; read once.
        most: rows of the sample.

    Returns:
        A table of `unit` (a number for each `together` value, or for the row where it has none), `id`, `source`, `attributes`, `labels` (null
        for rows without), `text` (of all texts of the row but system messages, the first SAMPLE_TEXT characters), in the order of the hashes;
        and how many rows were read. The same rows give the same sample, whatever their order and batches.
    """
    held: list[pa.Table] = []
    count, waiting, bound = 0, 0, 2**64 - 1
    for batch in batches:
        count += batch.num_rows
        held.append(_picked(batch, bound))
        waiting += held[-1].num_rows
        if waiting > 1.5 * most:
            held = [_smallest(held, most)]
            waiting, bound = most, held[0].column("unit")[-1].as_py()
    return _smallest(held, most).drop_columns(["hash"]), count


def _smallest(held: Sequence[pa.Table], most: int) -> pa.Table:
    table = pa.concat_tables(held) if held else SAMPLED.empty_table()
    return table.take(np.lexsort((table.column("hash").to_numpy(), table.column("unit").to_numpy()))[:most])


SAMPLED = pa.schema([
    ("unit", pa.uint64()), ("hash", pa.uint64()), ("id", pa.string()), ("source", pa.string()),
    ("attributes", pa.map_(pa.string(), pa.string())), ("labels", pa.list_(pa.string())), ("text", pa.string()),
])  # fmt: skip


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _picked(batch: pa.RecordBatch | pa.Table, bound: int) -> pa.Table:
    """The rows of a batch whose unit's hash is not above a bound."""
    ids, groups = (batch.column(name).to_pylist() for name in ("id", "together"))
    units = [_hash("row " + one) if group is None else _hash("together " + group) for one, group in zip(ids, groups, strict=True)]
    at = [index for index, unit in enumerate(units) if unit <= bound]
    chosen = batch.take(pa.array(at, pa.int64()))
    names = [name for name in ("messages", *card.ONE_TEXT) if name in batch.schema.names]
    texts = [card.text_of(row)[:SAMPLE_TEXT] for row in chosen.select(names).to_pylist()]
    columns: dict[str, Any] = {name: chosen.column(name) for name in ("id", "source", "attributes")}
    columns["labels"] = chosen.column("labels") if "labels" in batch.schema.names else pa.nulls(len(at), pa.list_(pa.string()))
    columns |= {"unit": [units[index] for index in at], "hash": [_hash(ids[index]) for index in at], "text": texts}
    return pa.table({name: columns[name] for name in SAMPLED.names}, schema=SAMPLED)


def lexical(texts: Iterable[str]) -> dict[str, Any]:
    """How varied the words are.

    Args:
        texts: of the sample; counting ends after MOST_WORDS words.

    Returns:
        `texts`, `words`, `types` (different words); `distinct`: {1, 2, 3: share of different ones among all word n-grams within a text};
        `curve`: [words read, different ones so far], at fixed sizes, as shares and counts of texts of different size do not compare.

    Source: distinct-n: Li et al. 2016 (https://arxiv.org/abs/1510.03055, section 5.2).
    """
    vocabulary: dict[str, int] = {}
    ids, ends = array("i"), array("q")
    for text in texts:
        ids.extend(vocabulary.setdefault(word, len(vocabulary)) for word in words(text))
        ends.append(len(ids))
        if len(ids) >= MOST_WORDS:
            break
    ids_T = np.frombuffer(ids, np.int32) if ids else np.zeros(0, np.int32)  # numbered as they come: the largest so far tells how many there are
    row_T = np.repeat(np.arange(len(ends), dtype=np.int32), np.diff(ends, prepend=0))
    sizes = [size for size in CURVE if size < len(ids_T)] + ([len(ids_T)] if ids else [])
    return {
        "texts": len(ends),
        "words": len(ids_T),
        "types": len(vocabulary),
        "distinct": _distinct(ids_T, row_T, len(vocabulary)),
        "curve": [[size, int(ids_T[:size].max()) + 1] for size in sizes],
    }


def _distinct(ids_T: npt.NDArray[np.int32], row_T: npt.NDArray[np.int32], types: int) -> dict[str, float]:
    """Different n-grams over all, for n = 1, 2, 3. Each n-gram is a number: that of its first n - 1 words, then its last."""
    assert types**3 < 1 << 63, "MOST_WORDS and a text are two million at most"
    out, codes = {}, ids_T.astype(np.int64)
    for n in (1, 2, 3):
        if n > 1:
            codes = codes[:-1] * types
            codes += ids_T[n - 1 :]
        inside = codes[row_T[n - 1 :] == row_T[: len(row_T) - n + 1]] if len(row_T) >= n else codes[:0]
        inside.sort()
        out[str(n)] = (1 + int(np.count_nonzero(inside[1:] != inside[:-1]))) / len(inside) if len(inside) else 0.0
    return out


def unseen(train: Iterable[str], test: Sequence[str]) -> dict[str, Any]:
    """Words of test that never occur in train. Memory goes with the test texts alone; all of train may be streamed.

    Args:
        train, test: texts.

    Returns:
        `words` of test and `share` of them that train lacks, `types` and `types_share`, `rows_share` (test rows with such a word), `examples`.
    """
    said = [words(text) for text in test]
    counts = Counter(word for one in said for word in one)
    missing = set(counts)
    for text in train:
        if not missing:
            break
        missing.difference_update(words(text))
    total = counts.total()
    return {
        "words": total,
        "share": sum(counts[word] for word in missing) / max(1, total),
        "types": len(counts),
        "types_share": len(missing) / max(1, len(counts)),
        "rows_share": sum(not missing.isdisjoint(one) for one in said) / max(1, len(said)),
        "examples": sorted(missing, key=lambda word: (-counts[word], word))[:SHOWN],
    }


def regions(train_ND: Vectors, test_MD: Vectors | None = None, seed: int = 0, clusters: int | None = None) -> dict[str, Any]:
    """Divide the training rows by meaning, and find thin regions and test rows that lie outside.

    Args:
        train_ND: unit vectors of training rows, such as those of `sample`; 50,000 of 384 numbers take about 4 s, and no more are needed.
        test_MD: unit vectors of test rows, or None.
        seed: same seed, same clusters.
        clusters: K; None takes the square root of half the rows (Mardia et al. 1979, Multivariate Analysis, p. 365), MOST_CLUSTERS at most.

    Returns:
        `rows`; `clusters`, largest first, each with `rows`, `share`, `similarity` (mean cosine to its centre), `test_share`, `examples` (indices of
        the rows nearest the centre), `thin` (less than EMPTY of an even share); `far`: `distance` (cosine distance beyond which a test row is
        far: the 99th percentile of training rows' distances to their nearest other row), `rows`, `of`, `share`, `low`, `high` (Wilson, 95 %),
        `examples` (indices of test rows, farthest first). No clusters and no `far` when there are fewer than FEWEST_VECTORS rows.
    """
    N = len(train_ND)
    if N < FEWEST_VECTORS:
        return {"rows": N, "clusters": [], "far": None}
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

    K = clusters or min(MOST_CLUSTERS, max(2, round((N / 2) ** 0.5)))
    # One thread: its products are small, and where other processes want the cores several threads took 17 times the processor time (10,000 rows of 384).
    with threadpool_limits(1):
        model = MiniBatchKMeans(K, random_state=seed, n_init=3).fit(train_ND)
        own_N, test_M = model.labels_, model.predict(test_MD) if test_MD is not None and len(test_MD) else None
    centres_KD: Vectors = model.cluster_centers_ / np.maximum(np.linalg.norm(model.cluster_centers_, axis=1, keepdims=True), 1e-12)
    found = []
    for number in range(K):
        members = np.flatnonzero(own_N == number)
        near = train_ND[members] @ centres_KD[number]
        found.append({
            "rows": len(members), "share": len(members) / N, "similarity": float(near.mean()) if len(members) else 0.0,
            "test_share": None if test_M is None else float((test_M == number).mean()),
            "examples": members[np.argsort(-near, kind="stable")[:EXAMPLES]].tolist(), "thin": bool(len(members) < EMPTY * N / K),
        })  # fmt: skip
    found.sort(key=lambda one: -one["rows"])
    return {"rows": N, "clusters": found, "far": None if test_MD is None or not len(test_MD) else _far(train_ND, test_MD, seed)}


def _far(train_ND: Vectors, test_MD: Vectors, seed: int) -> dict[str, Any]:
    N = len(train_ND)
    looked = np.random.default_rng(seed).permutation(N)[:MOST_NEAREST]
    limit = float(np.percentile(_nearest(train_ND[looked], train_ND, looked), FAR_PERCENT))
    distance_M = _nearest(test_MD, train_ND)
    # Where training rows repeat each other the limit is 0 but for rounding, and rounding alone makes no row far.
    order = np.argsort(-distance_M, kind="stable")
    far = int((distance_M > limit + 1e-6).sum())
    low, high = wilson(far, len(test_MD))
    share = {"share": far / len(test_MD), "low": float(low), "high": float(high)}
    return {"distance": limit, "rows": far, "of": len(test_MD), **share, "examples": order[: min(far, SHOWN)].tolist()}


def _nearest(rows_RD: Vectors, train_ND: Vectors, own_R: Integers | None = None) -> npt.NDArray[np.float32]:
    """Cosine distance of rows to the nearest training row, other than themselves where `own_R` says which they are."""
    out = np.empty(len(rows_RD), np.float32)
    for start in range(0, len(rows_RD), CHUNK):
        alike = rows_RD[start : start + CHUNK] @ train_ND.T
        if own_R is not None:
            alike[np.arange(len(alike)), own_R[start : start + CHUNK]] = -np.inf
        out[start : start + CHUNK] = 1 - alike.max(1)
    return out


def findings(words: Mapping[str, Any] | None, places: Mapping[str, Any]) -> list[str]:
    """What a reviewer should look at, in words.

    Args:
        words: from `unseen`, or None.
        places: from `regions`, or empty where they were not looked for.
    """
    out = []
    if places.get("clusters") == []:
        out.append(f"Regions of meaning take {FEWEST_VECTORS} training rows, there are {places['rows']:,}: what train covers is not known.")
    far = places.get("far")
    if far and far["low"] > FAR:
        share = f"{far['share']:.1%} of {far['of']:,} test rows ({100 * far['low']:.1f} to {100 * far['high']:.1f})"
        out.append(f"{share} are farther from any training row than 99 % of the training rows are: train does not cover them. Add rows like them.")
    if words and words["share"] > UNSEEN:
        shown = ", ".join(f"`{word}`" for word in words["examples"][:EXAMPLES])
        out.append(f"{words['share']:.0%} of the words of test never occur in train, such as {shown}: the two may come from different sources.")
    thin = [one for one in places.get("clusters", ()) if one["thin"]]
    if thin:
        held = f"{sum(one['rows'] for one in thin):,} of {places['rows']:,} training rows"
        tested = f" and {sum(one['test_share'] for one in thin):.1%} of the test rows" if thin[0]["test_share"] is not None else ""
        regions = f"{counted(len(thin), 'region')} of {len(places['clusters'])} nearly empty, with {held}{tested}"
        out.append(f"{regions}: add rows there, or leave them out on purpose.")
    return out


def section(
    lexical: Mapping[str, Any], words: Mapping[str, Any] | None, places: Mapping[str, Any], texts: Mapping[int, str], tests: Mapping[int, str]
) -> Section:
    """A section of the report.

    Args:
        lexical: from `lexical`. words: from `unseen`, or None. places: from `regions`, or empty.
        texts, tests: by the indices of `regions`: the texts of its training and of its test rows.
    """
    distinct = lexical["distinct"]
    blocks: list[Block] = [Words(text, "warn") for text in findings(words, places)]
    items = [(f"{lexical['types']:,}", "different words", f"of {lexical['words']:,} in {lexical['texts']:,} training texts")]
    items += [(f"{100 * distinct[n]:.1f} %", name, "of those read") for n, name in (("2", "different pairs of words"), ("3", "different triples of words"))]
    if words:
        few = f"{words['rows_share']:.0%} of the test rows have one"
        items.append((f"{100 * words['share']:.1f} %", "test words never in train", few))
    blocks.append(Figures(items))
    if len(lexical["curve"]) > 1:
        sizes, types = ([float(point[at]) for point in lexical["curve"]] for at in (0, 1))
        caption = "How the vocabulary grows; compare data sets at one number of words"
        blocks.append(Lines([Series("different words", sizes, types)], "words read", "different words", caption, log_x=True))
    if words and words["examples"]:
        blocks.append(Words("Commonest words of test that train lacks: " + ", ".join(f"`{word}`" for word in words["examples"]) + "."))
    if not places or not places["clusters"]:
        return Section("coverage", "What the texts cover", blocks)
    shares = [100 * one["share"] for one in places["clusters"]]
    names = [" ".join(texts[one["examples"][0]].split())[:60] if one["examples"] else "(empty)" for one in places["clusters"]]
    caption = "Regions of meaning (k-means), each by the training row nearest its centre"
    blocks.append(Bars(names, shares, "training rows, %", caption=caption))
    thin = [one for one in places["clusters"] if one["thin"] and one["examples"]]
    if thin:
        items_of = [[("training rows", f"{one['rows']:,}"), *(("text", texts[at]) for at in one["examples"])] for one in thin]
        blocks.append(Quotes(items_of, "Nearly empty regions, by the rows nearest their centres"))
    if places["far"] and places["far"]["examples"]:
        blocks.append(Quotes([[("text", tests[at])] for at in places["far"]["examples"]], "Test rows far from any training row, farthest first"))
    return Section("coverage", "What the texts cover", blocks)
