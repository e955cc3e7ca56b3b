"""The task interface: what N_pre is trained to answer, and how well it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from cfvid.config import RunConfig
from cfvid.data.loader import SampleLoader
from cfvid.data.manifest import Manifest
from cfvid.models.zoo import Network
from cfvid.tasks.measure import Device, Measured
from cfvid.training.objective import Objective


class Task(Protocol):
    """One way to pre-train. Making one is cheap, and says what is wrong with its samples.

    Args:
        config: the whole configuration.
        samples: D_pre to train on; all of them labelled where the task `needs_labels`.
        held_out: D_pre to measure on; may be empty.

    Raises:
        CfvidError: when the task cannot be learnt from these samples.
    """

    dims: ClassVar[frozenset[int]]
    """It is for networks of these dimensions: 2 (pictures), 3 (clips)."""
    needs_labels: ClassVar[bool]
    learns_from_pieces: ClassVar[bool]
    """Whether inputs are unlike whole samples, so that the statistics of normalisation are to be taken anew."""

    samples: Manifest
    """What is trained on; a task may leave some out."""
    held_out: Manifest
    """What it is measured on; may be empty."""
    classes: list[str]
    """What the outputs of N_pre's head mean; empty where the head is not kept."""
    chance: float
    """The accuracy of a blind guess, all answers taken as equally frequent."""
    input_changes: dict[str, Any]
    """Options of the modality that are different while the task is trained and measured."""

    def __init__(self, config: RunConfig, *, samples: Manifest, held_out: Manifest) -> None: ...

    @property
    def objective(self) -> Objective:
        """What the network is trained to say."""
        ...

    def build(self) -> tuple[nn.Module, Network]:
        """The network that is trained, and N_pre: the same one, or one that has the same trunk object."""
        ...

    def measure(self, network: nn.Module, loader: SampleLoader, device: Device) -> Measured:
        """The held-out accuracy of a trained network; the loader reads `held_out`."""
        ...

    def write(self, folder: Path) -> list[str]:
        """Write what is to be kept of the answers that were trained on; gives the names of the files."""
        ...
