"""Folders as people and systems leave them: other names of splits, classes called like splits, files of systems."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cfvid.data.folders import files_below, read_folder
from cfvid.data.manifest import Manifest
from cfvid.data.readers import read_sources
from cfvid.errors import DataError
from cfvid.sections.data import DataConfig, SourceConfig

SUFFIXES = frozenset({".png"})


def make(root: Path, *files: str) -> Path:
    """Empty files."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def read(root: Path, **options: str) -> Manifest:
    source = SourceConfig(path=str(root), **options)  # type: ignore[arg-type]
    data = DataConfig(pretrain=[source], targets={})
    return read_sources([source], data=data, suffixes=SUFFIXES, cache=root / "cache")


def counts(manifest: Manifest) -> dict[str, int]:
    return {split: len(manifest.split(split)) for split in ("train", "val")}


@pytest.mark.parametrize(
    "splits", [("training", "validation"), ("Train", "Val"), ("TRAIN", "dev"), ("tr", "eval"), ("train", "test")]
)
def test_split_folders_under_other_names_are_no_classes(
    splits: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """DIR/{training,validation}/CLASS/FILE: the splits became the classes."""
    root = make(tmp_path / "set", *(f"{split}/{label}/{i}.png" for split in splits for label in "ab" for i in range(3)))
    with caplog.at_level(logging.INFO, logger="cfvid"):
        manifest = read(root)
    assert manifest.classes == ["a", "b"]
    assert counts(manifest) == {"train": 6, "val": 6}
    assert f"its split {splits[1]!r} is used as val (val_split chooses another)" in caplog.text


def test_of_val_and_test_val_is_used_and_val_split_chooses_test(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make(tmp_path / "set", "Train/a/1.png", "valid/a/2.png", "Test/a/3.png", "Test/a/4.png")
    with caplog.at_level(logging.INFO, logger="cfvid"):
        assert read(root).split("val").ids == ["valid/a/2.png"]
    assert "not used are the splits 'Test' (2 samples)" in caplog.text
    assert read(root, val_split="Test").split("val").ids == ["Test/a/3.png", "Test/a/4.png"]


def test_a_class_called_train_does_not_hide_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """DIR/{train,car,plane}/FILE, five each: 5 of 15 samples were kept."""
    root = make(tmp_path / "set", *(f"{label}/{i}.png" for label in ("train", "car", "plane") for i in range(5)))
    manifest = read(root)
    assert (len(manifest), manifest.classes) == (15, ["car", "plane", "train"])
    assert "train: " not in caplog.text
    assert "hold media and no further folders: train" in caplog.text

    make(root, "car/film/9.png")
    with pytest.raises(DataError, match=r"(?s)set: The top folders can be splits or classes: train.*kind: classes"):
        read(root)
    assert read(root, kind="classes").classes == ["car", "plane", "train"]
    assert len(read(root, train_split="train")) == 5


def test_files_of_systems_are_no_samples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A NAS's @eaDir was a class of thumbnails."""
    names = ["@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".ipynb_checkpoints"]
    root = make(tmp_path / "set", "train/a/1.png", *(f"train/{name}/a.png" for name in names))
    make(root, "train/a/._1.png", "train/a/._2.png", "train/a/Thumbs.db", "train/a/@eaDir/1.png", "train/a/desktop.ini")
    with caplog.at_level(logging.INFO, logger="cfvid"):
        manifest = read_folder(root, suffixes=SUFFIXES)
    assert (manifest.ids, manifest.classes) == (["train/a/1.png"], ["a"])
    assert "ignored: ._* (2), @eaDir (2), $RECYCLE.BIN (1)" in caplog.text
    assert [file.as_posix() for file in files_below(root)] == ["train/a/1.png"]


def test_what_is_left_out_by_its_suffix_is_told_with_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make(tmp_path / "set", "a/1.png", "a/2.heic", "a/3.HEIC", "a/notes.txt", "a/README")
    with caplog.at_level(logging.INFO, logger="cfvid"):
        assert len(read_folder(root, suffixes=SUFFIXES)) == 1
    assert (
        "4 files are no media of this modality and were ignored: .heic (2; Pillow does not read it: make" in caplog.text
    )
    assert ".txt (1), no ending (1)" in caplog.text
