"""What the paper's two large pools would cost: a plan from costs that are measured here, one unit at a time.

    python -m tools.scale                       # from the checkout's root; prints the tables of docs/SCALE.md
    python -m tools.scale --gpu-tflops 150 --ranks 64

Measured: decoding on one core, the search of centroids on one core, bytes of memory for a sample. Counted: operations
of the networks, bytes on disk and over the network. Assumed, because there was no GPU: what one sustains.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from cfvid.clustering.search import build_index
from cfvid.data.manifest import Sample, from_samples
from cfvid.data.mapped import read_mapped, write_mapped
from cfvid.faiss_import import faiss
from cfvid.models.zoo import build_network
from cfvid.planning.text import size_text
from cfvid.stages.cluster import PseudoLabels
from cfvid.training.compute import view_flops
from tools.bench.media import make_images, make_videos
from tools.bench.networks import Setting, decode_rate, open_run

_BACKWARD = 3
"""A step of training takes about three forward passes."""
_POINTS_DIM = 256
"""Principal components that are clustered."""


@dataclass(frozen=True)
class Pool:
    """A pool, and what is done with it."""

    name: str
    num_samples: float
    setting: Setting
    dim: int
    """Of the features."""
    num_clusters: int
    iterations: int
    epochs: int
    """Of retraining."""
    batch_per_rank: int


POOLS = (
    Pool(
        "1 billion pictures",
        1e9,
        Setting(
            "image",
            "resnet50",
            ("input.crop_size=224", "input.resize=256"),
            64,
            64,
            lambda folder, *, count: make_images(folder, count=count, width=500, height=375),
        ),
        dim=2048,
        num_clusters=16_000,
        iterations=20,
        epochs=2,
        batch_per_rank=256,
    ),
    Pool(
        "19 million videos",
        19e6,
        Setting(
            "video",
            "r2plus1d_34",
            (
                "input.crop_size=112",
                "input.resize=128",
                "input.num_frames=32",
                "input.frame_rate_hz=30",
                "input.max_resize=160",
            ),
            8,
            24,
            lambda folder, *, count: make_videos(folder, count=count),
        ),
        dim=512,
        num_clusters=16_000,
        iterations=20,
        epochs=10,
        batch_per_rank=16,
    ),
)


@dataclass(frozen=True)
class Units:
    """Costs of one unit."""

    decodes_per_core_s: float
    forward_flops: float
    parameters: int
    macs_per_core_s: float
    """Multiplications of the search of centroids."""
    sample_bytes: float
    """Of memory, in each process."""
    row_bytes: float
    """Of memory, on each machine."""


def measure(pool: Pool) -> Units:
    """Measure and count on this machine, one core at a time."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        media = pool.setting.make_media(folder / "media", count=pool.setting.num_samples)
        run = open_run(pool.setting, media=media, folder=folder / "run", workers=0)
        samples = run.manifest("pretrain").split("train")
        with run.loader(samples, stage="scale") as loader:
            rate = decode_rate(loader, samples.ids, batch_size=8, look="train")
        network = build_network(pool.setting.arch, num_classes=pool.num_clusters, seed=0)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        flops = view_flops(pool.setting.arch, run.modality)
    return Units(rate, flops, parameters, _search_rate(), *_sample_bytes())


def _search_rate() -> float:
    rng = np.random.default_rng(0)
    index = build_index(rng.standard_normal((4096, _POINTS_DIM), dtype=np.float32), "flat")
    points = rng.standard_normal((4096, _POINTS_DIM), dtype=np.float32)
    index.search(points[:256], 1)
    start = time.monotonic()
    index.search(points, 1)
    return 4096 * 4096 * _POINTS_DIM / (time.monotonic() - start)


