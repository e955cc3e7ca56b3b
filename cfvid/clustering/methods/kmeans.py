"""ClusterFit itself: k-means over the whole pool (Yan et al., CVPR 2020)."""

from __future__ import annotations

import logging

import numpy as np

from cfvid.clustering.base import KMeansResult
from cfvid.clustering.methods.base import Grouping, Pool, by_nearest

logger = logging.getLogger(__name__)


def kmeans(pool: Pool) -> Grouping:
    """See `cfvid.clustering.methods.base.Method`."""
    fitted = fit(pool, pool.points_NP, num_clusters=pool.config.clusters_of(len(pool.ids)), seed=pool.seed)
    if fitted.num_fitted < len(pool.ids):
        logger.info(
            "cluster: centroids were fitted on %d of %d samples (max_points_per_centroid is %d)",
            fitted.num_fitted,
            len(pool.ids),
            pool.config.max_points_per_centroid,
        )
    return by_nearest(pool, fitted.centroids_KD, num_fitted=fitted.num_fitted, objective=fitted.objective)


def fit(pool: Pool, points_NP: np.ndarray, *, num_clusters: int, seed: int) -> KMeansResult:
    """k-means over some points of a pool, with its settings."""
    return pool.engine.fit(
        points_NP,
        num_clusters=num_clusters,
        spherical=pool.config.distance == "spherical",
        iterations=pool.config.iterations,
        restarts=pool.config.restarts,
        max_points_per_centroid=pool.config.max_points_per_centroid,
        seed=seed,
    )
