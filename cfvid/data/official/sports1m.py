"""Sports-1M: partitions as text or as JSON; a video may have several labels.

ROOT/                               in any folder
  labels.txt                        the label of number 0, of number 1, ...
  original/train_partition.txt      `https://www.youtube.com/watch?v=ID 168,169`; also test_partition.txt
  sports1m_train.json               [{"id": "ID", "label487": [168, 169], ...}]; also sports1m_test.json
  ID.mp4                            in any folder
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cfvid.data.manifest import Sample
from cfvid.data.official.text import lines_of, number_within, read_json_list
from cfvid.data.official.tree import Prepared, Tree
from cfvid.errors import DataError

_ID = re.compile(r"[A-Za-z0-9_-]+")
_URL = re.compile(r"https?://[^\s]*[?&]v=([A-Za-z0-9_-]+)(?:&[^\s]*)?")
_FILES = {"train": "train", "val": "test"}

_Listed = Iterator[tuple[str, list[int]]]


def read_sports1m(root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = ()) -> Prepared:
    """Read both partitions; the test one is called `val`.

    A video that stands several times in a partition has the labels of all its lines; one that stands in both is used
    for validation alone.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.

    Raises:
        DataError: when a partition or the labels are missing, or naming the first line of another form.
    """
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    names = [line.text for line in lines_of(tree.needed("labels.txt"))]
    numbers_of: dict[str, dict[str, set[int]]] = {}
    for split, part in _FILES.items():
        path = tree.needed(f"original/{part}_partition.txt", f"{part}_partition.txt", f"sports1m_{part}.json")
        listed = _from_json(path, len(names)) if path.suffix == ".json" else _from_text(path, len(names))
        numbers_of[split] = {}
        for video, numbers in listed:
            numbers_of[split].setdefault(video, set()).update(numbers)
    numbers_of["train"] = {v: n for v, n in numbers_of["train"].items() if v not in numbers_of["val"]}
    return tree.prepared(_samples(numbers_of, names, tree))


def _samples(numbers_of: dict[str, dict[str, set[int]]], names: Sequence[str], tree: Tree) -> Iterator[Sample]:
    for split, videos in numbers_of.items():
        for video, numbers in videos.items():
            yield tree.sample(f"{video}.mp4", labels=[names[number] for number in sorted(numbers)], split=split)


def _from_text(path: Path, num_labels: int) -> _Listed:
    expected = f"URL NUMBER[,NUMBER...] with numbers below {num_labels}"
    for line in lines_of(path):
        url, numbers = line.split_last(expected)
        match = _URL.fullmatch(url)
        if not match:
            raise line.refusal(expected)
        yield match[1], [number_within(text, line, below=num_labels, expected=expected) for text in numbers.split(",")]


def _from_json(path: Path, num_labels: int) -> _Listed:
    for number, entry in enumerate(read_json_list(path, of=""), 1):
        video, numbers = entry.get("id"), entry.get("label487")
        known = isinstance(numbers, list) and all(type(n) is int and 0 <= n < num_labels for n in numbers)
        if not (isinstance(video, str) and _ID.fullmatch(video) and known and numbers):
            raise DataError(f"{path}: entry {number} is not a video with an id and label487: {str(entry)[:200]}.")
        yield video, numbers
