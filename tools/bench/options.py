"""What the command line asks of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """How to measure."""

    size: str
    """`smoke`, `small`, `medium`, or `large` for a GPU: a key of each benchmark's SIZES."""
    workers: int
    """Decoding processes, on both sides."""
    rounds: int | None = None
    """Instead of the size's own number."""
    videos: Path | None = None
    """A folder of own videos for `decode`, `clips` and `cache`, instead of generated ones."""
