"""Video networks: R(2+1)D (Tran et al., CVPR 2018) from torchvision, pytorchvideo and VMZ, and thin ones for CPUs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

_LAYERS = {10: [1, 1, 1, 1], 18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}


def r2plus1d(depth: int) -> tuple[nn.Module, int]:
    """R(2+1)D-18 or -34 and its feature dimension; parameter names are torchvision's."""
    trunk = VideoResNet(BasicBlock, [Conv2Plus1D] * 4, _LAYERS[depth], R2Plus1dStem)
    trunk.fc = nn.Identity()
    return trunk, 512


class _OwnMidplanes(Conv2Plus1D):
    """A (2+1)D convolution whose inner width follows from its own planes; torchvision's follows from its block's."""

    def __init__(self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1) -> None:
        midplanes = (in_planes * out_planes * 3 * 3 * 3) // (in_planes * 3 * 3 + 3 * out_planes)
        super().__init__(in_planes, out_planes, midplanes, stride, padding)


def vmz_r2plus1d(depth: int) -> tuple[nn.Module, int]:
    """R(2+1)D-18 or -34 as in VMZ, whose weights IG-65M and XDC publish, and its feature dimension.

    It has torchvision's parameter names. The second convolutions of layer2, layer3 and layer4's first blocks are wider
    (288, 576, 1152), and BatchNorm has another eps.
    """
    trunk = VideoResNet(BasicBlock, [_OwnMidplanes] * 4, _LAYERS[depth], R2Plus1dStem)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm3d):
            # VMZ trained with Caffe2: eps 1e-3, momentum 0.9. The public ports of IG-65M and XDC to PyTorch set both
            # numbers literally. But Caffe2's momentum weighs the old running statistics and torch's the new batch:
            # Caffe2's 0.9 is torch's 0.1, its default, which stays. It matters in training alone; eps always does.
            module.eps = 1e-3
    trunk.fc = nn.Identity()
    return trunk, 512


def r2plus1d_50() -> tuple[nn.Module, int]:
    """pytorchvideo's R(2+1)D-50 (bottleneck blocks) and its feature dimension."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # pytorchvideo calls torch.jit.script when it is imported
        from pytorchvideo.models.r2plus1d import create_r2plus1d

    trunk = create_r2plus1d(model_depth=50, dropout_rate=0.0, head_activation=None)
    head = trunk.blocks[-1]
    feature_dim = head.proj.in_features
    # The head's fixed pooling window fits 112 pixels alone; averaging adapts to any clip.
    trunk.blocks[-1] = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())
    return trunk, feature_dim


def thin_r2plus1d(depth: int, *, divisor: int = 4) -> tuple[nn.Module, int]:
    """R(2+1)D with all widths divided and a 3x3 stem, for small clips (up to 64 pixels) on a CPU."""
    width = 64 // divisor

    class Thin(VideoResNet):
        def _make_layer(
            self, block: Any, conv_builder: Any, planes: int, blocks: int, stride: int = 1
        ) -> nn.Sequential:
            if planes == 64:
                self.inplanes = width
            return super()._make_layer(block, conv_builder, planes // divisor, blocks, stride)

    def stem() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv3d(3, width, kernel_size=(1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            nn.Conv3d(width, width, kernel_size=(3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )

    make_stem: Callable[..., nn.Module] = stem
    trunk = Thin(BasicBlock, [Conv2Plus1D] * 4, _LAYERS[depth], make_stem)
    trunk.fc = nn.Identity()
    return trunk, 512 // divisor
