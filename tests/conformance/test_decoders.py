"""What every video decoder promises, on clips whose frames say their own numbers."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.decoders import each_video_decoder
from support.media import corners_of, corners_picture, numbers_of, write_video
from support.tars import write_tar

from cfvid.errors import UnreadableSample
from cfvid.media.source import Member
from cfvid.media.video import open_video

pytestmark = each_video_decoder

VFR_MS = [0, 40, 80, 400, 410, 420, 1000, 2500, *(2500 + 33 * i for i in range(1, 23))]
B_FRAMES = {"bf": "3", "b_strategy": "0"}
X265 = "log-level=none:keyint=9:min-keyint=9:bframes=3:b-adapt=0"

# Each is a way in which frames come out of order, late or are hard to reach.
KINDS: dict[str, dict] = {
    "plain.mp4": {},
    "b_frames.mp4": {"options": B_FRAMES, "gop": 9},
    "b_frames.mov": {"options": B_FRAMES},
    "open_groups.mp4": {"options": {**B_FRAMES, "x264-params": "open-gop=1:keyint=10:min-keyint=10"}},
    "intra_refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}},
    "one_key_frame.mp4": {"gop": 60},
    "all_key_frames.mp4": {"gop": 1},
    "variable_rate.mp4": {"times_ms": VFR_MS},
    "variable_rate.mkv": {"times_ms": VFR_MS},
    "cut_without_encoding.mp4": {"hide_first": 7},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": f"{X265}:open-gop=0"}},
    "hevc_open.mp4": {"codec": "libx265", "options": {"x265-params": f"{X265}:open-gop=1"}},
    "mpeg4_b_frames.mp4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg4_b_frames.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "h264_b_frames.avi": {"options": {"bf": "2"}},
    "h264.mkv": {},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "h264.flv": {},
    "mpeg2.mpg": {"codec": "mpeg2video", "rate": 25},
    "mpeg2.ts": {"codec": "mpeg2video", "rate": 25},
    "h264_b_frames.ts": {"options": {"bf": "2"}},
    "wmv2.wmv": {"codec": "wmv2"},
}
EASY = {
    "plain.mp4",
    "b_frames.mp4",
    "b_frames.mov",
    "one_key_frame.mp4",
    "all_key_frames.mp4",
    "variable_rate.mp4",
    "hevc.mp4",
}
READ_BY = {
    "decord": EASY,
    "pyav": set(KINDS),
    "torchcodec": EASY | {"variable_rate.mkv", "h264.mkv", "vp9.webm", "h264.flv", "wmv2.wmv"},
}
"""In the others a decoder would give wrong frames, so it has to refuse."""


@dataclass(frozen=True)
class Clip:
    name: str
    path: Path
    numbers: list[int]
    """Of its frames, in order."""
    times_s: np.ndarray

    def refused_by(self, decoder: str) -> bool:
        """Whether the decoder refuses it, and is right to do so."""
        if self.name in READ_BY[decoder]:
            return False
        with pytest.raises(UnreadableSample), open_video(self.path, decoder=decoder):
            pass
        return True


@pytest.fixture(scope="module", params=KINDS)
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """A clip of 30 numbered frames."""
    name, options = request.param, KINDS[request.param]
    path = write_video(tmp_path_factory.mktemp("clips") / name, 30, size=(128, 96), **options)
    numbers = list(range(options.get("hide_first", 0), 30))
    times_s = np.array(options.get("times_ms", np.arange(30) * 1000 / options.get("rate", 15)))[numbers] / 1000
    return Clip(name, path, numbers, times_s - times_s[0])


def test_times_are_those_of_the_container(decoder: str, clip: Clip) -> None:
    if clip.refused_by(decoder):
        return
    with open_video(clip.path, decoder=decoder) as reader:
        assert reader.times_s.dtype == np.float64
        assert reader.times_s[0] == 0.0
        assert (np.diff(reader.times_s) > 0).all()
        # Matroska, FLV and WMV round to milliseconds.
        np.testing.assert_allclose(reader.times_s, clip.times_s, atol=2e-3)


def test_frames_are_exact_in_any_order_and_with_repeats(decoder: str, clip: Clip) -> None:
    if clip.refused_by(decoder):
        return
    count = len(clip.numbers)
    rng = np.random.default_rng(0)
    orders = [[count - 1], list(range(count)), [0], [17, 3, 3, 0, 17], rng.permutation(count).tolist(), [20, 22, 21]]
    with open_video(clip.path, decoder=decoder) as reader:
        for order in orders:
            frames = reader.read(order)
            assert frames.shape == (len(order), 96, 128, 3)
            assert frames.dtype == np.uint8
            assert numbers_of(frames) == [clip.numbers[index] for index in order]


def test_the_first_frame_read_is_exact_wherever_it_is(decoder: str, clip: Clip) -> None:
    """Seeking with a decoder that has decoded nothing yet is where most go wrong."""
    if clip.refused_by(decoder):
        return
    for index, number in enumerate(clip.numbers):
        with open_video(clip.path, decoder=decoder) as reader:
            assert numbers_of(reader.read([index])) == [number]


def test_frames_do_not_depend_on_what_was_read_before(decoder: str, clip: Clip) -> None:
    if clip.refused_by(decoder):
        return
    with open_video(clip.path, decoder=decoder) as reader:
        together = reader.read(range(len(clip.numbers)))
        for index in (19, 5, 22, 0, 13):
            assert np.abs(reader.read([index])[0].astype(int) - together[index]).mean() < 2.0


def test_decoders_agree_on_pixels(decoder: str, clip: Clip) -> None:
    if clip.refused_by(decoder):
        return
    with open_video(clip.path, decoder=decoder) as reader, open_video(clip.path, decoder="pyav") as other:
        ours, theirs = reader.read([0, 7, 22]), other.read([0, 7, 22])
    # They link different versions of FFmpeg's colour conversion.
    assert np.abs(ours.astype(int) - theirs).mean() < 2.0


def test_a_member_of_a_shard_reads_as_its_file(decoder: str, clip: Clip) -> None:
    content = clip.path.read_bytes()
    shard = write_tar(clip.path.with_name("shard.tar"), {"before.txt": b"x", clip.name: content})
    member = Member(str(shard), clip.name, 3 * 512, len(content))
    if clip.refused_by(decoder):
        with pytest.raises(UnreadableSample), open_video(member, decoder=decoder):
            pass
        return
    with open_video(clip.path, decoder=decoder) as file, open_video(member, decoder=decoder) as reader:
        np.testing.assert_array_equal(reader.times_s, file.times_s)
        for order in ([17, 3, 3, 0, 20], range(len(clip.numbers)), [22]):
            np.testing.assert_array_equal(reader.read(order), file.read(order))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_pictures_are_upright(decoder: str, degrees: int, tmp_path: Path) -> None:
    """What is stored is the upright picture turned back by what the player is told to turn it by."""
    stored = np.rot90(corners_picture(), k=degrees // 90)
    path = write_video(tmp_path / "turned.mp4", [np.ascontiguousarray(stored)] * 3, rotation=degrees)
    with open_video(path, decoder=decoder) as reader:
        frames = reader.read([0, 2])
    assert frames.shape == (2, 64, 96, 3)
    assert corners_of(frames[0]).tolist() == [[0, 1], [2, 3]]
    assert corners_of(frames[1]).tolist() == [[0, 1], [2, 3]]


MATRICES = {
    "as stored": (1, 0, 0, 1),
    "mirrored left to right": (-1, 0, 0, 1),
    "turned by 180 degrees": (-1, 0, 0, -1),
    "mirrored top to bottom": (1, 0, 0, -1),
    "mirrored along the diagonal from the top left": (0, 1, 1, 0),
    "turned clockwise by 90 degrees": (0, 1, -1, 0),
    "mirrored along the diagonal from the top right": (0, -1, -1, 0),
    "turned counter-clockwise by 90 degrees": (0, -1, 1, 0),
}
MIRRORS = {name for name in MATRICES if "mirrored" in name}


@pytest.mark.parametrize("name", MATRICES)
def test_all_eight_display_matrices_are_followed(decoder: str, name: str, tmp_path: Path) -> None:
    """Mirrored ones were shown as rotations, by every decoder alike. The expectation is the matrix' own arithmetic."""
    a, b, c, d = MATRICES[name]
    expected = np.empty((2, 2), int)
    for row, column in np.ndindex(2, 2):
        x, y = 2 * column - 1, 2 * row - 1  # from the middle, y downwards
        expected[(b * x + d * y + 1) // 2, (a * x + c * y + 1) // 2] = 2 * row + column
    path = write_video(tmp_path / "shown.mp4", [corners_picture()] * 3, matrix=MATRICES[name])
    if decoder == "torchcodec" and name in MIRRORS:
        with pytest.raises(UnreadableSample, match=name), open_video(path, decoder=decoder):
            pass
        return
    with open_video(path, decoder=decoder) as reader:
        frames = reader.read([0, 2])
        assert reader.facts.orientation.name == name
    for frame in frames:
        assert frame.shape == ((64, 96, 3) if a else (96, 64, 3))
        assert corners_of(frame).tolist() == expected.tolist()


def test_one_frame(decoder: str, tmp_path: Path) -> None:
    with open_video(write_video(tmp_path / "one.mp4", 1), decoder=decoder) as reader:
        assert reader.times_s.tolist() == [0.0]
        assert numbers_of(reader.read([0, 0])) == [0, 0]


@pytest.mark.parametrize(
    ("size", "codec", "pixels", "suffix"),
    [
        ((97, 65), "libx264", "yuv444p", ".mp4"),
        ((99, 63), "mjpeg", "yuvj420p", ".avi"),
        ((98, 50), "ffv1", "bgr0", ".mkv"),
    ],
)
def test_odd_sizes(decoder: str, size: tuple[int, int], codec: str, pixels: str, suffix: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"odd{suffix}", 8, size=size, codec=codec, pixels=pixels)
    try:
        with open_video(path, decoder=decoder) as reader:
            frames = reader.read([7, 2])
    except UnreadableSample:
        assert decoder != "pyav"  # the one that has to read everything
        return
    assert frames.shape == (2, size[1], size[0], 3)
    assert numbers_of(frames) == [7, 2]


@pytest.mark.parametrize(
    "contents",
    {
        "missing": None,
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\n",
        "zeros": bytes(50_000),
    }.items(),
    ids=lambda item: item[0],
)
def test_faults_are_unreadable_samples(decoder: str, contents: tuple[str, bytes | None], tmp_path: Path) -> None:
    path = tmp_path / "named like ünïcode.mp4"
    if contents[1] is not None:
        path.write_bytes(contents[1])
    with pytest.raises(UnreadableSample) as caught, open_video(path, decoder=decoder):
        pass
    assert str(tmp_path) not in str(caught.value), "reasons are counted: they must not name the file"
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), UnreadableSample)


def test_unicode_and_spaces_in_paths(decoder: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "naïve 视频 %d [1].mp4", 3)
    with open_video(path, decoder=decoder) as reader:
        assert numbers_of(reader.read([2, 1])) == [2, 1]
