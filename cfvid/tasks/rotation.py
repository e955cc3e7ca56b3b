"""RotNet: by how much was the picture turned? (Gidaris et al., ICLR 2018)"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from cfvid.config import RunConfig
from cfvid.data.loader import Batch, SampleLoader
from cfvid.data.manifest import Manifest
from cfvid.models.zoo import Network, build_network
from cfvid.seeds import derive
from cfvid.tasks.measure import Device, Measured, question_accuracy
from cfvid.training.objective import Examples


class Rotations:
    """All four rotations of every view: the batch of the network is four times that of the samples.

    It can be learnt only where things have an upside: samples that are as likely turned as not teach nothing.
    """

    temperature = 1.0

    def examples(self, views: torch.Tensor, batch: Batch) -> Examples:  # noqa: ARG002  (nothing is drawn)
        """uint8 (N, C, ..., S, S) -> (4N, C, ..., S, S), in quarter turns to the left: first all 0, then all 1, ...

        All frames of a clip are turned alike.
        """
        turned = torch.cat([torch.rot90(views, quarters, dims=(-2, -1)) for quarters in range(4)])
        return Examples(turned, torch.arange(4, device=views.device).repeat_interleave(len(views)))


class Rotation:
    """See `cfvid.tasks.base.Task`."""

    dims: ClassVar[frozenset[int]] = frozenset({2, 3})
    needs_labels: ClassVar[bool] = False
    learns_from_pieces: ClassVar[bool] = False

    def __init__(self, config: RunConfig, *, samples: Manifest, held_out: Manifest) -> None:
        self._arch, self._seed = config.pretrain.arch, config.seed
        self.samples, self.held_out = samples, held_out
        self.classes = ["0 degrees", "90 degrees", "180 degrees", "270 degrees"]
        self.chance = 1 / len(self.classes)
        self.input_changes: dict[str, Any] = {}
        self.objective = Rotations()

    def build(self) -> tuple[nn.Module, Network]:
        """N_pre itself."""
        seed = derive(self._seed, "pretrain", "weights")
        network = build_network(self._arch, num_classes=len(self.classes), seed=seed)
        return network, network

    def measure(self, network: nn.Module, loader: SampleLoader, device: Device) -> Measured:
        """Over all four rotations of each sample."""
        return question_accuracy(network, loader, device, objective=self.objective, seed=self._seed)

    def write(self, folder: Path) -> list[str]:  # noqa: ARG002
        """Nothing: the answers are the same for all samples."""
        return []
