"""Video networks: R(2+1)D (Tran et al., CVPR 2018) from torchvision and pytorchvideo, and thin ones for CPUs."""

from __future__ import annotations

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


def r2plus1d_50() -> tuple[nn.Module, int]:
    """pytorchvideo's R(2+1)D-50 (bottleneck blocks) and its feature dimension."""
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
