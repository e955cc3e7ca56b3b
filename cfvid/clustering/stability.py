"""How much a clustering depends on its seed: an early sign of a K that the features do not carry."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score

from cfvid.clustering.base import KMeansEngine
from cfvid.errors import ConfigError
from cfvid.seeds import derive


def stability(engine: KMeansEngine, points_NP: np.ndarray, *, seed: int, num_seeds: int, **settings: Any) -> float:
    """Mean adjusted Rand index of all pairs of k-means runs that differ in their seed only: 1 when all agree.

    Args:
        engine: fits and assigns.
        points_NP: float32, as they are clustered.
        seed: the runs' seeds are drawn from it.
        num_seeds: runs.
        settings: all other arguments of `KMeansEngine.fit`.

    Raises:
        ConfigError: for fewer than two runs.
    """
    if num_seeds < 2:
        raise ConfigError(f"num_seeds is {num_seeds}; at least 2 runs are needed to compare them.")
    runs = []
    for number in range(num_seeds):
        fitted = engine.fit(points_NP, seed=derive(seed, "stability", number), **settings)
        runs.append(engine.assign(points_NP, fitted.centroids_KD)[0])
    return float(np.mean([adjusted_rand_score(one, other) for one, other in combinations(runs, 2)]))
