"""k-means of several processes over one file is that of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.team import Team

from cfvid.clustering.hierarchical_engine import HierarchicalEngine
from cfvid.clustering.streaming_engine import StreamingEngine

SETTINGS = {"num_clusters": 40, "iterations": 8, "restarts": 2, "seed": 5}


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("points") / "points.npy"
    np.save(path, (rng.normal(size=(60, 12))[rng.integers(60, size=4001)] + rng.normal(size=(4001, 12))).astype("f2"))
    return path


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"spherical": False, "max_points_per_centroid": None},
        {"spherical": True, "max_points_per_centroid": None},
        {"spherical": False, "max_points_per_centroid": 50},
    ],
    ids=["euclidean", "spherical", "subsampled"],
)
def test_the_objective_is_that_of_one_process(
    team: Team, points: Path, tmp_path: Path, size: int, settings: dict[str, Any]
) -> None:
    assert (
        team.run("clustering", points, tmp_path / "x.npz", "streaming", SETTINGS | settings, 2, size=size) == [0] * size
    )
    found = np.load(tmp_path / "x.npz")
    points_ND = np.load(points, mmap_mode="r")
    engine = StreamingEngine()
    expected = engine.fit(points_ND, **SETTINGS, **settings)
    np.testing.assert_allclose(found["objective"], expected.objective, rtol=1e-5)
    ids, distances = engine.nearest(points_ND, found["centroids"], num=2)
    np.testing.assert_array_equal(found["ids"], ids)
    np.testing.assert_array_equal(found["distances"], distances)


def test_hierarchical(team: Team, points: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"spherical": False, "max_points_per_centroid": None}
    assert team.run("clustering", points, tmp_path / "x.npz", "hierarchical", settings, 1, size=2) == [0, 0]
    found = np.load(tmp_path / "x.npz")
    expected = HierarchicalEngine(StreamingEngine()).fit(np.load(points, mmap_mode="r"), **settings)
    np.testing.assert_allclose(found["objective"], expected.objective, rtol=1e-3)


def test_two_equal_centroids_are_repaired_alike(team: Team, tmp_path: Path) -> None:
    np.save(tmp_path / "points.npy", np.repeat(np.eye(3, dtype="f4"), 100, axis=0))
    settings = SETTINGS | {"num_clusters": 8, "spherical": False, "max_points_per_centroid": None, "iterations": 5}
    assert team.run("clustering", tmp_path / "points.npy", tmp_path / "x.npz", "streaming", settings, 1, size=2) == [
        0,
        0,
    ]
    expected = StreamingEngine().fit(np.load(tmp_path / "points.npy", mmap_mode="r"), **settings)
    np.testing.assert_allclose(np.load(tmp_path / "x.npz")["objective"], expected.objective, rtol=1e-5, atol=1e-6)
