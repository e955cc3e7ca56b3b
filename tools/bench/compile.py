"""compile: bare training steps of networks that torch.compile has compiled, against the same ones as they are.

Batches are noise that lies on the device; bf16 on a GPU. The first step, in which the compiler works, is told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from cfvid.models.zoo import build_network
from cfvid.training.device import memory_format
from tools.bench.options import Options
from tools.bench.timing import Comparison, alternate, rate_of

_NUM_CLASSES = 400


@dataclass(frozen=True)
class Setting:
    """A network and the shape of its batches."""

    arch: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """What is trained; a round is so many steps of each."""

    settings: tuple[Setting, ...]
    steps: int
    rounds: int


SIZES = {
    "small": Size((Setting("r2plus1d_18", (4, 3, 8, 56, 56)), Setting("resnet18", (32, 3, 64, 64))), steps=4, rounds=3),
    # For a GPU.
    "large": Size(
        (Setting("r2plus1d_18", (32, 3, 16, 112, 112)), Setting("resnet50", (256, 3, 224, 224))), steps=10, rounds=3
    ),
}


def run(options: Options) -> Iterator[Comparison]:
    """One comparison per network."""
    size = SIZES[options.size]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for setting in size.settings:
        step, compiled = _step(setting, device, compiles=False), _step(setting, device, compiles=True)
        first_s = 1 / rate_of(compiled, units=1)
        units = size.steps * setting.shape[0]
        rates = alternate(
            partial(rate_of, partial(_repeat, step, size.steps), units=units),
            partial(rate_of, partial(_repeat, compiled, size.steps), units=units),
            rounds=options.rounds or size.rounds,
        )
        yield Comparison(
            benchmark="compile",
            what=f"training steps of {setting.arch}, {'x'.join(map(str, setting.shape))}, {device.type}",
            reference="the same, not compiled",
            unit="samples/s",
            goal=None,
            candidate_rates=rates[0],
            reference_rates=rates[1],
            notes={"first step s": first_s},
        )


def _step(setting: Setting, device: torch.device, *, compiles: bool) -> Callable[[], None]:
    channels_last = memory_format(len(setting.shape))
    network = build_network(setting.arch, num_classes=_NUM_CLASSES, seed=0)
    network = network.to(device).to(memory_format=channels_last)
    if compiles:
        network.compile()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    batch = torch.randn(setting.shape, device=device).to(memory_format=channels_last)
    target = torch.randint(_NUM_CLASSES, setting.shape[:1], device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(batch)
        F.cross_entropy(logits.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def _repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()
