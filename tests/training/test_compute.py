"""Compute is counted, not guessed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cfvid.tasks.rotation import Rotations
from cfvid.training.compute import forward_flops, training_compute
from cfvid.training.targets import Targets


class Pictures:
    """Stands in for a modality: pictures of 8 x 8."""

    def example(self, num_samples: int) -> torch.Tensor:
        return torch.zeros(num_samples, 3, 8, 8, dtype=torch.uint8)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, kernel_size=3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 2))


TARGETS = Targets(["x", "y"], {"a": ("x",), "b": ("y",), "c": ("x",)})
EXPECTED = 2 * (64 * 4 * 3 * 9) + 2 * (4 * 64 * 2)
"""Multiplications and additions of the convolution and of the linear layer."""


def test_a_forward_pass_is_counted_by_its_operations() -> None:
    assert forward_flops(network(), TARGETS, Pictures(), ["a", "b", "c"]) == EXPECTED  # type: ignore[arg-type]


def test_an_objective_with_more_examples_per_sample_costs_more() -> None:
    four = forward_flops(network(), Rotations(), Pictures(), ["a", "b"])  # type: ignore[arg-type]
    assert four == 4 * EXPECTED


def test_a_training_costs_three_forward_passes_of_every_sample_and_epoch() -> None:
    net = network()
    before = [parameter.clone() for parameter in net.parameters()]
    compute = training_compute(net, TARGETS, Pictures(), ["a", "b", "c"], epochs=5)  # type: ignore[arg-type]
    assert compute.samples_seen == 15
    assert compute.train_flops == pytest.approx(3 * 15 * EXPECTED)
    for old, new in zip(before, net.parameters(), strict=True):
        assert new.device.type == "cpu"
        assert torch.equal(old, new)
