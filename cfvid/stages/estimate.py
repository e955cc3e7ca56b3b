"""estimate: what pseudo-labels promise, before any retraining is paid for.

RUN/estimate/
  features/TARGET/    the targets' training features by N_pre, at the layer that was clustered
  estimate.json       {"effective_share": ..., "stability_ari": ..., "probes": {TARGET: {...}}}
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cfvid.artifacts import Record, read_json, write_json
from cfvid.clustering.base import KMeansEngine
from cfvid.clustering.projection import Projection
from cfvid.clustering.stability import stability
from cfvid.clustering.streaming_engine import StreamingEngine
from cfvid.config import RunConfig
from cfvid.data.manifest import Manifest
from cfvid.data.subsets import keep_samples
from cfvid.errors import ConfigError
from cfvid.evaluation.linear import LinearProbe
from cfvid.features import FeatureStore
from cfvid.models.weights import load_network
from cfvid.parts import parts
from cfvid.seeds import derive
from cfvid.stages.cluster import KIND as CLUSTER_KIND
from cfvid.stages.cluster import build_engine
from cfvid.stages.context import Run
from cfvid.stages.evaluations import Target, read_target
from cfvid.stages.extract import extract_into
from cfvid.stages.pool import POINTS_NAME, engine_name, stored_points

logger = logging.getLogger(__name__)

KIND = "estimate"
ESTIMATE_NAME = "estimate.json"
NUM_SEEDS = 3
"""k-means runs whose agreement is looked at."""
HELD_OUT = 4
"""The probes are scored on one of so many training samples of a target; its validation samples are for the transfer."""
MOST_PROBED_VALUES = 2**29
"""Of a target's projected training features (2 GiB in single precision, and a few times that while a probe is fitted):
of targets that have more, the probes look at a sample."""


def estimate(run: Run) -> Path:
    """Estimate how good the pseudo-labels of RUN/cluster are, in RUN/estimate; returns that folder.

    The figures: how many equal clusters they are worth (as a share of K), how much k-means agrees with itself over
    seeds (adjusted Rand index), agreement with the labels that N_pre was trained on, and for each target a linear
    probe, on held-out training samples, of the features ("raw") and of the centroids that stand for them
    ("smoothed"): what the clusters kept.

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
    clusters = Record.read(run.folder / "cluster", kind=CLUSTER_KIND)
    targets = {name: _probed_samples(run, read_target(run, name)) for name in run.config.data.targets}
    yield (
        run.folder / "estimate",
        {
            **run.config.plain("modality", "seed"),
            **run.arithmetic,
            "clusters": clusters.digest,
            "linear": run.config.plain("transfer")["transfer"]["linear"],
            "input": run.input_for("extract"),
            "targets": {name: run.identify(samples) for name, samples in targets.items()},
            "num_seeds": NUM_SEEDS,
            "held_out": HELD_OUT,
        },
    )


def _probed_samples(run: Run, target: Target) -> Manifest:
    """A target's training samples, or those of them that its probes look at, drawn by their ids."""
    centroids_KP = np.load(run.folder / "cluster" / "centroids.npy", mmap_mode="r", allow_pickle=False)
    return keep_samples(target.train, max(1, MOST_PROBED_VALUES // centroids_KP.shape[1]), split="train")


def _figures(run: Run, folder: Path) -> dict[str, Any]:
    quality = read_json(run.folder / "cluster" / "quality.json")
    projection = Projection.load(run.folder / "cluster" / "projection.safetensors")
    centroids_KP = np.load(run.folder / "cluster" / "centroids.npy", allow_pickle=False)
    engine = build_engine(run)
    figures: dict[str, Any] = {
        "effective_share": quality["effective_clusters"] / (quality["num_clusters"] + quality["num_empty"]),
        "stability_ari": _stability(run, engine, projection, folder),
        "nmi_training_labels": (quality["noisy_labels"] or {}).get("nmi"),
        "probes": {},
    }
    for name in run.config.data.targets:
        target = read_target(run, name)
        if target.has_several_labels:
            figures["probes"][name] = {"raw": None, "smoothed": None}  # a probe of one label would say nothing
            continue
        store = _features(run, folder, target)
        labels_N = target.labels([*store.ids], target.train)
        with stored_points(store, projection, folder / POINTS_NAME) as points_NP:
            raw = _probe(run, target, points_NP, labels_N)
            smoothed_NP = centroids_KP[engine.assign(points_NP, centroids_KP)[0]]
        figures["probes"][name] = {"raw": raw, "smoothed": _probe(run, target, smoothed_NP, labels_N)}
    logger.info("estimate: %s", {key: value for key, value in figures.items() if key != "probes"})
    return figures


def _stability(run: Run, engine: KMeansEngine, projection: Projection, folder: Path) -> float | None:
    """How much k-means over all samples agrees with itself; None for methods that are something else."""
    config = run.config.cluster
    if config.method != "kmeans":
        return None
    store = FeatureStore(run.folder / "extract")
    with contextlib.ExitStack() as stack:
        if engine_name(run.config, store=store.record) == StreamingEngine.name:
            points_NP = stack.enter_context(stored_points(store, projection, folder / POINTS_NAME))
        else:
            points_NP = projection.transform(store.part(slice(None)))
        return stability(
            engine,
            points_NP,
            seed=run.config.seed,
            num_seeds=NUM_SEEDS,
            num_clusters=config.clusters_of(len(store)),
            spherical=config.distance == "spherical",
            iterations=config.iterations,
            restarts=config.restarts,
            max_points_per_centroid=config.max_points_per_centroid,
        )


def _features(run: Run, folder: Path, target: Target) -> FeatureStore:
    """The features of a target's training samples, at the layer that was clustered."""
    source, samples = run.folder / "pretrain" / "network", _probed_samples(run, target)
    if len(samples) < len(target.train):
        logger.info("estimate: probes look at %d of %d samples of %s", len(samples), len(target.train), target.name)
    return extract_into(
        run,
        folder / "features" / target.name,
        network=load_network(source)[0],
        network_digest=Record.read(source, kind="network").digest,
        manifest=samples,
        look="extract",
        average_views=True,
        layers=(run.config.extract.layer,),
    )


def _probe(run: Run, target: Target, points_NP: np.ndarray, labels_N: np.ndarray) -> float | None:
    """Top-1 of a linear probe on held-out training samples, in percent; None where no class has enough of them."""
    seed = derive(run.config.seed, "estimate", target.name)
    held_out = _held_out(labels_N, seed=seed)
    if not held_out.any():
        return None
    probe = LinearProbe(run.config.transfer.linear, seed=seed, device=run.accelerator.device)
    probe.fit(points_NP[~held_out, None], labels_N[~held_out], num_classes=len(target.classes))
    rows = np.flatnonzero(held_out)
    places = parts(len(rows), max(points_NP.shape[1], len(target.classes)))
    blocks = probe.logit_blocks((points_NP[rows[place], None] for place in places), num_views=1)
    said = np.concatenate([logits_B1C[:, 0].argmax(axis=1) for logits_B1C in blocks])
    return 100 * float((said == labels_N[held_out]).mean())


def _held_out(labels_N: np.ndarray, *, seed: int) -> np.ndarray:
    """bool (N,): one in HELD_OUT samples of each class, at random."""
    held_out = np.zeros(len(labels_N), dtype=bool)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels_N):
        held_out[rng.permutation(np.flatnonzero(labels_N == label))[HELD_OUT - 1 :: HELD_OUT]] = True
    return held_out
