"""Near-duplicates between two sets of samples: what a pool and a target's test split have in common."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cfvid.artifacts import write_text
from cfvid.errors import DataError

_BITS = 64
MAX_DISTANCE = 6
"""Of 64 bits: pictures that were scaled or encoded again differ by fewer, others by about 32."""


@dataclass(frozen=True)
class Leak:
    """A sample of one set that looks like one of the other."""

    one: str
    """Its id in the first set."""
    other: str
    """Its id in the second set."""
    distance: int
    """Bits in which their hashes differ: the most over the frames that were hashed; 0 for equal files."""


def find_leaks(one: pa.Table, other: pa.Table, *, max_distance: int = MAX_DISTANCE) -> list[Leak]:
    """Samples that look alike, by the hashes of `cfvid.data.check`.

    Args:
        one: the rows of a check, of a pool say.
        other: the rows of another one, of a target's test split say.
        max_distance: bits, of the 64 of each frame.

    Returns:
        Pairs, by the second id; of each second sample the nearest first one only.

    Raises:
        DataError: when one set is of pictures and the other of videos.
    """
    first_ids, first = _codes(one)
    second_ids, second = _codes(other)
    if not (len(first) and len(second)):
        return []
    num_frames = first.shape[1]
    if second.shape[1] != num_frames:
        raise DataError("One check is of pictures, the other of videos.", fix="Compare sets of one kind.")
    index = faiss.IndexBinaryFlat(_BITS * num_frames)
    index.add(_bytes(first))
    limits, _, rows = index.range_search(_bytes(second), max_distance * num_frames + 1)
    leaks = []
    for number, sample_id in enumerate(second_ids):
        near = rows[limits[number] : limits[number + 1]]
        apart = np.bitwise_count(first[near] ^ second[number]).max(axis=1) if len(near) else np.array([])
        if len(near) and apart.min() <= max_distance:
            best = int(apart.argmin())
            leaks.append(Leak(first_ids[near[best]], sample_id, int(apart[best])))
    return leaks


def write_leaks(leaks: Sequence[Leak], path: Path) -> None:
    """Write all pairs as a CSV."""
    rows = io.StringIO(newline="")
    writer = csv.writer(rows)
    writer.writerow(["pool", "target", "distance"])
    writer.writerows([leak.one, leak.other, leak.distance] for leak in leaks)
    write_text(path, rows.getvalue())


def num_without_hash(table: pa.Table) -> int:
    """Samples that cannot be compared: unreadable, or flat pictures, all of which look alike."""
    return table.num_rows - len(_codes(table)[0])


def _codes(table: pa.Table) -> tuple[list[str], np.ndarray]:
    """The samples whose frames all have a hash: their ids, and uint64 (N, frames)."""
    readable = table.filter(pc.is_valid(table["hashes"]))
    pairs = zip(readable["sample_id"].to_pylist(), readable["hashes"].to_pylist(), strict=True)
    whole = [(sample_id, hashes) for sample_id, hashes in pairs if hashes and None not in hashes]
    codes = np.array([hashes for _, hashes in whole], dtype=np.uint64)
    return [sample_id for sample_id, _ in whole], codes


def _bytes(codes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(codes).view(np.uint8).reshape(len(codes), -1)
