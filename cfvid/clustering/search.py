"""Ways to find the nearest centroids of many points."""

from __future__ import annotations

import logging
from typing import Any, Literal, Protocol

import faiss
import numpy as np

from cfvid import launch, ranks
from cfvid.clustering.grouped import GroupedSearch

logger = logging.getLogger(__name__)

Search = Literal["flat", "grouped"]


class Index(Protocol):
    """Finds the nearest of the centroids it holds."""

    def search(self, points_ND: np.ndarray, num: int, /) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances float32 (N, num) and ids int64 (N, num), nearest first."""
        ...


def count_gpus(use_gpu: bool) -> int:
    """GPUs that faiss sees, when they are asked for; tells what is used, and why.

    gpu=True without a GPU silently runs on the CPU.
    """
    num_gpus: int = faiss.get_num_gpus() if use_gpu and hasattr(faiss, "get_num_gpus") else 0
    where = f"{num_gpus} GPU(s)" if num_gpus else "the CPU"
    reason = "asked for" if not use_gpu else ("faiss sees them" if num_gpus else "faiss sees no GPU")
    logger.info("k-means by faiss %s on %s (%s)", faiss.__version__, where, reason)
    return num_gpus


def build_index(centroids_KD: np.ndarray, search: Search, *, num: int = 1, use_gpu: bool = False) -> Index:
    """An index of centroids, float32 (K, D), by squared Euclidean distance.

    Args:
        centroids_KD: what is searched.
        search: `flat` is exact; `grouped` looks only at the groups of centroids that are nearest, on the CPU.
        num: centroids that will be asked for.
        use_gpu: on all GPUs; where several processes share the work, each on its own.
    """
    if search == "grouped":
        return GroupedSearch(centroids_KD, num=num)
    return _flat_index(centroids_KD, use_gpu=use_gpu)


def _flat_index(centroids_KD: np.ndarray, *, use_gpu: bool) -> Index:
    index: Any = faiss.IndexFlatL2(centroids_KD.shape[1])
    if use_gpu:
        own = None if ranks.count() == 1 else [launch.local_rank()]
        index = faiss.index_cpu_to_gpus_list(index, gpus=own)
    index.add(np.ascontiguousarray(centroids_KD, dtype=np.float32))
    found: Index = index
    return found
