"""Something-Something V1 and V2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.official import VIDEOS, add_images, add_text, add_videos, decoded, reading, rows

from cfvid.data.official.something_v1 import read_something_v1
from cfvid.data.official.something_v2 import read_something_v2
from cfvid.errors import DataError

read_v1, read_v2 = (reading(reader, suffixes=VIDEOS) for reader in (read_something_v1, read_something_v2))
HOLDING = "Holding something next to something"
V1 = "something-something-v1"


def write_v2(root: Path, prefix: str, train: list[Any]) -> None:
    lists = {
        "labels": {HOLDING: "0", "Pushing [x]": "1"},
        "train": train,
        "validation": [{"id": "3", "template": "Holding [something] next to [something]", "label": "holding a cup"}],
        "test": [{"id": "4"}],
    }
    for name, value in lists.items():
        add_text(root, f"labels/{prefix}{name}.json", json.dumps(value), start="\ufeff")


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_v2(prefix: str, tmp_path: Path) -> None:
    entry = {"template": "Holding [something] next to [something]", "placeholders": ["a", "b"]}
    write_v2(tmp_path, prefix, [{"id": "1", **entry}, {"id": "2", **entry}])
    add_videos(tmp_path, *(f"20bn-something-something-v2/{name}" for name in ("1.webm", "3.WEBM", "4.mp4", "9.webm")))
    prepared = read_v2(tmp_path)
    assert rows(prepared) == {"1": ((HOLDING,), "train"), "3": ((HOLDING,), "val"), "4": ((), "test")}
    assert prepared.not_found == ("20bn-something-something-v2/2.webm",)
    assert prepared.not_listed == ("20bn-something-something-v2/9.webm",)
    assert decoded(prepared.manifest, modality="video").shape == (1, 3, 4, 32, 32)


@pytest.mark.parametrize(
    "entry", [{"id": "1"}, {"id": "../1", "template": HOLDING}, {"id": 1, "template": HOLDING}, {"template": "Other"}]
)
def test_v2_faulty_entries(entry: dict[str, Any], tmp_path: Path) -> None:
    write_v2(tmp_path, "", [{"id": "1", "template": HOLDING}, entry])
    with pytest.raises(DataError, match=r"train.json: entry 2 is not a video"):
        read_v2(tmp_path)


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    add_text(tmp_path, f"{V1}-labels.csv", HOLDING, "Pushing something; gently", end="\r\n")
    add_text(tmp_path, f"{V1}-train.csv", f"1;{HOLDING}", "", "2;Pushing something; gently", start="\ufeff", end="\r\n")
    add_text(tmp_path, f"{V1}-validation.csv", f"3;{HOLDING}")
    add_text(tmp_path, f"{V1}-test.csv", "4", "5")
    return tmp_path


def test_v1_of_videos(v1: Path) -> None:
    add_videos(v1, "videos/1.webm", "videos/2.mp4", "videos/3.mp4", "videos/4.mp4", "videos/99.mp4")
    prepared = read_v1(v1)
    assert rows(prepared) == {
        "1": ((HOLDING,), "train"),
        "2": (("Pushing something; gently",), "train"),
        "3": ((HOLDING,), "val"),
        "4": ((), "test"),
    }
    assert (prepared.not_found, prepared.not_listed) == (("20bn-something-something-v1/5.webm",), ("videos/99.mp4",))
    assert decoded(prepared.manifest, modality="video").shape == (1, 3, 4, 32, 32)


def test_v1_of_frames_says_what_to_do(v1: Path) -> None:
    add_videos(v1, "videos/1.webm")
    add_images(v1, "20bn-something-something-v1/2/00001.jpg", "20bn-something-something-v1/2/00002.jpg")
    with pytest.raises(DataError, match=r"v1/2 is a folder of frames.*\n.*ffmpeg -framerate 12"):
        read_v1(v1)


@pytest.mark.parametrize("line", ["1", "1;Other", f"../1;{HOLDING}", f";{HOLDING}"])
def test_v1_faulty_lines(line: str, v1: Path) -> None:
    add_text(v1, f"{V1}-train.csv", f"2;{HOLDING}", line)
    with pytest.raises(DataError, match="train.csv:2: not ID;LABEL"):
        read_v1(v1)
