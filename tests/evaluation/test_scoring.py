"""Multi-view scoring against a case computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from cfvid.evaluation.scoring import Said, Tally, sample_probabilities, score


def scores_of(logits_NVC: np.ndarray, labels_NL: np.ndarray, *, view_noun: str = "clip", batch: int = 3) -> dict:
    """Scores of logits that come batch by batch."""
    num_views, num_classes = logits_NVC.shape[1:]
    said = said_of(logits_NVC, labels_NL, batch=batch)
    return score(said, labels_NL, num_views=num_views, num_classes=num_classes, view_noun=view_noun)


def said_of(logits_NVC: np.ndarray, labels_NL: np.ndarray, *, batch: int) -> Said:
    tally = Tally(len(logits_NVC) + 1)  # one that could not be read
    for first in range(0, len(logits_NVC), batch):
        tally.add(logits_NVC[first : first + batch], labels_NL[first : first + batch])
    return tally.said


def test_softmax_is_averaged_not_the_logits() -> None:
    # One view is sure of class 1 by a huge logit; two views prefer class 0 mildly. The mean of the logits says 1,
    # the mean of the softmax says 0.
    logits = np.log(np.array([[[0.8, 0.2], [0.8, 0.2], [1e-9, 1 - 1e-9]]], dtype=np.float64)).astype(np.float32)
    np.testing.assert_allclose(sample_probabilities(logits), [[1.6 / 3, 1.4 / 3]], rtol=1e-5)
    scores = scores_of(logits, np.array([[0]]), view_noun="clip")
    assert scores == {"top1": 100.0, "clip_top1": pytest.approx(200 / 3)}


def test_top5_only_where_it_can_fail() -> None:
    rng = np.random.default_rng(0)
    assert set(scores_of(rng.normal(size=(4, 1, 5)).astype(np.float32), np.zeros((4, 1), int), view_noun="crop")) == {
        "top1"
    }
    seven = rng.normal(size=(50, 2, 7)).astype(np.float32)
    labels = rng.integers(7, size=50)
    scores = scores_of(seven, labels[:, None], view_noun="crop")
    assert set(scores) == {"top1", "top5", "class_top1", "crop_top1", "crop_top5"}
    ranks = (-sample_probabilities(seven)).argsort(1).argsort(1)[np.arange(50), labels]
    assert scores["top1"] == pytest.approx(100 * (ranks == 0).mean())
    assert scores["top5"] == pytest.approx(100 * (ranks < 5).mean())


def test_classes_of_unequal_frequency_are_also_averaged_by_class() -> None:
    logits = np.eye(3)[[0, 0, 0, 1]][:, None]  # the third class is never named, and nobody is of it
    scores = scores_of(logits, np.array([[0, 0, 0, 0]]).T, view_noun="clip")
    assert "class_top1" not in scores
    scores = scores_of(logits, np.array([[0, 0, 1, 1]]).T, view_noun="clip")
    assert "class_top1" not in scores
    scores = scores_of(logits, np.array([[0, 0, 0, 2]]).T, view_noun="clip")
    assert scores["top1"] == pytest.approx(75)
    assert scores["class_top1"] == pytest.approx(50)


def test_any_of_several_labels_is_right() -> None:
    """Of three samples the first is named by its second label, the second not at all, the third by its only one."""
    logits = np.array([[[0, 3, 1]], [[2, 0, 1]], [[0, 0, 5]]], dtype=np.float32)
    labels_NL = np.array([[0, 1], [1, 2], [2, -1]])
    assert scores_of(logits, labels_NL, view_noun="clip") == {"top1": pytest.approx(200 / 3)}


@pytest.mark.parametrize(("views", "classes", "labels"), [(1, 3, 1), (1, 12, 1), (4, 5, 1), (3, 40, 2)])
def test_batches_score_as_all_logits_at_once(views: int, classes: int, labels: int) -> None:
    """Scoring 450,000 samples of 9,000 classes: no more than one batch's logits are there, and every figure is the
    same to the last bit."""
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(101, views, classes)).astype(np.float32)
    logits[::7] = np.round(logits[::7])  # equal ones: the first comes first
    labels_NL = rng.integers(classes, size=(101, labels))
    whole = scores_of(logits, labels_NL, batch=101)
    assert scores_of(logits, labels_NL, batch=1) == scores_of(logits, labels_NL, batch=13) == whole
    probabilities = sample_probabilities(logits)
    said = Said.joined([said_of(logits[rows], labels_NL[rows], batch=8) for rows in (slice(30), slice(30, None))])
    np.testing.assert_array_equal(said.predicted_N, probabilities.argmax(axis=1))
    np.testing.assert_array_equal(said.probability_N, probabilities.max(axis=1))
    if labels == 1:
        truth, named = torch.from_numpy(labels_NL[:, 0]), torch.from_numpy(probabilities.argmax(axis=1))
        by_class = multiclass_accuracy(named, truth, num_classes=classes, average="none").numpy()
        expected = 100 * float(by_class[np.bincount(truth, minlength=classes) > 0].mean())
        assert whole.get("class_top1", expected) == expected
