"""Agreement of k-means runs over seeds."""

from __future__ import annotations

import numpy as np
import pytest

from cfvid.clustering.faiss_engine import FaissEngine
from cfvid.clustering.stability import stability
from cfvid.errors import ConfigError

SETTINGS = {"spherical": False, "iterations": 20, "max_points_per_centroid": None, "seed": 1}


def test_groups_far_apart_are_stable_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    blobs = (np.repeat(np.eye(3) * 50, 60, axis=0) + rng.normal(size=(180, 3))).astype(np.float32)
    noise = rng.uniform(size=(180, 8)).astype(np.float32)
    engine = FaissEngine()
    assert stability(engine, blobs, num_clusters=3, num_seeds=4, restarts=10, **SETTINGS) == 1.0
    assert stability(engine, noise, num_clusters=12, num_seeds=4, restarts=1, **SETTINGS) < 0.6


def test_one_run_has_nothing_to_be_compared_with() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        stability(FaissEngine(), np.zeros((4, 2), np.float32), num_seeds=1, num_clusters=2, restarts=1, **SETTINGS)
