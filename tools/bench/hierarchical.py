"""hierarchical: k-means of very many clusters in two levels, against all of them at once by faiss.

It counts only at nearly the same objective, so the notes give both, each by exact search of the nearest centroids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from cfvid.clustering.base import KMeansEngine
from cfvid.clustering.faiss_engine import FaissEngine
from cfvid.clustering.hierarchical_engine import HierarchicalEngine
from cfvid.faiss_import import faiss
from tools.bench.options import Options
from tools.bench.timing import Comparison, alternate, num_cores, rate_of

GOAL = 5.0


@dataclass(frozen=True)
class Size:
    """What is clustered."""

    num_points: int
    dim: int
    num_clusters: int
    iterations: int
    rounds: int


SIZES = {
    "smoke": Size(num_points=1_000, dim=8, num_clusters=50, iterations=3, rounds=1),
    "small": Size(num_points=150_000, dim=64, num_clusters=16_384, iterations=10, rounds=1),
}


def run(options: Options) -> Iterator[Comparison]:
    """One comparison."""
    size = SIZES[options.size]
    points_ND = _points(size)
    with threadpool_limits(num_cores()):
        faiss.omp_set_num_threads(num_cores())
        flat, ours = FaissEngine(), HierarchicalEngine(FaissEngine())
        rates = alternate(
            partial(rate_of, partial(_fit, flat, points_ND, size), units=1),
            partial(rate_of, partial(_fit, ours, points_ND, size), units=1),
            rounds=options.rounds or size.rounds,
        )
        objective, reference = (
            float(flat.assign(points_ND, _fit(engine, points_ND, size))[1].sum()) for engine in (ours, flat)
        )
        yield Comparison(
            benchmark="hierarchical",
            what=f"{size.num_points} x {size.dim}, K {size.num_clusters}, {size.iterations} iterations",
            reference="flat, by faiss",
            unit="fits/s",
            goal=GOAL,
            candidate_rates=rates[0],
            reference_rates=rates[1],
            notes={"objective ratio": objective / reference},
        )


def _fit(engine: KMeansEngine, points_ND: np.ndarray, size: Size) -> np.ndarray:
    return engine.fit(
        points_ND,
        num_clusters=size.num_clusters,
        spherical=False,
        iterations=size.iterations,
        restarts=1,
        max_points_per_centroid=None,
        seed=1,
    ).centroids_KD


def _points(size: Size) -> np.ndarray:
    """Overlapping blobs, a quarter as many as clusters, as unit rows: float32 (N, D)."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(size.num_clusters // 4, size.dim))
    points = centres[rng.integers(len(centres), size=size.num_points)] + rng.normal(size=(size.num_points, size.dim))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), dtype=np.float32)
