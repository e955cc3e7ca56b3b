"""All architectures by name, in one visible place, and the network that the engine trains."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cfvid.errors import ConfigError
from cfvid.models.onednn import avoid_narrow_strides
from cfvid.models.r2plus1d import r2plus1d, r2plus1d_50, thin_r2plus1d, vmz_r2plus1d
from cfvid.models.resnet2d import resnet, thin_resnet


@dataclass(frozen=True)
class Architecture:
    """How to build a trunk."""

    dims: int
    """2 for pictures, 3 for clips."""
    build: Callable[[], tuple[nn.Module, int]]
    """Gives the trunk, which maps a batch to (N, D) features, and D."""


ARCHITECTURES: dict[str, Architecture] = {
    "resnet10_mini": Architecture(2, lambda: thin_resnet(10, divisor=8)),
    "resnet10_tiny": Architecture(2, lambda: thin_resnet(10, divisor=4)),
    "resnet10_thin": Architecture(2, lambda: thin_resnet(10)),
    "resnet10_small": Architecture(2, lambda: resnet(10, small_input=True)),
    "resnet18_small": Architecture(2, lambda: resnet(18, small_input=True)),
    "resnet18": Architecture(2, lambda: resnet(18)),
    "resnet34": Architecture(2, lambda: resnet(34)),
    "resnet50": Architecture(2, lambda: resnet(50)),
    "resnet50_small": Architecture(2, lambda: resnet(50, small_input=True)),
    "resnet101": Architecture(2, lambda: resnet(101)),
    "r2plus1d_10_thin": Architecture(3, lambda: thin_r2plus1d(10)),
    "r2plus1d_18_thin": Architecture(3, lambda: thin_r2plus1d(18)),
    "r2plus1d_18": Architecture(3, lambda: r2plus1d(18)),
    "r2plus1d_34": Architecture(3, lambda: r2plus1d(34)),
    "r2plus1d_50": Architecture(3, r2plus1d_50),
    "r2plus1d_18_xdc": Architecture(3, lambda: vmz_r2plus1d(18)),
    "r2plus1d_34_ig65m": Architecture(3, lambda: vmz_r2plus1d(34)),
}


def architectures(dims: int) -> list[str]:
    """Names of the architectures for inputs of these dimensions."""
    return [name for name, arch in ARCHITECTURES.items() if arch.dims == dims]


class Network(nn.Module):
    """A trunk and a linear head.

    Args:
        arch: name of the trunk.
        num_classes: outputs of the head.
    """

    def __init__(self, arch: str, *, num_classes: int) -> None:
        super().__init__()
        self.arch, self.num_classes = arch, num_classes
        self.trunk, self.feature_dim = ARCHITECTURES[arch].build()
        avoid_narrow_strides(self.trunk)
        self.head = nn.Linear(self.feature_dim, num_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: torch.Tensor, finish: Callable[[torch.Tensor, nn.Module], Any] | None = None) -> Any:
        """Normalised float input -> logits, (N, num_classes).

        Args:
            batch: the input.
            finish: what to give instead, from the features and the head: for heads whose logits are too many to hold.
        """
        features = self.trunk(batch)
        return self.head(features) if finish is None else finish(features, self.head)


def build_network(arch: str, *, num_classes: int, seed: int) -> Network:
    """A network with weights drawn from `seed` alone, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(arch, num_classes=num_classes)


class LayerOutputs(nn.Module):
    """A trunk that gives the outputs of some of its layers, as they are when they leave the layer.

    Args:
        trunk: maps a batch to (N, D).
        layers: dotted module names inside the trunk; None for the trunk's own output.

    Raises:
        ConfigError: listing the top layers, when the trunk has no such one.
    """

    def __init__(self, trunk: nn.Module, layers: Sequence[str | None]) -> None:
        super().__init__()
        self.trunk, self.layers = trunk, tuple(layers)
        self._seen: dict[str | None, torch.Tensor] = {}
        modules = dict(trunk.named_modules())
        for layer in self.layers:
            if layer is not None and (layer not in modules or layer == ""):
                raise ConfigError(f"The network has no layer {layer!r}.", fix=f"Name one of {_top_layers(trunk)}.")
            if layer is not None:
                modules[layer].register_forward_hook(functools.partial(self._keep, layer))

    def _keep(self, layer: str, _module: nn.Module, _args: object, output: torch.Tensor) -> None:
        # A copy: the layer that follows may work in place (ReLU, a sum with a shortcut).
        self._seen[layer] = output.clone()

    def forward(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """Normalised float input -> each layer's output, (N, C) or (N, C, ...), in the order of the layers.

        Raises:
            ConfigError: when one of them takes no part, as a list of layers does.
        """
        self._seen[None] = self.trunk(batch)
        parts = [self._seen[layer] for layer in self.layers if layer in self._seen]
        if len(parts) < len(self.layers):
            idle = next(layer for layer in self.layers if layer not in self._seen)
            raise ConfigError(
                f"The network's layer {idle!r} has no output: it is never run itself.",
                fix=f"Name one of {_top_layers(self.trunk)}.",
            )
        self._seen = {}
        return parts


def _top_layers(trunk: nn.Module) -> str:
    """Names for people; in place of a list of layers, which has no output, those in it."""
    names: list[str] = []
    lists = nn.ModuleList | nn.ModuleDict
    for name, module in trunk.named_children():
        names += [f"{name}.{inner}" for inner, _ in module.named_children()] if isinstance(module, lists) else [name]
    return ", ".join(names)


class LayerFeatures(nn.Module):
    """The outputs of some layers of a trunk, averaged over space and time, side by side: (N, sum of D).

    Args:
        trunk: maps a batch to (N, D).
        layers: as for `LayerOutputs`.

    Raises:
        ConfigError: listing the top layers, when the trunk has no such one.
    """

    def __init__(self, trunk: nn.Module, layers: Sequence[str | None] = (None,)) -> None:
        super().__init__()
        self.outputs = LayerOutputs(trunk, layers)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalised float input -> features, (N, sum of D), in the order of the layers."""
        return torch.cat([part.flatten(2).mean(2) if part.ndim > 2 else part for part in self.outputs(batch)], dim=1)


def feature_dims(arch: str, layers: Sequence[str | None], example: torch.Size) -> list[int]:
    """The dimensions of each layer's features for inputs of a shape (N, C, ...); no number is computed.

    Raises:
        ConfigError: when the network has no such layer.
    """
    with torch.device("meta"):
        trunk = Network(arch, num_classes=1).trunk.eval()
        return [part.shape[1] for part in LayerOutputs(trunk, layers)(torch.empty(example))]
