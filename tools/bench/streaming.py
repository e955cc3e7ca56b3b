"""streaming: one iteration of k-means over half-precision features in a file, against faiss' search in memory.

The reference finds the nearest centroid of the same rows, which lie in memory in single precision; it reads nothing and
adds nothing up. So the ratio says what reading, converting and adding up cost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from cfvid.clustering.streaming_engine import StreamingEngine
from cfvid.faiss_import import faiss
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
    iterations: int = 1


SIZES = {
    "smoke": Size(num_points=2_000, dim=16, num_clusters=10, rounds=1),
    "small": Size(num_points=300_000, dim=256, num_clusters=4096, rounds=3),
    # As large as what is promised of the memory (tools.bench.memory).
    "medium": Size(num_points=5_000_000, dim=256, num_clusters=4096, rounds=1),
    # For a GPU.
    "large": Size(num_points=2_000_000, dim=256, num_clusters=4096, rounds=3, iterations=10),
}


def run(options: Options) -> Iterator[Comparison]:
    """One comparison: on the CPU, or of a large size on a GPU."""
    size, on_gpu = SIZES[options.size], options.size == "large"
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(num_cores()):
        faiss.omp_set_num_threads(num_cores())
        path = Path(folder) / "points.npy"
        np.save(
            path, np.random.default_rng(0).standard_normal((size.num_points, size.dim), np.float32).astype(np.float16)
        )
        stored = np.load(path, mmap_mode="r")
        held = stored.astype(np.float32)
        search = _on_gpu(held, size) if on_gpu else _by_faiss(held, size)
        streamed = partial(iterate, stored, size.num_clusters, iterations=size.iterations, use_gpu=on_gpu)
        units = size.num_points * size.iterations
        rates = alternate(
            partial(rate_of, search, units=units),
            partial(rate_of, streamed, units=units),
            rounds=options.rounds or size.rounds,
        )
        yield Comparison(
            benchmark="streaming",
            what=f"{size.iterations} iterations, {size.num_points} x {size.dim} fp16 in a file, K {size.num_clusters}",
            reference="torch matmul and argmax, fp32 on the GPU" if on_gpu else "faiss search, fp32 in memory",
            unit="points/s",
            goal=GOAL,
            candidate_rates=rates[0],
            reference_rates=rates[1],
            notes={"rows": streamed()},
        )


def _by_faiss(points_ND: np.ndarray, size: Size) -> Callable[[], object]:
    index = faiss.IndexFlatL2(size.dim)
    index.add(points_ND[: size.num_clusters])
    return partial(index.search, points_ND, 1)


def _on_gpu(points_ND: np.ndarray, size: Size) -> Callable[[], None]:
    points = torch.from_numpy(points_ND).cuda()
    centroids = points[: size.num_clusters]
    forms, squares = 2 * centroids.T, -centroids.square().sum(1)

    def search() -> None:
        for _ in range(size.iterations):
            for part in points.split(2**27 // size.num_clusters):
                torch.addmm(squares, part, forms).argmax(1)
        torch.cuda.synchronize()

    return search


def iterate(points_ND: np.ndarray, num_clusters: int, *, iterations: int = 1, use_gpu: bool = False) -> int:
    """Some iterations of the engine; gives the number of points it looked at."""
    fitted = StreamingEngine(use_gpu=use_gpu).fit(
        points_ND,
        num_clusters=num_clusters,
        spherical=False,
        iterations=iterations,
        restarts=1,
        max_points_per_centroid=None,
        seed=1,
    )
    return fitted.num_fitted
