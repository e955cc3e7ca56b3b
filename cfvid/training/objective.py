"""What a network is trained to say: the seam between the one loop and everything that can be learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from cfvid.data.loader import Batch


@dataclass(frozen=True)
class Examples:
    """What one forward pass takes, and what it should give."""

    inputs: torch.Tensor
    """uint8, (M, C, ...)."""
    target: torch.Tensor
    """int64 class indices (N,), or float32 (N, C) rows that sum to 1."""
    weights: torch.Tensor | None = None
    """float32 (N,): how much each counts; None for all the same."""


class Objective(Protocol):
    """Makes examples of samples."""

    temperature: float
    """Divides the logits before the softmax; the loss is multiplied by its square (Hinton et al., 2015)."""

    def examples(self, views: torch.Tensor, batch: Batch) -> Examples:
        """One training view of each sample, uint8 (N, C, ...) on the network's device -> examples there.

        Random draws come from `batch.seeds` alone, so that an epoch can be entered in its middle.
        """
        ...


def loss_of(logits: torch.Tensor, examples: Examples, *, temperature: float, label_smoothing: float) -> torch.Tensor:
    """Cross-entropy with hard or soft targets, a mean over the examples' weights."""
    scaled = logits.float() / temperature
    if examples.weights is None:
        loss = F.cross_entropy(scaled, examples.target, label_smoothing=label_smoothing)
    else:
        each = F.cross_entropy(scaled, examples.target, label_smoothing=label_smoothing, reduction="none")
        loss = (each * examples.weights).sum() / examples.weights.sum()
    return loss * temperature**2


def num_right(logits: torch.Tensor, target: torch.Tensor) -> int:
    """How many examples are answered rightly: with soft targets, by a class that has the largest share."""
    said = logits.argmax(1)
    if target.ndim == 1:
        return int((said == target).sum())
    share = target.gather(1, said[:, None])[:, 0]
    return int((share >= target.max(1).values * (1 - 1e-6)).sum())
