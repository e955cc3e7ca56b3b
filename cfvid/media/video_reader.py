"""What all video decoders are to `cfvid.media.video`: one small protocol, and what their readers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cfvid.errors import UnreadableSample

MAX_FRAME_PIXELS = 64_000_000
MAX_CLIP_BYTES = 2_000_000_000
"""Frames asked for at once may take this much memory when decoded."""


class TruncatedVideo(Exception):
    """Fewer frames decode than the container claims; the first `num_decodable` are good."""

    def __init__(self, num_decodable: int) -> None:
        super().__init__(f"only the first {num_decodable} frames decode")
        self.num_decodable = num_decodable


class VideoReader(Protocol):
    """An open video."""

    times_s: np.ndarray
    """float64, (F,): presentation time of each frame in seconds, ascending, the first one 0."""

    @property
    def is_of_one_size(self) -> bool:
        """Whether all frames read so far came at one size; others are scaled to that of the first one asked for."""
        ...

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Frames by index into `times_s`, in the order given (repeats allowed): uint8, (n, H, W, 3), RGB.

        Raises:
            TruncatedVideo: when a frame is claimed but does not decode.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...


def check_size(width: int, height: int, num_frames: int) -> None:
    """Refuse frames that would not fit the memory.

    Raises:
        UnreadableSample: when they are too large or too many.
    """
    if width * height > MAX_FRAME_PIXELS or width * height * 3 * num_frames > MAX_CLIP_BYTES:
        raise UnreadableSample(f"{num_frames} frames of {width}x{height} exceed the memory limit")
