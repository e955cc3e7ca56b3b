"""Reading of artifacts that may be damaged, foreign or missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from cfvid.artifacts import Record
from cfvid.errors import ArtifactError, Interrupted


@contextlib.contextmanager
def tolerant(problems: list[str], what: str) -> Iterator[None]:
    """Turn the failure to read an artifact or a sample into a line of `problems`."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:  # whatever a damaged or foreign file leads to; it is told, not hidden
        lines = str(error).splitlines()
        problems.append(f"{what}: {lines[0] if lines else type(error).__name__}")


def recorded_digest(folder: Path, kind: str) -> str | None:
    """The digest of an artifact, by its record; None without one."""
    try:
        return Record.read(folder, kind=kind).digest
    except (ArtifactError, OSError, LookupError, AttributeError):
        return None
