"""How the time of one iteration of k-means grows with points, clusters and processes: a figure and its numbers.

    python -m tools.growth --out docs/growth     # from the checkout's root; a few minutes

Features are half precision in a file, as the streaming engine reads them. Along points and clusters one process has all
cores; along processes each has one core, and they share the same points.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from cfvid import ranks
from cfvid.artifacts import atomic_file, write_json
from cfvid.clustering import passes
from cfvid.faiss_import import faiss
from cfvid.report.figures import CF, INK, STYLE, WIDTH_IN, Drawing, drawing
from tools.bench.streaming import iterate
from tools.bench.timing import num_cores, rate_of

DIM = 256
_ROUNDS = 3
_SEED = 0

Curve = dict[int, float]
"""Seconds by points, clusters or processes."""


def main() -> None:
    """Measure, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for growth.json and the figure")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of points and clusters")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # points to iterate over, as one of the processes
    parser.add_argument("--clusters", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        _as_a_process(options.one, options.clusters)
        return
    curves = measure(options.scale)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "growth.json", {"rounds": _ROUNDS, "dim": DIM, "cores": num_cores(), "seconds": curves})
    figure = draw(curves)
    for scheme, svg in {"light": figure.light, "dark": figure.dark}.items():
        with atomic_file(options.out / f"growth-{scheme}.svg") as temporary:
            temporary.write_bytes(svg)
    for name, curve in curves.items():
        print(f"{name}: " + ", ".join(f"{x:,}: {s:.3g} s" for x, s in curve.items()), flush=True)
        print(f"  time ~ {name}^{exponent(curve):.2f}")


def measure(scale: float) -> dict[str, Curve]:
    """Seconds of one iteration along each axis, the others held."""
    counts = [round(scale * n) for n in (25_000, 50_000, 100_000, 200_000, 400_000)]
    clusters = [max(2, round(scale * k)) for k in (256, 512, 1024, 2048, 4096, 8192)]
    held_points, held_clusters = counts[2], clusters[2]
    with tempfile.TemporaryDirectory() as folder:
        paths = {n: _points(Path(folder) / f"{n}.npy", n) for n in counts}
        return {
            "points": {n: _seconds(paths[n], held_clusters, cores=num_cores()) for n in counts},
            "clusters": {k: _seconds(paths[held_points], k, cores=num_cores()) for k in clusters},
            "processes": {
                size: _seconds_of_processes(paths[held_points], held_clusters, size)
                for size in range(1, num_cores() + 1)
            },
        }


def exponent(curve: Mapping[int, float]) -> float:
    """The slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(list(curve)), np.log(list(curve.values())), 1)[0]) if len(curve) > 1 else 0.0


def _points(path: Path, count: int) -> Path:
    np.save(path, np.random.default_rng(_SEED).normal(size=(count, DIM)).astype(np.float16))
    return path


def _seconds(path: Path, num_clusters: int, *, cores: int) -> float:
    """Of one iteration: the least of some rounds after a warm-up."""
    faiss.omp_set_num_threads(cores)
    torch.set_num_threads(cores)
    work = partial(iterate, np.load(path, mmap_mode="r"), num_clusters)
    with threadpool_limits(cores):
        return 1 / max([rate_of(work, units=1) for _ in range(_ROUNDS + 1)][1:])


def _seconds_of_processes(path: Path, num_clusters: int, size: int) -> float:
    """The same by several processes of one core each, under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    command = [*launcher, "-m", "tools.growth", "--out", ".", "--one", str(path), "--clusters", str(num_clusters)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def _as_a_process(path: Path, num_clusters: int) -> None:
    torch.distributed.init_process_group("gloo")
    ranks.join()
    if ranks.is_main():
        print(json.dumps({"seconds": _seconds(path, num_clusters, cores=1)}), flush=True)
        passes.dismiss()
    else:
        faiss.omp_set_num_threads(1)
        torch.set_num_threads(1)
        passes.follow()
    ranks.leave()


def draw(curves: Mapping[str, Curve]) -> Drawing:
    """One panel for each axis, both scales logarithmic, with proportional growth as a dotted line."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2 * WIDTH_IN, 3.0), layout="constrained")
        panels = figure.subplots(1, len(curves), sharey=True)
        for axes, (name, curve) in zip(panels, curves.items(), strict=True):
            x, seconds = np.array(list(curve)), np.array(list(curve.values()))
            ideal = x[0] / x if name == "processes" else x / x[0]
            axes.loglog(x, seconds[0] * ideal, color=INK, linestyle=":", linewidth=1.2)
            axes.loglog(x, seconds, color=CF, marker="o", linewidth=1.8)
            axes.set_title(f"time ~ {name}^{exponent(curve):.2f}")
            axes.set_xticks(x, [f"{int(value):,}" for value in x], rotation=30)
            axes.minorticks_off()
            axes.set_xlabel(name)
        low, high = panels[0].get_ylim()
        ticks = [digit * 10.0**power for power in range(-4, 4) for digit in (1, 2, 5)]
        ticks = [tick for tick in ticks if low <= tick <= high]
        panels[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        panels[0].minorticks_off()
        panels[0].set_ylabel("seconds per iteration")
        words = "; ".join(
            f"{name}: " + ", ".join(f"{x:,} {s:.3g} s" for x, s in curve.items()) for name, curve in curves.items()
        )
        return drawing(figure, alt=f"Seconds of one iteration of k-means by {words}")


if __name__ == "__main__":
    main()
