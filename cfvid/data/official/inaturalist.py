"""iNaturalist's competitions: one JSON file per split, in COCO's form.

    ROOT/                               in any folder
      train2018.json, val2018.json      {"images": [{"id": 1, "file_name": "train_val2018/Aves/2820/NAME.jpg"}],
                                         "annotations": [{"image_id": 1, "category_id": 2820}],
                                         "categories": [{"id": 2820, "name": "Passer domesticus"}]}
      train_val2018/...                 in any folder

torchvision knows the folders alone, not these splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from cfvid.data.manifest import Sample
from cfvid.data.official.text import read_json_list
from cfvid.data.official.tree import Prepared, Tree
from cfvid.errors import DataError


def read_inaturalist(
    root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = (), year: int
) -> Prepared:
    """Read the training and the validation list of one year; labels are the categories' names as the lists give them.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.
        year: of the competition.

    Raises:
        DataError: when a list is missing or of another form, or when the lists name a category differently.
    """
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    samples: list[Sample] = []
    names: dict[Any, str] = {}
    for split in ("train", "val"):
        path = tree.needed(f"{split}{year}.json")
        names = names or _category_names(path)
        if names != _category_names(path):
            raise DataError(f"{path} names the categories in another way than the training list does.")
        try:
            samples += _samples(path, split, tree, names)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is not in COCO's form.", why=repr(error)[:200]) from error
    return tree.prepared(samples)


def _category_names(path: Path) -> dict[Any, str]:
    try:
        names = {entry["id"]: str(entry.get("name") or entry["id"]) for entry in read_json_list(path, of="categories")}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} has categories without an id.", why=repr(error)[:200]) from error
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise DataError(f"{path} has several categories called {twice[0]!r}.")
    return names


def _samples(path: Path, split: str, tree: Tree, names: dict[Any, str]) -> Iterator[Sample]:
    labels: dict[Any, set[str]] = {}
    for entry in read_json_list(path, of="annotations"):
        labels.setdefault(entry["image_id"], set()).add(names[entry["category_id"]])
    for entry in read_json_list(path, of="images"):
        yield tree.sample(entry["file_name"].lstrip("/"), labels=sorted(labels[entry["id"]]), split=split)
