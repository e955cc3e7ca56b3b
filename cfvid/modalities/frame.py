"""Single video frames through a 2D network: the adapter that shows what a third modality takes.

It answers a question that comes up in every video experiment: how much does one frame give away?
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from cfvid.data import transforms
from cfvid.data.clip_sampling import random_start, seconds_of, uniform_starts
from cfvid.data.clips import read_clips
from cfvid.data.loader import Request
from cfvid.data.small_video import open_small
from cfvid.media.video import SUFFIXES, VIDEO_DECODERS
from cfvid.media.video_reader import Change, unchanged
from cfvid.modalities.image import ImageInput, augmented, views_of
from cfvid.modalities.video import film_strip
from cfvid.sections.base import Count, Section


class FrameInput(ImageInput):
    """Options of the frame modality: those of pictures, and how many frames are looked at."""

    cache_short_side: Count | None = None
    """Decoded frames are first scaled to this shorter side, and all else works on these; smaller ones stay as they are.
    They can be kept between epochs (`runtime.clip_cache`)."""
    extract_frames: Count = 1
    """Even frames per video whose features are averaged."""
    score_frames: Count = 3
    """Even frames per video whose softmax outputs are averaged."""


class FrameModality:
    """See `cfvid.modalities.base.Modality`."""

    name: ClassVar[str] = "frame"
    Input: ClassVar[type[Section]] = FrameInput
    suffixes: ClassVar[frozenset[str]] = SUFFIXES
    decoders: ClassVar[tuple[str, ...]] = tuple(VIDEO_DECODERS)
    network_dims: ClassVar[int] = 2
    view_noun: ClassVar[str] = "frame"

    def __init__(self, options: FrameInput) -> None:
        self.options = options

    def load(self, request: Request, decoder: str) -> np.ndarray:
        """uint8, (V, 3, S, S); a film strip for `preview`."""
        with open_small(request, decoder=decoder, short_side=self.options.cache_short_side) as reader:
            if request.look == "preview":
                return film_strip(reader, request)
            frames = read_clips(
                reader,
                lambda times_s: self._starts(times_s, request),
                num_frames=1,
                frame_rate_hz=1.0,
                short_clip="repeat",
                start_s=request.start_s,
                end_s=request.end_s,
                change=self._change(request),
            )
        views = [views_of(transforms.to_tensor(frame), self.options, request.look, request.seed) for frame in frames]
        return torch.cat(views).numpy()

    def _change(self, request: Request) -> Change:
        """What is done to each frame as it leaves the decoder; training crops are taken from the whole frame."""
        if request.look == "train":
            return unchanged
        if self.options.eval_shape == "whole":
            return partial(transforms.squeezed, size=self.options.crop_size)
        return partial(transforms.with_short_side, size=self.options.resize)

    def _starts(self, times_s: np.ndarray, request: Request) -> list[float]:
        if request.look == "train":
            return [random_start(seconds_of(times_s), 0.0, np.random.default_rng(request.seed))]
        num_frames = self.options.extract_frames if request.look == "extract" else self.options.score_frames
        return uniform_starts(seconds_of(times_s), 0.0, num_frames)

    def augment(self, views: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """See the protocol."""
        return augmented(views, seeds, self.options)

    def normalize(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, S, S) -> float32."""
        return transforms.normalize(batch, mean=self.options.mean, std=self.options.std)

    def example(self, num_samples: int) -> torch.Tensor:
        """uint8 zeros, (N, 3, S, S)."""
        side = self.options.crop_size
        return torch.zeros(num_samples, 3, side, side, dtype=torch.uint8)
