"""Batches of one update count by their examples, whatever their number and sizes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.steps import Noise, train_on_noise
from torch import nn

from cfvid.data.loader import Batch
from cfvid.data.sample_ids import SampleIds
from cfvid.training.objective import loss_of
from cfvid.training.targets import PseudoTargets

NUM, LR = 38, 0.1
IDS = SampleIds([f"s{i:03d}" for i in range(NUM)])


class Patchy(Noise):
    """Noise whose batches lack some samples, and remembers them all. Batches without enough are empty, or of one."""

    def __init__(self, lacking: dict[int, int]) -> None:
        super().__init__(2)
        self.lacking, self.given = lacking, []  # type: ignore[var-annotated]

    def batches(self, ids: Any, **how: Any) -> Iterator[Batch]:
        """As many samples fewer as are lacking, by the number of the batch."""
        for place, batch in enumerate(super().batches(ids, **how)):
            kept = len(batch) - self.lacking.get(place, 0)
            self.given.append(Batch(batch.sample_ids[:kept], batch.inputs[:kept], batch.seeds[:kept]))
            yield self.given[-1]


def updated_by_hand(network: nn.Module, noise: Patchy, objective: PseudoTargets, windows: list[int]) -> nn.Module:
    """Plain gradient descent, each step along the mean over all examples of so many batches, at once."""
    given = iter(noise.given)
    for num in windows:
        batches = [batch for batch in [next(given) for _ in range(num)] if len(batch) > 1]
        if not batches:
            continue
        ids = [sample_id for batch in batches for sample_id in batch.sample_ids]
        views = torch.cat([batch.inputs[:, 0] for batch in batches])
        examples = objective.examples(views, Batch(ids, views[:, None], [0] * len(ids)))
        loss = loss_of(network(noise.normalize(views)), examples, temperature=1.0, label_smoothing=0.1)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter -= LR * gradient
    return network


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("accumulation", "lacking", "windows"),
    [
        (4, {}, [4, 3, 3]),  # 10 batches: the last two would have been divided by 4
        (3, {}, [3, 3, 2, 2]),
        (4, {0: 4, 1: 1, 5: 2, 8: 3}, [4, 3, 3]),  # unreadable: a whole batch, one sample, two, all but one
        (2, {2: 4, 3: 3}, [2, 2, 2, 2, 2]),  # nothing of a window: no update
        (1, {3: 2, 4: 4}, [1] * 10),
    ],
)
def test_each_update_follows_the_mean_over_its_examples(
    tmp_path: Path, accumulation: int, lacking: dict[int, int], windows: list[int], *, weighted: bool
) -> None:
    """Point 13: with an accumulation of 4, the last two of ten batches counted half."""
    rng = np.random.default_rng(0)
    weights_N = rng.uniform(0.1, 2, NUM).astype(np.float32) if weighted else None
    objective, noise = PseudoTargets(IDS, rng.integers(0, 2, NUM), weights_N=weights_N), Patchy(lacking)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 5, stride=2), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(1, 3, 16, 16))
    expected = copy.deepcopy(network)
    how = {"gradient_accumulation": accumulation, "batch_size": 4, "label_smoothing": 0.1}
    plain = {"lr": LR, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    train_on_noise(network, tmp_path, noise=noise, objective=objective, ids=IDS, **how, **plain)
    assert [len(batch) + lacking.get(place, 0) for place, batch in enumerate(noise.given)] == [4] * 8 + [3] * 2
    updated_by_hand(expected, noise, objective, windows)
    for one, other in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
