"""Nearest neighbours by cosine: a vote, and retrieval. Nothing is trained, so that they speak of the features alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.preprocessing import normalize

from cfvid.sections.transfer import NearestConfig

_SIMILARITIES_AT_ONCE = 16_000_000
"""Held in memory with their ranks, about 300 MB."""


class NearestNeighbours:
    """A weighted vote of the nearest training samples (Wu et al., CVPR 2018): each with exp(cosine / temperature).

    The scikit-learn contract, with the methods of `LinearProbe`. A training sample is the mean of its views, each of
    unit length; scored views vote singly.

    Args:
        config: how many neighbours, and the temperature.
    """

    def __init__(self, config: NearestConfig) -> None:
        self.config = config

    def fit(
        self,
        features_NVD: np.ndarray,
        labels_N: np.ndarray,
        *,
        num_classes: int,
        samples_N: np.ndarray | None = None,  # noqa: ARG002 - nothing is held out here
    ) -> NearestNeighbours:
        """Keep the training samples; `num_neighbours_` is at most their number."""
        self.num_classes_ = num_classes
        self.points_ND = unit(unit(features_NVD).mean(axis=1))
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
        votes_MC = self._votes(unit(features_NVD.reshape(-1, dim)))
        with np.errstate(divide="ignore"):
            shares = np.log(votes_MC / votes_MC.sum(axis=1, keepdims=True))
        return shares.astype(np.float32).reshape(num_samples, num_views, -1)

    def _votes(self, queries_MD: np.ndarray) -> np.ndarray:
        cosine_MK, nearest_MK = nearest_rows(queries_MD, self.points_ND, self.num_neighbours_)
        # Relative to the nearest one: the shares are the same, and nothing overflows at a low temperature.
        weights_MK = np.exp((cosine_MK - cosine_MK[:, :1]) / self.config.temperature)
        votes_MC = np.zeros((len(queries_MD), self.num_classes_))
        np.add.at(votes_MC, (np.arange(len(queries_MD))[:, None], self.labels_N[nearest_MK]), weights_MK)
        return votes_MC


def nearest_rows(queries_MD: np.ndarray, points_ND: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest points of each query, nearest first, all of unit length.

    Returns:
        float64 (M, num) cosines; int64 (M, num) rows of `points_ND`.
    """
    cosines, rows = [], []
    num_rows = max(1, _SIMILARITIES_AT_ONCE // max(1, len(points_ND)))
    for start in range(0, len(queries_MD), num_rows):
        similar = queries_MD[start : start + num_rows] @ points_ND.T
        found = np.argpartition(similar, similar.shape[1] - num, axis=1)[:, -num:]
        near = np.take_along_axis(similar, found, axis=1).astype(np.float64)
        order = np.argsort(-near, axis=1, kind="stable")
        cosines.append(np.take_along_axis(near, order, axis=1))
        rows.append(np.take_along_axis(found, order, axis=1))
    return np.concatenate(cosines), np.concatenate(rows)


def first_right(found_MK: np.ndarray, wanted_M: np.ndarray) -> np.ndarray:
    """Which of the nearest samples is the first of a query's own class: int64 (M,), from 1; 0 where none is.

    Args:
        found_MK: the classes of the nearest samples, nearest first.
        wanted_M: the classes of the queries.
    """
    right_MK = found_MK == wanted_M[:, None]
    return np.where(right_MK.any(axis=1), right_MK.argmax(axis=1) + 1, 0)


def unit(features: np.ndarray) -> np.ndarray:
    """float32, (..., D): vectors of length one; those of zeros stay."""
    return np.asarray(normalize(features.reshape(-1, features.shape[-1])), dtype=np.float32).reshape(features.shape)
