"""What the ways to make pseudo-labels take and give: all end in the same files and the same retraining."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cfvid.clustering.base import KMeansEngine
from cfvid.clustering.soft import SoftLabels, of_distances
from cfvid.data.sample_ids import SampleIds
from cfvid.errors import ConfigError
from cfvid.sections.stages import ClusterConfig


@dataclass(frozen=True)
class Pool:
    """The samples to group, N of them."""

    ids: SampleIds
    points_NP: np.ndarray
    """float32, as they are clustered: after the projection. Maybe a memory map."""
    engine: KMeansEngine
    config: ClusterConfig
    seed: int
    label_of: Mapping[str, str]
    """Of samples whose label is known, by sample id; filled where the method needs labels."""
    features: Callable[[slice], np.ndarray] | None = None
    """Gives the features of some rows as extracted, float32 (n, D), where the method needs them."""
    head: tuple[np.ndarray, np.ndarray] | None = None
    """Weight (C, D) and bias (C,) of N_pre's last layer, where the method needs them."""

    def rows_by_label(self) -> dict[str, np.ndarray]:
        """The rows that carry each label, the labels sorted."""
        rows: dict[str, list[int]] = {}
        for row, sample_id in enumerate(self.ids):
            if sample_id in self.label_of:
                rows.setdefault(self.label_of[sample_id], []).append(row)
        return {label: np.array(rows[label]) for label in sorted(rows)}


@dataclass(frozen=True)
class Grouping:
    """A pool in K clusters, none of them empty."""

    clusters_N: np.ndarray
    """int64, 0 ... K-1."""
    distances_N: np.ndarray
    """float32, squared, to the cluster's centroid."""
    second_distances_N: np.ndarray
    """float32, squared, to the nearest other centroid; NaN when K = 1 or others were never an option."""
    centroids_KP: np.ndarray
    """float32."""
    num_asked: int
    """Clusters that there were to be: those that came out empty included."""
    num_merged: int = 0
    """Clusters that were too small and have been dissolved."""
    num_fitted: int = 0
    """Samples that the centroids were fitted on."""
    objective: Sequence[float] = ()
    """Of k-means, after each iteration."""
    soft: SoftLabels | None = None
    """Soft labels over the ids of clusters; more classes than K where some are nobody's most likely one."""


class Method(Protocol):
    """A way to make pseudo-labels."""

    def __call__(self, pool: Pool) -> Grouping:
        """Group the pool; equal pools give equal results."""
        ...


def by_nearest(
    pool: Pool,
    centroids_KP: np.ndarray,
    *,
    num_fitted: int,
    objective: Sequence[float] = (),
    labels_K: Sequence[str] | None = None,
) -> Grouping:
    """Every sample in the cluster of its nearest centroid, without the clusters that are empty or tiny.

    Args:
        pool: the samples.
        centroids_KP: float32.
        num_fitted: samples that they were fitted on.
        objective: of k-means.
        labels_K: the label that each centroid is for; samples with a label go to its own centroids only, as long as
            one of them remains.

    Raises:
        ConfigError: when all clusters are tiny.
    """
    clusters, distances = _assign(pool, centroids_KP, labels_K)
    sizes = np.bincount(clusters, minlength=len(centroids_KP))
    kept = np.flatnonzero(sizes >= max(1, pool.config.merge_tiny_below))
    num_merged = int(np.count_nonzero(sizes)) - len(kept)
    if not len(kept):
        raise ConfigError(
            f"cluster.merge_tiny_below is {pool.config.merge_tiny_below}, but no cluster has that many members; "
            f"the largest has {sizes.max()}.",
            fix="Lower it, or ask for fewer clusters.",
        )
    remaining_KP = centroids_KP[kept]
    if num_merged:
        # The members of the clusters that remain stay: their nearest centroid is still there.
        clusters, distances = _assign(
            pool, remaining_KP, None if labels_K is None else [labels_K[k] for k in kept.tolist()]
        )
    else:
        clusters = np.searchsorted(kept, clusters)
    second_distances, soft = np.full(len(clusters), np.nan, np.float32), None
    if labels_K is None and len(kept) > 1:
        num = min(len(kept), max(2, pool.config.soft_top or 0))
        near_NT, near_distances_NT = pool.engine.nearest(pool.points_NP, remaining_KP, num=num)
        second_distances = near_distances_NT[:, 1]
        if pool.config.soft_top is not None:
            top = slice(None, pool.config.soft_top)
            soft = of_distances(near_NT[:, top], near_distances_NT[:, top], bandwidth=pool.config.soft_bandwidth)
    return Grouping(
        clusters_N=clusters,
        distances_N=distances,
        second_distances_N=second_distances,
        centroids_KP=remaining_KP,
        num_asked=len(centroids_KP),
        num_merged=num_merged,
        num_fitted=num_fitted,
        objective=objective,
        soft=soft,
    )


def _assign(pool: Pool, centroids_KP: np.ndarray, labels_K: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    clusters, distances = pool.engine.assign(pool.points_NP, centroids_KP)
    if labels_K is None:
        return clusters, distances
    columns_of: dict[str, list[int]] = {}
    for column, label in enumerate(labels_K):
        columns_of.setdefault(label, []).append(column)
    for label, rows in pool.rows_by_label().items():
        if label in columns_of:
            own = np.array(columns_of[label])
            within, distances[rows] = pool.engine.assign(pool.points_NP[rows], centroids_KP[own])
            clusters[rows] = own[within]
    return clusters, distances
