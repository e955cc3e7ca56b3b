"""Places365 and Places205: lists of paths and numbers of classes. Labels are the classes' names, such as /a/airfield.

    ROOT/                               in any folder
      categories_places365.txt          `/a/airfield 0`
      places365_train_standard.txt      `/a/airfield/00000001.jpg 0`
      places365_val.txt                 `Places365_val_00000001.jpg 165`
      data_256/a/airfield/00000001.jpg, val_256/Places365_val_00000001.jpg      or data_large, val_large

      train_places205.csv, val_places205.csv      `a/abbey/gsun_0123.jpg 0`, with a space or a comma
      images256/a/abbey/gsun_0123.jpg

torchvision's class of Places365 wants these lists bit by bit, in fixed places, beside archives that it unpacks itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cfvid.data.manifest import Sample
from cfvid.data.official.text import Line, lines_of, number_within
from cfvid.data.official.tree import Prepared, Tree

_MOST_CLASSES = 10**6


def read_places365(root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = ()) -> Prepared:
    """Read the standard training list and the validation list of Places365.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.

    Raises:
        DataError: when a list is missing, or naming its first line of another form.
    """
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    names: dict[int, str] = {}
    for line in lines_of(tree.needed("categories_places365.txt")):
        name, number = _pair(line)
        names[number] = name
    samples: list[Sample] = []
    for split, file, usual in (
        ("train", "places365_train_standard.txt", "data_256"),
        ("val", "places365_val.txt", "val_256"),
    ):
        for line in lines_of(tree.needed(file)):
            listed, number = _pair(line)
            if number not in names:
                raise line.refusal(f"FILE NUMBER with one of the {len(names)} classes of categories_places365.txt")
            samples.append(tree.sample(listed.lstrip("/"), labels=[names[number]], split=split, usual=usual))
    return tree.prepared(samples)


def read_places205(root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = ()) -> Prepared:
    """Read the lists of Places205, whose folders name the classes.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.

    Raises:
        DataError: when a list is missing, or naming its first line of another form.
    """
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    names: dict[int, str] = {}
    samples: list[Sample] = []
    for split in ("train", "val"):
        samples += _by_folder(tree.needed(f"{split}_places205.csv"), split, tree, names)
    return tree.prepared(samples)


def _by_folder(path: Path, split: str, tree: Tree, names: dict[int, str]) -> Iterator[Sample]:
    for line in lines_of(path):
        listed, number = _pair(line)
        listed = listed.lstrip("/")
        name = f"/{listed.rpartition('/')[0]}"
        if name == "/" or names.setdefault(number, name) != name:
            raise line.refusal(f"FILE NUMBER; class {number} is {names.get(number, 'not known')}")
        yield tree.sample(listed, labels=[name], split=split, usual="images256")


def _pair(line: Line) -> tuple[str, int]:
    listed, number = line.split_last("FILE NUMBER", separators=",")
    return listed, number_within(number, line, below=_MOST_CLASSES, expected="FILE NUMBER")
