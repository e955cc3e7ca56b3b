"""UCF101: two lists per fold.

    ROOT/
      trainlist01.txt             `CLASS/v_NAME.avi 12`; also 02, 03; in any folder, such as ucfTrainTestlist/
      testlist01.txt              `CLASS/v_NAME.avi`
      classInd.txt                `12 CLASS`
      CLASS/v_NAME.avi            in any folder, such as UCF-101/

torchvision's class looks for the lists only after it has opened every video.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cfvid.data.manifest import Sample
from cfvid.data.official.text import Line, lines_of
from cfvid.data.official.tree import Prepared, Tree, check_fold
from cfvid.errors import DataError

_GROUP = re.compile(r"(v_.+_g\d+)_c\d+\.\w+")
"""What the videos of one group have in common in their names: they were cut from one, and show the same people."""


def read_ucf101(root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = (), fold: int = 1) -> Prepared:
    """Read one fold; its test list is called `val`, and groups are those in the names: a class has g01 to g25.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.
        fold: 1 to 3.

    Raises:
        ConfigError: for another fold.
        DataError: when a list is missing, or naming the first line that is not in its format.
    """
    check_fold(fold, folds=3)
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    numbers = _class_numbers(tree.needed("classInd.txt"))
    train, test = (tree.needed(f"{part}list{fold:02d}.txt") for part in ("train", "test"))
    return tree.prepared([*_train(train, tree, numbers), *_test(test, tree, numbers)])


def _class_numbers(path: Path) -> dict[str, str]:
    numbers = {}
    for line in lines_of(path):
        number, _, name = line.text.partition(" ")
        if not number.isdigit() or not name.strip():
            raise line.refusal("NUMBER CLASS")
        numbers[name.strip()] = number
    return numbers


def _train(path: Path, tree: Tree, numbers: dict[str, str]) -> Iterator[Sample]:
    for line in lines_of(path):
        listed, number = line.split_last("CLASS/FILE NUMBER")
        sample = _sample(listed, "train", line, tree, numbers)
        if numbers[sample.labels[0]] != number:
            raise DataError(
                f"{line.path}:{line.number}: {sample.labels[0]} is class {number} here, "
                f"but class {numbers[sample.labels[0]]} in classInd.txt."
            )
        yield sample


def _test(path: Path, tree: Tree, numbers: dict[str, str]) -> Iterator[Sample]:
    for line in lines_of(path):
        yield _sample(line.text, "val", line, tree, numbers)


def _sample(listed: str, split: str, line: Line, tree: Tree, numbers: dict[str, str]) -> Sample:
    label, slash, _ = listed.partition("/")
    if not slash or label not in numbers:
        raise line.refusal("the path of a video in the folder of a class of classInd.txt")
    group = _GROUP.fullmatch(listed.rpartition("/")[2])
    return tree.sample(listed, labels=[label], split=split, usual="UCF-101", group=group[1] if group else None)
