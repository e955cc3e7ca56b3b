"""estimate: what pseudo-labels promise, before any retraining is paid for.

RUN/estimate/
  features/TARGET/{train,val}/    the targets' features by N_pre, at the layer that was clustered
  estimate.json                   {"effective_share": ..., "stability_ari": ..., "probes": {TARGET: {...}}}
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cfvid.artifacts import Record, read_json, write_json
from cfvid.clustering.base import KMeansEngine
from cfvid.clustering.projection import Projection
from cfvid.clustering.stability import stability
from cfvid.config import RunConfig
from cfvid.errors import ConfigError
from cfvid.evaluation.linear import LinearProbe
from cfvid.features import FeatureStore
from cfvid.models.weights import load_network
from cfvid.seeds import derive
from cfvid.stages.cluster import KIND as CLUSTER_KIND
from cfvid.stages.cluster import build_engine
from cfvid.stages.context import Run
from cfvid.stages.extract import extract_into
from cfvid.stages.transfer import Target, read_target

logger = logging.getLogger(__name__)

KIND = "estimate"
ESTIMATE_NAME = "estimate.json"
NUM_SEEDS = 3
"""k-means runs whose agreement is looked at."""


def estimate(run: Run) -> Path:
    """Estimate how good the pseudo-labels of RUN/cluster are, in RUN/estimate; returns that folder.

    The figures: how many equal clusters they are worth (as a share of K), how much k-means agrees with itself over
    seeds (adjusted Rand index), agreement with the labels that N_pre was trained on, and for each target a linear
    probe of the features ("raw") and of the centroids that stand for them ("smoothed"): what the clusters kept.

    Raises:
        ArtifactError: when the clusters are not there.
        ConfigError: when their centroids do not lie among the features of N_pre alone.
    """
    if not can_estimate(run.config):
        raise ConfigError(
            "There is no estimate for these clusters: they have no centroids among the features of N_pre alone.",
            why="they come from distillation, or from several networks (cluster.more_features)",
        )
    [(folder, inputs)] = claims(run)
    with run.claimed(folder, inputs, kind=KIND) as done:
        if not done:
            write_json(folder / ESTIMATE_NAME, _figures(run, folder))
            Record.write(folder, kind=KIND, inputs=inputs, files=[ESTIMATE_NAME])
    return folder


def can_estimate(config: RunConfig) -> bool:
    """Whether the clusters have centroids among the features of N_pre, which the targets can be compared with."""
    return config.cluster.method != "distillation" and not config.cluster.more_features


def claims(run: Run) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder that `estimate` writes, and what it is made from.

    Raises:
        ArtifactError: when the clusters are not there yet.
    """
    targets = [read_target(run, name) for name in run.config.data.targets]
    yield (
        run.folder / "estimate",
        {
            **run.config.plain("modality", "seed"),
            "precision": run.precision,
            "clusters": Record.read(run.folder / "cluster", kind=CLUSTER_KIND).digest,
            "linear": run.config.plain("transfer")["transfer"]["linear"],
            "input": run.input_for("extract"),
            "targets": {target.name: [run.identify(target.train), run.identify(target.val)] for target in targets},
            "num_seeds": NUM_SEEDS,
        },
    )


def _figures(run: Run, folder: Path) -> dict[str, Any]:
    quality = read_json(run.folder / "cluster" / "quality.json")
    projection = Projection.load(run.folder / "cluster" / "projection.safetensors")
    centroids_KP = np.load(run.folder / "cluster" / "centroids.npy", allow_pickle=False)
    engine = build_engine(run)
    figures: dict[str, Any] = {
        "effective_share": quality["effective_clusters"] / (quality["num_clusters"] + quality["num_empty"]),
        "stability_ari": _stability(run, engine, projection),
        "nmi_training_labels": (quality["noisy_labels"] or {}).get("nmi"),
        "probes": {},
    }
    for name in run.config.data.targets:
        target = read_target(run, name)
        points = {split: _points(run, folder, target, split, projection) for split in ("train", "val")}
        smoothed = {
            split: (ids, centroids_KP[engine.assign(points_NP, centroids_KP)[0]])
            for split, (ids, points_NP) in points.items()
        }
        figures["probes"][name] = {"raw": _probe(run, target, points), "smoothed": _probe(run, target, smoothed)}
    logger.info("estimate: %s", {key: value for key, value in figures.items() if key != "probes"})
    return figures


def _stability(run: Run, engine: KMeansEngine, projection: Projection) -> float | None:
    """How much k-means over all samples agrees with itself; None for methods that are something else."""
    config = run.config.cluster
    if config.method != "kmeans":
        return None
    store = FeatureStore(run.folder / "extract")
    return stability(
        engine,
        projection.transform(store.gather(store.ids)),
        seed=run.config.seed,
        num_seeds=NUM_SEEDS,
        num_clusters=config.num_clusters,
        spherical=config.distance == "spherical",
        iterations=config.iterations,
        restarts=config.restarts,
        max_points_per_centroid=config.max_points_per_centroid,
    )


Points = tuple[list[str], np.ndarray]


def _points(run: Run, folder: Path, target: Target, split: str, projection: Projection) -> Points:
    """Sample ids of a target's split and their features in the space that was clustered, float32 (N, P)."""
    source = run.folder / "pretrain" / "network"
    store = extract_into(
        run,
        folder / "features" / target.name / split,
        network=load_network(source)[0],
        network_digest=Record.read(source, kind="network").digest,
        manifest=target.train if split == "train" else target.val,
        look="extract",
        average_views=True,
        layers=(run.config.extract.layer,),
    )
    return store.ids, projection.transform(store.gather(store.ids))


def _probe(run: Run, target: Target, points: dict[str, Points]) -> float:
    """Top-1 of a linear probe, in percent."""
    train_ids, train_NP = points["train"]
    val_ids, val_NP = points["val"]
    seed = derive(run.config.seed, "estimate", target.name)
    probe = LinearProbe(run.config.transfer.linear, seed=seed)
    probe.fit(train_NP[:, None], target.labels(train_ids, target.train), num_classes=len(target.classes))
    said = probe.logits(val_NP[:, None])[:, 0].argmax(axis=1)
    return 100 * float((said == target.labels(val_ids, target.val)).mean())
