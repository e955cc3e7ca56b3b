"""The whole configuration of a run: one typed section per stage, validated before any work.

Layers, later ones win: the modality's shipped YAML, the user's YAML, dotted command-line overrides. Lists and
`data.targets` are replaced as a whole, never merged item by item. Every fault of every layer is listed in one
`ConfigError`, with the nearest known name and, for a file, the line.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    create_model,
    model_validator,
)

from cfvid.config_faults import faults_from
from cfvid.errors import ConfigError
from cfvid.yaml_layers import Layer, merge, place


def _no_bool(value: Any) -> Any:
    # In Python, and so in pydantic, True is the number 1: `lr: yes` would train.
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def distinct(values: list[Any]) -> list[Any]:
    """The values, none of which may be there twice.

    Raises:
        ValueError: naming one that is.
    """
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is listed twice")
    return values


Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]
Positive = Annotated[Number, Field(gt=0.0)]
Integer = Annotated[int, BeforeValidator(_no_bool)]
Count = Annotated[Integer, Field(ge=1)]
Natural = Annotated[Integer, Field(ge=0)]


class Section(BaseModel):
    """Base of all sections: unknown keys are faults, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


# ---------------------------------------------------------------------------------------------- data


class SourceConfig(Section):
    """One place that samples come from."""

    path: str
    """A folder, a .csv or .parquet manifest, or `embedded:NAME`; relative paths start at `data.root`."""
    kind: Literal["auto", "embedded", "folder", "manifest", "kinetics"] = "auto"
    """How to read it: class folders, cfvid's own manifest columns, or Kinetics' official CSV columns."""
    media_root: str | None = None
    """Where a manifest's relative paths start; by default the manifest's own folder."""
    label_separator: str | None = None
    """Splits a manifest's label column into several labels per sample (weak tags), e.g. `|`."""
    train_split: str = "train"
    """The source's name of the split that is trained on."""
    val_split: str = "val"
    """The source's name of the split that is scored on."""
    class_share: tuple[Fraction, Fraction] | None = None
    """Only a range of the classes, in an order drawn from their names: [0, 0.5] and [0.5, 1] are two halves."""
    max_samples: Count | None = None
    """At most this many training samples, drawn by their ids."""
    per_class: tuple[Count, Count] | None = None
    """Of an embedded set: files per class in train and in val; by default the set's own numbers."""

    @model_validator(mode="after")
    def _splits_differ(self) -> Self:
        if self.train_split == self.val_split:
            raise ValueError(f"train_split and val_split are both {self.train_split!r}")
        if self.class_share is not None and self.class_share[0] >= self.class_share[1]:
            raise ValueError(f"class_share goes from {self.class_share[0]} to {self.class_share[1]}")
        if self.per_class is not None and self.kind != "embedded" and not self.path.startswith("embedded:"):
            raise ValueError("per_class is for embedded sets; max_samples limits others")
        return self


def _as_source(value: Any) -> Any:
    if not isinstance(value, str | dict | SourceConfig):
        raise ValueError("a source is a path, or a mapping with a path")
    return {"path": value} if isinstance(value, str) else value


