"""Near-duplicates between two sets of samples: what a pool and a target's test split have in common."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cfvid.artifacts import write_text
from cfvid.errors import DataError
from cfvid.faiss_import import faiss

_BITS = 64
MAX_DISTANCE = 6
"""Of 64 bits: pictures that were scaled or encoded again differ by fewer, others by about 32."""
MIN_COSINE = 0.95
"""Between the features of two samples; how alike unrelated ones are hangs on the network."""
_COLUMNS = ("pool", "target", "distance", "cosine")


@dataclass(frozen=True)
class Leak:
    """A sample of one set that looks like one of the other."""

    one: str
    """Its id in the first set."""
    other: str
    """Its id in the second set."""
    distance: int | None = None
    """Bits in which their hashes differ: the most over the frames that were hashed; 0 for equal files."""
    cosine: float | None = None
    """Of their features, where these were compared."""


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


def find_leaks_by_features(
    one: tuple[Sequence[str], Iterable[np.ndarray]],
    other: tuple[Sequence[str], Iterable[np.ndarray]],
    *,
    min_cosine: float = MIN_COSINE,
) -> list[Leak]:
    """Samples that a network takes for alike.

    Args:
        one: ids, and features by the same network in blocks, float (n, D), of a pool say: one block is in memory.
        other: likewise, of a target's test split say; all of them are in memory.
        min_cosine: between features.

    Returns:
        Pairs, in the order of `other`; of each second sample the nearest first one only.

    Raises:
        DataError: when the features are not of one length.
    """
    (first_ids, blocks), (second_ids, others) = one, other
    if not (len(first_ids) and len(second_ids)):
        return []
    queries_MD = np.concatenate([_unit(block_MD) for block_MD in others])
    best_M, rows_M = np.full(len(queries_MD), -np.inf, dtype=np.float32), np.zeros(len(queries_MD), dtype=np.int64)
    done = 0
    for block_ND in blocks:
        if block_ND.shape[1] != queries_MD.shape[1]:
            raise DataError(
                f"The features have {block_ND.shape[1]} and {queries_MD.shape[1]} values.",
                fix="Compare stores by the same network, at the same layer.",
            )
        index = faiss.IndexFlatIP(block_ND.shape[1])
        index.add(_unit(block_ND))
        cosines_M1, found_M1 = index.search(queries_MD, 1)
        is_nearer = cosines_M1[:, 0] > best_M
        best_M[is_nearer], rows_M[is_nearer] = cosines_M1[is_nearer, 0], done + found_M1[is_nearer, 0]
        done += len(block_ND)
    return [
        Leak(first_ids[row], sample_id, cosine=cosine)
        for sample_id, cosine, row in zip(second_ids, best_M.tolist(), rows_M.tolist(), strict=True)
        if cosine >= min_cosine
    ]


def write_leaks(leaks: Sequence[Leak], path: Path) -> None:
    """Write all pairs as a CSV."""
    rows = io.StringIO(newline="")
    writer = csv.writer(rows)
    writer.writerow(_COLUMNS)
    writer.writerows([leak.one, leak.other, leak.distance, leak.cosine] for leak in leaks)
    write_text(path, rows.getvalue())


def read_leaked(path: Path) -> set[str]:
    """Ids of the target's samples in a file that `write_leaks` wrote.

    Raises:
        DataError: when it is no such file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != _COLUMNS:
                raise ValueError(f"its columns are not {', '.join(_COLUMNS)}")
            return {row["target"] for row in reader}
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path} is no list of leaks.", why=str(error), fix="Give a file that `cfvid data leaks --out` wrote."
        ) from error


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


def _unit(features_ND: np.ndarray) -> np.ndarray:
    copied = np.array(features_ND, dtype=np.float32, order="C")
    faiss.normalize_L2(copied)
    return copied


def _bytes(codes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(codes).view(np.uint8).reshape(len(codes), -1)
