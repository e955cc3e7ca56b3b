"""k-means for very many clusters: first coarse groups, then clusters within each, then all of them together.

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
from cfvid.seeds import derive

logger = logging.getLogger(__name__)

_REFINEMENTS = 6
"""Iterations over all points and clusters after the groups were clustered apart."""


class HierarchicalEngine:
    """See `cfvid.clustering.base.KMeansEngine`; nearest centroids are nearly always the nearest.

    Args:
        coarse: fits the coarse groups, as many as the square root of the number of clusters.
        within: fits the clusters of each group, whose points are held in memory.
    """

    name = "hierarchical"

    def __init__(self, coarse: KMeansEngine, within: KMeansEngine) -> None:
        self.coarse, self.within = coarse, within

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
        """Fit centroids; see the protocol. A subsample is held in memory."""
        sample = fitting_sample(num_clusters, max_points_per_centroid, seed)
        rows = sample.rows(len(points_ND)) if sample else None
        if rows is not None:
            points_ND = np.array(points_ND[rows], dtype=np.float32)

        def fit(engine: KMeansEngine, points: np.ndarray, num: int, *key: str | int) -> np.ndarray:
            return engine.fit(
                points,
                num_clusters=num,
                spherical=spherical,
                iterations=iterations,
                restarts=restarts,
                max_points_per_centroid=None,
                seed=derive(seed, *key),
            ).centroids_KD

        num_groups = round(math.sqrt(num_clusters))
        coarse_KD = fit(self.coarse, points_ND, num_groups, "coarse")
        groups, _ = self.coarse.assign(points_ND, coarse_KD)
        logger.info("k-means: %d clusters within %d coarse groups", num_clusters, num_groups)
        parts = []
        for group, (own_rows, num) in enumerate(_shares(groups, num_groups, num_clusters)):
            own = np.array(points_ND[own_rows], dtype=np.float32)
            parts.append(own if num == len(own) else fit(self.within, own, num, "group", group))
        return self._refined(np.concatenate(parts), points_ND, spherical=spherical)

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