def _as_sources(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Source = Annotated[SourceConfig, BeforeValidator(_as_source)]
Sources = Annotated[list[Source], BeforeValidator(_as_sources), Field(min_length=1)]


def _target_name(name: str) -> str:
    if name in ("pretrain", "clusterfit"):
        raise ValueError("no target may have this name, which is that of another source")
    return name


TargetName = Annotated[str, Field(pattern=r"^\w[\w-]*$"), AfterValidator(_target_name)]
"""Names a folder of the run."""


class DataConfig(Section):
    """Where samples come from and how many may be unreadable."""

    root: str | None = None
    """Folder at which relative paths of sources start; by default the working directory."""
    pretrain: Sources
    """D_pre: samples for N_pre, labelled unless `pretrain.task` needs no labels. A path, or a list of sources that are
    put together."""
    clusterfit: Sources | None = None
    """D_cf: the pool that is clustered and retrained on, labels unused. By default the same as `pretrain`."""
    max_clusterfit: Count | None = None
    """At most this many training samples of D_cf, drawn by their ids."""
    targets: dict[TargetName, Sources]
    """Transfer targets by name; each needs labels and both splits."""
    skip_budget: Fraction = 0.05
    """Largest share of unreadable samples that a stage accepts."""
    trusted_roots: list[str] = []
    """Folders that manifest paths may lead to besides their own root."""


# ---------------------------------------------------------------------------------------------- training


class TrainingConfig(Section):
    """One training run: the optimiser, its schedule, precision and checkpoints."""

    epochs: Count
    batch_size: Count
    """Samples per optimiser step and process, before gradient accumulation."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive
    """Peak learning rate."""
    momentum: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[Number, Field(ge=0.0)] = 1e-4
    decay_norm_and_bias: bool = False
    """Whether weight decay also applies to normalisation layers and biases."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: Annotated[Number, Field(ge=0.0)] = 0.0
    milestones: list[Count] = []
    """Epochs at which `schedule: step` multiplies the learning rate by `gamma`."""
    gamma: Positive = 0.1
    label_smoothing: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.0
    clip_grad_norm: Positive | None = None
    gradient_accumulation: Count = 1
    """Batches per optimiser step."""
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
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) must be less than epochs ({self.epochs})")
        return self


# ---------------------------------------------------------------------------------------------- stages


class PretrainConfig(Section):
    """N_pre: trained here on labels or on a task without labels, or brought along."""

    arch: str
    """Network by name; `cfvid doctor` lists them."""
    weights: str | None = None
    """Use these instead of training: a cfvid checkpoint folder, a foreign state dict (.safetensors, .pth), or a file
    of the Hugging Face Hub, hf://ORG/NAME[@REVISION][/FILE]."""
    task: Literal["labels", "rotation", "jigsaw", "clip_order"] = "labels"
    """What is learnt: the labels; or, without labels, by how much a sample was turned, the order of a picture's tiles
    (2D networks), the order of a video's pieces (3D networks; four times as long as a clip, shorter videos are left
    out)."""
    label_noise: Fraction = 0.0
    """With `task: labels`: share p of training labels that are replaced, or missing among `tags`; recorded."""
    noise: Literal["uniform", "pair_flip", "tags"] = "uniform"
    """With `task: labels`: a label is replaced by any other, or by the next class; or samples have weak `tags`, a true
    one that is missing with probability `label_noise`, and others that are drawn from a long tail."""
    extra_tags: Natural = 2
    """With `noise: tags`: draws of other tags for each sample."""
    num_labels: Annotated[Integer, Field(ge=2)] | None = None
    """With `task: labels`: keep only so many of the classes, drawn by the seed; samples of the others are left out."""
    num_permutations: Annotated[Integer, Field(ge=2, le=10_000)] = 2000
    """With `task: jigsaw`: orders of the tiles to tell apart."""
    input: dict[str, Any] = {}
    """Keys of `input` that are otherwise while N_pre is trained: its own augmentation."""
    training: TrainingConfig

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.task != "labels" and self.weights is None:
            of_labels = {
                "label_noise": self.label_noise > 0,
                "noise": self.noise != "uniform",
                "num_labels": self.num_labels is not None,
            }
            idle = [name for name, is_set in of_labels.items() if is_set]
            if idle:
                raise ValueError(f"{', '.join(idle)}: no effect with task: {self.task}, which uses no labels")
        if self.input and self.weights is not None:
            raise ValueError("input: no effect with weights, which are not trained")
        if self.noise == "tags" and self.extra_tags < 1:
            raise ValueError("noise: tags needs extra_tags of at least 1, or samples may be left without a tag")
        return self


class ExtractConfig(Section):
    """Features of D_cf by N_pre."""

    layer: str | None = None
    """A named layer of the trunk, averaged over space and time; by default the input of the last layer."""
    dtype: Literal["fp16", "fp32"] = "fp16"
    shard_size: Count = 4096
    """Samples per shard; a killed extraction redoes at most one."""
    batch_size: Count = 64
    """Samples per forward pass."""


