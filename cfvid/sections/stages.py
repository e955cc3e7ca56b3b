"""Settings of the stages but transfer, of the report, and of the machine."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from cfvid.sections.base import Count, Fraction, Integer, Natural, Number, Positive, Section, distinct
from cfvid.sections.data import TargetName
from cfvid.sections.training import TrainingConfig

_SAMPLES_PER_CLUSTER = 80
_MOST_CLUSTERS = 16_000
MAX_IMAGE_MEGAPIXELS = 64.0
"""Larger pictures are refused by default."""


class PretrainConfig(Section):
    """N_pre: trained here on labels or on a task without labels, or brought along."""

    arch: str
    """Network by name; `cfvid doctor` lists them."""
    weights: str | None = None
    """Use these instead of training: a cfvid checkpoint folder, a foreign state dict (.safetensors, .pth), or a file
    of the Hugging Face Hub, hf://ORG/NAME[@REVISION][/FILE]."""
    weights_prefix: str | None = None
    """With `weights` of a file that holds several networks (student and teacher, plain and averaged weights): what the
    keys of the one that is meant begin with, e.g. `teacher`."""
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
        if self.weights_prefix is not None and self.weights is None:
            raise ValueError("weights_prefix: no effect without weights")
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
    """The type of stored features. A shard with a value beyond fp16's 65,504 is kept in fp32, which is logged."""
    shard_size: Count = 4096
    """Samples per shard; a killed extraction redoes at most one."""
    batch_size: Count = 64
    """Samples per forward pass."""


class ClusterConfig(Section):
    """Features -> pseudo-labels."""

    method: Literal["kmeans", "per_label", "prototypes", "distillation"] = "kmeans"
    """`kmeans` is ClusterFit; the others are what the paper compares it with: k-means within each label that N_pre was
    trained on, the nearest mean feature of such a label, and N_pre's own softened outputs."""
    num_clusters: Count | None = None
    """K, of `kmeans` and of `per_label` in total; the other methods have as many as there are labels. By default from
    the number N of samples in the pool: N / 80, as 16,000 clusters of ImageNet's 1.28 million pictures are, but at
    least the square root of N and at most 16,000."""
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
    """`faiss` holds all features in memory; `streaming` reads them in blocks from disk, in each iteration again, for
    pools of any size (not for `per_label`). `auto` is faiss up to 8 GiB of features (as float32). On a GPU that faiss
    does not see, and for blocks on any GPU, torch finds the nearest centroids."""
    hierarchical: bool = False
    """Of `kmeans`: coarse groups first, starting points within each, then a few iterations over all. For many thousands
    of clusters: much faster, and nearly as good."""
    minibatch: Count | None = None
    """Of `kmeans`: each iteration looks at so many points, drawn anew, instead of at all (Sculley, WWW 2010). A
    centroid is the mean of all points that it was ever nearest to."""
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
        if self.engine == "streaming" and (self.method == "per_label" or self.more_features):
            raise ValueError("engine: streaming is for the features of one network, and not for method: per_label")
        if self.hierarchical and self.method != "kmeans":
            raise ValueError(f"hierarchical has no meaning for method: {self.method}")
        if self.minibatch is not None and (self.method != "kmeans" or self.hierarchical):
            raise ValueError("minibatch is for method: kmeans, and not for hierarchical")
        if self.minibatch is not None and self.max_points_per_centroid is not None:
            raise ValueError("minibatch draws points anew in each iteration: leave max_points_per_centroid out")
        if self.distance == "spherical" and not self.l2_normalize:
            raise ValueError("distance: spherical needs l2_normalize: true")
        return self

    def clusters_of(self, num_samples: int, *, num_labels: int = 0) -> int:
        """K for a pool of so many samples; `per_label` needs a cluster for each of the labels."""
        if self.num_clusters is not None:
            return self.num_clusters
        num = min(_MOST_CLUSTERS, max(round(num_samples / _SAMPLES_PER_CLUSTER), round(math.sqrt(num_samples)), 1))
        return max(num, num_labels if self.method == "per_label" else 0)


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


class ReportConfig(Section):
    """What the report page shows."""

    num_sheet_clusters: Natural = 8
    """Clusters shown as contact sheets."""
    num_sheet_samples: Count = 6
    """Samples per contact sheet, nearest to the centroid first."""
    leaks: dict[TargetName, str] = {}
    """For a target, a file that `cfvid data leaks --out` wrote: the gains are also given without those samples."""


class RuntimeConfig(Section):
    """How the work is done on this machine; no setting here changes a result, but see `video_decoder`."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_workers: Natural | None = None
    """Guarded decoding processes; by default one per core, at most 8. 0 decodes in this process, without guard."""
    video_decoder: Literal["decord", "pyav", "torchcodec"] = "decord"
    """Tried first; decord and PyAV follow where it fails. PyAV decodes nothing that the wanted frames do not need,
    which is faster for clips of long files. TorchCodec (on the CPU) has to be installed, with FFmpeg. All give the
    same frames; outside 8-bit H.264 colours may differ by rounding, of 10-bit video by more."""
    decode_deadline_s: Positive = 20.0
    """A decoder that takes longer for one sample is killed."""
    decode_memory_gb: Positive = 4.0
    """Memory that one decoding process may take."""
    max_image_megapixels: Positive = MAX_IMAGE_MEGAPIXELS
    """Pictures of more million pixels are refused before their pixels are allocated."""
    clip_cache: str | None = None
    """A folder where videos are kept, decoded and made small (`input.cache_short_side`), so that later epochs need not
    decode them. The first training look at a video then decodes all of it. Not kept: shards behind a URL, videos whose
    small frames would take more than 1 % of `clip_cache_gb` or a quarter of the deadline, and those that do not decode
    to their end."""
    clip_cache_gb: Positive = 20.0
    """Limit of that folder; nothing is added beyond it, and nothing removed."""
    checkpoint_minutes: Positive = 5.0
    """Time between resumable states of a training; one is also written at the end of every epoch."""
    log_every_steps: Count = 10
    """Steps between lines in metrics.jsonl; epochs are always logged."""
    cache: str | None = None
    """Where embedded data sets are generated; by default the user's cache folder."""
