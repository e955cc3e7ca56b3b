"""PASCAL VOC's classification task: an image has every class of which it shows an object that is not difficult.

    ROOT/VOCdevkit/VOC2007/             or ROOT/VOC2007/, or ROOT/ itself
      ImageSets/Main/trainval.txt       one image a line; also test.txt
      Annotations/000005.xml
      JPEGImages/000005.jpg

torchvision gives each image's XML as it is, and leaves to the caller which labels follow from it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from cfvid.data.manifest import Sample
from cfvid.data.official.text import lines_of
from cfvid.data.official.tree import Prepared, Tree
from cfvid.errors import DataError

_FILES = {"train": "trainval.txt", "val": "test.txt"}
_MAX_BYTES = 1_000_000


def read_voc(root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = (), year: int) -> Prepared:
    """Read trainval as `train` and test as `val`.

    A class that an image shows only difficult objects of is one of its `unsure_labels`: neither a positive nor a
    negative, as in the official evaluation.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.
        year: of the challenge.

    Raises:
        DataError: when a list or an annotation is missing or of another form.
    """
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    samples: list[Sample] = []
    for split, name in _FILES.items():
        path = tree.needed(f"VOC{year}/ImageSets/Main/{name}", f"ImageSets/Main/{name}")
        samples += _samples(path, split, tree)
    return tree.prepared(samples)


def _samples(path: Path, split: str, tree: Tree) -> Iterator[Sample]:
    home = path.parents[2]
    for line in lines_of(path):
        if not line.text.replace("_", "").isalnum():
            raise line.refusal("the name of an image")
        sure, unsure = _labels(home / "Annotations" / f"{line.text}.xml")
        listed = (home / "JPEGImages" / f"{line.text}.jpg").relative_to(tree.root).as_posix()
        yield tree.sample(listed, labels=sure, unsure_labels=unsure, split=split, sample_id=line.text)


def _labels(path: Path) -> tuple[list[str], list[str]]:
    """The classes of the objects of one image: those that it has, and those that only difficult ones are of."""
    difficult: dict[str, list[bool]] = {}
    for node in _parsed(path).iterfind("object"):
        name = (node.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{path} has an object without a name.")
        difficult.setdefault(name, []).append((node.findtext("difficult") or "0").strip() == "1")
    sure = sorted(name for name, marks in difficult.items() if not all(marks))
    return sure, sorted(set(difficult) - set(sure))


def _parsed(path: Path) -> ElementTree.Element:
    """An XML file without a document type: expat alone limits how far entities grow, but does expand them."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise DataError(f"{path} is too large for an annotation: more than {_MAX_BYTES} bytes.")
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = _refuse_document_type
        parser.Parse(data, True)
        return ElementTree.fromstring(data)
    except _DocumentType as error:
        raise DataError(f"{path} declares a document type, which annotations do not; it is refused.") from error
    except (expat.ExpatError, ElementTree.ParseError, LookupError) as error:
        raise DataError(f"{path} is not XML.", why=str(error)) from error
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.", fix="Unpack the annotations of both parts of the set.") from error


class _DocumentType(Exception):
    """A document type was declared."""


def _refuse_document_type(*_: object) -> None:
    raise _DocumentType
