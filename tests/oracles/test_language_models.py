"""Fine-tuning of language models against the loop that every tutorial shows (transformers, PEFT, torch.optim.AdamW), and against TRL.

Both write the dialogues anew with transformers' tokenizer and template, find the answers by themselves and pad; nothing of ours is used but
the order of the rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exact import CLIPPED, TIGHT, double
from samples import colour_rows, llama_folder
from torch import nn

from tunesmith import methods, objectives
from tunesmith.data import rows
from tunesmith.models import catalog
from tunesmith.models.loading import Head
from tunesmith.recipe import Recipe
from tunesmith.tokens import batching, tokenization
from tunesmith.tokens.reader import Reader

RATE, DECAY, CLIP = 1e-3, 0.1, 0.5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> catalog.Base:
    return catalog.resolve(catalog.ModelSettings(base=str(llama_folder(tmp_path_factory.mktemp("llama")))))


def dialogues(count: int) -> list[list[dict[str, str]]]:
    """Questions of several lengths with answers of several lengths; each third one begins with a system message."""
    out = []
    for index, row in enumerate(colour_rows(count)):
        words = row["text"].split()
        answer = " ".join([f"it is {row['label']}", *words[: index % 4]])
        turns = [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": answer}]
        out.append([{"role": "system", "content": "say the colour"}, *turns] if index % 3 == 0 else turns)
    return out


@pytest.fixture
def ours(base: catalog.Base, tmp_path: Path) -> Any:
    """The objective and its examples for some dialogues, the way a run makes them: from a file of prepared rows."""

    def make(count: int, **settings: Any) -> tuple[Any, Any]:
        rows.write(rows.table({"messages": dialogues(count)}, rows.DIALOGUE), tmp_path / "train.parquet")
        chosen = Recipe.model_validate({"data": {"train": "x"}, "objective": {"kind": "sft", **settings}}).objective
        objective = objectives.get("sft").make(chosen, base, tmp_path)
        return objective, objective.examples(tmp_path / "train.parquet", Reader(tokenization.load(base.folder), 128, "head", tmp_path / "scratch"))

    return make


def adapt(base: catalog.Base, method: str) -> nn.Module:
    torch.manual_seed(0)
    settings = Recipe.model_validate({"data": {"train": "x"}, "method": method}).method
    return double(methods.get(method).adapt(base, Head(None, dropout=0.0), settings))


def lora_config() -> Any:
    from peft import LoraConfig, TaskType

    return LoraConfig(task_type=TaskType.CAUSAL_LM, r=8, lora_alpha=16, target_modules="all-linear", lora_dropout=0.0)


def theirs(base: catalog.Base, method: str) -> nn.Module:
    """Transformers' class in float64, wrapped by PEFT for lora; nothing of it is accelerated."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base.folder, attn_implementation="sdpa")
    if method == "lora":
        from peft import get_peft_model

        model = get_peft_model(model, lora_config())
    assert not hasattr(model, "fast_states")
    return double(model)


def padded(base: catalog.Base, some: list[list[dict[str, str]]]) -> dict[str, torch.Tensor]:
    """A batch as transformers' models take it: padding on the right, labels for the answers alone."""
    from transformers import AutoTokenizer

    reader = AutoTokenizer.from_pretrained(base.folder)
    wholes = [reader.apply_chat_template(one, return_dict=False) for one in some]
    prompts = [reader.apply_chat_template(one[:-1], add_generation_prompt=True, return_dict=False) for one in some]
    width = max(map(len, wholes))
    ids = torch.full((len(some), width), reader.pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (whole, prompt) in enumerate(zip(wholes, prompts, strict=True)):
        assert whole[: len(prompt)] == prompt and whole[-1] == reader.eos_token_id
        ids[row, : len(whole)], mask[row, : len(whole)] = torch.tensor(whole), 1
        labels[row, len(prompt) : len(whole)] = ids[row, len(prompt) : len(whole)]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def by_hand(base: catalog.Base, model: nn.Module, plan: list[Any], some: list[list[dict[str, str]]]) -> list[float]:
    """Train, and the loss of each step."""
    from transformers import get_scheduler

    learnt = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in learnt if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=RATE, betas=(0.9, 0.999), eps=1e-8)
    scheduler = get_scheduler("linear", optimizer, 0, len(plan))
    model.train()
    losses = []
    for rows_B in plan:
        batch = padded(base, [some[row] for row in rows_B])
        output = model(**batch)
        loss = nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
        assert float(output.loss.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)  # transformers rounds the logits to fp32 for its own
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, CLIP)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def order(examples: Any, size: int = 8) -> list[Any]:
    return batching.plan(examples.lengths_N, size, None, 0, 0, packed=True)


