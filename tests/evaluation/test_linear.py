"""The linear probe against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cfvid.evaluation.linear import LinearProbe, few_of_each
from cfvid.sections.transfer import LinearConfig


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=200)
    return (rng.normal(size=(4, 10))[labels] + rng.normal(size=(200, 10))).astype(np.float32)[:, None], labels


def test_with_one_penalty_it_is_scikit_learns_regression(problem: tuple[np.ndarray, np.ndarray]) -> None:
    features_NVD, labels = problem
    probe = LinearProbe(LinearConfig(penalties=[0.1]), seed=0).fit(features_NVD[:150], labels[:150], num_classes=4)
    scaler = StandardScaler().fit(features_NVD[:150, 0])
    reference = LogisticRegression(C=0.1, max_iter=300).fit(scaler.transform(features_NVD[:150, 0]), labels[:150])
    expected = reference.predict_log_proba(scaler.transform(features_NVD[150:, 0]))
    np.testing.assert_allclose(probe.logits(features_NVD[150:])[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_the_penalty_is_chosen_on_held_out_samples() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=60)
    features = rng.normal(size=(60, 1, 200)).astype(np.float32)  # many useless dimensions
    features[:, 0, 0] += 4 * labels
    probe = LinearProbe(LinearConfig(penalties=[1e-4, 100.0]), seed=0).fit(features, labels, num_classes=2)
    assert probe.penalty_ in (1e-4, 100.0)
    assert probe.logits(features).shape == (60, 1, 2)


def test_a_fit_that_did_not_converge_says_so(
    problem: tuple[np.ndarray, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    features_NVD, labels = problem
    short = LinearProbe(LinearConfig(penalties=[1.0], max_iterations=2), seed=0).fit(
        features_NVD, labels, num_classes=4
    )
    assert (short.converged_, short.iterations_) == (False, 2)
    assert "not converged after 2 iterations" in caplog.text
    assert LinearProbe(LinearConfig(), seed=0).fit(features_NVD, labels, num_classes=4).converged_


def test_classes_never_seen_are_never_said(problem: tuple[np.ndarray, np.ndarray]) -> None:
    features_NVD, labels = problem
    probe = LinearProbe(LinearConfig(), seed=0).fit(features_NVD, labels, num_classes=6)
    logits = probe.logits(features_NVD)
    assert np.isneginf(logits[..., 4:]).all()
    assert np.isfinite(logits[..., :4]).all()


def test_views_of_a_sample_stay_together(problem: tuple[np.ndarray, np.ndarray]) -> None:
    features_NVD, labels = problem
    twice = np.concatenate([features_NVD, features_NVD], axis=1)
    probe = LinearProbe(LinearConfig(), seed=0).fit(twice, labels, num_classes=4)
    logits = probe.logits(twice)
    assert logits.shape == (200, 2, 4)
    np.testing.assert_allclose(logits[:, 0], logits[:, 1])


def test_few_of_each_class_are_drawn_by_their_ids() -> None:
    ids, labels = [f"s{n}" for n in range(30)], np.arange(30) % 3
    two, five = (few_of_each(ids, labels, num, seed=1) for num in (2, 5))
    assert np.bincount(labels[two]).tolist() == [2, 2, 2]
    assert set(two) < set(five)
    assert set(two) != set(few_of_each(ids, labels, 2, seed=2))
    present = np.setdiff1d(np.arange(30), two[:1])  # without one that was drawn
    again = few_of_each([ids[n] for n in present], labels[present], 2, seed=1)
    assert set(two[1:]) < set(present[again])
    assert len(few_of_each(ids, labels, 99, seed=1)) == 30


def test_rows_of_one_sample_stay_together(
    monkeypatch: pytest.MonkeyPatch, problem: tuple[np.ndarray, np.ndarray]
) -> None:
    features_NVD, labels = problem
    twice, samples = np.concatenate([features_NVD, features_NVD]), np.tile(np.arange(200), 2)
    seen: list[np.ndarray] = []
    choose = LinearProbe._choose
    monkeypatch.setattr(
        LinearProbe, "_choose", lambda self, x, y, groups: seen.append(groups) or choose(self, x, y, groups)
    )
    LinearProbe(LinearConfig(), seed=0).fit(twice, np.tile(labels, 2), num_classes=4, samples_N=samples)
    np.testing.assert_array_equal(seen[0], samples)
