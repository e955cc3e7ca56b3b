"""Distillation (Hinton et al., 2015), a baseline of ClusterFit: N_cf learns what N_pre says about the pool."""

from __future__ import annotations

import logging

import numpy as np

from cfvid.clustering.methods.base import Grouping, Pool
from cfvid.clustering.soft import SoftLabels, softmax

logger = logging.getLogger(__name__)


def distillation(pool: Pool) -> Grouping:
    """See `cfvid.clustering.methods.base.Method`.

    The soft labels are softmax(N_pre's logits / temperature). Each sample's cluster is its most likely class, with
    the mean of the class's samples as centroid: for figures and sheets. Clusters have ids without gaps, in the order
    of N_pre's classes; classes that are nobody's most likely one have the ids after them.
    """
    if pool.head is None:
        raise AssertionError("distillation needs the head of N_pre")
    weight_CD, bias_C = pool.head
    # The last layer is linear: the logits of a mean over views are the mean of their logits.
    assert pool.features_ND is not None
    logits_NC = pool.features_ND @ weight_CD.T + bias_C
    num_samples, num_classes = logits_NC.shape
    used, clusters = np.unique(logits_NC.argmax(axis=1), return_inverse=True)
    order = np.concatenate([used, np.setdiff1d(np.arange(num_classes), used)])
    shares_NC = softmax(logits_NC[:, order] / pool.config.temperature)
    classes_NC = np.broadcast_to(np.arange(num_classes, dtype=np.int32), shares_NC.shape)
    centroids_KP, distances_N = _means(pool.points_NP, clusters, num_clusters=len(used))
    logger.info(
        "cluster: the outputs of N_pre over %d classes at temperature %g, instead of cluster.num_clusters; "
        "%d classes are the most likely one of a sample",
        num_classes,
        pool.config.temperature,
        len(used),
    )
    return Grouping(
        clusters_N=clusters,
        distances_N=distances_N,
        second_distances_N=np.full(num_samples, np.nan, np.float32),
        centroids_KP=centroids_KP,
        num_asked=num_classes,
        num_fitted=num_samples,
        soft=SoftLabels(classes_NC, shares_NC),
    )


def _means(points_NP: np.ndarray, clusters_N: np.ndarray, *, num_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each cluster, float32 (K, P), and each point's squared distance to its own, float32 (N,)."""
    centroids_KP = np.empty((num_clusters, points_NP.shape[1]), np.float32)
    distances_N = np.empty(len(points_NP), np.float32)
    for k in range(num_clusters):
        rows = np.flatnonzero(clusters_N == k)
        centroids_KP[k] = points_NP[rows].mean(axis=0)
        distances_N[rows] = ((points_NP[rows] - centroids_KP[k]) ** 2).sum(axis=1)
    return centroids_KP, distances_N
