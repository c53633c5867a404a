"""A saved language model that answers: prompts as in training, texts whole and without marks, streams equal to batches."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import decoders, normalizers
from tokenizers import models as vocabularies

import tunesmith
from tunesmith import methods
from tunesmith.core.errors import UserError
from tunesmith.core.files import read_json, write_json
from tunesmith.models import catalog, metadata
from tunesmith.models.decode import Generated, Sampling
from tunesmith.models.loading import Head
from tunesmith.models.metadata import Writing
from tunesmith.recipe import Recipe
from tunesmith.serving import engine, generation
from tunesmith.serving.generation import Prompt, Writer
from tunesmith.tokens import chat_template, dialogues, sequences, tokenization
from tunesmith.tokens.word_cache import Words

ASK = [{"role": "user", "content": "what colour is leaf 3?"}]
SHORT = Sampling(max_new_tokens=24)


@pytest.fixture(scope="module")
def writer(talker: Path) -> Writer:
    torch.set_num_threads(1)
    return generation.load(talker / "model")


def test_it_says_what_it_learnt_and_stops(writer: Writer) -> None:
    things = ("rose", "leaf", "sky")
    answers = writer.answer([[{"role": "user", "content": f"what colour is {thing} 7?"}] for thing in things], SHORT)
    assert all(re.fullmatch(r"it is (red|green|blue)\.", answer.text) and answer.ended and not answer.cut for answer in answers)
    assert [answer.tokens for answer in answers] == [len(writer._encoded(answer.text)) for answer in answers]
    assert writer.answer([]) == []
    [short] = writer.answer([ASK], Sampling(max_new_tokens=2))
    assert short.text and not short.ended and short.tokens == 2


FOUR_BITS = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
KINDS: list[Any] = [
    pytest.param({"kind": name}, id=name, marks=FOUR_BITS if name == "qlora" else ()) for name in methods.NAMES if name != "features"
] + [pytest.param({"kind": "prefix", "style": "prompt"}, id="prefix-prompt")]


@pytest.mark.parametrize("kind", KINDS)
def test_what_any_method_saved_writes_as_transformers_does(tiny_llama: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    base = catalog.resolve(catalog.ModelSettings(base=str(tiny_llama)))
    method, chat = methods.get(kind["kind"]), chat_template.load(tiny_llama)
    torch.manual_seed(0)
    model = method.adapt(base, Head(None), Recipe.model_validate({"data": {"train": "x"}, "method": kind}).method)
    for name, one in model.named_parameters():
        if (one.requires_grad and not name.startswith("model.")) or "adapter" in name or "lora" in name:
            torch.nn.init.normal_(one, std=0.2)  # what is fresh in an adapter gives nothing of its own yet
    method.save(model, base, tmp_path)
    writing = Writing(chat.template, dict(chat.tokens), sequences.end_of(tokenization.load(tiny_llama), base.config, chat))
    metadata.write(metadata.About("sft", kind["kind"], base.name, base.sha256, [], False, 128, "head", writing), tmp_path)
    writer: Any = generation.load(tmp_path)
    dialogues = [[{"role": "user", "content": "what colour " * times}] for times in (1, 3, 2)]
    for dialogue, answer in zip(dialogues, writer.answer(dialogues, SHORT), strict=True):
        prompt = writer.prompt(dialogue)
        ids_1T = torch.tensor([prompt.ids])
        settings = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": writing.ends, "pad_token_id": 0}
        ids = writer.model.generate(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), **settings)[0].tolist()[ids_1T.shape[1] :]
        assert writer._text(prompt, [one for one in ids if one not in writing.ends], True) == answer.text and answer.ended == (ids[-1] in writing.ends)


@pytest.mark.parametrize("template", ["auto", "plain", "none"])
def test_prompts_are_those_of_training(writer: Writer, tiny_llama: Path, template: chat_template.Template) -> None:
    """The learnt answer begins exactly where the prompt ends."""
    reader, chat = tokenization.load(tiny_llama), chat_template.load(tiny_llama, template)
    ends = sequences.end_of(reader, read_json(tiny_llama / "config.json"), chat)
    base = catalog.resolve(catalog.ModelSettings(base=str(tiny_llama)))
    ours = generation.of_base(base, Writing(chat.template, dict(chat.tokens), ends), 128)
    dialogue = [*ASK, {"role": "assistant", "content": "it is green."}]
    [piece] = dialogues.answers(reader, chat, iter([[dialogue]]), ends, 128, "head", "every", sequences.Losses())
    assert piece.learnt is not None
    prompt = ours.prompt(ASK, SHORT).ids
    assert piece.ids[: len(prompt)].tolist() == prompt and piece.learnt.tolist()[: len(prompt) + 1] == [False] * len(prompt) + [True]
    assert ours.limit == writer.limit == 128 and not ours.model.training
    assert [one.text for one in ours.answer([ASK], SHORT)] != [one.text for one in writer.answer([ASK], SHORT)]


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_a_stream_is_the_batch_in_pieces(writer: Writer, temperature: float) -> None:
    """At a temperature of 3 the model writes bytes that are no characters, marks and white space: nothing of it may come in halves."""
    for seed in range(12):
        settings = Sampling(max_new_tokens=40, temperature=temperature, seed=seed)
        pieces = list(writer.stream(ASK, settings))
        [answer] = writer.answer([ASK], settings)
        assert "".join(pieces) == answer.text and all(pieces) and "<|" not in answer.text
        assert answer.text == answer.text.strip()
        if temperature == 0:
            assert len(pieces) > 1
            return


def spelled(writer: Writer, monkeypatch: pytest.MonkeyPatch, ids: list[int], library: Any = None) -> tuple[list[str], str]:
    """Pieces and text of an answer of these tokens."""
    if library is not None:
        monkeypatch.setattr(writer, "_reader", tokenization.Tokenizer(library, Words(library), (), (), 0, False))
        monkeypatch.setattr(writer, "_hidden", set())
    prompt = Prompt([0], False)
    monkeypatch.setattr(generation.decode, "steps", lambda *_: iter([[(0, one)] for one in [*ids, writer._ends[0]]]))
    monkeypatch.setattr(generation.decode, "generate", lambda *_: [Generated(ids, True)])
    [answer] = writer._written([prompt], SHORT, None, False)
    monkeypatch.setattr(writer, "_chat", chat_template.Chat("", {}))
    return list(writer.streamed(prompt, SHORT)), answer.text


def test_characters_of_several_bytes_come_whole(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = writer._encoded("aé 東京 👍🏽!")
    assert len(ids) > 15
    pieces, whole = spelled(writer, monkeypatch, ids)
    assert "".join(pieces) == whole == "aé 東京 👍🏽!" and pieces[:2] == ["a", "é"] and "京" in pieces
    broken = [*ids[:-3], *writer._encoded("b")]  # a character cut short, then another
    pieces, whole = spelled(writer, monkeypatch, broken)
    assert "".join(pieces) == whole and "\ufffd" in whole and whole.endswith("b")
    assert spelled(writer, monkeypatch, ids[:3]) == (["a", "é"], "aé") and spelled(writer, monkeypatch, ids[:2]) == (["a", "\ufffd"], "a\ufffd")


def test_sentencepiece_keeps_spaces_and_bytes(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama 2's way: `▁` for spaces, whose first goes, and bytes for what the vocabulary lacks."""
    names = ["</s>", "▁Hello", "▁world", *(f"<0x{byte:02X}>" for byte in range(256)), "ly"]
    library = Library(vocabularies.BPE({name: i for i, name in enumerate(names)}, [], unk_token="</s>", byte_fallback=True))
    library.normalizer = normalizers.Replace(" ", "▁")  # type: ignore[assignment]
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    library.decoder = decoders.Sequence(parts)  # type: ignore[assignment]
    monkeypatch.setattr(generation, "CONTEXT_TOKENS", 1)
    bytes_of = [3 + byte for byte in "é\n".encode()]
    ids = [2, 259, *bytes_of, 2, 3 + 0xC3, 2]
    monkeypatch.setattr(writer, "_ends", [0])
    prompt = Prompt([1], False)
    monkeypatch.setattr(writer, "_reader", tokenization.Tokenizer(library, Words(library), (), (), 0, False))
    monkeypatch.setattr(writer, "_hidden", {0})
    pieces = list(writer._pieces(prompt, ids, False))
    assert pieces == [" world", "ly", "é\n world", "\ufffd world"]
    assert writer._text(prompt, ids, False) == "".join(pieces)
    assert writer._text(prompt, ids, True) == "worldly" + "é\n world\ufffd world"


