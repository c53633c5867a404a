"""A new language model: a tokenizer trained on the rows and a Llama's config, whose random weights training then makes worth something.

Byte-level BPE (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; bytes: Radford et al. 2019): every text has tokens, none is unknown.
Digits stand alone, so that numbers are copied digit by digit rather than guessed whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, model_validator

from tunesmith.core.files import sha256_json, write_bytes, write_json
from tunesmith.core.settings import Settings

END, PAD, ROLES = "<|end|>", "<|pad|>", ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class ScratchSettings(Settings):
    """The size of a new model."""

    vocabulary: int = Field(4096, ge=300)
    """Tokens, of which 256 are bytes and 5 are marks."""
    width: int = Field(256, ge=8)
    """Size of a token's state."""
    layers: int = Field(5, ge=1)
    """Decoder layers."""
    heads: int = Field(4, ge=1)
    """Attention heads; they divide the width."""
    kv_heads: int = Field(2, ge=1)
    """Heads of keys and values; they divide the heads."""
    feed_forward: int = Field(688, ge=8)
    """Size between a layer's two last products."""
    max_tokens: int = Field(512, ge=16)
    """Most tokens it will ever read."""

    @model_validator(mode="after")
    def _divides(self) -> ScratchSettings:
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width} evenly into even sizes, and kv_heads={self.kv_heads} must divide heads")
        return self


def make(settings: ScratchSettings, texts: Iterator[list[str]], folder: Path) -> None:
    """Train the tokenizer and write the folder of a base without weights: `load.language_model` draws them.

    Args:
        settings: its size.
        texts: batches of the training rows' texts.
        folder: an empty one; gets tokenizer.json, tokenizer_config.json, chat_template.jinja and config.json.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD, "model_max_length": settings.max_tokens}
    write_json(folder / "tokenizer_config.json", tokens | {"clean_up_tokenization_spaces": False})
    write_bytes(folder / "chat_template.jinja", TEMPLATE.encode())
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": settings.width,
            "intermediate_size": settings.feed_forward,
            "num_hidden_layers": settings.layers,
            "num_attention_heads": settings.heads,
            "num_key_value_heads": settings.kv_heads,
            "head_dim": settings.width // settings.heads,
            "max_position_embeddings": settings.max_tokens,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "initializer_range": 0.02,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": None,
            "eos_token_id": tokenizer.token_to_id(END),
            "pad_token_id": tokenizer.token_to_id(PAD),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    )


def identity(settings: ScratchSettings) -> str:
    """A hash of all that decides a new model besides the rows."""
    return sha256_json({"scratch": settings.model_dump(), "template": TEMPLATE, "format": 1})
