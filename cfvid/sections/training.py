"""How a network is trained."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from cfvid.sections.base import Count, Number, Positive, Section


def _several(batch_size: int) -> int:
    if batch_size < FEWEST:
        raise ValueError(
            f"should be at least {FEWEST}: batch normalisation has no statistics over one sample; where "
            "memory is short, take a smaller input and set gradient_accumulation"
        )
    return batch_size


FEWEST = 2
"""Samples that batch normalisation needs: in each batch, and of each batch in each process."""
BatchSize = Annotated[Count, AfterValidator(_several)]


class TrainingConfig(Section):
    """One training run: the optimiser, its schedule, precision and checkpoints."""

    epochs: Count
    batch_size: BatchSize
    """Samples per batch, of all processes together: several divide it among them. Where the samples do not come out
    even, all batches of an epoch are a little smaller instead of the last one alone; it is then the largest size."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive
    """Peak learning rate."""
    momentum: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[Number, Field(ge=0.0)] = 1e-4
    decay_norm_and_bias: bool = False
    """Whether weight decay also applies to normalisation layers and biases."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: Annotated[Number, Field(ge=0.0)] | None = 0.0
    """Epochs over which the learning rate rises from 0; null: a tenth of all epochs, at most five."""
    milestones: list[Count] = []
    """Epochs at which `schedule: step` multiplies the learning rate by `gamma`."""
    gamma: Positive = 0.1
    label_smoothing: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.0
    clip_grad_norm: Positive | None = None
    gradient_accumulation: Count = 1
    """Batches per optimiser step, each of which counts by its samples. Where an epoch does not come out even, some
    steps have fewer."""
    channels_last: bool = True

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs optimizer: sgd with a momentum")
        return self

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> Self:
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule: step needs milestones, e.g. [30, 60, 90]")
        if self.schedule != "step" and self.milestones:
            raise ValueError(f"milestones have no effect with schedule: {self.schedule}")
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError("milestones must be ascending and distinct")
        if self.milestones and self.milestones[-1] >= self.epochs:
            raise ValueError(f"the milestone {self.milestones[-1]} is not before the end, epochs: {self.epochs}")
        if self.warmup_epochs is not None and 0 < self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) must be less than epochs ({self.epochs})")
        return self

    @property
    def warmup(self) -> float:
        """Epochs of warm-up: those given, else a tenth of all epochs, at most five (the paper's five of 105)."""
        return min(5.0, self.epochs / 10) if self.warmup_epochs is None else self.warmup_epochs
