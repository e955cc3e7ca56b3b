"""Hierarchical k-means: as many clusters as asked for, nearly as good as flat ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tiny import tiny_config, write_pictures

from cfvid.artifacts import Record
from cfvid.clustering.faiss_engine import FaissEngine
from cfvid.clustering.hierarchical_engine import HierarchicalEngine, _far_apart, _shares
from cfvid.clustering.streaming_engine import StreamingEngine
from cfvid.errors import ConfigError
from cfvid.pipeline import run_stages

SETTINGS = {"iterations": 20, "restarts": 1, "max_points_per_centroid": None, "seed": 1}


def _points(num: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(100, 16))[rng.integers(100, size=num)] + rng.normal(size=(num, 16))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("spherical", [False, True])
def test_it_is_nearly_as_good_as_flat(spherical: bool) -> None:
    points_ND, flat = _points(6000), FaissEngine()
    options = {**SETTINGS, "num_clusters": 300, "spherical": spherical}
    hierarchical = HierarchicalEngine(StreamingEngine())
    theirs, ours = flat.fit(points_ND, **options), hierarchical.fit(points_ND, **options)
    assert len(ours.centroids_KD) == 300
    clusters, distances = hierarchical.assign(points_ND, ours.centroids_KD)
    exact, exact_distances = flat.assign(points_ND, ours.centroids_KD)
    assert exact_distances.sum() < 1.03 * flat.assign(points_ND, theirs.centroids_KD)[1].sum()
    assert (clusters == exact).mean() > 0.97
    assert distances.sum() < 1.01 * exact_distances.sum()
    assert ours.objective[-1] < ours.objective[0]


@pytest.mark.parametrize("num_clusters", [4, 9, 37, 60])
def test_groups_share_the_clusters(num_clusters: int) -> None:
    groups = np.repeat([0, 1, 3], [50, 9, 1])  # group 2 is empty
    shares = list(_shares(groups, 4, num_clusters))
    assert sum(num for _, num in shares) == num_clusters
    assert all(1 <= num <= len(rows) for rows, num in shares)
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in shares]), np.arange(60))


@pytest.mark.parametrize("engine", ["faiss", "streaming"])
def test_the_stage(tmp_path: Path, engine: str) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    options = {"cluster__hierarchical": True, "cluster__engine": engine, "cluster__num_clusters": 6}
    run_stages(tiny_config(pictures, **options), tmp_path / "run", stages=["pretrain", "extract", "cluster"])
    record = Record.read(tmp_path / "run" / "cluster", kind="pseudo-labels")
    assert record.inputs["cluster"]["hierarchical"] is True
    assert record.facts["num_clusters"] <= 6
    with pytest.raises(ConfigError, match="hierarchical has no meaning"):
        tiny_config(pictures, cluster__hierarchical=True, cluster__method="prototypes")


def test_starting_points_are_far_apart_and_all_different() -> None:
    rng = np.random.default_rng(0)
    blobs_ND = (10 * rng.normal(size=(20, 16))[np.arange(2000) % 20] + rng.normal(size=(2000, 16))).astype(np.float32)
    rows = _far_apart(blobs_ND, 20, np.random.default_rng(1))
    assert len(set(rows)) == 20
    assert len(set(rows % 20)) > 15  # at random about 13
    copies_ND = np.repeat(blobs_ND[:3], 4, axis=0)
    drawn = _far_apart(copies_ND, 12, np.random.default_rng(1))
    assert len(set(drawn[:3] // 4)) == 3
    assert sorted(drawn) == list(range(12))
