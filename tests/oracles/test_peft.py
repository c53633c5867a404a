"""What learns beside a frozen base against PEFT on transformers' own forward: the same logits, gradients, steps, and files that PEFT opens."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import classes, texts, tiny_llama
from exact import TIGHT, double
from torch.nn import functional as F

from tunesmith import methods
from tunesmith.core.errors import UserError
from tunesmith.models import decode
from tunesmith.models.fast import llama
from tunesmith.tokens import batching
from tunesmith.tokens.sequences import NOT_LEARNT

__all__ = ["classes", "texts", "tiny_llama"]
FOUR_BITS = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
CASES = [
    pytest.param("lora", {"targets": ["q_proj", "v_proj", "down_proj"]}, id="lora"),
    pytest.param("lora", {"rank_stabilised": True}, id="rslora"),
    pytest.param("lora", {"weight_decomposed": True}, id="dora"),
    pytest.param("prefix", {"tokens": 5}, id="prefix"),
    pytest.param("prefix", {"tokens": 5, "projection": True}, id="projection"),
    pytest.param("prefix", {"tokens": 5, "style": "prompt"}, id="prompt"),
    pytest.param("qlora", {}, id="qlora", marks=FOUR_BITS),
]


def stirred(model: Any) -> Any:
    """Where a product starts at zero, half of the gradients do too: give B something."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_B" in name:
                one.normal_(std=0.02)
    return model


