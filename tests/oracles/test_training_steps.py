"""Our training steps against transformers, PEFT and torch.optim.AdamW written out by hand: same weights, same batch, same update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exact import CLIPPED, TIGHT, double
from torch import nn

RATE, DECAY, CLIP = 1e-3, 0.1, 0.5



def classifier(bench: Any, problem: str = "single_label_classification") -> nn.Module:
    """Transformers' own classifier on the tiny base, its head drawn by seed 0, dropout 0, in float64."""
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        bench.base.folder, num_labels=3, problem_type=problem, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="sdpa"
    )
    return double(model)


def by_hand(bench: Any, model: nn.Module, batches: list[Any], warmup: int) -> dict[str, torch.Tensor]:
    """The training loop that every tutorial shows, with a linear schedule whose first step is not 0."""
    from transformers import AutoTokenizer

    reader = AutoTokenizer.from_pretrained(bench.base.folder)
    learnt = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in learnt if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=RATE, betas=(0.9, 0.999), eps=1e-8)
    n = len(batches)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (k + 1) / (warmup + 1) if k < warmup else (n - k) / (n - warmup))
    model.train()
    for rows in batches:
        inputs = reader([bench.texts[row] for row in rows], padding=True, return_tensors="pt")
        labels = torch.tensor([["blue", "green", "red"].index(bench.labels[row]) for row in rows])
        model(**inputs, labels=labels).loss.backward()
        nn.utils.clip_grad_norm_(learnt, CLIP)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize(("rows", "warmup", "warmup_steps"), [(8, 0.0, 0), (24, 0.0, 0), (24, 0.5, 2)], ids=["one step", "three steps", "three with warm-up"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_steps_equal_transformers_by_hand(bench: Any, plan: Any, largest: Any, method: str, rows: int, warmup: float, warmup_steps: int) -> None:
    examples = bench.examples(rows)
    theirs = classifier(bench)
    if method == "lora":
        from peft import LoraConfig, TaskType, get_peft_model

        config = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules="all-linear", lora_dropout=0.0)
        theirs = double(get_peft_model(theirs.float(), config))
    ours = bench.adapt(method)
    first = {name: value.detach().clone() for name, value in ours.named_parameters()}
    assert largest(first, dict(theirs.named_parameters())) == 0
    trained = bench.train(ours, bench.objective(), examples, learning_rate=RATE, weight_decay=DECAY, clip_norm=CLIP, warmup=warmup)
    expected = by_hand(bench, theirs, plan(examples), warmup_steps)
    assert len(trained.gradients) == rows // 8
    assert largest(trained.weights(), first) > RATE / 3  # something was learnt at all
    assert trained.apart(expected) < CLIPPED
    assert next(e["gradient_norm"] for e in trained.events if e["kind"] == "step") > CLIP  # clipping had work to do


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_oracle_sees_a_wrong_learning_rate(bench: Any, plan: Any, largest: Any, method: str) -> None:
    """The comparison above can fail: a rate one part in a hundred off shows."""
    examples = bench.examples(8)
    right = bench.train(bench.adapt(method), bench.objective(), examples, learning_rate=RATE, weight_decay=DECAY, clip_norm=CLIP, warmup=0)
    wrong = bench.train(bench.adapt(method), bench.objective(), examples, learning_rate=RATE * 1.01, weight_decay=DECAY, clip_norm=CLIP, warmup=0)
    assert largest(right.weights(), wrong.weights()) > 5e-6


@pytest.mark.parametrize("balanced", [False, True], ids=["plain", "class and row weights"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_micro_batches_change_nothing(bench: Any, largest: Any, method: str, balanced: bool) -> None:
    """1 x 8 = 8 x 1 = 2 x 4, also where rows count unequally and the parts' weights differ."""
    weights = [0.5 + (row % 4) for row in range(24)] if balanced else None
    objective = bench.objective(class_weights="balanced" if balanced else "none")
    examples = bench.examples(24, weights)
    made = {}
    for micro in (None, 1, 4):
        made[micro] = bench.train(bench.adapt(method), objective, examples, learning_rate=1e-3, warmup=0, micro_rows=micro, clip_norm=0)
    tolerance = 1e-6 if balanced else TIGHT  # rows' weights are fp32, and so is their sum, which each part rounds by itself
    for micro in (1, 4):
        for ours, whole in zip(made[micro].gradients, made[None].gradients, strict=True):
            assert largest(ours, whole) < tolerance
        assert made[micro].apart(made[None].weights()) < tolerance


def test_label_smoothing_in_training_equals_torch(bench: Any, plan: Any, largest: Any) -> None:
    examples = bench.examples(8)
    trained = bench.train(bench.adapt("full"), bench.objective(label_smoothing=0.2), examples, learning_rate=RATE, warmup=0)
    model = classifier(bench)
    rows = plan(examples)[0]
    batch = examples.batch(rows)
    nn.CrossEntropyLoss(label_smoothing=0.2)(model(**batch.inputs).logits, batch.targets).backward()
    assert largest(trained.gradients[0], {n: p.grad for n, p in model.named_parameters()}) < TIGHT


def test_several_labels_train_on_the_loss_of_transformers(bench: Any, plan: Any, largest: Any) -> None:
    labels = [["blue"], ["green", "red"], [], ["red"], ["blue", "green", "red"], ["green"], [], ["blue", "red"]]
    objective = bench.objective(multi_label=True)
    from tunesmith.tokens.examples import Targets, TokenExamples

    plain = bench.examples(8)
    values_NC = objective.targets(labels).values_N.double()  # torch's loss rounds to the narrower of its two arguments
    examples = TokenExamples(plain.tokens, Targets(values_NC), plain.pad_id)
    ours = bench.adapt("full", multi_label=True)
    trained = bench.train(ours, objective, examples, learning_rate=RATE, warmup=0)
    theirs = classifier(bench, "multi_label_classification")
    batch = examples.batch(plan(examples)[0])
    loss = theirs(**batch.inputs, labels=batch.targets).loss
    loss.backward()
    assert largest(trained.gradients[0], {n: p.grad for n, p in theirs.named_parameters()}) < TIGHT
    assert next(e["loss"] for e in trained.events if e["kind"] == "step") == pytest.approx(float(loss), abs=TIGHT)
    assert ours.config.problem_type == "multi_label_classification"


def test_windows_logits_are_the_mean_over_windows(bench: Any) -> None:
    bench.texts[:3] = [" ".join(bench.texts[:4]), bench.texts[1], " ".join(bench.texts[4:7])]
    examples = bench.examples(3, max_tokens=12, truncation="windows")
    counts = [int(b - a) for a, b in zip(examples.tokens.rows_N[:-1], examples.tokens.rows_N[1:], strict=True)]
    assert min(counts) == 1 and max(counts) > 2
    model = bench.adapt("full").eval()
    import numpy as np

    objective = bench.objective()
    with torch.no_grad():
        ours = objective.logits(model, examples.batch(np.array([2, 0, 1])))
        t = examples.tokens
        for place, row in enumerate([2, 0, 1]):
            windows = [torch.tensor([t.ids_T[t.offsets_Q[q] : t.offsets_Q[q + 1]].tolist()]) for q in range(t.rows_N[row], t.rows_N[row + 1])]
            each = torch.stack([model(input_ids=ids).logits[0] for ids in windows])
            assert torch.allclose(ours[place], each.mean(0), rtol=0, atol=TIGHT)
    whole = bench.examples(3, max_tokens=12)
    assert len(whole.tokens.offsets_Q) == 4  # without windows there is one sequence a row




def long_rows(bench: Any, **reading: Any) -> Any:
    """Six rows, of which two have many windows."""
    bench.texts[:6] = [" ".join(bench.texts[:12]), bench.texts[1], " ".join(bench.texts[4:7]), *bench.texts[3:6]]
    return bench.examples(6, max_tokens=12, truncation="windows", **reading)


def computed(model: nn.Module, places: list[int]) -> Any:
    """Have a model note the padded tokens of each of its forwards."""
    forward = model.forward

    def noting(**inputs: Any) -> Any:
        places.append(next(iter(inputs.values())).shape[0] * inputs["attention_mask"].shape[1])
        return forward(**inputs)

    model.forward = noting  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("method", ["full", "lora", "freeze"])
@pytest.mark.parametrize("tokens", [None, 30])
def test_windows_in_parts_learn_as_all_at_once(bench: Any, largest: Any, monkeypatch: pytest.MonkeyPatch, method: str, tokens: int | None) -> None:
    """A row whose windows do not fit into a forward still has one loss, of the mean of their logits; no forward exceeds the bound."""
    from tunesmith import methods
    from tunesmith.tokens import batching

    examples = long_rows(bench, weights=[1.0, 2.0, 0.5, 1.0, 1.0, 3.0])
    counts = examples.windows_N
    assert counts.max() * 12 > 36 and counts.min() == 1
    made = {}
    for bound in (10**6, 36):
        monkeypatch.setattr(batching, "WINDOW_TOKENS", bound)
        places: list[int] = []
        model = computed(bench.adapt(method), places)
        rows = methods.get(method).examples(model, examples, bench.base, lambda done, of: None)
        assert rows.windows_N.tolist() == counts.tolist()
        made[bound] = bench.train(model, bench.objective(), rows, learning_rate=1e-3, warmup=0, clip_norm=0, batch_tokens=tokens)
        assert (max(places) <= 36) is (bound == 36)
    assert len(made[36].gradients) == len(made[10**6].gradients) == (1 if tokens is None else 4)
    for parts, whole in zip(made[36].gradients, made[10**6].gradients, strict=True):
        assert largest(parts, whole) < 2e-6


def test_a_part_that_is_computed_again_drops_the_same(bench: Any, largest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout the gradient of a row in parts is that of parts whose states are all kept: the second forward has the masks of the first."""
    import numpy as np
    import torch.utils.checkpoint

    from tunesmith.tokens import batching

    monkeypatch.setattr(batching, "WINDOW_TOKENS", 36)
    batch = long_rows(bench).batch(np.array([0]))
    model, objective = bench.adapt("full", dropout=0.3).train(), bench.objective()
    calls: list[int] = []

    def gradients(seed: int) -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(seed)
        objective.loss(model, batch).total.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    again = gradients(5)
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", lambda function, *given, **how: calls.append(1) or function(*given))
    kept = gradients(5)
    assert len(calls) > 2 and largest(again, kept) < 1e-6 and largest(gradients(6), kept) > 1e-3


def test_measuring_long_rows_stays_within_the_bound(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.tokens import batching
    from tunesmith.training import loop

    examples = long_rows(bench)
    found = []
    for bound in (10**6, 36):
        monkeypatch.setattr(batching, "WINDOW_TOKENS", bound)
        monkeypatch.setattr(loop, "MEASURE_TOKENS", bound)
        places: list[int] = []
        model = computed(bench.adapt("full"), places)
        found.append(loop.measure(model, bench.objective(), examples, torch.device("cpu")))
        assert (max(places) <= 36) is (bound == 36)
    assert found[0] == pytest.approx(found[1], abs=1e-6)
