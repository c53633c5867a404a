"""Names by a token classifier: a stand-in whose weights are set by hand, so that each word's tag is known."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tunesmith import starters
from tunesmith.core.errors import UserError
from tunesmith.models.helpers import person_names

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-MISC"]
WORDS = {"alice": "B-PER", "bob": "B-PER", "smith": "I-PER", "main": "B-LOC", "street": "I-LOC", "march": "B-MISC", "##ville": "I-LOC"}


def token_classifier(folder: Path, labels: list[str], opens: str | None = None) -> Path:
    """A BERT that tags each token of WORDS as it says, all others O; with `opens`, also whatever stands first in a window."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertForTokenClassification

    source = starters.base_folder("starter/minilm")
    vocabulary = Tokenizer.from_file(str(source / "tokenizer.json"))
    config = BertConfig(
        **{"vocab_size": 30522, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32},
        **{"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}},
    )
    model: Any = BertForTokenClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name:
                parameter.zero_()
        words, positions = model.bert.embeddings.word_embeddings.weight, model.bert.embeddings.position_embeddings.weight
        words[:, 0] = 1.0
        for word, label in WORDS.items():
            words[vocabulary.token_to_id(word)] = 0
            words[vocabulary.token_to_id(word), LABELS.index(label)] = 1.0
        if opens:
            positions[1, LABELS.index(opens)] = 9.0
        for index in range(len(labels)):
            model.classifier.weight[index, index] = 1.0
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return token_classifier(tmp_path_factory.mktemp("names"), LABELS)


def found(finder: Any, text: str) -> list[tuple[str, str]]:
    return [(text[start:end], kind) for start, end, kind in finder([text])[0]]


def test_names_and_addresses_are_found_in_whole_words(folder: Path) -> None:
    finder = person_names.finder(folder)
    assert found(finder, "please ask Alice Smith, Main Street 5, in March") == [("Alice Smith", "name"), ("Main Street", "address")]
    assert found(finder, "Alice Bob Smith") == [("Alice", "name"), ("Bob Smith", "name")]
    assert found(finder, "smith and street") == [("smith", "name"), ("street", "address")]  # I- without a B- before it
    assert found(finder, "to Quaxville!") == [("Quaxville", "address")]  # one of its pieces was tagged
    assert finder(["", "   ", "nobody here"]) == [[], [], []]
    assert finder([]) == []


def test_offsets_are_characters_of_the_text_as_given(folder: Path) -> None:
    finder = person_names.finder(folder)
    for text in ("👩🏽‍💻 Alice 😀", "ﬁ ½ Bob", "cafe\u0301 \u2028 alice", "\u00a0\u00a0Bob\t"):
        (start, end, kind), *rest = finder([text])[0]
        assert text[start:end].lower() in ("alice", "bob") and kind == "name" and not rest
    assert found(finder, "x Alice\u0301 y") == [("Alice\u0301", "name")]


def test_a_batch_gives_what_each_text_gives_alone(folder: Path) -> None:
    finder = person_names.finder(folder)
    draw = random.Random(0)
    texts = [" ".join(draw.choices(["Alice", "Smith", "Main", "Street", "the", "of", "it"], k=draw.randrange(0, 90))) for _ in range(60)]
    assert finder(texts) == [finder([text])[0] for text in texts]


def test_long_texts_are_read_in_windows_and_the_middle_counts(tmp_path: Path) -> None:
    finder = person_names.finder(token_classifier(tmp_path, LABELS, opens="B-PER"))
    text = "so " + "and then " * 100 + "Main Street"
    assert found(finder, text) == [("so", "name"), ("Main Street", "address")]  # the first word of each later window is another's middle


@pytest.mark.parametrize("labels", ["O PERSON X STREET Y Z", "O S-PER E-PER U-GPE L-GPE B-X", "O first_name x zipcode y z"])
def test_other_label_schemes(tmp_path: Path, labels: str) -> None:
    finder = person_names.finder(token_classifier(tmp_path, labels.split()))
    assert found(finder, "ask alice at main") == [("alice", "name"), ("main", "address")]


def test_neighbours_of_a_scheme_without_prefixes_are_one(tmp_path: Path) -> None:
    finder = person_names.finder(token_classifier(tmp_path, ["O", "PER", "PER", "LOC", "LOC", "MISC"]))
    assert found(finder, "Alice Smith of Main Street") == [("Alice Smith", "name"), ("Main Street", "address")]


def test_what_cannot_be_used_is_refused(tmp_path: Path, folder: Path, tiny_base: Path) -> None:
    with pytest.raises(UserError) as none:
        person_names.finder(tmp_path / "nowhere")
    assert str(none.value) == (
        f"{tmp_path / 'nowhere'}: there is no such folder\n  -> give the folder of a token-classification model, with config.json and model.safetensors"
    )
    with pytest.raises(UserError) as other:
        person_names.finder(tiny_base)
    assert "not a token-classification model: `architectures` in its config.json says `BertModel`" in str(other.value)
    strangers = tmp_path / "strangers"
    shutil.copytree(folder, strangers)
    config = json.loads((strangers / "config.json").read_text())
    config["id2label"] = {str(index): f"LABEL_{index}" for index in range(6)}
    (strangers / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as labels:
        person_names.finder(strangers)
    assert "none of the model's labels stands for persons: `LABEL_0`, `LABEL_1`" in str(labels.value) and "mend id2label" in labels.value.remedy
    (strangers / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForTokenClassification": "evil.Model"}}))
    with pytest.raises(UserError, match="runs code that comes with the model"):
        person_names.finder(strangers)
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \.safetensors weights"):
        person_names.finder(pickled)
