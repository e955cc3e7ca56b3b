"""Multi-view scoring against a case computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cfvid.evaluation.scoring import sample_probabilities, score


def test_softmax_is_averaged_not_the_logits() -> None:
    # One view is sure of class 1 by a huge logit; two views prefer class 0 mildly. The mean of the logits says 1,
    # the mean of the softmax says 0.
    logits = np.log(np.array([[[0.8, 0.2], [0.8, 0.2], [1e-9, 1 - 1e-9]]], dtype=np.float64)).astype(np.float32)
    np.testing.assert_allclose(sample_probabilities(logits), [[1.6 / 3, 1.4 / 3]], rtol=1e-5)
    scores = score(logits, np.array([[0]]), view_noun="clip")
    assert scores == {"top1": 100.0, "clip_top1": pytest.approx(200 / 3)}


def test_top5_only_where_it_can_fail() -> None:
    rng = np.random.default_rng(0)
    assert set(score(rng.normal(size=(4, 1, 5)).astype(np.float32), np.zeros((4, 1), int), view_noun="crop")) == {
        "top1"
    }
    seven = rng.normal(size=(50, 2, 7)).astype(np.float32)
    labels = rng.integers(7, size=50)
    scores = score(seven, labels[:, None], view_noun="crop")
    assert set(scores) == {"top1", "top5", "class_top1", "crop_top1", "crop_top5"}
    ranks = (-sample_probabilities(seven)).argsort(1).argsort(1)[np.arange(50), labels]
    assert scores["top1"] == pytest.approx(100 * (ranks == 0).mean())
    assert scores["top5"] == pytest.approx(100 * (ranks < 5).mean())


def test_classes_of_unequal_frequency_are_also_averaged_by_class() -> None:
    logits = np.eye(3)[[0, 0, 0, 1]][:, None]  # the third class is never named, and nobody is of it
    scores = score(logits, np.array([[0, 0, 0, 0]]).T, view_noun="clip")
    assert "class_top1" not in scores
    scores = score(logits, np.array([[0, 0, 1, 1]]).T, view_noun="clip")
    assert "class_top1" not in scores
    scores = score(logits, np.array([[0, 0, 0, 2]]).T, view_noun="clip")
    assert scores["top1"] == pytest.approx(75)
    assert scores["class_top1"] == pytest.approx(50)


def test_any_of_several_labels_is_right() -> None:
    """Of three samples the first is named by its second label, the second not at all, the third by its only one."""
    logits = np.array([[[0, 3, 1]], [[2, 0, 1]], [[0, 0, 5]]], dtype=np.float32)
    labels_NL = np.array([[0, 1], [1, 2], [2, -1]])
    assert score(logits, labels_NL, view_noun="clip") == {"top1": pytest.approx(200 / 3)}
