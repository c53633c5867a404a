"""Records -> dialogues, completions and documents, strictly: one row, or what is wrong with it and how to mend it.

Texts are kept as they are; only what tells two rows apart (`Row.key`) has its white space evened out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tunesmith.data.layouts import Layout
from tunesmith.data.sources import json_type
from tunesmith.data.validate import DataSettings, common
from tunesmith.errors import nearest

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant", "system": "system", "tool": "tool"}
SHAREGPT |= {"observation": "tool"}
FEW_WORDS = 3
"""An answer of fewer words teaches little; a convention of ours."""
FEW_CHARACTERS = 20
"""What counts as few words must also be shorter than this, for languages that are written without spaces."""

SYSTEM, BEYOND, OPENS, SHORT, MARKS, NO_SYSTEM = (1 << bit for bit in range(6))
"""Flags of a row: it has a system message; something follows the last answer; the assistant opens; an answer is short;
a text holds a mark like <|end|>; a blank system message was left out."""

Wrong = tuple[str, str, str]
"""A short reason to count by, what was found, the remedy."""


class Row(NamedTuple):
    """A row and what is counted of it.

    Attributes: values (the columns), key (what makes it equal to another), prompt and answer (the first question and the last answer, white
    space evened out), prompt_characters, answer_characters, turns (messages but the system's), flags.
    """

    values: dict[str, Any]
    key: str
    prompt: str
    answer: str
    prompt_characters: int
    answer_characters: int
    turns: int
    flags: int


def reader(layout: Layout, settings: DataSettings) -> Callable[[dict[str, Any]], Row | Wrong]:
    """What turns a record of this layout into a row.

    Args:
        layout: the columns.
        settings: the columns that every kind may have (id, together, time, attributes).

    Returns:
        A function of a record. A row's `values` lack source and line; its id is None where the content shall name it.
    """
    form = {("dialogue", "messages"): _dialogue, ("dialogue", "pair"): _turned, ("completion", "pair"): _completion, ("document", "text"): _document}
    make = form[layout.kind, layout.form]

    def read(record: dict[str, Any]) -> Row | Wrong:
        row = make(record, layout)
        if not isinstance(row, Row):
            return row
        try:
            row.key.encode()
        except UnicodeEncodeError:
            return "broken character", "a text holds half of a surrogate pair", "repair the escape \\ud8xx in it"
        shared = common(record, settings)
        if isinstance(shared, tuple):
            return shared
        row.values.update(shared)
        return row

    return read


def even(text: str) -> str:
    """A text with each run of white space as one space."""
    return " ".join(text.split())


def _dialogue(record: dict[str, Any], layout: Layout) -> Row | Wrong:
    column = layout.messages
    assert column is not None
    items = record.get(column)
    if items is None:
        if column in record:
            return "no messages", f"column `{column}` is null", "fill it in or delete the row"
        return "no messages", f"no `{column}` in this row{nearest(column, record)}", f"name the messages `{column}`, as in the other rows"
    if not isinstance(items, list):
        remedy = 'write the rows as JSON lines: {"messages": [{"role": "user", "content": "..."}, ...]}'
        return "messages of another type", f"column `{column}` holds {json_type(items)}, expected a list of messages", remedy
    if not items:
        return "empty conversation", f"the list in column `{column}` is empty", "fill it in or delete the row"
    messages: list[dict[str, str]] = []
    for number, item in enumerate(items, 1):
        message = message_of(item, number)
        if isinstance(message, tuple):
            return message
        messages.append(message)
    system = _optional(record, layout.system)
    if isinstance(system, tuple):
        return system
    if system and messages[0]["role"] == "system":
        what = f"a system message in column `{layout.system}` and another in `{column}`"
        return "two system messages", what, "join the two into one"
    return conversation([{"role": "system", "content": system}, *messages] if system else messages)


def message_of(item: Any, number: int) -> dict[str, str] | Wrong:
    """One message of a dialogue, by role and content or in ShareGPT's words; `number` counts from 1 for what is said of it."""
    if not isinstance(item, dict):
        return "message of another type", f"message {number} is {json_type(item)}, expected an object", "write each as {role: ..., content: ...}"
    sharegpt = "from" in item and "role" not in item
    who, what = ("from", "value") if sharegpt else ("role", "content")
    role = item.get(who)
    if role is None:
        return "no role", f"message {number} has no `{who}`{nearest(who, item)}", f"say whose it is: {', '.join(SHAREGPT if sharegpt else ROLES)}"
    if not isinstance(role, str):
        return "no role", f"the role of message {number} is {json_type(role)}, expected text", f"say whose it is: {', '.join(ROLES)}"
    known: Any = SHAREGPT if sharegpt else ROLES
    if role not in known:
        remedy = f"the roles are {', '.join(known)}"
        return "unknown role", f"role `{role}` of message {number} is not known{nearest(role, known)}", remedy
    name = SHAREGPT[role] if sharegpt else role
    content = item.get(what)
    if item.get("tool_calls") or item.get("function_call"):
        return "tool call", f"message {number} ({name}) calls a tool beside its text, which is not read", f"write the call as text in its `{what}`"
    if content is None:
        if what in item:
            return "no content", f"`{what}` of message {number} ({name}) is null", "fill it in or delete the row"
        return "no content", f"message {number} ({name}) has no `{what}`{nearest(what, item)}", "fill it in or delete the row"
    if not isinstance(content, str):
        remedy = "join its texts into one" if isinstance(content, list) else "write it in quotes"
        return "content of another type", f"`{what}` of message {number} ({name}) is {json_type(content)}, expected text", remedy
    return {"role": name, "content": content}


def conversation(messages: list[dict[str, str]]) -> Row | Wrong:
    """A row of messages whose roles and contents are of the right kind, when they make a dialogue that can be learnt from."""
    flags = 0
    if messages[0]["role"] == "system" and not messages[0]["content"].strip():
        messages, flags = messages[1:], NO_SYSTEM
    before, answers, keys = "", [], []
    prompt, prompt_characters = "", 0
    for number, message in enumerate(messages, 1 + bool(flags)):
        role, content = message["role"], message["content"]
        text = even(content)
        if not text:
            if role == "assistant":
                return "blank answer", f"the assistant's answer in message {number} is blank", "write it or delete the row"
            return "no content", f"message {number} ({role}) is blank", "fill it in or delete the row"
        if role == "system":
            if flags & SYSTEM:
                return "two system messages", f"message {number} is a second system message", "join the two into one"
            if before:
                return "late system message", f"the system message is message {number}, it must be the first", "move it to the front"
            flags |= SYSTEM
        elif role == before and role != "tool":
            what = f"messages {number - 1} and {number} are both from the {role}; user and assistant must alternate"
            return "roles do not alternate", what, "join the two into one"
        if role == "assistant":
            answers.append(content)
            flags |= OPENS if before in ("", "system") else 0
            flags |= SHORT if len(text) < FEW_CHARACTERS and text.count(" ") < FEW_WORDS - 1 else 0
        else:
            prompt_characters += len(content)
            prompt = prompt or (text if role == "user" else "")
        flags |= MARKS if "<|" in content and "|>" in content else 0
        keys.append(f"{role}\x1f{text}")
        before = role
    if not answers:
        return "no assistant turn", "no message is from the assistant: nothing to learn", "add the answer or delete the row"
    flags |= BEYOND if before != "assistant" else 0
    turns = len(messages) - bool(flags & SYSTEM)
    return Row({"messages": messages}, "\x1e".join(keys), prompt, even(answers[-1]), prompt_characters, sum(map(len, answers)), turns, flags)


def _pair(record: dict[str, Any], layout: Layout) -> tuple[str, str] | Wrong:
    """The prompt, with what stands beside it, and the completion."""
    prompt = text_in(record, layout.prompt or "", "prompt")
    if isinstance(prompt, tuple):
        return prompt
    completion = text_in(record, layout.completion or "", "completion")
    if isinstance(completion, tuple):
        return completion
    more = _optional(record, layout.more)
    if isinstance(more, tuple):
        return more
    return f"{prompt}\n\n{more}" if more else prompt, completion


def _turned(record: dict[str, Any], layout: Layout) -> Row | Wrong:
    pair = _pair(record, layout)
    if len(pair) == 3:
        return pair
    system = _optional(record, layout.system)
    if isinstance(system, tuple):
        return system
    turns = [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return conversation([{"role": "system", "content": system}, *turns] if system else turns)


def _completion(record: dict[str, Any], layout: Layout) -> Row | Wrong:
    pair = _pair(record, layout)
    if len(pair) == 3:
        return pair
    prompt, completion = pair
    answer, question = even(completion), even(prompt)
    flags = SHORT if len(answer) < FEW_CHARACTERS and answer.count(" ") < FEW_WORDS - 1 else 0
    flags |= MARKS if any("<|" in text and "|>" in text for text in pair) else 0
    return Row({"prompt": prompt, "completion": completion}, f"{question}\x1f{answer}", question, answer, len(prompt), len(completion), 2, flags)


def _document(record: dict[str, Any], layout: Layout) -> Row | Wrong:
    text = text_in(record, layout.text or "", "text")
    if isinstance(text, tuple):
        return text
    flags = MARKS if "<|" in text and "|>" in text else 0
    return Row({"text": text}, even(text), "", "", 0, len(text), 0, flags)


def _optional(record: dict[str, Any], column: str | None) -> str | Wrong | None:
    """A text that may be missing or blank."""
    value = record.get(column) if column else None
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return value if isinstance(value, str) else text_in(record, column or "", column or "")


def text_in(record: dict[str, Any], column: str, what: str) -> str | Wrong:
    """A text that must be there; `what` names it in messages (text, prompt, completion)."""
    value = record.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        state = "missing" if column not in record else "blank"
        remedy = "fill it in or delete the row"
        return f"no {what}", f"the {what} in column `{column}` is {state}", remedy
    if not isinstance(value, str):
        remedy = "map it as data.messages" if isinstance(value, list) and what != "text" else "write it in quotes"
        return f"{what} of another type", f"column `{column}` holds {json_type(value)}, expected text", remedy
    return value
