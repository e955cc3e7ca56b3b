"""k-means over points that need not fit in memory: they are read in blocks, again in each iteration.

All points count in every iteration (Lloyd's algorithm), and a fit that was cut short goes on from its last iteration.
Several processes share the passes over a file of points (see `cfvid.clustering.passes`).
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from cfvid.artifacts import atomic_file, digest_of
from cfvid.clustering.base import KMeansResult
from cfvid.clustering.passes import accumulate, nearest, subsample
from cfvid.clustering.search import count_gpus
from cfvid.seeds import derive

logger = logging.getLogger(__name__)

_NUDGE = 1 / 1024
"""How far the halves of a cluster that is split lie apart, as a share of the centroid: faiss' own."""
_NO_BETTER = 1e-7
"""A fit ends when its objective falls by less than this share."""


@dataclass(frozen=True)
class _State:
    """Of a fit, after some iterations."""

    centroids_KD: np.ndarray
    """float32."""
    objective: tuple[float, ...] = ()
    """One for each iteration."""
    is_done: bool = False


class StreamingEngine:
    """See `cfvid.clustering.base.KMeansEngine`; points may be memory maps, of any float type.

    Args:
        folder: takes the state of a fit after each iteration, and lets it go on from there; None keeps none.
        use_gpu: search on GPUs, where faiss sees some.
    """

    name = "streaming"

    def __init__(self, *, folder: Path | None = None, use_gpu: bool = False) -> None:
        self.folder, self.use_gpu = folder, count_gpus(use_gpu) > 0

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
        """Fit centroids; see the protocol. A cluster that runs empty takes half of the largest one."""
        sample = (num_clusters, max_points_per_centroid, seed)
        rows = subsample(len(points_ND), *sample)
        num_fitted = len(points_ND) if rows is None else len(rows)
        best: _State | None = None
        for restart in range(restarts):
            rng = np.random.default_rng(derive(seed, "k-means", restart))
            chosen = np.sort(rng.choice(num_fitted, num_clusters, replace=False))
            first_KD = np.array(points_ND[chosen if rows is None else rows[chosen]], dtype=np.float32)
            key = digest_of(
                [
                    seed,
                    restart,
                    points_ND.shape,
                    num_clusters,
                    spherical,
                    num_fitted,
                    hashlib.sha256(first_KD.tobytes()).hexdigest(),
                ]
            )
            state = self._resumed(key, restart) or _State(first_KD)
            state = self._descend(
                points_ND, sample, state, spherical=spherical, iterations=iterations, key=key, restart=restart
            )
            if best is None or state.objective[-1] < best.objective[-1]:
                best = state
        assert best is not None
        return KMeansResult(best.centroids_KD, list(best.objective), num_fitted)

    def assign(self, points_ND: np.ndarray, centroids_KD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest centroid by exact search; see the protocol."""
        ids, distances = self.nearest(points_ND, centroids_KD, num=1)
        return ids[:, 0], distances[:, 0]

    def nearest(self, points_ND: np.ndarray, centroids_KD: np.ndarray, *, num: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest centroids by exact search; see the protocol."""
        return nearest(points_ND, centroids_KD, num=num, search="flat", use_gpu=self.use_gpu)

    def _descend(
        self,
        points_ND: np.ndarray,
        sample: tuple[int, int | None, int],
        state: _State,
        *,
        spherical: bool,
        iterations: int,
        key: str,
        restart: int,
    ) -> _State:
        while not state.is_done and len(state.objective) < iterations:
            number = len(state.objective) + 1
            desc = f"k-means {number}/{iterations}"
            sums_KD, counts_K, distance = accumulate(
                points_ND, state.centroids_KD, sample=sample, search="flat", use_gpu=self.use_gpu, desc=desc
            )
            # Of unit vectors, 1 - cosine is half the squared distance.
            objective = (*state.objective, distance / 2 if spherical else distance)
            state = replace(state, centroids_KD=moved(sums_KD, counts_K, spherical=spherical), objective=objective)
            if number > 1 and objective[-2] - objective[-1] <= _NO_BETTER * objective[-2] and counts_K.all():
                state = replace(state, is_done=True)
            self._keep(state, key, restart)
            logger.debug("k-means: iteration %d, objective %.6g", number, objective[-1])
        return state

    def _path(self, restart: int) -> Path | None:
        return self.folder / f"k-means-{restart}.safetensors" if self.folder else None

    def _keep(self, state: _State, key: str, restart: int) -> None:
        if (path := self._path(restart)) is not None:
            tensors = {
                "centroids": np.ascontiguousarray(state.centroids_KD),
                "objective": np.array(state.objective),
                "is_done": np.array([state.is_done]),
            }
            with atomic_file(path, check=load_file) as temporary:
                save_file(tensors, temporary, metadata={"key": key})

    def _resumed(self, key: str, restart: int) -> _State | None:
        """The state that an earlier, equal fit has left."""
        path = self._path(restart)
        if path is None or not path.is_file():
            return None
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        logger.info("k-means goes on after iteration %d", len(tensors["objective"]))
        return _State(tensors["centroids"], tuple(tensors["objective"].tolist()), bool(tensors["is_done"][0]))


def forget(folder: Path) -> None:
    """Remove the states that fits have left in a folder."""
    for path in folder.glob("k-means-*.safetensors"):
        path.unlink()


def moved(sums_KD: np.ndarray, counts_K: np.ndarray, *, spherical: bool) -> np.ndarray:
    """The centroids of these sums, float32 (K, D): one that has no points takes half of the largest cluster's."""
    centroids_KD = sums_KD / np.maximum(counts_K, 1)[:, None]
    left = counts_K.astype(np.float64)
    for empty in np.flatnonzero(counts_K == 0):
        largest = int(left.argmax())
        signs = np.where(np.arange(sums_KD.shape[1]) % 2 == 0, 1 + _NUDGE, 1 - _NUDGE)
        centroids_KD[empty], centroids_KD[largest] = centroids_KD[largest] * signs, centroids_KD[largest] / signs
        left[empty] = left[largest] = left[largest] / 2
    if spherical:
        centroids_KD /= np.maximum(np.linalg.norm(centroids_KD, axis=1, keepdims=True), 1e-12)
    return centroids_KD.astype(np.float32)
