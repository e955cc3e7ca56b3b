"""Something-Something V2: JSON lists.

ROOT/                             in any folder, also with `something-something-v2-` before the names
  labels.json                     {"TEMPLATE": "NUMBER"}
  train.json, validation.json     [{"id": "78687", "template": "Holding [something] next to [something]", ...}]
  test.json                       [{"id": "1420"}]
  ID.webm                         in any folder, such as 20bn-something-something-v2/
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cfvid.data.manifest import Sample
from cfvid.data.official.text import read_json_file, read_json_list
from cfvid.data.official.tree import Prepared, Tree
from cfvid.errors import DataError

_FILES = {"train": "train", "val": "validation", "test": "test"}
_PREFIX = "something-something-v2-"


def read_something_v2(root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = ()) -> Prepared:
    """Read the lists; a label is its template without brackets, and the test split has none.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.

    Raises:
        DataError: when the training list or the labels are missing, or naming the first entry of another form.
    """
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    path = tree.needed("labels.json", f"{_PREFIX}labels.json")
    known = read_json_file(path)
    if not isinstance(known, dict):
        raise DataError(f"{path} is not an object of labels and numbers.")
    tree.needed("train.json", f"{_PREFIX}train.json")
    samples: list[Sample] = []
    for split, name in _FILES.items():
        listed = tree.annotation(f"{name}.json", f"{_PREFIX}{name}.json")
        samples += _samples(listed, split, tree, known) if listed else []
    return tree.prepared(samples)


def _samples(path: Path, split: str, tree: Tree, known: Collection[str]) -> Iterator[Sample]:
    for number, entry in enumerate(read_json_list(path, of=""), 1):
        video, template = entry.get("id"), entry.get("template")
        label = template.replace("[", "").replace("]", "") if isinstance(template, str) else None
        if not (isinstance(video, str) and video.isalnum()) or (split != "test" and label not in known):
            raise DataError(
                f"{path}: entry {number} is not a video with an id and a known template: {str(entry)[:200]}."
            )
        labels = [label] if label and split != "test" else []
        yield tree.sample(f"{video}.webm", labels=labels, split=split, usual="20bn-something-something-v2")
