"""Passes over points in blocks: of all that k-means does, what takes the time.

Where several processes take part and the points lie in a file, each looks at its own stretch of them. The main process
calls the functions here as if it were alone; the others `follow`, and do their share of each pass until they are
dismissed. What is decided from the sums, is decided by the main process, so that all have the same centroids.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cfvid import ranks
from cfvid.clustering.device_search import Points
from cfvid.clustering.search import Search, build_index
from cfvid.progress import progress_bar
from cfvid.seeds import derive

_BLOCK_BYTES = 64 * 2**20
"""Of one block of points; two are held at a time."""


@dataclass(frozen=True)
class Sample:
    """Some of the points, drawn at random: the same ones for everyone who knows this."""

    num: int
    """Of points; all where there are no more."""
    seed: int
    key: tuple[str | int, ...]
    """Names the draw."""

    def rows(self, num_points: int) -> np.ndarray | None:
        """Ascending; None for all."""
        return _drawn(num_points, self)


def fitting_sample(num_clusters: int, per_centroid: int | None, seed: int) -> Sample | None:
    """What a fit looks at, when it looks at so many points per centroid; None for all points."""
    return Sample(num_clusters * per_centroid, seed, ("k-means", "sample")) if per_centroid else None


@dataclass(frozen=True)
class _Pass:
    """One pass over the points, as the main process asks for it."""

    centroids_KD: np.ndarray
    search: Search
    use_gpu: bool
    desc: str
    sample: Sample | None = None
    num: int = 1
    """Nearest centroids to find."""
    path: Path | None = None
    """Of the points, where they are shared."""

    def rows(self, num_points: int) -> np.ndarray | None:
        """Of the sample; None for all."""
        return self.sample.rows(num_points) if self.sample else None

    def accumulated(self, points_ND: Points) -> tuple[np.ndarray, np.ndarray, float]:
        """See `accumulate`; of this process' stretch."""
        index = build_index(self.centroids_KD, self.search, use_gpu=self.use_gpu)
        own = _own(points_ND, self.rows(len(points_ND)))
        sums_KD, counts_K, total = index.add_up(block for _, block in blocks(*own, load=index.load, desc=self.desc))
        return ranks.summed(sums_KD), ranks.summed(counts_K).astype(np.int64), float(ranks.summed([total])[0])

    def found(self, points_ND: Points) -> tuple[np.ndarray, np.ndarray]:
        """See `nearest`; whole at the main process."""
        own_ND, _ = _own(points_ND, None)
        ids = np.empty((len(own_ND), self.num), dtype=np.int64)
        distances = np.empty((len(own_ND), self.num), dtype=np.float32)
        index = build_index(self.centroids_KD, self.search, num=self.num, use_gpu=self.use_gpu)
        for place, block_BD in blocks(own_ND, load=index.load, desc=self.desc):
            distances[place], ids[place] = index.search(block_BD, self.num)
        if ranks.count() == 1:
            return ids, distances
        parts = ranks.gathered((ids, distances)) or [(ids, distances)]
        return np.concatenate([some for some, _ in parts]), np.concatenate([some for _, some in parts])


def accumulate(
    points_ND: Points,
    centroids_KD: np.ndarray,
    *,
    search: Search,
    desc: str,
    use_gpu: bool = False,
    sample: Sample | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """One pass: each cluster's sum of points, float64 (K, D), its size (K,), and the sum of squared distances.

    Args:
        points_ND: float, may be a memory map.
        centroids_KD: float32.
        search: finds the nearest centroid.
        desc: names the work in the progress bar.
        use_gpu: search on GPUs.
        sample: look at these points only.
    """
    asked = _Pass(centroids_KD, search, use_gpu, desc, sample=sample)
    with _shared("accumulated", asked, points_ND):
        return asked.accumulated(points_ND)


def nearest(
    points_ND: Points, centroids_KD: np.ndarray, *, num: int, search: Search, use_gpu: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Each point's nearest centroids, nearest first: int64 (N, num), and squared distances float32 (N, num).

    Args:
        points_ND: float, may be a memory map.
        centroids_KD: float32.
        num: how many of them.
        search: finds them.
        use_gpu: search on GPUs.
    """
    asked = _Pass(centroids_KD, search, use_gpu, "assign", num=num)
    with _shared("found", asked, points_ND):
        return asked.found(points_ND)


# ---------------------------------------------------------------------------------------------- several processes


@contextlib.contextmanager
def _shared(what: str, asked: _Pass, points_ND: Points) -> Iterator[None]:
    """Ask the others for their share; points that only the main process has are its own work."""
    if ranks.count() == 1:
        yield
    elif isinstance(points_ND, np.memmap):
        ranks.from_main((what, replace(asked, path=Path(str(points_ND.filename)))))
        yield
    else:
        with ranks.alone():
            yield


def follow() -> None:
    """Do this process' share of every pass that the main one asks for, until it dismisses the others."""
    while (order := ranks.from_main(None)) is not None:
        what, asked = order
        getattr(asked, what)(np.load(asked.path, mmap_mode="r", allow_pickle=False))


def dismiss() -> None:
    """Let the other processes go on to what comes next."""
    ranks.from_main(None)


def _own(points_ND: Points, rows: np.ndarray | None) -> tuple[Points, np.ndarray | None]:
    """This process' stretch of the points, or of the rows that are looked at."""
    if rows is None:
        return points_ND[ranks.own_part(len(points_ND))], None
    return points_ND, rows[ranks.own_part(len(rows))]


# ---------------------------------------------------------------------------------------------- reading


@functools.lru_cache(maxsize=1)
def _drawn(num_points: int, sample: Sample) -> np.ndarray | None:
    if sample.num >= num_points:
        return None
    rng = np.random.default_rng(derive(sample.seed, *sample.key))
    return np.sort(rng.choice(num_points, sample.num, replace=False))


def blocks(
    points_ND: Points, rows: np.ndarray | None = None, *, load: Callable[[Points], Any], desc: str
) -> Iterator[tuple[slice, Any]]:
    """The points block by block, with their places; the next block is loaded while one is worked on.

    Args:
        points_ND: float, may be a memory map, or on a device.
        rows: only these, ascending; places count them.
        load: brings some points to where they are worked on.
        desc: names the work in the progress bar.
    """
    num, dim = len(points_ND) if rows is None else len(rows), points_ND.shape[1]
    size = max(1, _BLOCK_BYTES // (4 * dim))
    places = [slice(start, min(start + size, num)) for start in range(0, num, size)]

    def read(place: slice) -> Any:
        return load(points_ND[place if rows is None else rows[place]])

    bar = progress_bar(total=num, desc=desc, unit="point", unit_scale=True, shown=len(places) > 4)
    with ThreadPoolExecutor(1) as pool, bar:
        ahead = pool.submit(read, places[0]) if places else None
        for number, place in enumerate(places):
            assert ahead is not None
            block = ahead.result()
            ahead = pool.submit(read, places[number + 1]) if number + 1 < len(places) else None
            yield place, block
            bar.update(len(block))
