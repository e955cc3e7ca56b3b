"""The modality interface: all that the engine knows about what a sample is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch

from cfvid.data.loader import Request
from cfvid.sections.base import Section


class Modality(Protocol):
    """How samples of one kind are decoded, looked at and fed to a network.

    An instance is picklable and holds nothing but its options: decoding processes get their own copy.
    """

    name: ClassVar[str]
    Input: ClassVar[type[Section]]
    """The options that the configuration's `input` section takes."""
    suffixes: ClassVar[frozenset[str]]
    """File name endings that readers take for this modality."""
    decoders: ClassVar[tuple[str, ...]]
    """Tried in this order for every sample."""
    network_dims: ClassVar[int]
    """Spatial and temporal dimensions of the networks: 2 or 3."""
    view_noun: ClassVar[str]
    """What one of a sample's several views is called in scores."""

    def __init__(self, options: Section) -> None: ...

    @property
    def options(self) -> Section: ...

    def load(self, request: Request, decoder: str) -> np.ndarray:
        """Decode and transform one sample.

        Returns:
            uint8, (V, C, ...): V views of equal shape, one for the look `train`;
            for `preview` uint8, (H, W, 3), a picture for people.

        Raises:
            UnreadableSample: when this decoder cannot read it.
        """
        ...

    def augment(self, views: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """What is left to be done to training views once they are a batch: uint8 (N, C, ...) on any device -> the same.

        Args:
            views: as `load` gave them for the look `train`.
            seeds: of each sample's random draws.
        """
        ...

    def normalize(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 (N, C, ...) on any device -> the float32 input of the network, of the same shape."""
        ...

    def example(self, num_samples: int) -> torch.Tensor:
        """uint8 zeros of the shape that the network takes, (N, C, ...): for checks and cost estimates."""
        ...
