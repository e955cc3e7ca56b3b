"""The numeric self-test of an import: the trunk against another implementation of the same architecture.

Keys and shapes can fit while the network computes something else (another eps, another stride). So one random input
goes through our trunk and through torchvision's own model, into which the same tensors are loaded strictly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torchvision import models
from torchvision.models.video import r2plus1d_18
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

from cfvid.errors import WeightsError
from cfvid.models.zoo import ARCHITECTURES, Network

TOLERANCE = 1e-4
"""Largest difference of two outputs, relative to the largest output."""
_DEPTH_34 = [3, 4, 6, 3]


def _video_resnet(layers: list[int]) -> nn.Module:
    return VideoResNet(BasicBlock, [Conv2Plus1D] * 4, layers, R2Plus1dStem)


def _vmz(layers: list[int]) -> nn.Module:
    """As the public ports make it: torchvision's network, three of whose convolutions are replaced."""
    model = _video_resnet(layers)
    for name, planes, midplanes in (("layer2", 128, 288), ("layer3", 256, 576), ("layer4", 512, 1152)):
        getattr(model, name)[0].conv2[0] = Conv2Plus1D(planes, planes, midplanes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return model


REFERENCES: dict[str, Callable[[], nn.Module]] = {
    "resnet18": models.resnet18,
    "resnet34": models.resnet34,
    "resnet50": models.resnet50,
    "resnet101": models.resnet101,
    "r2plus1d_18": r2plus1d_18,
    "r2plus1d_34": lambda: _video_resnet(_DEPTH_34),
    "r2plus1d_18_xdc": lambda: _vmz([2, 2, 2, 2]),
    "r2plus1d_34_ig65m": lambda: _vmz(_DEPTH_34),
}
"""Independent of how `zoo` builds them."""


@dataclass(frozen=True)
class SelfTest:
    """What the comparison gave; figures are None where it was skipped."""

    skipped: str | None = None
    """Why there was none."""
    max_abs_difference: float | None = None
    largest_output: float | None = None

    def __str__(self) -> str:
        if self.skipped:
            return f"not compared with a reference: {self.skipped}"
        return (
            f"differs from the reference by {self.max_abs_difference:.2g}, of outputs up to {self.largest_output:.2g}"
        )


def self_test(
    network: Network, foreign: Mapping[str, torch.Tensor], mapped: Mapping[str, str], *, path: Path
) -> SelfTest:
    """Compare a trunk that was just loaded with the reference implementation, on one small random input.

    Args:
        network: with the file's tensors in its trunk.
        foreign: the file's tensors.
        mapped: their names -> the trunk's.
        path: of the file, for messages.

    Raises:
        WeightsError: when the outputs are not finite, or differ by more than `TOLERANCE`.
    """
    shape = (1, 3, 64, 64) if ARCHITECTURES[network.arch].dims == 2 else (1, 3, 8, 32, 32)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours = _outputs(network.trunk, inputs)
    if not ours.isfinite().all():
        raise WeightsError(
            f"{path} gives outputs that are not finite.",
            why="it holds NaN or huge numbers",
            fix="Fetch or save it again.",
        )
    if network.arch not in REFERENCES:
        return SelfTest(skipped=f"torchvision has no {network.arch}")
    theirs = _outputs(_reference(network.arch, foreign, mapped), inputs)
    difference, largest = float((ours - theirs).abs().max()), float(theirs.abs().max())
    if not difference <= TOLERANCE * largest:
        raise WeightsError(
            f"{path} was loaded into {network.arch}, but the network does not compute what torchvision's does.",
            why=f"one random input gives outputs that differ by {difference:.3g}, the largest being {largest:.3g}",
            fix="Do not use it; please report this with the name of the file.",
        )
    return SelfTest(max_abs_difference=difference, largest_output=largest)


def _outputs(trunk: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    was_training = trunk.training
    with torch.inference_mode():
        outputs: torch.Tensor = trunk.eval()(inputs)
    trunk.train(was_training)
    return outputs


def _reference(arch: str, foreign: Mapping[str, torch.Tensor], mapped: Mapping[str, str]) -> nn.Module:
    """torchvision's model with all of the file's tensors but its head's."""
    with torch.device("meta"):  # nothing is drawn: every tensor comes from the file
        model = REFERENCES[arch]()
    model.fc = nn.Identity()
    counters = {name: torch.tensor(0) for name in model.state_dict() if name.endswith("num_batches_tracked")}
    state = counters | {name: foreign[theirs].float() for theirs, name in mapped.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model
