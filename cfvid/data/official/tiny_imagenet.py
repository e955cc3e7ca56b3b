"""Tiny ImageNet: class folders for training, one folder and a list for validation. Labels are WordNet ids.

ROOT/                       or below tiny-imagenet-200/
  train/WNID/images/NAME.JPEG
  val/images/NAME.JPEG      with val/val_annotations.txt: `NAME.JPEG WNID X Y X Y`, with tabs; or val/WNID/...
  test/images/NAME.JPEG     unlabelled
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cfvid.data.manifest import Sample
from cfvid.data.official.imagenet import WNID
from cfvid.data.official.text import lines_of
from cfvid.data.official.tree import Prepared, Tree

_HOME = "tiny-imagenet-200"


def read_tiny_imagenet(root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = ()) -> Prepared:
    """Read the folders, and the list of a validation folder that has not been sorted into class folders.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.

    Raises:
        DataError: when the list of the validation images is missing, or naming its first line of another form.
    """
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    samples = [*_in_class_folders(tree, "train"), *_in_class_folders(tree, "val")]
    if not any(sample.split == "val" for sample in samples):
        samples += _listed_val(tree)
    for path in tree.below("test", f"{_HOME}/test"):
        samples.append(tree.sample(path, labels=[], split="test", sample_id=f"test/{Path(path).stem}"))
    return tree.prepared(samples)


def _in_class_folders(tree: Tree, split: str) -> Iterator[Sample]:
    for path in tree.below(split, f"{_HOME}/{split}"):
        wnid = next((part for part in path.split("/")[-3:-1] if WNID.fullmatch(part)), None)
        if wnid:
            yield tree.sample(path, labels=[wnid], split=split, sample_id=f"{split}/{Path(path).stem}")


def _listed_val(tree: Tree) -> Iterator[Sample]:
    for line in lines_of(tree.needed("val/val_annotations.txt", "val_annotations.txt")):
        name, _, rest = line.text.partition("\t")
        wnid = rest.split("\t")[0]
        if not WNID.fullmatch(wnid):
            raise line.refusal("NAME WNID and a box, with tabs between")
        yield tree.sample(f"val/images/{name}", labels=[wnid], split="val", sample_id=f"val/{Path(name).stem}")
