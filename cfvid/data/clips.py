"""Reading clips: the frames that a plan asks for, from what really decodes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from cfvid.data.clip_sampling import ShortClip, clip_frames, segment
from cfvid.errors import UnreadableSample
from cfvid.media.video_reader import Change, TruncatedVideo, VideoReader, unchanged

_FRAMES_AT_ONCE = 96
"""Up to so many frames, those of all clips are scaled to the first one's size where a video changes its own."""

Plan = Callable[[np.ndarray], list[float]]
"""Frame times of the sample in seconds, (F,) -> the starts of its clips, relative to the first of them."""


def read_clips(
    reader: VideoReader,
    plan: Plan,
    *,
    num_frames: int,
    frame_rate_hz: float,
    short_clip: ShortClip,
    start_s: float | None = None,
    end_s: float | None = None,
    change: Change = unchanged,
) -> list[np.ndarray]:
    """Decode the planned clips: uint8, (T, H, W, 3) each, of frames that are changed as they leave the decoder.

    A container that claims more frames than decode is planned again with those that do.

    Raises:
        UnreadableSample: when no frame decodes, or the video is too short for `short_clip="error"`.
    """
    num_decodable = len(reader.times_s)
    while num_decodable > 0:
        frames = segment(reader.times_s[:num_decodable], start_s, end_s)
        times_s = reader.times_s[frames]
        clips = [
            frames[
                clip_frames(
                    times_s,
                    start_s=start,
                    num_frames=num_frames,
                    frame_rate_hz=frame_rate_hz,
                    short_clip=short_clip,
                )
            ]
            for start in plan(times_s)
        ]
        try:
            return _read_all(reader, clips, change)
        except TruncatedVideo as error:
            # At least one frame fewer each time, so that this ends.
            num_decodable = min(error.num_decodable, num_decodable - 1)
    raise UnreadableSample("no frame decodes")


def _read_all(reader: VideoReader, clips: list[np.ndarray], change: Change) -> list[np.ndarray]:
    """All clips by one pass over the file, or each by its own where that could give other frames."""
    wanted = np.unique(np.concatenate(clips))
    is_long = len(wanted) > _FRAMES_AT_ONCE
    with contextlib.suppress(TruncatedVideo) if is_long else contextlib.nullcontext():
        frames_NHWC = reader.read(wanted.tolist(), change)
        if not is_long or reader.is_of_one_size:
            return [frames_NHWC[np.searchsorted(wanted, clip)] for clip in clips]
    return [reader.read(clip.tolist(), change) for clip in clips]
