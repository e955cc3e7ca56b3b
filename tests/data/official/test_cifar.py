"""CIFAR-10 and CIFAR-100: pictures from the binary version, and nothing from pickles."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.official import IMAGES, add_images, add_text, decoded, reading, rows

from cfvid.data.official.cifar import read_cifar
from cfvid.errors import ConfigError, DataError

read = reading(read_cifar, suffixes=IMAGES)
HOME = "cifar-10-batches-bin"


def picture_of(number: int) -> np.ndarray:
    """uint8, (32, 32, 3)."""
    return np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def record(number: int, *labels: int) -> bytes:
    """A picture after its labels, as the files have it: channel after channel."""
    return bytes(labels) + picture_of(number).transpose(2, 0, 1).tobytes()


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    add_text(root, f"{HOME}/batches.meta.txt", "airplane", "dog", "", "")
    for batch in range(1, 6):
        (root / HOME / f"data_batch_{batch}.bin").write_bytes(record(2 * batch, 1) + record(2 * batch + 1, 0))
    (root / HOME / "test_batch.bin").write_bytes(record(99, 0))
    return root


def test_cifar10_is_written_as_pictures(cifar10: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--media DIR"):
        read(cifar10, num_classes=10)
    media = tmp_path / "media"
    prepared = read(cifar10, num_classes=10, media=media)
    found = rows(prepared)
    assert len(found) == 11
    assert found["train/dog/00000"] == (("dog",), "train")
    assert found["train/airplane/00009"] == (("airplane",), "train")
    assert found["val/airplane/00000"] == (("airplane",), "val")
    assert (prepared.not_found, prepared.not_listed) == ((), ())
    for path, number in (("train/dog/00000", 2), ("train/airplane/00009", 11), ("val/airplane/00000", 99)):
        np.testing.assert_array_equal(np.asarray(Image.open(media / f"{path}.png")), picture_of(number))
    assert decoded(prepared.manifest, modality="image").shape == (1, 3, 32, 32)

    before = (media / "train").stat().st_mtime_ns
    assert read(cifar10, num_classes=10, media=media).manifest.digest == prepared.manifest.digest
    assert (media / "train").stat().st_mtime_ns == before
    assert rows(read(media, num_classes=10)) == found


def test_cifar100_has_two_labels_of_which_the_fine_one_counts(tmp_path: Path) -> None:
    add_text(tmp_path, "cifar-100-binary/fine_label_names.txt", "apple", "aquarium_fish", end="\r\n")
    (tmp_path / "cifar-100-binary" / "train.bin").write_bytes(record(1, 0, 1))
    (tmp_path / "cifar-100-binary" / "test.bin").write_bytes(record(2, 1, 0))
    prepared = read(tmp_path, num_classes=100, media=tmp_path / "media")
    assert rows(prepared) == {
        "train/aquarium_fish/00000": (("aquarium_fish",), "train"),
        "val/apple/00000": (("apple",), "val"),
    }
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "media/val/apple/00000.png")), picture_of(2))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (record(1, 1)[:-1], "data_batch_3.bin is truncated"),
        (b"", "data_batch_3.bin is truncated"),
        (record(1, 2), "has a picture of class 2; batches.meta.txt names 2"),
    ],
)
def test_faulty_files_leave_nothing_behind(content: bytes, told: str, cifar10: Path, tmp_path: Path) -> None:
    (cifar10 / HOME / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(DataError, match=told):
        read(cifar10, num_classes=10, media=tmp_path / "media")
    assert list((tmp_path / "media").iterdir()) == []


def test_class_names_that_lead_elsewhere_are_refused(cifar10: Path, tmp_path: Path) -> None:
    add_text(cifar10, f"{HOME}/batches.meta.txt", "airplane", "../../dog")
    with pytest.raises(DataError, match="cannot be folders"):
        read(cifar10, num_classes=10, media=tmp_path / "media")


class _Bomb:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("exploded"),)


def test_pickles_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (tmp_path / "set" / name).write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(DataError, match=r"neither batches.meta.txt .*\n.*pickle"):
        read(tmp_path / "set", num_classes=10)
    assert not (tmp_path / "exploded").exists()


def test_class_folders_of_others(tmp_path: Path) -> None:
    add_images(tmp_path, "train/dog/1.png", "test/dog/1.png", "test/stray.png")
    prepared = read(tmp_path, num_classes=10)
    assert rows(prepared) == {"train/dog/1": (("dog",), "train"), "val/dog/1": (("dog",), "val")}
    assert prepared.not_listed == ("test/stray.png",)
