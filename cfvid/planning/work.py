"""What a stage is going to do: samples, passes through networks, bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from cfvid.data.loader import Look
from cfvid.data.manifest import Manifest
from cfvid.modalities.base import Modality
from cfvid.planning.arithmetic import most_on_disk
from cfvid.sections.training import TrainingConfig
from cfvid.training.objective import Objective
from cfvid.training.optim import freeze


@dataclass(frozen=True)
class Looks:
    """Samples that are decoded, and how."""

    samples: Manifest
    modality: Modality
    look: Look

    @property
    def key(self) -> Hashable:
        """Equal for what takes equally long to decode."""
        return self.samples.digest, self.modality_key, self.look

    @property
    def modality_key(self) -> str:
        """Equal for modalities of equal options."""
        return json.dumps(self.modality.options.model_dump(mode="json"), sort_keys=True)

    @property
    def num_views(self) -> int:
        """Views of each sample: options that are named for a look are its counts, which multiply."""
        options = self.modality.options.model_dump()
        return math.prod(value for name, value in options.items() if name.startswith(f"{self.look}_"))


@dataclass(frozen=True)
class Training:
    """How a network is trained."""

    config: TrainingConfig
    part_lrs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass:
    """Samples that are decoded and go through a network, by one set of decoding processes."""

    looks: Looks
    build: Callable[[], nn.Module]
    """The network, or one of the same shape."""
    batch_size: int
    kind: tuple[Hashable, ...]
    """Equal for networks that take equally long for a sample, but for their number of classes."""
    times: int = 1
    """Epochs."""
    objective: Callable[[], Objective] | None = None
    """Makes inputs and answers of views; None where the network takes the views."""
    training: Training | None = None
    """None where it is only looked at what the network says."""

    @property
    def key(self) -> Hashable:
        """Equal for what takes equally long to compute."""
        how = None if self.training is None else (self.training.config.optimizer, str(self.training.part_lrs))
        return self.kind, self.looks.modality_key, self.batch_size, how

    @property
    def num_decoded(self) -> int:
        """Looks at samples, over all epochs."""
        return self.times * len(self.looks.samples)


@dataclass(frozen=True)
class Search:
    """The k-means of a run."""

    num_comparisons: float
    """Of a point with a centroid."""
    num_clusters: int
    """That a point is compared with at a time."""
    dim: int


@dataclass(frozen=True)
class Work:
    """One stage of a run; or, of transfer, one target."""

    name: str
    what: str
    """How many samples, and what for."""
    is_done: bool = False
    passes: tuple[Pass, ...] = ()
    search: Search | None = None
    kept_bytes: int = 0
    """Written, and there when the stage has ended."""
    scratch_bytes: int = 0
    """Written besides, and removed by then."""
    memory_bytes: int = 0
    """Of arrays over all samples, besides what passes take."""


def disk_bytes(works: Sequence[Work]) -> tuple[int, int]:
    """Bytes that works write and keep, and the most that lie there at a time."""
    kept, scratch = [work.kept_bytes for work in works], [work.scratch_bytes for work in works]
    return sum(kept), most_on_disk(kept, scratch)


def weight_bytes(build: Callable[[], nn.Module]) -> int:
    """Of a network's parameters and buffers; nothing is allocated."""
    with torch.device("meta"):
        return sum(tensor.nbytes for tensor in build().state_dict().values())


def optimizer_bytes(module: nn.Module, training: Training) -> int:
    """What the optimiser keeps of the parameters that are trained."""
    trained = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    copies = 2 if training.config.optimizer == "adamw" else int(training.config.momentum > 0)
    return copies * trained


def state_bytes(trained: Pass) -> int:
    """What a training's resumable states take: there are two while one replaces the other."""
    assert trained.training is not None
    with torch.device("meta"):
        module = trained.build()
    freeze(module, trained.training.part_lrs)
    weights = sum(tensor.nbytes for tensor in module.state_dict().values())
    return 2 * (weights + optimizer_bytes(module, trained.training))
