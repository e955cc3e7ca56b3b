"""The weighted vote against one that is taken neighbour by neighbour."""

from __future__ import annotations

import numpy as np
import pytest

from cfvid.evaluation import nearest
from cfvid.evaluation.nearest import NearestNeighbours, first_right, nearest_rows, unit
from cfvid.evaluation.scoring import sample_probabilities
from cfvid.sections.transfer import NearestConfig


def by_hand(train: np.ndarray, labels: np.ndarray, query: np.ndarray, *, k: int, temperature: float) -> np.ndarray:
    """Shares of the vote for one query, sample by sample."""
    cosines = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in train]
    votes = np.zeros(labels.max() + 1)
    for row in sorted(range(len(train)), key=lambda i: -cosines[i])[:k]:
        votes[labels[row]] += np.exp(cosines[row] / temperature)
    return votes / votes.sum()


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (5, 1.0), (40, 0.07)])
def test_it_is_the_vote_of_the_nearest(k: int, temperature: float) -> None:
    rng = np.random.default_rng(0)
    train, labels, queries = rng.normal(size=(40, 6)), rng.integers(3, size=40), rng.normal(size=(9, 1, 6))
    found = NearestNeighbours(NearestConfig(num_neighbours=k, temperature=temperature))
    found.fit(train[:, None], labels, num_classes=3)
    expected = [by_hand(train, labels, query[0], k=k, temperature=temperature) for query in queries]
    np.testing.assert_allclose(np.exp(found.logits(queries)[:, 0]), expected, rtol=1e-3, atol=1e-5)


def test_of_fewer_samples_than_neighbours_all_vote() -> None:
    found = NearestNeighbours(NearestConfig(num_neighbours=20)).fit(
        np.eye(3, dtype=np.float32)[:, None], np.array([0, 1, 2]), num_classes=4
    )
    shares = np.exp(found.logits(np.eye(3, dtype=np.float32)[:, None]))[:, 0]
    assert found.num_neighbours_ == 3
    assert shares.argmax(axis=1).tolist() == [0, 1, 2]
    assert (shares[:, 3] == 0).all()


def test_training_views_are_one_sample_and_scored_views_are_averaged() -> None:
    # The second sample's views point both ways; their mean is what is looked for.
    train = np.array([[[1, 0], [1, 0]], [[0.6, 0.8], [-0.6, 0.8]]], dtype=np.float32)
    found = NearestNeighbours(NearestConfig(num_neighbours=1)).fit(train, np.array([0, 1]), num_classes=2)
    logits = found.logits(np.array([[[0.8, 0.6], [0.1, 1.0], [0.0, 1.0]]], dtype=np.float32))
    assert logits.shape == (1, 3, 2)
    np.testing.assert_allclose(sample_probabilities(logits), [[1 / 3, 2 / 3]], atol=1e-6)


def test_many_queries_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_SIMILARITIES_AT_ONCE", 30 * 100)
    rng = np.random.default_rng(1)
    train, labels, queries = rng.normal(size=(30, 4)), rng.integers(2, size=30), rng.normal(size=(2500, 1, 4))
    found = NearestNeighbours(NearestConfig(num_neighbours=5)).fit(train[:, None], labels, num_classes=2)
    np.testing.assert_array_equal(found.logits(queries)[2300:], found.logits(queries[2300:]))


def test_the_first_right_one_is_counted_from_one() -> None:
    found = np.array([[0, 1, 2], [1, 1, 0], [2, 2, 2]])
    assert first_right(found, np.array([0, 0, 0])).tolist() == [1, 3, 0]


def test_the_nearest_rows_are_in_order() -> None:
    rng = np.random.default_rng(2)
    points, queries = unit(rng.normal(size=(50, 5))), unit(rng.normal(size=(7, 5)))
    [(cosines, rows)] = nearest_rows([queries[:3], queries[3:]], points, 6)
    np.testing.assert_array_equal(rows, np.argsort(-(queries @ points.T), axis=1)[:, :6])
    assert (np.diff(cosines, axis=1) <= 0).all()
