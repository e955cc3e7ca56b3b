"""Which frames make a clip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfvid.data.clip_sampling import clip_frames, random_start, seconds_of, segment, uniform_starts
from cfvid.errors import UnreadableSample


@st.composite
def frame_times(draw: st.DrawFn) -> np.ndarray:
    """Ascending times of 1 to 60 frames, at a constant or variable rate, the first one 0."""
    gaps = draw(st.lists(st.floats(0.005, 2.0), min_size=0, max_size=59))
    if gaps and draw(st.booleans()):
        gaps = [gaps[0]] * len(gaps)
    return np.concatenate([[0.0], np.cumsum(gaps)])


rates_hz = st.floats(0.2, 200.0)
counts = st.integers(1, 40)
policies = st.sampled_from(["repeat", "wrap"])


@given(times_s=frame_times(), start=st.floats(0.0, 1.0), num_frames=counts, rate=rates_hz, policy=policies)
def test_indices_are_those_of_frames(
    times_s: np.ndarray, start: float, num_frames: int, rate: float, policy: str
) -> None:
    start_s = start * seconds_of(times_s)
    frames = clip_frames(times_s, start_s=start_s, num_frames=num_frames, frame_rate_hz=rate, short_clip=policy)  # type: ignore[arg-type]
    assert frames.shape == (num_frames,)
    assert frames.dtype == np.int64
    assert frames.min() >= 0
    assert frames.max() < len(times_s)


@given(times_s=frame_times(), start=st.floats(0.0, 1.0), num_frames=counts, rate=rates_hz)
def test_repeat_shows_what_is_on_screen_and_then_the_last_frame(
    times_s: np.ndarray, start: float, num_frames: int, rate: float
) -> None:
    start_s = start * seconds_of(times_s)
    frames = clip_frames(times_s, start_s=start_s, num_frames=num_frames, frame_rate_hz=rate, short_clip="repeat")
    assert (np.diff(frames) >= 0).all()
    for instant, frame in zip(start_s + np.arange(num_frames) / rate, frames, strict=True):
        # On screen: shown by then, and the next one not yet. Times are rounded to milliseconds or worse in files.
        assert times_s[frame] <= instant + 1e-3
        assert frame == len(times_s) - 1 or times_s[frame + 1] > instant


@given(times_s=frame_times(), num_frames=counts, rate=rates_hz)
def test_wrap_goes_round_and_round(times_s: np.ndarray, num_frames: int, rate: float) -> None:
    """The clip of a video is the clip of the video played in a loop."""
    loops = int(np.ceil(num_frames / rate / seconds_of(times_s))) + 1
    looped = np.concatenate([times_s + n * seconds_of(times_s) for n in range(loops)])
    options = {"num_frames": num_frames, "frame_rate_hz": rate, "start_s": 0.0}
    frames = clip_frames(times_s, short_clip="wrap", **options)  # type: ignore[arg-type]
    endless = clip_frames(looped, short_clip="repeat", **options) % len(times_s)  # type: ignore[arg-type]
    instants = np.arange(num_frames) / rate % seconds_of(times_s)
    # Instants within the rounding of a change of frames may fall on either side.
    edges = np.append(times_s, seconds_of(times_s))
    clear = np.abs(instants[:, None] - edges).min(axis=1) > 1e-3
    np.testing.assert_array_equal(frames[clear], endless[clear])


@given(times_s=frame_times(), num_frames=counts, rate=rates_hz)
def test_error_is_for_clips_that_do_not_fit(times_s: np.ndarray, num_frames: int, rate: float) -> None:
    needed_s = (num_frames - 1) / rate
    options = {"start_s": 0.0, "num_frames": num_frames, "frame_rate_hz": rate}
    if needed_s > seconds_of(times_s) + 1e-3:
        with pytest.raises(UnreadableSample, match="a clip needs"):
            clip_frames(times_s, short_clip="error", **options)  # type: ignore[arg-type]
    elif needed_s < seconds_of(times_s):
        expected = clip_frames(times_s, short_clip="repeat", **options)  # type: ignore[arg-type]
        np.testing.assert_array_equal(clip_frames(times_s, short_clip="error", **options), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rate_hz", "start_s", "expected"),
    [
        (10.0, 0.0, [0, 1, 2, 3, 4, 5]),  # the video's own
        (5.0, 0.0, [0, 2, 4, 6, 8, 9]),  # below it
        (20.0, 0.0, [0, 0, 1, 1, 2, 2]),  # above it
        (10.0, 0.35, [3, 4, 5, 6, 7, 8]),
        (7.0, 0.0, [0, 1, 2, 4, 5, 7]),  # 0, .143, .286, .429, .571, .714
    ],
)
def test_rates(rate_hz: float, start_s: float, expected: list[int]) -> None:
    times_s = np.arange(10) / 10
    frames = clip_frames(times_s, start_s=start_s, num_frames=6, frame_rate_hz=rate_hz, short_clip="repeat")
    assert frames.tolist() == expected


def test_times_rounded_to_milliseconds_lose_no_frame() -> None:
    """As Matroska keeps them: 33, 67, 100 for thirtieths of a second."""
    times_s = np.round(np.arange(90) / 30, 3)
    frames = clip_frames(times_s, start_s=0.0, num_frames=90, frame_rate_hz=30.0, short_clip="repeat")
    assert frames.tolist() == list(range(90))


def test_policies_past_the_end() -> None:
    times_s = np.arange(4) / 10
    options = {"start_s": 0.0, "num_frames": 7, "frame_rate_hz": 10.0}
    assert clip_frames(times_s, short_clip="repeat", **options).tolist() == [0, 1, 2, 3, 3, 3, 3]  # type: ignore[arg-type]
    assert clip_frames(times_s, short_clip="wrap", **options).tolist() == [0, 1, 2, 3, 0, 1, 2]  # type: ignore[arg-type]
    with pytest.raises(UnreadableSample, match="the video has 0.40 s, a clip needs 0.60 s"):
        clip_frames(times_s, short_clip="error", **options)  # type: ignore[arg-type]


def test_a_clip_of_exactly_the_videos_length_fits() -> None:
    times_s = np.arange(16) / 8
    frames = clip_frames(times_s, start_s=0.0, num_frames=16, frame_rate_hz=8.0, short_clip="error")
    assert frames.tolist() == list(range(16))


def test_indices_are_relative_to_the_first_time_given() -> None:
    """A part of a video is treated as a video."""
    times_s = np.arange(10) / 10
    part = clip_frames(times_s[4:], start_s=0.1, num_frames=3, frame_rate_hz=10.0, short_clip="repeat")
    assert part.tolist() == [1, 2, 3]


# ---------------------------------------------------------------------------------------------- segments


@given(times_s=frame_times(), bounds=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)))
def test_a_segment_holds_what_is_on_screen_in_it(times_s: np.ndarray, bounds: tuple[float, float]) -> None:
    start_s, end_s = sorted(bound * seconds_of(times_s) for bound in bounds)
    if end_s <= start_s:
        return
    frames = segment(times_s, start_s, end_s)
    assert (np.diff(frames) == 1).all()
    assert times_s[frames[0]] <= start_s
    assert frames[0] == len(times_s) - 1 or times_s[frames[0] + 1] > start_s
    assert times_s[frames[-1]] < end_s
    assert frames[-1] == len(times_s) - 1 or times_s[frames[-1] + 1] >= end_s


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [(None, None, (0, 9)), (0.25, None, (2, 9)), (None, 0.5, (0, 4)), (0.3, 0.4, (3, 3)), (0.3, 99.0, (3, 9))],
)
def test_bounds_of_segments(start_s: float | None, end_s: float | None, expected: tuple[int, int]) -> None:
    frames = segment(np.arange(10) / 10, start_s, end_s)
    assert (frames[0], frames[-1]) == expected


@pytest.mark.parametrize(("start_s", "end_s"), [(1.2, None), (5.0, 6.0), (None, 0.0)])
def test_segments_without_frames(start_s: float | None, end_s: float | None) -> None:
    with pytest.raises(UnreadableSample, match="no frame between"):
        segment(np.arange(10) / 10, start_s, end_s)


# ---------------------------------------------------------------------------------------------- starts


@given(video=st.floats(0.01, 1000.0), clip=st.floats(0.01, 30.0), seed=st.integers(0, 2**32))
def test_random_starts_leave_room_for_the_clip(video: float, clip: float, seed: int) -> None:
    start = random_start(video, clip, np.random.default_rng(seed))
    assert start >= 0
    assert start + clip <= max(video, clip) * (1 + 1e-12)
    assert start == random_start(video, clip, np.random.default_rng(seed))


def test_random_starts_are_uniform() -> None:
    rng = np.random.default_rng(0)
    starts = np.array([random_start(12.0, 2.0, rng) for _ in range(4000)])
    histogram, _ = np.histogram(starts, bins=10, range=(0, 10))
    assert histogram.min() > 330
    assert histogram.max() < 470


@given(video=st.floats(0.1, 1000.0), clip=st.floats(0.01, 30.0), num_clips=st.integers(1, 12))
def test_uniform_starts_are_even_and_fit(video: float, clip: float, num_clips: int) -> None:
    starts = uniform_starts(video, clip, num_clips)
    assert len(starts) == num_clips
    assert min(starts) >= 0
    assert max(starts) + clip <= max(video, clip) + 1e-6
    np.testing.assert_allclose(np.diff(starts), np.diff(starts)[:1].repeat(num_clips - 1), atol=1e-6)


@pytest.mark.parametrize("num_clips", [2, 3, 10])
@pytest.mark.parametrize(("video", "clip"), [(10.0, 2.0), (2.5, 2.0), (2.0, 2.0), (1.0, 2.0)])
def test_uniform_starts_reach_from_the_start_to_the_end(video: float, clip: float, num_clips: int) -> None:
    starts = uniform_starts(video, clip, num_clips)
    assert starts[0] == 0
    assert starts[-1] == pytest.approx(max(0.0, video - clip))
    assert np.diff(starts) == pytest.approx(starts[-1] / (num_clips - 1))


def test_one_uniform_clip_is_the_centre() -> None:
    assert uniform_starts(10.0, 2.0, 1) == [4.0]
    assert uniform_starts(1.0, 2.0, 1) == [0.0]


def test_length_of_videos() -> None:
    assert seconds_of(np.array([0.0])) == pytest.approx(0.04)
    assert seconds_of(np.arange(10) / 10) == pytest.approx(1.0)
    assert seconds_of(np.array([0.0, 0.1, 0.2, 5.0])) == pytest.approx(5.1)
