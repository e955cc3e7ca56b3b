"""Per-label clustering, an ablation of ClusterFit: k-means within each label, so that no cluster mixes labels."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from cfvid.clustering.methods.base import Grouping, Pool, by_nearest
from cfvid.clustering.methods.kmeans import fit
from cfvid.errors import ConfigError
from cfvid.seeds import derive

logger = logging.getLogger(__name__)


def per_label(pool: Pool) -> Grouping:
    """See `cfvid.clustering.methods.base.Method`. Samples without a label go to the nearest centroid of all.

    Raises:
        ConfigError: when there are fewer clusters than labels, or fewer samples with a label than clusters.
    """
    rows_of = pool.rows_by_label()
    counts = share_out(pool.config.clusters_of(len(pool.ids)), {label: len(rows) for label, rows in rows_of.items()})
    fits = {
        label: fit(pool, pool.points_NP[rows], num_clusters=counts[label], seed=derive(pool.seed, "label", label))
        for label, rows in rows_of.items()
    }
    num_labelled = sum(map(len, rows_of.values()))
    logger.info(
        "cluster: %d labels have %d to %d clusters each; %d samples have no label",
        len(counts),
        min(counts.values()),
        max(counts.values()),
        len(pool.ids) - num_labelled,
    )
    return by_nearest(
        pool,
        np.concatenate([fitted.centroids_KD for fitted in fits.values()]),
        num_fitted=sum(fitted.num_fitted for fitted in fits.values()),
        objective=_sum([fitted.objective for fitted in fits.values()]),
        labels_K=[label for label in fits for _ in range(counts[label])],
    )


def share_out(num_clusters: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Clusters of each label: in proportion to its samples, at least 1, never more than it has samples.

    One by one to the label with the most samples per 2 k + 1, when it has k clusters (Webster's and Sainte-Laguë's
    method of apportionment); among equals to the first.

    Raises:
        ConfigError: when there are fewer clusters than labels, or fewer samples than clusters.
    """
    if not len(sizes) <= num_clusters <= sum(sizes.values()):
        raise ConfigError(
            f"cluster.num_clusters is {num_clusters}; with method per_label it has to lie between the number of "
            f"labels, {len(sizes)}, and of samples that have one, {sum(sizes.values())}.",
            fix="Change cluster.num_clusters, or use another method.",
        )
    counts = dict.fromkeys(sizes, 1)
    waiting = [(-size / 3, place, label) for place, (label, size) in enumerate(sizes.items())]
    heapq.heapify(waiting)
    for _ in range(num_clusters - len(sizes)):
        _, place, label = waiting[0]
        counts[label] += 1
        heapq.heapreplace(waiting, (-sizes[label] / (2 * counts[label] + 1), place, label))
    return counts


def _sum(objectives: Sequence[Sequence[float]]) -> list[float]:
    """The sum after each iteration of runs that ended at different times; a run without iterations adds nothing."""
    longest = max(map(len, objectives))
    return [sum(values[min(i, len(values) - 1)] for values in objectives if values) for i in range(longest)]
