"""Videos whose frames are made small as they are decoded, and kept in a cache of small frames where there is one.

With a cache, the first training look at a video decodes all of it; later looks of any kind read their frames from the
cache. Kept or decoded, a frame has the same bytes: each is resized by itself, right after the decoder.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import numpy as np

from cfvid.data import transforms
from cfvid.data.clip_sampling import segment
from cfvid.data.loader import Request
from cfvid.media.clip_cache import Entry, NotKept, Place
from cfvid.media.video import open_video
from cfvid.media.video_reader import Change, Frames, VideoReader, in_parts, unchanged

_BLOCK_BYTES = 128 * 2**20
"""Frames are decoded so many at a time, before they are made small, while a whole video is decoded."""


@contextlib.contextmanager
def open_small(request: Request, *, decoder: str, short_side: int | None) -> Iterator[VideoReader]:
    """Open a sample's video; with `short_side`, frames whose shorter side is larger are scaled to it.

    Raises:
        UnreadableSample: as `open_video` does, when it is not in the cache.
    """
    if short_side is None:
        with open_video(request.media, decoder=decoder) as reader:
            yield reader
        return
    small = _SmallReader(request, decoder, short_side)
    try:
        yield small
    finally:
        small.close()


class _SmallReader:
    """See `VideoReader`."""

    def __init__(self, request: Request, decoder: str, short_side: int) -> None:
        self._request, self._decoder, self._short_side = request, decoder, short_side
        self._stack = contextlib.ExitStack()
        part = [request.start_s, request.end_s]
        self._place: Place | None = None
        if request.cache is not None:
            self._place = request.cache.place_of(request.media, decoder=decoder, short_side=short_side, part=part)
        self._entry = self._place.open() if self._place else None
        if self._entry is None:
            self._entry = self._filled()
        self._reader = self._opened() if self._entry is None else None
        source = self._entry or self._reader
        assert source is not None
        self.times_s: np.ndarray = source.times_s

    def read(self, indices: Sequence[int], change: Change = unchanged) -> np.ndarray:
        """See `VideoReader`."""
        frames = self._kept(indices, change)
        if frames is None and self._entry is not None and self._place is not None:
            self._place.discard()
            self._entry = self._filled()
            frames = self._kept(indices, change)
        if frames is not None:
            return frames
        self._entry = None
        if self._reader is None:
            self._reader = self._opened()
        return self._reader.read(indices, lambda frames: change(self._small(frames)))

    def _kept(self, indices: Sequence[int], change: Change) -> np.ndarray | None:
        """Read the frames from the cache's entry; None where there is no entry, or a frame of it is damaged."""
        if self._entry is None:
            return None
        wanted, places = np.unique(np.asarray(indices), return_inverse=True)
        frames = Frames(len(wanted), change)
        for part in in_parts(wanted, frame_bytes=self._entry.frame_bytes):
            several = self._entry.read(part.tolist())
            if several is None:
                return None
            frames.add_all(several)
        return frames.at(places)

    def _small(self, frames_NHWC: np.ndarray) -> np.ndarray:
        """Smaller ones stay as they are."""
        if min(frames_NHWC.shape[1:3]) <= self._short_side:
            return np.ascontiguousarray(frames_NHWC)
        return np.ascontiguousarray(transforms.with_short_side(frames_NHWC, self._short_side))

    @property
    def is_of_one_size(self) -> bool:
        """See `VideoReader`."""
        return self._reader is None or self._reader.is_of_one_size

    def close(self) -> None:
        """Release the file."""
        self._stack.close()

    def _opened(self) -> VideoReader:
        return self._stack.enter_context(open_video(self._request.media, decoder=self._decoder))

    def _filled(self) -> Entry | None:
        """The entry, made by decoding the whole sample; None where it is not to be made, or cannot be."""
        if self._place is None or self._request.look != "train":  # other looks see a sample once
            return None
        with self._place.claimed() as is_ours:
            if not is_ours:
                return None
            try:
                with open_video(self._request.media, decoder=self._decoder) as reader:
                    frames = segment(reader.times_s, self._request.start_s, self._request.end_s)
                    self._place.write(reader.times_s, int(frames[0]), len(frames), self._blocks(reader, frames))
            except NotKept as error:
                if error.reason is not None:
                    self._place.refuse(error.reason)
            except Exception as error:  # what can be read of it is told by the clip that is asked for
                self._place.refuse(str(error))
        return self._place.open()

    def _blocks(self, reader: VideoReader, frames: np.ndarray) -> Iterator[np.ndarray]:
        assert self._request.cache is not None
        start, at_once, done = time.monotonic(), 1, 0
        raw_bytes = 0

        def small(raw: np.ndarray) -> np.ndarray:
            nonlocal raw_bytes
            raw_bytes = raw[0].nbytes
            return self._small(raw)

        while done < len(frames):
            block = reader.read(frames[done : done + at_once].tolist(), small)
            if not reader.is_of_one_size:
                raise NotKept("frames differ in size")
            done += len(block)
            yield block
            at_once = max(1, _BLOCK_BYTES // raw_bytes)
            seconds = time.monotonic() - start
            # A guess for what is left, from the second block on: the first one is a single frame.
            expected = seconds * len(frames) / done if done > 1 else seconds
            if done < len(frames) and expected > self._request.cache.fill_s:
                raise NotKept(f"decoding all of it takes more than {self._request.cache.fill_s:g} s")
