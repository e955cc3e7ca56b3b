"""Nearest neighbours: no training, so that it says what the features are like as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.preprocessing import normalize

from cfvid.config import NearestConfig

_CHUNK_ROWS = 1024
"""Rows compared at once: similarities to all training samples are held in memory."""


class NearestNeighbours:
    """A weighted vote of the nearest training samples (Wu et al., CVPR 2018): each with exp(cosine / temperature).

    The scikit-learn contract, with the methods of `LinearProbe`. A training sample is the mean of its views, each of
    unit length; scored views vote singly.

    Args:
        config: how many neighbours, and the temperature.
    """

    def __init__(self, config: NearestConfig) -> None:
        self.config = config

    def fit(self, features_NVD: np.ndarray, labels_N: np.ndarray, *, num_classes: int) -> NearestNeighbours:
        """Keep the training samples; `num_neighbours_` is at most their number."""
        self.num_classes_ = num_classes
        self.points_ND = _unit(_unit(features_NVD).mean(axis=1))
        self.labels_N = np.asarray(labels_N)
        self.num_neighbours_ = min(self.config.num_neighbours, len(self.labels_N))
        return self

    @property
    def facts(self) -> dict[str, Any]:
        """What is to be known about the fit."""
        return {"num_neighbours": self.num_neighbours_}

    def logits(self, features_NVD: np.ndarray) -> np.ndarray:
        """float32 (N, V, D) -> logarithms of the classes' shares of the vote, (N, V, num_classes); -inf without one."""
        num_samples, num_views, dim = features_NVD.shape
        queries_MD = _unit(features_NVD.reshape(-1, dim))
        votes_MC = np.zeros((len(queries_MD), self.num_classes_))
        for start in range(0, len(queries_MD), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            votes_MC[rows] = self._votes(queries_MD[rows])
        with np.errstate(divide="ignore"):
            shares = np.log(votes_MC / votes_MC.sum(axis=1, keepdims=True))
        return shares.astype(np.float32).reshape(num_samples, num_views, -1)

    def _votes(self, queries_MD: np.ndarray) -> np.ndarray:
        similar_MN = queries_MD @ self.points_ND.T
        nearest_MK = np.argpartition(-similar_MN, self.num_neighbours_ - 1, axis=1)[:, : self.num_neighbours_]
        cosine_MK = np.take_along_axis(similar_MN, nearest_MK, axis=1).astype(np.float64)
        # Relative to the nearest one: the shares are the same, and nothing overflows at a low temperature.
        weights_MK = np.exp((cosine_MK - cosine_MK.max(axis=1, keepdims=True)) / self.config.temperature)
        votes_MC = np.zeros((len(queries_MD), self.num_classes_))
        np.add.at(votes_MC, (np.arange(len(queries_MD))[:, None], self.labels_N[nearest_MK]), weights_MK)
        return votes_MC


def _unit(features: np.ndarray) -> np.ndarray:
    """float32, (..., D): vectors of length one; those of zeros stay."""
    return np.asarray(normalize(features.reshape(-1, features.shape[-1])), dtype=np.float32).reshape(features.shape)
