"""Distillation (Hinton et al., 2015), a baseline of ClusterFit: N_cf learns what N_pre says about the pool."""

from __future__ import annotations

import logging

import numpy as np
import torch

from cfvid.clustering.methods.base import Grouping, Pool
from cfvid.clustering.soft import SoftLabels, softmax
from cfvid.parts import parts
from cfvid.tables import row_groups

logger = logging.getLogger(__name__)


def distillation(pool: Pool) -> Grouping:
    """See `cfvid.clustering.methods.base.Method`.

    The soft labels are softmax(N_pre's logits / temperature). Each sample's cluster is its most likely class, with
    the mean of the class's samples as centroid: for figures and sheets. Clusters have ids without gaps, in the order
    of N_pre's classes; classes that are nobody's most likely one have the ids after them.

    Logits are made twice, some rows at a time: for the most likely classes, and when soft labels are written.
    """
    if pool.head is None:
        raise AssertionError("distillation needs the head of N_pre")
    num_samples, num_classes = len(pool.ids), len(pool.head[1])
    most_likely_N = np.empty(num_samples, dtype=np.int32)
    for rows in row_groups(num_samples, num_classes):
        most_likely_N[rows] = _logits(pool, rows).argmax(axis=1)
    used, clusters = np.unique(most_likely_N, return_inverse=True)
    order = np.concatenate([used, np.setdiff1d(np.arange(num_classes), used)])
    classes_1C = np.arange(num_classes, dtype=np.int32)[None]

    def part(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        shares_NC = softmax(_logits(pool, rows)[:, order] / pool.config.temperature)
        return np.broadcast_to(classes_1C, shares_NC.shape), shares_NC

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
        soft=SoftLabels((num_samples, num_classes), part),
    )


def _logits(pool: Pool, rows: slice) -> np.ndarray:
    """What N_pre's last layer says of these samples, float32 (n, C)."""
    assert pool.head is not None
    assert pool.features is not None
    weight_CD, bias_C = pool.head
    first, end, _ = rows.indices(len(pool.ids))
    logits_NC = np.empty((end - first, len(bias_C)), dtype=np.float32)
    # The last layer is linear: the logits of a mean over views are the mean of their logits.
    for place in parts(end - first, weight_CD.shape[1]):
        features_ND = pool.features(slice(first + place.start, first + place.stop))
        logits_NC[place] = features_ND @ weight_CD.T + bias_C
    return logits_NC


def _means(points_NP: np.ndarray, clusters_N: np.ndarray, *, num_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each cluster, float32 (K, P), and each point's squared distance to its own, float32 (N,)."""
    places = parts(len(points_NP), points_NP.shape[1])
    sums_KP = torch.zeros(num_clusters, points_NP.shape[1])
    for rows in places:
        sums_KP.index_add_(0, torch.from_numpy(clusters_N[rows]), torch.from_numpy(np.array(points_NP[rows])))
    sizes_K = np.bincount(clusters_N, minlength=num_clusters)
    centroids_KP = sums_KP.numpy() / sizes_K[:, None].astype(np.float32)
    distances_N = np.empty(len(points_NP), dtype=np.float32)
    for rows in places:
        distances_N[rows] = ((points_NP[rows] - centroids_KP[clusters_N[rows]]) ** 2).sum(axis=1)
    return centroids_KP, distances_N
