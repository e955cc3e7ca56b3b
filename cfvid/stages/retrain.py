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

import numpy as np

from cfvid.artifacts import Record, read_json
from cfvid.clustering.confidence import margin_weights, nearest_members
from cfvid.clustering.health import symptoms_of
from cfvid.config import RunConfig
from cfvid.errors import ConfigError, DataError
from cfvid.models.zoo import build_network
from cfvid.seeds import derive
from cfvid.stages.cluster import KIND as CLUSTER_KIND
from cfvid.stages.cluster import PseudoLabels, load_pseudo_labels
from cfvid.stages.context import Run
from cfvid.stages.fit import complete, fit
from cfvid.stages.soft_labels import forget_soft_labels, map_soft_labels
from cfvid.training.objective import Objective
from cfvid.training.targets import PseudoTargets, SoftTargets

logger = logging.getLogger(__name__)

KIND = "retrain"


def retrain(run: Run) -> Path:
    """Train N_cf in RUN/retrain; returns its network folder.

    Raises:
        ConfigError: when weights are asked for and the clusters do not have what they are made of.
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
            **run.arithmetic,
            "arch": config.retrain_arch,
            "input": run.input_for("train"),
            "pseudo_labels": Record.read(run.folder / "cluster", kind=CLUSTER_KIND).digest,
            "manifest": run.identify(run.manifest("clusterfit").split("train")),
        },
    )


def _retrain(run: Run, folder: Path, inputs: dict[str, Any]) -> None:
    config = run.config
    _stop_if_sick(run)
    labels = _chosen(load_pseudo_labels(run.folder / "cluster"), share=config.retrain.keep_nearest)
    samples = run.manifest("clusterfit").split("train").select(labels.ids)
    labels = labels.of(samples.ids)
    objective, num_classes = _objective(run, labels)
    if num_classes < 2:  # outputs, not clusters: soft labels can be learnt though one class is always the first
        raise DataError(
            "retrain: all samples are in one cluster, so there is nothing to learn.",
            why="the features have collapsed, the samples are identical, or cluster.num_clusters is 1",
            fix="Look at RUN/cluster/quality.json and at N_pre.",
        )
    logger.info("retrain: %d samples, %d classes, %s", len(samples), num_classes, config.retrain_arch)
    seed = derive(config.seed, "retrain", "weights")
    network = build_network(config.retrain_arch, num_classes=num_classes, seed=seed)
    compute = fit(
        run,
        network,
        samples=samples,
        objective=objective,
        training=config.retrain.training,
        folder=folder,
        stage=KIND,
        seed=config.seed,
        groups_N=labels.clusters_N if config.retrain.sampling == "balanced" else None,
    )
    complete(run, network, folder=folder, stage=KIND, inputs=inputs, facts=compute)
    forget_soft_labels(folder)


def _chosen(labels: PseudoLabels, *, share: float) -> PseudoLabels:
    """The pseudo-labels that are trained on."""
    if share == 1:
        return labels
    rows = nearest_members(labels.clusters_N, labels.distances_N, share=share)
    logger.info("retrain: the %d of %d samples that are nearest to their centroids", len(rows), len(labels.ids))
    return labels.take(rows)


def _objective(run: Run, labels: PseudoLabels) -> tuple[Objective, int]:
    """What N_cf learns, soft labels where there are some, and how many outputs it needs for that."""
    folder, weights_N = run.folder / "cluster", None
    num_clusters = 1 + int(labels.clusters_N.max())
    if run.config.retrain.confidence_weights and num_clusters > 1:
        if np.isnan(labels.second_distances_N).any():
            raise _no_margins()
        weights_N = margin_weights(labels.distances_N, labels.second_distances_N)
    record = Record.read(folder, kind=CLUSTER_KIND)
    made = record.inputs["cluster"]
    is_distilled = made["method"] == "distillation"
    soft = map_soft_labels(folder, record, labels.ids, run.folder / KIND, all_alike=is_distilled)
    if soft is None:
        return PseudoTargets(labels.ids, labels.clusters_N, weights_N=weights_N), num_clusters
    num_classes, temperature = max(num_clusters, soft.num_classes), made["temperature"] if is_distilled else 1.0
    logger.info(
        "retrain: soft labels, %d of %d classes each, T = %g", soft.shares_NT.shape[1], num_classes, temperature
    )
    objective = SoftTargets(
        labels.ids,
        soft.classes_NT,
        soft.shares_NT,
        num_classes=num_classes,
        temperature=temperature,
        weights_N=weights_N,
    )
    return objective, num_classes


def check_confidence(config: RunConfig) -> None:
    """Look whether the clusters will have the second distances that weights are made of.

    Raises:
        ConfigError: when their method gives none.
    """
    if config.retrain.confidence_weights and config.cluster.method not in ("kmeans", "prototypes"):
        raise _no_margins()


def _no_margins() -> ConfigError:
    return ConfigError(
        "retrain.confidence_weights needs the distance of each sample to a second centroid, which is not known.",
        why="the method of clustering gives none (kmeans and prototypes do), or an earlier version made the clusters",
        fix="Turn it off, or make the clusters by another method.",
    )


def _stop_if_sick(run: Run) -> None:
    health, figures = run.config.health, read_json(run.folder / "cluster" / "quality.json")
    severe = [symptom.text for symptom in symptoms_of(figures, health) if symptom.is_severe]
    if severe and health.action == "stop":
        raise DataError(
            "retrain: the pseudo-labels are not worth a training:\n" + "\n".join(f"    {text}" for text in severe),
            fix="Change the clustering or N_pre, or train all the same with --health.action warn.",
        )
