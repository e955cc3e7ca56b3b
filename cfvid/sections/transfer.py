"""Settings of transfer: a section for each protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from cfvid.sections.base import Count, Integer, Number, Positive, Section, distinct
from cfvid.sections.data import TargetName
from cfvid.sections.training import BatchSize, TrainingConfig


class LinearConfig(Section):
    """Linear probe: multinomial logistic regression on frozen, standardised features."""

    penalties: Annotated[list[Positive], Field(min_length=1)] = [0.001, 0.01, 0.1, 1.0, 10.0]
    """Inverse regularisation strengths C; the best on a held-out fifth of the training split is used."""
    max_iterations: Count = 300
    layers: Annotated[list[str], AfterValidator(distinct)] = []
    """Layers of the trunk to probe besides its output, averaged over space and time; scored as `top1@LAYER`. By
    the other protocols of frozen features too."""


class NearestConfig(Section):
    """Weighted vote of the nearest training samples, by the cosine of frozen features."""

    num_neighbours: Count = 20
    """How many vote; all where there are fewer."""
    temperature: Positive = 0.07
    """A vote weighs exp(cosine / temperature)."""


class SvmConfig(Section):
    """One-vs-all linear SVMs on frozen features, for targets whose samples may have several labels."""

    costs: Annotated[list[Positive], Field(min_length=1), AfterValidator(distinct)] = [
        0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0,
    ]  # fmt: skip
    """C to choose from for each class, by the average precision over folds of the training split."""
    num_folds: Annotated[Integer, Field(ge=2)] = 3
    """At most as many as the class has positives."""
    max_iterations: Count = 2000


class HeadsConfig(TrainingConfig):
    """Linear heads trained by SGD on every layer at once, over augmented views: batch normalisation and one layer.

    The defaults are those of the paper's linear evaluation on ImageNet-1K; with other `epochs` the learning rate falls
    at the same shares of them, as it does for the paper's other targets.
    """

    epochs: Count = 28
    batch_size: BatchSize = 256
    lr: Positive = 0.01
    weight_decay: Annotated[Number, Field(ge=0.0)] = 5e-4
    nesterov: bool = True
    schedule: Literal["cosine", "step", "constant"] = "step"
    clip_grad_norm: None = None
    """Not for heads: they are trained side by side, and share nothing."""
    num_values: Count = 9216
    """A layer is averaged over time, and over space until it has at most so many values."""
    by_target: dict[TargetName, dict[str, Any]] = {}
    """Keys that are otherwise for a target: `places205: {epochs: 14}`."""

    @model_validator(mode="before")
    @classmethod
    def _milestones_follow_the_epochs(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "milestones" in values or values.get("schedule", "step") != "step":
            return values
        epochs = values.get("epochs", cls.model_fields["epochs"].default)
        if type(epochs) is not int or epochs < 1:
            return values  # told by the field itself
        found = sorted({round(epochs * share / 7) for share in (2, 4, 6)} - {0, epochs})
        return values | ({"milestones": found} if found else {"schedule": "constant"})

    @model_validator(mode="after")
    def _targets_are_valid(self) -> Self:
        for target, own in self.by_target.items():
            try:
                if "by_target" in own:
                    raise ValueError("by_target cannot stand in itself")
                self.of_target(target)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                key = ".".join(map(str, first["loc"]))
                what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
                raise ValueError(f"by_target.{target}: {key + ': ' if key else ''}{what}") from None
        return self

    def of_target(self, target: str) -> HeadsConfig:
        """The settings for one target."""
        own = self.by_target.get(target, {})
        follows = {"milestones"} if {"epochs", "schedule"} & set(own) else set()
        return HeadsConfig.model_validate(self.model_dump(exclude={"by_target"} | follows) | own)


class FinetuneConfig(TrainingConfig):
    """Training of a whole network that was trained before."""

    part_lrs: dict[str, Annotated[Number, Field(ge=0.0)]] = {}
    """Peak learning rates of parts of the network instead of `lr`: of the `head`, the `trunk`, or what is in it, as
    `stem` or `layer1`. 0 freezes a part, the statistics of its normalisation too."""


class LowShotConfig(Section):
    """The linear probe on a few training samples of each class, drawn several times."""

    per_class: Annotated[list[Count], Field(min_length=1), AfterValidator(distinct)] = [1, 5, 10]
    """How many; scored as `top1_Nshot`, the mean over draws, and `top1_Nshot_std`. A larger draw holds the smaller."""
    num_draws: Annotated[Integer, Field(ge=2)] = 5


class RetrievalConfig(Section):
    """The nearest training samples of each validation sample, by the cosine of frozen features."""

    at: Annotated[list[Count], Field(min_length=1), AfterValidator(distinct)] = [1, 5, 10]
    """Scored as `recallK`, R@K: how often one of the K nearest is of the sample's own class."""


ProtocolName = Literal["linear", "knn", "svm", "low_shot", "retrieval", "heads", "finetune"]
"""Of transfer; `svm` is for targets whose samples may have several labels."""


class TransferInputConfig(Section):
    """How a target's samples are looked at, where that differs from the run's `input`."""

    by_target: dict[TargetName, dict[str, Any]] = {}
    """Keys of `input` that are otherwise for a target: `something-v1: {flip: false}`."""


class TransferConfig(Section):
    """Which networks are scored, how, and how often."""

    networks: Annotated[list[Literal["n_pre", "n_cf", "random"]], Field(min_length=1), AfterValidator(distinct)] = [
        "n_pre",
        "n_cf",
        "random",
    ]
    protocols: Annotated[list[ProtocolName], Field(min_length=1), AfterValidator(distinct)] = ["linear", "finetune"]
    protocols_by_target: dict[
        TargetName, Annotated[list[ProtocolName], Field(min_length=1), AfterValidator(distinct)]
    ] = {}
    """Instead of `protocols` for a target: `voc07: [svm]`."""
    input: TransferInputConfig = TransferInputConfig()
    seeds: Annotated[list[Integer], Field(min_length=1), AfterValidator(distinct)] = [0]
    """Each repeats the probe's held-out choice, fine-tuning and the random network with other draws."""
    folds: dict[TargetName, Annotated[list[TargetName], Field(min_length=2), AfterValidator(distinct)]] = {}
    """Targets that are the official splits of one data set, by its name: `hmdb51: [hmdb51-1, hmdb51-2, hmdb51-3]`. The
    mean over them is reported as that of a target."""
    any_label: Annotated[list[TargetName], AfterValidator(distinct)] = []
    """Targets whose samples may have several labels, any of which is a right answer, as in Sports-1M. What is trained
    on features sees such a sample once with each of its labels."""
    batch_size: Count = 32
    """Samples per forward pass when scoring."""
    linear: LinearConfig = LinearConfig()
    knn: NearestConfig = NearestConfig()
    svm: SvmConfig = SvmConfig()
    low_shot: LowShotConfig = LowShotConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    heads: HeadsConfig = HeadsConfig()
    finetune: FinetuneConfig

    def protocols_of(self, target: str) -> list[ProtocolName]:
        """The protocols for one target."""
        return self.protocols_by_target.get(target, self.protocols)
