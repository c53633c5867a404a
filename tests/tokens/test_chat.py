"""How dialogues are written: which template, within which fence, and where the answers stand in the text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import UserError
from tunesmith.models.scratch import TEMPLATE
from tunesmith.tokens import chat_template
from tunesmith.tokens.chat_template import PLAIN, Chat

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "2"},
]


def folder(path: Path, **config: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"} | config))
    return path


# --- which template -----------------------------------------------------------------------------------------------------------


def test_auto_takes_the_tokenizers_own_and_else_the_plain_one(tmp_path: Path) -> None:
    assert chat_template.load(folder(tmp_path / "own", chat_template="{{ messages[0].content }}")).template == "{{ messages[0].content }}"
    for number, nothing in enumerate((None, "", " \n", [], [{"name": "tool_use", "template": "x"}])):
        assert chat_template.load(folder(tmp_path / str(number), chat_template=nothing)).template == PLAIN
    (tmp_path / "bare").mkdir()
    assert chat_template.load(tmp_path / "bare") == Chat(PLAIN, {})
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    assert chat_template.load(folder(tmp_path / "named", chat_template=named)).template == "y"


def test_a_file_goes_before_the_config_and_the_recipe_before_both(tmp_path: Path) -> None:
    there = folder(tmp_path, chat_template="from the config")
    (there / "chat_template.jinja").write_text("from the file — é", encoding="utf-8")
    assert chat_template.load(there).template == "from the file — é"
    assert chat_template.load(there, "plain").template == PLAIN and chat_template.load(there, "none").template == ""


def test_special_tokens_are_read_in_both_their_forms(tmp_path: Path) -> None:
    made = chat_template.load(folder(tmp_path, bos_token={"content": "<s>", "lstrip": False}, pad_token=None, unk_token={"odd": 1}))
    assert dict(made.tokens) == {"bos_token": "<s>", "eos_token": "</s>"}


def test_plain_by_eye(tmp_path: Path) -> None:
    made = chat_template.load(folder(tmp_path), "plain")
    assert made.write(TURNS[:2], True) == "System:\nBe brief.\nUser:\nOne?\nAssistant:\n"
    assert made.write(TURNS[1:4], False) == "User:\nOne?\nAssistant:\n1</s>\nUser:\nTwo?\n"
    assert chat_template.load(folder(tmp_path), "none").write(TURNS[1:3], True) == "One?1"


BLOCKS = """{% for m in messages %}
    {%- if m.role == 'assistant' %}
<a>{% generation %}{{ m.content | trim }}{% endgeneration %}</a>
    {%- elif loop.first %}
{{ bos_token }}{{ m | tojson }}
    {%- else %}
        {%- if m.content == 'stop' %}{% break %}{% endif %}
