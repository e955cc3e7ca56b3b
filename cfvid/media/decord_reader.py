"""Videos through decord."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from cfvid.errors import UnreadableSample
from cfvid.media.packets import Packets, open_stream, read_packets
from cfvid.media.source import Opener
from cfvid.media.video_reader import check_size


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
        check_size(self._width, self._height, len(wanted))
        return self._reader.get_batch(wanted.tolist()).asnumpy()[places]

    def close(self) -> None:
        del self._reader
