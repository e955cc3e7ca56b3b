"""cfvid's own networks on disk, as safetensors; what other programs wrote is read by `cfvid.models.foreign`.

NETWORK/
  model.safetensors   all parameters and buffers of trunk and head
  config.json         architecture, classes, input options, what made it
  record.json         digests of the two
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch

from cfvid.artifacts import Record, atomic_folder, read_json, write_json
from cfvid.errors import WeightsError
from cfvid.models.zoo import ARCHITECTURES, Network

NETWORK_FILES = ("config.json", "model.safetensors", "record.json")


@dataclass(frozen=True)
class NetworkConfig:
    """What is to be known about a saved network besides its weights."""

    arch: str
    modality: str
    num_classes: int
    classes: list[str]
    """Names of the head's outputs; empty where they are clusters."""
    input: dict[str, Any]
    """The modality's options that it was trained with."""
    made_by: dict[str, Any] = field(default_factory=dict)
    """Which stage made it, from what; of brought weights also their `source` (see `cfvid.models.known_sources`)."""


def save_network(folder: Path, network: Network, config: NetworkConfig) -> Record:
    """Write a network folder."""
    with atomic_folder(folder) as temporary:
        state = {name: tensor.detach().contiguous().cpu() for name, tensor in network.state_dict().items()}
        safetensors.torch.save_file(state, temporary / "model.safetensors")
        write_json(temporary / "config.json", asdict(config))
        return Record.write(
            temporary,
            kind="network",
            inputs={"arch": config.arch, "modality": config.modality},
            files=["config.json", "model.safetensors"],
        )


def load_network(folder: Path) -> tuple[Network, NetworkConfig]:
    """Read a network folder, its digests checked.

    Raises:
        ArtifactError: when the folder is no complete network.
        DamagedArtifact: when a file was altered.
        WeightsError: when this version does not know the architecture.
    """
    Record.read(folder, kind="network").verify(folder)
    config = NetworkConfig(**read_json(folder / "config.json"))
    if config.arch not in ARCHITECTURES:
        raise WeightsError(f"{folder} is a {config.arch!r} network, which this version does not know.")
    network = Network(config.arch, num_classes=config.num_classes)
    network.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    return network, config
