"""Durations and sizes as people say them."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB")


def duration_text(seconds: float) -> str:
    """`under a second`, `about 45 s`, `about 12 min`, `about 3 h 20 min`, `about 5 days`: two figures at most."""
    if seconds < 1:
        return "under a second"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {minutes} min"
    if minutes < 48 * 60:
        hours, rest = divmod(10 * round(minutes / 10), 60)
        return f"about {hours} h {rest} min" if rest else f"about {hours} h"
    return f"about {minutes / (24 * 60):.0f} days"


def size_text(num_bytes: float) -> str:
    """`0 B`, `512 kB`, `1.2 GB`: in powers of 1000, as disks are sold."""
    size, unit = float(num_bytes), 0
    while round(size) >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    digits = 1 if unit and size < 9.95 else 0
    return f"{size:.{digits}f} {_UNITS[unit]}"
