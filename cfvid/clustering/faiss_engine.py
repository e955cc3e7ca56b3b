"""k-means through faiss, on the CPU or on GPUs."""

from __future__ import annotations

import faiss
import numpy as np

from cfvid.clustering.base import KMeansResult
from cfvid.clustering.search import build_index, count_gpus


class FaissEngine:
    """See `cfvid.clustering.base.KMeansEngine`.

    Args:
        use_gpu: ask for faiss' GPU k-means; used only where faiss sees a GPU.
    """

    name = "faiss"

    def __init__(self, *, use_gpu: bool = False) -> None:
        self.num_gpus = count_gpus(use_gpu)

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
        """Fit centroids; see the protocol. faiss repairs clusters that run empty by splitting large ones."""
        num_points, dim = points_ND.shape
        # faiss drops points beyond 256 per centroid unless told otherwise.
        per_centroid = max_points_per_centroid or -(-num_points // num_clusters)
        kmeans = faiss.Kmeans(
            dim,
            num_clusters,
            niter=iterations,
            nredo=restarts,
            seed=seed % 2**31,
            spherical=spherical,
            min_points_per_centroid=1,
            max_points_per_centroid=per_centroid,
            gpu=self.num_gpus if self.num_gpus else False,
        )
        kmeans.train(np.ascontiguousarray(points_ND, dtype=np.float32))
        objective = np.asarray(kmeans.obj, dtype=np.float64)
        num_fitted = min(num_points, per_centroid * num_clusters)
        if spherical:
            # faiss maximises the sum of inner products of unit vectors.
            objective = num_fitted - objective
        return KMeansResult(np.asarray(kmeans.centroids), _last_descent(objective).tolist(), num_fitted)

    def assign(self, points_ND: np.ndarray, centroids_KD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest centroid by exact search; see the protocol."""
        ids, distances = self.nearest(points_ND, centroids_KD, num=1)
        return ids[:, 0], distances[:, 0]

    def nearest(self, points_ND: np.ndarray, centroids_KD: np.ndarray, *, num: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest centroids by exact search; see the protocol."""
        index = build_index(centroids_KD, "flat", num=num, use_gpu=self.num_gpus > 0)
        distances, ids = index.search(np.ascontiguousarray(points_ND, dtype=np.float32), num)
        return ids.astype(np.int64), distances


def _last_descent(objective: np.ndarray) -> np.ndarray:
    """The objective of the restart that was kept: faiss' record ends with it, and each restart begins with a rise.

    Runs differ in length, because faiss ends each when it no longer improves.
    """
    rises = np.flatnonzero(np.diff(objective) > 0)
    return objective[rises[-1] + 1 :] if len(rises) else objective
