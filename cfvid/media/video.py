"""Videos through decord, with PyAV where decord fails, behind one small protocol.

A reader is opened, used and closed inside one process and one thread: sharing a decord reader aborts the process.
Frames come upright and by presentation time, so a variable frame rate needs no special case.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from cfvid.errors import UnreadableSample
from cfvid.media.source import Media, Opener, opener

SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp"})
MAX_FRAME_PIXELS = 64_000_000
MAX_CLIP_BYTES = 2_000_000_000
"""Frames asked for at once may take this much memory when decoded."""

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


# ---------------------------------------------------------------------------------------------- packets


@dataclass
class _Packets:
    """What the container tells of its video stream, read without decoding."""

    format: str
    seconds_per_tick: float
    pts: np.ndarray | None = None
    """int64, (F,): presentation times of what is shown, ascending; None where the container does not give them."""
    pts_at: dict[int, int | None] = field(default_factory=dict)
    """The times of packets by their position in the file."""
    seek_faults: set[str] = field(default_factory=set)
    """Why a decoder that seeks by its own count of frames would get others than those asked for."""

    @property
    def in_decoding_order(self) -> bool:
        """Whether the times are right as a whole but not those of the frames in their packets: AVI has no others."""
        return self.format == "avi"

    @property
    def times_s(self) -> np.ndarray:
        """float64, (F,): the first one is 0."""
        assert self.pts is not None
        return (self.pts - self.pts[0]) * self.seconds_per_tick


def _open_stream(opened: Opener) -> tuple[Any, Any]:
    """The container and its main video stream; pictures attached to audio files are none."""
    import av

    av.logging.set_level(None)
    # FFmpeg's own rule for what a local file may refer to, which it does not apply to bytes in memory.
    allowed = {"protocol_whitelist": "file,crypto,data"}
    container = av.open(opened(), mode="r", options=allowed, metadata_errors="ignore")
    stream: Any = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        container.close()
        raise UnreadableSample("no video stream")
    stream.thread_type = "NONE"
    return container, stream


def _read_packets(container: Any, stream: Any) -> _Packets:
    found = _Packets(container.format.name, float(stream.time_base or 1))
    shown: list[int | None] = []
    key_pts = None
    num_keys = 0
    for packet in _until_damage(container.demux(stream)):
        if packet.size == 0:
            continue
        if packet.pos is not None and packet.pos >= 0:
            found.pts_at[packet.pos] = packet.pts
        if packet.is_keyframe:
            key_pts, num_keys = packet.pts, num_keys + 1
            if num_keys > 1 and not _starts_afresh(packet, stream.codec_context):
                found.seek_faults.add("open groups of pictures")
        elif key_pts is not None and packet.pts is not None and packet.pts < key_pts:
            found.seek_faults.add("open groups of pictures")
        if packet.is_discard:
            found.seek_faults.add("an edit list")
        else:
            shown.append(packet.pts)
    known = [pts for pts in shown if pts is not None]
    if known and len(known) == len(shown):
        found.pts = np.unique(np.asarray(known, dtype=np.int64))
        if found.format.startswith("mov,") and found.pts[0] * found.seconds_per_tick > 0.5:
            found.seek_faults.add("an edit list")  # nothing is shown at first
    if num_keys > 1 and not found.format.startswith("mov,"):
        found.seek_faults.add(f"several key frames in {found.format}")
    return found


def _starts_afresh(key_packet: Any, codec: Any) -> bool:
    """Whether no later frame needs what came before this key frame.

    H.264 and HEVC also mark frames as key frames after which only the frames shown later can be decoded. H.264 tells of
    these in a message before them; without one, FFmpeg knows that frames refer to none but the one before.
    """
    if codec.name not in {"h264", "hevc"} or not codec.extradata or codec.extradata[0] != 1:
        return True
    length_size = (codec.extradata[4 if codec.name == "h264" else 21] & 3) + 1
    headers = _unit_headers(bytes(key_packet), length_size)
    if codec.name == "hevc":
        return any(16 <= header >> 1 & 0x3F <= 20 for header in headers)
    types = {header & 0x1F for header in headers}
    return 5 in types or 6 not in types


def _unit_headers(packet: bytes, length_size: int) -> list[int]:
    """The first byte of each of a packet's units, which in mp4 are preceded by their lengths."""
    headers = []
    place = 0
    while place + length_size < len(packet):
        headers.append(packet[place + length_size])
        place += length_size + int.from_bytes(packet[place : place + length_size], "big")
    return headers


def _until_damage(packets: Iterator[Any]) -> Iterator[Any]:
    """Packets up to the end of the file or its first damage."""
    import av

    try:
        yield from packets
    except av.FFmpegError:
        return


# ---------------------------------------------------------------------------------------------- decord


class DecordReader:
    """decord: rotates by itself; knows no AV1.

    It goes to a frame by its own count: to the key frame before it, then so many frames on. Where that leads elsewhere
    it says nothing, so it is only used where it is known to be right.
    """

    def __init__(self, opened: Opener) -> None:
        # By default decord retries 10,240 times at a damaged end, which takes minutes.
        os.environ.setdefault("DECORD_EOF_RETRY_MAX", "512")
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        container, stream = _open_stream(opened)
        try:
            packets = _read_packets(container, stream)
            # decord tells the size by a decoded frame alone, and would decode everything up to it twice.
            self._width, self._height = stream.width, stream.height
        finally:
            container.close()
        if packets.seek_faults:
            raise UnreadableSample(f"decord seeks wrongly with {', '.join(sorted(packets.seek_faults))}")
        # Frames that do not decode are by default filled in from their neighbours: any such one is an error here.
        self._reader = decord.VideoReader(opened(), ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
        self.times_s = self._checked_times(packets)

    def _checked_times(self, packets: _Packets) -> np.ndarray:
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
        self._opened = opened
        self._container, self._stream = _open_stream(opened)
        try:
            self._packets = _read_packets(self._container, self._stream)
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
        self._container, self._stream = _open_stream(self._opened)
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
        counting = self._pts is None or self._packets.in_decoding_order
        frames = self._by_count(wanted) if counting else self._by_time(wanted)
        return np.stack(_same_size(frames))[places]

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
    return np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90) % 4)


def _same_size(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Frames of a stream that changes its size in mid-stream, all at the size of the first."""
    from PIL import Image

    height, width = frames[0].shape[:2]
    return [
        f if f.shape[:2] == (height, width) else np.asarray(Image.fromarray(f).resize((width, height))) for f in frames
    ]


VIDEO_DECODERS: dict[str, Callable[[Opener], VideoReader]] = {"decord": DecordReader, "pyav": PyAVReader}
"""All decoders, in the order in which they are tried."""
