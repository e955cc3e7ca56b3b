"""Soft targets, weights, and the loss at a temperature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cfvid.data.loader import Batch
from cfvid.data.sample_ids import SampleIds
from cfvid.training.objective import Examples, Objective, loss_of
from cfvid.training.targets import PseudoTargets, SoftTargets

IDS = SampleIds(["x", "y"])


def examples(objective: Objective, *sample_ids: str) -> Examples:
    batch = Batch(list(sample_ids), torch.empty(len(sample_ids), 1, 3), [0] * len(sample_ids))
    return objective.examples(batch.inputs[:, 0], batch)


def test_shares_are_joined_by_sample_id() -> None:
    classes = np.array([[2, 0], [1, 2]], np.int32)
    shares = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
    targets = SoftTargets(IDS, classes, shares, num_classes=4, temperature=3.0)
    assert targets.temperature == 3.0
    assert examples(targets, "y", "x").target.tolist() == [[0, 0.5, 0.5, 0], [0.25, 0, 0.75, 0]]


def test_weights_are_joined_by_sample_id() -> None:
    weights_N, shares = np.array([0.5, 1.5], np.float32), (np.zeros((2, 1), np.int32), np.ones((2, 1), np.float32))
    assert examples(SoftTargets(IDS, *shares, num_classes=2), "y", "x").weights is None
    for objective in (
        SoftTargets(IDS, *shares, num_classes=2, weights_N=weights_N),
        PseudoTargets(IDS, np.zeros(2, np.int32), weights_N=weights_N),
    ):
        found = examples(objective, "y", "x").weights
        assert found is not None
        assert found.tolist() == [1.5, 0.5]


def test_clusters_are_joined_by_sample_id() -> None:
    found = examples(PseudoTargets(IDS, np.array([7, 3], np.int32)), "y", "x", "x")
    assert (found.target.tolist(), found.target.dtype, found.weights) == ([3, 7, 7], torch.int64, None)
    with pytest.raises(KeyError, match="z"):
        examples(PseudoTargets(IDS, np.array([7, 3], np.int32)), "y", "z")


def test_the_loss_at_a_temperature_in_its_limits() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    views = torch.empty(6)

    def gradient(temperature: float) -> torch.Tensor:
        logits = student.float().requires_grad_()
        target = (teacher / temperature).softmax(1).float()
        loss = loss_of(logits, Examples(views, target), temperature=temperature, label_smoothing=0.0)
        (found,) = torch.autograd.grad(loss, logits)
        return found

    # High: the squared difference of centred logits over 2 C, whose gradient does not depend on T (Hinton et al.).
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    torch.testing.assert_close(gradient(100.0), (centred / 5 / 6).float(), rtol=0.1, atol=2e-3)
    # One-hot targets at T = 1: plain cross-entropy with the hard labels.
    sharp = Examples(views, (teacher / 1e-4).softmax(1).float())
    expected = F.cross_entropy(student.float(), teacher.argmax(1))
    torch.testing.assert_close(loss_of(student.float(), sharp, temperature=1.0, label_smoothing=0.0), expected)
