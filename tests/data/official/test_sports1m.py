"""Sports-1M: several labels per video, two forms of its partitions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.official import VIDEOS, add_text, add_videos, decoded, reading, rows

from cfvid.data.official.sports1m import read_sports1m
from cfvid.errors import DataError

read = reading(read_sports1m, suffixes=VIDEOS)
URL = "https://www.youtube.com/watch?v="
EXPECTED = {
    "-aaaaaaaaaa": (("boomerang", "curling (ice) ü"), "train"),
    "b_bbbbbbbbb": (("frisbee",), "train"),
    "ccccccccccc": (("boomerang",), "val"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_text(tmp_path, "labels.txt", "boomerang", "frisbee", "curling (ice) ü", end="\r\n")
    add_videos(tmp_path, "00/-aaaaaaaaaa.mp4", "00/b_bbbbbbbbb.MP4", "01/ccccccccccc.mp4", "extra.mp4")
    return tmp_path


def test_text(root: Path) -> None:
    twice = [f"{URL}-aaaaaaaaaa 2", f"{URL}-aaaaaaaaaa 0,2", f"{URL}ccccccccccc 1"]
    old = "http://www.youtube.com/watch?feature=x&v=b_bbbbbbbbb&t=1 1"
    add_text(root, "original/train_partition.txt", *twice, "", old, start="\ufeff", end="\r\n")
    add_text(root, "original/test_partition.txt", f"{URL}ccccccccccc 0", f"{URL}gone0000000 0")
    prepared = read(root)
    assert rows(prepared) == EXPECTED
    assert (prepared.not_found, prepared.not_listed) == (("gone0000000.mp4",), ("extra.mp4",))
    assert decoded(prepared.manifest, modality="video").shape == (1, 3, 4, 32, 32)


def test_json(root: Path) -> None:
    train = [
        {"id": "-aaaaaaaaaa", "label487": [2, 0], "label480": [1], "source487": "train"},
        {"id": "b_bbbbbbbbb", "label487": [1]},
    ]
    add_text(root, "sports1m_train.json", json.dumps(train))
    add_text(root, "sports1m_test.json", json.dumps([{"id": "ccccccccccc", "label487": [0]}]))
    assert rows(read(root)) == EXPECTED
    for faulty in ({"id": "../x", "label487": [0]}, {"id": "x", "label487": [3]}, {"id": "x", "label487": []}, {}):
        add_text(root, "sports1m_train.json", json.dumps([*train, faulty]))
        with pytest.raises(DataError, match="sports1m_train.json: entry 3"):
            read(root)


@pytest.mark.parametrize("line", [f"{URL}x 3", f"{URL}x 0,", f"{URL}x", "x 0", f"{URL}../x 0", f"{URL}x -1"])
def test_faulty_lines(line: str, root: Path) -> None:
    add_text(root, "original/test_partition.txt", f"{URL}ccccccccccc 0")
    add_text(root, "original/train_partition.txt", f"{URL}-aaaaaaaaaa 2", line)
    with pytest.raises(DataError, match="train_partition.txt:2: not URL"):
        read(root)
