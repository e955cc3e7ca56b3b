"""Optimiser and learning rate, the latter as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from cfvid.config import TrainingConfig


def build_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay spares normalisation layers and biases unless configured otherwise."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        is_norm_or_bias = parameter.ndim <= 1
        (spared if is_norm_or_bias and not config.decay_norm_and_bias else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def learning_rate(config: TrainingConfig, *, epoch: float, step_epochs: float = 0.0) -> float:
    """The learning rate at a fractional epoch: linear warm-up from 0, then the schedule.

    The warm-up counts the step's own length, `step_epochs`: the first step would otherwise have a rate of 0.
    """
    if epoch < config.warmup_epochs:
        return config.lr * min(1.0, (epoch + step_epochs) / config.warmup_epochs)
    if config.schedule == "cosine":
        progress = (epoch - config.warmup_epochs) / max(1e-9, config.epochs - config.warmup_epochs)
        return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if config.schedule == "step":
        return config.lr * config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    return config.lr


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = value
