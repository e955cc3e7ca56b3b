"""The VOC07 protocol against scikit-learn, class by class."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from cfvid.evaluation.average_precision import average_precision
from cfvid.evaluation.svm import IGNORED, OneVsAllSvm, mean_average_precision
from cfvid.sections.transfer import SvmConfig


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray]:
    """300 samples of three classes that do not exclude one another."""
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 3)) < 0.3).astype(np.int8)
    return (rng.normal(size=(300, 12)) + labels @ rng.normal(size=(3, 12))).astype(np.float32), labels


def test_it_is_one_machine_for_each_class(problem: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = problem
    found = OneVsAllSvm(SvmConfig(costs=[0.5]), seed=0).fit(features[:200], labels[:200])
    points = normalize(features)
    for c in range(3):
        reference = LinearSVC(C=0.5, class_weight={0: 1.0, 1: 2.0}, dual="auto", random_state=0)
        reference.fit(points[:200], labels[:200, c])
        expected = reference.decision_function(points[200:])
        np.testing.assert_allclose(found.decisions(features[200:])[:, c], expected, rtol=1e-4, atol=1e-5)


def test_what_is_ignored_neither_trains_nor_scores(problem: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = problem
    wrong = labels.copy()
    wrong[::4] = IGNORED
    kept = np.arange(300) % 4 != 0
    config = SvmConfig(costs=[1.0])
    with_ignored = OneVsAllSvm(config, seed=0).fit(features, wrong)
    without = OneVsAllSvm(config, seed=0).fit(features[kept], labels[kept])
    np.testing.assert_allclose(with_ignored.decisions(features), without.decisions(features), atol=1e-5)
    scores = mean_average_precision(with_ignored.decisions(features), wrong)
    expected = [
        average_precision(without.decisions(features[kept])[:, c], labels[kept, c] == 1)["area"] for c in range(3)
    ]
    assert scores["map"] == pytest.approx(100 * np.mean(expected), abs=0.1)


def test_the_cost_is_chosen_by_cross_validation() -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random((120, 1)) < 0.5).astype(np.int8)
    features = rng.normal(size=(120, 200)).astype(np.float32)  # many useless dimensions
    features[:, 0] += 6 * labels[:, 0]
    found = OneVsAllSvm(SvmConfig(costs=[0.001, 1000.0]), seed=0).fit(features, labels)
    assert found.costs_ == [0.001]


def test_classes_without_positives_are_left_out_of_the_mean(
    problem: tuple[np.ndarray, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    features, labels = problem
    labels = np.column_stack([labels, np.zeros(300, dtype=np.int8)])
    found = OneVsAllSvm(SvmConfig(costs=[1.0]), seed=0).fit(features, labels)
    assert found.costs_[3] is None
    scores = mean_average_precision(found.decisions(features), labels)
    assert scores == mean_average_precision(found.decisions(features)[:, :3], labels[:, :3])
    assert "mAP over 3 of 4 classes" in caplog.text
