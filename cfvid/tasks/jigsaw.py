"""Jigsaw: nine tiles of a picture, shuffled; in which order? (Noroozi & Favaro, ECCV 2016)

As Goyal et al. (ICCV 2019) scaled it: one trunk over the tiles, up to thousands of permutations. What can be read
off the borders of the tiles is hidden by a random gap between them, and what colour fringes tell (chromatic
aberration) by showing some pictures in grey. The original also normalises every tile by itself, which is not done
here: tiles stay uint8, and the modality normalises them like pictures.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from cfvid.config import RunConfig
from cfvid.data.loader import Batch, SampleLoader
from cfvid.data.manifest import Manifest
from cfvid.errors import ConfigError
from cfvid.models.zoo import Network
from cfvid.seeds import stream
from cfvid.tasks.measure import Device, Measured, question_accuracy
from cfvid.tasks.permutation import build_permutation_network, choose_permutations
from cfvid.training.objective import Examples

GRID = 3
"""Tiles in a row and in a column."""
TILE_SHARE = 64 / 75
"""Of a cell's side: 64 pixels of 75, as in the original."""
_SMALLEST_CELL = 4
"""Pixels."""
GREY_SHARE = 0.3
"""Of the pictures, as in the original."""


class ShuffledTiles:
    """Tiles, each a random part of its cell of the grid, in the order of one of the permutations.

    Args:
        permutations: uint8, (K, 9): which cell's tile comes at each place; cells are counted row by row.
    """

    temperature = 1.0

    def __init__(self, permutations: np.ndarray) -> None:
        self.permutations = permutations

    def examples(self, views: torch.Tensor, batch: Batch) -> Examples:
        """uint8 (N, C, H, W) -> (9N, C, S, S), the tiles of one picture after each other; targets (N,).

        Pixels that do not divide into three cells are left out at the right and at the bottom.
        """
        cells_hw = np.array(views.shape[-2:]) // GRID
        side = max(1, int(cells_hw.min() * TILE_SHARE))
        target, corners, is_grey = self._draw(batch.seeds, cells_hw, side)
        rows, columns = (torch.from_numpy(corners[..., i, None] + np.arange(side)).to(views.device) for i in (0, 1))
        picture = torch.arange(len(views), device=views.device)[:, None, None, None]
        views = torch.where(torch.from_numpy(is_grey).to(views.device)[:, None, None, None], _grey(views), views)
        tiles_NPSSC = views[picture, :, rows[..., :, None], columns[..., None, :]]
        tiles = tiles_NPSSC.movedim(-1, 2).flatten(0, 1)
        return Examples(tiles, torch.from_numpy(target).to(views.device))

    def _draw(self, seeds: list[int], cells_hw: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each picture: the permutation (N,), its tiles' upper left corners (N, 9, 2), whether it is grey (N,)."""
        target, corners, is_grey = [], [], []
        for seed in seeds:
            rng = stream(seed, "jigsaw")
            target.append(int(rng.integers(len(self.permutations))))
            cells = np.stack(np.divmod(self.permutations[target[-1]].astype(np.int64), GRID), axis=-1)
            corners.append(cells * cells_hw + rng.integers(0, cells_hw - side + 1, cells.shape))
            is_grey.append(rng.random() < GREY_SHARE)
        return np.array(target), np.stack(corners), np.array(is_grey)


def _grey(views: torch.Tensor) -> torch.Tensor:
    """The mean over the channels, in all channels: uint8, of the same shape."""
    return views.float().mean(1, keepdim=True).round().to(torch.uint8).expand_as(views)


class Jigsaw:
    """See `cfvid.tasks.base.Task`.

    Raises:
        ConfigError: when the pictures are too small to be cut.
    """

    dims: ClassVar[frozenset[int]] = frozenset({2})
    needs_labels: ClassVar[bool] = False
    learns_from_pieces: ClassVar[bool] = True

    def __init__(self, config: RunConfig, *, samples: Manifest, held_out: Manifest) -> None:
        self._arch, self._seed = config.pretrain.arch, config.seed
        self._num_permutations = config.pretrain.num_permutations
        crop_size = config.plain("input")["input"]["crop_size"]
        if crop_size < _SMALLEST_CELL * GRID:
            raise ConfigError(
                f"pretrain.task is jigsaw, but input.crop_size is {crop_size}: its tiles would be specks.",
                fix=f"Set it to at least {_SMALLEST_CELL * GRID}.",
            )
        self.samples, self.held_out = samples, held_out
        self.classes: list[str] = []
        self.chance = 1 / self._num_permutations
        self.input_changes: dict[str, Any] = {}

    @functools.cached_property
    def objective(self) -> ShuffledTiles:
        """Takes seconds when there are thousands of permutations."""
        return ShuffledTiles(choose_permutations(GRID**2, self._num_permutations))

    def build(self) -> tuple[nn.Module, Network]:
        """One trunk over nine tiles, and N_pre with that trunk."""
        return build_permutation_network(
            self._arch, num_pieces=GRID**2, num_classes=self._num_permutations, seed=self._seed
        )

    def measure(self, network: nn.Module, loader: SampleLoader, device: Device) -> Measured:
        """One permutation of each sample."""
        return question_accuracy(network, loader, device, objective=self.objective, seed=self._seed)

    def write(self, folder: Path) -> list[str]:  # noqa: ARG002
        """Nothing: the permutations are the same in every run."""
        return []
