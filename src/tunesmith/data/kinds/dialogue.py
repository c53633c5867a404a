"""Records -> dialogues, completions, documents, preferences and prompts, strictly: one row, or what is wrong with it and how to mend it.

Texts are kept as they are; only what tells two rows apart (`Row.key`) has its white space evened out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tunesmith.core.errors import nearest
from tunesmith.data.kinds.layout import Layout, transcript
from tunesmith.data.readers.json import STRICT, json_type
from tunesmith.data.settings import DataSettings
from tunesmith.data.texts import Row, Wrong, even, text_in

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant", "system": "system", "tool": "tool"}
SHAREGPT |= {"observation": "tool", "bing": "assistant", "bard": "assistant"}
ALIASES = {name: name for name in ROLES} | {"human": "user", "gpt": "assistant", "model": "assistant", "developer": "system", "function": "tool"}
"""What a role may be called beside its own name: by ShareGPT, Gemma, and OpenAI now and before."""
TEXT_PARTS = ("text", "input_text", "output_text")
"""The types of a content's parts (https://platform.openai.com/docs/api-reference) that are texts."""
MOST_MARGIN = 1e30
"""Larger margins do not fit the 32 bits that they are kept in."""
FEW_WORDS = 3
"""An answer of fewer words teaches little; a convention of ours."""
FEW_CHARACTERS = 20
"""What counts as few words must also be shorter than this, for languages that are written without spaces."""

SYSTEM, BEYOND, OPENS, SHORT, MARKS, NO_SYSTEM = (1 << bit for bit in range(6))
"""Flags of a row: it has a system message; something follows the last answer; the assistant opens; an answer is short;
a text holds a mark like <|end|>; a blank system message was left out."""


def reader(layout: Layout, settings: DataSettings) -> Callable[[dict[str, Any]], Row | Wrong]:
    """What turns a record of this layout into a row, but for the columns that every kind has."""
    make = _FORMS[layout.kind, layout.form]
    return lambda record: make(record, layout)


def again(kind: str, values: Mapping[str, Any]) -> Row | Wrong:
    """A row anew from its columns, whose texts have changed."""
    if kind == "dialogue":
        return conversation(values["messages"])
    if kind == "completion":
        return completion(values["prompt"], values["completion"])
    if kind == "document":
        return document(values["text"])
    if kind == "preference":
        return preference(values["messages"], values["chosen"], values["rejected"], values["margin"])
    return question(values["messages"])


def opening(key: str) -> str:
    """Of the key of a dialogue the beginning, up to the answer to its first question; empty where no question is answered."""
    asked, said = False, []
    for message in key.split("\x1e"):
        said.append(message)
        if asked and message.startswith("assistant\x1f"):
            return "\x1e".join(said)
        asked = asked or message.startswith("user\x1f")
    return ""


def _dialogue(record: dict[str, Any], layout: Layout) -> Row | Wrong:
    column = layout.messages
    assert column is not None
    items = record.get(column)
    if items is None:
        if column in record:
            return "no messages", f"column `{column}` is null", "fill it in or delete the row"
        return "no messages", f"no `{column}` in this row{nearest(column, record)}", f"name the messages `{column}`, as in the other rows"
    if isinstance(items, str) and items.lstrip().startswith("["):  # as in a table, whose fields are texts
        try:
            items = STRICT.decode(items)
        except (ValueError, RecursionError) as error:
            return "messages of another type", f"column `{column}` holds text that is not JSON: {error}", "write a list of messages as JSON"
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
    name = (SHAREGPT if sharegpt else ALIASES).get(role)
    if name is None:
        known: Any = SHAREGPT if sharegpt else ROLES
        remedy = f"the roles are {', '.join(known)}"
        return "unknown role", f"role `{role}` of message {number} is not known{nearest(role, known)}", remedy
    content = item.get(what)
    if isinstance(content, list) and content and all(isinstance(part, dict) for part in content):
        other = next((part for part in content if part.get("type") not in TEXT_PARTS or not isinstance(part.get("text"), str)), None)
        if other is not None:
            kind = f"of type `{other['type']}`, expected text" if other.get("type") not in (None, *TEXT_PARTS) else "without a type or a text"
            return "content of another type", f"`{what}` of message {number} ({name}) has a part {kind}", "leave that part out"
        content = "\n".join(part["text"] for part in content)
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
            flags |= SHORT if _short(text) else 0
        else:
            prompt_characters += len(content)
            prompt = prompt or (text if role == "user" else "")
        flags |= _marks(content)
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
    return completion(*pair)


def completion(prompt: str, text: str) -> Row | Wrong:
    """A row of a prompt and its completion."""
    answer, asked = even(text), even(prompt)
    for name, one in (("prompt", asked), ("completion", answer)):
        if not one:
            return f"no {name}", f"the {name} is blank", "fill it in or delete the row"
    flags = (SHORT if _short(answer) else 0) | _marks(prompt, text)
    return Row({"prompt": prompt, "completion": text}, f"{asked}\x1f{answer}", asked, answer, len(prompt), len(text), 2, flags)


def _document(record: dict[str, Any], layout: Layout) -> Row | Wrong:
    text = text_in(record, layout.text or "", "text")
    if isinstance(text, tuple):
        return text
    return document(text)


def document(text: str) -> Row | Wrong:
    """A row of one text."""
    key = even(text)
    return Row({"text": text}, key, "", "", 0, len(text), 0, _marks(text)) if key else ("no text", "the text is blank", "fill it in or delete the row")


