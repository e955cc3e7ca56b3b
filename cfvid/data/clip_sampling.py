"""Which frames make a clip: pure functions of frame times, with times in seconds.

A clip is `num_frames` instants spaced by the frame rate asked for; at each instant the frame on screen is taken.
Variable frame rates, odd rates and rates above the video's own need no special case.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cfvid.errors import UnreadableSample

ShortClip = Literal["repeat", "wrap", "error"]


def random_start(video_seconds: float, clip_seconds: float, rng: np.random.Generator) -> float:
    """A clip's start, uniform over all that fit; 0 for videos shorter than the clip.

    pytorchvideo's RandomClipSampler draws from Python's global random state, which cannot be resumed per sample.
    """
    return float(rng.uniform(0.0, max(0.0, video_seconds - clip_seconds)))


def uniform_starts(video_seconds: float, clip_seconds: float, num_clips: int) -> list[float]:
    """The starts of `num_clips` evenly spread clips, the first at the start and the last at the end of the video.

    One clip is the centre one. pytorchvideo's ConstantClipsPerVideoSampler divides by `num_clips` instead of by the
    gaps between them: two clips of a long video would both lie in its first half.
    """
    last = max(0.0, video_seconds - clip_seconds)
    return [last / 2] if num_clips == 1 else np.linspace(0.0, last, num_clips).tolist()


def segment(times_s: np.ndarray, start_s: float | None, end_s: float | None) -> np.ndarray:
    """Indices of the frames on screen between two times: int64, (n,), ascending.

    Raises:
        UnreadableSample: when no frame lies there.
    """
    first = 0 if start_s is None else max(0, int(np.searchsorted(times_s, start_s, side="right")) - 1)
    last = len(times_s) if end_s is None else int(np.searchsorted(times_s, end_s, side="left"))
    if (start_s is not None and (start_s > times_s[-1] + _frame_seconds(times_s))) or last <= first:
        raise UnreadableSample(f"no frame between {start_s} s and {end_s} s; the video has {times_s[-1]:.2f} s")
    return np.arange(first, last)


def seconds_of(times_s: np.ndarray) -> float:
    """How long these frames are on screen, the last one for as long as the median frame."""
    return float(times_s[-1] - times_s[0]) + _frame_seconds(times_s)


def _frame_seconds(times_s: np.ndarray) -> float:
    return float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1 / 25


def clip_frames(
    times_s: np.ndarray, *, start_s: float, num_frames: int, frame_rate_hz: float, short_clip: ShortClip
) -> np.ndarray:
    """Which frame is on screen at each of the clip's instants.

    Args:
        times_s: float64, (F,), presentation times, ascending.
        start_s: the clip's start, relative to `times_s[0]`.
        num_frames: instants in the clip.
        frame_rate_hz: instants per second.
        short_clip: past the video's end, `repeat` the last frame, `wrap` around to the first, or `error`.

    Returns:
        int64, (num_frames,), indices into `times_s`.

    Raises:
        UnreadableSample: with `short_clip="error"`, when the video is too short.
    """
    instants = start_s + np.arange(num_frames) / frame_rate_hz
    duration = seconds_of(times_s)
    # Half a millisecond: container times are rounded to their time base.
    tolerance = 5e-4
    if short_clip == "error" and instants[-1] > duration + tolerance:
        raise UnreadableSample(f"the video has {duration:.2f} s, a clip needs {instants[-1]:.2f} s")
    if short_clip == "wrap":
        instants = np.where(instants < duration - tolerance, instants, instants % duration)
    shown = np.searchsorted(times_s - times_s[0], instants + tolerance, side="right") - 1
    return np.clip(shown, 0, len(times_s) - 1)
