"""Optimiser and learning rate, the latter as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cfvid.errors import ConfigError
from cfvid.sections.training import TrainingConfig


def build_optimizer(
    network: nn.Module, config: TrainingConfig, part_lrs: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay spares normalisation layers and biases unless configured otherwise.

    Args:
        network: whose parameters that require gradients are optimised.
        config: the optimiser.
        part_lrs: peak learning rates of parts that have others than `config.lr`, by their names in the network or in
            its trunk. The innermost part decides; parameters with 0 are left out.

    Raises:
        ConfigError: for parts that the network does not have.
    """
    rates = parts_of(network, part_lrs or {})
    # The common groups stand first, even when empty: states of a training name groups by their place.
    members: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in network.named_parameters():
        scale = _lr_of(name, rates, config.lr) / config.lr
        if parameter.requires_grad and scale > 0:
            is_decayed = parameter.ndim > 1 or config.decay_norm_and_bias
            members.setdefault((scale, is_decayed), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": own, "weight_decay": config.weight_decay if is_decayed else 0.0, "scale": scale}
        for (scale, is_decayed), own in members.items()
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def freeze(network: nn.Module, part_lrs: Mapping[str, float]) -> None:
    """Parts whose learning rate is 0 take no gradients, and their normalisation keeps its statistics.

    To be called again after `network.train()`.

    Raises:
        ConfigError: for parts that the network does not have.
    """
    rates = parts_of(network, part_lrs)
    for name, module in network.named_modules():
        if _lr_of(name, rates, 1.0) == 0:
            module.training = False  # of this module alone: a part inside may be trained
    for name, parameter in network.named_parameters():
        if _lr_of(name, rates, 1.0) == 0:
            parameter.requires_grad_(False)


def _lr_of(name: str, rates: Mapping[str, float], default: float) -> float:
    fitting = [part for part in rates if f"{name}.".startswith(f"{part}.")]
    return rates[max(fitting, key=len)] if fitting else default


def parts_of(network: nn.Module, part_lrs: Mapping[str, float]) -> dict[str, float]:
    """Rates by whole module names.

    Raises:
        ConfigError: for parts that the network does not have, and when all of it is frozen.
    """
    modules = dict(network.named_modules())
    rates = {}
    for part, lr in part_lrs.items():
        whole = next((name for name in (part, f"trunk.{part}") if name in modules), None)
        if whole is None or part == "":
            known = [name for name in modules if name and name.count(".") <= 1]
            names = ", ".join(name.removeprefix("trunk.") for name in known)
            raise ConfigError(
                f"transfer.finetune.part_lrs: the network has no part {part!r}.", fix=f"Name one of {names}."
            )
        rates[whole] = lr
    if rates and not any(_lr_of(name, rates, 1.0) > 0 for name, _ in network.named_parameters()):
        raise ConfigError(
            "transfer.finetune.part_lrs: every part of the network is frozen.", fix="Give one a rate above 0."
        )
    return rates


def learning_rate(config: TrainingConfig, *, epoch: float, step_epochs: float = 0.0) -> float:
    """The learning rate at a fractional epoch: linear warm-up from 0, then the schedule.

    The warm-up counts the step's own length, `step_epochs`: the first step would otherwise have a rate of 0.
    """
    warmup = config.warmup
    if epoch < warmup:
        return config.lr * min(1.0, (epoch + step_epochs) / warmup)
    if config.schedule == "cosine":
        progress = (epoch - warmup) / max(1e-9, config.epochs - warmup)
        return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if config.schedule == "step":
        return config.lr * config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    return config.lr


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate; groups of other peak rates follow in proportion."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("scale", 1.0)
