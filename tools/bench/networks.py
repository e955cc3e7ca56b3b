"""What `extract` and `retrain` share: whole runs over generated media, as a user would configure them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cfvid.data.loader import Look, SampleLoader
from cfvid.loading import resolve_layers
from cfvid.stages.context import Run
from cfvid.training.device import memory_format
from cfvid.yaml_layers import from_overrides
from tools.bench.media import make_images, make_videos
from tools.bench.timing import rate_of, shared_core_notes


@dataclass(frozen=True)
class Setting:
    """A network and its input."""

    modality: str
    arch: str
    overrides: tuple[str, ...]
    """Of the modality's shipped configuration, as on cfvid's command line."""
    batch_size: int
    num_samples: int
    make_media: Callable[..., Path]
    """Called with a folder and `count`."""


def usual_videos(arch: str, batch_size: int, num_samples: int) -> Setting:
    """Clips of the size that networks are usually trained on: 16 frames of 112 pixels."""
    overrides = ("input.num_frames=16", "input.crop_size=112", "input.resize=128", "input.max_resize=null")
    return Setting(
        "video", arch, overrides, batch_size, num_samples, functools.partial(make_videos, width=172, height=128)
    )


def usual_images(arch: str, batch_size: int, num_samples: int) -> Setting:
    """Pictures of the size that networks are usually trained on: 224 pixels."""
    overrides = ("input.crop_size=224", "input.resize=256")
    return Setting(
        "image", arch, overrides, batch_size, num_samples, functools.partial(make_images, width=256, height=256)
    )


def open_run(setting: Setting, *, media: Path, folder: Path, workers: int) -> Run:
    """A run in `folder` whose only source is `media`."""
    values = [
        f"pretrain.arch={setting.arch}",
        f"data.pretrain={media}",
        f"extract.batch_size={setting.batch_size}",
        f"retrain.training.batch_size={setting.batch_size}",
        f"runtime.num_workers={workers}",
        *setting.overrides,
    ]
    return Run(resolve_layers(setting.modality, [from_overrides([f"--{v}" for v in values])]), folder)


def decode_rate(loader: SampleLoader, ids: Sequence[str], *, batch_size: int, look: Look) -> float:
    """Samples per second of decoding alone, with nothing else on the cores."""

    def drain() -> None:
        for _ in loader.batches(ids, batch_size=batch_size, look=look):
            pass

    drain()
    return rate_of(drain, units=len(ids))


def decoding_notes(run: Run, *, decode_rate: float, network_rate: float) -> dict[str, float | int | str]:
    """What decoding leaves at best: a GPU waits only for what is decoded more slowly than it computes."""
    if run.accelerator.device.type == "cpu":
        return shared_core_notes(decode_rate=decode_rate, network_rate=network_rate)
    return {"decode_rate": decode_rate, "best_possible_ratio": min(1.0, decode_rate / network_rate)}


def tensors_in_memory(
    run: Run, loader: SampleLoader, ids: Sequence[str], *, batch_size: int, look: Look
) -> list[tuple[list[str], torch.Tensor]]:
    """Whole batches that are ready for the network: ids and normalised float32, channels last, on the device."""
    ready = []
    for batch in loader.batches(ids, batch_size=batch_size, look=look):
        inputs = run.modality.normalize(batch.inputs[:, 0].to(run.accelerator.device))
        ready.append((batch.sample_ids, inputs.to(memory_format=memory_format(inputs.ndim))))
    return ready
