"""retrain: N_cf, a new network from scratch on the pseudo-labels.

RUN/retrain/
  network/     N_cf
  metrics.jsonl, tensorboard/, skips.jsonl
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cfvid.artifacts import Record, read_json
from cfvid.clustering.health import symptoms_of
from cfvid.errors import DataError
from cfvid.models.zoo import build_network
from cfvid.seeds import derive
from cfvid.stages.cluster import KIND as CLUSTER_KIND
from cfvid.stages.cluster import read_pseudo_labels
from cfvid.stages.context import Run
from cfvid.stages.fit import complete, fit
from cfvid.training.targets import Targets

logger = logging.getLogger(__name__)

KIND = "retrain"


def retrain(run: Run) -> Path:
    """Train N_cf in RUN/retrain; returns its network folder.

    Raises:
        InputsChanged: when RUN/retrain was made from other pseudo-labels, samples or settings.
        DataError: when pseudo-labels speak of samples that D_cf does not have, all are in one cluster, or they have
            severe symptoms and `health.action` is `stop`.
    """
    [(folder, inputs)] = claims(run)
    with run.claimed(folder, inputs, kind=KIND) as done:
        if not done:
            _retrain(run, folder, inputs)
    return folder / "network"


def claims(run: Run) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder that `retrain` writes, and what it is made from.

    Raises:
        ArtifactError: when the pseudo-labels are not there yet.
    """
    config = run.config
    yield (
        run.folder / "retrain",
        {
            **config.plain("modality", "seed", "retrain"),
            "precision": run.precision,
            "arch": config.retrain_arch,
            "input": run.input_for("train"),
            "pseudo_labels": Record.read(run.folder / "cluster", kind=CLUSTER_KIND).digest,
            "manifest": run.manifest("clusterfit").split("train").digest,
        },
    )


def _retrain(run: Run, folder: Path, inputs: dict[str, Any]) -> None:
    config = run.config
    _stop_if_sick(run)
    cluster_of = read_pseudo_labels(run.folder / "cluster")
    samples = run.manifest("clusterfit").split("train").select(list(cluster_of))
    num_clusters = 1 + max(cluster_of.values())
    if num_clusters < 2:
        raise DataError(
            "retrain: all samples are in one cluster, so there is nothing to learn.",
            why="the features have collapsed, the samples are identical, or cluster.num_clusters is 1",
            fix="Look at RUN/cluster/quality.json and at N_pre.",
        )
    targets = Targets([str(k) for k in range(num_clusters)], {i: (str(k),) for i, k in cluster_of.items()})
    logger.info("retrain: %d samples, %d clusters, %s", len(samples), num_clusters, config.retrain_arch)
    seed = derive(config.seed, "retrain", "weights")
    network = build_network(config.retrain_arch, num_classes=num_clusters, seed=seed)
    compute = fit(
        run,
        network,
        samples=samples,
        objective=targets,
        training=config.retrain.training,
        folder=folder,
        stage=KIND,
        seed=config.seed,
    )
    complete(run, network, folder=folder, stage=KIND, inputs=inputs, facts=compute)


def _stop_if_sick(run: Run) -> None:
    health, figures = run.config.health, read_json(run.folder / "cluster" / "quality.json")
    severe = [symptom.text for symptom in symptoms_of(figures, health) if symptom.is_severe]
    if severe and health.action == "stop":
        raise DataError(
            "retrain: the pseudo-labels are not worth a training:\n" + "\n".join(f"    {text}" for text in severe),
            fix="Change the clustering or N_pre, or train all the same with --health.action warn.",
        )
