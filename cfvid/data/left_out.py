"""Files that are never samples, and how those that are left out are told."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

logger = logging.getLogger(__name__)

SYSTEM_NAMES = frozenset(
    {
        "$recycle.bin",
        "system volume information",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "__macosx",
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "lost+found",
        "__pycache__",
    }
)
"""What Windows, macOS, storage devices, file systems and Python put beside a user's files, in lower case."""
_CONVERT = {
    **dict.fromkeys((".heic", ".heif"), "Pillow does not read it: make it .jpg or .png, e.g. by ImageMagick"),
    **dict.fromkeys((".cr2", ".nef", ".arw", ".dng"), "a camera's raw data: develop it to .jpg or .png"),
}
"""What to do about pictures and videos that no decoder here reads."""
_NUM_TOLD = 8


def is_system_name(name: str) -> bool:
    """Whether a file or folder of this name is hidden (as `.DS_Store`, `._1.jpg` and `.ipynb_checkpoints` are), or made
    by a system and not by the user."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def tell_system_names(place: object, names: Iterable[str]) -> None:
    """Log which hidden files and folders of systems were passed over, where there are any.

    Args:
        place: where they lie.
        names: of each of them, without folders.
    """
    counts = Counter("._*" if name.startswith("._") else name for name in names)
    if counts:
        logger.info("%s: hidden files and those of systems were ignored: %s", place, _told(counts))


def told_suffixes(counts: Mapping[str, int]) -> str:
    """How many files that are no media have which suffix, and of some what can be done about it."""
    return _told({suffix or "no ending": count for suffix, count in counts.items()}, notes=_CONVERT)


def _told(counts: Mapping[str, int], *, notes: Mapping[str, str] | None = None) -> str:
    parts = []
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_NUM_TOLD]:
        note = (notes or {}).get(name)
        parts.append(f"{name} ({count}; {note})" if note else f"{name} ({count})")
    return ", ".join([*parts, *(["..."] if len(counts) > _NUM_TOLD else [])])
