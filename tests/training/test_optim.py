"""Learning rate schedules and parameter groups."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cfvid.errors import ConfigError
from cfvid.models.zoo import build_network
from cfvid.sections.training import TrainingConfig
from cfvid.training.optim import build_optimizer, freeze, learning_rate, set_learning_rate


def config(**values: object) -> TrainingConfig:
    return TrainingConfig(**{"epochs": 105, "batch_size": 256, "lr": 0.1, **values})


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.0), (2.5, 0.05), (5, 0.1), (29.9, 0.1), (30, 0.01), (60, 1e-3), (95, 1e-4), (104.9, 1e-5)],
)
def test_the_papers_step_schedule(epoch: float, expected: float) -> None:
    recipe = config(schedule="step", milestones=[30, 60, 90, 100], warmup_epochs=5)
    assert learning_rate(recipe, epoch=epoch) == pytest.approx(expected)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.0), (5, 0.1), (55, 0.05), (105, 0.0)])
def test_cosine_after_the_warm_up(epoch: float, expected: float) -> None:
    assert learning_rate(config(warmup_epochs=5), epoch=epoch) == pytest.approx(expected, abs=1e-9)


def test_the_first_step_of_a_warm_up_is_a_step() -> None:
    assert learning_rate(config(warmup_epochs=2), epoch=0, step_epochs=0.1) == pytest.approx(0.005)
    assert learning_rate(config(warmup_epochs=0.05), epoch=0, step_epochs=0.1) == 0.1


def test_constant() -> None:
    assert learning_rate(config(schedule="constant"), epoch=104) == 0.1


@pytest.mark.parametrize(("everywhere", "spared"), [(False, 0.0), (True, 1e-4)])
def test_weight_decay_spares_norms_and_biases(everywhere: bool, spared: float) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    groups = build_optimizer(network, config(decay_norm_and_bias=everywhere)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == len(list(network.parameters()))
    assert decay[id(network[0].weight)] == 1e-4
    assert decay[id(network[0].bias)] == spared
    assert decay[id(network[1].weight)] == spared


def test_parts_have_rates_of_their_own() -> None:
    network = build_network("resnet10_mini", num_classes=3, seed=0)
    rates = {"trunk": 0.01, "conv1": 0.0, "bn1": 0.0}
    optimizer = build_optimizer(network, config(lr=0.1), rates)
    set_learning_rate(optimizer, 0.05)  # the schedule is half-way
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    frozen = ("trunk.conv1.", "trunk.bn1.")
    assert found.keys() == {id(p) for name, p in network.named_parameters() if not name.startswith(frozen)}
    assert found[id(network.head.weight)] == pytest.approx(0.05)
    assert found[id(network.trunk.layer1[0].conv1.weight)] == pytest.approx(0.005)


def test_a_part_with_rate_zero_stays_as_it_is() -> None:
    network = build_network("resnet10_mini", num_classes=3, seed=0)
    before = copy.deepcopy(network.state_dict())
    rates = {"conv1": 0.0, "bn1": 0.0}
    optimizer = build_optimizer(network, config(lr=0.1), rates)
    network.train()
    freeze(network, rates)
    optimizer = build_optimizer(network, config(lr=0.1), rates)
    for _ in range(2):
        network(torch.randn(4, 3, 16, 16)).square().sum().backward()
        optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in changed if name.startswith(("trunk.conv1.", "trunk.bn1."))]
    assert network.trunk.conv1.weight.grad is None  # or norms of all gradients would count it
    assert {"trunk.layer1.0.conv1.weight", "trunk.layer1.0.bn1.running_mean", "head.weight"} <= changed


@pytest.mark.parametrize(
    ("rates", "message"), [({"layer9": 0.1}, "layer9"), ({"trunk": 0.0, "head": 0.0}, "every part")]
)
def test_parts_that_cannot_be_trained(rates: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizer(build_network("resnet10_mini", num_classes=3, seed=0), config(), rates)


def test_a_part_inside_a_frozen_one_is_trained_whole() -> None:
    network = build_network("resnet10_mini", num_classes=3, seed=0).train()
    freeze(network, {"trunk": 0.0, "layer3": 0.01})
    assert all(module.training for module in network.trunk.layer3.modules())
    assert all(parameter.requires_grad for parameter in network.trunk.layer3.parameters())
    assert not network.trunk.layer2[0].bn1.training
    assert network.head.weight.requires_grad
