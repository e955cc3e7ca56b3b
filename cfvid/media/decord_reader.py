"""Videos through decord."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from cfvid.errors import UnreadableSample
from cfvid.media.opening import open_packets, orientation_of
from cfvid.media.orientation import AS_STORED, Orientation
from cfvid.media.packets import Packets
from cfvid.media.source import Opener
from cfvid.media.video_reader import Change, Frames, VideoFacts, check_size, in_parts, unchanged


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
        container, stream, packets = open_packets(opened)
        try:
            if packets.seek_faults:
                raise UnreadableSample(f"decord seeks wrongly with {', '.join(sorted(packets.seek_faults))}")
            # decord tells the size by a decoded frame alone, and would decode everything up to it twice.
            self._width, self._height = stream.width, stream.height
            orientation = orientation_of(stream, packets)
        finally:
            container.close()
        self.facts = VideoFacts(packets.codec, orientation, tuple(packets.notes))
        self._mirror = _mirror(orientation, packets)
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

    def read(self, indices: Sequence[int], change: Change = unchanged) -> np.ndarray:
        wanted, places = np.unique(np.asarray(indices), return_inverse=True)
        check_size(self._width, self._height)
        frames = Frames(len(wanted), change)
        for part in in_parts(wanted, frame_bytes=3 * self._width * self._height):
            frames.add_all(self._shown(self._reader.get_batch(part.tolist()).asnumpy()))
        return frames.at(places)

    def _shown(self, frames_NHWC: np.ndarray) -> np.ndarray:
        is_turned = frames_NHWC.shape[1:3] == (self._width, self._height)
        if self.facts.orientation.exchanged and not is_turned:
            raise UnreadableSample(f"decord does not see that pictures are {self.facts.orientation.name}")
        return frames_NHWC if self._mirror == AS_STORED else np.stack([*map(self._mirror.upright, frames_NHWC)])

    def close(self) -> None:
        del self._reader


def _mirror(orientation: Orientation, packets: Packets) -> Orientation:
    """What is left to be done to decord's frames: it turns by what MOV and MP4 say, and never mirrors."""
    if orientation != AS_STORED and not packets.format.startswith("mov,"):
        raise UnreadableSample(f"decord does not turn pictures in {packets.format}")
    if orientation.is_turn:
        return AS_STORED
    return Orientation(mirrored_x=orientation.exchanged, mirrored_y=not orientation.exchanged)
