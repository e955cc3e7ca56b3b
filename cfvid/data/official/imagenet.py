"""ImageNet-1K (ILSVRC 2012): class folders named by WordNet ids, which are the labels.

    ROOT/                               also ILSVRC/Data/CLS-LOC/ below it
      train/WNID/NAME.JPEG
      val/WNID/NAME.JPEG                or val/NAME.JPEG, with one of the two lists of labels, in any folder:
      LOC_val_solution.csv              `NAME,WNID box...`
      ILSVRC2012_validation_ground_truth.txt, meta.mat      the development kit
      test/NAME.JPEG                    unlabelled

torchvision's parser of the development kit wants its archive, and keeps what it read as a pickle.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from cfvid.data.manifest import Sample
from cfvid.data.official.text import lines_of, number_within
from cfvid.data.official.tree import Prepared, Tree
from cfvid.errors import DataError

WNID = re.compile(r"n\d{8}")
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def read_imagenet(root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = ()) -> Prepared:
    """Read the folders, and the labels of a flat validation folder.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.

    Raises:
        DataError: when a flat validation folder has no list of labels, or naming the list's first line of another form.
    """
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    samples = list(_in_class_folders(tree, "train")) + list(_in_class_folders(tree, "val"))
    flat = [path for path in _folder(tree, "val") if not WNID.fullmatch(path.split("/")[-2])]
    if flat:
        samples += _flat_val(tree)
    for path in _folder(tree, "test"):
        samples.append(tree.sample(path, labels=[], split="test", sample_id=f"test/{Path(path).stem}"))
    return tree.prepared(samples)


def _folder(tree: Tree, split: str) -> list[str]:
    return tree.below(split, f"ILSVRC/Data/CLS-LOC/{split}", f"Data/CLS-LOC/{split}")


def _in_class_folders(tree: Tree, split: str) -> Iterator[Sample]:
    """The images of a split that lie in folders named by WordNet ids."""
    for path in _folder(tree, split):
        wnid = path.split("/")[-2]
        if WNID.fullmatch(wnid):
            sample_id = f"{split}/{Path(path).stem}" if split == "val" else f"{split}/{wnid}/{Path(path).stem}"
            yield tree.sample(path, labels=[wnid], split=split, sample_id=sample_id)


def _flat_val(tree: Tree) -> list[Sample]:
    solution = tree.annotation("LOC_val_solution.csv")
    labels = _from_solution(solution) if solution else _from_devkit(tree)
    return [
        tree.sample(f"val/{name}.JPEG", labels=[wnid], split="val", sample_id=f"val/{name}")
        for name, wnid in labels.items()
    ]


def _from_solution(path: Path) -> dict[str, str]:
    labels = {}
    for line in lines_of(path):
        name, _, answer = line.text.partition(",")
        wnid = answer.split(" ")[0]
        if name == "ImageId":
            continue
        if not WNID.fullmatch(wnid):
            raise line.refusal("NAME,WNID and boxes")
        labels[name] = wnid
    return labels


def _from_devkit(tree: Tree) -> dict[str, str]:
    truth = tree.annotation(_TRUTH)
    if truth is None:
        raise DataError(
            f"The validation images below {tree.root} are not in class folders, and there is no list of their labels.",
            fix=f"Add {_TRUTH} and meta.mat of the development kit, or LOC_val_solution.csv, to that folder.",
        )
    wnids = _wnids_by_number(tree.needed("meta.mat"))
    labels = {}
    for position, line in enumerate(lines_of(truth), 1):
        expected = f"the number of one of the {len(wnids)} classes in meta.mat"
        number = number_within(line.text, line, below=10**6, expected=expected)
        if number not in wnids:
            raise line.refusal(expected)
        labels[f"ILSVRC2012_val_{position:08d}"] = wnids[number]
    return labels


def _wnids_by_number(path: Path) -> dict[int, str]:
    """The development kit's classes. Nothing in such a file is executed: scipy reads arrays, not programs."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        synsets: Any = loadmat(str(path), squeeze_me=True, variable_names=["synsets"], appendmat=False)["synsets"]
        pairs = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets.reshape(-1)}
    except (MatReadError, KeyError, ValueError, TypeError, IndexError, NotImplementedError, OSError) as error:
        raise DataError(f"{path} is not the development kit's meta.mat.", why=repr(error)[:200]) from error
    return {number: wnid for number, wnid in pairs.items() if WNID.fullmatch(wnid)}
