"""What every k-means engine must do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from cfvid.clustering import search, streaming_engine
from cfvid.clustering.base import KMeansEngine
from cfvid.clustering.faiss_engine import FaissEngine
from cfvid.clustering.hierarchical_engine import HierarchicalEngine
from cfvid.clustering.streaming_engine import StreamingEngine


def _hierarchical() -> KMeansEngine:
    return HierarchicalEngine(StreamingEngine())


def _on_the_gpu() -> KMeansEngine:
    return StreamingEngine(use_gpu=True)


ENGINES = {
    "faiss": FaissEngine,
    "streaming": StreamingEngine,
    "hierarchical": _hierarchical,
    "gpu": _on_the_gpu,
}
SETTINGS = {"iterations": 25, "restarts": 3, "max_points_per_centroid": None, "seed": 5}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> KMeansEngine:
    if not torch.cuda.is_available():  # what is done on a GPU can be done by torch on a CPU
        monkeypatch.setattr(search, "own_gpu", lambda: torch.device("cpu"))
        monkeypatch.setattr(streaming_engine, "own_gpu", lambda: torch.device("cpu"))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 2**30))
    built: KMeansEngine = ENGINES[request.param]()
    return built


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Eight groups far apart: float32 (2000, 16), and the group of each point."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(8, 16)) * 8
    groups = rng.integers(8, size=2000)
    return (centers[groups] + rng.normal(size=(2000, 16))).astype(np.float32), groups


def test_groups_far_apart_are_found(engine: KMeansEngine, blobs: tuple[np.ndarray, np.ndarray]) -> None:
    points_ND, groups = blobs
    fitted = engine.fit(points_ND, num_clusters=8, spherical=False, **{**SETTINGS, "restarts": 30})
    clusters, distances = engine.assign(points_ND, fitted.centroids_KD)
    assert adjusted_rand_score(groups, clusters) > 0.99
    assert clusters.dtype == np.int64
    np.testing.assert_allclose(
        distances, ((points_ND - fitted.centroids_KD[clusters]) ** 2).sum(1), rtol=1e-3, atol=1e-3
    )
    assert fitted.num_fitted == 2000


def test_the_objective_is_as_good_as_scikit_learns(engine: KMeansEngine) -> None:
    points_ND = np.random.default_rng(1).normal(size=(3000, 12)).astype(np.float32)
    fitted = engine.fit(points_ND, num_clusters=20, spherical=False, **SETTINGS)
    ours = float(engine.assign(points_ND, fitted.centroids_KD)[1].sum())
    theirs = KMeans(20, n_init=3, max_iter=25, random_state=0).fit(points_ND).inertia_
    assert ours < 1.02 * theirs
    assert fitted.objective[-1] <= fitted.objective[0]
    assert fitted.objective[-1] == pytest.approx(ours, rel=0.01)


def test_spherical_centroids_have_unit_length(engine: KMeansEngine, blobs: tuple[np.ndarray, np.ndarray]) -> None:
    points_ND = blobs[0] / np.linalg.norm(blobs[0], axis=1, keepdims=True)
    fitted = engine.fit(points_ND, num_clusters=8, spherical=True, **SETTINGS)
    np.testing.assert_allclose(np.linalg.norm(fitted.centroids_KD, axis=1), 1.0, rtol=1e-4)
    clusters, _ = engine.assign(points_ND, fitted.centroids_KD)
    np.testing.assert_array_equal(clusters, (points_ND @ fitted.centroids_KD.T).argmax(1))
    cosines = (points_ND * fitted.centroids_KD[clusters]).sum()
    assert fitted.objective[-1] == pytest.approx(len(points_ND) - cosines, rel=0.05, abs=1.0)


def test_equal_seeds_give_equal_centroids(engine: KMeansEngine, blobs: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (engine.fit(blobs[0], num_clusters=12, spherical=False, **SETTINGS) for _ in range(2))
    other = engine.fit(blobs[0], num_clusters=12, spherical=False, **{**SETTINGS, "seed": 6})
    np.testing.assert_array_equal(first.centroids_KD, second.centroids_KD)
    assert not np.array_equal(first.centroids_KD, other.centroids_KD)


def test_subsampling_is_stated(engine: KMeansEngine, blobs: tuple[np.ndarray, np.ndarray]) -> None:
    fitted = engine.fit(blobs[0], num_clusters=8, spherical=False, **{**SETTINGS, "max_points_per_centroid": 50})
    assert fitted.num_fitted == 400


def test_as_many_clusters_as_points(engine: KMeansEngine) -> None:
    points_ND = np.random.default_rng(2).normal(size=(10, 4)).astype(np.float32)
    fitted = engine.fit(points_ND, num_clusters=10, spherical=False, **SETTINGS)
    clusters, distances = engine.assign(points_ND, fitted.centroids_KD)
    assert sorted(clusters) == list(range(10))
    np.testing.assert_allclose(distances, 0, atol=1e-4)


def test_several_nearest_centroids(engine: KMeansEngine) -> None:
    rng = np.random.default_rng(4)
    points_ND, centroids_KD = (rng.normal(size=(n, 6)).astype(np.float32) for n in (50, 7))
    clusters, distances = engine.nearest(points_ND, centroids_KD, num=3)
    every = ((points_ND[:, None] - centroids_KD[None]) ** 2).sum(2)
    np.testing.assert_array_equal(clusters, np.argsort(every, axis=1)[:, :3])
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :3], rtol=1e-4, atol=1e-5)
    assert (clusters.dtype, distances.dtype) == (np.int64, np.float32)
