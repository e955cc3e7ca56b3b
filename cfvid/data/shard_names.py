"""How shards are named as a source: a .tar, a pattern with braces or wildcards, a folder; by a path or a URL."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cfvid.artifacts import INPUTS_NAME, contained, is_complete
from cfvid.data.left_out import is_system_name
from cfvid.data.tar_index import file_system
from cfvid.errors import DataError
from cfvid.media.source import below, is_url

SUFFIX = ".tar"
PIPE_PREFIX = "pipe:"
"""WebDataset's mark of a command whose output is a shard: always refused."""
_MAX_SHARDS = 1_000_000
_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")
_SPECIAL = re.compile(r"[{*?\[]")


@dataclass(frozen=True)
class Shards:
    """Shards and what their names are relative to."""

    root: str
    """A folder, or the start of a URL."""
    names: list[str]

    @property
    def places(self) -> list[str]:
        """Their paths or URLs."""
        return [below(self.root, name) for name in self.names]


def names_shards(text: str) -> bool:
    """Whether a source's path names shards by its text alone: as a URL, a pipe (to be refused), or by a .tar ending."""
    return text.startswith(PIPE_PREFIX) or is_url(text) or text.lower().endswith(SUFFIX)


def holds_only_shards(folder: Path, *, suffixes: Collection[str]) -> bool:
    """Whether a folder has .tar files, but neither folders nor media that would be read without them."""
    there = [entry for entry in os.scandir(folder) if not is_system_name(entry.name)]
    kinds = {Path(entry.name).suffix.lower() for entry in there}
    return SUFFIX in kinds and kinds.isdisjoint(suffixes) and not any(entry.is_dir() for entry in there)


def find_shards(text: str, *, trusted_roots: Sequence[str] = ()) -> Shards:
    """All shards that a path or a URL names, sorted.

    Args:
        text: as `names_shards`, or a folder.
        trusted_roots: folders that links may lead to.

    Raises:
        DataError: when it names none, a pipe, a folder whose shards are not all written, or a link that leads out of
            its folder.
    """
    if text.startswith(PIPE_PREFIX):
        raise DataError(
            f"The source {text} is a command.", why="commands are never run", fix="Name files, or a URL of fsspec."
        )
    root, names = _behind_url(text) if is_url(text) else _on_disk(text, trusted_roots)
    names = sorted(dict.fromkeys(names))
    if not names:
        raise DataError(f"The source {text} names no shards.", fix="Check the path; shards end in .tar.")
    return Shards(root, names)


def expand_braces(text: str) -> list[str]:
    """`a-{08..10}.tar` as a-08.tar, a-09.tar, a-10.tar, and `{train,val}.tar` as two names.

    Raises:
        DataError: when these are too many, or a range goes down.
    """
    parts = _GROUP.split(text)  # texts and the contents of braces in turn
    choices = [_choices(part, text) if number % 2 else [part] for number, part in enumerate(parts)]
    count = 1
    for several in choices:
        count *= len(several)
    if count > _MAX_SHARDS:
        raise _too_many(text)
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(inside: str, text: str) -> Sequence[str]:
    found = _RANGE.match(inside)
    if found is None:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < _MAX_SHARDS:
        raise _too_many(text) if last > first else DataError(f"{text}: the range {{{inside}}} goes down.")
    # As shells and WebDataset do: padded where the first number is.
    width = len(found[1]) if found[1].startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


def _too_many(text: str) -> DataError:
    return DataError(f"{text} stands for more than {_MAX_SHARDS:,} shards.", fix="Check the numbers in braces.")


def _split_root(text: str) -> tuple[str, str]:
    """The folders before the first braces or wildcard, and the rest."""
    special = _SPECIAL.search(text)
    cut = text[: special.start() if special else len(text)].rfind("/") + 1
    return text[:cut].rstrip("/") or ("/" if cut else "."), text[cut:]


# ---------------------------------------------------------------------------------------------- on a disk


def _on_disk(text: str, trusted_roots: Sequence[str]) -> tuple[str, list[str]]:
    if Path(text).is_dir():
        root, names = text, _below(text, f"**/*{SUFFIX}")
    elif Path(text).is_file():  # whatever characters its name has
        root, names = str(Path(text).parent), [Path(text).name]
    else:
        root, pattern = _split_root(text)
        names = [found for name in expand_braces(pattern) for found in _matches(root, name)]
    trusted = [Path(folder).resolve() for folder in trusted_roots]
    for name in names:
        path = Path(root, name)
        if not any(path.resolve().is_relative_to(folder) for folder in trusted):
            contained(Path(root), name)
    for folder in {Path(root), *(Path(root, name).parent for name in names)}:
        if (folder / INPUTS_NAME).is_file() and not is_complete(folder):
            raise DataError(
                f"The shards in {folder} are not all written.", fix="Run the cfvid data shard that wrote them again."
            )
    return root, names


def _matches(root: str, name: str) -> list[str]:
    # A name without wildcards is kept: that its file is missing is an error, not less data.
    return _below(root, name) if glob.has_magic(name) and not Path(root, name).exists() else [name]


def _below(root: str, pattern: str) -> list[str]:
    found = (path.relative_to(root) for path in Path(root).glob(pattern) if not path.is_dir())
    return [path.as_posix() for path in found if not any(map(is_system_name, path.parts))]


# ---------------------------------------------------------------------------------------------- behind a URL


def _behind_url(text: str) -> tuple[str, list[str]]:
    start = text.index("://") + 3
    if not text.lower().endswith(SUFFIX):
        text = f"{text.rstrip('/')}/*{SUFFIX}"
    root, pattern = _split_root(text[start:])
    root = text[:start] + (root if root != "." else "")
    return root, [found for name in expand_braces(pattern) for found in _remote_matches(root, name)]


def _remote_matches(root: str, name: str) -> list[str]:
    if "*" not in name:
        return [name]
    files, home = file_system(root)
    prefix = home.rstrip("/") + "/"
    try:
        found = [path.removeprefix(prefix) for path in files.glob(prefix + name)]
        return [path for path in found if not any(map(is_system_name, path.split("/")))]
    except OSError as error:
        raise DataError(f"{root} cannot be listed.", why=str(error)) from error