def test_special_tokens_never_show(writer: Writer) -> None:
    ids = [*writer._encoded("it <|im_start|>is"), 0, 1, *writer._encoded(" so<|im_end|>")]
    assert writer._text(Prompt([0], False), ids, True) == "it is so"


def test_a_mark_that_the_tokenizer_holds_for_a_word_does_not_show(writer: Writer) -> None:
    """Some bases name a token as special in their config alone."""
    assert len(writer._encoded("z")) == 1
    about = replace(writer.about, writing=Writing("", {"bos_token": "z"}, writer._ends))
    assert Writer(about, writer.model, writer._reader)._text(Prompt([0], False), writer._encoded("it zis"), True) == "it is"


def test_a_dialogue_too_long_loses_its_oldest_turns(writer: Writer) -> None:
    system = {"role": "system", "content": "what"}
    turns = [{"role": role, "content": f"{word} colour"} for i in range(9) for role, word in (("user", "what"), ("assistant", "red"))]
    room = writer.limit - SHORT.max_new_tokens
    prompt = writer.prompt([system, *turns, *ASK], SHORT)
    assert prompt.cut and len(prompt.ids) <= room
    kept = [writer._ids([system, *turns[2 * drop :], *ASK]) for drop in range(10)]
    assert prompt.ids == next(ids for ids in kept if len(ids) <= room) and len(kept[0]) > room
    assert writer.answer([[system, *turns, *ASK]], SHORT)[0].cut
    # Half of the limit is the prompt's, whatever the answer may take.
    assert writer.prompt([system, *turns, *ASK], Sampling(max_new_tokens=1000)).ids == next(ids for ids in kept if len(ids) <= 64)


