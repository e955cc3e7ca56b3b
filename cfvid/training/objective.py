"""What a network is trained to say: the seam between the one loop and everything that can be learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from cfvid.data.loader import Batch
from cfvid.modalities.base import Modality

MOST_LOGITS = 2**26
"""Of one batch (256 MiB) that are held at once; with more, they are made in parts."""
_PART_LOGITS = 2**23


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


def examples_of(batch: Batch, objective: Objective, modality: Modality, device: torch.device) -> Examples:
    """The examples of a batch of training views, on the device, with what is left of their augmentation done."""
    views = batch.inputs[:, 0].to(device, non_blocking=True)
    return objective.examples(modality.augment(views, batch.seeds), batch)


def loss_of(logits: torch.Tensor, examples: Examples, *, temperature: float, label_smoothing: float) -> torch.Tensor:
    """Cross-entropy with hard or soft targets, a mean over the examples' weights."""
    scaled = logits.float() / temperature
    if examples.weights is None:
        loss = F.cross_entropy(scaled, examples.target, label_smoothing=label_smoothing)
    else:
        each = F.cross_entropy(scaled, examples.target, label_smoothing=label_smoothing, reduction="none")
        loss = (each * examples.weights).sum() / examples.weights.sum()
    return loss * temperature**2


def loss_in_parts(
    features: torch.Tensor,
    head: nn.Module,
    examples: Examples,
    *,
    num_outputs: int,
    temperature: float,
    label_smoothing: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`loss_of` and `num_right` of a last layer with very many outputs, whose logits are never there all at once.

    A part of the examples at a time goes through the layer, and again when gradients are needed: these are exact.

    Args:
        features: (N, D), what the layer takes.
        head: gives (n, C) logits of (n, D) features.
        examples: with hard targets.
        num_outputs: C.
        temperature: as of `loss_of`.
        label_smoothing: as of `loss_of`.

    Returns:
        The loss, and the number of right answers as a tensor.
    """
    weights = torch.ones(len(features), device=features.device) if examples.weights is None else examples.weights

    def part(features: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = head(features).float() / temperature
        each = F.cross_entropy(logits, target, label_smoothing=label_smoothing, reduction="none")
        return (each * weights).sum(), (logits.argmax(1) == target).sum()

    rows = max(1, _PART_LOGITS // num_outputs)
    parts = [
        checkpoint(part, *some, use_reentrant=False)
        for some in zip(features.split(rows), examples.target.split(rows), weights.split(rows), strict=True)
    ]
    loss = torch.stack([loss for loss, _ in parts]).sum() / weights.sum() * temperature**2
    return loss, torch.stack([right for _, right in parts]).sum()


def num_right(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """How many examples are answered rightly, a scalar: with soft targets, by a class that has the largest share."""
    said = logits.argmax(1)
    if target.ndim == 1:
        return (said == target).sum()
    share = target.gather(1, said[:, None])[:, 0]
    return (share >= target.max(1).values * (1 - 1e-6)).sum()