@pytest.mark.parametrize("micro", [None, 3], ids=["at once", "in parts"])
@pytest.mark.parametrize("count", [8, 20], ids=["one step", "three steps, the last of half the rows"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_steps_equal_transformers_by_hand(base: catalog.Base, ours: Any, bench: Any, largest: Any, method: str, count: int, micro: int | None) -> None:
    objective, examples = ours(count)
    model, other = adapt(base, method), theirs(base, method)
    first = {name: value.detach().clone() for name, value in model.named_parameters()}
    assert largest(first, dict(other.named_parameters())) == 0
    trained = bench.train(model, objective, examples, learning_rate=RATE, weight_decay=DECAY, clip_norm=CLIP, warmup=0, micro_rows=micro)
    plan = order(examples)
    losses = by_hand(base, other, plan, dialogues(count))
    steps = [event for event in trained.events if event["kind"] == "step"]
    assert [event["loss"] for event in steps] == pytest.approx(losses, rel=CLIPPED) and len(steps) == -(-count // 8)
    assert steps[0]["gradient_norm"] > CLIP  # clipping had work to do
    assert largest(trained.weights(), first) > RATE / 2
    assert trained.apart(dict(other.named_parameters())) < CLIPPED


@pytest.mark.parametrize("change", [{"learning_rate": RATE * 1.01}, {"label_smoothing": 0.01}, {"learn": "last"}], ids=["rate", "smoothing", "nothing"])
def test_the_oracle_sees_a_mistake(base: catalog.Base, ours: Any, bench: Any, change: dict[str, Any]) -> None:
    """The comparison above can fail: a rate one part in a hundred off shows, and so does a hundredth of smoothing. The last turn is the only one."""
    objective, examples = ours(8, **{k: v for k, v in change.items() if k != "learning_rate"})
    settings = {"learning_rate": change.get("learning_rate", RATE), "weight_decay": DECAY, "clip_norm": CLIP, "warmup": 0}
    trained = bench.train(adapt(base, "full"), objective, examples, **settings)
    other = theirs(base, "full")
    by_hand(base, other, order(examples), dialogues(8))
    assert (trained.apart(dict(other.named_parameters())) > 5e-6) is ("learn" not in change)


def test_label_smoothing_is_torchs(base: catalog.Base, ours: Any, bench: Any, largest: Any) -> None:
    objective, examples = ours(8, label_smoothing=0.2)
    trained = bench.train(adapt(base, "full"), objective, examples, learning_rate=RATE, warmup=0)
    other = theirs(base, "full")
    batch = padded(base, dialogues(8))
    logits = other(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    nn.CrossEntropyLoss(label_smoothing=0.2)(logits.flatten(0, 1), batch["labels"][:, 1:].flatten()).backward()
    assert largest(trained.gradients[0], {n: p.grad for n, p in other.named_parameters() if p.grad is not None}) < TIGHT


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_first_losses_are_those_of_trl(base: catalog.Base, ours: Any, bench: Any, tmp_path: Path, method: str) -> None:
    """SFTTrainer without packing: completion-only loss, fp32, the same rows in the same order, the same AdamW at a constant rate."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from transformers import AutoTokenizer

    objective, examples = ours(24)
    settings = {"learning_rate": RATE, "weight_decay": 0, "clip_norm": 1.0, "warmup": 0, "schedule": "constant"}
    trained = bench.train(adapt(base, method), objective, examples, **settings)
    our_losses = [event["loss"] for event in trained.events if event["kind"] == "step"]
    some = dialogues(24)
    ordered = [some[row] for rows_B in order(examples) for row in rows_B]
    config = trl.SFTConfig(
        output_dir=str(tmp_path / "trl"),
        per_device_train_batch_size=8,
        max_steps=3,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch",
        completion_only_loss=True,
        packing=False,
        max_length=None,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    trainer = trl.SFTTrainer(
        model=theirs(base, method),
        args=config,
        train_dataset=datasets.Dataset.from_list([{"prompt": one[:-1], "completion": one[-1:]} for one in ordered]),
        processing_class=AutoTokenizer.from_pretrained(base.folder),
    )
    trainer.train()
    their_losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"{method}: ours {our_losses}, TRL's {their_losses}")
    assert len(their_losses) == 3 and our_losses == pytest.approx(their_losses, rel=0, abs=1e-5)
