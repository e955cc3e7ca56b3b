"""extract: samples per second of cfvid's extraction against a bare forward loop over tensors in memory.

The candidate is the whole stage: decoding in guarded processes, batching, normalising, the forward pass and writing
the shards with their digests. The reference is the forward pass alone, over the same batches, normalised beforehand.
On a CPU the decoding needs the network's cores: the notes tell its share of the work and the ratio that this leaves.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from cfvid.data.manifest import Manifest
from cfvid.models.zoo import LayerFeatures, Network, build_network
from cfvid.stages.context import Run
from cfvid.stages.extract import extract_into
from cfvid.training.device import memory_format
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
from tools.bench.timing import Comparison, alternate, rate_of

GOAL = 0.95
_SMALL_IMAGES = functools.partial(make_images, width=96, height=80)


@dataclass(frozen=True)
class Size:
    """What is extracted."""

    settings: tuple[Setting, ...]
    rounds: int


_VIDEO_56 = ("input.num_frames=8", "input.crop_size=56", "input.resize=64", "input.max_resize=null")
_IMAGE_64 = ("input.crop_size=64", "input.resize=64")
_VIDEO_32 = ("input.num_frames=4",)
SIZES = {
    "smoke": Size(
        (
            Setting("video", "r2plus1d_10_thin", _VIDEO_32, 2, 4, make_videos),
            Setting("image", "resnet10_small", (), 4, 8, _SMALL_IMAGES),
        ),
        rounds=1,
    ),
    "small": Size(
        (
            Setting("video", "r2plus1d_18", _VIDEO_56, 8, 32, make_videos),
            Setting("image", "resnet18", _IMAGE_64, 32, 1024, _SMALL_IMAGES),
        ),
        rounds=3,
    ),
    "medium": Size(
        (
            usual_videos("r2plus1d_18", 8, 32),
            usual_images("resnet50", 32, 256),
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
    network = build_network(setting.arch, num_classes=2, seed=0)
    with run_.loader(manifest, stage="bench") as loader:
        ready = tensors_in_memory(run_, loader, manifest.ids, batch_size=setting.batch_size, look="extract")
        decoded_per_s = decode_rate(loader, manifest.ids, batch_size=setting.batch_size, look="extract")
    numbers = itertools.count()

    def candidate() -> float:
        store = run_.folder / f"extract-{next(numbers)}"
        return rate_of(lambda: _extract(run_, store, network, manifest), units=len(manifest))

    def reference() -> float:
        return rate_of(lambda: _forward_all(run_, network, [x for _, x in ready]), units=len(manifest))

    rates = alternate(reference, candidate, rounds=rounds)
    network_per_s = sorted(rates[1])[len(rates[1]) // 2]
    side = ready[0][1].shape[-1]
    return Comparison(
        benchmark="extract",
        what=f"{setting.arch}, {setting.modality} {side} px, batch {setting.batch_size}",
        reference="bare forward loop",
        unit="samples/s",
        goal=GOAL,
        candidate_rates=rates[0],
        reference_rates=rates[1],
        notes=decoding_notes(run_, decode_rate=decoded_per_s, network_rate=network_per_s),
    )


def _extract(run_: Run, store: Path, network: Network, manifest: Manifest) -> None:
    extract_into(
        run_,
        store,
        network=network,
        network_digest="bench",
        manifest=manifest,
        look="extract",
        average_views=True,
    )


@torch.inference_mode()
def _forward_all(run_: Run, network: Network, batches: list[torch.Tensor]) -> None:
    module = LayerFeatures(network.trunk)
    module = module.to(run_.accelerator.device).to(memory_format=memory_format(batches[0].ndim)).eval()
    for inputs in batches:
        with run_.accelerator.autocast():
            module(inputs).float().cpu()
