"""What a state dict looks like, in words: whose names it has, its size, the outputs of its head."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import torch

Shapes = Mapping[str, torch.Size]
_LOOKS: Sequence[tuple[str, str]] = (
    (r"(^|\.)relative_position_bias_table$", "a Swin transformer"),
    (r"(^|\.)visual\..*(resblocks|attnpool)", "CLIP, its text part included"),
    (r"(^|\.)cls_token$|(^|\.)encoder_layer_\d+\.|(^|\.)patch_embed(ding|dings)?\.", "a vision transformer (ViT)"),
    (r"(^|\.)temporal_(attn|norm)1?\.", "TimeSformer"),
    (r"(^|\.)dwconv\.weight$|(^|\.)features\.\d\.\d\.block\.0\.weight$.*layer_scale", "ConvNeXt"),
    (r"(^|\.)embedder\.embedder\.convolution\.weight$", "a ResNet of Hugging Face's transformers"),
    (r"(^|\.)res2\.0\.conv1\.norm\.|(^|\.)stem\.conv1\.norm\.", "a ResNet of Detectron2"),
    (r"(^|\.)_conv_stem\.weight$", "an EfficientNet of the package efficientnet-pytorch, or efficientnet-lite-pytorch"),
    (r"(^|\.)conv_stem\.weight$", "an EfficientNet or MobileNetV3 of timm"),
    (r"(^|\.)features\.denseblock1\.", "a DenseNet"),
    (r"(^|\.)Mixed_\d\w\.", "an Inception network"),
    (r"(^|\.)inception\d\w\.", "GoogLeNet"),
    (r"(^|\.)trunk_output\.block1\.", "a RegNet of torchvision"),
    (r"(^|\.)pathway0_|(^|\.)multipathway_", "SlowFast or another network of pytorchvideo"),
    (r"(^|\.)Conv3d_\d\w_", "I3D"),
    (r"(^|\.)features\.\d+\.conv\.", "a MobileNetV2"),
    (r"(^|\.)features\.0\.0\.weight$", "a MobileNetV3 or an EfficientNet of torchvision"),
    (r"(^|\.)features\.0\.weight$", "a VGG or AlexNet"),
    (r"(^|\.)self_attn\.q_proj\.|(^|\.)attention\.self\.query\.", "a language model"),
    (r"(^|\.)layer1\.0\.se\.", "a squeeze-and-excitation ResNet (SE-ResNet)"),
    (r"(^|[a-z_]\.)conv1\.0\.weight$", "a ResNet with a stem of several convolutions (timm's resnet50d)"),
    (r"(^|\.)conv_s\.weight$", "an R(2+1)D of MMAction2"),
)
"""A key that tells a family of networks, and the family. Signs, no proofs; the first that fits is told."""


def describe(shapes: Shapes) -> str:
    """One sentence: what a state dict looks like, how much there is, its first and last tensor, its head."""
    if not shapes:
        return "There are no tensors."
    names, num_values = list(shapes), sum(math.prod(shape) for shape in shapes.values())
    family = _family(shapes)
    looks = f"It looks like {family}: " if family else "It has "
    outputs = _outputs(shapes)
    head = f"; its last linear layer has {outputs:,} outputs" if outputs else "; it has no linear layer at its end"
    return (
        f"{looks}{len(names):,} tensors of {num_values:,} numbers, "
        f"from {_shaped(names[0], shapes)} to {_shaped(names[-1], shapes)}{head}."
    )


def _shaped(name: str, shapes: Shapes) -> str:
    return f"{name} {tuple(shapes[name])}"


def _family(shapes: Shapes) -> str | None:
    found = next((family for sign, family in _LOOKS if any(re.search(sign, name) for name in shapes)), None)
    return found or _resnet(shapes)


def _resnet(shapes: Shapes) -> str | None:
    """Networks with a ResNet's names that are others."""
    stems = [shape for name, shape in shapes.items() if re.search(r"(^|\.)(conv1|stem\.0)\.weight$", name)]
    blocks = _matches(r"(?:^|\.)layer(\d+)\.(\d+)\.conv1\.(?:0\.)*(?:\d\.)?weight$", shapes)
    if not stems or not blocks:
        return None
    stem, num_stages = stems[0], len({stage for stage, _ in blocks})
    convolutions = len(_matches(r"(?:^|\.)(layer\d+\.\d+)\.(conv\d)\.weight$", shapes))
    if len(stem) == 5:
        return f"a 3D ResNet whose stem has a kernel of {_kernel(stem)}"
    if num_stages == 3 and len(stem) == 4:
        plain = (
            "" if any(re.search("shortcut|downsample", name) for name in shapes) else ", with shortcuts that only pad"
        )
        return f"a CIFAR ResNet of three stages, ResNet-{convolutions + 2} from {stem[0]} channels on{plain}"
    if len(stem) == 4:
        return f"a ResNet-{convolutions + 2} of other widths or kernels (stem {tuple(stem)}), as ResNeXt or Wide ResNet"
    return None


def _kernel(shape: torch.Size) -> str:
    return " x ".join(map(str, shape[2:]))


def _matches(pattern: str, names: Iterable[str]) -> set[tuple[str, ...]]:
    return {match.groups() for name in names if (match := re.search(pattern, name))}


def _outputs(shapes: Shapes) -> int | None:
    """The outputs of the last linear layer: of a matrix whose bias stands beside it, or which is called like a head."""
    for name in reversed(list(shapes)):
        shape = shapes[name]
        if name.endswith(".weight") and len(shape) == 2:
            bias = shapes.get(f"{name.removesuffix('weight')}bias")
            return int(shape[0]) if bias is None or bias == shape[:1] else None
    return None
