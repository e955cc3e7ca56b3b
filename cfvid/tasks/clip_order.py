"""Clip order: three pieces of a video, shuffled; in which order?

Clip order prediction (Xu et al., CVPR 2019), which orders clips as Misra et al. (ECCV 2016) order frames. Here one
linear layer looks at the features of all pieces; the original has a hidden layer over each pair of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from cfvid.config import RunConfig
from cfvid.data.loader import Batch, SampleLoader
from cfvid.data.manifest import Manifest
from cfvid.models.zoo import Network
from cfvid.seeds import stream
from cfvid.tasks.measure import Device, Measured, question_accuracy
from cfvid.tasks.permutation import build_permutation_network, choose_permutations
from cfvid.training.objective import Examples

NUM_PIECES = 3
GAP_SHARE = 0.5
"""Between two pieces, of a piece's frames: 8 of 16 in the original."""


class ShuffledPieces:
    """Pieces of a long clip, cut along time with gaps between them, in the order of one of the permutations.

    Args:
        permutations: uint8, (K, 3): which piece comes at each place.
        num_frames: of a piece.
        gap: frames between two pieces.
    """

    temperature = 1.0

    def __init__(self, permutations: np.ndarray, *, num_frames: int, gap: int) -> None:
        self.permutations, self.num_frames, self.gap = permutations, num_frames, gap

    def examples(self, views: torch.Tensor, batch: Batch) -> Examples:
        """uint8 (N, C, T, H, W) -> (3N, C, num_frames, H, W), the pieces of a clip after each other; targets (N,)."""
        target = np.array([int(stream(seed, "clip-order").integers(len(self.permutations))) for seed in batch.seeds])
        starts = self.permutations[target].astype(np.int64) * (self.num_frames + self.gap)
        frames = torch.from_numpy(starts[..., None] + np.arange(self.num_frames)).to(views.device)
        clip = torch.arange(len(views), device=views.device)[:, None, None]
        pieces_NPTCHW = views[clip, :, frames]
        return Examples(pieces_NPTCHW.movedim(3, 2).flatten(0, 1), torch.from_numpy(target).to(views.device))


class ClipOrder:
    """See `cfvid.tasks.base.Task`.

    While it is trained, the modality takes clips of three pieces and two gaps, four times the usual length. Shorter
    videos are left out as unreadable, whatever `input.short_clip` says: a last piece that stands still, or shows the
    start again, would give the answer away.
    """

    dims: ClassVar[frozenset[int]] = frozenset({3})
    needs_labels: ClassVar[bool] = False
    learns_from_pieces: ClassVar[bool] = False

    def __init__(self, config: RunConfig, *, samples: Manifest, held_out: Manifest) -> None:
        self._arch, self._seed = config.pretrain.arch, config.seed
        self.samples, self.held_out = samples, held_out
        self.classes: list[str] = []
        num_frames = config.pretrain_input.model_dump()["num_frames"]
        gap = int(num_frames * GAP_SHARE)
        num_frames_together = NUM_PIECES * num_frames + (NUM_PIECES - 1) * gap
        self.input_changes: dict[str, Any] = {"num_frames": num_frames_together, "short_clip": "error"}
        permutations = choose_permutations(NUM_PIECES, 6)
        self.chance = 1 / len(permutations)
        self.objective = ShuffledPieces(permutations, num_frames=num_frames, gap=gap)

    def build(self) -> tuple[nn.Module, Network]:
        """One trunk over three pieces, and N_pre with that trunk."""
        num_classes = len(self.objective.permutations)
        return build_permutation_network(self._arch, num_pieces=NUM_PIECES, num_classes=num_classes, seed=self._seed)

    def measure(self, network: nn.Module, loader: SampleLoader, device: Device) -> Measured:
        """One order of each sample."""
        return question_accuracy(network, loader, device, objective=self.objective, seed=self._seed)

    def write(self, folder: Path) -> list[str]:  # noqa: ARG002
        """Nothing: the orders are the same in every run."""
        return []
