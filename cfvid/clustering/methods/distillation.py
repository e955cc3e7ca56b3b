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
    logits_NC = pool.features_ND @ weight_CD.T + bias_C
    num_samples, num_classes = logits_NC.shape
    used, clusters = np.unique(logits_NC.argmax(axis=1), return_inverse=True)
    order = np.concatenate([used, np.setdiff1d(np.arange(num_classes), used)])
    shares_NC = softmax(logits_NC[:, order] / pool.config.temperature)
    classes_NC = np.broadcast_to(np.arange(num_classes, dtype=np.int32), shares_NC.shape)
    centroids_KP = np.stack([pool.points_NP[clusters == k].mean(axis=0) for k in range(len(used))])
    logger.info(
        "cluster: the outputs of N_pre over %d classes at temperature %g, instead of cluster.num_clusters; "
        "%d classes are the most likely one of a sample",
        num_classes,
        pool.config.temperature,
        len(used),
    )
    return Grouping(
        clusters_N=clusters,
        distances_N=((pool.points_NP - centroids_KP[clusters]) ** 2).sum(axis=1),
        second_distances_N=np.full(num_samples, np.nan, np.float32),
        centroids_KP=centroids_KP,
        num_asked=num_classes,
        num_fitted=num_samples,
        soft=SoftLabels(classes_NC, shares_NC),
    )
