"""Weights on disk: cfvid's own networks as safetensors, and foreign state dicts with a report of what was used.

NETWORK/
  model.safetensors   all parameters and buffers of trunk and head
  config.json         architecture, classes, input options, what made it
  record.json         digests of the two
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from cfvid.artifacts import Record, atomic_folder, read_json, write_json
from cfvid.errors import WeightsError
from cfvid.models.zoo import ARCHITECTURES, Network

logger = logging.getLogger(__name__)

NETWORK_FILES = ("config.json", "model.safetensors", "record.json")
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")
"""Keys under which training programs put the state dict inside a checkpoint."""
_PREFIXES = ("module.", "model.", "backbone.", "encoder.", "trunk.", "_orig_mod.")
_HEADS = ("fc.", "head.", "classifier.", "projection.")


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
    """Which stage made it, from what."""


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


@dataclass(frozen=True)
class KeyReport:
    """What became of each key of a foreign state dict."""

    mapped: dict[str, str]
    """Foreign key -> ours."""
    missing: list[str]
    """Ours that the file does not have."""
    unexpected: list[str]
    """The file's that the trunk does not have, heads included."""

    def __str__(self) -> str:
        return (
            f"{len(self.mapped)} keys mapped, {len(self.missing)} missing{_some(self.missing)}, "
            f"{len(self.unexpected)} unexpected{_some(self.unexpected)}"
        )


def _some(names: list[str], limit: int = 4) -> str:
    return f" ({', '.join(names[:limit])}{', ...' if len(names) > limit else ''})" if names else ""


def load_foreign(path: Path, network: Network) -> KeyReport:
    """Load a foreign state dict into a network's trunk, in place; its head is left as it is.

    Names are matched after removing the wrappers and prefixes that training programs add. BatchNorm counters
    (`num_batches_tracked`) may be missing.

    Args:
        path: .safetensors, or a torch file, which is read as plain tensors (`weights_only`), never executed.
        network: of the architecture that the file is for.

    Raises:
        WeightsError: when the file cannot be read as tensors, or a key is missing or has another shape.
    """
    foreign = read_state_dict(path)
    ours = network.trunk.state_dict()
    stripped = {_strip(name, ours): name for name in foreign}
    mapped = {stripped[name]: name for name in ours if name in stripped}
    wrong = [
        f"{theirs} is {tuple(foreign[theirs].shape)}, the network has {tuple(ours[name].shape)}"
        for theirs, name in mapped.items()
        if foreign[theirs].shape != ours[name].shape
    ]
    missing = [name for name in ours if name not in stripped and not name.endswith("num_batches_tracked")]
    report = KeyReport(mapped, missing, sorted(set(foreign) - set(mapped)))
    if wrong or missing:
        raise WeightsError(
            f"{path} does not fit {network.arch}: {report}.",
            why="; ".join(wrong[:3]) or "keys of the trunk are missing",
            fix="Set pretrain.arch to the architecture that the file was made with.",
        )
    network.trunk.load_state_dict({name: foreign[theirs] for theirs, name in mapped.items()}, strict=False)
    heads = sum(_strip(name, ours).startswith(_HEADS) for name in report.unexpected)
    logger.info("%s: %s (%d of them belong to its head)", path, report, heads)
    return report


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file, by name, unwrapped.

    Raises:
        WeightsError: when the file is missing, damaged, or would need to execute code.
    """
    if not path.is_file():
        raise WeightsError(f"The weights file {path} does not exist.", fix="Put it there, or correct the path.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors and was not loaded.",
            why=str(error).splitlines()[0],
            fix="Save its state dict alone, best as .safetensors, with the program that made it.",
        ) from error
    except Exception as error:  # torch and safetensors raise many kinds on damaged files
        raise WeightsError(f"{path} cannot be read as weights.", why=str(error).splitlines()[0]) from error
    return _unwrap(value, path)


def _unwrap(value: Any, path: Path) -> dict[str, torch.Tensor]:
    while isinstance(value, Mapping):
        inner = next((value[key] for key in _WRAPPERS if isinstance(value.get(key), Mapping)), None)
        if inner is None:
            break
        value = inner
    tensors = {k: v for k, v in value.items() if isinstance(v, torch.Tensor)} if isinstance(value, Mapping) else {}
    if not tensors:
        raise WeightsError(f"{path} holds no state dict.", why=f"it holds a {type(value).__name__} without tensors")
    return tensors


def _strip(name: str, ours: Mapping[str, Any]) -> str:
    """A foreign name without the prefixes that training programs add."""
    while name not in ours:
        prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
        if prefix is None:
            break
        name = name.removeprefix(prefix)
    return name
