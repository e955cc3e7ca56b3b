"""Annotation files as people and programs of all systems write them: byte order marks, line ends, blank lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfvid.errors import DataError


@dataclass(frozen=True)
class Line:
    """One line of an annotation file that is not blank."""

    path: Path
    number: int
    """From 1."""
    text: str
    """Without white space at its ends."""

    def refusal(self, expected: str) -> DataError:
        """The error for a line of another form than is expected."""
        return DataError(f"{self.path}:{self.number}: not {expected}: {self.text[:200]!r}.")

    def split_last(self, expected: str, *, separators: str | None = None) -> tuple[str, str]:
        """The text before and after the last separator, by default white space; names may have spaces.

        Raises:
            DataError: when there is none.
        """
        text = self.text
        for separator in separators or "":
            text = text.replace(separator, " ")
        parts = text.rsplit(maxsplit=1)
        if len(parts) != 2:
            raise self.refusal(expected)
        # Separators within the name are put back by taking it from the line itself.
        return self.text[: len(parts[0])], parts[1]


def lines_of(path: Path) -> Iterator[Line]:
    """The lines of a text file, without blank ones.

    Raises:
        DataError: when the file is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield Line(path, number, text.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.", why=str(error)) from error


def read_json_list(path: Path, *, of: str) -> list[dict[str, Any]]:
    """A JSON file that holds a list of objects.

    Args:
        path: the file.
        of: the key under which the list stands, or nothing when it is the whole file.

    Raises:
        DataError: when it is something else.
    """
    value = read_json_file(path)
    entries = value.get(of) if of and isinstance(value, dict) else value
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path} holds no list of objects" + (f" called {of!r}." if of else "."))
    return entries


def read_json_file(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        DataError: when it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON.", why=str(error)) from error


def number_within(text: str, line: Line, *, below: int, expected: str) -> int:
    """A number from 0 up to but not `below`, as plain digits.

    Raises:
        DataError: naming the line.
    """
    if not (text.isascii() and text.isdigit() and int(text[:9]) < below and len(text) < 10):
        raise line.refusal(expected)
    return int(text)
