"""Which pseudo-labels are trusted."""

from __future__ import annotations

import numpy as np
import pytest

from cfvid.clustering.confidence import margin_weights, nearest_members


def test_the_nearest_members_of_each_cluster_are_kept() -> None:
    clusters = np.array([0, 1, 0, 0, 1, 2, 0])
    distances = np.array([4.0, 1.0, 1.0, 3.0, 2.0, 9.0, 2.0])
    assert nearest_members(clusters, distances, share=0.5).tolist() == [1, 2, 5, 6]
    assert nearest_members(clusters, distances, share=1.0).tolist() == list(range(7))
    assert nearest_members(clusters, distances, share=1e-9).tolist() == [1, 2, 5]
    assert nearest_members(clusters, np.zeros(7), share=0.5).tolist() == [0, 1, 2, 5]


def test_weights_follow_the_margin_and_have_mean_one() -> None:
    distances, seconds = np.array([0.0, 1.0, 2.0, 4.0], np.float32), np.full(4, 4.0, np.float32)
    weights = margin_weights(distances, seconds)
    assert weights.dtype == np.float32
    assert weights.mean() == pytest.approx(1)
    np.testing.assert_allclose(weights[:3] / weights[0], [1, 0.75, 0.5], rtol=1e-6)
    assert 0 < weights[3] < 1e-5


def test_samples_on_two_centroids_at_once_weigh_the_same() -> None:
    np.testing.assert_allclose(margin_weights(np.zeros(3), np.zeros(3)), 1)
