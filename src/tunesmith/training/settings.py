"""The settings of training. Apart from the loop because the recipe reads them before torch is wanted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from tunesmith.core.settings import Settings
from tunesmith.training.hardware import NAMES, Precision
from tunesmith.training.schedule import Schedule


class TrainSettings(Settings):
    """How to learn."""

    epochs: Annotated[int, Field(ge=1)] | Literal["auto"] | None = "auto"
    """Passes over the training rows. auto or null: what suits the method, which for one that takes no steps is null."""
    steps: int | None = Field(None, ge=1)
    """End after this many optimizer steps, in the middle of an epoch if need be. null: after all epochs."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] | None = "auto"
    """Peak learning rate. auto or null: what suits the method, which for one that takes no steps is null."""
    batch_rows: int = Field(32, ge=1)
    """Most rows of one optimizer step."""
    batch_tokens: int | None = Field(None, ge=1)
    """Most tokens of one optimizer step, padding and all windows of a row included. null: rows alone decide."""
    micro_rows: int | None = Field(None, ge=1)
    """Rows computed at once; an optimizer step adds up as many such parts as it needs. Saves memory, changes nothing else. null: all."""
    schedule: Schedule = "linear"
    """The learning rate after warm-up: linear or cosine to 0, constant, or wsd (constant, and linear to 0 in the last fifth)."""
    warmup: float = Field(0.06, ge=0, lt=1)
    """Share of all steps in which the learning rate grows from 0."""
    weight_decay: float = Field(0.01, ge=0)
    """Decay of matrices and tables per unit of learning rate; biases and norms do not decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's two moments."""
    clip_norm: float = Field(1.0, ge=0)
    """Largest norm of all gradients together. 0: no clipping."""
    noise: float = Field(0.0, ge=0)
    """NEFTune: noise on a language model's word vectors while training, of this over sqrt(tokens x width). 5 is usual. 0: none."""
    recompute: bool = False
    """Keep only each layer's input while training and compute the rest again: a third slower, a fraction of the memory. Language models."""
    compile: bool = False
    """Let torch's compiler fuse a language model's layers: half a minute once, then faster."""
    evaluate_every: float = Field(1.0, gt=0)
    """Epochs between two measurements on the validation rows."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many measurements without a better one. null: never."""
    keep_best: bool = True
    """Keep the best step by validation; false keeps the last."""
    seed: int = Field(0, ge=0)
    """Decides the head's first weights, the order of rows and dropout."""
    seeds: int = Field(1, ge=1, le=20)
    """Train this many times (seed, seed + 1, ...) and report mean and spread; the best by validation is kept."""
    checkpoint_steps: int | None = Field(None, ge=1)
    """Optimizer steps between checkpoints. null: by time."""
    checkpoint_seconds: float = Field(300, gt=0)
    """Seconds between checkpoints when checkpoint_steps is null."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many of the newest checkpoints are kept; the best one is kept besides."""
    checkpoint_gigabytes: float | None = Field(None, gt=0)
    """Most space for checkpoints; the newest and the best stay in any case. null: no bound."""
    log_every: int | None = Field(None, ge=1)
    """Steps between two points of the training curve. null: about 60 points in all."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps. auto: the first GPU that torch sees, else cpu."""
    precision: Precision = "auto"
    """fp32, bf16 (with fp32 master weights), or auto: bf16 where it is measured to be faster."""
    threads: int | None = Field(None, ge=1)
    """CPU threads. null: as many as the process may use."""

    @field_validator("device")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "auto" and not NAMES.fullmatch(value):
            raise ValueError("is no device: they are auto, cpu, cuda, cuda:N and mps")
        return value
