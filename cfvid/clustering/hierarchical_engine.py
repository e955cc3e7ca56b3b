"""k-means for very many clusters: coarse groups first, starting points within each, then all clusters together.

There are about as many groups as each has clusters. A point is compared with the clusters of the groups nearest to it,
an eighth of them, instead of with all. What comes out is close to plain k-means, not the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import numpy as np

from cfvid.clustering.base import KMeansEngine, KMeansResult
from cfvid.clustering.passes import accumulate, fitting_sample, nearest
from cfvid.clustering.streaming_engine import moved
from cfvid.progress import progress_bar
from cfvid.seeds import derive

logger = logging.getLogger(__name__)

_REFINEMENTS = 5
"""Iterations over all points and clusters."""


class HierarchicalEngine:
    """See `cfvid.clustering.base.KMeansEngine`; nearest centroids are nearly always the nearest.

    Args:
        coarse: fits the coarse groups, as many as the square root of the number of clusters.
    """

    name = "hierarchical"

    def __init__(self, coarse: KMeansEngine) -> None:
        self.coarse = coarse

    def fit(
        self,
        points_ND: np.ndarray,
        *,
        num_clusters: int,
        spherical: bool,
        iterations: int,
        restarts: int,
        max_points_per_centroid: int | None,
        seed: int,
    ) -> KMeansResult:
        """Fit centroids; see the protocol. A subsample is held in memory; `iterations` are those of the groups."""
        sample = fitting_sample(num_clusters, max_points_per_centroid, seed)
        rows = sample.rows(len(points_ND)) if sample else None
        if rows is not None:
            points_ND = np.array(points_ND[rows], dtype=np.float32)
        num_groups = round(math.sqrt(num_clusters))
        coarse_KD = self.coarse.fit(
            points_ND,
            num_clusters=num_groups,
            spherical=spherical,
            iterations=iterations,
            restarts=restarts,
            max_points_per_centroid=None,
            seed=derive(seed, "coarse"),
        ).centroids_KD
        groups, _ = self.coarse.assign(points_ND, coarse_KD)
        logger.info("k-means: starting points of %d clusters from %d coarse groups", num_clusters, num_groups)
        shares = list(_shares(groups, num_groups, num_clusters))
        fits = (
            self._refined(_starting_points(points_ND, shares, derive(seed, "group", n)), points_ND, spherical=spherical)
            for n in range(restarts)
        )
        return min(fits, key=lambda fitted: fitted.objective[-1])

    def assign(self, points_ND: np.ndarray, centroids_KD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest centroid; see the protocol."""
        ids, distances = self.nearest(points_ND, centroids_KD, num=1)
        return ids[:, 0], distances[:, 0]

    def nearest(self, points_ND: np.ndarray, centroids_KD: np.ndarray, *, num: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest centroids; see the protocol."""
        return nearest(points_ND, centroids_KD, num=num, search="grouped")

    def _refined(self, centroids_KD: np.ndarray, points_ND: np.ndarray, *, spherical: bool) -> KMeansResult:
        """A few of Lloyd's iterations over all points."""
        objective = []
        for number in range(_REFINEMENTS):
            desc = f"k-means, all together {number + 1}/{_REFINEMENTS}"
            sums_KD, counts_K, distance = accumulate(points_ND, centroids_KD, search="grouped", desc=desc)
            objective.append(distance / 2 if spherical else distance)
            centroids_KD = moved(sums_KD, counts_K, spherical=spherical)
        return KMeansResult(centroids_KD, objective, len(points_ND))


def _starting_points(points_ND: np.ndarray, shares: list[tuple[np.ndarray, int]], seed: int) -> np.ndarray:
    """Of each group its share, far from each other; float32 (K, D)."""
    bar = progress_bar(total=len(shares), desc="k-means, starting points", unit="group", shown=len(shares) > 32)
    parts = []
    with bar:
        for number, (rows, num) in enumerate(shares):
            own_ND = np.array(points_ND[rows], dtype=np.float32)
            parts.append(own_ND[_far_apart(own_ND, num, np.random.default_rng(derive(seed, number)))])
            bar.update()
    return np.concatenate(parts)


def _far_apart(points_ND: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Rows drawn by k-means++ (Arthur and Vassilvitskii, SODA 2007): int64 (num,), none twice.

    scikit-learn's checks its input at each of the many draws, which takes six times as long as the draws.
    """
    squares_N = np.einsum("nd,nd->n", points_ND, points_ND)
    distances_N = np.full(len(points_ND), np.inf, dtype=np.float32)
    rows = np.empty(num, dtype=np.int64)
    rows[0] = rng.integers(len(points_ND))
    for place in range(1, num):
        last = rows[place - 1]
        to_last_N = squares_N - 2 * (points_ND @ points_ND[last]) + squares_N[last]
        # Copies of what was drawn are drawn when there is nothing else.
        np.minimum(distances_N, np.maximum(to_last_N, np.finfo(np.float32).tiny), out=distances_N)
        distances_N[last] = 0
        sums_N = np.cumsum(distances_N, dtype=np.float64)
        rows[place] = np.searchsorted(sums_N[:-1], rng.random() * sums_N[-1], side="right")
    return rows


def _shares(groups_N: np.ndarray, num_groups: int, num_clusters: int) -> Iterator[tuple[np.ndarray, int]]:
    """The rows of each group that has some, and its share of the clusters: at least one, at most one for each row."""
    order = np.argsort(groups_N, kind="stable")
    sizes = np.bincount(groups_N, minlength=num_groups)
    counts = np.minimum(np.maximum(1, np.floor(sizes * num_clusters / len(groups_N))), sizes).astype(np.int64)
    while counts.sum() != num_clusters:
        # The group with the most points for each of its clusters gets one more, that with the fewest has one less.
        if counts.sum() < num_clusters:
            counts[np.where(counts < sizes, sizes / np.maximum(counts, 1), -1).argmax()] += 1
        else:
            counts[np.where(counts > 1, sizes / np.maximum(counts, 1), np.inf).argmin()] -= 1
    ends = np.cumsum(sizes)
    for size, end, count in zip(sizes, ends, counts, strict=True):
        if size:
            yield np.sort(order[end - size : end]), int(count)
