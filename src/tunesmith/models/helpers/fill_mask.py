"""A masked language model that fills the gap in a text: for the variants of step `replace`. It is one that the user names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tunesmith.core.errors import UserError
from tunesmith.models import catalog, loading
from tunesmith.tokens import tokenization

GAP = "[MASK]"
"""What stands in the gap of a text that is to be filled, whatever the model's own mark is."""
BATCH_ROWS = 32
WORD_STARTS = ("Ġ", "▁")
"""How byte-level and SentencePiece vocabularies mark a piece that begins a word; WordPiece marks those that do not, with ##."""


def filler(folder: Path) -> Callable[[list[str]], list[str]]:
    """Load a masked language model.

    Args:
        folder: as transformers saves it: config.json, *.safetensors and tokenizer.json with a mask token.

    Returns:
        Texts with one GAP each -> the likeliest whole word there; "" where the gap lies beyond what the model reads.

    Raises:
        UserError: there is no such folder, no masked language model in it, or no mask token.
    """
    base = catalog.of_task(folder, "ForMaskedLM", "masked language model")
    reader = tokenization.load(folder)
    mask = next((mark for mark in ("[MASK]", "<mask>") if reader.library.token_to_id(mark) is not None), None)
    if mask is None:
        raise UserError("its tokenizer has no mask token ([MASK] or <mask>)", str(folder), "use the tokenizer that the model was trained with")
    import torch
    from transformers import AutoModelForMaskedLM

    model = loading.pretrained(AutoModelForMaskedLM, folder)
    model.eval()
    mask_id = reader.library.token_to_id(mask)
    vocabulary = [reader.library.id_to_token(index) or "" for index in range(reader.library.get_vocab_size())]
    marked = any(piece.startswith(WORD_STARTS) for piece in vocabulary)
    words = torch.tensor([piece.lstrip("".join(WORD_STARTS)).isalpha() and piece.startswith(WORD_STARTS) == marked for piece in vocabulary])

    def fill(texts: list[str]) -> list[str]:
        out: list[str] = []
        for start in range(0, len(texts), BATCH_ROWS):
            read = [one.ids[: base.max_tokens] for one in reader.library.encode_batch([text.replace(GAP, mask) for text in texts[start : start + BATCH_ROWS]])]
            most = max(map(len, read))
            ids_BL = torch.tensor([one + [reader.pad_id] * (most - len(one)) for one in read])
            seen_BL = torch.tensor([[1] * len(one) + [0] * (most - len(one)) for one in read])
            with torch.inference_mode():
                logits_BLV = model(input_ids=ids_BL, attention_mask=seen_BL).logits
            for ids, logits_LV in zip(read, logits_BLV, strict=True):
                if mask_id not in ids:
                    out.append("")
                    continue
                logits_V = logits_LV[ids.index(mask_id)][: len(words)].masked_fill(~words, float("-inf"))
                out.append(vocabulary[int(logits_V.argmax())].lstrip("".join(WORD_STARTS)))
        return out

    return fill
