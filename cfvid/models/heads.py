"""Linear heads on several layers of one frozen trunk, trained side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import nn

from cfvid.models.zoo import LayerOutputs


class LayerHeads(nn.Module):
    """A trunk that stays as it is, and for each layer: average, batch normalisation by channel, one linear layer.

    This is the linear evaluation of Goyal et al. (ICCV 2019), which ClusterFit's authors use. The heads share nothing:
    each one's gradient is that of a training of its own.

    Args:
        trunk: maps a batch to (N, D); frozen, and always in evaluation mode.
        layers: dotted module names inside the trunk; None for the trunk's own output.
        num_classes: C.
        num_values: a layer is averaged over time, and over space until it has at most so many values.
        shape: of the inputs to come, (N, ...).

    Attributes:
        sizes: how many values of each layer its head looks at.

    Raises:
        ConfigError: when the trunk has no such layer.
    """

    def __init__(
        self,
        trunk: nn.Module,
        layers: Sequence[str | None],
        *,
        num_classes: int,
        num_values: int,
        shape: torch.Size,
    ) -> None:
        super().__init__()
        self.outputs, self.num_values = LayerOutputs(trunk.requires_grad_(False), layers), num_values
        pooled = self.eval()._pooled(torch.zeros(shape, device=next(trunk.parameters()).device))
        self.sizes = [part.shape[1:].numel() for part in pooled]
        self.heads = nn.ModuleList(_Head(*part.shape[1:], num_classes=num_classes) for part in pooled)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalised float input -> logits (N * L, C), the layers of a sample one after the other."""
        logits_NLC = torch.stack(
            [head(pooled) for head, pooled in zip(self.heads, self._pooled(batch), strict=True)], dim=1
        )
        # A loss is the mean over layers, which would divide each head's gradient by their number.
        logits_NLC = logits_NLC + (len(self.heads) - 1) * (logits_NLC - logits_NLC.detach())
        return logits_NLC.flatten(0, 1)

    def train(self, mode: bool = True) -> Self:
        """Only the heads are ever in training mode."""
        super().train(mode)
        self.outputs.eval()
        return self

    @torch.no_grad()
    def _pooled(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """Each layer, (N, channels, positions)."""
        return [pool(part, self.num_values) for part in self.outputs(batch)]


class _Head(nn.Module):
    def __init__(self, channels: int, positions: int, *, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.linear = nn.Linear(channels * positions, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.norm(pooled.float()).flatten(1))
        return logits


def pool(features: torch.Tensor, num_values: int) -> torch.Tensor:
    """A layer's output (N, C), (N, C, H, W) or (N, C, T, H, W) -> (N, C, positions) with C * positions <= num_values.

    Averaged over time, and over space to the largest square that fits; where C alone is more, to one position.
    """
    if features.ndim == 5:
        features = features.mean(2)
    if features.ndim == 2:
        return features[..., None]
    side = max(1, int((num_values / features.shape[1]) ** 0.5 + 1e-9))
    height, width = (min(side, length) for length in features.shape[-2:])
    return F.adaptive_avg_pool2d(features, (height, width)).flatten(2)
