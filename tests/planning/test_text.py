"""Durations and sizes as people say them."""

from __future__ import annotations

import pytest

from cfvid.planning.text import duration_text, size_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "under a second"),
        (0.99, "under a second"),
        (44.6, "about 45 s"),
        (89.4, "about 89 s"),
        (89.6, "about 90 s"),
        (91.0, "about 2 min"),
        (59.4 * 60, "about 59 min"),
        (59.6 * 60, "about 1 h"),
        (3 * 3600 + 19 * 60, "about 3 h 20 min"),
        (3 * 3600 + 57 * 60, "about 4 h"),
        (47.7 * 3600, "about 47 h 40 min"),
        (5.2 * 86400, "about 5 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9960, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (1_249_000_000, "1.2 GB"),
        (5_000_000_000_000_000, "5000 TB"),
    ],
)
def test_sizes(num_bytes: float, text: str) -> None:
    assert size_text(num_bytes) == text
