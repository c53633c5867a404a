"""What a run's report says, in which order: the rooms' sections gathered, nothing drawn here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tunesmith import evaluation
from tunesmith.core.sections import Block, Section, Table, Verdict, Words
from tunesmith.data.review import bias, card_section, coverage
from tunesmith.evaluation.classification import findings
from tunesmith.evaluation.generation import findings as text_findings
from tunesmith.report.card import Card
from tunesmith.tokens import lengths
from tunesmith.training import diagnosis, penalties

METHODS = {
    "bottleneck": "bottleneck adapters",
    "features": "a linear head on frozen features",
    "freeze": "the last layers fine-tuned",
    "full": "full fine-tuning",
    "lora": "LoRA",
    "prefix": "a learnt prefix",
    "qlora": "LoRA on a base in four bits",
}


TASKS = {"classification": "Text classification", "sft": "Supervised fine-tuning", "pretraining": "Pre-training"}


@dataclass(frozen=True)
class Facts:
    """All that a report is made of: run.json, the resolved recipe, the data card, inspection.json, evaluation.json (None: nothing measured),
    the step, valid and skipped events, the base, input file hashes, and texts by row id."""

    run: Mapping[str, Any]
    recipe: Mapping[str, Any]
    card: dict[str, Any]
    inspection: Mapping[str, Any]
    evaluation: dict[str, Any] | None
    events: Sequence[dict[str, Any]]
    base: Mapping[str, Any]
    files: Mapping[str, str]
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Page:
    """Arguments of `page.render`."""

    title: str
    subtitle: str
    verdict: Verdict
    sections: list[Section]
    facts: list[tuple[str, str]]


def page(facts: Facts) -> Page:
    """Gather a run's report."""
    training, recipe = facts.run["training"], facts.recipe
    labels, rows = facts.card.get("labels") or {}, facts.card["rows"]["train"]
    tokens = facts.card.get("tokens") or {}
    if "penalty" in training:
        found = penalties.diagnose(facts.events, training, rows, len(labels))
    elif labels:
        found = diagnosis.diagnose(facts.events, training["kept_step"], rows, len(labels), *_chances(facts))
    else:
        found = diagnosis.diagnose_text(facts.events, training["kept_step"], rows, tokens)
    sections: list[Section] = []
    if facts.evaluation is None:
        verdict = Verdict("Nothing was measured.", ["The recipe leaves no test and no validation rows, so nothing can be said about this model."], "warn")
    else:
        split = _split(facts.evaluation)
        verdict = Verdict(*evaluation.verdict(facts.evaluation, split))
        if evaluation.of_text(facts.evaluation):
            sections += text_findings.sections(facts.evaluation, split)
        else:
            sections += findings.sections(facts.evaluation, facts.texts, split)
    if "penalty" in training:
        sections[1:1] = penalties.sections(facts.events, training, found)
    else:
        sections[1:1] = diagnosis.sections(facts.events, training["kept_step"], found)
    sections += card_section.sections(facts.card)
    if tokens:
        sections.append(Section("tokens", "Tokens", lengths.blocks(tokens)))
    sections += _inspected(facts.inspection)
    sections += _appendix(facts)
    kind = METHODS.get(recipe["method"]["kind"], recipe["method"]["kind"])
    subtitle = f"{TASKS[recipe['objective']['kind']]} with {kind} on {_base(facts)}, {str(facts.run['created'])[:10]}"
    shown = [
        ("training rows", f"{rows:,}"),
        ("labels", str(len(labels))) if labels else ("learnt tokens", f"{tokens.get('learnt', 0):,}"),
        *_effort(training),
        ("peak memory", f"{training['peak_memory_mb'] / 1e3:.1f} GB"),
    ]
    return Page(str(facts.run["name"]), subtitle, verdict, sections, shown)


def _chances(facts: Facts) -> tuple[diagnosis.Chance | None, diagnosis.Chance]:
    """What losses are measured against: in the units of the training loss (None where that is no cross-entropy), and plain."""
    objective, rows = facts.recipe["objective"], facts.card["rows"]["train"]
    counts = [by.get("train", 0) for by in facts.card["labels"].values()]
    several = bool(facts.recipe["data"].get("multi_label"))
    balanced, smoothing = objective.get("class_weights") == "balanced", objective.get("label_smoothing") or 0.0
    crossed = objective.get("loss", "cross_entropy") == "cross_entropy"
    trained = diagnosis.chance(counts, rows, several, balanced, smoothing) if crossed else None
    return trained, diagnosis.chance(counts, rows, several)