def _sample_bytes(count: int = 100_000) -> tuple[float, float]:
    """What retraining by several processes holds of each sample: in each one (where its id is found, its cluster, its
    turn in the epoch), and once on a machine (its row)."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "pool.arrow"
        names = [f"pool/{n:09d}.jpg" for n in range(count)]
        write_mapped(from_samples([Sample(name, name, "/data", (), "train", None, None) for name in names]), path)
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        manifest = read_mapped(path)
        labels = PseudoLabels(manifest.ids, np.zeros(count, np.int32), *np.zeros((2, count), np.float32))
        order = np.random.default_rng(0).permutation(count)
        labels.ids.rows(labels.ids.take(order[:256]))
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return (used + pa.total_allocated_bytes() - before) / count, path.stat().st_size / count


# ---------------------------------------------------------------------------------------------- the plan


def rows_of(pool: Pool, units: Units, *, ranks: int, gpu_tflops: float, cores_per_rank: int) -> list[tuple[str, str]]:
    """What the pool costs: name and value of each line."""
    num, flops_s = pool.num_samples, gpu_tflops * 1e12
    passes = {"extract": 1.0, "retrain": float(pool.epochs)}
    flops = {"extract": units.forward_flops, "retrain": _BACKWARD * units.forward_flops}
    lines = []
    for stage, count in passes.items():
        gpu_h = num * count * flops[stage] / flops_s / 3600
        core_h = num * count / units.decodes_per_core_s / 3600
        needed = flops_s / flops[stage] / units.decodes_per_core_s
        lines += [
            (f"{stage}: GPU hours", f"{gpu_h:,.0f}"),
            (f"{stage}: core hours of decoding", f"{core_h:,.0f}"),
            (f"{stage}: cores that keep one GPU busy", f"{needed:,.1f}"),
            (
                f"{stage}: hours on {ranks} GPUs with {cores_per_rank} cores each",
                f"{_hours(gpu_h, core_h, ranks, cores_per_rank):,.1f}",
            ),
        ]
    macs = num * pool.num_clusters * _POINTS_DIM * (pool.iterations + 2)
    lines += [
        ("k-means: core hours, all points", f"{macs / units.macs_per_core_s / 3600:,.1f}"),
        ("k-means: GPU hours, all points", f"{2 * macs / flops_s / 3600:,.1f}"),
        ("features on disk, fp16", size_text(num * pool.dim * 2)),
        (f"points of k-means on disk, fp32, {_POINTS_DIM} components", size_text(num * _POINTS_DIM * 4)),
        ("gradients of a step, sent by each rank", size_text(2 * 4 * units.parameters)),
        ("sums of an iteration of k-means, sent by each rank", size_text(2 * 8 * pool.num_clusters * _POINTS_DIM)),
        ("samples in the memory of each process", size_text(num * units.sample_bytes)),
        ("and of each machine, once", size_text(num * units.row_bytes)),
        ("clusters and distances, collected by the main process", size_text(num * 2 * 12)),
    ]
    return lines


def _hours(gpu_h: float, core_h: float, ranks: int, cores_per_rank: int) -> float:
    return max(gpu_h / ranks, core_h / (ranks * cores_per_rank))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpu-tflops", type=float, default=100.0, help="that one GPU sustains (default: 100)")
    parser.add_argument("--ranks", type=int, default=64, help="processes, one per GPU (default: 64)")
    parser.add_argument("--cores", type=int, default=16, help="per process (default: 16)")
    options = parser.parse_args()
    print(f"Load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before.\n")
    for pool in POOLS:
        units = measure(pool)
        print(_table(pool, units, options))


def _table(pool: Pool, units: Units, options: argparse.Namespace) -> str:
    known: list[tuple[str, str]] = [
        ("measured: decodes per second and core", f"{units.decodes_per_core_s:,.1f}"),
        ("measured: search, multiplications per second and core", f"{units.macs_per_core_s:.2g}"),
        ("measured: memory of a sample in each process that retrains", f"{units.sample_bytes:.0f} B"),
        ("measured: and of its row on each machine", f"{units.row_bytes:.0f} B"),
        ("counted: forward pass of a view", f"{units.forward_flops / 1e9:,.1f} GFLOP"),
        ("assumed: a GPU sustains", f"{options.gpu_tflops:g} TFLOP/s"),
    ]
    plan = rows_of(pool, units, ranks=options.ranks, gpu_tflops=options.gpu_tflops, cores_per_rank=options.cores)
    head = f"{pool.name}, {pool.setting.arch}, K = {pool.num_clusters:,}, {pool.epochs} epochs"
    return "\n".join(
        [f"| {head} | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in [*known, *plan]), ""]
    )


if __name__ == "__main__":
    main()
