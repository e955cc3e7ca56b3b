"""k-means over points in memory."""

from __future__ import annotations

import logging

import numpy as np

from cfvid.clustering.base import KMeansResult
from cfvid.clustering.search import count_gpus
from cfvid.clustering.streaming_engine import StreamingEngine
from cfvid.faiss_import import faiss

logger = logging.getLogger(__name__)


class FaissEngine:
    """See `cfvid.clustering.base.KMeansEngine`.

    faiss does all of it, on the CPU or on the GPUs that it sees. For mini-batches, and on a GPU that only torch sees,
    the iterations are those of `StreamingEngine`, over points that stay in memory.

    Args:
        use_gpu: work on GPUs; torch must see one.
        minibatch: see `StreamingEngine`; not by faiss' own k-means.
    """

    name = "faiss"

    def __init__(self, *, use_gpu: bool = False, minibatch: int | None = None) -> None:
        self._num_gpus = count_gpus(use_gpu)
        self._is_by_faiss = minibatch is None and (self._num_gpus > 0 or not use_gpu)
        self._in_blocks = StreamingEngine(use_gpu=use_gpu, minibatch=minibatch)

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
        """Fit centroids; see the protocol. A cluster that runs empty takes half of a large one."""
        if not self._is_by_faiss:
            return self._in_blocks.fit(
                np.ascontiguousarray(points_ND, dtype=np.float32),
                num_clusters=num_clusters,
                spherical=spherical,
                iterations=iterations,
                restarts=restarts,
                max_points_per_centroid=max_points_per_centroid,
                seed=seed,
            )
        logger.info(
            "k-means by faiss %s on %s", faiss.__version__, f"{self._num_gpus} GPU(s)" if self._num_gpus else "the CPU"
        )
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
            gpu=self._num_gpus or False,
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
        return self._in_blocks.assign(points_ND, centroids_KD)

    def nearest(self, points_ND: np.ndarray, centroids_KD: np.ndarray, *, num: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest centroids by exact search; see the protocol."""
        return self._in_blocks.nearest(points_ND, centroids_KD, num=num)


def _last_descent(objective: np.ndarray) -> np.ndarray:
    """The objective of the restart that was kept: faiss' record ends with it, and each restart begins with a rise.

    Runs differ in length, because faiss ends each when it no longer improves.
    """
    rises = np.flatnonzero(np.diff(objective) > 0)
    return objective[rises[-1] + 1 :] if len(rises) else objective
