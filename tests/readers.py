"""Small tokenizers of every kind, and dialogues for them."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tunesmith import starters
from tunesmith.tokens import tokenization, word_cache

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDLESS = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
CORPUS = ["the café's bills: 12 + 345, naïve 東京 tests\n\n  of white\tspace and I'll've <mask>"] * 3


def trained(before: Any, normalizer: Any = None, *added: AddedToken) -> Tokenizer:
    library = Tokenizer(models.BPE())
    library.pre_tokenizer, library.normalizer = before, normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False))
    library.add_tokens(list(added))
    return library


def byte_level() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def digits_apart() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("\\d"), "isolated"), byte_level()])


def found_by(pattern: str) -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


QWEN_2, LLAMA_3, QWEN_3_5, GPT_4O = word_cache.PATTERNS
MARKS = [AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True), AddedToken("<|im", special=True)]
LIBRARIES: dict[str, Any] = {
    "bert": lambda: tokenization.load(starters.base_folder("starter/minilm")).library,
    "scribe": lambda: tokenization.load(starters.base_folder("starter/scribe")).library,
    "byte level": lambda: trained(byte_level()),
    "byte level, composed": lambda: trained(byte_level(), normalizers.NFC()),
    "roberta": lambda: trained(byte_level(), None, AddedToken("<mask>", lstrip=True), AddedToken("bills", single_word=True)),
    "digits apart": lambda: trained(digits_apart()),
    "marks": lambda: trained(byte_level(), None, *MARKS),
    "qwen 2": lambda: trained(found_by(QWEN_2), normalizers.NFC(), *MARKS),
    "llama 3": lambda: trained(found_by(LLAMA_3), None, *MARKS),
    "qwen 3.5": lambda: trained(found_by(QWEN_3_5), normalizers.NFC(), *MARKS, AddedToken("<tool>", normalized=True)),
    "gpt-4o": lambda: trained(found_by(GPT_4O), None, *MARKS, AddedToken("<tool>", normalized=True)),
    "another pattern": lambda: trained(found_by(r"\p{L}+ ?|\s+|[^\s\p{L}]+"), None, *MARKS),
    "words, lower case": lambda: trained(pre_tokenizers.Whitespace(), normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
    "spaces in a token": lambda: trained(pre_tokenizers.WhitespaceSplit(), None, AddedToken("of white")),
    "prefix space": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "metaspace": lambda: trained(pre_tokenizers.Metaspace()),
    "none": lambda: trained(None),
}


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """A dialogue: the user and the assistant in turn."""
    out = [] if system is None else [{"role": "system", "content": system}]
    return out + [{"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)]