class ClusterConfig(Section):
    """Features -> pseudo-labels."""

    method: Literal["kmeans", "per_label", "prototypes", "distillation"] = "kmeans"
    """`kmeans` is ClusterFit; the others are what the paper compares it with: k-means within each label that N_pre was
    trained on, the nearest mean feature of such a label, and N_pre's own softened outputs."""
    num_clusters: Count
    """K, of `kmeans` and of `per_label` in total; the other methods have as many as there are labels."""
    distance: Literal["spherical", "euclidean"] = "euclidean"
    """`spherical` keeps centroids on the unit sphere and needs `l2_normalize`."""
    l2_normalize: bool = True
    pca_dim: Count | None = None
    """Project to this many principal components first."""
    whiten: bool = False
    """Scale the principal components to unit variance."""
    iterations: Count = 50
    restarts: Count = 1
    """Independent k-means runs; the one with the best objective is kept."""
    engine: Literal["auto", "faiss", "streaming"] = "auto"
    """Of `kmeans`: `faiss` holds all features in memory; `streaming` reads them in blocks from disk, in each iteration
    again, for pools of any size. `auto` is faiss up to 8 GiB of features (as float32)."""
    hierarchical: bool = False
    """Of `kmeans`: coarse groups first, then clusters within each, then a few iterations over all. For many thousands
    of clusters: much faster, and nearly as good."""
    max_points_per_centroid: Count | None = None
    """Subsample to K times this many points for fitting; by default all points are used."""
    merge_tiny_below: Natural = 0
    """Clusters with fewer members are dissolved: their members go to the nearest cluster that remains."""
    more_features: Annotated[list[str], AfterValidator(distinct)] = []
    """Folders of more features of the same samples, e.g. another run's `extract`: each is given unit length, and they
    are put side by side with this run's (several N_pre)."""
    soft_top: Count | None = None
    """Soft labels over this many nearest clusters, instead of the nearest one alone."""
    soft_bandwidth: Positive = 0.25
    """Of soft labels: the squared distance, in units of its mean to the nearest centroid, over which a cluster's share
    falls by the factor e."""
    temperature: Positive = 4.0
    """Of `distillation`: N_pre's and N_cf's logits are divided by it (Hinton et al., 2015)."""

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.whiten and self.pca_dim is None:
            raise ValueError("whiten needs pca_dim")
        if self.soft_top is not None and self.method not in ("kmeans", "prototypes"):
            raise ValueError(f"soft_top has no meaning for method: {self.method}")
        if self.method == "distillation" and self.merge_tiny_below:
            raise ValueError("merge_tiny_below has no meaning for method: distillation")
        if self.method == "distillation" and self.more_features:
            raise ValueError("method: distillation takes the outputs of one N_pre, not more_features")
        if self.engine == "streaming" and (self.method != "kmeans" or self.more_features):
            raise ValueError("engine: streaming is for method: kmeans over the features of one network")
        if self.hierarchical and self.method != "kmeans":
            raise ValueError(f"hierarchical has no meaning for method: {self.method}")
        if self.distance == "spherical" and not self.l2_normalize:
            raise ValueError("distance: spherical needs l2_normalize: true")
        return self


class HealthConfig(Section):
    """When pseudo-labels are too sick to pay for a retraining. Looked at before it begins; changes no result."""

    action: Literal["warn", "stop"] = "warn"
    """What severe symptoms do."""
    tiny_below: Natural = 5
    """Clusters with fewer members are tiny."""
    max_tiny_share: Fraction = 0.5
    """It is severe when more than this share of the clusters are tiny."""
    giant_share: Fraction = 0.25
    """A cluster that holds more than this share of the samples is giant, which is severe."""
    min_effective_share: Fraction = 0.2
    """It is severe when the cluster sizes are worth fewer equal clusters than this share of those asked for."""
    max_label_nmi: Fraction = 0.85
    """It is severe when the clusters agree more than this with the labels that N_pre was trained on."""
    max_label_purity: Fraction = 0.9
    """... or when more than this share of the samples have the commonest of those labels in their cluster: with many
    more clusters than labels, clusters of one label each have a low mutual information. Not looked at where the mean
    cluster is tiny, and pure by chance."""


