"""streaming: one iteration of k-means over half-precision features in a file, against faiss' search in memory.

The reference finds the nearest centroid of the same rows, which lie in memory in single precision; it reads nothing and
adds nothing up. So the ratio says what reading, converting and adding up cost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from cfvid.clustering.search import build_index
from cfvid.clustering.streaming_engine import StreamingEngine
from tools.bench.options import Options
from tools.bench.timing import Comparison, alternate, num_cores, rate_of

GOAL = 0.87
"""A time per iteration of at most 1.15 times the reference's."""


@dataclass(frozen=True)
class Size:
    """What is clustered."""

    num_points: int
    dim: int
    num_clusters: int
    rounds: int


SIZES = {
    "smoke": Size(num_points=2_000, dim=16, num_clusters=10, rounds=1),
    "small": Size(num_points=300_000, dim=256, num_clusters=4096, rounds=3),
}


def run(options: Options) -> Iterator[Comparison]:
    """One comparison."""
    size = SIZES[options.size]
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(num_cores()):
        faiss.omp_set_num_threads(num_cores())
        path = Path(folder) / "points.npy"
        np.save(path, np.random.default_rng(0).normal(size=(size.num_points, size.dim)).astype(np.float16))
        stored = np.load(path, mmap_mode="r")
        held = stored.astype(np.float32)
        index = build_index(held[: size.num_clusters], "flat")
        streamed = partial(iterate, stored, size.num_clusters)
        rates = alternate(
            partial(rate_of, partial(index.search, held, 1), units=size.num_points),
            partial(rate_of, streamed, units=size.num_points),
            rounds=options.rounds or size.rounds,
        )
        yield Comparison(
            benchmark="streaming",
            what=f"one iteration, {size.num_points} x {size.dim} fp16 in a file, K {size.num_clusters}",
            reference="faiss search, fp32 in memory",
            unit="points/s",
            goal=GOAL,
            candidate_rates=rates[0],
            reference_rates=rates[1],
            notes={"rows": streamed()},
        )


def iterate(points_ND: np.ndarray, num_clusters: int) -> int:
    """One iteration of the engine; gives the number of points it looked at."""
    fitted = StreamingEngine().fit(
        points_ND,
        num_clusters=num_clusters,
        spherical=False,
        iterations=1,
        restarts=1,
        max_points_per_centroid=None,
        seed=1,
    )
    return fitted.num_fitted
