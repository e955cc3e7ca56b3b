"""ImageNet-1K in all its layouts, chosen classes of ImageNet-21K, Tiny ImageNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from support.official import IMAGES, add_images, add_text, decoded, reading, rows

from cfvid.data.official.imagenet import read_imagenet
from cfvid.data.official.imagenet_subset import read_imagenet_subset
from cfvid.data.official.tiny_imagenet import read_tiny_imagenet
from cfvid.errors import ConfigError, DataError

read, read_subset, read_tiny = (
    reading(reader, suffixes=IMAGES) for reader in (read_imagenet, read_imagenet_subset, read_tiny_imagenet)
)
TENCH, SHARK = "n01440764", "n01484850"
VAL = "ILSVRC2012_val_0000000"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
TRAIN = {f"train/{TENCH}/{TENCH}_1": ((TENCH,), "train"), f"train/{SHARK}/{SHARK}_2 ü": ((SHARK,), "train")}
EXPECTED = {**TRAIN, f"val/{VAL}1": ((SHARK,), "val"), f"val/{VAL}2": ((TENCH,), "val")}


def add_train(root: Path) -> Path:
    add_images(root, f"train/{TENCH}/{TENCH}_1.JPEG", f"train/{SHARK}/{SHARK}_2 ü.jpeg", "train/stray/3.JPEG")
    return root


def write_meta(path: Path) -> None:
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.array(
        [(1, TENCH, "tench", 0), (2, SHARK, "great white shark", 0), (3, "n00001740", "entity", 2)], fields
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"synsets": synsets[:, None]})


# ---------------------------------------------------------------------------------------------- ImageNet-1K


def test_class_folders(tmp_path: Path) -> None:
    add_train(tmp_path)
    add_images(tmp_path, f"val/{SHARK}/{VAL}1.JPEG", f"val/{TENCH}/{VAL}2.JPEG", "test/ILSVRC2012_test_00000001.JPEG")
    prepared = read(tmp_path)
    assert rows(prepared) == {**EXPECTED, "test/ILSVRC2012_test_00000001": ((), "test")}
    assert (prepared.not_found, prepared.not_listed) == ((), ("train/stray/3.JPEG",))
    assert decoded(prepared.manifest, modality="image").shape == (1, 3, 32, 32)


@pytest.mark.parametrize("home", ["", "ILSVRC/Data/CLS-LOC"])
def test_flat_validation_images_with_the_solution(home: str, tmp_path: Path) -> None:
    add_train(tmp_path / home)
    add_images(tmp_path / home, f"val/{VAL}1.JPEG", f"val/{VAL}2.JPEG")
    lines = ["ImageId,PredictionString", f"{VAL}2,{TENCH} 1 2 3 4 {TENCH} 5 6 7 8 ", f"{VAL}1,{SHARK} 1 2 3 4 "]
    add_text(tmp_path, "LOC_val_solution.csv", *lines, f"{VAL}3,{SHARK} 1 2 3 4", start="\ufeff", end="\r\n")
    prepared = read(tmp_path)
    assert rows(prepared) == EXPECTED
    assert prepared.not_found == (f"val/{VAL}3.JPEG",)
    add_text(tmp_path, "LOC_val_solution.csv", lines[0], f"{VAL}1,shark")
    with pytest.raises(DataError, match="LOC_val_solution.csv:2: not NAME,WNID"):
        read(tmp_path)


def test_flat_validation_images_with_the_development_kit(tmp_path: Path) -> None:
    add_train(tmp_path)
    add_images(tmp_path, f"val/{VAL}1.JPEG", f"val/{VAL}2.JPEG")
    with pytest.raises(DataError, match="no list of their labels"):
        read(tmp_path)
    data = "ILSVRC2012_devkit_t12/data"
    add_text(tmp_path, f"{data}/{TRUTH}", "2", "1", end="\r\n")
    write_meta(tmp_path / data / "meta.mat")
    assert rows(read(tmp_path)) == EXPECTED
    for faulty in ("4", "0", "x"):
        add_text(tmp_path, f"{data}/{TRUTH}", "2", faulty)
        with pytest.raises(DataError, match=f"{TRUTH}:2: not the number of one of the 3 classes"):
            read(tmp_path)
    for content in (b"", b"no MATLAB file" * 50, b"\x80\x04cos\nsystem\n(S'false'\ntR."):
        (tmp_path / data / "meta.mat").write_bytes(content)
        with pytest.raises(DataError, match="not the development kit's meta.mat"):
            read(tmp_path)


# ---------------------------------------------------------------------------------------------- ImageNet-9K


@pytest.fixture
def subset(tmp_path: Path) -> Path:
    add_images(tmp_path / "set", *(f"{TENCH}/{TENCH}_{n}.JPEG" for n in range(10)), f"{SHARK}/{SHARK}_0.JPEG")
    add_images(tmp_path / "set", "n09999999/n09999999_1.JPEG")
    add_text(tmp_path, "classes.txt", f"{TENCH} tench, Tinca tinca", "", SHARK, "n00000001", start="\ufeff", end="\r\n")
    return tmp_path


def test_chosen_classes_with_a_part_held_out(subset: Path) -> None:
    def val(**options: float) -> set[str]:
        manifest = read_subset(subset / "set", classes=subset / "classes.txt", **options).manifest
        return set(manifest.split("val").ids)

    prepared = read_subset(subset / "set", classes=subset / "classes.txt")
    assert prepared.manifest.classes == [TENCH, SHARK]
    assert len(prepared.manifest) == 11
    assert (prepared.not_found, prepared.not_listed) == (("n00000001/",), ("n09999999/n09999999_1.JPEG",))
    assert len(val()) == 1  # at least one of a class of several, none of a class of one
    assert len(val(held_out=0.3)) == 3
    assert val(held_out=0.0) == set()
    assert val(held_out=0.3) == val(held_out=0.3) != val(held_out=0.3, seed=1)
    assert all(name.startswith(TENCH) for name in val(held_out=0.3))


def test_a_subset_of_which_most_classes_are_missing(subset: Path) -> None:
    add_text(subset, "classes.txt", TENCH, "n00000001", "n00000002")
    prepared = read_imagenet_subset(subset / "set", suffixes=IMAGES, classes=subset / "classes.txt")
    assert prepared.manifest.classes == [TENCH]
    told = "2 of the 3 classes .* have no images below .*\n.*would be .*n00000001.*\n.*--allow-missing"
    with pytest.raises(DataError, match=told):
        prepared.refuse_shortage()


def test_faulty_lists_of_classes(subset: Path) -> None:
    with pytest.raises(ConfigError, match="absent.txt does not exist"):
        read_subset(subset / "set", classes=subset / "absent.txt")
    for lines, told in (
        ([TENCH, "tench"], "classes.txt:2: not a WordNet id"),
        ([], "lists no classes"),
        (["n00000001", "n00000002"], "2 of the 2 classes .* have no images below .*\n.*would be .*n00000001"),
    ):
        add_text(subset, "classes.txt", *lines)
        with pytest.raises(DataError, match=told):
            read_subset(subset / "set", classes=subset / "classes.txt")


# ---------------------------------------------------------------------------------------------- Tiny ImageNet


@pytest.mark.parametrize("home", ["", "tiny-imagenet-200"])
def test_tiny_imagenet(home: str, tmp_path: Path) -> None:
    root = tmp_path / home
    add_images(root, f"train/{TENCH}/images/{TENCH}_0.JPEG", "val/images/val_0.JPEG", "val/images/val_9.JPEG")
    add_images(root, "test/images/test_0.JPEG")
    lines = [f"val_0.JPEG\t{SHARK}\t0\t32\t44\t62", f"val_1.JPEG\t{TENCH}\t0\t0\t1\t1"]
    add_text(root, "val/val_annotations.txt", *lines, end="\r\n")
    prepared = read_tiny(tmp_path)
    assert rows(prepared) == {
        f"train/{TENCH}_0": ((TENCH,), "train"),
        "val/val_0": ((SHARK,), "val"),
        "test/test_0": ((), "test"),
    }
    assert prepared.not_found == ("val/images/val_1.JPEG",)
    assert [Path(path).name for path in prepared.not_listed] == ["val_9.JPEG"]
    add_text(root, "val/val_annotations.txt", lines[0], "val_9.JPEG shark")
    with pytest.raises(DataError, match="val_annotations.txt:2: not NAME WNID"):
        read_tiny(tmp_path)


def test_tiny_imagenet_in_class_folders(tmp_path: Path) -> None:
    add_images(
        tmp_path, f"train/{TENCH}/images/{TENCH}_0.JPEG", f"val/{SHARK}/val_0.JPEG", f"val/{TENCH}/images/val_1.JPEG"
    )
    assert rows(read_tiny(tmp_path)) == {
        f"train/{TENCH}_0": ((TENCH,), "train"),
        "val/val_0": ((SHARK,), "val"),
        "val/val_1": ((TENCH,), "val"),
    }
