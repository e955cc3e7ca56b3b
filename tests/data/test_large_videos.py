"""Large videos are read frame by frame: little memory, and the bytes of whole clips that are resized together.

A 2160p video at 10 clips x 8 frames, and a 1440p one at 10 x 32, could train and were unreadable when scored: all raw
frames of a sample were held before one was resized.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from support.decoders import each_video_decoder
from support.media import write_video

from cfvid.data import transforms
from cfvid.data.clip_sampling import clip_frames, random_start, seconds_of, uniform_starts
from cfvid.data.loader import Look, Request
from cfvid.errors import UnreadableSample
from cfvid.media import video_reader
from cfvid.media.video import open_video
from cfvid.modalities.frame import FrameInput, FrameModality
from cfvid.modalities.video import VideoInput, VideoModality

MANY = VideoInput(
    num_frames=16, frame_rate_hz=12.0, crop_size=64, resize=72, max_resize=90, score_clips=10, score_crops=3
)


@pytest.fixture(scope="module", params=[(320, 180), (99, 175)], ids=["wide", "high and odd"])
def noisy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 frames that are all different, more than are decoded at once."""
    width, height = request.param
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(150)]
    path = tmp_path_factory.mktemp("noisy") / "noisy.mp4"
    return write_video(path, frames, pixels="yuv444p", options={"preset": "ultrafast"})


def whole_clips(path: Path, starts: list[float], decoder: str) -> list[torch.Tensor]:
    """Each clip decoded by itself, unchanged: uint8, (T, C, H, W)."""
    with open_video(path, decoder=decoder) as reader:
        shown = [
            clip_frames(reader.times_s, start_s=start, num_frames=16, frame_rate_hz=12.0, short_clip="repeat")
            for start in starts
        ]
        return [transforms.to_tensor(reader.read(indices.tolist())) for indices in shown]


def seconds(path: Path) -> float:
    with open_video(path, decoder="pyav") as reader:
        return seconds_of(reader.times_s)


@each_video_decoder
@pytest.mark.parametrize("look", ["score", "extract"])
def test_views_are_those_of_clips_resized_whole(decoder: str, look: Look, noisy: Path) -> None:
    num_clips, num_crops = (10, 3) if look == "score" else (1, 1)
    starts = uniform_starts(seconds(noisy), MANY.clip_seconds, num_clips)
    expected = []
    for clip_TCHW in whole_clips(noisy, starts, decoder):
        resized = transforms.resize_short_side(clip_TCHW, MANY.resize)
        expected += [c.transpose(0, 1) for c in transforms.even_crops(resized, MANY.crop_size, num_crops=num_crops)]
    views = VideoModality(MANY).load(Request("a", str(noisy), None, None, look, 0), decoder)
    np.testing.assert_array_equal(views, torch.stack(expected).numpy())


@each_video_decoder
@pytest.mark.parametrize("seed", range(4))
def test_training_views_are_those_of_clips_resized_whole(decoder: str, seed: int, noisy: Path) -> None:
    rng = np.random.default_rng(seed)
    [clip_TCHW] = whole_clips(noisy, [random_start(seconds(noisy), MANY.clip_seconds, rng)], decoder)
    resized = transforms.resize_short_side(clip_TCHW, int(rng.integers(72, 91)))
    expected = transforms.random_flip(transforms.random_crop(resized, 64, rng=rng), rng=rng).transpose(0, 1)[None]
    views = VideoModality(MANY).load(Request("a", str(noisy), None, None, "train", seed), decoder)
    np.testing.assert_array_equal(views, expected.numpy())


@each_video_decoder
def test_previews_and_single_frames_too(decoder: str, noisy: Path) -> None:
    frame = FrameModality(FrameInput(crop_size=64, resize=72, score_frames=120))
    with open_video(noisy, decoder=decoder) as reader:
        times_s, everything = reader.times_s, transforms.to_tensor(reader.read(range(150)))
    small_TCHW = transforms.resize_short_side(everything, 72)
    shown = [int(np.searchsorted(times_s, s + 5e-4, "right")) - 1 for s in uniform_starts(seconds(noisy), 0.0, 120)]
    [expected] = transforms.even_crops(small_TCHW[np.clip(shown, 0, 149)], 64, num_crops=1)
    views = frame.load(Request("a", str(noisy), None, None, "score", 0), decoder)
    np.testing.assert_array_equal(views, expected.numpy())
    strip = frame.load(Request("a", str(noisy), None, None, "preview", 0), decoder)
    first = transforms.resize_short_side(everything[:1], 96)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(strip[:, : first.shape[1]], first)


def test_all_clips_are_served_by_one_pass(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    read = VideoModality.load.__globals__["read_clips"].__globals__["_read_all"]

    def counted(reader: video_reader.VideoReader, clips: list[np.ndarray], change: video_reader.Change) -> list:
        original = reader.read
        monkeypatch.setattr(reader, "read", lambda *a: (passes.append(len(a[0])), original(*a))[1])
        return read(reader, clips, change)

    monkeypatch.setattr("cfvid.data.clips._read_all", counted)
    VideoModality(MANY).load(Request("a", str(noisy), None, None, "score", 0), "pyav")
    assert len(passes) == 1
    assert passes[0] > 96


def test_what_is_asked_for_is_limited_as_it_is_kept(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_video(noisy, decoder="pyav") as reader:
        size = reader.read([0]).nbytes
        monkeypatch.setattr(video_reader, "MAX_CLIP_BYTES", 3 * size)
        with pytest.raises(UnreadableSample, match="4 frames of .* exceed the memory limit"):
            reader.read(range(4))
        assert reader.read(range(40), lambda frames: frames[:, :8, :8].copy()).shape == (40, 8, 8, 3)


@pytest.fixture(scope="module")
def uhd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames of 2160p: 600 MB when decoded, and twice as much when they are put together."""
    frames = [np.full((2160, 3840, 3), 80 * n, np.uint8) for n in range(2)] * 12
    return write_video(tmp_path_factory.mktemp("uhd") / "uhd.mp4", frames, options={"preset": "ultrafast", "crf": "40"})


_PEAK = """
import resource, sys
import torch
from cfvid.data.loader import Request
from cfvid.data.probe import probe
from cfvid.modalities.video import VideoInput, VideoModality

torch.set_num_threads(1)
path, decoder = sys.argv[1:]
modality = VideoModality(VideoInput(num_frames=16, frame_rate_hz=15.0, crop_size=64, resize=72, extract_clips=4))

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before = peak_mb()
for look in ("train", "extract", "score"):
    modality.load(Request("a", path, None, None, look, 0), decoder)
    print(look, peak_mb() - before)
probe(Request("a", path, None, None, "score", 0), decoder)
print("check", peak_mb() - before)
"""


@each_video_decoder
def test_2160p_takes_less_than_half_a_gigabyte(decoder: str, uhd: Path) -> None:
    """Beyond what the program itself takes: of every look at a video, and of `cfvid data check`."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_PEAK), str(uhd), decoder],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    growth_mb = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
    assert set(growth_mb) == {"train", "extract", "score", "check"}
    assert max(growth_mb.values()) < 500, growth_mb
