"""Videos through PyAV."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cfvid.errors import UnreadableSample
from cfvid.media.opening import decoded, open_packets
from cfvid.media.orientation import AS_STORED, of_frame
from cfvid.media.packets import open_stream
from cfvid.media.source import Opener
from cfvid.media.video_reader import Change, Frames, TruncatedVideo, VideoFacts, check_size, unchanged

_CLEAN_KEY_FRAMES = frozenset({"h264", "hevc", "mpeg4", "vp9"})
"""Codecs that give the same frames from a key frame on as from the start, where nothing else stands against it."""
_WORTH_A_SEEK = 8
"""Frames; skipping fewer saves less than a seek costs."""


class PyAVReader:
    """PyAV: reads nearly everything, trusts no metadata."""

    def __init__(self, opened: Opener) -> None:
        self._opened, self.is_of_one_size = opened, True
        self._turn: int | None = None
        self._orientation = AS_STORED
        self._container, self._stream, self._packets = open_packets(opened)
        try:
            self._pts = self._packets.pts
            self.times_s = self._packets.times_s if self._pts is not None else self._counted_times()
        except BaseException:
            self._container.close()
            raise

    @property
    def facts(self) -> VideoFacts:
        """See `VideoFile`."""
        return VideoFacts(self._packets.codec, self._orientation, tuple(self._packets.notes))

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
        return decoded(self._stream, self._packets.on_one_clock(self._container.demux(self._stream)))

    def _frames_from(self, pts: int) -> Iterator[Any]:
        """Decoded frames from the key frame at or before `pts`; nothing when seeking does not lead there."""
        import av

        if len(self._packets.shifts) > 1:
            return
        try:
            self._container.seek(pts, stream=self._stream, backward=True)
            packets = self._container.demux(self._stream)
            first = next(packets)
        except (av.FFmpegError, StopIteration):
            return
        # After a seek some edit lists are lost, and with them the right times.
        if first.pts != self._packets.pts_at.get(first.pos, first.pts):
            return
        yield from decoded(self._stream, itertools.chain([first], packets))

    def read(self, indices: Sequence[int], change: Change = unchanged) -> np.ndarray:
        wanted, places = np.unique(np.asarray(indices), return_inverse=True)
        check_size(self._stream.width, self._stream.height)
        frames = None
        if self._pts is not None and not self._packets.in_decoding_order:
            ways = (self._by_key_frames, self._by_a_seek, self._by_time)
            tried = (way(self._pts[wanted], Frames(len(wanted), change)) for way in ways)
            frames = next((found for found in tried if found is not None), None)
        if frames is None:
            frames = self._by_count(wanted, Frames(len(wanted), change))
        self.is_of_one_size &= frames.is_of_one_size
        return frames.at(places)

    def _shown(self, frame: Any) -> np.ndarray:
        """A PyAV frame as RGB, upright."""
        # Side data hold on to their frame until Python looks for such circles: asked for once, not for each frame.
        if frame.rotation != self._turn:
            self._turn, self._orientation = frame.rotation, of_frame(frame)
        # By default PyAV 17 starts a thread per core for each picture.
        return self._orientation.upright(frame.to_ndarray(format="rgb24", threads=1))

    def _by_key_frames(self, targets: np.ndarray, frames: Frames) -> Frames | None:
        """The frames of these times, decoding only what they need; None where that is not known to give the same."""
        import av

        codec = self._stream.codec_context
        if codec.name not in _CLEAN_KEY_FRAMES or self._packets.seek_faults or not self._packets.key_pts:
            return None
        taken: list[int] = []
        try:
            for run in self._runs(targets):
                for frame in self._decoded_run(run):
                    # What is wrong in a frame may depend on those that are skipped; fields may have their own packets.
                    if frame.is_corrupt or frame.interlaced_frame:
                        return None
                    if frame.pts in run:
                        taken.append(frame.pts)
                        frames.add(self._shown(frame))
        except av.FFmpegError:
            return None
        finally:
            codec.skip_frame = "DEFAULT"
        return frames if taken == targets.tolist() else None

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

    def _by_count(self, wanted: np.ndarray, frames: Frames) -> Frames:
        last = int(wanted[-1])
        keep = set(wanted.tolist())
        for index, frame in enumerate(itertools.islice(self._frames_from_start(), last + 1)):
            if index in keep:
                frames.add(self._shown(frame))
        if len(frames) < len(wanted):
            raise TruncatedVideo(int(wanted[len(frames)]) if len(frames) else 0)
        return frames

    def _by_a_seek(self, targets: np.ndarray, frames: Frames) -> Frames | None:
        """Find frames as `_by_time` does, but from the key frame before; None where the seek went wrong."""
        assert self._pts is not None
        in_order = self._frames_from(int(targets[0]))
        first = next(in_order, None)
        # Too far, or to times that the container did not tell of before, or to what needs the frames before it.
        known = self._pts[: np.searchsorted(self._pts, targets[0], side="right")]
        if first is None or first.pts not in known or first.is_corrupt:
            return None
        return self._on_screen(first, in_order, targets, frames)

    def _by_time(self, targets: np.ndarray, frames: Frames) -> Frames | None:
        """Find the frame on screen at each wanted time; None where the times in packets are not those of frames."""
        in_order = self._frames_from_start()
        first = next(in_order, None)
        if first is None:
            raise TruncatedVideo(0)
        return self._on_screen(first, in_order, targets, frames)

    def _on_screen(self, first: Any, later: Iterator[Any], targets: np.ndarray, frames: Frames) -> Frames | None:
        """The last decoded frame that is not later than each time; None where later frames have earlier times."""
        assert self._pts is not None
        shown, last_pts = first, first.pts
        for frame in later:
            pts = frame.pts if frame.pts is not None else self._next_pts(last_pts)
            if pts <= last_pts:
                if self._packets.is_each_time_once and pts in self._pts:
                    self._packets.in_decoding_order = True
                    return None
                continue
            while len(frames) < len(targets) and pts > targets[len(frames)]:
                frames.add(self._shown(shown))
            if len(frames) == len(targets):
                return frames
            shown, last_pts = frame, pts
        while len(frames) < len(targets) and last_pts >= targets[len(frames)]:
            frames.add(self._shown(shown))
        if len(frames) < len(targets):
            raise TruncatedVideo(int(np.searchsorted(self._pts, last_pts, side="right")))
        return frames

    def _next_pts(self, pts: int) -> int:
        """The time of a frame that has none: the packets' next one."""
        assert self._pts is not None
        return int(self._pts[min(int(np.searchsorted(self._pts, pts, side="right")), len(self._pts) - 1)])

    def close(self) -> None:
        self._container.close()
