"""The k-means engine protocol and what engines return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class KMeansResult:
    """A fitted k-means."""

    centroids_KD: np.ndarray
    """float32; unit rows when spherical."""
    objective: list[float]
    """Sum over the fitted points of the squared distance (or 1 - cosine, when spherical) after each iteration."""
    num_fitted: int
    """Points the centroids were fitted on; fewer than there are when subsampled."""


class KMeansEngine(Protocol):
    """Fits centroids and assigns points to them."""

    name: str

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
        """Fit `num_clusters` centroids to float32 points; equal arguments give equal results."""
        ...

    def assign(self, points_ND: np.ndarray, centroids_KD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each point's nearest centroid, int64 (N,), and its squared Euclidean distance to it, float32 (N,)."""
        ...

    def nearest(self, points_ND: np.ndarray, centroids_KD: np.ndarray, *, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Each point's `num` (at most K) nearest centroids, nearest first: int64 and float32 as above, (N, num)."""
        ...
