"""What all video decoders are to `cfvid.media.video`: one small protocol, and what their readers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cfvid.errors import UnreadableSample
from cfvid.media.orientation import Orientation

MAX_FRAME_PIXELS = 64_000_000
MAX_CLIP_BYTES = 2_000_000_000
"""Frames asked for at once may take this much memory, changed as they were asked for."""
_RAW_BYTES = 32 * 2**20
"""Frames that a decoder gives several at a time are held in this much memory, and at least one of them."""

Change = Callable[[np.ndarray], np.ndarray]
"""What is made of each frame as it leaves the decoder: uint8, (H, W, 3) -> uint8, such as a smaller picture."""


def unchanged(frame_HWC: np.ndarray) -> np.ndarray:
    """The frame as it was decoded."""
    return frame_HWC


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

    def read(self, indices: Sequence[int], change: Change = unchanged) -> np.ndarray:
        """Frames by index into `times_s`, in the order given (repeats allowed): uint8, (n, H, W, 3), RGB.

        With a `change`, what it makes of each: a frame is changed before the next ones are decoded, so that large
        frames are never held together.

        Raises:
            TruncatedVideo: when a frame is claimed but does not decode.
            UnreadableSample: when a frame, or all of what was asked for, is too large.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...


@dataclass(frozen=True)
class VideoFacts:
    """What is known of an open video."""

    codec: str
    """FFmpeg's name for that of the stream that is read."""
    orientation: Orientation
    """Of the frames: what was done to show them as the file says."""
    notes: tuple[str, ...]
    """What else is made of the file that a user should know."""


class VideoFile(VideoReader, Protocol):
    """An open video, read from its file."""

    @property
    def facts(self) -> VideoFacts:
        """What is known of it, after a frame has been read."""
        ...


class Frames:
    """Frames as they leave the decoder: each is changed and the rest of it forgotten.

    Args:
        num_frames: how many are wanted.
        change: what is made of each frame.
    """

    def __init__(self, num_frames: int, change: Change) -> None:
        self._num_frames, self._change = num_frames, change
        self._raw_shape: tuple[int, ...] | None = None
        self._kept = np.empty(0, np.uint8)
        self._num_kept = 0
        self.is_of_one_size = True

    def __len__(self) -> int:
        return self._num_kept

    def add(self, frame_HWC: np.ndarray) -> None:
        """Take one more; one of another size is first scaled to that of the first one.

        Raises:
            UnreadableSample: when all of them would be more than `MAX_CLIP_BYTES`.
        """
        self._raw_shape = self._raw_shape or frame_HWC.shape
        if frame_HWC.shape != self._raw_shape:
            self.is_of_one_size = False
            frame_HWC = _resized(frame_HWC, width=self._raw_shape[1], height=self._raw_shape[0])
        frame = self._change(frame_HWC)
        if self._num_kept == 0:
            if frame.nbytes * self._num_frames > MAX_CLIP_BYTES:
                size = "x".join(map(str, frame.shape[1::-1]))
                raise UnreadableSample(f"{self._num_frames} frames of {size} exceed the memory limit")
            # All at once: small arrays that stay would lie between large ones that go, and keep their memory in pieces.
            self._kept = np.empty((self._num_frames, *frame.shape), np.uint8)
        self._kept[self._num_kept] = frame
        self._num_kept += 1

    def at(self, places: np.ndarray) -> np.ndarray:
        """The frames at these places, in the order in which they were taken: (n, ...)."""
        if np.array_equal(places, np.arange(self._num_frames)):
            return self._kept
        return self._kept[places]


def _resized(frame_HWC: np.ndarray, *, width: int, height: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(frame_HWC).resize((width, height)))


def check_size(width: int, height: int) -> None:
    """Refuse frames that are too large.

    Raises:
        UnreadableSample: for more than `MAX_FRAME_PIXELS`.
    """
    if width * height > MAX_FRAME_PIXELS:
        raise UnreadableSample(f"frames of {width}x{height} exceed the memory limit")


def in_parts(indices: np.ndarray, *, frame_bytes: int) -> Iterator[np.ndarray]:
    """Indices in as many parts as it takes to hold the frames of one part in little memory."""
    at_once = max(1, _RAW_BYTES // max(1, frame_bytes))
    return (indices[start : start + at_once] for start in range(0, len(indices), at_once))
