"""Kinetics: trimmed and untrimmed clips, a CSV per split."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.official import VIDEOS, add_text, add_videos, decoded, reading, rows

from cfvid.data.official.kinetics import read_kinetics
from cfvid.errors import DataError

HEADER = "label,youtube_id,time_start,time_end,split,is_cc"
read = reading(read_kinetics, suffixes=VIDEOS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_videos(
        tmp_path,
        "train/riding a bike/aaaaaaaaaaa_000010_000020.mp4",
        "train/-bbbbbbbbbb.MP4",
        "val/ccccccccccc_000000_000010.mp4",
        "test/ddddddddddd_000005_000015.mp4",
        "train/eeeeeeeeeee_000000_000010.mp4",
    )
    bike = '"riding a bike"'
    lines = [
        f"{bike},aaaaaaaaaaa,10,20,train,0",
        "",
        "dancing,-bbbbbbbbbb,0.5,1.5,train,0",
        "dancing,gone,0,10,train,1",
    ]
    add_text(tmp_path, "annotations/train.csv", HEADER, *lines, start="\ufeff", end="\r\n")
    add_text(tmp_path, "annotations/validate.csv", HEADER, "dancing,ccccccccccc,0,10,validate,0")
    add_text(tmp_path, "annotations/test.csv", "youtube_id,time_start,time_end", "ddddddddddd,5,15")
    return tmp_path


def test_all_splits(root: Path) -> None:
    prepared = read(root)
    assert rows(prepared) == {
        "aaaaaaaaaaa_000010_000020": (("riding a bike",), "train"),
        "-bbbbbbbbbb_000000_000001": (("dancing",), "train"),
        "ccccccccccc_000000_000010": (("dancing",), "val"),
        "ddddddddddd_000005_000015": ((), "test"),
    }
    times = [(sample.start_s, sample.end_s) for sample in prepared.manifest]
    assert times == [(None, None), (0.5, 1.5), (None, None), (None, None)]
    assert prepared.not_found == ("dancing/gone_000000_000010.mp4",)
    assert prepared.not_listed == ("train/eeeeeeeeeee_000000_000010.mp4",)
    assert decoded(prepared.manifest, 1, modality="video").shape == (1, 3, 4, 32, 32)


def test_ids_do_not_depend_on_the_place(root: Path, tmp_path: Path) -> None:
    ids, digest = read(root).manifest.ids, read(root).manifest.digest
    moved = root.rename(tmp_path.parent / "moved ü")
    assert (read(moved).manifest.ids, read(moved).manifest.digest) == (ids, digest)


def test_faulty_lists(root: Path) -> None:
    add_text(root, "annotations/train.csv", HEADER, "dancing,aaaaaaaaaaa,soon,20,train,0")
    with pytest.raises(DataError, match=r"annotations/train.csv:2: .* not Kinetics"):
        read(root)
    add_text(root, "annotations/train.csv", HEADER, "../../x,aaaaaaaaaaa,10,20,train,0")
    with pytest.raises(DataError, match="leads out of"):
        read(root)
    for name in ("train", "validate", "test"):
        (root / "annotations" / f"{name}.csv").unlink()
    with pytest.raises(DataError, match="has no train.csv"):
        read(root)
