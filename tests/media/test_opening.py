"""Recordings that were joined, or cut between key frames: all frames that decode, in order, and nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.decoders import each_video_decoder
from support.media import numbered_frame, numbers_of, write_video

from cfvid.errors import UnreadableSample
from cfvid.media.video import open_video

JOINED: dict[str, dict[str, Any]] = {
    "h264_b_frames.ts": {"options": {"bf": "2"}},
    "mpeg2.ts": {"codec": "mpeg2video", "rate": 25},
    "mpeg2.mpg": {"codec": "mpeg2video", "rate": 25},
    "h264.mkv": {},
}


def pictures(numbers: range) -> list[np.ndarray]:
    return [numbered_frame(number, width=128, height=96) for number in numbers]


@pytest.mark.parametrize("name", JOINED)
def test_times_that_start_again_go_on(name: str, tmp_path: Path) -> None:
    """`cat a.ts b.ts`: frames of the second with the times of the first were lost, half of `cat a.ts a.ts`."""
    first = write_video(tmp_path / f"1-{name}", pictures(range(30)), **JOINED[name])
    second = write_video(tmp_path / f"2-{name}", pictures(range(30, 55)), **JOINED[name])
    joined = tmp_path / name
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with open_video(joined, decoder="pyav") as reader:
        rate = JOINED[name].get("rate", 15)
        np.testing.assert_allclose(reader.times_s, np.arange(55) / rate, atol=2e-3)
        assert numbers_of(reader.read(range(55))) == list(range(55))
        assert numbers_of(reader.read([40, 3, 30, 29])) == [40, 3, 30, 29]
        assert reader.facts.notes == ("times start again at frame 30 and are read as going on",)


def test_the_same_recording_twice_and_once_more(tmp_path: Path) -> None:
    once = write_video(tmp_path / "once.ts", 8, size=(128, 96), options={"bf": "2"})
    thrice = tmp_path / "thrice.ts"
    thrice.write_bytes(once.read_bytes() * 3)
    with open_video(thrice, decoder="pyav") as reader:
        assert numbers_of(reader.read(range(len(reader.times_s)))) == 3 * list(range(8))
        assert len(reader.facts.notes) == 2


def test_a_clock_that_leaps_leaves_no_picture_standing_still(tmp_path: Path) -> None:
    """What was recorded an hour later follows at once, as ffmpeg has it."""
    first = write_video(tmp_path / "1.ts", pictures(range(20)), times_ms=[40 * n for n in range(20)])
    later = write_video(tmp_path / "2.ts", pictures(range(20, 40)), times_ms=[3_600_000 + 40 * n for n in range(20)])
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + later.read_bytes())
    with open_video(joined, decoder="pyav") as reader:
        assert reader.times_s[-1] == pytest.approx(39 * 0.04)
        assert numbers_of(reader.read(range(40))) == list(range(40))


@each_video_decoder
def test_other_decoders_refuse_what_starts_again(decoder: str, tmp_path: Path) -> None:
    once = write_video(tmp_path / "once.ts", 8, size=(128, 96), gop=60)
    twice = tmp_path / "twice.ts"
    twice.write_bytes(once.read_bytes() * 2)
    if decoder == "pyav":
        return
    with pytest.raises(UnreadableSample, match="times that start again"), open_video(twice, decoder=decoder):
        pass


LATE: dict[str, dict[str, Any]] = {
    "h264.ts": {},
    "h264_b_frames.ts": {"options": {"bf": "2"}},
    "mpeg2.ts": {"codec": "mpeg2video", "rate": 25, "options": {"bf": "2"}},
}


def starting_at(path: Path, number: int) -> Path:
    """The file without its packets before that one, but with what stands before them all."""
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    path.write_bytes(content[: places[0]] + content[places[number] :])
    return path


@pytest.mark.parametrize("name", LATE)
def test_a_recording_starts_at_its_first_frame_that_decodes(name: str, tmp_path: Path) -> None:
    """Cut between key frames: the first decodable picture stood still for the missing ones, as more frames."""
    path = starting_at(write_video(tmp_path / name, pictures(range(30)), gop=12, **LATE[name]), 5)
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with open_video(path, decoder="pyav") as reader:
        frames = reader.read(range(len(reader.times_s)))
        assert reader.times_s[0] == 0.0
        np.testing.assert_allclose(np.diff(reader.times_s), 1 / LATE[name].get("rate", 15), atol=2e-3)
        [note] = reader.facts.notes
    np.testing.assert_array_equal(frames, np.stack(expected))
    assert note.startswith("the first ")
    assert numbers_of(frames)[-1] == 29
    assert len(frames) < 25
    assert not any(np.array_equal(one, next_one) for one, next_one in itertools.pairwise(frames))


@each_video_decoder
def test_other_decoders_leave_a_late_start_to_pyav(decoder: str, tmp_path: Path) -> None:
    path = starting_at(write_video(tmp_path / "a.ts", pictures(range(30)), gop=12), 5)
    if decoder == "pyav":
        return
    with pytest.raises(UnreadableSample, match="a start between key frames"), open_video(path, decoder=decoder):
        pass