class RetrainConfig(Section):
    """N_cf: from scratch on the pseudo-labels."""

    arch: str | None = None
    """By default the architecture of N_pre."""
    sampling: Literal["all", "balanced"] = "all"
    """What an epoch is: every sample once, or as many draws that take every cluster equally often."""
    confidence_weights: bool = False
    """Weight each sample by how much nearer its centroid is than the second nearest one."""
    keep_nearest: Annotated[Number, Field(gt=0.0, le=1.0)] = 1.0
    """Train on this share of each cluster's members only, those nearest to its centroid; at least one."""
    training: TrainingConfig


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
    batch_size: Count = 256
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


class TransferConfig(Section):
    """Which networks are scored, how, and how often."""

    networks: Annotated[list[Literal["n_pre", "n_cf", "random"]], Field(min_length=1), AfterValidator(distinct)] = [
        "n_pre",
        "n_cf",
        "random",
    ]
    protocols: Annotated[list[ProtocolName], Field(min_length=1), AfterValidator(distinct)] = ["linear", "finetune"]
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


class ReportConfig(Section):
    """What the report page shows."""

    num_sheet_clusters: Natural = 8
    """Clusters shown as contact sheets."""
    num_sheet_samples: Count = 6
    """Samples per contact sheet, nearest to the centroid first."""
    leaks: dict[TargetName, str] = {}
    """For a target, a file that `cfvid data leaks --out` wrote: the gains are also given without those samples."""


class RuntimeConfig(Section):
    """How the work is done on this machine; no setting here changes a result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_workers: Natural | None = None
    """Guarded decoding processes; by default one per core, at most 8. 0 decodes in this process, without guard."""
    decode_deadline_s: Positive = 20.0
    """A decoder that takes longer for one sample is killed."""
    decode_memory_gb: Positive = 4.0
    """Memory that one decoding process may take."""
    checkpoint_minutes: Positive = 5.0
    """Time between resumable states of a training; one is also written at the end of every epoch."""
    log_every_steps: Count = 10
    """Steps between lines in metrics.jsonl; epochs are always logged."""
    cache: str | None = None
    """Where embedded data sets are generated; by default the user's cache folder."""


class RunConfig(Section):
    """Everything that decides the outcome of a run."""

    modality: str
    seed: Integer = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of all forward and backward passes. `auto`: bf16 on a GPU that has it, else fp32."""
    input: SerializeAsAny[Section]
    """How samples are decoded and looked at; each modality has its own keys."""
    data: DataConfig
    pretrain: PretrainConfig
    extract: ExtractConfig = ExtractConfig()
    cluster: ClusterConfig
    health: HealthConfig = HealthConfig()
    retrain: RetrainConfig
    transfer: TransferConfig
    report: ReportConfig = ReportConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _pretrain_input_is_valid(self) -> Self:
        try:
            _ = self.pretrain_input
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, ("pretrain.input", *first["loc"])))
            what = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
            raise ValueError(f"unknown key {key}" if first["type"] == "extra_forbidden" else f"{key}: {what}") from None
        return self

    @model_validator(mode="after")
    def _named_targets_exist(self) -> Self:
        named: dict[str, Collection[str]] = {
            "report.leaks": self.report.leaks,
            "transfer.any_label": self.transfer.any_label,
            "transfer.heads.by_target": self.transfer.heads.by_target,
        }
        for key, names in named.items():
            for name in names:
                if name not in self.data.targets:
                    raise ValueError(f"{key}: data.targets has no {name!r}")
        return self

    @model_validator(mode="after")
    def _folds_are_targets(self) -> Self:
        for name, folds in self.transfer.folds.items():
            unknown = [fold for fold in folds if fold not in self.data.targets]
            if unknown:
                raise ValueError(f"transfer.folds.{name}: data.targets has no {unknown[0]!r}")
            if name in self.data.targets:
                raise ValueError(f"transfer.folds.{name}: this is the name of a target in data.targets")
        return self

    @property
    def pretrain_input(self) -> Section:
        """`input` while N_pre is trained."""
        return type(self.input).model_validate({**self.input.model_dump(), **self.pretrain.input})

    @property
    def retrain_arch(self) -> str:
        """N_cf's architecture."""
        return self.retrain.arch or self.pretrain.arch

    def plain(self, *sections: str) -> dict[str, Any]:
        """The named sections (all without names) as JSON-like values, for records and files."""
        dumped = self.model_dump(mode="json")
        return {name: dumped[name] for name in sections} if sections else dumped


