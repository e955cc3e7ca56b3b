"""Kinetics-400, -600 and -700: one CSV per split; clips cut to their segment, or whole videos.

    ROOT/                     or ROOT/annotations/
      train.csv
      validate.csv            or val.csv
      test.csv
      train/LABEL/ID_SSSSSS_EEEEEE.mp4     or without LABEL/, or without train/; or ID.mp4, the whole video

pytorchvideo reads class folders and lists in a form of its own, not these CSVs with their segments.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from cfvid.data.official.tree import Prepared, Tree
from cfvid.data.readers import read_kinetics_csv
from cfvid.errors import DataError

_NAME = re.compile(r"(?:.*[-_])?(train|val|validate|validation|test)\.csv", re.IGNORECASE)


def read_kinetics(root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = ()) -> Prepared:
    """Read the CSVs that there are; the names of their files decide the split.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.

    Raises:
        DataError: when there is no CSV, or naming the first line that is not in its format.
    """
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    samples = []
    for split, path in _tables(tree).items():
        listed = read_kinetics_csv(
            path, media_root=root, suffixes=suffixes, trusted_roots=trusted_roots, split=split, files=tree.files
        )
        listed.check_paths()
        samples += [dataclasses.replace(sample, split=split) for sample in listed]
    return tree.prepared(samples)


def _tables(tree: Tree) -> dict[str, Path]:
    """The CSV of each split; of several, one whose name is the split alone, then the one nearest to the root."""
    found: dict[str, Path] = {}
    for name in sorted(tree.others, key=lambda name: (len(name.rpartition("/")[2]), name.count("/"), name)):
        match = _NAME.fullmatch(name.rpartition("/")[2])
        if match:
            word = match[1].lower()
            found.setdefault("val" if word.startswith("val") else word, tree.root / name)
    if not found:
        raise DataError(
            f"{tree.root} has no train.csv, validate.csv, val.csv or test.csv, in no folder.",
            fix="Put the official annotations below the folder that --root names.",
        )
    return {split: found[split] for split in ("train", "val", "test") if split in found}