def theirs(base: Path, classifier: bool) -> Any:
    """transformers' own model, untouched by us."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if classifier:
        return AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return AutoModelForCausalLM.from_pretrained(base)


def their_loss(model: Any, batch: Any) -> torch.Tensor:
    """The mean over learnt tokens, each row alone through PEFT's forward."""
    lengths = batch.inputs["lengths"].tolist()
    logits = torch.cat([model(input_ids=row[None]).logits[0, -len(row) :] for row in batch.inputs["ids"].split(lengths)])
    return F.cross_entropy(logits, batch.targets, ignore_index=NOT_LEARNT)


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def apart(ours: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest number."""
    assert ours.keys() == others.keys() and ours
    return max(float((ours[name] - others[name]).abs().max()) for name in ours) / max(float(one.abs().max()) for one in others.values())


def precise(kind: str, model: Any) -> tuple[Any, float, float]:
    """The model in float64 with the bounds of a difference in its gradients and weights; bitsandbytes computes four bits in fp32 alone."""
    return (model, 1e-5, 1e-5) if kind == "qlora" else (double(model), TIGHT, TIGHT)


@pytest.mark.parametrize("recompute", [False, True], ids=["", "recomputed"])
@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_a_language_model_learns_as_with_peft(texts: Any, kind: str, settings: dict[str, Any], recompute: bool) -> None:
    bench = texts()
    model, tolerance, _ = precise(kind, stirred(bench.adapt(kind, **settings)).train())
    llama.configure(model, 0.0, recompute, False)
    batch = bench.examples.batch(np.arange(8))
    loss = bench.objective.loss(model, batch).total / bench.objective.units(batch)
    ours = gradients(model, loss)
    expected = their_loss(model, batch)
    again = gradients(model, expected)
    assert float(loss) == pytest.approx(float(expected), rel=tolerance)
    assert apart(ours, again) < tolerance and max(float(one.abs().max()) for one in ours.values()) > 1e-3
    single = bench.examples.batch(np.arange(1))
    alone = gradients(model, bench.objective.loss(model, single).total / bench.objective.units(single))
    assert apart(alone, gradients(model, their_loss(model, single))) < tolerance


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_steps_of_a_language_model_are_adamw_on_pefts_loss(texts: Any, kind: str, settings: dict[str, Any]) -> None:
    """Three steps through the loop, against torch's AdamW on PEFT's forward."""
    rate, decay = 1e-3, 0.1
    bench = texts(24)
    (ours, _, tolerance), (other, _, _) = (precise(kind, stirred(bench.adapt(kind, **settings))) for _ in range(2))
    noise = 1e-5 if kind == "qlora" else 0.0
    learns = {name: one for name, one in other.named_parameters() if one.requires_grad}
    parts = [{"params": [p for p in learns.values() if (p.ndim >= 2) is big], "weight_decay": decay if big else 0.0} for big in (True, False)]
    optimizer = torch.optim.AdamW([part for part in parts if part["params"]], lr=rate)
    bench.train(kind, ours, learning_rate=rate, weight_decay=decay, clip_norm=0)
    small = {name: torch.zeros_like(one, dtype=torch.bool) for name, one in learns.items()}
    for rows in batching.plan(bench.examples.lengths_N, 8, None, 0, 0, True):
        their_loss(other, bench.examples.batch(rows)).backward()
        for name, one in learns.items():
            small[name] |= (one.grad.abs() < noise) & (one.grad != 0)
        optimizer.step()
        optimizer.zero_grad()
    left_out = sum(int(one.sum()) for one in small.values()) / sum(one.numel() for one in small.values())
    assert left_out < (0.2 if noise else 1e-12), left_out  # where an fp32 gradient is nearly zero AdamW makes a step of its rounding
    for name, one in ours.named_parameters():
        if name in learns:
            assert float((one - learns[name])[~small[name]].abs().max()) < tolerance, name


@pytest.mark.parametrize(("kind", "settings"), [case for case in CASES if case.id != "qlora"])
def test_peft_opens_a_language_models_files(texts: Any, kind: str, settings: dict[str, Any]) -> None:
    from peft import PeftModel

    bench = texts()
    model = stirred(bench.adapt(kind, **settings))
    bench.train(kind, model, learning_rate=1e-2)
    loaded, folder = bench.reloaded(kind, model)
    opened = PeftModel.from_pretrained(theirs(bench.base.folder, False), folder).eval()
    loaded, opened = double(loaded), double(opened)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(bench.base.folder)
    batch = bench.examples.batch(np.arange(5))
    with torch.no_grad():
        rows = batch.inputs["ids"].split(batch.inputs["lengths"].tolist())
        logits = torch.cat([opened(input_ids=row[None]).logits[0, -len(row) :] for row in rows])
        own = torch.cat([loaded(input_ids=row[None]).logits[0, -len(row) :] for row in rows])
    rounded = 1e-5 if kind == "lora" else TIGHT  # on loading, LoRA is merged into fp32 weights
    assert float((bench.logits(loaded) - logits).abs().max()) < rounded
    assert float((own - logits).abs().max()) < rounded
    written = [one.generate(input_ids=rows[0][None], attention_mask=torch.ones(1, len(rows[0])), max_new_tokens=4, do_sample=False) for one in (loaded, opened)]
    assert torch.equal(*written) and written[0].shape[1] > len(rows[0])
    told = decode.generate(loaded, [row.tolist() for row in rows], [], decode.Sampling(max_new_tokens=4), 128)
    each = [opened.generate(input_ids=row[None], attention_mask=torch.ones(1, len(row)), max_new_tokens=4, do_sample=False, eos_token_id=None) for row in rows]
    assert [one.ids for one in told] == [ids[0, -4:].tolist() for ids in each]


@pytest.mark.parametrize("settings", [case.values[1] for case in CASES if case.values[0] == "prefix"], ids=["prefix", "projection", "prompt"])
def test_a_classifier_behind_a_prefix_is_pefts(classes: Any, settings: dict[str, Any]) -> None:
    """On a BERT without our forward: logits and gradients; then the files."""
    from peft import PeftModel

    model = classes.adapt("prefix", **settings)
    classes.train("prefix", model, learning_rate=1e-2)
    loaded, folder = classes.reloaded("prefix", model)
    opened = PeftModel.from_pretrained(theirs(classes.base.folder, True), folder).eval()
    model, loaded, opened = double(model), double(loaded), double(opened)
    largest = float(opened.base_model.classifier.modules_to_save["default"].weight.abs().sum(1).max())  # what states within [-1, 1] can give
    rounded = 1e-6 * largest if settings.get("projection") else TIGHT  # the files hold what its network makes, rounded to fp32
    batch = classes.examples.batch(np.arange(8))
    assert not bool(batch.inputs["attention_mask"].all())
    logits = opened(**batch.inputs).logits
    assert float((model(**batch.inputs).logits - logits).abs().max()) < rounded
    assert float((loaded(**batch.inputs).logits - logits).abs().max()) < TIGHT
    if settings.get("projection"):  # its network is gone from the files
        return
    for name, one in opened.named_parameters():
        one.requires_grad_("prompt_encoder" in name or "modules_to_save" in name)
    logits = opened(**batch.inputs).logits
    ours = gradients(model, F.cross_entropy(model(**batch.inputs).logits, batch.targets))
    assert apart(ours, gradients(opened, F.cross_entropy(logits, batch.targets))) < TIGHT
    assert {name.split(".")[0] for name in ours} == {"prompt_encoder", "base_model"}


@pytest.mark.parametrize("style", ["prefix", "prompt"])
def test_a_prefix_begins_as_words(texts: Any, style: str) -> None:
    """At the start a row reads as if P words of the vocabulary stood before it."""
    bench = texts()
    model = double(bench.adapt("prefix", style=style, tokens=6))
    table = model.get_base_model().get_input_embeddings().weight
    front = llama.front(model)
    assert front is not None and front.places == 6
    if front.vectors_PD is not None:
        words = (front.vectors_PD[:, None] - table[None]).abs().sum(-1).argmin(1)
        assert torch.equal(table[words], front.vectors_PD)
    else:
        torch.manual_seed(0)
        words = torch.randint(96, (1, 6))[0]
    batch = bench.examples.batch(np.arange(4))
    longer = [torch.cat([words, row]) for row in batch.inputs["ids"].split(batch.inputs["lengths"].tolist())]
    plain = double(bench.adapt("full").eval())
    with torch.no_grad():
        expected = torch.cat([plain.model(input_ids=row[None]).last_hidden_state[0, 6:] for row in longer])
        made = llama.states(model.eval(), batch.inputs["ids"], batch.inputs["lengths"].tolist())
    assert float((made - expected).abs().max()) < 1e-6  # its keys and values were made in fp32


def test_a_bare_model_has_nothing_in_front(texts: Any) -> None:
    assert llama.front(texts().adapt("full")) is None and llama.front(texts().adapt("lora")) is None


@pytest.mark.parametrize(("settings", "said"), [({"tokens": 60}, "leaves no room for texts"), ({"tokens": 40}, "set model.max_tokens: 24")])
def test_places_are_counted(classes: Any, settings: dict[str, Any], said: str) -> None:
    """The tiny BERT has 64 positions, and rows of up to 40 tokens."""
    classes.examples.tokens.offsets_Q[-1] = classes.examples.tokens.offsets_Q[-2] + 40
    with pytest.raises(UserError) as caught:
        model = classes.adapt("prefix", **settings)
        methods.get("prefix").examples(model, classes.examples, classes.base, lambda done, of: None)
    assert said in str(caught.value)
    assert methods.places(classes.settings("prefix", **settings)) == settings["tokens"] and methods.places(classes.settings("lora")) == 0


@FOUR_BITS
@pytest.mark.parametrize("kind", ["classes", "texts"])
def test_four_bits_are_those_of_the_paper(classes: Any, texts: Any, kind: str) -> None:
    """Each weight is one of 16 values times its block's scale (Dettmers et al., appendix E), and the layer computes with exactly these."""
    from bitsandbytes.functional import dequantize_4bit

    bench = classes if kind == "classes" else texts()
    plain = dict(bench.adapt("full").named_parameters())
    model = stirred(bench.adapt("qlora", rank=4, alpha=8))
    code = [-1.0, -0.69619, -0.52507, -0.39492, -0.28444, -0.18477, -0.09105, 0.0, 0.07958, 0.16093, 0.24611, 0.33792, 0.44071, 0.56262, 0.72296, 1.0]
    seen = 0
    for name, one in model.named_modules():
        if not hasattr(one, "lora_A"):
            continue
        small = getattr(one.base_layer.weight, "quant_state", None)
        if small is None:
            assert name.endswith(("pooler.dense", "classifier"))
            continue
        assert one.base_layer.weight.dtype == torch.uint8 and small.nested and small.quant_type == "nf4"
        weight = dequantize_4bit(one.base_layer.weight.data, small)
        original = plain[name.removeprefix("base_model.model.") + ".weight"]
        blocks = original.detach().flatten().split(64)
        nearest = torch.cat([(b[:, None] / b.abs().max() - torch.tensor(code)).abs().argmin(1) for b in blocks])
        values = torch.cat([torch.tensor(code)[n] * b.abs().max() for n, b in zip(nearest.split(64), blocks, strict=True)])
        assert float((weight.flatten() - values).abs().max()) < 0.02 * float(original.abs().max())  # the scales are rounded too
        x = torch.randn(5, weight.shape[1])
        expected = F.linear(x, weight, one.base_layer.bias) + 2 * x @ one.lora_A["default"].weight.T @ one.lora_B["default"].weight.T
        assert float((one(x) - expected).abs().max()) < 1e-5 * float(expected.abs().max())
        seen += 1
    assert seen == {"classes": 12, "texts": 14}[kind]


@FOUR_BITS
def test_four_bits_measure_and_train_in_turn(texts: Any) -> None:
    """bitsandbytes packs weights anew for CPUs when it answers; training after measuring must see the same weights."""
    bench = texts()
    model = bench.adapt("qlora")
    before = bench.logits(model)
    model.train()
    loss = bench.objective.loss(model, bench.examples.batch(np.arange(8))).total
    loss.backward()
    assert torch.equal(bench.logits(model), before)
    assert [name for name, one in model.named_modules() if getattr(getattr(one, "weight", None), "quant_state", None) is not None] != []


@FOUR_BITS
def test_four_bits_stay_four_bits_in_bf16(texts: Any) -> None:
    """What `precision: bf16` rounds are numbers, not the packed bytes."""
    bench = texts()
    curves = {}
    for precision in ("fp32", "bf16"):
        model = bench.adapt("qlora")
        before = {name: one.detach().clone() for name, one in model.named_parameters() if one.dtype == torch.uint8}
        curves[precision] = bench.train("qlora", model, epochs=2, learning_rate=1e-2, precision=precision)
        assert len(before) == 14 and all(torch.equal(dict(model.named_parameters())[name], one) for name, one in before.items())
    assert curves["bf16"] == pytest.approx(curves["fp32"], abs=0.1) and curves["bf16"][-1] < 0.6 * curves["bf16"][0]


def test_without_bitsandbytes_the_command_is_named(texts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.methods import qlora

    monkeypatch.setattr(qlora, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs bitsandbytes") as caught:
        texts().adapt("qlora")
    assert "pip install 'tunesmith[qlora]'" in str(caught.value)