class ModalityKeys(Protocol):
    """What the configuration needs to know of a modality."""

    Input: type[Section]
    network_dims: int


def load_config(
    layers: list[Layer], *, modalities: Mapping[str, ModalityKeys], architectures: Mapping[str, int]
) -> RunConfig:
    """Merge the layers and validate the result as a whole.

    Args:
        layers: from weakest to strongest.
        modalities: all of them, by name.
        architectures: the dimensions (2 or 3) of each known network, by its name.

    Raises:
        ConfigError: one message with every fault of every layer.
    """
    faults = [fault for layer in layers for fault in layer.faults]
    values = merge(layers)
    config = None
    if not any(layer.faults and not layer.values for layer in layers):
        # Otherwise a whole layer is missing, and most of what would be found has that one cause.
        config, found = _validate(values, layers, modalities, architectures)
        faults += found
    if faults or config is None:
        raise ConfigError(
            f"The configuration has {len(faults)} fault{'s' * (len(faults) != 1)}:\n"
            + "\n".join(f"    {fault}" for fault in faults),
            fix="Mend them and run again; --print-config shows what a configuration resolves to.",
        )
    return config


def _validate(
    values: dict[str, Any],
    layers: Sequence[Layer],
    modalities: Mapping[str, ModalityKeys],
    architectures: Mapping[str, int],
) -> tuple[RunConfig | None, list[str]]:
    """The configuration, or None; and every fault."""
    name = values.get("modality")
    modality = modalities.get(name) if isinstance(name, str) else None
    faults = []
    if "modality" not in values:
        faults.append(f"modality is missing; it is one of {', '.join(modalities)}")
    elif modality is None and isinstance(name, str):
        faults.append(f"{place(layers, 'modality')}modality: {_not_one_of(name, modalities)}")
    elif modality is not None:
        faults += _architecture_faults(values, layers, modality.network_dims, architectures)
    model = schema(modality.Input if modality else _AnyInput)
    try:
        return model.model_validate(values), faults
    except ValidationError as error:
        found = faults_from(error, model=model, layers=layers, values=values)
    # Without a modality its shipped defaults are not there, so that nearly every key is missing.
    return None, faults + [fault for fault in found if modality or not fault.endswith("is missing")]


class _AnyInput(Section):
    """Stands in for the input keys of a modality that nobody knows."""

    model_config = ConfigDict(extra="allow")


def _architecture_faults(
    values: Mapping[str, Any], layers: Sequence[Layer], dims: int, architectures: Mapping[str, int]
) -> list[str]:
    faults = []
    fitting = [name for name, its_dims in architectures.items() if its_dims == dims]
    for key in ("pretrain.arch", "retrain.arch"):
        section, _, leaf = key.partition(".")
        part = values.get(section)
        arch = part.get(leaf) if isinstance(part, Mapping) else None
        if isinstance(arch, str) and arch not in fitting:
            faults.append(f"{place(layers, key)}{key}: {_not_one_of(arch, fitting)}")
    return faults


def _not_one_of(name: object, known: Iterable[str]) -> str:
    near = get_close_matches(str(name), list(known), n=1)
    return f"{name!r} is not one of {', '.join(known)}" + (f"; did you mean {near[0]}?" if near else "")


@functools.cache
def schema(input_section: type[Section]) -> type[RunConfig]:
    """`RunConfig` with the input keys of one modality."""
    return create_model("RunConfig", __base__=RunConfig, input=(input_section, ...))


def resolve(path: str, *, root: str | None) -> Path:
    """A source's path: absolute, from the home folder, or relative to `root`."""
    expanded = Path(path).expanduser()
    return expanded if expanded.is_absolute() else Path(root or ".").expanduser() / expanded
