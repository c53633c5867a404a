"""The data room on a million rows, and beside the same job written with `datasets`, datasketch and transformers.

    python benchmarks/data.py FOLDER [--rows 1000000] [--rounds 3] [--peer-python VENV/bin/python] [--only ours peer peer-plain peer-exact apart]
    python benchmarks/data.py FOLDER --near                        near-duplicates and leaks found, against all pairs compared one by one
    python benchmarks/data.py FOLDER --validate [--validate-mb 2000]   `tunesmith check` of a large file
    python benchmarks/data.py FOLDER --dialogues [--peer-rows 100000] [--rounds 3]   dialogues as tokens of which the answers are learnt
    python benchmarks/data.py FOLDER --profile [--rows 100000]     where ours spends its time (cProfile, which slows small functions most)

FOLDER gets the generated rows, once: JSON lines of a text and one of 20 labels. Nine words of ten are whole words of the starter's vocabulary, drawn by
Zipf's law, so that texts have as many tokens as English has and count as English; the tenth is made of syllables. 200 characters on average; 2 % are equal
to an earlier row, 3 % but for one to three characters; 5 % have white space to mend, 1 % were decoded wrongly, 10 % hold a number, 1 % an e-mail address
and 1 % a phone number.

ours     tunesmith.data.preparation.prepare.prepare (clean: unicode, whitespace; equal rows; near-duplicates from 0.8; split by hash), then the tokens of
         train as the stage `train` makes them. `read` is all up to a row's signature, by this process and its helpers; `compare` finds near-duplicates.
apart    the language filter and the report of personal data, on --rows-apart rows: rows/s of the step alone and of a preparation with it.
peer     on --peer-rows rows, in turn with ours: `datasets` 5 (map in batches, two processes), ftfy.fix_text, equal rows by xxh128, MinHash(num_perm=128) of
         the 5-grams by MinHash.bulk with xxh32, MinHashLSH(threshold=0.8), train_test_split twice, transformers' fast tokenizer. What its index names goes
         unverified (its 9 bands of 13 name 40 % of the pairs that are 0.8 alike), its rows are unchecked, and it keeps no account of what was left out.
         Its environment: pip install "datasets>=5,<6" datasketch ftfy jinja2 "transformers>=5,<6" -c constraints.txt
peer-plain   with MinHash's own hash, SHA-1, as its documentation has it
peer-exact   with the bands that ours has, which name 99.8 % of those pairs, and each of them verified: what ours promises
--dialogues: each two rows are a question and its answer, written by the ChatML template of starter/scribe. ours: from prepared rows to ids on disk, with what
is learnt. peer: `datasets` 5 (map in batches, two processes) over transformers' apply_chat_template of the question and of both, as TRL 1.16 finds an answer's
tokens where a template does not mark them (it takes rows one by one), stored too.

Each measurement is a process of its own, A B A B; medians are printed. Seconds are wall time without imports, memory is the process's VmHWM, ours with
that of the helpers at work at the same time, the peer's with the peak of its largest worker behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

CHARACTERS, LABELS, CHUNK, POOL = 200, 20, 10_000, 50_000
"""Of a text on average; how many; rows made at once; earlier rows that copies are drawn from."""
THRESHOLD = 0.8
NEAR_TEXTS, LEAK_TEXTS = 3_000, 1_000
"""Texts of the quality's rows before copies, and rows of the user's test file."""


# --- rows ------------------------------------------------------------------------------------------------------------------------


def vocabulary() -> list[str]:
    """Whole words of the starter's tokenizer, which lists them by how common they are."""
    from tunesmith import starters

    file = json.loads((starters.base_folder("starter/minilm") / "tokenizer.json").read_text(encoding="utf-8"))
    return [word for word in file["model"]["vocab"] if word.isascii() and word.isalpha() and len(word) > 1]


