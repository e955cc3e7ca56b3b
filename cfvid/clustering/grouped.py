"""Nearest centroids among those of a few groups, by matrix products.

Centroids that lie together form a group. A point is compared with the centroids of the groups whose centres are nearest
to it. Points that look at the same group do so together: one product of matrices compares them with all of it, at a
fraction of what comparisons point by point cost. What is found for a point depends on the centroids and on that point;
the others only have a say in how its distances are rounded.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from cfvid.faiss_import import faiss

FEWEST_PROBES, PROBED_SHARE = 8, 8
"""A point is compared with the centroids of so many groups, or of one in so many where that is more."""
_CHUNK_VALUES = 2**20
"""Of the points that a thread looks at together: as many as stay in a cache, enough for products of some size."""
_NUM_ITERATIONS = 10
"""Of k-means over the centroids."""


@dataclass(frozen=True)
class _Group:
    """Centroids that lie together."""

    ids: np.ndarray
    """Ascending, so that the first of equally near ones is found."""
    forms_ED: np.ndarray
    """See `_forms`."""


class GroupedSearch:
    """Finds nearly always the nearest of many centroids.

    Args:
        centroids_KD: float32.
        num: the most centroids that will be asked for.
        num_groups: of centroids; by default the square root of their number.
        num_probes: groups to look at, more where these may have fewer than `num` centroids; by default see above.
    """

    def __init__(
        self, centroids_KD: np.ndarray, *, num: int = 1, num_groups: int | None = None, num_probes: int | None = None
    ) -> None:
        centroids_KD = np.ascontiguousarray(centroids_KD, dtype=np.float32)
        centres_GD, members = _grouped(centroids_KD, num_groups or round(math.sqrt(len(centroids_KD))))
        self._groups = [_Group(ids, _forms(centroids_KD[ids])) for ids in members]
        self._centre_forms_GD = _forms(centres_GD)
        probes = num_probes or max(FEWEST_PROBES, len(members) // PROBED_SHARE)
        # Also the smallest groups together have as many as are asked for.
        fewest = np.cumsum(np.sort([len(ids) for ids in members]))
        self.num_probes = min(len(members), max(probes, int(np.searchsorted(fewest, num)) + 1))

    def search(self, points_ND: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances float32 (N, num) and ids int64 (N, num) of the nearest found, nearest first."""
        size = max(1, _CHUNK_VALUES // max(1, points_ND.shape[1]))
        chunks = [points_ND[start : start + size] for start in range(0, max(1, len(points_ND)), size)]
        # Many small products: each is one thread's, and the chunks are divided among threads.
        with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
            found = list(pool.map(functools.partial(self._chunk_search, num=num), chunks))
        return np.concatenate([distances for distances, _ in found]), np.concatenate([ids for _, ids in found])

    def _chunk_search(self, points_BD: np.ndarray, *, num: int) -> tuple[np.ndarray, np.ndarray]:
        points_BE = np.ones((len(points_BD), points_BD.shape[1] + 1), dtype=np.float32)
        points_BE[:, :-1] = points_BD
        probes_BP = self._probes(points_BE)
        # The pairs of a point and a group, by group.
        pairs = np.argsort(probes_BP, axis=None, kind="stable")
        ends = np.cumsum(np.bincount(probes_BP.ravel(), minlength=len(self._groups)))
        scores_LS = np.full((probes_BP.size, num), -np.inf, dtype=np.float32)
        ids_LS = np.full((probes_BP.size, num), -1, dtype=np.int64)
        for group, (start, end) in zip(self._groups, pairwise([0, *ends]), strict=True):
            own = pairs[start:end]
            best, kept = _best(points_BE[own // probes_BP.shape[1]] @ group.forms_ED, min(num, len(group.ids)))
            ids_LS[own, : best.shape[1]], scores_LS[own, : best.shape[1]] = group.ids[best], kept
        shape = len(points_BD), probes_BP.shape[1] * num
        scores, ids = _merged(scores_LS.reshape(shape), ids_LS.reshape(shape), num)
        squares_B = np.einsum("bd,bd->b", points_BD, points_BD)
        return np.maximum(squares_B[:, None] - scores, 0), ids

    def _probes(self, points_BE: np.ndarray) -> np.ndarray:
        """The groups to look at for each point."""
        scores_BG = points_BE @ self._centre_forms_GD
        first = len(self._groups) - self.num_probes
        # Radix sort is for 16 bits; there are hardly ever more groups.
        kind = np.uint16 if len(self._groups) <= 2**16 else np.int64
        return np.argpartition(scores_BG, first, axis=1)[:, first:].astype(kind)


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _grouped(centroids_KD: np.ndarray, num_groups: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Centres of groups that are not empty, and the centroids of each."""
    num_groups = min(num_groups, len(centroids_KD))
    kmeans = faiss.Kmeans(centroids_KD.shape[1], num_groups, niter=_NUM_ITERATIONS, min_points_per_centroid=1, seed=1)
    kmeans.train(centroids_KD)
    groups_K = kmeans.index.search(centroids_KD, 1)[1][:, 0]
    ids = np.argsort(groups_K, kind="stable")
    sizes_G = np.bincount(groups_K, minlength=num_groups)
    members = [part for part in np.split(ids, np.cumsum(sizes_G)[:-1]) if len(part)]
    return np.asarray(kmeans.centroids)[sizes_G > 0], members


def _forms(centroids_KD: np.ndarray) -> np.ndarray:
    """A linear form for each centroid c, (D + 1, K): at (x, 1) it is 2 x c - c c, the larger, the nearer c is to x."""
    squares_K = np.einsum("kd,kd->k", centroids_KD, centroids_KD)
    return np.ascontiguousarray(np.concatenate([2 * centroids_KD, -squares_K[:, None]], axis=1).T)


def _best(scores_LK: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the largest scores of each row, largest first; of equal ones the first. Overwrites them."""
    rows = np.arange(len(scores_LK))
    columns = np.empty((len(rows), num), dtype=np.int64)
    values = np.empty((len(rows), num), dtype=np.float32)
    for rank in range(num):
        columns[:, rank] = found = scores_LK.argmax(axis=1)
        values[:, rank] = scores_LK[rows, found]
        scores_LK[rows, found] = -np.inf
    return columns, values


def _merged(scores_BS: np.ndarray, ids_BS: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the largest scores and their ids, largest first; of equal ones the smaller id."""
    order = np.lexsort((ids_BS, -scores_BS))[:, :num]
    return np.take_along_axis(scores_BS, order, axis=1), np.take_along_axis(ids_BS, order, axis=1)
