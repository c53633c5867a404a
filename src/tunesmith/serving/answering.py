"""What a language model is asked by the rows of a file, and its answers as columns; `predicting.py` reads and writes around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.core.errors import UserError, nearest, some
from tunesmith.data.kinds.dialogue import message_of
from tunesmith.data.kinds.layout import MESSAGES_NAMES
from tunesmith.data.readers.formats import Records
from tunesmith.serving.generation import Answer
from tunesmith.tokens.chat_template import Message

ADDED = ("answer", "ended")
PROMPT_NAMES = ("prompt", "question", "instruction", "text")
"""Columns that hold what to ask, in this order, where neither the run nor the user names one."""


def asked(records: Records, columns: Mapping[str, Any], named: str | None) -> list[list[Message]]:
    """The dialogue that each record puts to the model.

    Args:
        records: of the user's file.
        columns: of the training data, by what they are (messages, prompt, more, system, text).
        named: the column the user chose; it is read as a prompt, whatever else there is.

    Returns:
        A dialogue a record. Of `messages` a last turn of the assistant's is left out: that is what is to be written.

    Raises:
        UserError: no such column, a column that would be overwritten, or a record that asks nothing.
    """
    clash = [name for name in ADDED if name in records.columns]
    if clash:
        raise UserError(f"column `{clash[0]}` is there already", f"{records.source}:1", "rename it, so that nothing is overwritten")
    lower = {name.lower(): name for name in reversed(records.columns)}
    messages = next((one for one in (columns.get("messages"), *map(lower.get, MESSAGES_NAMES)) if one in records.columns), None)
    if named is None and messages is not None:
        return [_dialogue(record, messages, columns.get("system"), f"{records.source}:{line}") for line, record in records.records]
    prompt = named or next((one for one in (columns.get("prompt"), columns.get("text"), *map(lower.get, PROMPT_NAMES)) if one in records.columns), None)
    if prompt not in records.columns:
        wanted = prompt or columns.get("prompt") or columns.get("text")
        known = some(["messages", *PROMPT_NAMES], 9)
        what = f"no column `{wanted}`{nearest(wanted, records.columns)}" if wanted else f"no column of questions: none is named {known}"
        raise UserError(what, f"{records.source}:1", f"the columns are {some(records.columns)}; choose with --text")
    beside: Mapping[str, Any] = {} if named else columns
    return [_question(record, prompt, beside, f"{records.source}:{line}") for line, record in records.records]


def question(text: str) -> list[Message]:
    """A dialogue that one text begins."""
    return [{"role": "user", "content": text}]


def _dialogue(record: Mapping[str, Any], column: str, system: str | None, where: str) -> list[Message]:
    items = record.get(column)
    if not isinstance(items, list) or not items:
        raise UserError(f"column `{column}` holds no list of messages", where, 'write JSON lines: {"messages": [{"role": "user", "content": "..."}]}')
    found: list[Message] = []
    for number, item in enumerate(items, 1):
        one = message_of(item, number)
        if isinstance(one, tuple):
            raise UserError(one[1], where, one[2])
        found.append(one)
    if found[-1]["role"] == "assistant":
        found.pop()
    if not any(one["role"] == "user" for one in found):
        raise UserError(f"column `{column}` asks nothing: no message before the answer is the user's", where, "add it or delete the row")
    for number, message in enumerate(found, 1):
        if not message["content"].strip():
            raise UserError(f"message {number} ({message['role']}) is blank", where, "fill it in or delete the row")
    return [*_system(record, system), *found] if found[0]["role"] != "system" else found


def _question(record: Mapping[str, Any], column: str, beside: Mapping[str, Any], where: str) -> list[Message]:
    text = record.get(column)
    check_text(text, f"column `{column}`", where)
    more = record.get(beside.get("more") or "")
    # Joined as the rows of the training data are.
    whole = f"{text}\n\n{more}" if isinstance(more, str) and more.strip() else str(text)
    return [*_system(record, beside.get("system")), *question(whole)]


def _system(record: Mapping[str, Any], column: str | None) -> list[Message]:
    text = record.get(column) if column else None
    return [{"role": "system", "content": text}] if isinstance(text, str) and text.strip() else []


def check_text(value: Any, holder: str, where: str) -> None:
    """Raise a UserError where a value is no text, is blank, or cannot be written as UTF-8."""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{holder} holds no text", where, "fill it in or leave it out")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{holder} holds a broken character", where, "give it as UTF-8") from None


def left_out(answers: Sequence[Answer], limit: int) -> str | None:
    """A sentence where prompts were cut, else None."""
    cut = sum(answer.cut for answer in answers)
    if not cut:
        return None
    return f"{cut} of {len(answers)} prompts leave no room for an answer within {limit:,} tokens; what does not fit was left out from their beginning"
