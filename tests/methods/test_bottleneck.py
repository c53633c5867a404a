"""Bottleneck adapters against formulas written out here, with no module of ours: the whole forward of a BERT and of a Llama, and one step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact import TIGHT, double
from torch import Tensor
from torch.nn import functional as F

from tunesmith import methods
from tunesmith.core.errors import UserError
from tunesmith.methods.bottleneck import SUBLAYERS
from tunesmith.models import catalog
from tunesmith.models.loading import Head
from tunesmith.tokens.sequences import NOT_LEARNT

Weights = dict[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    out = x @ w[f"{name}.weight"].T
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def adapted(w: Weights, name: str, x: Tensor, f: Any) -> Tensor:
    """A linear layer, and the adapter behind it where there is one: h + U f(D h)."""
    if f"{name}.inner.weight" not in w:
        return linear(w, name, x)
    h = linear(w, f"{name}.inner", x)
    return h + linear(w, f"{name}.up", f(linear(w, f"{name}.down", h)))


def bert(w: Weights, ids_BL: Tensor, mask_BL: Tensor, f: Any) -> Tensor:
    """Two layers, two heads of 16: logits_BC."""

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    e = "bert.embeddings."
    B, L = ids_BL.shape
    x = w[e + "word_embeddings.weight"][ids_BL] + w[e + "position_embeddings.weight"][:L] + w[e + "token_type_embeddings.weight"][0]
    x = norm(e + "LayerNorm", x)
    for layer in ("bert.encoder.layer.0.", "bert.encoder.layer.1."):
        q, k, v = (linear(w, f"{layer}attention.self.{one}", x).view(B, L, 2, 16).transpose(1, 2) for one in ("query", "key", "value"))
        scores = (q @ k.transpose(-1, -2) / 4).masked_fill(mask_BL[:, None, None] == 0, -torch.inf)
        context = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, L, 32)
        x = norm(layer + "attention.output.LayerNorm", x + adapted(w, layer + "attention.output.dense", context, f))
        wide = linear(w, layer + "intermediate.dense", x)
        wide = wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
        x = norm(layer + "output.LayerNorm", x + adapted(w, layer + "output.dense", wide, f))
    return linear(w, "classifier", torch.tanh(linear(w, "bert.pooler.dense", x[:, 0])))


def llama(w: Weights, ids_L: Tensor, f: Any) -> Tensor:
    """Two layers, four heads of 8 on two keys: logits_LV of one row."""

    def norm(name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]

    def turned(x: Tensor) -> Tensor:
        angles = torch.arange(len(ids_L))[:, None] * 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
        cos, sin, a, b = angles.cos()[:, None], angles.sin()[:, None], x[..., :4], x[..., 4:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    L = len(ids_L)
    x = w["model.embed_tokens.weight"][ids_L]
    for layer in ("model.layers.0.", "model.layers.1."):
        read = norm(layer + "input_layernorm", x)
        q, k, v = (linear(w, f"{layer}self_attn.{one}_proj", read).view(L, -1, 8) for one in "qkv")
        q, k = turned(q), turned(k)
        context = []
        for head in range(4):
            scores = (q[:, head] @ k[:, head // 2].T / math.sqrt(8)).masked_fill(torch.ones(L, L).triu(1) == 1, -torch.inf)
            context.append(scores.softmax(-1) @ v[:, head // 2])
        x = x + adapted(w, layer + "self_attn.o_proj", torch.cat(context, -1), f)
        read = norm(layer + "post_attention_layernorm", x)
        gate = linear(w, layer + "mlp.gate_proj", read)
        x = x + adapted(w, layer + "mlp.down_proj", gate * torch.sigmoid(gate) * linear(w, layer + "mlp.up_proj", read), f)
    return norm("model.norm", x) @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


STYLES = [{"width": 8}, {"style": "pfeiffer", "width": 8, "activation": "relu"}, {"width": 5, "norms": False}]


@pytest.mark.parametrize("kind", ["classes", "texts"])
@pytest.mark.parametrize("settings", STYLES, ids=["houlsby", "pfeiffer", "norms apart"])
def test_forward_and_step_are_the_formulas(classes: Any, texts: Any, kind: str, settings: dict[str, Any]) -> None:
    bench = classes if kind == "classes" else texts()
    model = bench.adapt("bottleneck", **settings)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if ".up." in name:
                one.normal_(std=0.3)
    double(model)
    f = F.relu if settings.get("activation") == "relu" else F.gelu
    w = {name: one.detach().clone().requires_grad_(one.requires_grad) for name, one in model.named_parameters()}
    rows = np.arange(8)
    batch = bench.examples.batch(rows)
    if kind == "classes":
        logits = bert(w, batch.inputs["input_ids"], batch.inputs["attention_mask"], f)
        assert float((bench.logits(model) - logits[:5]).abs().max()) < TIGHT
        loss = -logits.log_softmax(-1)[torch.arange(8), batch.targets].mean()
    else:
        ids, targets = (torch.split(one, batch.inputs["lengths"].tolist()) for one in (batch.inputs["ids"], batch.targets))
        logits = torch.cat([llama(w, row, f) for row in ids])
        assert float((bench.logits(model) - logits[: int(batch.inputs["lengths"][:5].sum())]).abs().max()) < TIGHT
        aims = torch.cat(targets)
        learnt = aims != NOT_LEARNT
        loss = -logits.log_softmax(-1)[learnt].gather(1, aims[learnt][:, None]).mean()
    loss.backward()
    model.train()
    ours = bench.objective.loss(model, batch).total / bench.objective.units(batch)
    ours.backward()
    assert float(ours) == pytest.approx(float(loss), rel=TIGHT)
    learns = {name for name, one in w.items() if one.requires_grad}
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    assert gradients.keys() == learns
    assert max(float((gradients[name] - w[name].grad).abs().max()) for name in learns) < TIGHT
    # One step of AdamW: the first is the gradient's sign, softened by 1e-8 (Kingma and Ba, section 2), after the decay of matrices.
    rate, decay = 1e-3, 0.1
    model.zero_grad()
    bench.train("bottleneck", model, FirstRows(bench.examples), learning_rate=rate, weight_decay=decay, clip_norm=0)
    with torch.no_grad():
        for name, one in model.named_parameters():
            before = w[name]
            if name not in learns:
                assert torch.equal(one, before), name
                continue
            g = before.grad
            expected = before * (1 - rate * decay * (one.ndim >= 2)) - rate * g / (g.abs() + 1e-8)
            assert float((one - expected).abs().max()) < TIGHT, name


class FirstRows:
    """The first eight rows alone."""

    def __init__(self, examples: Any) -> None:
        self.examples, self.lengths_N, self.packed = examples, examples.lengths_N[:8], getattr(examples, "packed", False)

    def __len__(self) -> int:
        return 8

    def batch(self, rows_B: Any) -> Any:
        return self.examples.batch(rows_B)

    def fingerprint(self) -> str:
        return "first"


@pytest.mark.parametrize("settings", STYLES[:2], ids=["houlsby", "pfeiffer"])
def test_it_begins_where_the_base_is(classes: Any, texts: Any, settings: dict[str, Any]) -> None:
    for bench in (classes, texts()):
        apart = bench.logits(double(bench.adapt("bottleneck", **settings))) - bench.logits(double(bench.adapt("full")))
        assert float(apart.abs().max()) < TIGHT  # not 0: a product's last bit depends on where its weight lies in memory


def test_the_files_are_what_is_documented(classes: Any) -> None:
    from safetensors.torch import load_file

    from tunesmith.core.files import read_json

    model = classes.adapt("bottleneck", style="pfeiffer", width=8, norms=False)
    _, folder = classes.reloaded("bottleneck", model)
    assert read_json(folder / "adapters.json") == {"style": "pfeiffer", "width": 8, "activation": "gelu"}
    shapes = {name: tuple(one.shape) for name, one in load_file(folder / "adapters.safetensors").items()}
    place = "bert.encoder.layer.1.output.dense"
    assert {f"{place}.down.weight": (8, 32), f"{place}.down.bias": (8,), f"{place}.up.weight": (32, 8), f"{place}.up.bias": (32,)}.items() <= shapes.items()
    assert {name for name in shapes if "encoder" not in name} == {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
    assert len(shapes) == 12


SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96}
OTHERS = {
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "vocab_size": 96},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96},
    "opt": {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96, "word_embed_proj_dim": 32},
    "modernbert": SMALL | {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "cls_token_id": 2, "sep_token_id": 1},
    "phi3": SMALL | {"pad_token_id": 0},
}


def tiny(folder: Path, kind: str) -> catalog.Base:
    """A random base of a kind."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **OTHERS.get(kind, SMALL))
    AutoModel.from_config(config).save_pretrained(folder / kind)
    return catalog.resolve(catalog.ModelSettings(base=str(folder / kind)))


