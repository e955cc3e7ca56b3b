"""Text that other people chose (file names, labels, settings), made safe to show, and numbers made readable."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_LONGEST = 300
_HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Controls, format characters (bidi overrides among them), lone surrogates, line and paragraph separators."""
_JOINERS = "\u200c\u200d"
"""Needed by several scripts and by emoji; they reorder nothing."""


def visible(text: str, *, keep: str = "") -> str:
    """The text with characters that hide or reorder others written out, e.g. `U+202E` in brackets.

    Args:
        text: any text.
        keep: control characters to leave as they are, such as a newline.
    """
    return "".join(
        f"⟨U+{ord(c):04X}⟩"
        if unicodedata.category(c) in _HIDDEN_CATEGORIES and c not in _JOINERS and c not in keep
        else c
        for c in text
    )


def shortened(text: str, limit: int = _LONGEST) -> str:
    """The text, cut in its middle when it is longer than `limit`: both ends of a path say something."""
    half = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"


def duration(seconds: float) -> str:
    """Seconds for people: `0.4 s`, `40 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 0.05:
        return "< 0.1 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{minutes} min {rest:02d} s" if hours == 0 else f"{hours} h {minutes_left:02d} min"


def counted(number: int, noun: str) -> str:
    """`1 sample`, `2 samples`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign; zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def aligned(rows: Sequence[Sequence[str]], *, num_left: int) -> list[str]:
    """Table rows as lines: the first `num_left` columns to the left, the others to the right."""
    widths = [max(_cells(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = []
        for column, (text, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - _cells(text))
            cells.append(text + gap if column < num_left else gap + text)
        lines.append("  ".join(cells).rstrip())
    return lines


def _cells(text: str) -> int:
    """How many terminal cells the text takes: East Asian wide characters take two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(bool(unicodedata.combining(c)) for c in text)
