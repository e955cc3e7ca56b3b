"""Chosen classes of ImageNet-21K: folders named by WordNet ids, and a list of those to use.

    ROOT/WNID/NAME.JPEG         or ROOT/train/WNID/NAME.JPEG

ImageNet-21K has no official validation split, so a part of each class is held out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cfvid.data.manifest import Sample
from cfvid.data.official.imagenet import WNID
from cfvid.data.official.text import lines_of
from cfvid.data.official.tree import Prepared, Tree
from cfvid.errors import ConfigError, DataError
from cfvid.seeds import derive


def read_imagenet_subset(
    root: Path,
    *,
    suffixes: Collection[str],
    trusted_roots: Sequence[str] = (),
    classes: Path,
    held_out: float = 0.05,
    seed: int = 0,
) -> Prepared:
    """Read the folders of the listed classes.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.
        classes: a text file with one WordNet id a line; what follows it on the line is a comment.
        held_out: the share of each class that is its `val`, at least one image of classes that have two.
        seed: of the choice of these images, which depends on their names alone.

    Raises:
        ConfigError: when the list does not exist.
        DataError: naming its first line of another form, or when none of its classes has images.
    """
    if not classes.is_file():
        raise ConfigError(f"The list of classes {classes} does not exist.")
    wnids = _listed(classes)
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    by_class: dict[str, list[Sample]] = {wnid: [] for wnid in wnids}
    for path in tree.media:
        wnid = path.split("/")[-2] if "/" in path else ""
        if wnid in by_class:
            sample_id = f"{wnid}/{Path(path).stem}"
            by_class[wnid].append(tree.sample(path, labels=[wnid], split="train", sample_id=sample_id))
    without = [wnid for wnid, samples in by_class.items() if not samples]
    told = f"{len(without):,} of the {len(wnids):,} classes in {classes} have no images below {root}."
    if len(without) == len(wnids):
        why = f"one of the folders would be {root / without[0]}"
        raise DataError(told, why=why, fix="Check --root, and that the archives are unpacked.")
    found = tree.prepared([sample for samples in by_class.values() for sample in _divided(samples, held_out, seed)])
    return dataclasses.replace(
        found,
        not_found=(*found.not_found, *(f"{wnid}/" for wnid in without)),
        shortage=told if len(without) > len(wnids) / 2 else None,
    )


def _listed(path: Path) -> list[str]:
    wnids: dict[str, None] = {}
    for line in lines_of(path):
        wnid = line.text.split()[0]
        if not WNID.fullmatch(wnid):
            raise line.refusal("a WordNet id such as n01440764")
        wnids[wnid] = None
    if not wnids:
        raise DataError(f"{path} lists no classes.")
    return list(wnids)


def _divided(samples: Sequence[Sample], held_out: float, seed: int) -> Iterator[Sample]:
    """The samples of a class, some of them in `val`."""
    ids = sorted((sample.sample_id for sample in samples), key=lambda name: derive(seed, "held-out", name))
    val = set(ids[: max(round(len(ids) * held_out), 1 if held_out and len(ids) > 1 else 0)])
    for sample in samples:
        yield dataclasses.replace(sample, split="val" if sample.sample_id in val else "train")
