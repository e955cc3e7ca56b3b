"""Image networks: torchvision's ResNets, and variants with a stem for small pictures."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

_BLOCKS = {
    10: (BasicBlock, [1, 1, 1, 1]),
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
}


def resnet(depth: int, *, small_input: bool = False) -> tuple[nn.Module, int]:
    """A ResNet trunk (He et al., CVPR 2016) and its feature dimension; parameter names are torchvision's.

    Args:
        depth: 10, 18, 34, 50 or 101.
        small_input: for 32 to 64 pixels: a 3x3 stem of stride 1 without max-pooling, as is usual for CIFAR.
    """
    block, layers = _BLOCKS[depth]
    trunk = ResNet(block, layers)
    if small_input:
        trunk.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        trunk.maxpool = nn.Identity()
    feature_dim = trunk.fc.in_features
    trunk.fc = nn.Identity()
    return trunk, feature_dim


def thin_resnet(depth: int, *, divisor: int = 2) -> tuple[nn.Module, int]:
    """A small-input ResNet with all widths divided, for experiments on a CPU."""
    width = 64 // divisor

    class Thin(ResNet):
        def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> Any:
            if planes == 64:
                self.inplanes = width
            return super()._make_layer(block, planes // divisor, blocks, stride, dilate)

    trunk = Thin(*_BLOCKS[depth])
    trunk.conv1 = nn.Conv2d(3, width, kernel_size=3, padding=1, bias=False)
    trunk.bn1 = nn.BatchNorm2d(width)
    trunk.maxpool = nn.Identity()
    trunk.fc = nn.Identity()
    return trunk, 512 // divisor
