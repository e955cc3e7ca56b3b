"""Something-Something V1: lists with semicolons.

    ROOT/                                     in any folder
      something-something-v1-labels.csv       one label a line
      something-something-v1-train.csv        `ID;LABEL`
      something-something-v1-validation.csv   `ID;LABEL`
      something-something-v1-test.csv         `ID`
      ID.webm or ID.mp4                       in any folder

The official media are folders of JPEG frames, `ID/00001.jpg`, 12 per second. cfvid reads videos: each folder has to be
made one file first, as the card says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cfvid.data.manifest import Sample
from cfvid.data.official.text import lines_of
from cfvid.data.official.tree import Prepared, Tree
from cfvid.errors import DataError

_FILES = {"train": "train", "val": "validation", "test": "test"}
_NAME = "something-something-v1-{}.csv"


def read_something_v1(root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = ()) -> Prepared:
    """Read the lists; the test split has no labels.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.

    Raises:
        DataError: when the training list or the labels are missing, naming the first line of another form, or when the
            media are folders of frames.
    """
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    known = {line.text for line in lines_of(tree.needed(_NAME.format("labels")))}
    tree.needed(_NAME.format("train"))
    samples: list[Sample] = []
    for split, name in _FILES.items():
        listed = tree.annotation(_NAME.format(name))
        samples += _samples(listed, split, tree, known) if listed else []
    _refuse_frames(tree, samples)
    return tree.prepared(samples)


def _samples(path: Path, split: str, tree: Tree, known: Collection[str]) -> Iterator[Sample]:
    for line in lines_of(path):
        video, _, label = (part.strip() for part in line.text.partition(";"))
        if not video.isalnum() or (split != "test" and label not in known):
            raise line.refusal("ID;LABEL with a known label")
        labels = [label] if label and split != "test" else []
        yield tree.sample(f"{video}.webm", labels=labels, split=split, usual="20bn-something-something-v1")


def _refuse_frames(tree: Tree, samples: Collection[Sample]) -> None:
    folders = {parts[-2]: Path(*parts[:-1]) for path in tree.others if len(parts := path.split("/")) > 1}
    found = set(tree.media)
    frames = next((folders[i] for s in samples if s.path not in found and (i := s.sample_id) in folders), None)
    if frames is not None:
        raise DataError(
            f"{tree.root / frames} is a folder of frames; cfvid reads videos.",
            fix="Make a video of each folder at 12 frames per second: ffmpeg -framerate 12 -i ID/%05d.jpg "
            "-vf 'pad=ceil(iw/2)*2:ceil(ih/2)*2' -pix_fmt yuv420p -crf 18 ID.mp4",
        )
