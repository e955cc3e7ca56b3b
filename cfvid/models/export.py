"""Networks for other programs: torchvision's state dicts, folders for the Hugging Face Hub, ONNX, torch.export.

A head that was trained goes along: over classes, or over clusters. Of N_pre that was brought, or that learnt the order
of pieces, there is none, and the trunk goes alone.

OUT/                  of the format `hub`; the others are one file
  model.safetensors   torchvision's names
  config.json         architecture, classes, input options, what the weights are from
  README.md           the model card
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from cfvid import __version__
from cfvid.artifacts import atomic_file, atomic_folder, write_json, write_text
from cfvid.errors import ConfigError, MissingPackage
from cfvid.models.foreign import read_state_dict
from cfvid.models.weights import NetworkConfig
from cfvid.models.zoo import ARCHITECTURES, Network

TORCHVISION = {
    "resnet18": "torchvision.models.resnet18",
    "resnet34": "torchvision.models.resnet34",
    "resnet50": "torchvision.models.resnet50",
    "resnet101": "torchvision.models.resnet101",
    "r2plus1d_18": "torchvision.models.video.r2plus1d_18",
}
"""Architectures that torchvision builds by a name of its own; timm has the ResNets under the same names."""
_OTHER_HEADS = {"r2plus1d_50": "blocks.5.proj"}
"""What the head is called where it is not `fc`: pytorchvideo's."""


@dataclass(frozen=True)
class Export:
    """A network to write, and what the writers need to know of it."""

    network: Network
    config: NetworkConfig
    example: torch.Tensor
    """Normalised float input of the network, (N, C, ...), N at least 2."""
    card: str
    """The model card, in Markdown."""


def has_head(config: NetworkConfig) -> bool:
    """Whether the network's head was trained; one output is the place-holder of a trunk without one."""
    return config.num_classes > 1


def write(export: Export, format: str, out: Path) -> str:
    """Write a network in a format, and read it back.

    Returns:
        What was written, for people.

    Raises:
        ConfigError: when `out` has another ending than the format's, or is a folder that is there already.
        MissingPackage: when the format needs a package that is not installed.
    """
    check(format, out)
    FORMATS[format].write(export, out)
    what = f"{export.config.arch}, {'trunk and head' if has_head(export.config) else 'trunk alone'}"
    return f"{what}; {FORMATS[format].describe(export)}"


def check(format: str, out: Path) -> None:
    """Look whether a format can be written there.

    Raises:
        ConfigError: as `write`.
    """
    endings = FORMATS[format].endings
    if endings and out.suffix not in endings:
        raise ConfigError(
            f"--out is {out.name}: the format {format} writes a file ending in {' or '.join(endings)}.",
            fix="Name it so, or choose another --format.",
        )
    # Unlike a file, a folder may hold what else somebody keeps there.
    if not endings and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already.", fix="Name a new folder with --out.")


# ---------------------------------------------------------------------------------------------- state dicts


def state_of(export: Export) -> dict[str, torch.Tensor]:
    """All tensors under torchvision's names (pytorchvideo's for its own network)."""
    state = dict(export.network.trunk.state_dict())
    if has_head(export.config):
        head = _OTHER_HEADS.get(export.config.arch, "fc")
        state |= {f"{head}.{name}": tensor for name, tensor in export.network.head.state_dict().items()}
    return {name: tensor.detach().contiguous().cpu() for name, tensor in state.items()}


def _write_state(export: Export, out: Path) -> None:
    with atomic_file(out, check=read_state_dict) as temporary:
        if out.suffix == ".safetensors":
            safetensors.torch.save_file(state_of(export), temporary, metadata={"format": "pt"})
        else:
            torch.save(state_of(export), temporary)


def loads_into(export: Export) -> str:
    """Which program's model takes the tensors, in words."""
    arch, num_classes = export.config.arch, export.config.num_classes
    if arch in TORCHVISION:
        how = f"num_classes={num_classes}" if has_head(export.config) else "fc replaced by torch.nn.Identity()"
        return f"it loads strictly into {TORCHVISION[arch]}, {how}"
    if arch in _OTHER_HEADS:
        return "the names are pytorchvideo's create_r2plus1d's; torchvision has no such model"
    family = "ResNet" if ARCHITECTURES[arch].dims == 2 else "VideoResNet"
    return f"torchvision has no {arch}; the names are those of its {family}"


def _write_hub(export: Export, out: Path) -> None:
    config = export.config
    told: dict[str, Any] = {
        "cfvid": __version__,
        "arch": config.arch,
        "modality": config.modality,
        "feature_dim": export.network.feature_dim,
        "num_classes": config.num_classes if has_head(config) else None,
        "classes": config.classes,
        "input": config.input,
        "source": config.made_by.get("source"),
    }
    with atomic_folder(out) as temporary:
        _write_state(export, temporary / "model.safetensors")
        write_json(temporary / "config.json", told)
        write_text(temporary / "README.md", export.card)


# ---------------------------------------------------------------------------------------------- programs


class _FeaturesAndLogits(nn.Module):
    """What is traced: the features alone, or with them what the head makes of them."""

    def __init__(self, network: Network, *, with_head: bool) -> None:
        super().__init__()
        self.trunk, self.head = network.trunk, network.head if with_head else None

    def forward(self, batch: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        features: torch.Tensor = self.trunk(batch)
        return features if self.head is None else (features, self.head(features))


def _program(export: Export) -> torch.export.ExportedProgram:
    model = _FeaturesAndLogits(export.network, with_head=has_head(export.config)).eval()
    return torch.export.export(model, (export.example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))


def _write_torch_export(export: Export, out: Path) -> None:
    with atomic_file(out, check=torch.export.load) as temporary:
        torch.export.save(_program(export), temporary)


def _write_onnx(export: Export, out: Path) -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackage(
            f"The format onnx needs {' and '.join(missing)}.",
            fix="pip install 'cfvid[onnx]', or choose another --format.",
        )
    names = ["features", "logits"] if has_head(export.config) else ["features"]
    with atomic_file(out, check=_check_onnx) as temporary:
        # One file: external data is for networks beyond 2 GB, and would stay behind when the file is moved.
        torch.onnx.export(
            _program(export),
            f=temporary,
            input_names=["batch"],
            output_names=names,
            external_data=False,
            verbose=False,
        )


def _check_onnx(path: Path) -> None:
    importlib.import_module("onnx").checker.check_model(str(path))


def outputs_of(export: Export) -> str:
    """What a traced network gives, in words."""
    return "it maps normalised input to features" + (" and logits" if has_head(export.config) else "")


@dataclass(frozen=True)
class Format:
    """How a format is written."""

    write: Callable[[Export, Path], None]
    describe: Callable[[Export], str]
    endings: tuple[str, ...] = ()
    """Of the file; none for a folder."""


FORMATS: dict[str, Format] = {
    "torchvision": Format(_write_state, loads_into, (".safetensors", ".pth")),
    "hub": Format(_write_hub, loads_into),
    "onnx": Format(_write_onnx, outputs_of, (".onnx",)),
    "torch-export": Format(_write_torch_export, outputs_of, (".pt2",)),
}
