"""Published weights that cfvid knows: how their files are told apart, and what input they were trained with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_Triple = tuple[float, float, float]
_IMAGENET: tuple[_Triple, _Triple] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_KINETICS: tuple[_Triple, _Triple] = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


@dataclass(frozen=True)
class KnownSource:
    """One published file, or several of the same input."""

    arch: str
    mean_and_std: tuple[_Triple, _Triple]
    """Of the normalisation."""
    files: tuple[str, ...] = ()
    """First digits of the files' SHA-256, which their published names end in."""
    num_outputs: int | None = None
    """Outputs of the file's head, where they alone tell it from others of this architecture."""
    layout: str | None = None
    """The layout of keys, where it alone says what the normalisation was."""
    num_frames: int | None = None
    frame_rate_hz: float | None = None
    """None where no public source says it."""


KNOWN_SOURCES: dict[str, KnownSource] = {
    "torchvision ResNet-18, ImageNet": KnownSource("resnet18", _IMAGENET, ("f37072fd",)),
    "torchvision ResNet-34, ImageNet": KnownSource("resnet34", _IMAGENET, ("b627a593",)),
    "torchvision ResNet-50, ImageNet": KnownSource("resnet50", _IMAGENET, ("0676ba61", "11ad3fa6")),
    "torchvision ResNet-101, ImageNet": KnownSource("resnet101", _IMAGENET, ("63fe2227", "cd907fc2")),
    "VISSL ResNet-50": KnownSource("resnet50", _IMAGENET, layout="VISSL"),
    "torchvision R(2+1)D-18, Kinetics-400": KnownSource(
        "r2plus1d_18", _KINETICS, ("91a641e6",), num_frames=16, frame_rate_hz=15.0
    ),
    # The port's code asserts 487 outputs for 8 frames and 359 for 32; a note in its README has them the other way.
    # VMZ's feature extraction reads 15 frames per second, but what IG-65M and XDC were trained with is not published.
    "IG-65M, 8 frames": KnownSource("r2plus1d_34_ig65m", _KINETICS, ("9bae36ae",), num_outputs=487, num_frames=8),
    "IG-65M, 32 frames": KnownSource("r2plus1d_34_ig65m", _KINETICS, ("449a7af9",), num_outputs=359, num_frames=32),
    "IG-65M, fine-tuned on Kinetics-400, 8 frames": KnownSource(
        "r2plus1d_34_ig65m", _KINETICS, ("0aa0550b",), num_frames=8
    ),
    "IG-65M, fine-tuned on Kinetics-400, 32 frames": KnownSource(
        "r2plus1d_34_ig65m", _KINETICS, ("ade133f1",), num_frames=32
    ),
    "IG-65M, fine-tuned on Kinetics-400": KnownSource("r2plus1d_34_ig65m", _KINETICS, num_outputs=400),
    "XDC": KnownSource("r2plus1d_18_xdc", _KINETICS, ("f24f6ffb", "189d23f4", "f29ffe8f")),
    "XDC's supervised baselines": KnownSource("r2plus1d_18_xdc", _KINETICS, ("622bdad9", "ff446670")),
}
"""By the name that is shown. The first that fits a file is taken, its digest before its other signs."""


@dataclass(frozen=True)
class Source:
    """What was recognised in a weights file."""

    layout: str
    """Whose names its keys have: `torchvision` (timm's ResNets have them too), `VISSL` or `pytorchvideo`."""
    name: str | None = None
    """In `KNOWN_SOURCES`, where it is there."""
    known_by: str | None = None
    """`SHA-256`, which is certain, or `outputs` (of its head) or `layout`, which are signs."""
    trained_with: dict[str, Any] = field(default_factory=dict)
    """Keys of a modality's `input`: those that are known."""


def recognise(*, arch: str, digest: str, layout: str, num_outputs: int | None) -> Source:
    """What is known of a file.

    Args:
        arch: the architecture that its shapes fit.
        digest: its SHA-256, as hex.
        layout: whose names its keys have.
        num_outputs: of its head, where it has one.
    """
    candidates = [(name, known) for name, known in KNOWN_SOURCES.items() if known.arch == arch]
    for name, known in candidates:
        if digest.startswith(known.files):
            return Source(layout, name, "SHA-256", _input_of(known))
    for name, known in candidates:
        if known.num_outputs is not None and known.num_outputs == num_outputs:
            return Source(layout, name, "outputs", _input_of(known))
        if known.layout == layout:
            return Source(layout, name, "layout", _input_of(known))
    return Source(layout)


def _input_of(known: KnownSource) -> dict[str, Any]:
    mean, std = known.mean_and_std
    values = {"mean": mean, "std": std, "num_frames": known.num_frames, "frame_rate_hz": known.frame_rate_hz}
    # As lists, which they are when a JSON file is read back.
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}


def input_differences(trained_with: Mapping[str, Any], input_options: Mapping[str, Any]) -> list[str]:
    """How a run's input differs from that of the training, as `num_frames: trained with 32, the run has 8`."""
    return [
        f"{key}: trained with {value}, the run has {input_options[key]}"
        for key, value in trained_with.items()
        if key in input_options and not _equal(value, input_options[key])
    ]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return math.isclose(one, other, abs_tol=1e-4)  # published means differ in the digits that are written
