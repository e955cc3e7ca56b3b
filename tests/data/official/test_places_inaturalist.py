"""Places365, Places205 and iNaturalist: lists of paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.official import IMAGES, add_images, add_text, decoded, reading, rows

from cfvid.data.official.inaturalist import read_inaturalist
from cfvid.data.official.places import read_places205, read_places365
from cfvid.errors import DataError

read365, read205, read_inat = (
    reading(reader, suffixes=IMAGES) for reader in (read_places365, read_places205, read_inaturalist)
)


# ---------------------------------------------------------------------------------------------- Places


@pytest.fixture
def places365(tmp_path: Path) -> Path:
    add_text(tmp_path, "categories_places365.txt", "/a/airfield 0", "/f/field/cultivated 1")
    train = ["/a/airfield/00000001.jpg 0", "", "/f/field/cultivated/00000001.jpg 1"]
    add_text(tmp_path, "places365_train_standard.txt", *train, start="\ufeff", end="\r\n")
    add_text(tmp_path, "places365_val.txt", "Places365_val_00000001.jpg 1", "Places365_val_00000002.jpg 0")
    add_images(tmp_path, "data_256/a/airfield/00000001.jpg", "data_256/f/field/cultivated/00000001.JPG")
    add_images(tmp_path, "val_256/Places365_val_00000001.jpg", "val_256/Places365_val_00000003.jpg")
    return tmp_path


def test_places365(places365: Path) -> None:
    prepared = read365(places365)
    assert rows(prepared) == {
        "a/airfield/00000001": (("/a/airfield",), "train"),
        "f/field/cultivated/00000001": (("/f/field/cultivated",), "train"),
        "Places365_val_00000001": (("/f/field/cultivated",), "val"),
    }
    assert prepared.not_found == ("val_256/Places365_val_00000002.jpg",)
    assert prepared.not_listed == ("val_256/Places365_val_00000003.jpg",)
    assert decoded(prepared.manifest, modality="image").shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/a/airfield/1.jpg 2", "train_standard.txt:1: not FILE NUMBER with one of the 2 classes"),
        ("/a/airfield/1.jpg", "train_standard.txt:1: not FILE NUMBER"),
        ("/a/airfield/1.jpg x", "train_standard.txt:1: not FILE NUMBER"),
        ("/../../secret.jpg 0", "leads out of"),
    ],
)
def test_places365_faulty_lines(line: str, told: str, places365: Path) -> None:
    add_text(places365, "places365_train_standard.txt", line)
    with pytest.raises(DataError, match=told):
        read365(places365)


@pytest.mark.parametrize("separator", [" ", ","])
def test_places205(separator: str, tmp_path: Path) -> None:
    home = "data/vision/torralba/deeplearning/images256"
    add_images(tmp_path / home, "a/abbey/gsun 1,2.jpg", "h/hotel/outdoor/gsun_2.jpg", "a/abbey/gsun_3.jpg")
    train = ["a/abbey/gsun 1,2.jpg{}0", "h/hotel/outdoor/gsun_2.jpg{}1", "h/hotel/outdoor/gone.jpg{}1"]
    lists = "trainvalsplit_places205"
    add_text(tmp_path, f"{lists}/train_places205.csv", *(line.format(separator) for line in train), end="\r\n")
    add_text(tmp_path, f"{lists}/val_places205.csv", f"a/abbey/gsun_3.jpg{separator}0")
    prepared = read205(tmp_path)
    assert rows(prepared) == {
        "a/abbey/gsun 1,2": (("/a/abbey",), "train"),
        "h/hotel/outdoor/gsun_2": (("/h/hotel/outdoor",), "train"),
        "a/abbey/gsun_3": (("/a/abbey",), "val"),
    }
    assert prepared.not_found == ("images256/h/hotel/outdoor/gone.jpg",)
    add_text(tmp_path, f"{lists}/val_places205.csv", f"a/abbey/gsun_3.jpg{separator}1")
    with pytest.raises(DataError, match="val_places205.csv:1: not FILE NUMBER; class 1 is /h/hotel/outdoor"):
        read205(tmp_path)


# ---------------------------------------------------------------------------------------------- iNaturalist

CATEGORIES = [{"id": 0, "name": "Passer ü", "supercategory": "Aves"}, {"id": 1, "name": "Mus", "supercategory": "M"}]


def write_inaturalist(root: Path, **changes: Any) -> None:
    images = {
        "train": [(1, "train_val2018/Aves/0/a b.jpg"), (2, "train_val2018/M/1/b.jpg")],
        "val": [(3, "train_val2018/Aves/0/c.jpg"), (4, "train_val2018/M/1/gone.jpg")],
    }
    for split, pairs in images.items():
        value = {
            "images": [{"id": number, "file_name": name, "license": 1} for number, name in pairs],
            "annotations": [{"id": n, "image_id": n, "category_id": int("/M/" in name)} for n, name in pairs],
            "categories": CATEGORIES,
            **(changes if split == "val" else {}),
        }
        add_text(root, f"{split}2018.json", json.dumps(value))


def test_inaturalist(tmp_path: Path) -> None:
    write_inaturalist(tmp_path)
    add_images(tmp_path / "train_val2018", "Aves/0/a b.jpg", "M/1/b.JPG", "Aves/0/c.jpg", "Aves/0/extra.jpg")
    prepared = read_inat(tmp_path, year=2018)
    assert rows(prepared) == {
        "train_val2018/Aves/0/a b": (("Passer ü",), "train"),
        "train_val2018/M/1/b": (("Mus",), "train"),
        "train_val2018/Aves/0/c": (("Passer ü",), "val"),
    }
    assert prepared.not_found == ("train_val2018/M/1/gone.jpg",)
    assert prepared.not_listed == ("train_val2018/Aves/0/extra.jpg",)
    assert decoded(prepared.manifest, modality="image").shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"annotations": []}, "val2018.json is not in COCO's form"),
        ({"images": [{"id": 3}]}, "val2018.json is not in COCO's form"),
        ({"images": {}}, "val2018.json holds no list of objects called 'images'"),
        ({"images": [{"id": 3, "file_name": "../../secret.jpg"}]}, "leads out of"),
        ({"categories": [*CATEGORIES, {"id": 2, "name": "Mus"}]}, "several categories called 'Mus'"),
        ({"categories": CATEGORIES[:1]}, "names the categories in another way"),
        ({"categories": [{"name": "Mus"}]}, "categories without an id"),
    ],
)
def test_inaturalist_faulty_lists(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    write_inaturalist(tmp_path, **changes)
    with pytest.raises(DataError, match=told):
        read_inat(tmp_path, year=2018)
