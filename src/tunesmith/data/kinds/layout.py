"""What the rows of a file are, by the recipe or by the columns, and which columns make them; what is guessed is said aloud."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from tunesmith.core.errors import Problems, UserError, nearest, some
from tunesmith.data.readers.formats import DOCUMENTS, ending
from tunesmith.data.readers.stream import HEAD_RECORDS, Stream
from tunesmith.data.settings import LABEL_NAMES, TEXT_NAMES, DataSettings

MESSAGES_NAMES = ("messages", "conversations", "conversation")
MESSAGES_PERHAPS = ("chat", "dialogue", "dialog", "turns")
"""Names of a dialogue's messages, or of its text: the messages where a list of them stands there."""
PAIRS = (
    *(("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("prompt", "answer"), ("prompt", "output"), ("question", "response")),
    *(("query", "response"), ("query", "answer"), ("instruction", "completion"), ("input", "output"), ("user", "assistant"), ("human", "assistant")),
    ("q", "a"),
)
"""A text and how it goes on."""
PROMPT_NAMES = ("prompt", "instruction", "question")
SYSTEM_NAMES = ("system", "system_prompt")
TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
"""What begins a turn in the texts of HH-RLHF (https://huggingface.co/datasets/Anthropic/hh-rlhf)."""
INSTRUCTIONS = (("instruction", "input", "output"), ("instruction", "context", "response"))
"""Alpaca (https://github.com/tatsu-lab/stanford_alpaca) and Dolly (https://huggingface.co/datasets/databricks/databricks-dolly-15k)."""
BESIDE_DOCUMENTS = frozenset(
    "id _id uuid doc_id url uri source src meta metadata title author date time timestamp created added dump file_path path filename lang language"
    " language_score license score token_count".split()
)
"""Columns that corpora of documents have beside the text: with any other one, a text without a label is asked about rather than taken for a document."""


@dataclass(frozen=True)
class Layout:
    """How the records of a file become rows.

    Attributes: kind (of rows.KINDS), form (messages: a list of them; pair: two texts; text: one; answers: two to choose from; labels: a text with
    its labels), and the columns, None where there are none: messages; prompt, more (joined behind the prompt), completion; system; text, text_pair,
    label; chosen, rejected, margin.
    """

    kind: str
    form: Literal["messages", "pair", "text", "answers", "labels"]
    messages: str | None = None
    prompt: str | None = None
    more: str | None = None
    completion: str | None = None
    system: str | None = None
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    margin: str | None = None

    def columns(self) -> dict[str, str]:
        """The columns by the key of the recipe that names them."""
        return {one.name: name for one in fields(self)[2:] if (name := getattr(self, one.name)) is not None}


def infer(settings: DataSettings, path: Path) -> str:
    """What the rows are: what the recipe says, else what its mapped columns mean, else what the first records of the training rows look like.

    Args:
        settings: what the recipe maps.
        path: the first file of the training rows. Only its first records are read.

    Returns:
        A key of rows.KINDS; "labelled" also for what cannot be recognised or read, whose reader then says what is wrong.
    """
    if settings.rows:
        return settings.rows
    if settings.label or settings.text_pair or settings.multi_label or settings.out_of_scope:
        return "labelled"
    if settings.chosen or settings.rejected:
        return "preference"
    records = peek(path)
    if settings.messages:
        return "preference" if records and _preferred(records) else "dialogue"
    if settings.completion or (settings.prompt and not (records and _preferred(records))):
        return "completion"
    if ending(path)[0] in DOCUMENTS:
        return "document"
    return _by_columns(settings, records)


def _preferred(records: Sequence[dict[str, Any]]) -> bool:
    return {"chosen", "rejected"} <= {name.lower() for record in records for name in record}


def peek(path: Path) -> list[dict[str, Any]]:
    """The first records of a file, those that can be read; none when nothing can."""
    try:
        return [value for _, value in islice(Stream(path), HEAD_RECORDS) if isinstance(value, dict)]
    except (UserError, OSError):
        return []


def _by_columns(settings: DataSettings, records: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for record in records for name in record))
    lower = {name.lower(): name for name in columns}
    if _preferred(records):
        return "preference"
    text = settings.text or next((lower[name] for name in TEXT_NAMES if name in lower), None)
    messages = _messages(lower, records)
    if text and any(name in lower for name in LABEL_NAMES) and (text.lower() == "text" or not _first_message(records, messages)):
        return "labelled"
    if messages or _first_message(records, text) or any({first, last} <= lower.keys() for first, _, last in INSTRUCTIONS):
        return "dialogue"
    if any(set(pair) <= lower.keys() for pair in PAIRS):
        return "dialogue" if _system(lower) else "completion"  # a completion has no roles
    mapped = {settings.id, settings.together, settings.time, *settings.attributes, text}
    return "document" if text and all(name in mapped or name.lower() in BESIDE_DOCUMENTS for name in columns) else "labelled"


def _first_message(records: Sequence[dict[str, Any]], column: str | None) -> dict[str, Any]:
    """The first object in the first list of objects that a column holds; empty without one."""
    found = (record.get(column) for record in records if column)
    return next((one[0] for one in found if isinstance(one, list) and one and isinstance(one[0], dict)), {})


def _messages(lower: dict[str, str], records: Sequence[dict[str, Any]]) -> str | None:
    """The column of the messages, by its name; a name of MESSAGES_PERHAPS alone proves nothing."""
    sure = (lower[name] for name in MESSAGES_NAMES if name in lower)
    perhaps = (lower[name] for name in MESSAGES_PERHAPS if name in lower and _first_message(records, lower[name]).keys() & {"role", "from"})
    return next(chain(sure, perhaps), None)


def transcript(text: Any) -> list[dict[str, str]]:
    """The messages of a dialogue that is written as one text, as HH-RLHF has them; none of any other value."""
    before, *turns = TURN.split(text) if isinstance(text, str) else [""]
    if before or "Assistant" not in turns[2::2]:
        return []
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": content.strip()} for who, content in zip(turns[::2], turns[1::2], strict=True)]


def _system(lower: dict[str, str]) -> str | None:
    return next((lower[name] for name in SYSTEM_NAMES if name in lower), None)


def layout(
    settings: DataSettings, kind: str, path: Path, columns: Iterable[str], records: Sequence[dict[str, Any]], name: str = ""
) -> tuple[Layout, list[str]]:
    """Find the columns that make rows of a kind.

    Args:
        settings: what the recipe maps.
        kind: a key of rows.KINDS, or "outside": texts without a label.
        path: the file.
        columns, records: of its beginning.
        name: what messages call the file; empty for its own name.

    Returns:
        The layout, and what was guessed, to be said aloud.

    Raises:
        Problems: each missing column with the nearest one that exists.
    """
    names, file = list(columns), name or path.name
    lower = {one.lower(): one for one in reversed(names)}
    said: list[str] = []
    found = _FINDERS[kind](settings, lower, said, records, path)
    errors = []
    always = ("id", "together", "time") if kind == "labelled" else ("id", "together")
    wanted = found.columns() | {key: getattr(settings, key) for key in always if kind != "outside"}
    if kind == "dialogue" and found.form == "messages" and found.messages is None:
        what = f"no column for the messages was found among {some(names)}{nearest('messages', names)}"
        errors.append(UserError(what, f"{file}:1", _naming("messages")))
    if found.form == "pair":
        wanted |= {key: "" for key in ("prompt", "completion") if key not in wanted}
    needed = {"document": ("text",), "outside": ("text",), "labelled": ("text", "label"), "preference": ("chosen", "rejected")}.get(kind, ())
    wanted |= {key: getattr(found, key) or "" for key in needed}
    if kind == "prompt":
        wanted |= {} if found.messages or found.prompt else {"prompt": ""}
    if kind == "labelled":
        wanted |= {f"attributes.{one}": one for one in settings.attributes}
    for key, column in wanted.items():
        if column == "":
            what = f"no column for the {key} was found among {some(names)}"
            also = "; rows of another kind are said so: data.rows=document, dialogue, completion, preference or prompt" if key == "label" else ""
            if key == "text" and wanted.get("label") == "" and ending(path)[0] in (".csv", ".tsv"):
                also = "; if line 1 is a row already, put a line with the names of the columns in front of it"
            errors.append(UserError(what, f"{file}:1", _naming(key) + also))
        elif column is not None and column not in names:
            what = f"no column `{column}`{nearest(column, names)}"
            errors.append(UserError(what, f"{file}:1", f"the columns are {some(names)}; set data.{key} to one of them"))
    if errors:
        raise Problems(errors)
    return found, [f"{file}: {text}" for text in said]


def _naming(key: str) -> str:
    return f"name it: data.{key}=COLUMN, or in the recipe data: {{{key}: COLUMN}}"


def _dialogue(settings: DataSettings, lower: dict[str, str], said: list[str], records: Sequence[dict[str, Any]], path: Path) -> Layout:
    column = settings.messages
    system = _system(lower)
    if column is None and not (settings.prompt or settings.completion):
        column = _messages(lower, records)
    if column is not None:
        first = _first_message(records, column)
        if "from" in first and "role" not in first:
            said.append(f"ShareGPT layout: from and value of each item in `{column}`; human is the user, gpt the assistant")
        elif settings.messages is None:
            said.append(f"messages layout: role and content of each item in `{column}`")
        _say_system(system, said)
        _say_unread(lower, ("tools",), "calls of tools are not learnt", said)
        return Layout("dialogue", "messages", messages=column, system=system)
    if not (settings.prompt or settings.completion):
        for first_name, more, last in INSTRUCTIONS:
            if first_name in lower and last in lower:
                both = f"{first_name} and {more} become" if more in lower else f"{first_name} becomes"
                said.append(f"alpaca layout: {both} the user's message, {last} the answer")
                _say_system(system, said)
                _say_unread(lower, ("history",), "dialogues of several turns go into `messages`", said)
                return Layout("dialogue", "pair", prompt=lower[first_name], more=lower.get(more), completion=lower[last], system=system)
    if not (settings.prompt or settings.completion) and not any(name in lower for pair in PAIRS for name in pair):
        return Layout("dialogue", "messages")  # nothing was found: said as missing messages
    prompt, completion = _pair(settings, lower)
    said.append(f"`{prompt}` becomes the user's message, `{completion}` the answer")
    _say_system(system, said)
    _say_unread(lower, ("context",), f"put it into `{prompt}` where the answer needs it", said)
    return Layout("dialogue", "pair", prompt=prompt, completion=completion, system=system)


def _say_unread(lower: dict[str, str], names: Iterable[str], why: str, said: list[str]) -> None:
    said += [f"column `{lower[name]}` is not read; {why}" for name in names if name in lower]


def _say_system(column: str | None, said: list[str]) -> None:
    if column is not None:
        said.append(f"column `{column}` becomes the system message")


def _pair(settings: DataSettings, lower: dict[str, str]) -> tuple[str | None, str | None]:
    """The columns of a prompt and of its completion: the recipe's, else the first pair of known names, else one of them alone."""
    whole = next((pair for pair in PAIRS if set(pair) <= lower.keys()), None)
    if settings.prompt is None and settings.completion is None and whole:
        return lower[whole[0]], lower[whole[1]]
    prompt = settings.prompt or next((lower[first] for first, _ in PAIRS if first in lower), None)
    completion = settings.completion or next((lower[last] for _, last in PAIRS if last in lower), None)
    return prompt, completion


def _completion(settings: DataSettings, lower: dict[str, str], said: list[str], records: Sequence[dict[str, Any]], path: Path) -> Layout:
    if not (settings.prompt or settings.completion):
        for first, more, last in INSTRUCTIONS:
            if first in lower and last in lower:
                both = f"{first} and {more} become" if more in lower else f"{first} becomes"
                said.append(f"alpaca layout: {both} the prompt, {last} the completion")
                return Layout("completion", "pair", prompt=lower[first], more=lower.get(more), completion=lower[last])
    prompt, completion = _pair(settings, lower)
    for key, name in (("prompt", prompt), ("completion", completion)):
        if name and getattr(settings, key) is None:
            said.append(f"taking column `{name}` as the {key}")
    beside = [name for name in ("context", *SYSTEM_NAMES) if lower.get(name) not in (prompt, completion)]
    _say_unread(lower, beside, f"put it into `{prompt}` where the completion needs it", said)
    if any(isinstance(record.get(lower.get("label", "")), bool) for record in records):
        _say_unread(lower, ("label",), "where it says which completions are good, keep these rows alone: all are learnt", said)
    return Layout("completion", "pair", prompt=prompt, completion=completion)


def _document(settings: DataSettings, lower: dict[str, str], said: list[str], records: Sequence[dict[str, Any]], path: Path) -> Layout:
    text = settings.text or next((lower[name] for name in TEXT_NAMES if name in lower), None)
    if text and settings.text is None and ending(path)[0] not in DOCUMENTS:
        said.append(f"taking column `{text}` of each row as a document")
    return Layout("document", "text", text=text)


def _labelled(settings: DataSettings, lower: dict[str, str], said: list[str], records: Sequence[dict[str, Any]], path: Path) -> Layout:
    found = {}
    for key, names in (("text", TEXT_NAMES), ("label", LABEL_NAMES)):
        found[key] = getattr(settings, key) or next((lower[name] for name in names if name in lower), None)
        if found[key] and getattr(settings, key) is None:
            said.append(f"taking column `{found[key]}` as the {key}")
    return Layout("labelled", "labels", text=found["text"], text_pair=settings.text_pair, label=found["label"])


def _outside(settings: DataSettings, lower: dict[str, str], said: list[str], records: Sequence[dict[str, Any]], path: Path) -> Layout:
    return Layout("labelled", "labels", text=settings.text)


def _preference(settings: DataSettings, lower: dict[str, str], said: list[str], records: Sequence[dict[str, Any]], path: Path) -> Layout:
    chosen, rejected = settings.chosen or lower.get("chosen"), settings.rejected or lower.get("rejected")
    messages = settings.messages or (None if settings.prompt else _messages(lower, records))
    prompt, more = _asked(settings, lower) if not messages else (None, None)
    asked = messages or prompt
    if settings.chosen is None and chosen and rejected:
        both = " and ".join(f"`{column}`" for column in (asked, more) if column) or "what they have in common"
        said.append(f"preferences: `{chosen}` is better than `{rejected}`, both answer {both}")
    if not asked and any(transcript(record.get(chosen or "")) for record in records):
        said.append("HH-RLHF layout: each text is a dialogue, `Human:` and `Assistant:` begin its turns")
    system = _system(lower) if asked else None
    _say_system(system, said)
    return Layout("preference", "answers", messages, prompt, more, system=system, chosen=chosen, rejected=rejected, margin=settings.margin)


def _prompt(settings: DataSettings, lower: dict[str, str], said: list[str], records: Sequence[dict[str, Any]], path: Path) -> Layout:
    messages = settings.messages or (None if settings.prompt else _messages(lower, records))
    prompt, more = _asked(settings, lower) if not messages else (None, None)
    asked, system = messages or prompt, _system(lower)
    if asked and not (settings.prompt or settings.messages):
        said.append(f"taking column `{asked}`{f' and `{more}`' if more else ''} as the prompt")
    _say_system(system, said)
    return Layout("prompt", "messages", messages, prompt, more, system=system)


def _asked(settings: DataSettings, lower: dict[str, str]) -> tuple[str | None, str | None]:
    """The column of a prompt, the recipe's or one of a known name, and in the alpaca layout what is joined behind it."""
    prompt = settings.prompt or next((lower[name] for name in PROMPT_NAMES if name in lower), None)
    return prompt, lower.get("input") if settings.prompt is None and prompt == lower.get("instruction") else None


_FINDERS = {
    "labelled": _labelled,
    "outside": _outside,
    "dialogue": _dialogue,
    "completion": _completion,
    "document": _document,
    "preference": _preference,
    "prompt": _prompt,
}
