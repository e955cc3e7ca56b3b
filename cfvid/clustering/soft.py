"""Soft labels: the shares that several clusters have in a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SoftLabels:
    """T clusters for each of N samples; their shares sum to 1. They are made when they are asked for: those of a
    million samples and a thousand clusters would take 8 GB."""

    shape: tuple[int, int]
    """N and T."""
    part: Callable[[slice], tuple[np.ndarray, np.ndarray]]
    """Give the soft labels of consecutive rows: classes, int32 (n, T), and shares, float32 (n, T)."""


def softmax(logits_NT: np.ndarray) -> np.ndarray:
    """Rows as shares: float32, (N, T)."""
    powers = np.exp(logits_NT - logits_NT.max(axis=1, keepdims=True))
    shares: np.ndarray = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def of_distances(clusters_NT: np.ndarray, distances_NT: np.ndarray, *, bandwidth: float) -> SoftLabels:
    """Shares that fall with the squared distance, by the factor e per `bandwidth` times the mean to the nearest.

    Args:
        clusters_NT: int64, the nearest clusters of each sample, nearest first.
        distances_NT: float32, squared.
        bandwidth: relative, so that it means the same whatever the features' scale and dimensions are.
    """
    nearest_N = np.maximum(distances_NT[:, 0].astype(np.float64), 0.0)
    scale = max(bandwidth * float(nearest_N.mean()), 1e-12)

    def part(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        distances = np.maximum(distances_NT[rows].astype(np.float64), 0.0)
        return clusters_NT[rows].astype(np.int32), softmax(-distances / scale)

    num_samples, num_clusters = clusters_NT.shape
    return SoftLabels((num_samples, num_clusters), part)
