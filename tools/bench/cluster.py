"""cluster: cfvid's k-means, fit and assignment, against faiss called directly and against scikit-learn.

All sides get the same points, starting points and number of iterations; no side ends before, since the points overlap.
So they should come to the same objective, which the notes give: the sum over all points of the squared distance to the
nearest centroid, computed by the same function for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from cfvid.clustering.faiss_engine import FaissEngine
from cfvid.faiss_import import faiss
from tools.bench.options import Options
from tools.bench.timing import Comparison, alternate, num_cores, rate_of

GOAL = 1.0
_SEED = 1


@dataclass(frozen=True)
class Size:
    """What is clustered."""

    num_points: int
    dim: int
    num_clusters: int
    iterations: int
    rounds: int


SIZES = {
    "smoke": Size(num_points=500, dim=16, num_clusters=10, iterations=3, rounds=1),
    "small": Size(num_points=20_000, dim=256, num_clusters=200, iterations=20, rounds=5),
}
Clustering = Callable[[], np.ndarray]
"""Fits, assigns all points, and gives the centroids."""


def run(options: Options) -> Iterator[Comparison]:
    """One comparison per reference."""
    size = SIZES[options.size]
    points_ND = _points(size)
    candidate = _by_cfvid(points_ND, size)
    references = {
        "faiss.Kmeans": (_by_faiss(points_ND, size), GOAL),
        "scikit-learn KMeans": (_by_sklearn(points_ND, size), GOAL),
    }
    with threadpool_limits(num_cores()):
        faiss.omp_set_num_threads(num_cores())
        for name, (reference, goal) in references.items():
            yield _compare(name, reference, candidate, points_ND, size, options.rounds or size.rounds, goal)


def _compare(
    name: str,
    reference: Clustering,
    candidate: Clustering,
    points_ND: np.ndarray,
    size: Size,
    rounds: int,
    goal: float,
) -> Comparison:
    ours, theirs = objective(points_ND, candidate()), objective(points_ND, reference())
    rates = alternate(lambda: rate_of(reference, units=1), lambda: rate_of(candidate, units=1), rounds=rounds)
    return Comparison(
        benchmark="cluster",
        what=f"in memory, {size.num_points} x {size.dim}, K {size.num_clusters}, {size.iterations} iterations",
        reference=name,
        unit="fits/s",
        goal=goal,
        candidate_rates=rates[0],
        reference_rates=rates[1],
        notes={"objective": ours, "reference's objective": theirs, "objective ratio": ours / theirs},
    )


def _points(size: Size) -> np.ndarray:
    """A mixture of blobs that overlap, twice as many as clusters, as unit rows: float32, (N, D)."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2 * size.num_clusters, size.dim))
    points = centres[rng.integers(len(centres), size=size.num_points)]
    points = points + 4 * rng.normal(size=points.shape)
    unit_rows: np.ndarray = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return unit_rows


def _by_cfvid(points_ND: np.ndarray, size: Size) -> Clustering:
    engine = FaissEngine()

    def cluster() -> np.ndarray:
        fitted = engine.fit(
            points_ND,
            num_clusters=size.num_clusters,
            spherical=False,
            iterations=size.iterations,
            restarts=1,
            max_points_per_centroid=None,
            seed=_SEED,
        )
        engine.assign(points_ND, fitted.centroids_KD)
        return fitted.centroids_KD

    return cluster


def _by_faiss(points_ND: np.ndarray, size: Size) -> Clustering:
    def cluster() -> np.ndarray:
        kmeans = faiss.Kmeans(
            size.dim,
            size.num_clusters,
            niter=size.iterations,
            seed=_SEED,
            min_points_per_centroid=1,
            max_points_per_centroid=size.num_points,
        )
        kmeans.train(points_ND)
        kmeans.assign(points_ND)
        return np.asarray(kmeans.centroids)

    return cluster


def _by_sklearn(points_ND: np.ndarray, size: Size) -> Clustering:
    def cluster() -> np.ndarray:
        kmeans = KMeans(
            size.num_clusters,
            init=_first(points_ND, size),
            n_init=1,
            max_iter=size.iterations,
            tol=0.0,
            algorithm="lloyd",
        )
        kmeans.fit(points_ND)  # assigns all points at its end
        return np.asarray(kmeans.cluster_centers_)

    return cluster


def _first(points_ND: np.ndarray, size: Size) -> np.ndarray:
    """What faiss, and so cfvid, starts from."""
    kmeans = faiss.Kmeans(
        size.dim,
        size.num_clusters,
        niter=0,
        seed=_SEED,
        min_points_per_centroid=1,
        max_points_per_centroid=size.num_points,
    )
    kmeans.train(points_ND)
    return np.asarray(kmeans.centroids)


def objective(points_ND: np.ndarray, centroids_KD: np.ndarray) -> float:
    """Sum of squared distances of all points to their nearest centroid, in float64."""
    centroids = centroids_KD.astype(np.float64)
    total = 0.0
    for part in np.array_split(points_ND.astype(np.float64), max(1, len(points_ND) // 2048)):
        squared_NK = (part**2).sum(1)[:, None] - 2 * part @ centroids.T + (centroids**2).sum(1)
        total += float(squared_NK.min(axis=1).sum())
    return total