@pytest.mark.parametrize("kind", sorted(SUBLAYERS))
def test_every_kind_of_the_table(tmp_path: Path, classes: Any, kind: str) -> None:
    """Both sublayers of both layers (which are one in ALBERT) are found, the base's logits are the first ones, and an adapter reaches the answer."""
    base = tiny(tmp_path, kind)
    ids = torch.arange(4, 34).view(3, 10)
    made = {}
    for name in ("full", "bottleneck"):
        torch.manual_seed(0)
        model = methods.get(name).adapt(base, Head(["a", "b"], False, 0.0), classes.settings(name))
        double(model).eval()
        with torch.no_grad():
            made[name] = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    ups = [one for name, one in model.named_parameters() if name.endswith("up.weight")]
    assert len(ups) == (2 if kind == "albert" else 4) and float((made["full"] - made["bottleneck"]).abs().max()) < TIGHT
    with torch.no_grad():
        ups[0].normal_()
        assert float((model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits - made["full"]).abs().max()) > 1e-3


def test_another_kind_is_refused_by_name(tmp_path: Path, classes: Any) -> None:
    base = tiny(tmp_path, "t5")
    with pytest.raises(UserError, match="does not know where a base of the kind `t5` ends its sublayers") as caught:
        methods.get("bottleneck").adapt(base, Head(["a", "b"], False, 0.0), classes.settings("bottleneck"))
    assert "`gpt2`" in str(caught.value) and "use lora" in str(caught.value)