def texts(draw: Any) -> Iterator[str]:
    """Texts without end, none a copy of another."""
    import numpy as np

    words = np.array(vocabulary(), object)
    shares = 1 / (np.arange(len(words)) + 2.7)  # Mandelbrot's form of Zipf's law
    shares /= shares.sum()
    each = float(shares @ np.array([len(word) for word in words])) + 1
    syllables = np.array([c + v for c in "bcdfghklmnprstvw" for v in "aeiou"], object)
    while True:
        lengths = np.maximum(4, draw.gamma(4, CHARACTERS / each / 4, CHUNK).astype(int))
        flat = words[np.searchsorted(np.cumsum(shares), draw.random(int(lengths.sum()))).clip(max=len(words) - 1)]
        rare = np.flatnonzero(draw.random(len(flat)) < 0.1)
        flat[rare] = syllables[draw.integers(0, len(syllables), (len(rare), 2))].sum(axis=1)
        kinds, numbers = draw.random(CHUNK), draw.integers(100_000, 1_000_000, CHUNK)
        at = 0
        for length, kind, number in zip(lengths.tolist(), kinds.tolist(), numbers.tolist(), strict=True):
            one = flat[at : at + length].tolist()
            at += length
            if kind < 0.01:
                one.insert(length // 2, f"{one[0]}.{one[1]}@example.org")
            elif kind < 0.02:
                one.insert(length // 2, f"+49 30 {number}")
            elif kind < 0.12:
                one.insert(length // 2, str(number))
            yield " ".join(one).capitalize() + "."


def edited(text: str, places: Any) -> str:
    """The text with the characters at some places replaced."""
    out = list(text)
    for place in places:
        out[int(place * len(out))] = "q"
    return "".join(out)


def damaged(text: str, kind: float) -> str:
    """One row in twenty with white space to mend, one in a hundred decoded wrongly."""
    middle = len(text) // 2
    if kind < 0.05:
        return f"  {text[:middle]}\u00a0 \r\n\r\n\r\n\r\n{text[middle:]} \t"
    return f"{text[:middle]} {'schöne Grüße'.encode().decode('latin-1')} {text[middle:]}" if kind < 0.06 else text


def rows(seed: int) -> Iterator[str]:
    """Lines of JSON without end."""
    import numpy as np

    draw = np.random.default_rng(seed)
    fresh, pool = texts(draw), list[tuple[str, str]]()
    while True:
        kinds, copies, damages, places, names = (
            draw.random(CHUNK),
            draw.integers(0, POOL, CHUNK).tolist(),
            draw.random(CHUNK).tolist(),
            draw.random((CHUNK, 3)),
            draw.integers(0, LABELS, CHUNK),
        )
        for at, kind in enumerate(kinds.tolist()):
            if kind < 0.05 and pool:
                text, label = pool[copies[at] % len(pool)]
                text = text if kind < 0.02 else edited(text, places[at][: 1 + at % 3])
            else:
                text, label = damaged(next(fresh), damages[at]), f"topic {names[at]}"
                if len(pool) < POOL:
                    pool.append((text, label))
                elif damages[at] > 0.9:
                    pool[copies[at]] = (text, label)
            yield json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n"


def written(folder: Path, count: int = 0, megabytes: int = 0) -> Path:
    """The file of so many rows, or of so many MB; made where it is not there yet."""
    path = folder / (f"rows-{count}.jsonl" if count else f"rows-{megabytes}-mb.jsonl")
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"writing {path}", file=sys.stderr)
        size, staging = 0, path.with_suffix(".part")
        with open(staging, "w", encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(rows(0), 1):
                size += file.write(line)
                if number == count or (megabytes and size >= megabytes * 1_000_000):
                    break
        staging.rename(path)
    return path


# --- ours ------------------------------------------------------------------------------------------------------------------------


def settings(path: Path | str, near: float | None, **changes: Any) -> Any:
    from tunesmith.data.settings import DataSettings, DuplicateSettings

    return DataSettings(train=str(path), duplicates=DuplicateSettings(near=near), **changes)


def clocked(place: Any, name: str, seconds: dict[str, float], key: str) -> None:
    """Add up what a function takes from here on."""
    function = getattr(place, name)

    def timed(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            seconds[key] = seconds.get(key, 0.0) + time.perf_counter() - start

    setattr(place, name, timed)


def ours(arguments: argparse.Namespace, count: int) -> dict[str, Any]:
    import torch  # noqa: F401  # targets are tensors; imported before the clock starts

    from tunesmith.data.preparation import first_pass, prepare, second_pass
    from tunesmith.models import catalog
    from tunesmith.objectives import classification
    from tunesmith.tokens import tokenization
    from tunesmith.tokens.reader import Reader

    base = catalog.resolve(catalog.ModelSettings())
    helpers = helpers_watched()
    parts: dict[str, float] = {}
    if not arguments.profile:
        for place, name, key in (
            (first_pass.FirstPass, "read", "read"),
            (prepare, "leave_out", "compare"),
            (second_pass, "write", "write"),
        ):
            clocked(place, name, parts, key)
    folder = arguments.work / "prepared"
    start = time.perf_counter()
    wanted = settings(arguments.folder / f"rows-{count}.jsonl", THRESHOLD, clean={"unicode": True, "whitespace": True})
    card = prepare.prepare(wanted, "labelled", folder)
    prepared = time.perf_counter()
    peak = max(*helpers, memory_mb())
    objective = classification.make(classification.ClassificationSettings(), base, folder)
    examples = objective.examples(folder / "train.parquet", Reader(tokenization.load(base.folder), base.max_tokens, "head", arguments.work))
    end = time.perf_counter()
    parts["other"] = prepared - start - sum(parts.values())
    counts = {"tokens": int(examples.lengths_N.sum()), "rows": card["rows"], "left_out": card["rejected"]}
    memory = {"memory_mb": max(*helpers, memory_mb()), "prepare_mb": peak}
    return {"seconds": end - start, "parts": parts | {"tokenise": end - prepared}, **memory, **counts}


def apart(arguments: argparse.Namespace, what: str) -> dict[str, Any]:
    from tunesmith.data.cleaning import clean, personal_data
    from tunesmith.data.preparation import first_pass, prepare

    first_pass.helpers = lambda: 0  # on one core, so that the step's seconds are all of them
    changes: dict[str, Any] = {"language": {"clean": {"languages": ["en"]}}, "personal": {"privacy": {"action": "report"}}}[what]
    seconds: dict[str, float] = {}
    clocked(*((clean, "unwanted") if what == "language" else (personal_data, "hide")), seconds, "step")
    count = arguments.rows_apart
    start = time.perf_counter()
    prepare.prepare(settings(arguments.folder / f"rows-{count}.jsonl", None, **changes), "labelled", arguments.work / "prepared")
    return {"step": count / seconds["step"], "whole": count / (time.perf_counter() - start), "memory_mb": memory_mb()}


def conversed(folder: Path, count: int) -> Path:
    """Rows of a question and its answer in the columns that TRL names, made of the generated ones."""
    path = folder / f"dialogues-{count}.jsonl"
    if not path.exists():
        with open(written(folder, 2 * count), encoding="utf-8") as file, open(path, "w", encoding="utf-8") as out:
            for question in file:
                turns = {"prompt": ("user", question), "completion": ("assistant", next(file))}
                out.write(json.dumps({name: [{"role": role, "content": json.loads(line)["text"]}] for name, (role, line) in turns.items()}) + "\n")
    return path


def ours_spoken(arguments: argparse.Namespace, count: int) -> dict[str, Any]:
    import torch  # noqa: F401  # targets are tensors; imported before the clock starts

    from tunesmith.data import rows as kinds
    from tunesmith.models import catalog
    from tunesmith.objectives import sft
    from tunesmith.tokens import tokenization
    from tunesmith.tokens.reader import Reader

    with open(arguments.folder / f"dialogues-{count}.jsonl", encoding="utf-8") as file:
        dialogues = [one["prompt"] + one["completion"] for one in map(json.loads, file)]
    path = arguments.work / "train.parquet"
    kinds.write(kinds.table({"id": [str(at) for at in range(count)], "messages": dialogues}, kinds.KINDS["dialogue"]), path)
    base = catalog.resolve(catalog.ModelSettings(base="starter/scribe"))
    objective = sft.make(sft.SftSettings(), base, arguments.work)
    start = time.perf_counter()
    examples: Any = objective.examples(path, Reader(tokenization.load(base.folder), 4096, "head", arguments.work))
    return {"seconds": time.perf_counter() - start, "tokens": int(examples.lengths_N.sum()) + count, "learnt": int(examples.learnt_N.sum())}


def peer_spoken(arguments: argparse.Namespace, count: int) -> dict[str, Any]:
    os.environ["HF_HOME"] = str(arguments.work / "hf")
    import datasets
    import transformers

    datasets.disable_progress_bars()
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.base)

    def ids(dialogues: list[Any], answer_next: bool) -> list[list[int]]:
        return list(tokenizer.apply_chat_template(dialogues, add_generation_prompt=answer_next, tokenize=True, return_dict=True)["input_ids"])

    def tokens(batch: dict[str, Any]) -> dict[str, Any]:
        asked, whole = ids(batch["prompt"], True), ids([a + b for a, b in zip(batch["prompt"], batch["completion"], strict=True)], False)
        begins = [next((at for at, (a, b) in enumerate(zip(one, both, strict=False)) if a != b), len(one)) for one, both in zip(asked, whole, strict=True)]
        return {"input_ids": whole, "completion_mask": [[0] * at + [1] * (len(both) - at) for at, both in zip(begins, whole, strict=True)]}

    loaded = datasets.load_dataset("json", data_files=str(arguments.folder / f"dialogues-{count}.jsonl"), split="train")
    start = time.perf_counter()
    done = loaded.map(tokens, batched=True, num_proc=2, remove_columns=loaded.column_names)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "tokens": sum(map(len, done["input_ids"])), "learnt": sum(map(sum, done["completion_mask"]))}


def validate(arguments: argparse.Namespace) -> dict[str, Any]:
    """The command itself, in this process."""
    import runpy

    sys.argv = ["tunesmith", "check", str(written(arguments.folder, megabytes=arguments.validate_mb))]
    helpers, start = helpers_watched(), time.perf_counter()
    try:
        runpy.run_module("tunesmith", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if error.code:
            raise Failed(f"tunesmith check: exit code {error.code}") from error
    return {"seconds": time.perf_counter() - start, "memory_mb": max(*helpers, memory_mb())}


def profile(arguments: argparse.Namespace) -> None:
    import cProfile
    import pstats

    clock = cProfile.Profile()
    clock.enable()
    ours(arguments, arguments.rows)
    clock.disable()
    pstats.Stats(clock).sort_stats("tottime").print_stats(40)


def memory_mb(process: int | str = "self") -> float:
    """The most memory that a process held so far: VmHWM, which begins anew with each program, unlike ru_maxrss."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def workers_mb() -> float:
    """The most memory that the largest process begun by this one held, which for the peer's, copies of it, counts what they share."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6


def helpers_watched() -> list[float]:
    """What this process and its helpers held at the most together, as each ends."""
    from tunesmith.core import workers

    found, end = [0.0], workers.Crew.__exit__

    def ended(self: workers.Crew, *error: object) -> None:
        found.append(memory_mb() + sum(memory_mb(one._process.pid) for one in self._helpers))
        end(self, *error)

    workers.Crew.__exit__ = ended  # type: ignore[method-assign]
    return found


# --- the peer --------------------------------------------------------------------------------------------------------------------


def peer(arguments: argparse.Namespace, ways: list[str], count: int) -> dict[str, Any]:
    os.environ["HF_HOME"] = str(arguments.work / "hf")
    import datasets
    import ftfy
    import numpy as np
    import transformers
    import xxhash
    from datasketch import LeanMinHash, MinHash, MinHashLSH

    datasets.disable_progress_bars()
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.base)
    config = ftfy.TextFixerConfig(explain=False)  # its documentation: saves time
    parts: dict[str, float] = {}
    hashed = {} if "plain" in ways else {"hashfunc": xxhash.xxh32_intdigest}

    def grams(text: str) -> set[bytes]:
        raw = text.lower().encode()  # bytes for characters: the same in English, and quicker
        return {raw[at : at + 5] for at in range(max(1, len(raw) - 4))}

    def mended(batch: dict[str, Any]) -> dict[str, Any]:
        fixed = [" ".join(ftfy.fix_text(text, config).split()) for text in batch["text"]]
        signatures = MinHash.bulk(map(grams, fixed), num_perm=128, **hashed)
        return {"text": fixed, "key": [xxhash.xxh128_digest(text.encode()) for text in fixed], "signature": [one.hashvalues.tobytes() for one in signatures]}

    def tokens(batch: dict[str, Any]) -> dict[str, Any]:
        return {"input_ids": tokenizer(batch["text"], truncation=True, max_length=512, return_attention_mask=False, return_token_type_ids=False)["input_ids"]}

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        parts[name], last = now - last, now

    start = last = time.perf_counter()
    loaded = datasets.load_dataset("json", data_files=str(arguments.folder / f"rows-{count}.jsonl"), split="train")
    lap("read")
    data = loaded.map(mended, batched=True, num_proc=2)
    lap("clean, sign")
    seen: dict[bytes, int] = {}
    for at, key in enumerate(data.with_format("arrow")[:]["key"].to_pylist()):
        seen.setdefault(key, at)
    first = list(seen.values())
    unique = data.select(first)
    index = MinHashLSH(threshold=THRESHOLD, num_perm=128, params=(21, 6) if "exact" in ways else None)
    like, texts, kept = MinHash(num_perm=128), unique.with_format("arrow")[:]["text"], []

    def twin(at: int, names: list[int]) -> bool:
        if "exact" not in ways:
            return bool(names)
        own = grams(texts[at].as_py()) if names else set()
        return any(len(own & other) >= THRESHOLD * len(own | other) for other in (grams(texts[name].as_py()) for name in names))

    for at, signature in enumerate(value for batch in unique.with_format("arrow").iter(1000) for value in batch["signature"].to_pylist()):
        one = LeanMinHash(seed=like.seed, hashvalues=np.frombuffer(signature, like.hashvalues.dtype), scheme=like.scheme)
        if not twin(at, index.query(one)):
            index.insert(at, one, check_duplication=False)
            kept.append(at)
    lap("compare")
    rest = unique.select(kept).remove_columns(["key", "signature"]).train_test_split(0.2, seed=0)
    sides = rest["train"].train_test_split(0.125, seed=0)
    lap("split")
    done = sides["train"].map(tokens, batched=True, num_proc=2, remove_columns=["text"])
    lap("tokenise")
    seconds = time.perf_counter() - start
    learnt = sum(map(len, done["input_ids"]))
    left_out = {"duplicate": count - len(first), "near-duplicate": len(first) - len(kept)}
    counts = {"tokens": learnt, "rows": {"train": len(sides["train"]), "valid": len(sides["test"]), "test": len(rest["test"])}, "left_out": left_out}
    return {"seconds": seconds, "parts": parts, "memory_mb": memory_mb(), "workers_mb": workers_mb(), **counts}


def peer_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("datasets", "datasketch", "ftfy", "transformers", "tokenizers", "numpy")}


# --- quality ----------------------------------------------------------------------------------------------------------------------


def similarities(left: list[str], right: list[str]) -> Any:
    """Jaccard of the sets of 5-grams of lower-cased texts with single spaces, all pairs one by one: float64 (len(left), len(right))."""
    import numpy as np
    from scipy.sparse import csr_matrix

    names: dict[str, int] = {}

    def matrix(given: list[str]) -> Any:
        sets = [{text[at : at + 5] for at in range(max(1, len(text) - 4))} for text in (" ".join(one.lower().split()) for one in given)]
        columns = [names.setdefault(gram, len(names)) for one in sets for gram in sorted(one)]
        starts = np.cumsum([0, *map(len, sets)])
        return np.ones(len(columns)), np.array(columns), starts

    a, b = matrix(left), matrix(right)
    wide = [csr_matrix(one, shape=(len(one[2]) - 1, len(names))) for one in (a, b)]
    both = (wide[0] @ wide[1].T).toarray()
    return both / (np.diff(a[2])[:, None] + np.diff(b[2])[None, :] - both)


def left_out(wanted: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Which rows of train a preparation leaves out, bool (N,), and its card."""
    import numpy as np

    from tunesmith.data.preparation import prepare

    card = prepare.prepare(wanted, "labelled", folder)
    name, out = Path(wanted.train).name, np.zeros(Path(wanted.train).read_bytes().count(b"\n"), bool)
    for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines():
        if (one := json.loads(line))["file"] == name:
            out[one["line"] - 1] = True
    return out, card


def saved(path: Path, given: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text, "label": f"topic {int(at < 20)}"}) + "\n" for at, text in enumerate(given)), encoding="utf-8")
    return str(path)


def quality(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows of which some are copies with characters changed; and a test file of which train holds rows, as they are and changed.

    Returns:
        What was asked -> (how many were right, of how many).
    """
    import numpy as np

    draw = np.random.default_rng(1)
    fresh = texts(draw)

    def changed(text: str) -> str:
        return edited(text, draw.random(int(draw.integers(1, 3 + len(text) // 20))))

    def mixed(given: list[str]) -> list[str]:
        return [given[at] for at in draw.permutation(len(given))]

    some = [next(fresh) for _ in range(NEAR_TEXTS)]
    some = mixed(some + [changed(text) for text in some[::2]])
    gone, _ = left_out(settings(saved(arguments.work / "near.jsonl", some), THRESHOLD), arguments.work / "near")
    alike = similarities(some, some)
    np.fill_diagonal(alike, 0)
    twins = np.triu(alike >= THRESHOLD)
    found = twins & (gone[:, None] | gone[None, :])
    out = {"recall: pairs of which one left": [found.sum(), twins.sum()]}
    for low, high in ((0.8, 0.85), (0.85, 0.9), (0.9, 1.0)):
        here = (alike >= low) & ((alike < high) | (high == 1))
        out[f"of them, {low} to {high} alike"] = [(found & here).sum(), (twins & here).sum()]
    out["precision: rows left out that have a twin"] = [(gone & (alike >= THRESHOLD).any(axis=1)).sum(), gone.sum()]

    test = list(dict.fromkeys(next(fresh) for _ in range(LEAK_TEXTS)))
    quarter = LEAK_TEXTS // 4
    equal_ones = [text if at % 2 else f" {text.replace(' ', '  ')} " for at, text in enumerate(test[:quarter])]
    train = mixed([next(fresh) for _ in range(NEAR_TEXTS)] + equal_ones + [changed(text) for text in test[quarter:]])
    wanted = settings(saved(arguments.work / "train.jsonl", train), THRESHOLD, test=saved(arguments.work / "test.jsonl", test))
    gone, card = left_out(wanted, arguments.work / "leaks")
    equal = np.isin([" ".join(text.split()) for text in train], [" ".join(text.split()) for text in test])
    near = (similarities(train, test) >= THRESHOLD).any(axis=1) & ~equal
    out["leaks into a test file: equal rows found"] = [(gone & equal).sum(), equal.sum()]
    out["leaks into a test file: near rows found"] = [(gone & near).sum(), near.sum()]
    out["rows of the test file kept"] = [card["rows"]["test"], len(test)]
    return {what: [int(right), int(of)] for what, (right, of) in out.items()}


# --- in turn ----------------------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """A measurement that did not come to an end; its text is what the process wrote."""


def child(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """One measurement in a process of its own, with a folder that goes with it."""
    python = arguments.peer_python if "peer" in name else sys.executable
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        given = vars(arguments) | {"one": name, "work": work}
        command = [str(python), __file__, str(arguments.folder), "--child", json.dumps(given, default=str)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(done.stderr.strip() or f"exit code {done.returncode}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def one(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one measurement in this process."""
    who, *ways = arguments.one.split("-")
    what = ways.pop() if ways else ""
    if who == "ours":
        return ours(arguments, int(what))
    if who == "peer":
        return peer_versions() if what == "versions" else peer(arguments, ways, int(what))
    if who == "apart":
        return apart(arguments, what)
    if who == "spoken":
        return (peer_spoken if "peer" in ways else ours_spoken)(arguments, int(what))
    if who == "base":
        from tunesmith import starters

        return {"folder": str(starters.base_folder(f"starter/{what}"))}
    return quality(arguments) if who == "near" else validate(arguments)


def machine() -> str:
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    cores = len(os.sched_getaffinity(0))
    return f"{names[0] if names else platform.machine()}, {cores} cores; {platform.system()}, Python {platform.python_version()}; load {load}"


def line(name: str, count: int, results: list[dict[str, Any]]) -> None:
    """One side's medians."""
    seconds = median(result["seconds"] for result in results)
    parts = ", ".join(f"{part} {median(result['parts'][part] for result in results):.1f}" for part in results[0]["parts"])
    memory = f"{median(result['memory_mb'] for result in results):,.0f} MB"
    if "prepare_mb" in results[0]:
        memory += f" (prepare {median(result['prepare_mb'] for result in results):,.0f})"
    if "workers_mb" in results[0]:
        memory += f" (a worker {median(result['workers_mb'] for result in results):,.0f})"
    kept = " + ".join(f"{value:,}" for value in results[0]["rows"].values())
    left_out = ", ".join(f"{reason} {value:,}" for reason, value in results[0]["left_out"].items())
    each = results[0]["tokens"] / results[0]["rows"]["train"]
    print(f"| {name} | {count:,} | {seconds:.1f} | {count / seconds:,.0f} | {memory} | {parts} | {kept} | {left_out} | {each:.1f} |", flush=True)


HEAD = "| | rows | seconds | rows/s | peak memory | of them, seconds | kept | left out | tokens a row |\n|---|---|---|---|---|---|---|---|---|"


def spoken(arguments: argparse.Namespace) -> None:
    arguments.base = child(arguments, "base-scribe")["folder"]
    conversed(arguments.folder, arguments.peer_rows)
    print(f"python benchmarks/data.py FOLDER --dialogues --peer-rows {arguments.peer_rows} --rounds {arguments.rounds}\n")
    print("| dialogues | rows | seconds | rows/s | tokens | learnt |\n|---|---|---|---|---|---|")
    results: dict[str, list[dict[str, Any]]] = {"spoken": [], "spoken-peer": []}
    for _ in range(arguments.rounds):
        for name, found in results.items():
            found.append(child(arguments, f"{name}-{arguments.peer_rows}"))
    seconds = [[one["seconds"] for one in found] for found in results.values()]
    for name, taken, (found, *_) in zip(("ours", "peer"), seconds, results.values(), strict=True):
        rate = arguments.peer_rows / median(taken)
        print(f"| {name} | {arguments.peer_rows:,} | {median(taken):.1f} | {rate:,.0f} | {found['tokens']:,} | {found['learnt']:,} |")
    ratios = [b / a for a, b in zip(*seconds, strict=True)]
    print(f"\nours is {median(seconds[1]) / median(seconds[0]):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


def compare(arguments: argparse.Namespace) -> None:
    arguments.base = child(arguments, "base-minilm")["folder"]
    if peers := [name for name in arguments.only if name.startswith("peer")]:
        print("peer: " + " ".join(f"{name} {value}" for name, value in child(arguments, "peer-versions").items()))
    given = f"--rows {arguments.rows} --rows-apart {arguments.rows_apart} --peer-rows {arguments.peer_rows} --rounds {arguments.rounds}"
    print(f"python benchmarks/data.py FOLDER {given} --only {' '.join(arguments.only)}\n\n{HEAD}")
    if "ours" in arguments.only:
        written(arguments.folder, arguments.rows)
        line("ours", arguments.rows, [child(arguments, f"ours-{arguments.rows}") for _ in range(arguments.rounds)])
    if peers:
        written(arguments.folder, arguments.peer_rows)
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in ("ours", *peers)}
        for _ in range(arguments.rounds):
            for name, found in results.items():
                found.append(child(arguments, f"{name}-{arguments.peer_rows}"))
        seconds = {name: [one["seconds"] for one in found] for name, found in results.items()}
        for name, found in results.items():
            line(name, arguments.peer_rows, found)
        print("\n| ours beside | times as fast (medians) | rounds |\n|---|---|---|")
        for name in peers:
            ratios = [b / a for a, b in zip(seconds["ours"], seconds[name], strict=True)]
            print(f"| {name} | {median(seconds[name]) / median(seconds['ours']):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |")
    if "apart" in arguments.only:
        written(arguments.folder, arguments.rows_apart)
        print("\n| apart | rows | rows/s of the step | rows/s with all else | peak memory |\n|---|---|---|---|---|")
        for what, said in (("language", "clean.languages=[en]"), ("personal", "privacy.action=report")):
            apart_ = [child(arguments, f"apart-{what}") for _ in range(arguments.rounds)]
            step, whole, peak = (median(one[key] for one in apart_) for key in ("step", "whole", "memory_mb"))
            print(f"| {said} | {arguments.rows_apart:,} | {step:,.0f} | {whole:,.0f} | {peak:,.0f} MB |", flush=True)


def near(arguments: argparse.Namespace) -> None:
    found = child(arguments, "near")
    print(f"near-duplicates, Jaccard >= {THRESHOLD} on 5-grams, all pairs compared one by one\n\n| what | right | of | share |\n|---|---|---|---|")
    for what, (right, of) in found.items():
        print(f"| {what} | {right:,} | {of:,} | {100 * right / max(1, of):.2f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rows-apart", type=int, default=50_000)
    parser.add_argument("--peer-rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=["ours", "peer", "peer-plain", "peer-exact", "apart"])
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), help="the Python of a virtual environment with the peer's packages")
    parser.add_argument("--near", action="store_true")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--validate-mb", type=int, default=2_000)
    parser.add_argument("--dialogues", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        given = json.loads(arguments.child)
        arguments = argparse.Namespace(**given | {"folder": Path(given["folder"]), "work": Path(given["work"])})
        print("\n" + json.dumps(one(arguments)))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        if arguments.profile:
            written(arguments.folder, arguments.rows)
            with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
                arguments.work = Path(work)
                profile(arguments)
            return
        print(machine())
        if arguments.validate:
            path = written(arguments.folder, megabytes=arguments.validate_mb)
            found = child(arguments, "validate")
            peak = f"{found['memory_mb']:,.0f} MB at most with its helpers"
            print(f"tunesmith check, {path.stat().st_size / 1e6:,.0f} MB of JSON lines: {found['seconds']:.0f} s, {peak}")
        elif arguments.near:
            near(arguments)
        elif arguments.dialogues:
            spoken(arguments)
        else:
            compare(arguments)
    except Failed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
