"""Videos through decord, with PyAV where decord fails, behind one small protocol.

A reader is opened, used and closed inside one process and one thread: sharing a decord reader aborts the process.
Frames come upright and by presentation time, so a variable frame rate needs no special case.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cfvid.errors import UnreadableSample

SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp"})
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

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Frames by index into `times_s`, in the order given (repeats allowed): uint8, (n, H, W, 3), RGB.

        Raises:
            TruncatedVideo: when a frame is claimed but does not decode.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...


@contextlib.contextmanager
def open_video(path: Path, *, decoder: str) -> Iterator[VideoReader]:
    """Open a video with one decoder by name.

    Raises:
        UnreadableSample: with the decoder's own message, whatever it raises.
    """
    try:
        reader = VIDEO_DECODERS[decoder](path)
        try:
            yield reader
        finally:
            reader.close()
    except (UnreadableSample, TruncatedVideo):
        raise
    except Exception as error:  # both decoders raise more kinds than they document
        message = " ".join(str(error).split())[:300]
        raise UnreadableSample(f"{type(error).__name__}: {message}") from error


def _check_size(width: int, height: int, num_frames: int) -> None:
    if width * height > MAX_FRAME_PIXELS or width * height * 3 * num_frames > MAX_CLIP_BYTES:
        raise UnreadableSample(f"{num_frames} frames of {width}x{height} exceed the memory limit")


# ---------------------------------------------------------------------------------------------- decord


class DecordReader:
    """decord: the faster one; rotates by itself; knows no AV1."""

    def __init__(self, path: Path) -> None:
        # By default decord retries 10,240 times at a damaged end, which takes minutes.
        os.environ.setdefault("DECORD_EOF_RETRY_MAX", "512")
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        if not path.is_file():
            raise UnreadableSample("no such file")
        self._reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        if len(self._reader) == 0:
            raise UnreadableSample("no video frame")
        starts = np.asarray(self._reader.get_frame_timestamp(range(len(self._reader))), dtype=np.float64)[:, 0]
        if not np.isfinite(starts).all() or (np.diff(starts) < 0).any():
            raise UnreadableSample("frame times are not ascending")
        self.times_s = starts - starts[0]

    def read(self, indices: Sequence[int]) -> np.ndarray:
        wanted, places = np.unique(np.asarray(indices), return_inverse=True)
        first = self._reader[int(wanted[0])].shape
        _check_size(first[1], first[0], len(wanted))
        return self._reader.get_batch(wanted.tolist()).asnumpy()[places]

    def close(self) -> None:
        del self._reader


# ---------------------------------------------------------------------------------------------- PyAV


class PyAVReader:
    """PyAV: reads nearly everything, trusts no metadata."""

    def __init__(self, path: Path) -> None:
        import av

        av.logging.set_level(None)
        self._container = av.open(str(path), mode="r", metadata_errors="ignore")
        if not self._container.streams.video:
            self._container.close()
            raise UnreadableSample("no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "NONE"
        self._pts = self._scan()
        self.times_s = self._times()

    def _scan(self) -> np.ndarray | None:
        """Presentation times of all packets, ascending; None where the container does not give them."""
        pts: list[int] = []
        for packet in self._packets():
            if packet.is_discard or packet.size == 0:
                continue
            if packet.pts is None:
                return None
            pts.append(packet.pts)
        return np.unique(np.asarray(pts, dtype=np.int64)) if pts else None

    def _times(self) -> np.ndarray:
        if self._pts is not None:
            return (self._pts - self._pts[0]) * float(self._stream.time_base or 1)
        # Without times, frames are counted, which means decoding them all once.
        num_frames = sum(1 for _ in self._frames_from(None))
        if num_frames == 0:
            raise UnreadableSample("no video frame")
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 25.0)
        return np.arange(num_frames) / rate

    def _packets(self) -> Iterator[Any]:
        """Packets from the start of the file up to its end or its first damage."""
        import av

        try:
            yield from self._container.demux(self._stream)
        except av.FFmpegError:
            return

    def _frames_from(self, pts: int | None) -> Iterator[Any]:
        """Decoded frames from the key frame at or before `pts` up to the first damage; from the start if None."""
        import av

        try:
            if pts is None:
                self._container.seek(0)
            else:
                self._container.seek(pts, stream=self._stream, backward=True)
        except av.FFmpegError:
            # Some formats cannot seek at all: a second opening starts over.
            name = self._container.name
            self._container.close()
            self._container = av.open(name, mode="r", metadata_errors="ignore")
            self._stream = self._container.streams.video[0]
        try:
            yield from self._container.decode(self._stream)
        except av.FFmpegError:
            return

    def read(self, indices: Sequence[int]) -> np.ndarray:
        wanted, places = np.unique(np.asarray(indices), return_inverse=True)
        _check_size(self._stream.width, self._stream.height, len(wanted))
        frames = self._by_count(wanted) if self._pts is None else self._by_time(wanted)
        return np.stack(_same_size(frames))[places]

    def _by_count(self, wanted: np.ndarray) -> list[np.ndarray]:
        last = int(wanted[-1])
        keep = set(wanted.tolist())
        decoded = enumerate(itertools.islice(self._frames_from(None), last + 1))
        frames = [_upright(frame) for index, frame in decoded if index in keep]
        if len(frames) < len(wanted):
            raise TruncatedVideo(int(wanted[len(frames)]) if frames else 0)
        return frames

    def _by_time(self, wanted: np.ndarray) -> list[np.ndarray]:
        """For each wanted time the frame on screen then: the last decoded one that is not later."""
        assert self._pts is not None
        targets = self._pts[wanted]
        decoded = self._frames_from(int(targets[0]))
        first = next(decoded, None)
        if first is None or first.pts is None or first.pts > targets[0]:
            # The seek went wrong or too far: start over.
            decoded = self._frames_from(int(self._pts[0]) if self._pts[0] < 0 else None)
            first = next(decoded, None)
        if first is None:
            raise TruncatedVideo(0)
        frames: list[np.ndarray] = []
        shown, last_pts = first, first.pts
        for frame in decoded:
            if frame.pts is None or frame.pts <= last_pts:
                continue
            while len(frames) < len(targets) and frame.pts > targets[len(frames)]:
                frames.append(_upright(shown))
            if len(frames) == len(targets):
                return frames
            shown, last_pts = frame, frame.pts
        while len(frames) < len(targets) and last_pts >= targets[len(frames)]:
            frames.append(_upright(shown))
        if len(frames) < len(targets):
            raise TruncatedVideo(int(np.searchsorted(self._pts, last_pts, side="right")))
        return frames

    def close(self) -> None:
        self._container.close()


def _upright(frame: Any) -> np.ndarray:
    """A PyAV frame as RGB, turned by the rotation it carries (counter-clockwise degrees)."""
    return np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90) % 4)


def _same_size(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Frames of a stream that changes its size in mid-stream, all at the size of the first."""
    from PIL import Image

    height, width = frames[0].shape[:2]
    return [
        f if f.shape[:2] == (height, width) else np.asarray(Image.fromarray(f).resize((width, height)))
        for f in frames
    ]


VIDEO_DECODERS: dict[str, Callable[[Path], VideoReader]] = {"decord": DecordReader, "pyav": PyAVReader}
"""All decoders, in the order in which they are tried."""
