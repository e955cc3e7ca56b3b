"""PyAV's reader decodes what is needed and no more, and gives what decoding everything gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.media import numbers_of, write_video

from cfvid.media.pyav_reader import PyAVReader
from cfvid.media.source import opener
from cfvid.media.video_reader import Frames, unchanged

NUM_FRAMES = 60
WANTED = [3, 4, 5, 27, 50, 52]


@pytest.fixture(params=[{"gop": 10}, {"gop": 60}, {"gop": 10, "times_ms": [n * n + 20 * n for n in range(NUM_FRAMES)]}])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Of every four frames two are needed by no other one."""
    options = {"bf": "3", "b_strategy": "0", "sc_threshold": "0"}
    noise = np.random.default_rng(0).integers(0, 60, (NUM_FRAMES, 96, 128, 3))
    pictures = [(np.arange(128)[:, None] + number * 2 + noise[number]).astype(np.uint8) for number in range(NUM_FRAMES)]
    return write_video(tmp_path / "clip.mp4", pictures, options=options, **request.param)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The times of all frames that are decoded by way of key frames."""
    times: list[int] = []
    original = PyAVReader._decoded_run

    def counted(reader: PyAVReader, run: set[int]) -> Iterator[Any]:
        for frame in original(reader, run):
            times.append(frame.pts)
            yield frame

    monkeypatch.setattr(PyAVReader, "_decoded_run", counted)
    return times


def test_frames_are_bit_for_bit_those_of_decoding_everything(path: Path) -> None:
    with av.open(str(path)) as container:
        everything = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    reader = PyAVReader(opener(path))
    for wanted in (WANTED, [59], [0], list(range(NUM_FRAMES)), WANTED[::-1]):
        np.testing.assert_array_equal(reader.read(wanted), everything[wanted])
    reader.close()


def test_what_no_wanted_frame_needs_is_not_decoded(path: Path, decoded: list[int]) -> None:
    reader = PyAVReader(opener(path))
    reader.read(WANTED)
    assert len(decoded) == len(set(decoded)), "no frame twice"
    num_decoded = len(decoded)
    decoded.clear()
    reader.read(range(NUM_FRAMES))
    assert len(decoded) == NUM_FRAMES
    assert num_decoded < 0.75 * NUM_FRAMES
    reader.close()


def test_clips_far_apart_are_reached_by_their_key_frames(tmp_path: Path, decoded: list[int]) -> None:
    path = write_video(tmp_path / "clip.mp4", NUM_FRAMES, gop=10, size=(128, 96))
    reader = PyAVReader(opener(path))
    assert numbers_of(reader.read([2, 41])) == [2, 41]
    assert len(decoded) <= 3 + 2
    reader.close()


def test_damage_is_left_to_decoding_in_order(tmp_path: Path, decoded: list[int]) -> None:
    """What is shown of damaged frames may come from any frame before."""
    path = write_video(tmp_path / "clip.mp4", NUM_FRAMES, gop=60, size=(128, 96))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    for place in range(start + 3000, start + 3040):
        data[place] ^= 0x55
    path.write_bytes(data)
    reader, in_order = PyAVReader(opener(path)), PyAVReader(opener(path))
    expected = in_order._by_time(in_order._pts[[50]], Frames(1, unchanged))
    np.testing.assert_array_equal(reader.read([50]), expected.at(np.arange(1)))
    assert decoded, "it was tried"
    reader.close()
    in_order.close()
