"""Folders of media as samples: which files there are, and what the folders say of their splits and classes."""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath

import pyarrow as pa

from cfvid.artifacts import contained
from cfvid.data.left_out import is_system_name, tell_system_names, told_suffixes
from cfvid.data.manifest import Manifest, repeated
from cfvid.data.split_names import Contents, are_splits, role_of
from cfvid.errors import DataError

logger = logging.getLogger(__name__)


def read_folder(
    root: Path,
    *,
    suffixes: Collection[str],
    train_split: str | None = None,
    val_split: str | None = None,
    only_classes: bool = False,
    trusted_roots: Sequence[str] = (),
) -> Manifest:
    """Class folders as a manifest; sample ids are paths relative to `root`.

        ROOT/{train,val}/CLASS/FILE    labelled, with splits
        ROOT/CLASS/FILE                labelled, all in `train`
        ROOT/FILE                      unlabelled, all in `train`

    Whether top folders are splits is decided by `split_names.are_splits`; where one is, all are. Deeper folders belong
    to their class. Files that are no media of this modality are ignored, and told in the log by their suffixes.

    Args:
        root: the folder.
        suffixes: file name endings that are media.
        train_split: the name of the folder that is called `train` above, where the user gave it.
        val_split: the same of `val`.
        only_classes: that no top folder is a split, whatever its name.
        trusted_roots: folders that linked folders may lead to.

    Raises:
        DataError: when a linked folder leads out of `root` and of every trusted root, a file name is not UTF-8, or top
            folders can be splits as well as classes.
    """
    names = _names_below(root, trusted_roots=trusted_roots)
    # By text: a Path of each takes several times as long.
    endings = [os.path.splitext(name)[1].lower() for name in names]  # noqa: PTH122
    media = [name for name, ending in zip(names, endings, strict=True) if ending in suffixes]
    if len(media) < len(names):
        told = told_suffixes(Counter(ending for ending in endings if ending not in suffixes))
        count = len(names) - len(media)
        logger.info("%s: %d files are no media of this modality and were ignored: %s", root, count, told)
    has_splits = not only_classes and _has_splits(root, names, media, train_split, val_split)
    train = train_split or "train"

    @functools.cache
    def place(folder: str) -> tuple[str, list[str]]:
        """The split and the labels of the files in a folder."""
        folders = folder.split("/") if folder else []
        split, below = (folders[0] if folders else "", folders[1:]) if has_splits else (train, folders)
        return split, below[:1]

    places, paths = [place(name.rpartition("/")[0]) for name in media], pa.array(media, pa.large_string())
    columns = {
        "sample_id": paths,
        "path": paths,
        "labels": pa.array([labels for _, labels in places], pa.list_(pa.large_string())),
        "split": pa.array([split for split, _ in places], pa.large_string()),
        **dict.fromkeys(("start_s", "end_s"), pa.nulls(len(media), pa.float64())),
        "root": repeated(str(root), len(media)),
    }
    return Manifest(pa.table(columns), trusted_roots=trusted_roots)


def _has_splits(
    root: Path, names: Sequence[str], media: Sequence[str], train_split: str | None, val_split: str | None
) -> bool:
    """Whether the top folders are splits, by the places of their media; told where one has a name that could be."""
    of_media = {name.rpartition("/")[0] for name in media} - {""}
    of_all = of_media if len(names) == len(media) else {name.rpartition("/")[0] for name in names} - {""}
    tops = {folder.partition("/")[0] for folder in of_all}
    depths: dict[str, set[bool]] = {top: set() for top in tops}
    for folder in of_media:
        top, _, rest = folder.partition("/")
        depths[top].add(bool(rest))
    contents: dict[str, Contents] = {
        top: "both" if len(found) > 1 else "none" if not found else "folders" if True in found else "files"
        for top, found in depths.items()
    }
    try:
        has_splits = are_splits(contents, train=train_split, val=val_split)
    except DataError as error:
        raise DataError(f"{root}: {error.what}", why=error.why, fix=error.fix) from error
    alike = sorted(top for top in tops if role_of(top))
    if alike and not has_splits:
        told = ", ".join(alike)
        logger.warning("%s: taken for a class, since all top folders hold media and no further folders: %s", root, told)
    return has_splits


def files_below(root: Path, *, trusted_roots: Sequence[str] = ()) -> list[PurePath]:
    """All files below a folder, relative to it, in one order on every machine.

    Hidden files and those of systems are left out (`left_out.is_system_name`).
    Linked folders are followed into trusted roots. Those that stay inside `root` are not, since their files are found
    at their real place.

    Raises:
        DataError: for a linked folder that leads elsewhere, and for names that are not UTF-8.
    """
    return [PurePath(name) for name in _names_below(root, trusted_roots=trusted_roots)]


def _names_below(root: Path, *, trusted_roots: Sequence[str]) -> list[str]:
    """List the files as text, which is several times as quick as paths: folders have millions of files."""
    found: list[str] = []
    passed_over: list[str] = []
    home, trusted = root.resolve(), [Path(path).resolve() for path in trusted_roots]
    stack, entered = [""], {home}
    while stack:
        folder = stack.pop()
        for entry in os.scandir(root / folder):
            name = folder + entry.name
            if is_system_name(entry.name):
                passed_over.append(entry.name)
            elif not entry.is_dir():
                found.append(name)
            elif not entry.is_symlink():
                stack.append(f"{name}/")
            else:
                target = Path(entry.path).resolve()
                if any(target.is_relative_to(path) for path in trusted):
                    if target not in entered:  # links can run in a circle
                        entered.add(target)
                        stack.append(f"{name}/")
                elif not target.is_relative_to(home):
                    contained(root, name)
    _check_names(found, root)
    tell_system_names(root, passed_over)
    # Folder by folder: no part of a path has a character before the one that separates them here.
    return sorted(found, key=lambda name: name.replace("/", "\0"))


def _check_names(names: Sequence[str], root: Path) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{root} has a file whose name is not UTF-8: {name!a}.", fix="Rename it.") from error
