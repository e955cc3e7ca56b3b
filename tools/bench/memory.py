"""memory: how much the whole cluster stage holds at a time, over features that are streamed from a store.

The command is the user's, `cfvid cluster --output DIR`, in a process of its own; counted is what only memory can hold
(RssAnon), not maps of files, whose pages the system takes back when it needs them. The reference is a limit: samples
per GB say how far below it the stage stays.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cfvid.artifacts import write_json
from cfvid.features import FeatureWriter
from cfvid.loading import resolve_layers
from cfvid.stages.context import Run
from cfvid.yaml_layers import from_overrides
from tools.bench.options import Options
from tools.bench.timing import Comparison, rate_of

LIMIT_GB = 1.5
"""For five million samples."""
GOAL = 1.0
_EVERY_S = 0.02


@dataclass(frozen=True)
class Size:
    """What is clustered."""

    num_samples: int
    dim: int
    num_clusters: int
    iterations: int = 1


SIZES = {
    "smoke": Size(num_samples=10_000, dim=16, num_clusters=10),
    # 8 GB on disk, and some minutes.
    "small": Size(num_samples=5_000_000, dim=256, num_clusters=4096),
}


def run(options: Options) -> Iterator[Comparison]:
    """One comparison."""
    size = SIZES[options.size]
    with tempfile.TemporaryDirectory() as name:
        write_run(Path(name), size)
        command = [sys.executable, "-m", "cfvid", "cluster", "--output", str(Path(name) / "run")]
        peaks: list[float] = []
        seconds = 1 / rate_of(lambda: peaks.append(peak_gb(command)), units=1)
    yield Comparison(
        benchmark="memory",
        what=f"cluster stage, {size.num_samples} x {size.dim} fp16, K {size.num_clusters}, {size.iterations} iteration",
        reference=f"at most {LIMIT_GB:g} GB",
        unit="samples/GB",
        goal=GOAL,
        candidate_rates=[size.num_samples / peaks[0]],
        reference_rates=[size.num_samples / LIMIT_GB],
        notes={"peak GB": peaks[0], "seconds": seconds},
    )


def peak_gb(command: list[str]) -> float:
    """The most anonymous memory of a command."""
    most = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            most = max(most, _anonymous_bytes(process.pid))
            time.sleep(_EVERY_S)
        assert process.stderr is not None
        if process.returncode:
            raise RuntimeError(process.stderr.read())
    return most / 1e9


def _anonymous_bytes(pid: int) -> int:
    """What a process holds that is no part of a file; 0 once it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


# ---------------------------------------------------------------------------------------------- the run folder


def write_run(folder: Path, size: Size, *changes: str, features: dict[str, Any] | None = None) -> Run:
    """A run in FOLDER/run that is complete up to its features, of samples with one of 1,000 labels each.

    Args:
        folder: takes the run and its manifest.
        size: of the pool.
        changes: of the configuration, as `key=value`.
        features: what the record says that they are made from.
    """
    ids = [f"pool/{number:08d}.jpg" for number in range(size.num_samples)]
    labels = [f"class {number % 1000}" for number in range(size.num_samples)]
    table = pa.table({"sample_id": ids, "path": ids, "label": labels, "split": ["train"] * len(ids)})
    folder.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table, folder / "pool.parquet")
    values = (
        f"data.pretrain={folder / 'pool.parquet'}",
        "cluster.engine=streaming",
        f"cluster.num_clusters={size.num_clusters}",
        f"cluster.iterations={size.iterations}",
        "runtime.device=cpu",
        *changes,
    )
    run = Run(resolve_layers("image", [from_overrides([f"--{value}" for value in values])]), folder / "run")
    run.manifest("clusterfit")
    run.write_snapshots()
    write_json(run.folder / "extract" / "inputs.json", features or {})
    _write_features(run.folder / "extract", ids, size, shard_size=run.config.extract.shard_size)
    return run


def _write_features(folder: Path, ids: list[str], size: Size, *, shard_size: int) -> None:
    writer = FeatureWriter(folder, ids, shard_size=shard_size)
    rng = np.random.default_rng(0)
    centres_KD = 2 * rng.standard_normal((size.num_clusters, size.dim), dtype=np.float32)
    for shard in range(writer.num_shards):
        own = list(writer.ids_of(shard))
        rows = centres_KD[rng.integers(len(centres_KD), size=len(own))]
        rows += rng.standard_normal(rows.shape, dtype=np.float32)
        writer.write(shard, ids=own, features=rows.astype(np.float16), skips=[], fallbacks=Counter(), num_views=1)
    writer.finish()
