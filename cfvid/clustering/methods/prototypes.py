"""Prototype alignment, a baseline of ClusterFit: the mean feature of each label instead of k-means' centroids."""

from __future__ import annotations

import logging

import numpy as np

from cfvid.clustering.methods.base import Grouping, Pool, by_nearest
from cfvid.errors import ConfigError

logger = logging.getLogger(__name__)


def prototypes(pool: Pool) -> Grouping:
    """See `cfvid.clustering.methods.base.Method`. Samples without a label take part in the assignment only.

    Raises:
        ConfigError: when no sample has a label.
    """
    rows_of = pool.rows_by_label()
    if not rows_of:
        raise ConfigError(
            "cluster.method is prototypes, but no sample of the pool has a label.",
            fix="Use kmeans, which needs none, or a pool with labels.",
        )
    logger.info("cluster: %d prototypes, one per label, instead of cluster.num_clusters", len(rows_of))
    prototypes_KP = np.stack([pool.points_NP[rows].mean(axis=0) for rows in rows_of.values()])
    if pool.config.distance == "spherical":
        prototypes_KP /= np.maximum(np.linalg.norm(prototypes_KP, axis=1, keepdims=True), 1e-12)
    return by_nearest(pool, prototypes_KP, num_fitted=sum(map(len, rows_of.values())))
