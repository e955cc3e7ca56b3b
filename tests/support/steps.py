"""Trainings that may crash, in processes forked from one that has torch but has computed nothing yet."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from cfvid.data.loader import Batch
from cfvid.data.sample_ids import SampleIds
from cfvid.data.skips import SkipLedger
from cfvid.models.zoo import ARCHITECTURES, build_network
from cfvid.sections.stages import RuntimeConfig
from cfvid.sections.training import TrainingConfig
from cfvid.training.batches import TrainingData
from cfvid.training.device import memory_format
from cfvid.training.loop import train
from cfvid.training.objective import Objective
from cfvid.training.targets import PseudoTargets

BATCHES = (2, 3, 13, 64)
THREADS = (1, 2)[: os.cpu_count()]
"""No more than there are cores: oneDNN's threads wait for one another while they spin, and a thread that waits for a
core would keep them for minutes."""
SHAPES = {2: (3, 16, 16), 3: (3, 4, 8, 8)}
"""Of a sample, by dimensions."""
NARROW = {
    2: lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 1, stride=(1, 2)), nn.Flatten()),
    3: lambda: nn.Sequential(nn.Conv3d(3, 8, 1), nn.Conv3d(8, 16, 1, stride=2), nn.Flatten()),
}
"""Networks that nobody ships, by dimensions."""


class Noise:
    """Stands in for a loader and a modality."""

    def __init__(self, dims: int) -> None:
        self.network_dims = dims
        self.ledger = SkipLedger(num_samples=max(BATCHES), budget=0.0, stage="noise")

    def batches(self, ids: Sequence[str], *, seeds: Sequence[int], sizes: Sequence[int], **_: Any) -> Iterator[Batch]:
        """One batch of noise after the other, uint8 (N, 1, C, ...)."""
        todo, drawn = list(ids), list(seeds)
        for size in sizes:
            inputs = torch.randint(256, (size, 1, *SHAPES[self.network_dims]), dtype=torch.uint8)
            yield Batch([todo.pop(0) for _ in range(size)], inputs, [drawn.pop(0) for _ in range(size)])

    def augment(self, views: torch.Tensor, _seeds: Sequence[int]) -> torch.Tensor:
        """Nothing."""
        return views

    def normalize(self, views: torch.Tensor) -> torch.Tensor:
        """Float numbers around 0."""
        return views.float() / 128 - 1


def train_on_noise(
    network: nn.Module, folder: Path, *, noise: Noise, objective: Objective, ids: SampleIds, **config: Any
) -> nn.Module:
    """A whole training, on the CPU."""
    shared: Any = SimpleNamespace(loader=noise, modality=noise, objective=objective)
    training = TrainingConfig.model_validate({"epochs": 1, "batch_size": len(ids), "lr": 0.01} | config)
    data = TrainingData(**vars(shared), ids=ids, seed=0, stage="noise", batch_size=training.batch_size)
    accelerator = Accelerator(cpu=True)
    return train(network, data, config=training, folder=folder, accelerator=accelerator, runtime=RuntimeConfig())


def _steps(network: nn.Module, *, dims: int, batch: int, times: int) -> None:
    """Forward, backward and update, as the loop does it for a network of the zoo."""
    network = network.train().to(memory_format=memory_format(dims + 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(times):
        inputs = torch.randn(batch, *SHAPES[dims]).to(memory_format=memory_format(dims + 2))
        F.cross_entropy(network(inputs), torch.zeros(batch, dtype=torch.long)).backward()
        optimizer.step()


def _whole_training(network: nn.Module, *, dims: int, batch: int, times: int) -> None:
    ids = SampleIds([f"s{i:03d}" for i in range(batch)])
    targets = PseudoTargets(ids, np.arange(batch) % 2)
    with tempfile.TemporaryDirectory() as folder:
        train_on_noise(network, Path(folder), noise=Noise(dims), objective=targets, ids=ids, epochs=times)


def _in_child(work: Callable[[], None], *, threads: int) -> int:
    """The exit code of a process: 0, or minus the number of the signal that ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(120)
    torch.set_num_threads(threads)
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _shipped(names: Sequence[str]) -> dict[str, int]:
    """Every case in words, and its exit code. A damaged heap shows after some steps."""
    codes = {}
    for name in names:
        network, dims = build_network(name, num_classes=2, seed=0), ARCHITECTURES[name].dims
        widths = [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Conv3d)]
        is_narrow = min(widths) < 16
        for threads in THREADS if is_narrow else THREADS[-1:]:
            for batch in BATCHES:
                work = functools.partial(_steps, network, dims=dims, batch=batch, times=4 if is_narrow else 1)
                codes[f"{name}, batch {batch}, {threads} threads"] = _in_child(work, threads=threads)
    return codes


def _users_own() -> dict[str, int]:
    codes = {}
    for dims, build in NARROW.items():
        for batch in BATCHES:
            work = functools.partial(_whole_training, build(), dims=dims, batch=batch, times=4)
            codes[f"{dims}D, batch {batch}"] = _in_child(work, threads=THREADS[-1])
    return codes


if __name__ == "__main__":
    print(json.dumps(_shipped(sys.argv[1:]) if len(sys.argv) > 1 else _users_own()))
