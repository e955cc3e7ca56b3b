"""The stages in order: `cfvid train` and `cfvid.pipeline.run_stages`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cfvid import launch, ranks
from cfvid.artifacts import is_complete
from cfvid.config import RunConfig
from cfvid.errors import ConfigError
from cfvid.folder_lock import own_folder
from cfvid.planning.estimate import announce, estimate_lines
from cfvid.preflight import check
from cfvid.report.stage import report
from cfvid.stages import Run, cluster, estimate, extract, pretrain, retrain, transfer
from cfvid.stages.pool import WITH_K

logger = logging.getLogger(__name__)

STAGES: dict[str, Callable[[Run], Path]] = {
    "pretrain": pretrain,
    "extract": extract,
    "cluster": cluster,
    "estimate": estimate,
    "retrain": retrain,
    "transfer": transfer,
    "report": report,
}
"""All stages, in order."""

TRAIN = ("pretrain", "extract", "cluster", "retrain", "transfer", "report")
"""Those of `cfvid train`."""

_OF_ONE_PROCESS = ("estimate", "report")
"""Those that several processes leave to the main one."""


def run_stages(
    config: RunConfig,
    output: Path,
    *,
    stages: Sequence[str] = TRAIN,
    fresh: bool = False,
    shared: Path | None = None,
) -> dict[str, Path]:
    """Run stages in order in one run folder; each is skipped when its work is done, and resumed when it was cut short.

    Args:
        config: the resolved configuration.
        output: the run folder.
        stages: which ones; by default those of `cfvid train`.
        fresh: discard stages that were made from other inputs, instead of refusing.
        shared: keep the work there, by what it is made from, for all runs that ask for the same (see `Run`).

    Under torchrun every process calls it; the main one owns the folder, and the work is divided (see `cfvid.ranks`).

    Returns:
        Each stage's folder (for networks, the network's).

    Raises:
        ConfigError: for a stage that does not exist.
        FolderInUse: when another process works in `output`.
        RankLost: when another process of this run has ended.
        InputsChanged: when a stage was made from other inputs.
        CfvidError: what `cfvid.preflight.check` finds, before any work; later what the stages meet.
    """
    unknown = [name for name in stages if name not in STAGES]
    if isinstance(stages, str) or unknown:
        raise ConfigError(f"{unknown or stages!r}: stages is a list of names out of {', '.join(STAGES)}.")
    run = Run(config, output, fresh=fresh, shared=shared)
    with ranks.telling_of_lost():
        if launch.num_processes() > 1:
            _ = run.accelerator  # connects the processes
    with ranks.telling_of_lost(), _owned(output), _checked(run, stages):
        if ranks.is_main():
            announce(run, stages)
        return {name: _run(name, run) for name in STAGES if name in stages}


@contextlib.contextmanager
def _checked(run: Run, stages: Sequence[str]) -> Iterator[None]:
    """What stands in the way is told by the main process; all then have the samples that it has found."""
    with ranks.alone() as is_main:
        if is_main:
            check(run, stages)
    with run.shared_manifests():
        if not ranks.is_main():
            check(run, stages)
        yield


def _run(stage: str, run: Run) -> Path:
    if stage not in _OF_ONE_PROCESS:
        return STAGES[stage](run)
    with ranks.alone() as is_main:
        folder = STAGES[stage](run) if is_main else run.folder / stage
    ranks.barrier()
    return folder


@contextlib.contextmanager
def _owned(output: Path) -> Iterator[None]:
    """The run folder is the main process'; so is the log in it."""
    if not ranks.is_main():
        yield
        return
    with own_folder(output), _log_file(output):
        yield


def describe_plan(config: RunConfig, output: Path) -> list[str]:
    """What the stages would do and what that takes, without doing it; takes about 20 seconds.

    Data sets are read or generated, weights fetched, and a few samples and steps are measured (see
    `cfvid.planning.estimate`).

    Raises:
        CfvidError: what stands in the way, as before a real run.
    """
    run = Run(config, output)
    check(run, TRAIN)
    pool, labelled = run.manifest("clusterfit").split("train"), run.manifest("pretrain").split("train")
    lines = [f"run folder   {output}"]
    if config.pretrain.weights:
        lines.append(f"pretrain     {config.pretrain.arch} from {config.pretrain.weights}")
    else:
        lines.append(
            f"pretrain     {config.pretrain.arch}, {len(labelled)} samples, {len(labelled.classes)} classes, "
            f"{config.pretrain.training.epochs} epochs"
        )
    lines += [
        f"extract      {len(pool)} samples",
        f"cluster      {_clusters(config, len(pool))}",
        f"retrain      {config.retrain_arch}, {config.retrain.training.epochs} epochs",
    ]
    for name in config.data.targets:
        train, val = run.labelled(name, "train"), run.labelled(name, "val")
        what = f"{', '.join(config.transfer.networks)} x {', '.join(config.transfer.protocols_of(name))}"
        lines.append(f"transfer     {name}: {len(train)} + {len(val)} samples, {len(train.classes)} classes; {what}")
    done = [stage for stage in ("pretrain", "extract", "cluster", "retrain") if is_complete(output / stage)]
    return [*lines, f"done before  {', '.join(done) or 'nothing'}", "", *estimate_lines(run, TRAIN)]


def _clusters(config: RunConfig, num_samples: int) -> str:
    num = config.cluster.clusters_of(num_samples)
    return f"{num} clusters, {num_samples / num:.1f} each" if config.cluster.method in WITH_K else config.cluster.method


@contextlib.contextmanager
def _log_file(output: Path) -> Iterator[None]:
    """Also log to RUN/cfvid.log while the stages run."""
    handler = logging.FileHandler(output / "cfvid.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("cfvid").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("cfvid").removeHandler(handler)
        handler.close()