def _effort(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the training took."""
    seconds = ("training time", duration(training["seconds"]))
    if "penalty" in training:
        return [("penalties tried", f"{training['steps']:,}"), seconds]
    return [("steps", f"{training['steps']:,}"), seconds, ("speed", f"{training['tokens_per_second']:,.0f} tokens/s")]


def _learned(recipe: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """How the training went, for the model card."""
    if "penalty" in training:
        return {"penalty": f"{training['penalty']:.3g} toward {penalties.ANCHORS[training['anchor']]}"}
    return {"epochs": recipe["train"]["epochs"], "learning rate": recipe["train"]["learning_rate"], "kept step": training["kept_step"]}


def _inspected(seen: Mapping[str, Any]) -> list[Section]:
    """What was seen in the data: bias, coverage, probable label errors."""
    texts, tests = ({int(at): text for at, text in seen[name].items()} for name in ("texts", "tests"))
    out = [bias.section(seen["bias"]), coverage.section(seen["lexical"], seen["unseen"], seen["regions"], texts, tests)]
    if found := seen.get("suspects"):
        share = f"{found['rows']:,} of {found['judged']:,} training labels ({found['rows'] / max(1, found['judged']):.1%}) are probably wrong."
        place = "The page of the worst is data/label_errors.html; correct data/label_errors.csv and name it in data.corrections."
        blocks = [Words(share, "warn" if found["rows"] else "good"), Words(place)]
        out.append(Section("label-errors", "Probable label errors", blocks))
    return out


LIMIT = "It states things that are not so, in the same voice as things that are. Check what it says before you act on it."


def _does(objective: str, labels: list[str], shown: str) -> str:
    if labels:
        return f"Sorts texts into {len(labels)} labels ({shown})."
    return "Answers messages as its training rows do." if objective == "sft" else "Goes on with a text as its training rows do."


def _base(facts: Facts) -> str:
    """The base as a reader knows it: a folder by its own name, not by the place it has on somebody's disk."""
    name = str(facts.base["name"])
    return PurePath(name).name if PurePath(name).is_absolute() else name


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _split(evaluation: Mapping[str, Any]) -> str:
    return "test" if "test" in evaluation["splits"] else next(iter(evaluation["splits"]))


def _appendix(facts: Facts) -> list[Section]:
    settings = [[key, json.dumps(value, ensure_ascii=False)] for key, value in _flat(facts.recipe)]
    stages = [[s["name"], s["seconds"], s.get("shared_from", "")] for s in facts.run["stages"] if s["name"] != "report"]
    hashes = [[f"data, {side}", digest] for side, digest in facts.files.items()] + [["base " + facts.base["name"], facts.base["sha256"]]]
    machine = [[key, str(value)] for key, value in (facts.run.get("machine") or {}).items() if value is not None]
    blocks: list[Block] = [Words("Everything needed to repeat this run.")]
    return [
        Section("settings", "Settings", [Table(["setting", "value"], settings)], folded=True),
        Section(
            "provenance",
            "Machine, versions and hashes",
            [
                *blocks,
                Table(["stage", "seconds", "shared from"], stages, digits=1),
                Table(["machine", ""], machine),
                Table(["package", "version"], [list(item) for item in facts.run["versions"].items()]),
                Table(["input", "sha256"], hashes),
            ],
            folded=True,
        ),
    ]


def _flat(values: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, value in values.items():
        out += _flat(value, f"{path}{key}.") if isinstance(value, Mapping) and value else [(path + key, value)]
    return out


def model_card(facts: Facts) -> Card:
    """A run's MODEL_CARD.md as data: what is known, and nothing else."""
    recipe, training = facts.recipe, facts.run["training"]
    measured = facts.evaluation
    split = _split(measured) if measured else ""
    found = measured["splits"][split] if measured else {}
    labels = list(facts.card.get("labels") or {})
    name = str(facts.run["name"])
    shown = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
    kind = METHODS.get(recipe["method"]["kind"], recipe["method"]["kind"])
    return Card(
        name=name,
        summary=f"{_does(recipe['objective']['kind'], labels, shown)} Made with Tunesmith by {kind} on {_base(facts)}.",
        license=str(facts.base["licence"]),
        languages=list(facts.base["languages"]),
        base_model=_base(facts),
        tags=["text-classification" if labels else "text-generation", "tunesmith"],
        intended_use=["Texts like the training rows, in the same language and from the same source."],
        limits=[*facts.card["warnings"], "It always answers with one of its labels, also for texts that belong to none." if labels else LIMIT][:6],
        data={f"{side} rows": count for side, count in facts.card["rows"].items()} | {"rows left out": sum(facts.card["rejected"].values())},
        training={"method": recipe["method"]["kind"], **_learned(recipe, training)},
        split=split,
        rows=found.get("rows"),
        scores={model: figures for model, figures in found.get("models", {}).items()},
        headline=measured["headline"] if measured else "",
        shell=[f'tunesmith predict {name} "your text here"'],
        python=["import tunesmith", f'run = tunesmith.load("runs/{name}")', f'print(run.predict(["your text here"])[0].{"label" if labels else "text"})'],
        versions=facts.run["versions"],
    )
