"""Paths in manifests that were written on other systems: with backslashes, drives, blanks at their ends, as URIs."""

from __future__ import annotations

import logging
import ntpath
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cfvid.data.manifest import MEMBER_MARK
from cfvid.errors import DataError

logger = logging.getLogger(__name__)

_SUSPECT = r"(?i)\\|^\s|\s$|^file:|^[a-z]:/"
_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\|//")
"""A drive, or a server and what it shares."""


def mended_paths(paths: pa.ChunkedArray, *, ids: pa.ChunkedArray, root: str, place: Path) -> pa.ChunkedArray:
    """The paths as they are called here; what is there as it is written is left alone.

    Blanks at the ends go, backslashes become slashes, and `file:` URIs become paths, where that names a file. Only
    paths that look so are looked at.

    Args:
        paths: text (N,).
        ids: of the samples, for messages.
        root: where relative paths start.
        place: the manifest file, for messages.

    Raises:
        DataError: for paths with a drive or a server, all of them in one message.
    """
    texts = paths.cast(pa.large_string())
    rows = np.flatnonzero(pc.fill_null(pc.match_substring_regex(texts, _SUSPECT), False).to_numpy())
    suspects = {row: text for row in rows.tolist() if not _is_there(root, text := texts[row].as_py())}
    here = {row: _from_uri(text.strip()) for row, text in suspects.items()}
    of_windows = [row for row, path in here.items() if _OF_WINDOWS.match(path)]
    if of_windows:
        raise _refusal([here[row] for row in of_windows], ids[of_windows[0]].as_py(), len(texts), place)
    found = {row: _found(root, path) for row, path in here.items()}
    mended = {row: path for row, path in found.items() if path is not None}
    if len(mended) < len(found):
        first = next(suspects[row] for row in found if row not in mended)
        said = "%s: %d paths with backslashes, blanks at their ends or file: name no file, first: %r"
        logger.warning(said, place, len(found) - len(mended), first)
    if not mended:
        return paths
    first = next(iter(mended))
    said = "%s: %d paths are read as they are called here, first: %r as %r"
    logger.info(said, place, len(mended), suspects[first], mended[first])
    is_mended = np.zeros(len(texts), dtype=bool)
    is_mended[list(mended)] = True
    replacements = pa.array(list(mended.values()), pa.large_string())
    return pa.chunked_array([pc.replace_with_mask(texts.combine_chunks(), pa.array(is_mended), replacements)])


def _is_there(root: str, path: str) -> bool:
    return MEMBER_MARK in path or _is_file(root, path)


def _found(root: str, path: str) -> str | None:
    """The path as it stands or with slashes, whichever names a file."""
    return next((name for name in (path, path.replace("\\", "/")) if _is_file(root, name)), None)


def _is_file(root: str, path: str) -> bool:
    # By text: a Path would leave out a dot or a slash at the end.
    return os.path.isfile(os.path.join(root, path))  # noqa: PTH113, PTH118


def _from_uri(text: str) -> str:
    """The path of a `file:` URI; other texts as they are."""
    if not text.lower().startswith("file:"):
        return text
    parts = urlsplit(text)
    server = "" if parts.netloc.lower() in ("", "localhost") else f"//{parts.netloc}"
    path = unquote(parts.path)
    return path[1:] if re.match(r"/[A-Za-z]:/", path) else server + path


def _refusal(paths: Sequence[str], first_id: str, num_samples: int, place: Path) -> DataError:
    try:
        home = ntpath.commonpath([ntpath.dirname(path) for path in paths])
    except ValueError:  # several drives
        home = ""
    drive, rest = ntpath.splitdrive(paths[0])
    # commonpath has backslashes, whatever the paths have.
    start = paths[0][: len(home)] or drive
    short = (paths[0][len(home) :] if home else rest).lstrip("\\/").replace("\\", "/")
    return DataError(
        f"{place}: {len(paths)} of {num_samples} paths are those of a Windows machine, first: {paths[0]} "
        f"(sample {first_id}).",
        why=f"there is no {drive} here",
        fix=f"Leave out {start}, so that this one reads {short}, and name the folder that holds the files here by "
        "media_root.",
    )
