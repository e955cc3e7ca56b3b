"""Videos through decord, with PyAV where decord fails (or the other way round), behind one small protocol.

A reader is opened, used and closed inside one process and one thread: sharing a decord reader aborts the process.
Frames come upright and by presentation time, so a variable frame rate needs no special case.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from cfvid.errors import UnreadableSample
from cfvid.media.packets import Packets, open_stream, read_packets
from cfvid.media.source import Media, Opener, opener

SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp"})
MAX_FRAME_PIXELS = 64_000_000
MAX_CLIP_BYTES = 2_000_000_000
"""Frames asked for at once may take this much memory when decoded."""

_CLEAN_KEY_FRAMES = frozenset({"h264", "hevc", "mpeg4", "vp9"})
"""Codecs that give the same frames from a key frame on as from the start, where nothing else stands against it."""
_WORTH_A_SEEK = 8
"""Frames; skipping fewer saves less than a seek costs."""

_NOISE = re.compile(r"\[\d\d:\d\d:\d\d\] |/\S+?\.(?:cc|h):\d+: |Check failed: .*?\)(?= [A-Z]| *$)|\[Errno \d+\] ")
"""In messages: decord's clock, source lines and conditions with addresses, PyAV's codes."""


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


@contextlib.contextmanager
def open_video(media: Media, *, decoder: str) -> Iterator[VideoReader]:
    """Open a video, a file or a member of a shard, with one decoder by name.

    Raises:
        UnreadableSample: with the decoder's own message, whatever it raises.
    """
    with _as_unreadable(media):
        reader = VIDEO_DECODERS[decoder](opener(media))
    try:
        yield _SafeReader(reader, media)
    finally:
        reader.close()


class _SafeReader:
    """A reader whose errors, of whatever kind, are UnreadableSample. Those of its user stay what they are."""

    def __init__(self, reader: VideoReader, media: Media) -> None:
        self._reader, self._media = reader, media
        self.times_s = reader.times_s

    @property
    def is_of_one_size(self) -> bool:
        return self._reader.is_of_one_size

    def read(self, indices: Sequence[int]) -> np.ndarray:
        with _as_unreadable(self._media):
            return self._reader.read(indices)

    def close(self) -> None:
        self._reader.close()


@contextlib.contextmanager
def _as_unreadable(media: Media) -> Iterator[None]:
    try:
        yield
    except (UnreadableSample, TruncatedVideo):
        raise
    except Exception as error:  # both decoders raise more kinds than they document
        raise UnreadableSample(_reason(error, media)) from error


def _check_size(width: int, height: int, num_frames: int) -> None:
    if width * height > MAX_FRAME_PIXELS or width * height * 3 * num_frames > MAX_CLIP_BYTES:
        raise UnreadableSample(f"{num_frames} frames of {width}x{height} exceed the memory limit")


def _reason(error: Exception, media: Media) -> str:
    """What a decoder said, without what differs from file to file: reasons are counted."""
    message = _NOISE.sub("", str(error).replace(str(media), "the file"))
    return f"{type(error).__name__}: {' '.join(message.split())[:300]}"


# ---------------------------------------------------------------------------------------------- decord


class DecordReader:
    """decord: rotates by itself; knows no AV1.

    It goes to a frame by its own count: to the key frame before it, then so many frames on. Where that leads elsewhere
    it says nothing, so it is only used where it is known to be right.
    """

    is_of_one_size = True
    """It scales them by itself, whatever is asked for."""

    def __init__(self, opened: Opener) -> None:
        # How often decord looks for the last frames, which another thread decodes: at 512 it can give up on good files.
        os.environ.setdefault("DECORD_EOF_RETRY_MAX", "10240")
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        container, stream = open_stream(opened)
        try:
            packets = read_packets(container, stream)
            # decord tells the size by a decoded frame alone, and would decode everything up to it twice.
            self._width, self._height = stream.width, stream.height
        finally:
            container.close()
        if packets.seek_faults:
            raise UnreadableSample(f"decord seeks wrongly with {', '.join(sorted(packets.seek_faults))}")
        # Frames that do not decode are by default filled in from their neighbours: any such one is an error here.
        self._reader = decord.VideoReader(opened(), ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
        self.times_s = self._checked_times(packets)

    def _checked_times(self, packets: Packets) -> np.ndarray:
        """Frame times on which decord and the container agree."""
        num_frames = len(self._reader)
        if num_frames == 0:
            raise UnreadableSample("no video frame")
        starts = np.asarray(self._reader.get_frame_timestamp(range(num_frames)), dtype=np.float64)[:, 0]
        if not np.isfinite(starts).all() or (np.diff(starts) <= 0).any():
            raise UnreadableSample("frame times are not ascending")
        times_s = starts - starts[0]
        if packets.pts is None:
            return times_s
        # Its times are rounded to float32.
        if num_frames != len(packets.pts) or not np.allclose(times_s, packets.times_s, rtol=1e-6, atol=2e-3):
            raise UnreadableSample("decord and the container differ in frames or times")
        return packets.times_s

    def read(self, indices: Sequence[int]) -> np.ndarray:
        wanted, places = np.unique(np.asarray(indices), return_inverse=True)
        _check_size(self._width, self._height, len(wanted))
        return self._reader.get_batch(wanted.tolist()).asnumpy()[places]

    def close(self) -> None:
        del self._reader


# ---------------------------------------------------------------------------------------------- PyAV


class PyAVReader:
    """PyAV: reads nearly everything, trusts no metadata."""

    def __init__(self, opened: Opener) -> None:
        self._opened, self.is_of_one_size = opened, True
        self._container, self._stream = open_stream(opened)
        try:
            self._packets = read_packets(self._container, self._stream)
            self._pts = self._packets.pts
            self.times_s = self._packets.times_s if self._pts is not None else self._counted_times()
        except BaseException:
            self._container.close()
            raise

    def _counted_times(self) -> np.ndarray:
        """Without times in the container, frames are counted, which means decoding them all once."""
        num_frames = sum(1 for _ in self._frames_from_start())
        if num_frames == 0:
            raise UnreadableSample("no video frame")
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 25.0)
        return np.arange(num_frames) / rate

    def _frames_from_start(self) -> Iterator[Any]:
        """All decoded frames up to the first damage. A new opening: not all that opens can seek back to its start."""
        self._container.close()
        self._container, self._stream = open_stream(self._opened)
        return self._decoded(self._container.demux(self._stream))

    def _frames_from(self, pts: int) -> Iterator[Any]:
        """Decoded frames from the key frame at or before `pts`; nothing when seeking does not lead there."""
        import av

        try:
            self._container.seek(pts, stream=self._stream, backward=True)
            packets = self._container.demux(self._stream)
            first = next(packets)
        except (av.FFmpegError, StopIteration):
            return
        # After a seek some edit lists are lost, and with them the right times.
        if first.pts != self._packets.pts_at.get(first.pos, first.pts):
            return
        yield from self._decoded(itertools.chain([first], packets))

    def _decoded(self, packets: Iterable[Any]) -> Iterator[Any]:
        """Frames up to the first damage, with those that the decoder still held back for their order."""
        import av

        try:
            for packet in packets:
                yield from packet.decode()
        except av.FFmpegError:
            with contextlib.suppress(av.FFmpegError):
                yield from self._stream.codec_context.decode(None)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        wanted, places = np.unique(np.asarray(indices), return_inverse=True)
        _check_size(self._stream.width, self._stream.height, len(wanted))
        if self._pts is None or self._packets.in_decoding_order:
            frames = self._by_count(wanted)
        else:
            frames = self._by_key_frames(self._pts[wanted]) or self._by_time(wanted)
        self.is_of_one_size &= len({frame.shape for frame in frames}) == 1
        return np.stack(_same_size(frames))[places]

    def _by_key_frames(self, targets: np.ndarray) -> list[np.ndarray] | None:
        """The frames of these times, decoding only what they need; None where that is not known to give the same."""
        import av

        codec = self._stream.codec_context
        if codec.name not in _CLEAN_KEY_FRAMES or self._packets.seek_faults or not self._packets.key_pts:
            return None
        frames: dict[int, np.ndarray] = {}
        try:
            for run in self._runs(targets):
                for frame in self._decoded_run(run):
                    # What is wrong in a frame may depend on those that are skipped; fields may have their own packets.
                    if frame.is_corrupt or frame.interlaced_frame:
                        return None
                    if frame.pts in run:
                        frames[frame.pts] = _upright(frame)
        except av.FFmpegError:
            return None
        finally:
            codec.skip_frame = "DEFAULT"
        return [frames[pts] for pts in sorted(frames)] if len(frames) == len(targets) else None

    def _runs(self, targets: np.ndarray) -> list[set[int]]:
        """Times, ascending, in sets: between two of them lies a key frame, and enough before it to be worth a seek."""
        assert self._pts is not None
        keys = np.searchsorted(self._packets.key_pts, targets, side="right") - 1
        starts = np.searchsorted(self._pts, np.asarray(self._packets.key_pts)[keys])
        runs: list[set[int]] = []
        end = -1
        for pts, start, index in zip(targets.tolist(), starts, np.searchsorted(self._pts, targets), strict=True):
            if not runs or start - end > _WORTH_A_SEEK:
                runs.append(set())
            runs[-1].add(pts)
            end = index
        return runs

    def _decoded_run(self, run: set[int]) -> Iterator[Any]:
        """Decoded frames, those of a run among them, from the key frame before it to its last packet."""
        codec, waiting = self._stream.codec_context, set(run)
        self._container.seek(min(run), stream=self._stream, backward=True)
        for packet in self._container.demux(self._stream):
            if codec.name == "h264":
                # H.264 says of each frame whether others need it.
                codec.skip_frame = "DEFAULT" if packet.pts in run else "NONREF"
            yield from packet.decode()
            waiting.discard(packet.pts)
            if not waiting:
                break
        yield from codec.decode(None)

    def _by_count(self, wanted: np.ndarray) -> list[np.ndarray]:
        last = int(wanted[-1])
        keep = set(wanted.tolist())
        decoded = enumerate(itertools.islice(self._frames_from_start(), last + 1))
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
        if first is None or first.pts not in self._pts[: wanted[0] + 1]:
            # The seek went wrong, too far, or to times that the container did not tell of before: start over.
            decoded = self._frames_from_start()
            first = next(decoded, None)
        if first is None:
            raise TruncatedVideo(0)
        frames: list[np.ndarray] = []
        shown, last_pts = first, first.pts
        for frame in decoded:
            pts = frame.pts if frame.pts is not None else self._next_pts(last_pts)
            if pts <= last_pts:
                continue
            while len(frames) < len(targets) and pts > targets[len(frames)]:
                frames.append(_upright(shown))
            if len(frames) == len(targets):
                return frames
            shown, last_pts = frame, pts
        while len(frames) < len(targets) and last_pts >= targets[len(frames)]:
            frames.append(_upright(shown))
        if len(frames) < len(targets):
            raise TruncatedVideo(int(np.searchsorted(self._pts, last_pts, side="right")))
        return frames

    def _next_pts(self, pts: int) -> int:
        """The time of a frame that has none: the packets' next one."""
        assert self._pts is not None
        return int(self._pts[min(int(np.searchsorted(self._pts, pts, side="right")), len(self._pts) - 1)])

    def close(self) -> None:
        self._container.close()


def _upright(frame: Any) -> np.ndarray:
    """A PyAV frame as RGB, turned by the rotation it carries (counter-clockwise degrees)."""
    # By default PyAV 17 starts a thread per core for each picture.
    return np.rot90(frame.to_ndarray(format="rgb24", threads=1), k=round(frame.rotation / 90) % 4)


def _same_size(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Frames of a stream that changes its size in mid-stream, all at the size of the first."""
    from PIL import Image

    height, width = frames[0].shape[:2]
    return [
        f if f.shape[:2] == (height, width) else np.asarray(Image.fromarray(f).resize((width, height))) for f in frames
    ]


VIDEO_DECODERS: dict[str, Callable[[Opener], VideoReader]] = {"decord": DecordReader, "pyav": PyAVReader}
"""All decoders, in the order in which they are tried unless `runtime.video_decoder` puts another one first."""
