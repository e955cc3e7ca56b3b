"""Ways to find the nearest centroids of many points, all through faiss."""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

import faiss
import numpy as np

from cfvid import launch, ranks

logger = logging.getLogger(__name__)

_FEWEST_PROBES, _PROBED_SHARE = 8, 8
"""A point is compared with the centroids of so many groups, or of one in so many where that is more."""

Search = Literal["flat", "grouped"]


def count_gpus(use_gpu: bool) -> int:
    """GPUs that faiss sees, when they are asked for; tells what is used, and why.

    gpu=True without a GPU silently runs on the CPU.
    """
    num_gpus: int = faiss.get_num_gpus() if use_gpu and hasattr(faiss, "get_num_gpus") else 0
    where = f"{num_gpus} GPU(s)" if num_gpus else "the CPU"
    reason = "asked for" if not use_gpu else ("faiss sees them" if num_gpus else "faiss sees no GPU")
    logger.info("k-means by faiss %s on %s (%s)", faiss.__version__, where, reason)
    return num_gpus


def build_index(centroids_KD: np.ndarray, search: Search, *, num: int = 1, use_gpu: bool = False) -> Any:
    """An index of centroids, float32 (K, D), by squared Euclidean distance.

    Args:
        centroids_KD: what is searched.
        search: `flat` is exact; `grouped` looks only at the groups of centroids that are nearest, on the CPU.
        num: centroids that will be asked for.
        use_gpu: on all GPUs; where several processes share the work, each on its own.
    """
    return _grouped_index(centroids_KD, num=num) if search == "grouped" else _flat_index(centroids_KD, use_gpu=use_gpu)


def _flat_index(centroids_KD: np.ndarray, *, use_gpu: bool) -> Any:
    index: Any = faiss.IndexFlatL2(centroids_KD.shape[1])
    if use_gpu:
        own = None if ranks.count() == 1 else [launch.local_rank()]
        index = faiss.index_cpu_to_gpus_list(index, gpus=own)
    index.add(np.ascontiguousarray(centroids_KD, dtype=np.float32))
    return index


def _grouped_index(centroids_KD: np.ndarray, *, num: int) -> Any:
    num_clusters, dim = centroids_KD.shape
    num_lists = round(math.sqrt(num_clusters))
    index: Any = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, num_lists)
    index.cp.min_points_per_centroid = 1  # otherwise it warns that there are few
    index.train(centroids_KD)
    index.add(centroids_KD)
    # Enough groups to find `num` centroids even where these are small.
    probes = max(_FEWEST_PROBES, num_lists // _PROBED_SHARE)
    index.nprobe = min(num_lists, probes) if num * probes <= num_clusters else num_lists
    return index
