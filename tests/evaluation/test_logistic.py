"""Logistic regression against scikit-learn's, solved much more exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from cfvid.evaluation import logistic
from cfvid.evaluation.logistic import LogisticProblem

_CPU = torch.device("cpu")


def _problem(num: int, dim: int, num_classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rectified, standardised features whose directions differ much in scale, and labels that hang on them."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_classes), rng.integers(num_classes, size=num - num_classes)])
    mixing = rng.normal(size=(dim, dim)) * (np.arange(1, dim + 1) ** -0.7)[:, None]
    points = np.maximum((0.6 * rng.normal(size=(num_classes, dim))[labels] + rng.normal(size=(num, dim))) @ mixing, 0)
    return ((points - points.mean(axis=0)) / (points.std(axis=0) + 1e-9)).astype(np.float32), labels


def _reference(points_ND: np.ndarray, labels_N: np.ndarray, penalty: float) -> LogisticRegression:
    return LogisticRegression(C=penalty, max_iter=20_000, tol=1e-8).fit(points_ND.astype(np.float64), labels_N)


def _objective(log_probabilities: np.ndarray, labels_N: np.ndarray, weights: np.ndarray, penalty: float) -> float:
    fit = -log_probabilities[np.arange(len(labels_N)), labels_N].sum(dtype=np.float64)
    return float(fit + (weights**2).sum() / (2 * penalty))


@pytest.mark.parametrize("penalty", [0.001, 0.1, 10.0])
@pytest.mark.parametrize(("num", "dim", "num_classes"), [(400, 20, 3), (300, 60, 25), (40, 300, 4)])
def test_its_objective_is_the_smallest_there_is(num: int, dim: int, num_classes: int, penalty: float) -> None:
    points_ND, labels = _problem(num, dim, num_classes)
    found = LogisticProblem(points_ND, labels, device=_CPU).solve(penalty, max_iterations=300)
    reference = _reference(points_ND, labels, penalty)
    ours = _objective(found.log_probabilities(points_ND), labels, found.weights[:-1], penalty)
    least = _objective(reference.predict_log_proba(points_ND.astype(float)), labels, reference.coef_, penalty)
    assert found.converged
    assert ours <= least + 1e-3 * num
    assert ours >= least - 1e-5 * num


def test_two_classes_are_scikit_learns_binary_regression() -> None:
    points_ND, labels = _problem(300, 15, 2)
    found = LogisticProblem(points_ND, labels, device=_CPU).solve(0.01, max_iterations=300)
    expected = _reference(points_ND, labels, 0.01).predict_log_proba(points_ND.astype(float))
    np.testing.assert_allclose(found.log_probabilities(points_ND), expected, atol=2e-3)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), penalty=st.sampled_from([0.01, 0.1]))
def test_a_start_elsewhere_ends_in_the_same_place(seed: int, penalty: float) -> None:
    problem = LogisticProblem(*_problem(200, 12, 4, seed=seed), device=_CPU)
    alone = problem.solve(penalty, max_iterations=300)
    led = problem.solve(penalty, max_iterations=300, start=problem.solve(penalty / 10, max_iterations=300))
    np.testing.assert_allclose(led.weights[:-1], alone.weights[:-1], atol=0.03)


@pytest.mark.parametrize(("name", "value"), [("_ROWS_AT_ONCE", 7), ("_MOST_DIMS", 3)])
def test_parts_and_plain_coordinates_find_the_same(monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
    points_ND, labels = _problem(200, 12, 4)
    plain = LogisticProblem(points_ND, labels, device=_CPU).solve(0.1, max_iterations=300)
    monkeypatch.setattr(logistic, name, value)
    other = LogisticProblem(points_ND, labels, device=_CPU).solve(0.1, max_iterations=300)
    np.testing.assert_allclose(other.log_probabilities(points_ND), plain.log_probabilities(points_ND), atol=0.02)


def test_it_takes_fewer_steps_than_scikit_learn() -> None:
    points_ND, labels = _problem(2000, 100, 20)
    found = LogisticProblem(points_ND, labels, device=_CPU).solve(0.1, max_iterations=300)
    theirs = LogisticRegression(C=0.1, max_iter=300).fit(points_ND, labels)
    assert found.iterations < 0.7 * theirs.n_iter_[0]


def test_features_without_any_spread_are_solved() -> None:
    points_ND, labels = np.zeros((30, 5), dtype=np.float32), np.arange(30) % 3
    found = LogisticProblem(points_ND, labels, device=_CPU).solve(1.0, max_iterations=50)
    np.testing.assert_allclose(np.exp(found.log_probabilities(points_ND)), 1 / 3, atol=1e-3)


def test_features_of_low_rank_are_solved() -> None:
    """As when centroids stand for features: sums in single precision are then less than positive."""
    rng = np.random.default_rng(0)
    points_ND = rng.normal(size=(4, 128))[rng.integers(4, size=20_000)].astype(np.float32)
    labels = rng.integers(2, size=20_000)
    assert LogisticProblem(points_ND, labels, device=_CPU).solve(100.0, max_iterations=300).converged
