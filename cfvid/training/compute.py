"""How much arithmetic a training costs, counted from the network's own operations."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cfvid.data.loader import Batch
from cfvid.modalities.base import Modality
from cfvid.models.zoo import Network
from cfvid.training.objective import Objective

_BACKWARD = 2
"""A backward pass takes about twice the forward one."""


@dataclass(frozen=True)
class Compute:
    """What a training cost."""

    samples_seen: int
    """Samples times epochs."""
    train_flops: float
    """Forward and backward, multiplications and additions counted apart."""


def forward_flops(network: nn.Module, objective: Objective, modality: Modality, ids: Sequence[str]) -> float:
    """Operations of one forward pass for one sample, counted on shapes alone."""
    two = list(ids[:2])
    abstract = copy.deepcopy(network).to("meta")
    views = torch.empty(modality.example(len(two)).shape, dtype=torch.uint8, device="meta")
    examples = objective.examples(views, Batch(two, views[:, None], [0] * len(two)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        abstract(examples.inputs.float())
    return counter.get_total_flops() / len(two)


def view_flops(arch: str, modality: Modality) -> float:
    """Operations of one forward pass of a network's trunk for one view."""
    with torch.device("meta"):
        trunk, view = Network(arch, num_classes=1).trunk, torch.empty(modality.example(1).shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trunk.eval()(view)
    return float(counter.get_total_flops())


def training_compute(
    network: nn.Module, objective: Objective, modality: Modality, ids: Sequence[str], *, epochs: int
) -> Compute:
    """What training a network on these samples costs."""
    seen = epochs * len(ids)
    return Compute(seen, (1 + _BACKWARD) * forward_flops(network, objective, modality, ids) * seen)
