"""Soft labels: the shares that several clusters have in a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SoftLabels:
    """T clusters for each of N samples; their shares sum to 1."""

    classes_NT: np.ndarray
    """int32."""
    shares_NT: np.ndarray
    """float32."""


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
    distances = np.maximum(distances_NT.astype(np.float64), 0.0)
    scale = max(bandwidth * float(distances[:, 0].mean()), 1e-12)
    return SoftLabels(clusters_NT.astype(np.int32), softmax(-distances / scale))
