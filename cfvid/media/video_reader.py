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
"""Frames as they were decoded are held in this much memory, and at least one of them."""

Change = Callable[[np.ndarray], np.ndarray]
"""What is made of frames as they leave the decoder: uint8, (n, H, W, 3) -> uint8, (n, ...), such as smaller pictures.

Each must become the same among whatever others.
"""


def unchanged(frames_NHWC: np.ndarray) -> np.ndarray:
    """The frames as they were decoded."""
    return frames_NHWC


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

        With a `change`, what it makes of each: large frames are changed before the next ones are decoded, and never
        held together.

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
    """What was done to the frames to show them as the file says."""
    notes: tuple[str, ...]
    """What else is made of the file that a user should know."""


class VideoFile(VideoReader, Protocol):
    """An open video, read from its file."""

    @property
    def facts(self) -> VideoFacts:
        """What is known of it, after a frame has been read."""
        ...


class Frames:
    """Frames as they leave the decoder: a few at a time are changed, and the rest of them forgotten.

    Args:
        num_frames: how many are wanted.
        change: what is made of them.
    """

    def __init__(self, num_frames: int, change: Change) -> None:
        self._num_frames, self._change = num_frames, change
        self._raw: list[np.ndarray] = []
        self._raw_shape: tuple[int, ...] = ()
        self._changed = np.empty(0, np.uint8)
        self._num_changed = 0
        self.is_of_one_size = True

    def __len__(self) -> int:
        return self._num_changed + len(self._raw)

    def add(self, frame_HWC: np.ndarray) -> None:
        """Take one more; one of another size is first scaled to that of the first one.

        Raises:
            UnreadableSample: when all of them would be more than `MAX_CLIP_BYTES`.
        """
        self._raw_shape = self._raw_shape or frame_HWC.shape
        if frame_HWC.shape != self._raw_shape:
            self.is_of_one_size = False
            frame_HWC = _resized(frame_HWC, width=self._raw_shape[1], height=self._raw_shape[0])
        self._raw.append(frame_HWC)
        if (len(self._raw) + 1) * frame_HWC.nbytes > _RAW_BYTES:
            self._change_raw()

    def add_all(self, frames_NHWC: np.ndarray) -> None:
        """Take several of one size, as many as `in_parts` gives; raises as `add`."""
        self._keep(self._change(frames_NHWC))

    def at(self, places: np.ndarray) -> np.ndarray:
        """The frames at these places, in the order in which they were taken: (n, ...)."""
        self._change_raw()
        is_in_order = np.array_equal(places, np.arange(self._num_frames))
        return self._changed if is_in_order else self._changed[places]

    def _change_raw(self) -> None:
        if self._raw:
            raw = self._raw[0][None] if len(self._raw) == 1 else np.stack(self._raw)
            self._raw.clear()
            self._keep(self._change(raw))

    def _keep(self, frames: np.ndarray) -> None:
        if self._num_changed == 0:
            if frames[0].nbytes * self._num_frames > MAX_CLIP_BYTES:
                size = "x".join(map(str, frames.shape[2:0:-1]))
                raise UnreadableSample(f"{self._num_frames} frames of {size} exceed the memory limit")
            if len(frames) == self._num_frames:
                self._changed, self._num_changed = frames, len(frames)
                return
            # All at once: small arrays that stay would lie between large ones that go, and keep their memory in pieces.
            self._changed = np.empty((self._num_frames, *frames.shape[1:]), np.uint8)
        self._changed[self._num_changed : self._num_changed + len(frames)] = frames
        self._num_changed += len(frames)


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
