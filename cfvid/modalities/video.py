"""Clips: random in time and space for training, N even clips x M even crops for evaluation, R(2+1)D networks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import model_validator

from cfvid.data import clip_sampling, transforms
from cfvid.data.batch_augmentation import changed, drawn
from cfvid.data.clip_sampling import ShortClip, seconds_of, segment
from cfvid.data.clips import Plan, read_clips
from cfvid.data.loader import Request
from cfvid.data.small_video import open_small
from cfvid.media.video import SUFFIXES, VIDEO_DECODERS
from cfvid.media.video_reader import Change, VideoReader
from cfvid.sections.base import Count, Fraction, Positive, Section

Triple = tuple[float, float, float]
_PREVIEW_FRAMES = 6
_PREVIEW_HEIGHT = 96


class VideoInput(Section):
    """Options of the video modality."""

    num_frames: Count
    """Frames per clip."""
    frame_rate_hz: Positive
    """Instants per second at which frames are taken, whatever the video's own rate."""
    crop_size: Count
    """Side of the square that the network sees, in pixels."""
    resize: Count
    """The shorter side before cropping, in pixels."""
    cache_short_side: Count | None = None
    """Decoded frames are first scaled to this shorter side, and all else works on these; smaller ones stay as they are.
    They can be kept between epochs (`runtime.clip_cache`)."""
    max_resize: Count | None = None
    """In training the shorter side is drawn between `resize` and this."""
    short_clip: ShortClip = "repeat"
    """What a video shorter than a clip does: repeat its last frame, wrap around, or be skipped as an error."""
    flip: bool = True
    """Mirror half of the training clips."""
    color_jitter: Fraction = 0.0
    """Strength of brightness, contrast, saturation (1 +- s) and hue (+- s/2) changes in training."""
    augment_on: Literal["worker", "device"] = "worker"
    """Where training clips are mirrored and their colours changed: each in its decoding process, or whole batches on
    the network's device, by other draws from the same distribution. Decoding processes have less to do then."""
    extract_clips: Count = 1
    """Clips per video whose features are averaged."""
    extract_crops: Count = 1
    """Crops per clip whose features are averaged."""
    score_clips: Count = 10
    """Clips per video whose softmax outputs are averaged."""
    score_crops: Count = 1
    """Crops per clip whose softmax outputs are averaged."""
    mean: Triple = (0.43216, 0.394666, 0.37645)
    std: tuple[Positive, Positive, Positive] = (0.22803, 0.22145, 0.216989)

    @model_validator(mode="after")
    def _sizes_agree(self) -> VideoInput:
        if self.resize < self.crop_size:
            raise ValueError(f"resize ({self.resize}) must be at least crop_size ({self.crop_size})")
        if self.cache_short_side is not None and self.cache_short_side < self.resize:
            raise ValueError(f"cache_short_side ({self.cache_short_side}) must be at least resize ({self.resize})")
        if self.max_resize is not None and self.max_resize < self.resize:
            raise ValueError(f"max_resize ({self.max_resize}) must be at least resize ({self.resize})")
        return self

    @property
    def clip_seconds(self) -> float:
        """How long a clip is on screen."""
        return self.num_frames / self.frame_rate_hz


