"""k-means over points that need not fit in memory: they are read in blocks, again in each iteration.

All points count in every iteration (Lloyd's algorithm), or a mini-batch of them. A fit that was cut short goes on from
its last iteration.
Several processes share the passes over a file of points (see `cfvid.clustering.passes`).
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from cfvid import ranks
from cfvid.artifacts import atomic_file, digest_of
from cfvid.clustering.base import KMeansResult
from cfvid.clustering.device_search import Points, held_on
from cfvid.clustering.passes import Sample, accumulate, fitting_sample, nearest
from cfvid.clustering.search import own_gpu
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
    seen_K: np.ndarray
    """int64: points that each centroid is the mean of; of mini-batches."""
    objective: tuple[float, ...] = ()
    """One for each iteration."""
    is_done: bool = False


class StreamingEngine:
    """See `cfvid.clustering.base.KMeansEngine`; points may be memory maps, of any float type.

    Args:
        folder: takes the state of a fit after each iteration, and lets it go on from there; None keeps none.
        use_gpu: search and add up on the GPU of each process.
        minibatch: look at so many points in each iteration, drawn anew, instead of at all (Sculley, WWW 2010). A
            centroid is the mean of all points that it was ever nearest to. All iterations are made.
    """

    name = "streaming"

    def __init__(self, *, folder: Path | None = None, use_gpu: bool = False, minibatch: int | None = None) -> None:
        self.folder, self.use_gpu, self.minibatch = folder, use_gpu, minibatch

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
        work = "k-means" if self.minibatch is None else f"k-means over mini-batches of {self.minibatch} points"
        logger.info("%s by %s", work, "torch on the GPU" if self.use_gpu else "faiss and torch on the CPU")
        sample = fitting_sample(num_clusters, max_points_per_centroid, seed)
        rows = sample.rows(len(points_ND)) if sample else None
        num_fitted = len(points_ND) if rows is None else len(rows)
        held_ND: Points = points_ND
        if self.use_gpu and ranks.count() == 1:
            held_ND = held_on(points_ND, own_gpu())
        best: _State | None = None
        for restart in range(restarts):
            rng = np.random.default_rng(derive(seed, "k-means", restart))
            chosen = np.sort(rng.choice(num_fitted, num_clusters, replace=False))
            first_KD = np.array(points_ND[chosen if rows is None else rows[chosen]], dtype=np.float32)
            first = hashlib.sha256(first_KD.tobytes()).hexdigest()
            key = [seed, restart, tuple(points_ND.shape), num_clusters, spherical, num_fitted, self.minibatch, first]
            fit = _Fit(self, held_ND, sample, digest_of(key), restart, spherical=spherical, seed=seed)
            state = fit.resumed() or _State(first_KD, np.zeros(num_clusters, dtype=np.int64))
            while not state.is_done and len(state.objective) < iterations:
                state = fit.iterated(state, iterations)
            if best is None or state.objective[-1] < best.objective[-1]:
                best = state
        assert best is not None
        if self.minibatch:
            num_fitted = min(num_fitted, self.minibatch * iterations)
        return KMeansResult(best.centroids_KD, list(best.objective), num_fitted)

    def assign(self, points_ND: np.ndarray, centroids_KD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest centroid by exact search; see the protocol."""
        ids, distances = self.nearest(points_ND, centroids_KD, num=1)
        return ids[:, 0], distances[:, 0]

    def nearest(self, points_ND: np.ndarray, centroids_KD: np.ndarray, *, num: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest centroids by exact search; see the protocol."""
        return nearest(points_ND, centroids_KD, num=num, search="flat", use_gpu=self.use_gpu)


@dataclass(frozen=True)
class _Fit:
    """One run from its starting points on."""

    engine: StreamingEngine
    points_ND: Points
    sample: Sample | None
    key: str
    """Tells whether a state that lies there is this run's."""
    restart: int
    spherical: bool
    seed: int

    def iterated(self, state: _State, iterations: int) -> _State:
        """The state after one more iteration; it is kept."""
        number, num_points, batch = len(state.objective) + 1, len(self.points_ND), self.engine.minibatch or 0
        is_part = 0 < batch < num_points
        sums_KD, counts_K, distance = accumulate(
            self.points_ND,
            state.centroids_KD,
            sample=Sample(batch, self.seed, ("k-means", "batch", number)) if is_part else self.sample,
            search="flat",
            use_gpu=self.engine.use_gpu,
            desc=f"k-means {number}/{iterations}",
        )
        if is_part:
            distance *= num_points / batch  # an estimate
            sums_KD, counts_K = sums_KD + state.seen_K[:, None] * state.centroids_KD, counts_K + state.seen_K
        # Of unit vectors, 1 - cosine is half the squared distance.
        objective = (*state.objective, distance / 2 if self.spherical else distance)
        centroids_KD = moved(sums_KD, counts_K, spherical=self.spherical)
        if is_part and number * batch < num_points:
            # Not yet seen is not yet empty.
            centroids_KD = np.where(counts_K[:, None] == 0, state.centroids_KD, centroids_KD)
        is_done = not is_part and number > 1 and objective[-2] - objective[-1] <= _NO_BETTER * objective[-2]
        state = _State(centroids_KD, counts_K, objective, is_done and bool(counts_K.all()))
        self._keep(state)
        logger.debug("k-means: iteration %d, objective %.6g", number, objective[-1])
        return state

    @property
    def _path(self) -> Path | None:
        return self.engine.folder / f"k-means-{self.restart}.safetensors" if self.engine.folder else None

    def _keep(self, state: _State) -> None:
        if self._path is not None:
            tensors = {
                "centroids": np.ascontiguousarray(state.centroids_KD),
                "seen": state.seen_K,
                "objective": np.array(state.objective),
                "is_done": np.array([state.is_done]),
            }
            with atomic_file(self._path, check=load_file) as temporary:
                save_file(tensors, temporary, metadata={"key": self.key})

    def resumed(self) -> _State | None:
        """The state that an earlier, equal run has left."""
        if self._path is None or not self._path.is_file():
            return None
        with safe_open(self._path, framework="np") as file:
            if (file.metadata() or {}).get("key") != self.key:
                return None
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        logger.info("k-means goes on after iteration %d", len(tensors["objective"]))
        objective = tuple(tensors["objective"].tolist())
        return _State(tensors["centroids"], tensors["seen"], objective, bool(tensors["is_done"][0]))


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
