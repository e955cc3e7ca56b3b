"""HMDB51: one text file per class and fold.

    ROOT/
      CLASS_test_split1.txt       also _split2, _split3; in any folder, such as testTrainMulti_7030_splits/
      CLASS/NAME.avi              in any folder, such as hmdb51_org/

A line is `NAME.avi MARK`: 1 for training, 2 for testing, 0 for clips that are in neither part of this fold.
torchvision's class looks for the lists only after it has opened every video.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from cfvid.data.official.text import lines_of
from cfvid.data.official.tree import Prepared, Tree, check_fold
from cfvid.errors import DataError

_SPLITS = {"0": "unused", "1": "train", "2": "val"}


def read_hmdb51(root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = (), fold: int = 1) -> Prepared:
    """Read one fold; its test part is called `val`, and clips in neither part are `unused`.

    Groups are the films that clips were cut from, as their names say: FILM_CLASS_f_cm_np1_fr_goo_0.avi.

    Args:
        root: the data set's folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.
        fold: 1 to 3.

    Raises:
        ConfigError: for another fold.
        DataError: when the lists of this fold are missing, or naming the first line that is not in their format.
    """
    check_fold(fold, folds=3)
    tree = Tree(root, suffixes=suffixes, trusted_roots=trusted_roots)
    samples = []
    for label, path in _lists(tree, fold).items():
        for line in lines_of(path):
            name, mark = line.split_last("FILE 0|1|2")
            if mark not in _SPLITS:
                raise line.refusal("FILE 0|1|2")
            listed, group = f"{label}/{name}", _film_of(name, label)
            samples.append(tree.sample(listed, labels=[label], split=_SPLITS[mark], usual="hmdb51_org", group=group))
    return tree.prepared(samples)


def _film_of(name: str, label: str) -> str | None:
    """The name of the film or the video that a clip was cut from."""
    film = re.match(rf"(.+)_{re.escape(label)}_[fhlu]_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|med|goo)_\d+\.", name)
    return film[1] if film else None


def _lists(tree: Tree, fold: int) -> dict[str, Path]:
    """The list of each class; of several, the one nearest to the root."""
    name_of = re.compile(rf"(?:.*/)?([^/]+)_test_split{fold}\.txt")
    matches = [match for name in tree.others if (match := name_of.fullmatch(name))]
    nearest_last = sorted(matches, key=lambda match: (match[0].count("/"), match[0]), reverse=True)
    found = {match[1]: tree.root / match[0] for match in nearest_last}
    if not found:
        raise DataError(
            f"{tree.root} has no CLASS_test_split{fold}.txt, in no folder.",
            fix="Unpack the official train and test splits below the folder that --root names.",
        )
    return dict(sorted(found.items()))
