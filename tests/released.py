"""Tiny random bases of many kinds, saved as released checkpoints are: masked language models without a pooler, decoders whose padding token
only the tokenizer knows, scaled word tables, projected states. Every silent fault so far hid where a base was saved as tests like it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

WIDTH, LAYERS, HEADS, INNER, PLACES = 32, 3, 4, 48, 64
WORDS = "the a red green blue dark light sky grass sea box is was near far old new very quite not order parcel late refund card lost where when".split()
LETTERS = [chr(n) for n in range(33, 127)]
SIZES = {"num_hidden_layers": LAYERS, "hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": INNER, "initializer_range": 0.2}


def texts(rows: int) -> list[str]:
    """Sentences of WORDS of unlike lengths, the same each time."""
    return [" ".join(WORDS[(7 * row + 5 * k * (row % 3 + 1)) % len(WORDS)] for k in range(2 + row * 7 % 19)) for row in range(rows)]


def _word_piece(folder: Path, special: list[str], around: tuple[str, str]) -> int:
    """A tokenizer of whole words and letters with [CLS] x [SEP]. Rare words stand first, so that common ids are large."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    rare = [f"rare{n}" for n in range(300)]
    words = [*special, *LETTERS, *(f"##{one}" for one in LETTERS), *rare, *WORDS]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    library = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]" if "[UNK]" in special else "<unk>"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)  # type: ignore[assignment]
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    first, last = around
    pair = f"{first} $A {last} $B:1 {last}:1" if special[0] == "[PAD]" else f"{first} $A {last} $B {last}"
    library.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{first} $A {last}", pair=pair, special_tokens=[(one, vocabulary[one]) for one in around]
    )
    library.save(str(folder / "tokenizer.json"))
    return len(vocabulary)


