"""CIFAR-10 and CIFAR-100: the binary version, written out as pictures; or class folders that are there already.

    ROOT/                               in any folder
      data_batch_1.bin ... data_batch_5.bin, test_batch.bin, batches.meta.txt      CIFAR-10
      train.bin, test.bin, fine_label_names.txt                                    CIFAR-100

    MEDIA/                              what is written: pictures are numbered in their order in the files
      train/CLASS/00000.png
      val/CLASS/00000.png

The Python version of these files is pickles, which can run programs when they are read, so it is not read; torchvision
reads only that one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cfvid.artifacts import atomic_folder
from cfvid.data.official.text import lines_of
from cfvid.data.official.tree import Prepared, Tree
from cfvid.errors import ConfigError, DataError

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


@dataclass(frozen=True)
class _Version:
    names: str
    """The file of the classes' names."""
    files: dict[str, tuple[str, ...]]
    """By split."""
    label_bytes: int
    """Before each picture; the last one is its class."""


_VERSIONS = {
    10: _Version(
        names="batches.meta.txt",
        files={"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "val": ("test_batch.bin",)},
        label_bytes=1,
    ),
    100: _Version(names="fine_label_names.txt", files={"train": ("train.bin",), "val": ("test.bin",)}, label_bytes=2),
}


def read_cifar(
    root: Path,
    *,
    suffixes: Collection[str],
    trusted_roots: Sequence[str] = (),
    num_classes: int,
    media: Path | None = None,
) -> Prepared:
    """Read class folders below the root, or write them below `media` from the binary files; `test` is called `val`.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.
        num_classes: 10 or 100, which set it is.
        media: where pictures are written; those that are there are not written again.

    Raises:
        ConfigError: when pictures have to be written and no place is named.
        DataError: when there is neither a binary version nor class folders, or a file is of another form.
    """
    version = _VERSIONS[num_classes]
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    if tree.annotation(version.names) is not None:
        if media is None:
            raise ConfigError(
                "The pictures of this set are inside its files.", fix="Name a folder to write them to with --media DIR."
            )
        _write_pictures(tree, version, media)
        tree = Tree(media, suffixes=suffixes, trusted_roots=trusted_roots)
    elif not tree.below("train"):
        raise DataError(
            f"{root} has neither {version.names} and the .bin files beside it, nor a folder train/CLASS with pictures.",
            why="the Python version, a pickle that can run programs when it is read, is not read",
            fix="Get the binary version from the same page.",
        )
    samples = []
    for split, folders in (("train", ["train"]), ("val", ["val", "test"])):
        for path in tree.below(*folders):
            _, *parts, name = path.split("/")
            if len(parts) == 1:
                sample_id = f"{split}/{parts[0]}/{Path(name).stem}"
                samples.append(tree.sample(path, labels=parts, split=split, sample_id=sample_id))
    return tree.prepared(samples)


def _write_pictures(tree: Tree, version: _Version, media: Path) -> None:
    names = [line.text for line in lines_of(tree.needed(version.names))]
    if any("/" in name or name.startswith(".") for name in names):
        raise DataError(f"{version.names} names classes that cannot be folders.")
    for split, files in version.files.items():
        if (media / split).is_dir():  # written as a whole, or not at all
            there = {path.name for path in (media / split).iterdir()}
            if there != set(names):
                raise DataError(
                    f"{media / split} holds other classes than {version.names} names.",
                    fix="Name a new folder by --media.",
                )
            continue
        paths = [tree.needed(name) for name in files]
        with atomic_folder(media / split) as folder:
            for name in names:
                (folder / name).mkdir()
            for number, (label, picture_HWC) in enumerate(_pictures(paths, version, len(names))):
                Image.fromarray(picture_HWC).save(folder / names[label] / f"{number:05d}.png")


def _pictures(paths: Sequence[Path], version: _Version, num_names: int) -> Iterator[tuple[int, np.ndarray]]:
    """The class and the pixels, uint8 (H, W, 3), of each picture in these files."""
    width = version.label_bytes + _PIXELS
    for path in paths:
        data = np.fromfile(path, dtype=np.uint8)
        if len(data) == 0 or len(data) % width:
            raise DataError(f"{path} is truncated, or no CIFAR file: its size is not a multiple of {width} bytes.")
        for row in data.reshape(-1, width):
            label = int(row[version.label_bytes - 1])
            if label >= num_names:
                raise DataError(f"{path} has a picture of class {label}; {version.names} names {num_names}.")
            yield label, row[version.label_bytes :].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0)
