"""Nearest centroids by matrix products of torch, where the points are: on a GPU.

One product compares a chunk of points with all centroids. Sums are added up in a fixed order, without atomics, so that
equal arguments give equal centroids.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch

Points = np.ndarray | torch.Tensor
"""Float, (N, D), in memory, in a file or on a device."""

_SCORES = 2**27
"""Points times centroids that are compared at once: half a GiB of single precision."""
_LOADED_BYTES = 2**28
_OF_MEMORY = 0.5
"""Points are held on a GPU when they take at most this share of its free memory."""


class DeviceSearch:
    """See `cfvid.clustering.search.Index`; points are compared in about single precision.

    A GPU multiplies fastest what has ten bits after the point (TF32). Numbers are split into such a part and the rest,
    and the three products that count come from one multiplication of matrices three times as long.

    Args:
        centroids_KD: float32.
        device: where the work is done.
    """

    def __init__(self, centroids_KD: np.ndarray, *, device: torch.device) -> None:
        self.device = device
        self._centroids_KD = torch.from_numpy(np.ascontiguousarray(centroids_KD, dtype=np.float32)).to(device)
        # At x, the form 2 x c - c c is the larger, the nearer c is to x.
        twice_KD = 2 * self._centroids_KD
        self._minus_squares_K = -self._centroids_KD.square().sum(1)
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._copies is not None:
            high, low = _split(twice_KD)
            twice_KD = torch.cat([high, low, high], dim=1)
        self._forms = twice_KD.T

    def load(self, part: Points) -> torch.Tensor:
        """Points on the device, float32; by another thread, while others are worked on."""
        if isinstance(part, torch.Tensor):
            return part.to(self.device).float()
        if self._copies is None:
            return torch.from_numpy(np.array(part, order="C")).float()
        pinned = torch.from_numpy(np.empty(0, dtype=part.dtype)).new_empty(part.shape, pin_memory=True)
        np.copyto(pinned.numpy(), part)
        with torch.cuda.stream(self._copies):
            loaded = pinned.to(self.device, non_blocking=True).float()
        self._copies.synchronize()
        return loaded

    def search(self, points_ND: torch.Tensor, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances float32 (N, num) and ids int64 (N, num), nearest first."""
        parts = [self._nearest(part, num) for part in self._chunks(points_ND)]
        distances, ids = (torch.cat(some) for some in zip(*parts, strict=True))
        return distances.cpu().numpy(), ids.cpu().numpy()

    def add_up(self, blocks: Iterable[torch.Tensor]) -> tuple[np.ndarray, np.ndarray, float]:
        """See `cfvid.clustering.search.Index`."""
        num_clusters = len(self._centroids_KD)
        ends = torch.arange(num_clusters + 1, device=self.device)
        sums_KD = torch.zeros_like(self._centroids_KD, dtype=torch.float64)
        counts_K = torch.zeros(num_clusters, dtype=torch.int64, device=self.device)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for part_BD in (part for block in blocks for part in self._chunks(block)):
            distances, ids = self._nearest(part_BD, 1)
            clusters, order = ids[:, 0].sort(stable=True)
            offsets = torch.searchsorted(clusters, ends)
            # Within a chunk single precision suffices; over all of them it would not.
            sums_KD += torch.segment_reduce(part_BD[order], "sum", offsets=offsets, initial=0.0, unsafe=True)
            counts_K += offsets.diff()
            total += distances.sum(dtype=torch.float64)
        return sums_KD.cpu().numpy(), counts_K.cpu().numpy(), float(total)

    def _chunks(self, points_ND: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._copies is not None:
            # Loaded on another stream: its memory must not be given away while this one still reads it.
            points_ND.record_stream(torch.cuda.current_stream(self.device))
        return points_ND.split(max(1, _SCORES // len(self._centroids_KD)))

    def _nearest(self, points_BD: torch.Tensor, num: int) -> tuple[torch.Tensor, torch.Tensor]:
        scores_BK = self._scores(points_BD)
        # Of equally near ones the first: topk promises no order.
        ids = scores_BK.argmax(1, keepdim=True) if num == 1 else scores_BK.topk(num, dim=1).indices
        # Differences lose nothing where a point lies near its centroid; the forms would.
        distances = torch.stack(
            [(points_BD - self._centroids_KD[ids[:, rank]]).square().sum(1) for rank in range(num)], dim=1
        )
        return distances, ids

    def _scores(self, points_BD: torch.Tensor) -> torch.Tensor:
        if self._copies is None:
            return torch.addmm(self._minus_squares_K, points_BD, self._forms)
        high, low = _split(points_BD)
        with _tensor_cores():
            return torch.addmm(self._minus_squares_K, torch.cat([high, high, low], dim=1), self._forms)


def _split(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Parts of float32 numbers: what TF32 holds of them, and what it does not."""
    high = (values.view(torch.int32) & -(2**13)).view(torch.float32)
    return high, values - high


@contextlib.contextmanager
def _tensor_cores() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def held_on(points_ND: np.ndarray, device: torch.device) -> Points:
    """The points on a GPU, where they take at most half of its free memory; else as they are."""
    free, _ = torch.cuda.mem_get_info(device)
    if points_ND.nbytes > _OF_MEMORY * free:
        return points_ND
    held = torch.empty(points_ND.shape, dtype=torch.from_numpy(np.empty(0, points_ND.dtype)).dtype, device=device)
    rows = max(1, _LOADED_BYTES // max(1, points_ND[:1].nbytes))
    for part, target in zip(np.split(points_ND, range(rows, len(points_ND), rows)), held.split(rows), strict=True):
        target.copy_(torch.from_numpy(np.array(part, order="C")))  # a copy: where they are in a file, it is read here
    return held
