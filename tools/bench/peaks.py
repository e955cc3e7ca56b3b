"""peaks: how the peak of memory grows when there are four times as many samples.

Scoring of a fine-tuned network, distillation (the cluster stage, then what retraining learns), and an estimate: each in
a process of its own, over made-up logits or features. Counted is what only memory can hold (RssAnon), as in `memory`.
The reference is the same work on a quarter of the samples; a ratio of 1 says that the peak does not grow.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cfvid.clustering.projection import Projection
from cfvid.data.loader import Batch
from cfvid.data.manifest import Manifest, Sample, from_samples
from cfvid.loading import resolve_layers
from cfvid.models.weights import NetworkConfig, save_network
from cfvid.models.zoo import build_network
from cfvid.stages import trained
from cfvid.stages.cluster import build_engine, load_pseudo_labels
from cfvid.stages.context import Run
from cfvid.stages.estimate import _stability
from cfvid.stages.evaluations import Candidate, Evaluation, Target
from cfvid.stages.retrain import _objective
from cfvid.yaml_layers import from_overrides, read_yaml
from tools.bench.memory import Size as PoolSize
from tools.bench.memory import peak_gb, write_run
from tools.bench.options import Options
from tools.bench.timing import Comparison

GOAL = 0.9
_TIMES = 4
_ARCH, _DIM = "resnet10_thin", 256
_BATCH = 256


@dataclass(frozen=True)
class Size:
    """The smaller numbers of samples."""

    scored: int
    scored_classes: int
    distilled: int
    distilled_classes: int
    estimated: int


SIZES = {
    "smoke": Size(scored=500, scored_classes=50, distilled=500, distilled_classes=20, estimated=2_000),
    # Up to 1.4 GB of logits and 2.4 GB of soft labels, which is 3 GB on disk, and some minutes. The smaller numbers are
    # such that parts already have their full size.
    "small": Size(scored=10_000, scored_classes=9_000, distilled=75_000, distilled_classes=1_000, estimated=100_000),
}


def run(options: Options) -> Iterator[Comparison]:
    """One comparison for each kind of work."""
    size = SIZES[options.size]
    measured: dict[str, dict[int, float]] = {}
    counts = {"score": size.scored, "distil": size.distilled, "learn": size.distilled, "estimate": size.estimated}
    for times in (1, _TIMES):
        with tempfile.TemporaryDirectory() as name:
            for work, command in _commands(Path(name), size, times):
                measured.setdefault(work, {})[times] = peak_gb(command)
    bytes_each = {
        "score": 4 * size.scored_classes,
        "distil": 8 * size.distilled_classes,
        "learn": 8 * size.distilled_classes,
        "estimate": 4 * 256,
    }
    for work, peaks in measured.items():
        num = counts[work] * _TIMES
        yield Comparison(
            benchmark="peaks",
            what=f"{work}, {num} samples",
            reference=f"{counts[work]} samples",
            unit="1/GB",
            goal=GOAL,
            candidate_rates=[1 / peaks[_TIMES]],
            reference_rates=[1 / peaks[1]],
            notes={
                "peak GB": peaks[_TIMES],
                "reference's": peaks[1],
                "held whole GB": num * bytes_each[work] / 1e9,
            },
        )


def _commands(folder: Path, size: Size, times: int) -> Iterator[tuple[str, list[str]]]:
    """Each kind of work, once what it looks at has been made."""
    child = [sys.executable, "-m", "tools.bench.peaks"]
    yield "score", [*child, "score", str(folder), str(times * size.scored), str(size.scored_classes)]
    distilled = folder / "distilled"
    network = _write_network(distilled / "run" / "pretrain" / "network", size.distilled_classes)
    pool = PoolSize(times * size.distilled, _DIM, num_clusters=100)
    changes = ("cluster.method=distillation", f"pretrain.arch={_ARCH}")
    write_run(distilled, pool, *changes, features={"network": network, "layers": [None]})
    yield "distil", [sys.executable, "-m", "cfvid", "cluster", "--output", str(distilled / "run")]
    yield "learn", [*child, "learn", str(distilled / "run")]
    estimated = folder / "estimated"
    write_run(estimated, PoolSize(times * size.estimated, 256, num_clusters=100, iterations=2))
    yield "estimate", [*child, "estimate", str(estimated / "run")]


def _write_network(folder: Path, num_classes: int) -> str:
    """An N_pre with names of classes; gives its digest."""
    network = build_network(_ARCH, num_classes=num_classes, seed=0)
    classes = [f"class {number}" for number in range(num_classes)]
    config = NetworkConfig(_ARCH, "image", num_classes, classes, {})
    return save_network(folder, network, config).digest


# ---------------------------------------------------------------------------------------------- in the child


def _score(folder: str, num: str, num_classes: str) -> None:
    """Fine-tuning without the training, and with logits that are drawn once."""
    config = resolve_layers("image", [from_overrides([f"--pretrain.arch={_ARCH}", "--runtime.device=cpu"])])
    one = Run(config, Path(folder) / "scored")
    drawn_BVC = np.random.default_rng(0).standard_normal((_BATCH, 1, int(num_classes)), dtype=np.float32)

    def logits(*args: Any, **_: Any) -> Iterator[tuple[list[str], np.ndarray]]:
        ids = args[2]
        for first in range(0, len(ids), _BATCH):
            some = list(ids[first : first + _BATCH])
            yield some, np.roll(drawn_BVC[: len(some)], first, axis=2)

    def manifest(count: int, split: str) -> Manifest:
        labels = (f"class {number % int(num_classes):05d}" for number in range(count))
        return from_samples(
            [Sample(f"{split}{n}", f"{split}{n}", "/", (label,), split, None, None) for n, label in enumerate(labels)]
        )

    stand_ins: dict[str, Callable[..., Any]] = {"fit": lambda *_, **__: None, "forward_views": logits}
    for name, stand_in in stand_ins.items():
        setattr(trained, name, stand_in)
    target = Target("target", manifest(int(num_classes), "train"), manifest(int(num), "val"))
    candidate = Candidate("random", "random", None, "", _ARCH, 0)
    trained.finetune(one, Evaluation(target, candidate, "finetune", 0, Path(folder)))


def _learn(folder: str) -> None:
    """What retraining learns of distilled labels, a hundred batches of it."""
    one = _opened(folder)
    (one.folder / "retrain").mkdir(exist_ok=True)
    labels = load_pseudo_labels(one.folder / "cluster")
    objective, _ = _objective(one, labels)
    rng, views = np.random.default_rng(0), torch.empty(_BATCH, 1)
    for _ in range(100):
        ids = [*labels.ids.take(rng.integers(len(labels.ids), size=_BATCH))]
        objective.examples(views, Batch(ids, views, [0] * _BATCH))


def _estimate(folder: str) -> None:
    """How stable k-means is over seeds."""
    one = _opened(folder)
    (one.folder / "estimate").mkdir(exist_ok=True)
    _stability(one, build_engine(one), Projection(l2_normalize=True), one.folder / "estimate")


def _opened(folder: str) -> Run:
    return Run(resolve_layers("image", [read_yaml(Path(folder) / "config.yaml")]), Path(folder))


_WORKS: dict[str, Callable[..., None]] = {"score": _score, "learn": _learn, "estimate": _estimate}

if __name__ == "__main__":
    _WORKS[sys.argv[1]](*sys.argv[2:])
