"""Mirroring and colour changes of whole batches, on the device where they lie.

What is drawn for a sample depends on its own seed alone. The arithmetic is that of `cfvid.data.transforms`, where a
decoding process does the same to one sample at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

_GREY = (0.2989, 0.587, 0.114)
_FLIP, _FACTORS, _ORDER = 0, (1, 2, 3, 4), (5, 6, 7, 8)
"""The numbers of a sample's draws."""


@dataclass(frozen=True)
class Changes:
    """What is done to the samples of a batch."""

    flip_N: np.ndarray
    """bool."""
    factors_N4: np.ndarray
    """float32: of brightness, contrast and saturation, and what is added to the hue (1 is once round)."""
    order_N4: np.ndarray
    """int64: which of the four comes first, second, ..."""


def drawn(seeds: Sequence[int], *, flip: bool, color_jitter: float) -> Changes:
    """The changes of each sample, from its seed.

    Args:
        seeds: 63-bit integers.
        flip: mirror half of the samples.
        color_jitter: strength; see `cfvid.data.transforms.color_jitter`.
    """
    uniform_NU = _uniform(np.array(seeds, dtype=np.uint64), 1 + len(_FACTORS) + len(_ORDER))
    low, high, hue = max(0.0, 1 - color_jitter), 1 + color_jitter, min(0.5, color_jitter / 2)
    lows, highs = np.array([low, low, low, -hue]), np.array([high, high, high, hue])
    return Changes(
        flip_N=(uniform_NU[:, _FLIP] < 0.5) & flip,
        factors_N4=(lows + uniform_NU[:, _FACTORS] * (highs - lows)).astype(np.float32),
        order_N4=uniform_NU[:, _ORDER].argsort(axis=1),
    )


def _uniform(seeds_N: np.ndarray, num: int) -> np.ndarray:
    """Numbers in [0, 1), float64 (N, num): SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), all at once."""
    steps = np.arange(1, num + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = seeds_N[:, None] + steps * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def changed(views: torch.Tensor, changes: Changes, *, color_jitter: bool) -> torch.Tensor:
    """The views with these changes: uint8 (N, 3, ..., H, W) on any device -> the same.

    Args:
        views: one of each sample.
        changes: as `drawn`.
        color_jitter: whether colours are changed at all.
    """

    def there(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(views.device, non_blocking=True)

    if changes.flip_N.any():
        mask = there(changes.flip_N).view(-1, *[1] * (views.ndim - 1))
        views = torch.where(mask, views.flip(-1), views)
    if not color_jitter:
        return views
    # Float numbers throughout; each step ends on whole ones, as it does for single samples.
    pixels = views.float()
    factors = there(changes.factors_N4)
    for place in range(len(_STEPS)):
        for step, change in enumerate(_STEPS):
            rows = np.flatnonzero(changes.order_N4[:, place] == step)
            if len(rows):
                own = there(rows)
                factor = factors[own, step].view(-1, *[1] * (views.ndim - 1))
                pixels[own] = change(pixels[own], factor)
    return pixels.to(torch.uint8)


def _brightness(pixels: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (pixels * factor).clamp_(0, 255).floor_()


def _contrast(pixels: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    # Of a clip, each frame has its own mean.
    return _blended(pixels, _grey(pixels).mean(dim=(1, -2, -1), keepdim=True), factor)


def _saturation(pixels: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blended(pixels, _grey(pixels), factor)


def _hue(pixels: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turns the hue, at the same saturation and value of the HSV cone."""
    values = pixels / 255
    red, green, blue = values.split(1, dim=1)
    highest = values.amax(dim=1, keepdim=True)
    chroma = highest - values.amin(dim=1, keepdim=True)
    divisor = torch.where(chroma == 0, 1.0, chroma)
    sixths = torch.where(
        highest == red,
        (green - blue) / divisor,
        torch.where(highest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    turned = sixths + 6 * shift

    def channel(offset: int) -> torch.Tensor:
        k = (turned + offset).remainder(6)
        return highest - chroma * torch.minimum(k, 4 - k).clamp(0, 1)

    # A little less than 256: the largest value is 255, and all 256 come from equally wide parts.
    return (torch.cat([channel(5), channel(3), channel(1)], dim=1) * 255.999).floor_()


def _grey(pixels: torch.Tensor) -> torch.Tensor:
    red, green, blue = pixels.split(1, dim=1)
    return (red * _GREY[0] + green * _GREY[1] + blue * _GREY[2]).floor_()


def _blended(pixels: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (factor * pixels + (1 - factor) * other).clamp_(0, 255).floor_()


_STEPS: tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ...] = (_brightness, _contrast, _saturation, _hue)
