"""The feature store: one feature per sample, by sample id, in shards that are memory-mapped.

    STORE/
      inputs.json          what the features are made from: checkpoint, manifest, transform
      shards/00000.npy     float16 or float32, (n, D), or (n, V, D) where the views are kept apart; a shard with a value
                           that float16 cannot hold is float32, and says so in its .json (`overflow`)
      shards/00000.json    the shard's sample ids, its skips, and the digest of the .npy
      skips.jsonl          all skips
      record.json          written last

Shard i covers samples i * shard_size ... of the manifest's order, less those that could not be read. A shard
exists when its .json does, which is written after the .npy; a killed run redoes at most one shard, and the bytes
do not depend on where it was killed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cfvid import ranks
from cfvid.artifacts import (
    INPUTS_NAME,
    Record,
    atomic_file,
    contained,
    digest_file,
    read_json,
    remove_leftovers,
    write_json,
)
from cfvid.data.sample_ids import SampleIds
from cfvid.data.skips import LEDGER_NAME, Skip, write_skips
from cfvid.errors import DamagedArtifact, DataError
from cfvid.parts import parts

KIND = "features"


class FeatureWriter:
    """Writes a store shard by shard.

    Args:
        folder: the store, already claimed for its inputs.
        ids: the samples to extract, in the manifest's order.
        shard_size: samples per shard.
    """

    def __init__(self, folder: Path, ids: Sequence[str], *, shard_size: int) -> None:
        self._folder, self._ids, self._shard_size = folder, ids, shard_size
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        if ranks.is_main():
            remove_leftovers(folder / "shards")
        ranks.barrier()

    @property
    def num_shards(self) -> int:
        """Shards that the whole store has."""
        return -(-len(self._ids) // self._shard_size)

    def ids_of(self, shard: int) -> Sequence[str]:
        """The samples that a shard covers."""
        return self._ids[shard * self._shard_size : (shard + 1) * self._shard_size]

    def written(self, shard: int) -> dict[str, Any] | None:
        """A shard's description when it is whole, else None."""
        array_path, info_path = self._paths(shard)
        if not info_path.is_file():
            return None
        info: dict[str, Any] = read_json(info_path)
        whole = array_path.is_file() and digest_file(array_path) == info["sha256"]
        return info if whole else None

    def write(
        self,
        shard: int,
        *,
        ids: list[str],
        features: np.ndarray,
        skips: Sequence[Skip],
        fallbacks: Counter[str],
        num_views: int,
        overflow: bool = False,
    ) -> None:
        """Write one shard: `features[i]` belongs to `ids[i]`, and was made from `num_views` views.

        Args:
            ids: the samples that could be read.
            features: float16 or float32, (n, ...).
            skips: the samples that could not.
            fallbacks: how many samples each decoder other than the first one read.
            num_views: of each sample.
            overflow: whether the features are wider than was asked for, since they did not fit that.
        """
        if len(ids) != len(features):
            raise AssertionError(f"{len(ids)} ids for {len(features)} features")
        array_path, info_path = self._paths(shard)
        with atomic_file(array_path) as temporary, open(temporary, "wb") as file:
            np.save(file, features, allow_pickle=False)
        info = {
            "sample_ids": ids,
            "skips": [{"sample_id": s.sample_id, "path": s.path, "reasons": list(s.reasons)} for s in skips],
            "fallbacks": dict(sorted(fallbacks.items())),
            "shape": list(features.shape),
            "num_views": num_views,
            "sha256": digest_file(array_path),
            **({"overflow": True} if overflow else {}),
        }
        write_json(info_path, info)

    def _paths(self, shard: int) -> tuple[Path, Path]:
        stem = self._folder / "shards" / f"{shard:05d}"
        return stem.with_suffix(".npy"), stem.with_suffix(".json")

    def finish(self) -> Record:
        """Write the ledger and the record, which complete the store."""
        infos = []
        for shard in range(self.num_shards):
            info = self.written(shard)
            if info is None:
                raise AssertionError(f"shard {shard} is missing")
            # The ids of all shards together would be too many strings.
            infos.append({**info, "sample_ids": None, "count": len(info["sample_ids"])})
        skips = [Skip(s["sample_id"], s["path"], tuple(s["reasons"])) for info in infos for s in info["skips"]]
        write_skips(self._folder / LEDGER_NAME, sorted(skips, key=lambda skip: skip.sample_id))
        fallbacks: Counter[str] = Counter()
        for info in infos:
            fallbacks.update(info["fallbacks"])
        num_samples = sum(info["count"] for info in infos)
        shape: list[int] = next((info["shape"][1:] for info in infos if info["count"]), [])
        overflowing = [shard for shard, info in enumerate(infos) if info.get("overflow")]
        names = [f"shards/{shard:05d}{end}" for shard in range(self.num_shards) for end in (".json", ".npy")]
        known = {f"shards/{shard:05d}.npy": info["sha256"] for shard, info in enumerate(infos)}
        return Record.write(
            self._folder,
            kind=KIND,
            inputs=read_json(self._folder / INPUTS_NAME),
            files=[*names, LEDGER_NAME],
            known=known,
            facts={
                "num_samples": num_samples,
                "num_skipped": len(skips),
                "shape": shape,
                "num_shards": self.num_shards,
                "views_seen": sum(info["num_views"] * info["count"] for info in infos),
                "fallbacks": dict(sorted(fallbacks.items())),
                **({"overflowing_shards": overflowing} if overflowing else {}),
            },
        )