def test_a_message_too_long_keeps_its_end_and_the_template(writer: Writer) -> None:
    system = {"role": "system", "content": "what"}
    prompt = writer.prompt([system, {"role": "user", "content": " ".join(f"rose {i}" for i in range(100))}], SHORT)
    written = writer._reader.library.decode(prompt.ids, skip_special_tokens=False)
    assert prompt.cut and 100 <= len(prompt.ids) <= 104
    assert written.startswith("<|im_start|>system\nwhat<|im_end|>\n<|im_start|>user\n") and written.endswith("rose 99<|im_end|>\n<|im_start|>assistant\n")
    with pytest.raises(UserError) as error:
        writer.prompt([{"role": "system", "content": "rose 1 " * 100}, *ASK], SHORT)
    assert re.fullmatch(r"the dialogue has \d{3} tokens even without its longest message, and 104 fit beside the answer", error.value.what)
    assert error.value.remedy == "shorten the system message, or ask for fewer max_new_tokens (the base's limit is 128 tokens)"


def test_texts_go_on_as_they_are(teller: Path) -> None:
    writer = generation.load(teller / "model")
    given = "once there was"
    [answer] = writer.complete([given], SHORT)
    assert answer == writer.answer([[{"role": "user", "content": given}]], SHORT)[0]
    whole = writer._reader.library.decode([*writer._encoded(given), *next(iter(generated(writer, given)))])
    assert given + answer.text == whole and answer.text[:1] in (" ", *"abcdefghijklmnopqrstuvwxyz")
    [long] = writer.complete(["once there was rose " * 100], SHORT)
    assert long.cut and 1 <= long.tokens <= 24
    assert writer.complete([""], SHORT)[0].tokens >= 0  # begins after an end


def generated(writer: Writer, given: str) -> list[list[int]]:
    return [one.ids for one in generation.decode.generate(writer.model, [writer._encoded(given)], writer._ends, SHORT, writer.limit)]


def test_each_kind_of_model_says_so_where_the_other_is_wanted(talker: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"this model writes texts \(sft\), it gives no labels\n  -> use tunesmith predict or tunesmith chat"):
        engine.load(talker / "model")
    shutil.copytree(talker / "model", tmp_path / "model")
    facts = read_json(tmp_path / "model" / metadata.NAME)
    write_json(tmp_path / "model" / metadata.NAME, facts | {"objective": "classification", "writing": None})
    with pytest.raises(UserError, match=r"this model gives labels \(classification\), it writes no texts"):
        generation.load(tmp_path / "model")


def test_python_predicts_and_chats(talker: Path, writer: Writer) -> None:
    run = tunesmith.load(talker)
    texts = [ASK[0]["content"], "what colour is sky 1?"]
    found: Any = run.predict(texts, max_new_tokens=24)
    assert found == writer.answer([[{"role": "user", "content": text}] for text in texts], SHORT)
    assert run.chat(ASK, max_new_tokens=24) == found[0] and run.predict([]) == []
    with pytest.raises(UserError, match="`temprature` is nothing that sampling knows, did you mean `temperature`"):
        run.predict(texts, temprature=1)
    with pytest.raises(UserError, match="this run's model writes texts and takes no pairs"):
        run.predict(texts, ["a", "b"])
    with pytest.raises(UserError, match="predict takes a list of texts"):
        run.predict("a")
