"""retrain: training steps per second of cfvid's loop, samples and all, against a bare torch loop.

The candidate is `cfvid.training.loop.train`: decoding and augmenting in guarded processes, normalising, checks for
finite losses and gradients, metrics. The reference repeats forward, backward and the optimiser's step over the same
kind of batches in memory, with the same network, optimiser, batch size and memory format.

Steps are timed by a hook at the network's input, from step to step. The first ones are left out on both sides, and
the last ones too: cfvid's decoders have nothing left to do there. The checkpoint at an epoch's end is no step.
"""

from __future__ import annotations

import functools
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from cfvid.data.loader import SampleLoader
from cfvid.models.zoo import Network, build_network
from cfvid.sections.training import TrainingConfig
from cfvid.stages.context import Run
from cfvid.training.batches import TrainingData
from cfvid.training.device import memory_format
from cfvid.training.loop import train
from cfvid.training.optim import build_optimizer
from cfvid.training.targets import Targets
from tools.bench.media import make_images, make_videos
from tools.bench.networks import (
    Setting,
    decode_rate,
    decoding_notes,
    open_run,
    tensors_in_memory,
    usual_images,
    usual_videos,
)
from tools.bench.options import Options
from tools.bench.timing import Comparison, alternate

GOAL = 0.97
_FIRST, _LAST = 2, 3
"""Steps that are not timed at either end; cfvid decodes up to three batches ahead."""


@dataclass(frozen=True)
class Size:
    """What is trained; a round is one epoch of each setting."""

    settings: tuple[Setting, ...]
    rounds: int


_VIDEO_64 = functools.partial(make_videos, width=64, height=64)
_CROP_56 = ("input.crop_size=56", "input.resize=64", "input.max_resize=null")
_IMAGE_64 = functools.partial(make_images, width=64, height=64)
SIZES = {
    "smoke": Size(
        (
            Setting("video", "r2plus1d_10_thin", ("input.num_frames=4",), 2, 14, _VIDEO_64),
            Setting("image", "resnet10_small", (), 2, 14, _IMAGE_64),
        ),
        rounds=1,
    ),
    "small": Size(
        (
            Setting("video", "r2plus1d_18", _CROP_56, 4, 40, _VIDEO_64),
            Setting("image", "resnet18", ("input.crop_size=64", "input.resize=64"), 32, 512, _IMAGE_64),
        ),
        rounds=3,
    ),
    "medium": Size(
        (
            usual_videos("r2plus1d_18", 4, 36),
            usual_images("resnet50", 16, 144),
        ),
        rounds=3,
    ),
    # For a GPU.
    "large": Size(
        (
            usual_videos("r2plus1d_18", 32, 768),
            usual_images("resnet50", 256, 8192),
        ),
        rounds=2,
    ),
}


def run(options: Options) -> Iterator[Comparison]:
    """One comparison per setting."""
    size = SIZES[options.size]
    for setting in size.settings:
        with tempfile.TemporaryDirectory(prefix="cfvid-bench-") as folder:
            yield _compare(setting, options, Path(folder), rounds=options.rounds or size.rounds)


def _compare(setting: Setting, options: Options, folder: Path, *, rounds: int) -> Comparison:
    media = setting.make_media(folder / "media", count=setting.num_samples)
    run_ = open_run(setting, media=media, folder=folder / "run", workers=options.workers)
    manifest = run_.manifest("clusterfit").split("train")
    batch_size, numbers = setting.batch_size, itertools.count()
    config = run_.config.retrain.training.model_copy(update={"epochs": 1, "warmup_epochs": 0.0})
    with run_.loader(manifest, stage="bench") as loader:
        data, targets = _training_data(run_, loader, batch_size), Targets(manifest.classes, manifest.labels_by_id)
        # Of all classes: one alone is soon learnt, and a CPU takes 40 times as long for gradients of nearly 0.
        some = random.Random(0).sample(manifest.ids, min(4 * batch_size, len(manifest.ids)))
        ready = [
            (inputs, targets.batch(ids).to(inputs.device))
            for ids, inputs in tensors_in_memory(run_, loader, some, batch_size=batch_size, look="train")
        ]

        def build() -> Network:
            return build_network(setting.arch, num_classes=len(manifest.classes), seed=0)

        def candidate() -> float:
            network, steps = _timed(build(), run_.accelerator.device)
            folder = run_.folder / f"retrain-{next(numbers)}"
            folder.mkdir(parents=True)
            train(
                network, data, config=config, folder=folder, accelerator=run_.accelerator, runtime=run_.config.runtime
            )
            return steps()

        def reference() -> float:
            network, steps = _timed(build(), run_.accelerator.device)
            _bare_loop(network, list(itertools.islice(itertools.cycle(ready), data.num_batches)), run_, config)
            return steps()

        rates = alternate(reference, candidate, rounds=rounds)
        decoded_per_s = decode_rate(loader, manifest.ids, batch_size=batch_size, look="train")
    steps_per_s = sorted(rates[1])[len(rates[1]) // 2]
    return Comparison(
        benchmark="retrain",
        what=f"{setting.arch}, {setting.modality} {ready[0][0].shape[-1]} px, batch {batch_size}",
        reference="bare torch loop",
        unit="steps/s",
        goal=GOAL,
        candidate_rates=rates[0],
        reference_rates=rates[1],
        notes=decoding_notes(run_, decode_rate=decoded_per_s, network_rate=steps_per_s * batch_size),
    )


def _training_data(run_: Run, loader: SampleLoader, batch_size: int) -> TrainingData:
    manifest = loader.manifest
    return TrainingData(
        loader=loader,
        objective=Targets(manifest.classes, manifest.labels_by_id),
        modality=run_.modality,
        ids=manifest.ids,
        seed=0,
        stage="bench",
        batch_size=batch_size,
    )


def _timed(network: Network, device: torch.device) -> tuple[Network, Callable[[], float]]:
    """The network, and a function that gives its steps per second afterwards: by a GPU's own clock where it has one."""
    times: list[Any] = []

    def note(*_: object) -> None:
        times.append(time.perf_counter() if device.type == "cpu" else torch.cuda.Event(enable_timing=True))
        if device.type != "cpu":
            times[-1].record()

    def steps_per_s() -> float:
        first, *_, last = kept = times[_FIRST : len(times) - _LAST]
        if device.type == "cpu":
            return (len(kept) - 1) / (last - first)
        torch.cuda.synchronize()
        return (len(kept) - 1) / (first.elapsed_time(last) / 1000)

    network.register_forward_pre_hook(note)
    return network, steps_per_s


def _bare_loop(
    network: Network, batches: list[tuple[torch.Tensor, torch.Tensor]], run_: Run, config: TrainingConfig
) -> None:
    network.to(run_.accelerator.device).to(memory_format=memory_format(batches[0][0].ndim)).train()
    optimizer = build_optimizer(network, config)
    for inputs, target in batches:
        optimizer.zero_grad()
        with run_.accelerator.autocast():
            logits = network(inputs)
        F.cross_entropy(logits.float(), target).backward()
        optimizer.step()