class VideoModality:
    """See `cfvid.modalities.base.Modality`."""

    name: ClassVar[str] = "video"
    Input: ClassVar[type[Section]] = VideoInput
    suffixes: ClassVar[frozenset[str]] = SUFFIXES
    decoders: ClassVar[tuple[str, ...]] = tuple(VIDEO_DECODERS)
    network_dims: ClassVar[int] = 3
    view_noun: ClassVar[str] = "clip"

    def __init__(self, options: VideoInput) -> None:
        self.options = options

    def load(self, request: Request, decoder: str) -> np.ndarray:
        """uint8, (V, 3, T, S, S); a film strip for `preview`."""
        with open_small(request, decoder=decoder, short_side=self.options.cache_short_side) as reader:
            if request.look == "preview":
                return film_strip(reader, request)
            if request.look == "train":
                return self._train_view(reader, request)
            return self._even_views(reader, request)

    def _train_view(self, reader: VideoReader, request: Request) -> np.ndarray:
        options, rng = self.options, np.random.default_rng(request.seed)

        def size_drawn(rng: np.random.Generator) -> int:
            return int(rng.integers(options.resize, (options.max_resize or options.resize) + 1))

        # The size is drawn after the clip, which is planned again where less decodes than was claimed.
        clip = self._read(
            reader,
            request,
            lambda t: [clip_sampling.random_start(seconds_of(t), options.clip_seconds, rng)],
            lambda frames: transforms.with_short_side(frames, size_drawn(copy.deepcopy(rng))),
        )[0]
        size_drawn(rng)
        frames_TCHW = transforms.to_tensor(clip)
        frames_TCHW = transforms.random_crop(frames_TCHW, options.crop_size, rng=rng)
        if options.augment_on == "device":
            return frames_TCHW.transpose(0, 1)[None].numpy()
        if options.flip:
            frames_TCHW = transforms.random_flip(frames_TCHW, rng=rng)
        if options.color_jitter > 0:
            frames_TCHW = transforms.color_jitter(frames_TCHW, options.color_jitter, rng=rng)
        return frames_TCHW.transpose(0, 1)[None].numpy()

    def _even_views(self, reader: VideoReader, request: Request) -> np.ndarray:
        options = self.options
        extracting = request.look == "extract"
        num_clips = options.extract_clips if extracting else options.score_clips
        num_crops = options.extract_crops if extracting else options.score_crops
        views = []
        for clip in self._read(
            reader,
            request,
            lambda t: clip_sampling.uniform_starts(seconds_of(t), options.clip_seconds, num_clips),
            partial(transforms.with_short_side, size=options.resize),
        ):
            crops = transforms.even_crops(transforms.to_tensor(clip), options.crop_size, num_crops=num_crops)
            views += [crop.transpose(0, 1) for crop in crops]
        return torch.stack(views).numpy()

    def _read(self, reader: VideoReader, request: Request, plan: Plan, change: Change) -> list[np.ndarray]:
        return read_clips(
            reader,
            plan,
            num_frames=self.options.num_frames,
            frame_rate_hz=self.options.frame_rate_hz,
            short_clip=self.options.short_clip,
            start_s=request.start_s,
            end_s=request.end_s,
            change=change,
        )

    def augment(self, views: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """See the protocol."""
        options = self.options
        if options.augment_on == "worker":
            return views
        changes = drawn(seeds, flip=options.flip, color_jitter=options.color_jitter)
        return changed(views, changes, color_jitter=options.color_jitter > 0)

    def normalize(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, T, S, S) -> float32."""
        return transforms.normalize(batch, mean=self.options.mean, std=self.options.std)

    def example(self, num_samples: int) -> torch.Tensor:
        """uint8 zeros, (N, 3, T, S, S)."""
        side = self.options.crop_size
        return torch.zeros(num_samples, 3, self.options.num_frames, side, side, dtype=torch.uint8)


def film_strip(reader: VideoReader, request: Request) -> np.ndarray:
    """Frames spread over the sample, side by side, for reports: uint8, (H, W, 3)."""
    seconds = seconds_of(reader.times_s[segment(reader.times_s, request.start_s, request.end_s)])
    frames_THWC = read_clips(
        reader,
        lambda _: [0.0],
        num_frames=_PREVIEW_FRAMES,
        frame_rate_hz=_PREVIEW_FRAMES / seconds,
        short_clip="repeat",
        start_s=request.start_s,
        end_s=request.end_s,
        change=partial(transforms.with_short_side, size=_PREVIEW_HEIGHT),
    )[0]
    return np.concatenate(list(frames_THWC), axis=1)
