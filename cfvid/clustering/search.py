"""Ways to find the nearest centroids of many points."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Protocol

import numpy as np
import torch

from cfvid.clustering.device_search import DeviceSearch, Points
from cfvid.clustering.grouped import GroupedSearch
from cfvid.faiss_import import faiss

Search = Literal["flat", "grouped"]


class Index(Protocol):
    """Finds the nearest of the centroids it holds."""

    def load(self, part: Points, /) -> Any:
        """Some points as `search` and `add_up` take them, float32; may be called by another thread, ahead."""
        ...

    def search(self, points_ND: Any, num: int, /) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances float32 (N, num) and ids int64 (N, num), nearest first."""
        ...

    def add_up(self, blocks: Iterable[Any], /) -> tuple[np.ndarray, np.ndarray, float]:
        """Of all points in these blocks: each cluster's sum, float64 (K, D), its size, int64 (K,), and the sum of
        squared distances."""
        ...


class HostSearch:
    """See `Index`: on the CPU.

    Args:
        centroids_KD: float32.
        finder: what finds the nearest of them: `search(points, num)` gives squared distances and ids.
    """

    def __init__(self, centroids_KD: np.ndarray, finder: Any) -> None:
        self._shape = centroids_KD.shape
        self._finder = finder

    def load(self, part: Points) -> np.ndarray:
        """A copy, float32: where the points are in a file, it is read here."""
        copied: np.ndarray = np.array(part, order="C")
        # torch turns half into single precision several times as fast as numpy.
        return copied if copied.dtype == np.float32 else torch.from_numpy(copied).float().numpy()

    def search(self, points_ND: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances float32 (N, num) and ids int64 (N, num), nearest first."""
        distances, ids = self._finder.search(np.ascontiguousarray(points_ND, dtype=np.float32), num)
        return distances, ids

    def add_up(self, blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
        """See `Index`."""
        sums_KD = torch.zeros(self._shape, dtype=torch.float64)
        counts_K = np.zeros(self._shape[0], dtype=np.int64)
        total = 0.0
        for block_BD in blocks:
            distances, ids = self.search(block_BD, 1)
            # Within a block single precision suffices; over all of them it would not.
            part_KD = torch.zeros(self._shape)
            sums_KD += part_KD.index_add_(0, torch.from_numpy(ids[:, 0]), torch.from_numpy(block_BD))
            counts_K += np.bincount(ids[:, 0], minlength=len(counts_K))
            total += float(distances.sum(dtype=np.float64))
        return sums_KD.numpy(), counts_K, total


def count_gpus(use_gpu: bool) -> int:
    """GPUs that faiss sees, when they are asked for.

    gpu=True without a GPU silently runs on the CPU.
    """
    return faiss.get_num_gpus() if use_gpu and hasattr(faiss, "get_num_gpus") else 0


def own_gpu() -> torch.device:
    """The GPU of this process."""
    return torch.device("cuda", torch.cuda.current_device())


def build_index(centroids_KD: np.ndarray, search: Search, *, num: int = 1, use_gpu: bool = False) -> Index:
    """An index of centroids, float32 (K, D), by squared Euclidean distance.

    Args:
        centroids_KD: what is searched.
        search: `flat` is exact; `grouped` looks only at the groups of centroids that are nearest, on the CPU.
        num: centroids that will be asked for.
        use_gpu: `flat` on the process' GPU, by torch.
    """
    if search == "grouped":
        return HostSearch(centroids_KD, GroupedSearch(centroids_KD, num=num))
    if use_gpu:
        return DeviceSearch(centroids_KD, device=own_gpu())
    index: Any = faiss.IndexFlatL2(centroids_KD.shape[1])
    index.add(np.ascontiguousarray(centroids_KD, dtype=np.float32))
    return HostSearch(centroids_KD, index)
