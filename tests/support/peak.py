"""How much memory an operation takes at its peak."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_EVERY_S = 0.002


@dataclass
class Peak:
    """Filled at the end."""

    bytes: int = 0
    """Anonymous memory beyond what was there before: pages of mapped files, which the system takes back when it needs
    them, do not count."""


@contextlib.contextmanager
def anonymous_peak() -> Iterator[Peak]:
    """Look, every few milliseconds, at how much this process holds that is no part of a file."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("needs /proc")
    gc.collect()
    peak, is_over = Peak(), threading.Event()
    before = highest = _anonymous_bytes()

    def watch() -> None:
        nonlocal highest
        while not is_over.wait(_EVERY_S):
            highest = max(highest, _anonymous_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
        highest = max(highest, _anonymous_bytes())
    finally:
        is_over.set()
        thread.join()
        peak.bytes = highest - before


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
