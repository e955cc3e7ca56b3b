"""Nearest neighbours by cosine: a vote, and retrieval. Nothing is trained, so that they speak of the features alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from sklearn.preprocessing import normalize

from cfvid.parts import blocks_of, parts
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
        values = int(np.prod(features_NVD.shape[1:]))
        self.points_ND = unit_means((features_NVD[rows] for rows in parts(len(features_NVD), values)), len(labels_N))
        self.labels_N = np.asarray(labels_N)
        self.num_neighbours_ = min(self.config.num_neighbours, len(self.labels_N))
        return self

    @property
    def facts(self) -> dict[str, Any]:
        """What is to be known about the fit."""
        return {"num_neighbours": self.num_neighbours_}

    def logits(self, features_NVD: np.ndarray) -> np.ndarray:
        """float32 (N, V, D) -> logarithms of the classes' shares of the vote, (N, V, num_classes); -inf without one."""
        return np.concatenate(list(self.logit_blocks([features_NVD], num_views=features_NVD.shape[1])))

    def logit_blocks(self, blocks: Iterable[np.ndarray], *, num_views: int) -> Iterator[np.ndarray]:
        """`logits` of blocks of samples, in their order; in blocks of other sizes."""
        queries = (unit(features_NVD.reshape(-1, features_NVD.shape[-1])) for features_NVD in blocks)
        found = nearest_rows(queries, self.points_ND, self.num_neighbours_)
        votes = (self._votes(cosine_MK, nearest_MK) for cosine_MK, nearest_MK in found)
        size = num_views * max(1, _queries_at_once(self.points_ND) // num_views)
        for votes_MC in blocks_of(size, votes):
            with np.errstate(divide="ignore"):
                shares = np.log(votes_MC / votes_MC.sum(axis=1, keepdims=True))
            yield shares.astype(np.float32).reshape(-1, num_views, self.num_classes_)

    def _votes(self, cosine_MK: np.ndarray, nearest_MK: np.ndarray) -> np.ndarray:
        # Relative to the nearest one: the shares are the same, and nothing overflows at a low temperature.
        weights_MK = np.exp((cosine_MK - cosine_MK[:, :1]) / self.config.temperature)
        votes_MC = np.zeros((len(cosine_MK), self.num_classes_))
        np.add.at(votes_MC, (np.arange(len(cosine_MK))[:, None], self.labels_N[nearest_MK]), weights_MK)
        return votes_MC


def nearest_rows(
    queries: Iterable[np.ndarray], points_ND: np.ndarray, num: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The nearest points of each query, nearest first, all of unit length.

    Args:
        queries: float32 (M, D), in blocks of any size.
        points_ND: float32.
        num: of points to find, at most N.

    Yields:
        float64 (M', num) cosines and int64 (M', num) rows of `points_ND`, of some queries after the others.
    """
    for queries_BD in blocks_of(_queries_at_once(points_ND), queries):
        similar = queries_BD @ points_ND.T
        found = np.argpartition(similar, similar.shape[1] - num, axis=1)[:, -num:]
        near = np.take_along_axis(similar, found, axis=1).astype(np.float64)
        order = np.argsort(-near, axis=1, kind="stable")
        yield np.take_along_axis(near, order, axis=1), np.take_along_axis(found, order, axis=1)


def _queries_at_once(points_ND: np.ndarray) -> int:
    return max(1, _SIMILARITIES_AT_ONCE // max(1, len(points_ND)))


def unit_means(blocks: Iterable[np.ndarray], num: int) -> np.ndarray:
    """The mean of each sample's views of unit length, itself of unit length: float32 (num, D).

    Args:
        blocks: float32 (n, V, D), of `num` samples in all.
        num: of samples, at least one.
    """
    means_ND = np.empty((0, 0), dtype=np.float32)
    done = 0
    for features_BVD in blocks:
        if not done:
            means_ND = np.empty((num, features_BVD.shape[-1]), dtype=np.float32)
        means_ND[done : done + len(features_BVD)] = unit(unit(features_BVD).mean(axis=1))
        done += len(features_BVD)
    return means_ND


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
