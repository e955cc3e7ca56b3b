"""PASCAL VOC: several labels, difficult objects, and XML that is read safely."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.official import IMAGES, add_images, add_text, decoded, reading, rows

from cfvid.data.official.voc import read_voc
from cfvid.errors import DataError

read = reading(read_voc, suffixes=IMAGES)
HEAD = "<part><name>head</name></part>"


def annotation(*objects: tuple[str, int]) -> str:
    body = "".join(f"<object><name>{n}</name><difficult>{d}</difficult>{HEAD}</object>" for n, d in objects)
    return f"<annotation><folder>VOC2007</folder>\n{body}</annotation>"


@pytest.fixture(params=["VOCdevkit/VOC2007", ""])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return add_voc(tmp_path / request.param)


def add_voc(home: Path) -> Path:
    add_images(home, *(f"JPEGImages/{number}.jpg" for number in ("000005", "000007", "000001", "000099")))
    add_text(home, "ImageSets/Main/trainval.txt", "000005", "", "000007", start="\ufeff", end="\r\n")
    add_text(home, "ImageSets/Main/test.txt", "000001", "000002")
    add_text(home, "ImageSets/Layout/trainval.txt", "000099")
    add_text(home, "Annotations/000005.xml", annotation(("person", 1), ("chair", 0), ("chair", 1), ("dog", 1)))
    add_text(home, "Annotations/000007.xml", annotation(("car", 0)), start="\ufeff", end="\r\n")
    add_text(home, "Annotations/000001.xml", annotation(("person", 0), ("person", 1), ("dog", 0)))
    add_text(home, "Annotations/000002.xml", "<annotation><object><name>cat</name></object></annotation>")
    return home


def test_difficult_objects_are_neither_positive_nor_negative(home: Path, tmp_path: Path) -> None:
    prepared = read(tmp_path, year=2007)
    assert rows(prepared) == {
        "000005": (("chair",), "train"),
        "000007": (("car",), "train"),
        "000001": (("dog", "person"), "val"),
    }
    assert [sample.unsure_labels for sample in prepared.manifest] == [("dog", "person"), (), ()]
    assert [Path(path).name for path in prepared.not_found] == ["000002.jpg"]
    assert [Path(path).name for path in prepared.not_listed] == ["000099.jpg"]
    assert decoded(prepared.manifest, modality="image").shape == (1, 3, 32, 32)


def test_another_year_beside_it_is_left_alone(tmp_path: Path) -> None:
    home = add_voc(tmp_path / "VOCdevkit" / "VOC2007")
    add_text(home.parent, "VOC2006/ImageSets/Main/trainval.txt", "2006_000001")
    assert set(rows(read(tmp_path, year=2007))) == {"000005", "000007", "000001"}


@pytest.mark.parametrize(
    ("xml", "told"),
    [
        ('<!DOCTYPE a [<!ENTITY x "aaaa">]><annotation>&x;</annotation>', "declares a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "declares a document type"),
        ("<annotation><object>", "000007.xml is not XML"),
        ("", "000007.xml is not XML"),
        ("<annotation><object><difficult>0</difficult></object></annotation>", "object without a name"),
        ("<annotation>" + " " * 1_000_001 + "</annotation>", "too large"),
    ],
)
def test_faulty_annotations(xml: str, told: str, home: Path, tmp_path: Path) -> None:
    add_text(home, "Annotations/000007.xml", xml, end="")
    with pytest.raises(DataError, match=told):
        read(tmp_path, year=2007)


def test_faulty_lists(home: Path, tmp_path: Path) -> None:
    (home / "Annotations" / "000007.xml").unlink()
    with pytest.raises(DataError, match="000007.xml does not exist"):
        read(tmp_path, year=2007)
    add_text(home, "ImageSets/Main/trainval.txt", "../000005")
    with pytest.raises(DataError, match="trainval.txt:1: not the name of an image"):
        read(tmp_path, year=2007)
    (home / "ImageSets/Main/trainval.txt").unlink()
    with pytest.raises(DataError, match="has no VOC2007/ImageSets/Main/trainval.txt"):
        read(tmp_path, year=2007)
