"""Which pseudo-labels to trust, by the distances to centroids."""

from __future__ import annotations

import numpy as np


def nearest_members(clusters_N: np.ndarray, distances_N: np.ndarray, *, share: float) -> np.ndarray:
    """Rows of the members nearest to their centroids, in ascending order: int64, (M,).

    Args:
        clusters_N: integers.
        distances_N: to the own centroid; among equal ones the earlier row comes first.
        share: of each cluster that is kept, rounded, but at least one member.
    """
    order = np.lexsort((distances_N, clusters_N))
    _, starts, sizes = np.unique(clusters_N[order], return_index=True, return_counts=True)
    ranks = np.arange(len(order)) - np.repeat(starts, sizes)
    kept = np.maximum(1, np.rint(share * sizes))
    return np.sort(order[ranks < np.repeat(kept, sizes)])


def margin_weights(distances_N: np.ndarray, second_distances_N: np.ndarray) -> np.ndarray:
    """Weights by the margin (d2 - d1) / d2 of squared distances, with mean 1: float32, (N,).

    Args:
        distances_N: squared, to the nearest centroid.
        second_distances_N: squared, to the second nearest one.
    """
    nearest, second = np.maximum(distances_N, 0).astype(np.float64), np.maximum(second_distances_N, 1e-12)
    # Never quite zero: a batch whose weights sum to 0 would have no loss.
    margins = np.clip((second - nearest) / second, 1e-6, 1.0)
    weights: np.ndarray = (margins / margins.mean()).astype(np.float32)
    return weights