def _preference(record: dict[str, Any], layout: Layout) -> Row | Wrong:
    sides: list[list[dict[str, str]]] = []
    column = layout.messages or layout.prompt
    for name, one in (("chosen", layout.chosen), ("rejected", layout.rejected)):
        side = (not column and transcript(record.get(one or ""))) or _turns(record, one or "", name, "assistant")
        if isinstance(side, tuple):
            return side
        if side[-1]["role"] != "assistant":
            return f"no {name} answer", f"the last message of `{one}` is from the {side[-1]['role']}, expected the assistant's", "end it with the answer"
        sides.append(side)
    if column is not None:
        messages = _turns(record, column, "prompt", "user")
        if isinstance(messages, tuple):
            return messages
        own = [side[len(messages) :] if side[: len(messages)] == messages else side for side in sides]
    else:
        messages = [a for a, b in zip(sides[0][:-1], sides[1][:-1], strict=False) if a == b]
        own = [side[len(messages) :] for side in sides]
        if not messages:
            what = f"`{layout.chosen}` and `{layout.rejected}` begin with nothing that both answer"
            return "no prompt", what, "name the column of what they answer: data.prompt or data.messages"
    if any(len(side) != 1 for side in own):
        what = f"`{layout.chosen}` and `{layout.rejected}` differ in more than their last answer"
        return "answers of several messages", what, "put what both have in common into the prompt, and one answer into each"
    asked = _beside(record, layout, messages)
    if isinstance(asked, tuple):
        return asked
    margin = record.get(layout.margin) if layout.margin else None
    if margin is not None and (isinstance(margin, bool) or not isinstance(margin, (int, float)) or not abs(margin) < MOST_MARGIN):
        return "margin of another type", f"column `{layout.margin}` holds {json_type(margin)}, expected a number", "write how much better the chosen one is"
    return preference(asked, own[0][0]["content"], own[1][0]["content"], None if margin is None else float(margin))


def preference(messages: list[dict[str, str]], chosen: str, rejected: str, margin: float | None) -> Row | Wrong:
    """A row of two answers to one question, of which one is the better."""
    asked = question(messages)
    if not isinstance(asked, Row):
        return asked
    better, worse = even(chosen), even(rejected)
    for name, text in (("chosen", better), ("rejected", worse)):
        if not text:
            return f"no {name} answer", f"the {name} answer is blank", "write it or delete the row"
    if better == worse:
        return "equal answers", "the chosen and the rejected answer are the same", "delete the row: it prefers nothing"
    values = {"messages": asked.values["messages"], "chosen": chosen, "rejected": rejected, "margin": margin}
    flags = asked.flags | (SHORT if _short(better) else 0) | _marks(chosen, rejected)
    size = len(chosen) + len(rejected)
    return Row(values, f"{asked.key}\x1e{better}\x1e{worse}", asked.prompt, better, asked.prompt_characters, size, asked.turns + 1, flags)


def _beside(record: dict[str, Any], layout: Layout, messages: list[dict[str, str]]) -> list[dict[str, str]] | Wrong:
    """The messages with what other columns have of them: the system's before them, more of the last one's text."""
    system, more = _optional(record, layout.system), _optional(record, layout.more)
    for one in (system, more):
        if isinstance(one, tuple):
            return one
    if more:
        messages = [*messages[:-1], messages[-1] | {"content": f"{messages[-1]['content']}\n\n{more}"}]
    return [{"role": "system", "content": str(system)}, *messages] if system else messages


def _question(record: dict[str, Any], layout: Layout) -> Row | Wrong:
    messages = _turns(record, layout.messages or layout.prompt or "", "prompt", "user")
    asked = messages if isinstance(messages, tuple) else _beside(record, layout, messages)
    return asked if isinstance(asked, tuple) else question(asked)


def question(messages: list[dict[str, str]]) -> Row | Wrong:
    """A row of messages that wait for an answer."""
    if messages[-1]["role"] == "assistant":
        return "nothing asked", "the last message is the assistant's, expected a user's", "leave the answer out, or put it into data.chosen or data.completion"
    stands_in = {"role": "assistant", "content": "."}  # so that a dialogue's rules hold
    row = conversation([*messages, stands_in])
    if not isinstance(row, Row):
        return row
    kept = row.values["messages"][:-1]
    key = row.key.rpartition("\x1e")[0]
    return row._replace(values={"messages": kept}, key=key, answer="", answer_characters=0, turns=row.turns - 1, flags=row.flags & ~SHORT)


def _turns(record: dict[str, Any], column: str, what: str, role: str) -> list[dict[str, str]] | Wrong:
    """Messages from a column that holds a list of them, or one text of this role."""
    value = record.get(column)
    value = [value] if isinstance(value, dict) and value.keys() & {"role", "from"} else value
    if isinstance(value, list) and value:
        messages = []
        for number, item in enumerate(value, 1):
            message = message_of(item, number)
            if isinstance(message, tuple):
                return message
            messages.append(message)
        return messages
    text = text_in(record, column, what) if value != [] else (f"no {what}", f"the list in column `{column}` is empty", "fill it in or delete the row")
    return text if isinstance(text, tuple) else [{"role": role, "content": text}]


def _short(answer: str) -> bool:
    return len(answer) < FEW_CHARACTERS and answer.count(" ") < FEW_WORDS - 1


def _marks(*texts: str) -> int:
    return MARKS if any("<|" in text and "|>" in text for text in texts) else 0


def _optional(record: dict[str, Any], column: str | None) -> str | Wrong | None:
    """A text that may be missing or blank."""
    value = record.get(column) if column else None
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return value if isinstance(value, str) else text_in(record, column or "", column or "")


_FORMS = {
    ("dialogue", "messages"): _dialogue,
    ("dialogue", "pair"): _turned,
    ("completion", "pair"): _completion,
    ("document", "text"): _document,
    ("preference", "answers"): _preference,
    ("prompt", "messages"): _question,
}
