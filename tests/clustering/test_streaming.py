"""k-means in blocks: the same as at once, going on where it stopped, and no cluster without points."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from support.tiny import tiny_config, write_pictures

from cfvid.artifacts import Record
from cfvid.clustering import passes, streaming_engine
from cfvid.clustering.base import KMeansResult
from cfvid.clustering.passes import blocks
from cfvid.clustering.projection import Projection
from cfvid.clustering.streaming_engine import StreamingEngine
from cfvid.errors import ConfigError
from cfvid.pipeline import run_stages
from cfvid.stages import pool

SETTINGS = {"num_clusters": 12, "spherical": False, "restarts": 1, "max_points_per_centroid": None, "seed": 3}


@pytest.fixture(scope="module")
def points_ND() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(12, 8))[rng.integers(12, size=1500)] + 0.6 * rng.normal(size=(1500, 8))).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "_BLOCK_BYTES", 100 * 8 * 4)


def _fit(points_ND: np.ndarray, *, iterations: int = 15, folder: Path | None = None, **other: object) -> KMeansResult:
    return StreamingEngine(folder=folder).fit(points_ND, iterations=iterations, **{**SETTINGS, **other})


def _plain_lloyd(points_ND: np.ndarray, centroids_KD: np.ndarray, *, iterations: int) -> list[float]:
    objective = []
    for _ in range(iterations):
        distances_NK = ((points_ND[:, None].astype(float) - centroids_KD[None]) ** 2).sum(axis=2)
        clusters = distances_NK.argmin(axis=1)
        objective.append(float(distances_NK.min(axis=1).sum()))
        centroids_KD = np.stack([points_ND[clusters == k].mean(axis=0) for k in range(len(centroids_KD))])
    return objective


def test_every_iteration_is_lloyds(points_ND: np.ndarray, small_blocks: None) -> None:
    fitted = _fit(points_ND)
    first = _fit(points_ND, iterations=1)
    ours = fitted.objective
    expected = [ours[0], *_plain_lloyd(points_ND, first.centroids_KD, iterations=len(ours) - 1)]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert sorted(ours, reverse=True) == ours


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_file_in_blocks_is_the_array_at_once(
    tmp_path: Path, points_ND: np.ndarray, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = points_ND.astype(dtype)
    np.save(tmp_path / "points.npy", stored)
    at_once = _fit(stored.astype(np.float32))
    monkeypatch.setattr(passes, "_BLOCK_BYTES", 100 * 8 * 4)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    fitted = _fit(mapped)
    np.testing.assert_allclose(fitted.objective[-1], at_once.objective[-1], rtol=1e-5)
    ids, distances = StreamingEngine().nearest(mapped, fitted.centroids_KD, num=2)
    expected_ids, expected = StreamingEngine().nearest(stored.astype(np.float32), fitted.centroids_KD, num=2)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-5)


def test_blocks_hold_every_row_once(points_ND: np.ndarray, small_blocks: None) -> None:
    parts = list(blocks(points_ND, load=np.asarray, desc="test"))
    assert len(parts) == 15
    np.testing.assert_array_equal(np.concatenate([block for _, block in parts]), points_ND)
    rows = np.arange(3, 1500, 7)
    np.testing.assert_array_equal(
        np.concatenate([b for _, b in blocks(points_ND, rows, load=np.asarray, desc="test")]), points_ND[rows]
    )
    assert list(blocks(points_ND[:0], load=np.asarray, desc="test")) == []


def test_a_fit_goes_on_where_it_was_cut_short(
    tmp_path: Path, points_ND: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _fit(points_ND, restarts=2)
    passes, accumulate = [], streaming_engine.accumulate

    def cut_short(*args: object, **options: object) -> object:
        if len(passes) == 6:
            raise KeyboardInterrupt
        passes.append(1)
        return accumulate(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(streaming_engine, "accumulate", cut_short)
    with pytest.raises(KeyboardInterrupt):
        _fit(points_ND, restarts=2, folder=tmp_path)
    passes.clear()
    monkeypatch.setattr(streaming_engine, "accumulate", accumulate)
    counted = []
    monkeypatch.setattr(
        streaming_engine, "moved", lambda *a, _m=streaming_engine.moved, **k: counted.append(1) or _m(*a, **k)
    )
    resumed = _fit(points_ND, restarts=2, folder=tmp_path)
    np.testing.assert_array_equal(resumed.centroids_KD, whole.centroids_KD)
    assert resumed.objective == whole.objective
    again = len(counted)
    counted.clear()
    _fit(points_ND, restarts=2)
    assert again == len(counted) - 6


def test_a_state_of_other_points_is_left_alone(tmp_path: Path, points_ND: np.ndarray) -> None:
    _fit(points_ND, folder=tmp_path)
    other = _fit(points_ND + 1, folder=tmp_path)
    np.testing.assert_array_equal(other.centroids_KD, _fit(points_ND + 1).centroids_KD)


@pytest.mark.parametrize("spherical", [False, True])
def test_clusters_that_run_empty_are_filled(spherical: bool) -> None:
    """Three distinct points, ninety-seven copies of one of them: most of the first centroids are equal."""
    points_ND = np.repeat(np.eye(3, 5, dtype=np.float32), [97, 2, 1], axis=0)
    fitted = _fit(points_ND, num_clusters=6, spherical=spherical)
    assert np.isfinite(fitted.centroids_KD).all()
    assert fitted.objective[-1] == pytest.approx(0, abs=1e-3)
    clusters, _ = StreamingEngine().assign(points_ND, fitted.centroids_KD)
    assert len(set(clusters)) >= 3


@pytest.mark.parametrize("whiten", [False, True])
def test_principal_components_by_blocks(points_ND: np.ndarray, whiten: bool) -> None:
    projection = Projection(l2_normalize=False, pca_dim=3, whiten=whiten).fit_blocks(np.array_split(points_ND, 7))
    expected = PCA(3, whiten=whiten, svd_solver="full").fit_transform(points_ND)
    found = (points_ND - projection.mean_D_) @ projection.components_PD_.T
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-2, atol=1e-3)
    with pytest.raises(ConfigError, match="pca_dim is 9"):
        Projection(l2_normalize=True, pca_dim=9).fit_blocks([points_ND])


# ---------------------------------------------------------------------------------------------- the stage


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def test_the_stage_streams_when_asked_to(pictures: Path, tmp_path: Path) -> None:
    options = {"cluster__engine": "streaming", "cluster__pca_dim": 6, "cluster__soft_top": 2}
    run_stages(tiny_config(pictures, **options), tmp_path, stages=["pretrain", "extract", "cluster"])
    folder = tmp_path / "cluster"
    record = Record.read(folder, kind="pseudo-labels")
    record.verify(folder)
    assert record.inputs["engine"] == "streaming"
    assert record.facts == {"num_samples": 24, "num_clusters": 4}
    assert np.load(folder / "centroids.npy").shape == (4, 6)
    assert not list(folder.glob("points.npy")) + list(folder.glob("k-means-*"))
    objective = json.loads((folder / "quality.json").read_text())["objective"]
    assert objective[-1] <= objective[0]


def test_large_pools_are_streamed_by_themselves(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="cfvid")
    config = tiny_config(pictures)
    run_stages(config, tmp_path, stages=["pretrain", "extract", "cluster"])
    inputs = Record.read(tmp_path / "cluster", kind="pseudo-labels").inputs
    assert "engine" not in inputs
    assert "engine" not in inputs["cluster"]
    monkeypatch.setattr(pool, "_MOST_BYTES", 1000)
    run_stages(config, tmp_path, stages=["cluster"], fresh=True)
    assert Record.read(tmp_path / "cluster", kind="pseudo-labels").inputs["engine"] == "streaming"
    assert "read in blocks" in caplog.text


@pytest.mark.parametrize("changes", [{"cluster__method": "per_label"}, {"cluster__more_features": ["/another"]}])
def test_only_features_of_one_network_can_be_streamed(pictures: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="engine: streaming is for the features of one network"):
        tiny_config(pictures, cluster__engine="streaming", **changes)


# ---------------------------------------------------------------------------------------------- mini-batches


def _fit_batches(points_ND: np.ndarray, num: int, **other: object) -> KMeansResult:
    engine = StreamingEngine(folder=other.pop("folder", None), minibatch=num)  # type: ignore[arg-type]
    return engine.fit(points_ND, **{**SETTINGS, "iterations": 60, **other})


@pytest.mark.parametrize("spherical", [False, True])
def test_mini_batches_come_close_to_all_points(points_ND: np.ndarray, spherical: bool) -> None:
    if spherical:
        points_ND = points_ND / np.linalg.norm(points_ND, axis=1, keepdims=True)
    fitted, flat = _fit_batches(points_ND, 150, spherical=spherical), _fit(points_ND, spherical=spherical)
    ours, theirs = (StreamingEngine().assign(points_ND, f.centroids_KD)[1].sum() for f in (fitted, flat))
    assert ours < 1.1 * theirs
    assert len(fitted.objective) == 60
    scale = 2 if spherical else 1
    assert np.mean(fitted.objective[-10:]) * scale == pytest.approx(float(ours), rel=0.1)


def test_a_centroid_is_the_mean_of_all_points_that_it_was_nearest_to(points_ND: np.ndarray) -> None:
    """One cluster: the mean of three batches, whatever they are."""
    fitted = _fit_batches(points_ND, 100, num_clusters=1, iterations=3)
    batches = [passes.Sample(100, SETTINGS["seed"], ("k-means", "batch", n)).rows(1500) for n in (1, 2, 3)]
    np.testing.assert_allclose(fitted.centroids_KD[0], points_ND[np.concatenate(batches)].mean(axis=0), rtol=1e-4)
    assert fitted.num_fitted == 300


def test_a_batch_of_all_points_is_lloyds(points_ND: np.ndarray) -> None:
    np.testing.assert_array_equal(_fit_batches(points_ND, 1500).centroids_KD, _fit(points_ND).centroids_KD)


def test_mini_batches_go_on_where_they_were_cut_short(
    tmp_path: Path, points_ND: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    _fit_batches(points_ND, 100, iterations=4, folder=tmp_path)
    resumed = _fit_batches(points_ND, 100, iterations=20, folder=tmp_path)
    assert "goes on after iteration 4" in caplog.text
    whole = _fit_batches(points_ND, 100, iterations=20)
    np.testing.assert_array_equal(resumed.centroids_KD, whole.centroids_KD)
    assert resumed.objective == whole.objective


def test_mini_batches_leave_no_cluster_without_points() -> None:
    points_ND = np.repeat(np.eye(3, 5, dtype=np.float32), [900, 80, 20], axis=0)
    fitted = _fit_batches(points_ND, 100, num_clusters=6)
    clusters, _ = StreamingEngine().assign(points_ND, fitted.centroids_KD)
    assert len(set(clusters)) >= 3
