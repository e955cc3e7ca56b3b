"""Videos through PyAV."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from cfvid.errors import UnreadableSample
from cfvid.media.packets import open_stream, read_packets
from cfvid.media.source import Opener
from cfvid.media.video_reader import TruncatedVideo, check_size

_CLEAN_KEY_FRAMES = frozenset({"h264", "hevc", "mpeg4", "vp9"})
"""Codecs that give the same frames from a key frame on as from the start, where nothing else stands against it."""
_WORTH_A_SEEK = 8
"""Frames; skipping fewer saves less than a seek costs."""


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
        check_size(self._stream.width, self._stream.height, len(wanted))
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
