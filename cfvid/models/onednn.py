"""A kernel of oneDNN, torch's library for CPUs, that writes past the end of its memory, and the way around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_NARROW = 16
"""Input channels from which on the kernel is right: as many as single-precision numbers in a register of AVX-512."""


def avoid_narrow_strides(network: nn.Module) -> None:
    """Let narrow strided convolutions of one pixel take every s-th pixel themselves, then convolve without a stride.

    The backward pass of such a convolution over channels-last memory ends in a segmentation fault or a damaged heap
    when it has fewer input channels than a vector register has places (uxlfoundation/oneDNN#6035): 16 with AVX-512,
    8 with AVX2. Memory that is not channels-last would be safe in a network that runs as it is, but torch.compile
    chooses channels-last by itself. Results are the same up to rounding, on any device; networks without such a layer
    stay as they are.

    Args:
        network: changed in place, but for its parameters and their names; once, however often it is given.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and _is_affected(module):
            module.register_forward_pre_hook(_EveryNth(module.stride))
            module.stride = (1,) * len(module.stride)


def _is_affected(layer: nn.Conv2d | nn.Conv3d) -> bool:
    is_pixelwise = set(layer.kernel_size) == {1} and layer.padding in ("valid", (0,) * len(layer.stride))
    return is_pixelwise and max(layer.stride) > 1 and layer.in_channels // layer.groups < _NARROW


class _EveryNth:
    """A forward pre-hook that takes every s-th place along each dimension of space and time."""

    def __init__(self, strides: Sequence[int]) -> None:
        self._places = (..., *(slice(None, None, stride) for stride in strides))

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> torch.Tensor:
        taken: torch.Tensor = args[0][self._places]
        return taken