def _byte_level(folder: Path, special: list[str], around: tuple[str, str] | None) -> int:
    """Byte-level BPE whose special tokens have the largest ids, as GPT-2 and Qwen have them, or (with `around`) the smallest, as RoBERTa."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special if around else [], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    library.train_from_iterator(texts(300), trainer)
    if around:
        first, last = around
        single, pair = (" ".join(part for part in parts if part) for parts in ((first, "$A", last), (first, "$A", last, "$B", last)))
        known = [(one, special.index(one)) for one in around if one]
        library.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=known)  # type: ignore[assignment]
    else:
        library.add_special_tokens([AddedToken(one, special=True) for one in special])
    library.save(str(folder / "tokenizer.json"))
    return library.get_vocab_size()


def _say(folder: Path, **tokens: str | None) -> None:
    """tokenizer_config.json: which token is which."""
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **{k: v for k, v in tokens.items() if v}}))


BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
T5 = ["<pad>", "</s>", "<unk>"]
LLAMA = ["<unk>", "<s>", "</s>"]
GEMMA = ["<pad>", "<eos>", "<bos>", "<unk>"]


def _bert(folder: Path) -> int:
    _say(folder, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", unk_token="[UNK]")
    return _word_piece(folder, BERT, ("[CLS]", "[SEP]"))


def _roberta(folder: Path) -> int:
    _say(folder, pad_token="<pad>", bos_token="<s>", eos_token="</s>", mask_token="<mask>", unk_token="<unk>")
    return _byte_level(folder, ROBERTA, ("<s>", "</s>"))


def _mpnet(folder: Path) -> int:
    _say(folder, pad_token="<pad>", bos_token="<s>", eos_token="</s>", mask_token="<mask>", unk_token="<unk>")
    return _word_piece(folder, ROBERTA, ("<s>", "</s>"))


def _t5(folder: Path) -> int:
    _say(folder, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    return _byte_level(folder, T5, ("", "</s>"))


def _gpt(folder: Path, pad: str | None = None) -> int:
    """GPT-2 and its like name one token, and no padding."""
    _say(folder, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token=pad)
    return _byte_level(folder, ["<|endoftext|>", *([pad] if pad and pad != "<|endoftext|>" else [])], None)


def _qwen(folder: Path) -> int:
    """Qwen ships a padding token in the tokenizer and none in the config."""
    _say(folder, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return _byte_level(folder, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], None)


def _llama(folder: Path) -> int:
    _say(folder, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return _byte_level(folder, LLAMA, ("<s>", ""))


def _gemma(folder: Path) -> int:
    _say(folder, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    return _byte_level(folder, GEMMA, ("<bos>", ""))


def _opt(folder: Path) -> int:
    _say(folder, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    return _byte_level(folder, ROBERTA, ("</s>", ""))


Tokens = Callable[[Path], int]
KV = {"num_key_value_heads": 2}
LLAMA_IDS = {"bos_token_id": 1, "eos_token_id": 2}
BASES: dict[str, tuple[str, Tokens, dict[str, Any]]] = {
    # name: (class as it was saved, tokenizer, config)
    "bert": ("BertForPreTraining", _bert, {**SIZES, "max_position_embeddings": PLACES}),
    "bert-no-pooler": ("BertForMaskedLM", _bert, {**SIZES, "max_position_embeddings": PLACES}),
    "albert": ("AlbertForMaskedLM", _bert, {**SIZES, "embedding_size": 16, "max_position_embeddings": PLACES, "pad_token_id": 0}),
    "roberta": ("RobertaForMaskedLM", _roberta, {**SIZES, "max_position_embeddings": PLACES + 2, "pad_token_id": 1}),
    "xlm-roberta": ("XLMRobertaForMaskedLM", _roberta, {**SIZES, "max_position_embeddings": PLACES + 2, "pad_token_id": 1}),
    "distilbert": (
        "DistilBertForMaskedLM",
        _bert,
        {"dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": INNER, "initializer_range": 0.2, "max_position_embeddings": PLACES},
    ),
    "electra": ("ElectraForPreTraining", _bert, {**SIZES, "embedding_size": 16, "max_position_embeddings": PLACES}),
    "deberta-v2": (
        "DebertaV2ForMaskedLM",
        _bert,
        {
            **{**SIZES, "max_position_embeddings": PLACES, "relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm"},
            **{"share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0},
        },
    ),
    "mpnet": ("MPNetForMaskedLM", _mpnet, {**SIZES, "max_position_embeddings": PLACES + 2, "pad_token_id": 1}),
    "modernbert": (
        "ModernBertForMaskedLM",
        _bert,
        {
            **{**SIZES, "max_position_embeddings": PLACES, "local_attention": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
            **{"cls_token_id": 2, "sep_token_id": 3},
        },
    ),
    "gpt2": ("GPT2LMHeadModel", _gpt, {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": PLACES, "initializer_range": 0.2}),
    "gpt2-pad": (
        "GPT2LMHeadModel",
        lambda folder: _gpt(folder, "<|pad|>"),
        {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": PLACES, "initializer_range": 0.2},
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", _gpt, {**SIZES, "max_position_embeddings": PLACES}),
    "opt": (
        "OPTForCausalLM",
        _opt,
        {
            **{"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "ffn_dim": INNER, "init_std": 0.2},
            **{"word_embed_proj_dim": WIDTH, "max_position_embeddings": PLACES, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2},
        },
    ),
    "opt-projected": (
        "OPTForCausalLM",
        _opt,
        {
            **{"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "ffn_dim": INNER, "init_std": 0.2},
            **{"word_embed_proj_dim": 16, "max_position_embeddings": PLACES, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2},
            **{"do_layer_norm_before": False},
        },
    ),
    "llama": ("LlamaForCausalLM", _llama, {**SIZES, **KV, **LLAMA_IDS, "max_position_embeddings": PLACES}),
    "llama-head-size": ("LlamaForCausalLM", _llama, {**SIZES, **KV, **LLAMA_IDS, "head_dim": 12, "max_position_embeddings": PLACES}),
    "mistral": ("MistralForCausalLM", _llama, {**SIZES, **KV, **LLAMA_IDS, "sliding_window": None, "max_position_embeddings": PLACES}),
    "mistral-window": ("MistralForCausalLM", _llama, {**SIZES, **KV, **LLAMA_IDS, "sliding_window": 6, "max_position_embeddings": PLACES}),
    "qwen2": ("Qwen2ForCausalLM", _qwen, {**SIZES, **KV, "max_position_embeddings": PLACES, "use_sliding_window": False}),
    "qwen3": ("Qwen3ForCausalLM", _qwen, {**SIZES, **KV, "head_dim": 8, "max_position_embeddings": PLACES, "use_sliding_window": False}),
    "gemma": ("GemmaForCausalLM", _gemma, {**SIZES, **KV, "head_dim": 8, "max_position_embeddings": PLACES}),
    "gemma2": (
        "Gemma2ForCausalLM",
        _gemma,
        {**SIZES, **KV, "head_dim": 8, "max_position_embeddings": PLACES, "sliding_window": 8, "query_pre_attn_scalar": 8},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        _gemma,
        {**SIZES, **KV, "head_dim": 8, "max_position_embeddings": PLACES, "sliding_window": 8, "query_pre_attn_scalar": 8},
    ),
    "phi": ("PhiForCausalLM", _gpt, {**SIZES, "max_position_embeddings": PLACES, "partial_rotary_factor": 0.5}),
    "phi3": (
        "Phi3ForCausalLM",
        _llama,
        {**SIZES, **KV, **LLAMA_IDS, "max_position_embeddings": PLACES, "original_max_position_embeddings": PLACES, "pad_token_id": None},
    ),
    "bloom": (
        "BloomForCausalLM",
        _gemma,
        {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1},
    ),
    "mamba": (
        "MambaForCausalLM",
        _gpt,
        {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "state_size": 8, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        _t5,
        {
            **{"d_model": WIDTH, "d_kv": 8, "d_ff": INNER, "num_layers": LAYERS, "num_heads": HEADS, "n_positions": PLACES},
            **{"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
        },
    ),
    "bart": (
        "BartForConditionalGeneration",
        _roberta,
        {
            **{"d_model": WIDTH, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS},
            **{"encoder_ffn_dim": INNER, "decoder_ffn_dim": INNER, "max_position_embeddings": PLACES, "init_std": 0.2, "scale_embedding": True},
            **{"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
        },
    ),
}
"""Every kind: the class whose checkpoint is released, its tokenizer, and its config."""


def save(name: str, folder: Path) -> Path:
    """Write the base of a name into an empty folder."""
    import torch
    import transformers

    kind, tokens, config = BASES[name]
    folder.mkdir(parents=True, exist_ok=True)
    size = tokens(folder)
    made: Any = getattr(transformers, kind)
    settings = made.config_class(vocab_size=size, **config)
    if tokens in (_gpt, _qwen) or name == "gpt2-pad":  # their marks have the largest ids
        library = json.loads((folder / "tokenizer.json").read_text())
        ids = {one["content"]: one["id"] for one in library["added_tokens"]}
        settings.eos_token_id = ids.get("<|im_end|>", ids["<|endoftext|>"])
        settings.bos_token_id = ids["<|endoftext|>"]
        if name != "mamba":
            settings.pad_token_id = None
    torch.manual_seed(sum(map(ord, name)))
    model = made(settings)
    model.save_pretrained(folder)
    return folder
