"""Sample ids as a column of text: pools of many millions cannot afford lists and dicts of Python strings."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_TEXT = pa.large_string()
_BLOCK = 2**16
"""Ids that are Python strings at a time."""


class SampleIds(Sequence[str]):
    """Sample ids in some order, which can be looked up.

    An id takes its text and 8 bytes, and 12 bytes more once one was looked up: hashes, sorted, and whose they are.
    In a list and a dict it takes 150.

    Args:
        ids: in a column of text, or one by one.
    """

    def __init__(self, ids: pa.ChunkedArray | Iterable[str]) -> None:
        is_column = isinstance(ids, pa.ChunkedArray)
        self.column: pa.ChunkedArray = ids if is_column else pa.chunked_array([list(ids)], _TEXT)

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> SampleIds: ...
    def __getitem__(self, place: int | slice) -> str | SampleIds:
        if isinstance(place, slice):
            return SampleIds(self.column[place])
        return str(self.column[place].as_py())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            yield from self.column[start : start + _BLOCK].to_pylist()

    def __contains__(self, sample_id: object) -> bool:
        return isinstance(sample_id, str) and bool(self.find([sample_id])[0] >= 0)

    def __eq__(self, other: object) -> bool:
        """Whether the other is a sequence of the same ids in the same order."""
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(own == its for own, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)})"

    @property
    def num_bytes(self) -> int:
        """Of all ids, as UTF-8."""
        return pc.sum(pc.binary_length(self.column)).as_py() or 0

    def take(self, rows: np.ndarray) -> SampleIds:
        """The ids in these rows, int64 (M,)."""
        if self.column.num_chunks > 1 or self.column.type != _TEXT:
            # In one piece, which is not copied each time; of `string` a piece can hold 2 GiB.
            self.column = pa.chunked_array([self.column.cast(_TEXT).combine_chunks()])
        return SampleIds(self.column.take(pa.array(rows, pa.int64())))

    def each(self, rows: np.ndarray) -> Iterator[str]:
        """The ids in these rows one after the other, without a copy of them all."""
        for start in range(0, len(rows), _BLOCK):
            yield from self.take(rows[start : start + _BLOCK])

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """The rows of these ids: int64 (M,), in their order.

        Raises:
            KeyError: with an id that is not here.
        """
        rows = self.find(ids)
        if (rows < 0).any():
            raise KeyError(ids[int(rows.argmin())])
        return rows

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """As `rows`, with -1 for those that are not here."""
        if isinstance(ids, SampleIds) and self._is_same(ids):
            return np.arange(len(self))
        wanted, (hashes, rows) = _hashes(ids), self._sorted
        found = np.full(len(ids), -1, dtype=np.int64)
        # Another id may have the same hash: as long as the text differs, the next one of that hash is looked at.
        asked, places = np.arange(len(ids)), np.searchsorted(hashes, wanted)
        while len(asked):
            is_there = places < len(hashes)
            is_there[is_there] = hashes[places[is_there]] == wanted[asked[is_there]]
            asked, places = asked[is_there], places[is_there]
            candidates = rows[places].astype(np.int64)
            theirs = ids.each(asked) if isinstance(ids, SampleIds) else (ids[i] for i in asked.tolist())
            texts = zip(self.each(candidates), theirs, strict=True)
            is_same = np.fromiter((own == its for own, its in texts), dtype=bool, count=len(asked))
            found[asked[is_same]] = candidates[is_same]
            asked, places = asked[~is_same], places[~is_same] + 1
        return found

    def _is_same(self, ids: SampleIds) -> bool:
        return len(ids) == len(self) and ids.column.cast(_TEXT).equals(self.column.cast(_TEXT))

    def repeated(self) -> list[str]:
        """The ids that occur more than once, in no order."""
        hashes, rows = self._sorted
        is_shared = np.zeros(len(hashes), dtype=bool)
        is_shared[1:] = hashes[1:] == hashes[:-1]
        is_shared[:-1] |= is_shared[1:].copy()
        counts = Counter(self.each(rows[is_shared].astype(np.int64)))
        return [sample_id for sample_id, count in counts.items() if count > 1]

    @functools.cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """All hashes in ascending order, and the row of each; equal ones in the order of their rows."""
        hashes = _hashes(self)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order.astype(np.uint32 if len(order) < 2**32 else np.uint64)


def _hashes(ids: Sequence[Any]) -> np.ndarray:
    # Python's own: quick, and the same for as long as the process lives.
    return np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