[{{ m.role }}] {{ m.content }}
    {%- endif %}
{%- endfor %}
{%- set ns = namespace(n=messages | length) -%}
{{ ns.n }}{% if add_generation_prompt %}<a>{% endif %}
"""


NEWLINE = "{% for m in messages %}{{ m.content }}\n{% endfor %}\n{{ messages[0].content }}\n"


@pytest.mark.parametrize("template", [CHATML, TEMPLATE, BLOCKS, NEWLINE], ids=["chatml", "scratch", "blocks", "newline at its end"])
@pytest.mark.parametrize("turns", [TURNS, TURNS[1:2], [*TURNS[:3], {"role": "user", "content": "stop"}, TURNS[4]]], ids=["five", "one", "stop"])
def test_texts_are_those_of_transformers(template: str, turns: list[dict[str, str]]) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    made = Chat(template, {"bos_token": "<s>", "eos_token": "</s>"})
    for answer_next in (False, True):
        texts, _ = render_jinja_template([turns], chat_template=template, add_generation_prompt=answer_next, bos_token="<s>", eos_token="</s>")
        assert made.write(turns, answer_next) == texts[0]


def test_a_template_knows_no_day_but_one() -> None:
    assert Chat("{{ strftime_now('%d %b %Y') }}", {}).write(TURNS, False) == "01 Jan 2026"


# --- the fence ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{% for m in messages %}{{ m.update({'content': 'x'}) }}{% endfor %}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for i in range(1000000000) %}{% endfor %}", "Range too big"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{% include 'x' %}", "no loader"),
        ("{{ messages[0].content + 1 }}", "can only concatenate"),
    ],
)
def test_what_a_template_must_not_do_is_the_users_error(tmp_path: Path, template: str, said: str) -> None:
    with pytest.raises(UserError, match=r"the base's chat template cannot write this dialogue") as caught:
        chat_template.load(folder(tmp_path, chat_template=template))
    assert said in str(caught.value) and caught.value.remedy == "set objective.template: plain"


def test_a_template_sees_no_class_and_changes_no_message(tmp_path: Path) -> None:
    assert chat_template.load(folder(tmp_path, chat_template="[{{ ''.__class__ }}]")).write(TURNS, False) == "[]"
    turns = [dict(one) for one in TURNS]
    with pytest.raises(UserError):
        Chat("{% for m in messages %}{{ m.pop('content') }}{% endfor %}", {}).write(turns, False)
    assert turns == TURNS


LONG = "{% for a in range(3000) %}{% for b in range(3000) %}{% endfor %}{% endfor %}"  # half a second; it ends, so that no thread outlives the test


def test_a_template_without_an_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "TIME_LIMIT", 0.05)
    with pytest.raises(UserError, match=r"the base's chat template does not end within 0.05 s"):
        chat_template.load(folder(tmp_path, chat_template=LONG))
    monkeypatch.undo()
    assert chat_template.load(folder(tmp_path, chat_template=LONG), "plain").template == PLAIN


def test_a_template_without_an_end_once_there_is_an_answer_is_stopped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "TIME_LIMIT", 0.05)
    with pytest.raises(UserError, match="does not end within"):
        chat_template.load(folder(tmp_path, chat_template="{% if messages | length > 1 %}" + LONG + "{% endif %}x"))


# --- where answers stand ------------------------------------------------------------------------------------------------------


def spans(template: str, turns: list[dict[str, str]], learn: Any) -> list[str]:
    text, found = chat_template.written(Chat(template, {"eos_token": "</s>"}), turns, learn)
    return [text[start:stop] for start, stop in found]


@pytest.mark.parametrize(
    ("template", "after"), [(CHATML, "<|im_end|>\n"), (TEMPLATE, "<|end|>"), (PLAIN, "</s>\n"), ("", "")], ids=["chatml", "scratch", "plain", "none"]
)
def test_answers_end_with_their_mark(template: str, after: str) -> None:
    assert spans(template, TURNS, "every") == ["1" + after, "2" + after]
    assert spans(template, TURNS, "last") == ["2" + after]
    assert spans(template, TURNS[2:3], "every") == ["1" + after]


def test_what_follows_the_last_answer_is_left_out() -> None:
    text, found = chat_template.written(Chat(TEMPLATE, {}), [*TURNS, {"role": "user", "content": "Three?"}], "every")
    assert text.endswith("<|assistant|>2<|end|>") and found[-1][1] == len(text)
    assert chat_template.written(Chat(TEMPLATE, {}), TURNS[:4], "last")[0].endswith("<|assistant|>1<|end|>")


def test_the_text_is_the_same_whichever_answers_are_learnt() -> None:
    made = Chat(CHATML, {})
    assert chat_template.written(made, TURNS, "every")[0] == chat_template.written(made, TURNS, "last")[0] == made.write(TURNS, False)


REWRITES = (  # as reasoning models do: an earlier answer is written shorter once another follows
    "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' and not loop.last %}...{% else %}{{ m.content }}{% endif %};{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
OPENS = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}assistant:<think>{% endif %}"


def test_a_template_that_rewrites_earlier_turns_is_refused_where_they_are_learnt() -> None:
    with pytest.raises(UserError, match="writes earlier turns differently once later ones are there") as caught:
        spans(REWRITES, TURNS, "every")
    assert "set objective.learn: last, or objective.template: plain" in str(caught.value)
    assert spans(REWRITES, TURNS, "last") == ["2;"] and spans(REWRITES, TURNS[:3], "every") == ["1;"]
    with pytest.raises(UserError, match="differently"):
        spans(OPENS, TURNS, "last")


words = st.text(st.characters(codec="utf-8"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=4), st.booleans(), st.sampled_from([CHATML, TEMPLATE, PLAIN, ""]))
def test_spans_hold_the_answers_whatever_they_say(pairs: list[tuple[str, str]], system: bool, template: str) -> None:
    turns = [{"role": "system", "content": "s"}] * system
    for question, answer in pairs:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    found = spans(template, turns, "every")
    assert len(found) == len(pairs) and all(one.startswith(answer) for one, (_, answer) in zip(found, pairs, strict=True))
    assert spans(template, turns, "last") == found[-1:]
