"""Spatial transforms of uint8 pictures and clips, with every random number drawn from the caller's generator.

Shapes: `frames_TCHW` is uint8; a picture is a clip of one frame. All frames of a clip are treated alike.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

Range = tuple[float, float]


def to_tensor(frames_THWC: np.ndarray) -> torch.Tensor:
    """uint8 (T, H, W, C) -> (T, C, H, W), without a copy where the memory allows it."""
    return torch.from_numpy(np.ascontiguousarray(frames_THWC)).permute(0, 3, 1, 2)


def resize_short_side(frames_TCHW: torch.Tensor, size: int) -> torch.Tensor:
    """Scale so that the shorter side has `size` pixels, keeping the aspect ratio."""
    height, width = frames_TCHW.shape[-2:]
    scale = size / min(height, width)
    shape = [max(size, round(height * scale)), max(size, round(width * scale))]
    if shape == [height, width]:
        return frames_TCHW
    return F.resize(frames_TCHW, shape, antialias=True)


def squeeze(frames_TCHW: torch.Tensor, size: int) -> torch.Tensor:
    """Scale to `size` x `size`, whatever the aspect ratio."""
    return F.resize(frames_TCHW, [size, size], antialias=True)


def squeezed(frames_THWC: np.ndarray, size: int) -> np.ndarray:
    """Frames scaled to `size` x `size`, whatever their aspect ratio: uint8, (T, H, W, C) -> (T, size, size, C)."""
    return squeeze(to_tensor(frames_THWC), size).permute(0, 2, 3, 1).numpy()


def with_short_side(frames_THWC: np.ndarray, size: int) -> np.ndarray:
    """Frames scaled so that their shorter side has `size` pixels: uint8, (T, H, W, C) -> (T, h, w, C).

    Each has the same bytes, whatever others it is scaled together with.
    """
    return resize_short_side(to_tensor(frames_THWC), size).permute(0, 2, 3, 1).numpy()


def random_resized_crop(
    frames_TCHW: torch.Tensor, size: int, *, scale: Range, ratio: Range, rng: np.random.Generator
) -> torch.Tensor:
    """A random part of `scale` of the area and of aspect `ratio`, resized to `size` x `size` (Inception crop)."""
    height, width = frames_TCHW.shape[-2:]
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return F.resized_crop(frames_TCHW, top, left, h, w, [size, size], antialias=True)
    return even_crops(resize_short_side(frames_TCHW, size), size, num_crops=1)[0]


def random_crop(frames_TCHW: torch.Tensor, size: int, *, rng: np.random.Generator) -> torch.Tensor:
    """A random `size` x `size` part."""
    height, width = frames_TCHW.shape[-2:]
    top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
    return frames_TCHW[..., top : top + size, left : left + size]


def even_crops(frames_TCHW: torch.Tensor, size: int, *, num_crops: int) -> list[torch.Tensor]:
    """`num_crops` parts spread evenly along the longer side, centred on the other; one is the centre crop."""
    height, width = frames_TCHW.shape[-2:]
    crops = []
    for number in range(num_crops):
        place = 0.5 if num_crops == 1 else number / (num_crops - 1)
        top = round((height - size) * (place if height > width else 0.5))
        left = round((width - size) * (place if width >= height else 0.5))
        crops.append(frames_TCHW[..., top : top + size, left : left + size])
    return crops


def random_flip(frames_TCHW: torch.Tensor, *, rng: np.random.Generator) -> torch.Tensor:
    """Mirrored left to right with probability one half."""
    return F.horizontal_flip(frames_TCHW) if rng.random() < 0.5 else frames_TCHW


def color_jitter(frames_TCHW: torch.Tensor, strength: float, *, rng: np.random.Generator) -> torch.Tensor:
    """Brightness, contrast and saturation by factors in 1 +- `strength`, hue by +- `strength` / 2, in random order."""
    low, high = max(0.0, 1 - strength), 1 + strength
    hue = min(0.5, strength / 2)
    steps = [
        lambda x, f=rng.uniform(low, high): F.adjust_brightness(x, f),
        lambda x, f=rng.uniform(low, high): F.adjust_contrast(x, f),
        lambda x, f=rng.uniform(low, high): F.adjust_saturation(x, f),
        lambda x, f=rng.uniform(-hue, hue): F.adjust_hue(x, f),
    ]
    for step in rng.permutation(len(steps)):
        frames_TCHW = steps[step](frames_TCHW)
    return frames_TCHW


def normalize(batch: torch.Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """uint8 (N, C, ...) -> float32, channel by channel (x / 255 - mean) / std, on the batch's device."""
    shape = (1, -1) + (1,) * (batch.ndim - 2)
    scale = torch.tensor([1 / (255 * s) for s in std], device=batch.device).view(shape)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=batch.device).view(shape)
    return batch.float().mul_(scale).add_(shift)