def narrowed(parts: list[np.ndarray], dtype: np.dtype) -> tuple[np.ndarray, bool]:
    """Features that came in parts as one array of a dtype, or as they came where that cannot hold one of them.

    Args:
        parts: float32, (n, ...) each, finite; the list is emptied, so that no more than one copy is in memory.
        dtype: float16 or float32.

    Returns:
        The array, and whether it is wider than the dtype.
    """
    largest = max((float(np.abs(part).max(initial=0.0)) for part in parts), default=0.0)
    with np.errstate(over="ignore"):
        overflow = not np.isfinite(np.asarray(largest).astype(dtype))
    for place, part in enumerate(parts):
        parts[place] = part if overflow else part.astype(dtype)
    whole = np.concatenate(parts) if parts else np.empty((0, 0), dtype=dtype)
    parts.clear()
    return whole, overflow


class FeatureStore:
    """A complete store, opened for reading.

    Args:
        folder: the store.
        verify: digest every file first.

    Raises:
        ArtifactError: when the store is missing or not complete.
        DamagedArtifact: when a file was truncated or altered.
    """

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        self.folder = folder
        self.record = Record.read(folder, kind=KIND)
        if verify:
            self.record.verify(folder)
        infos = (f"shards/{shard:05d}.json" for shard in range(self.record.facts["num_shards"]))
        # Not as Python strings, each of which takes several times its text: stores have millions of them.
        ids = [pa.array(read_json(contained(folder, name))["sample_ids"], pa.string()) for name in infos]
        self.ids = SampleIds(pa.chunked_array(ids, pa.string()))
        """All sample ids, in the order of the shards."""
        self._starts = np.cumsum([0, *map(len, ids)])

    def __len__(self) -> int:
        return int(self.record.facts["num_samples"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample's feature: (D,), or (V, D) where the views are kept apart."""
        return tuple(self.record.facts["shape"])

    def shards(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Each shard's sample ids and its memory-mapped features, in the same order; without empty shards."""
        for number, (first, end) in enumerate(pairwise(self._starts.tolist())):
            if first < end:
                yield list(self.ids[first:end]), self._array(number)

    def _array(self, shard: int) -> np.ndarray:
        path = self.folder / "shards" / f"{shard:05d}.npy"
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DamagedArtifact(f"{path} is damaged.", why=str(error), fix="Run the extraction again.") from error
        return array

    def gather(self, ids: Sequence[str]) -> np.ndarray:
        """The features of these samples, in the order of `ids`: float32, (len(ids), *shape).

        Raises:
            DataError: naming ids that the store does not have.
        """
        rows = self.ids.find(ids)
        absent = [ids[i] for i in np.flatnonzero(rows < 0).tolist()]
        if absent:
            raise DataError(
                f"{len(absent)} samples have no feature in {self.folder}, first: {', '.join(absent[:5])}.",
                why="they were not extracted, or could not be read (see its skips.jsonl)",
            )
        return self.take(rows)

    def take(self, rows: np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        """Some values of the features in these rows, int64 (M,): float32, (M, ..., D'); all values by default."""
        result = np.empty((len(rows), *self.shape[:-1], self._width(columns)), dtype=np.float32)
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        for shard in np.unique(shards):
            here = shards == shard
            result[here] = self._array(int(shard))[rows[here] - self._starts[shard], ..., columns]
        return result

    def part(self, rows: slice, columns: slice = slice(None)) -> np.ndarray:
        """Give what `take` gives, for rows that follow one another in `ids`."""
        first, end, _ = rows.indices(len(self))
        result = np.empty((end - first, *self.shape[:-1], self._width(columns)), dtype=np.float32)
        for shard, (start, stop) in enumerate(pairwise(self._starts.tolist())):
            low, high = max(first, start), min(end, stop)
            if low < high:
                result[low - first : high - first] = self._array(shard)[low - start : high - start, ..., columns]
        return result

    def blocks(self, columns: slice = slice(None), *, values: int = 1) -> Iterator[np.ndarray]:
        """Give what `part` gives for all samples, some at a time.

        Args:
            columns: of the features; all by default.
            values: how many are made of each sample, where that is more than its feature has.
        """
        own = math.prod(self.shape[:-1]) * self._width(columns)
        return (self.part(rows, columns) for rows in parts(len(self), max(own, values)))

    def _width(self, columns: slice) -> int:
        return len(range(*columns.indices(self.shape[-1])))


def mean_features(store: FeatureStore, width: int) -> Iterator[np.ndarray]:
    """The first values of all features in blocks, float32 (n, width), means over views where these are kept apart."""
    for features in store.blocks(slice(width)):
        yield features.mean(axis=1) if features.ndim == 3 else features
