"""cfvid's own networks on disk, as safetensors; what other programs wrote is read by `cfvid.models.foreign`.

NETWORK/
  model.safetensors   all parameters and buffers of trunk and head
  config.json         architecture, classes, input options, what made it
  record.json         digests of the two
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch

from cfvid.artifacts import Record, atomic_folder, read_json, write_json
from cfvid.errors import WeightsError
from cfvid.models.zoo import ARCHITECTURES, Network

WEIGHTS_NAME = "model.safetensors"
NETWORK_FILES = ("config.json", WEIGHTS_NAME, "record.json")


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
        safetensors.torch.save_file(state, temporary / WEIGHTS_NAME)
        write_json(temporary / "config.json", asdict(config))
        return Record.write(
            temporary,
            kind="network",
            inputs={"arch": config.arch, "modality": config.modality},
            files=["config.json", WEIGHTS_NAME],
        )


def is_network(folder: Path) -> bool:
    """Whether there is a folder with the files of a network, whatever is in them."""
    with contextlib.suppress(OSError):  # a folder that may not be entered
        return all((folder / name).is_file() for name in NETWORK_FILES)
    return False


def load_network(folder: Path) -> tuple[Network, NetworkConfig]:
    """Read a network folder, its digests checked.

    Raises:
        ArtifactError: when the folder is no complete network.
        DamagedArtifact: when a file was altered.
        WeightsError: when this version does not know the architecture.
    """
    config = network_config(folder)
    network = Network(config.arch, num_classes=config.num_classes)
    network.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS_NAME))
    return network, config


def network_config(folder: Path) -> NetworkConfig:
    """What a network folder holds, its digests checked.

    Raises:
        ArtifactError, DamagedArtifact, WeightsError: as `load_network`.
    """
    Record.read(folder, kind="network").verify(folder)
    try:
        config = NetworkConfig(**read_json(folder / "config.json"))
    except TypeError as error:
        raise WeightsError(
            f"{folder} was written by another version of cfvid.", why=str(error), fix="Use the version that wrote it."
        ) from error
    if config.arch not in ARCHITECTURES:
        raise WeightsError(
            f"{folder} is a {config.arch!r} network, which this version does not know.",
            fix=f"Use the version that wrote it, or one of {', '.join(ARCHITECTURES)}.",
        )
    return config
