"""cluster: features -> pseudo-labels by sample id.

RUN/cluster/
  pseudo_labels.parquet    sample_id, cluster (int32, 0 ... K-1 without gaps), distance (float32, squared)
  centroids.npy            float32 (K, P), in the space of the projection
  projection.safetensors   what was done to the features first
  quality.json             sizes, effective K, agreement with labels, objective
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cfvid.artifacts import Record, atomic_file, read_json, write_json
from cfvid.clustering.base import KMeansEngine, KMeansResult
from cfvid.clustering.faiss_engine import FaissEngine
from cfvid.clustering.health import symptoms_of
from cfvid.clustering.projection import Projection
from cfvid.clustering.quality import agreement, size_figures
from cfvid.config import ClusterConfig
from cfvid.errors import ConfigError, DataError
from cfvid.features import KIND as FEATURES_KIND
from cfvid.features import FeatureStore
from cfvid.seeds import derive
from cfvid.stages.context import Run
from cfvid.stages.pretrain import read_noisy_labels

logger = logging.getLogger(__name__)

KIND = "pseudo-labels"
FILES = ["centroids.npy", "projection.safetensors", "pseudo_labels.parquet", "quality.json"]


def cluster(run: Run) -> Path:
    """Cluster the features of RUN/extract into RUN/cluster; returns that folder.

    Raises:
        ConfigError: when there are fewer samples than clusters.
        InputsChanged: when RUN/cluster was made from other features or settings.
    """
    [(folder, inputs)] = claims(run)
    with run.claimed(folder, inputs, kind=KIND) as done:
        if not done:
            _cluster(run, folder, inputs)
    for symptom in symptoms_of(read_json(folder / "quality.json"), run.config.health):
        logger.log(logging.WARNING if symptom.is_severe else logging.INFO, "cluster: %s", symptom.text)
    return folder


def claims(run: Run) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder that `cluster` writes, and what it is made from.

    Raises:
        ArtifactError: when the features are not there yet.
    """
    features = Record.read(run.folder / "extract", kind=FEATURES_KIND).digest
    yield run.folder / "cluster", {**run.config.plain("seed", "cluster"), "features": features}


def _cluster(run: Run, folder: Path, inputs: dict[str, Any]) -> None:
    store = FeatureStore(run.folder / "extract")
    config, seed = run.config.cluster, derive(run.config.seed, "cluster")
    check_num_clusters(config.num_clusters, len(store))
    features_ND = store.gather(store.ids)
    projection = Projection(
        l2_normalize=config.l2_normalize, pca_dim=config.pca_dim, whiten=config.whiten, seed=seed
    ).fit(features_ND)
    points_NP = projection.transform(features_ND)
    engine = build_engine(run)
    fitted = _fit(engine, points_NP, config, seed)
    clusters, distances = engine.assign(points_NP, fitted.centroids_KD)
    used, compact = np.unique(clusters, return_inverse=True)
    quality = _quality(run, store.ids, compact, fitted)
    write_pseudo_labels(folder / "pseudo_labels.parquet", store.ids, compact, distances)
    with atomic_file(folder / "centroids.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, fitted.centroids_KD[used], allow_pickle=False)
    projection.save(folder / "projection.safetensors")
    write_json(folder / "quality.json", quality)
    facts = {"num_samples": len(store), "num_clusters": len(used)}
    Record.write(folder, kind=KIND, inputs=inputs, files=FILES, facts=facts)


def build_engine(run: Run) -> KMeansEngine:
    """The k-means engine for this run's device."""
    return FaissEngine(use_gpu=run.config.runtime.device != "cpu" and run.accelerator.device.type == "cuda")


def check_num_clusters(num_clusters: int, num_samples: int) -> None:
    """Warn when the clusters will be small.

    Raises:
        ConfigError: when there are fewer samples than clusters.
    """
    if num_samples < num_clusters:
        raise ConfigError(
            f"cluster.num_clusters is {num_clusters}, but there are only {num_samples} samples.",
            fix=f"Ask for at most {num_samples} clusters, or cluster more samples.",
        )
    if num_samples < 4 * num_clusters:
        logger.warning(
            "cluster: %d samples for %d clusters: %.1f each", num_samples, num_clusters, num_samples / num_clusters
        )


def _fit(engine: KMeansEngine, points_NP: np.ndarray, config: ClusterConfig, seed: int) -> KMeansResult:
    fitted = engine.fit(
        points_NP,
        num_clusters=config.num_clusters,
        spherical=config.distance == "spherical",
        iterations=config.iterations,
        restarts=config.restarts,
        max_points_per_centroid=config.max_points_per_centroid,
        seed=seed,
    )
    if fitted.num_fitted < len(points_NP):
        logger.info(
            "cluster: centroids were fitted on %d of %d samples (max_points_per_centroid is %d)",
            fitted.num_fitted,
            len(points_NP),
            config.max_points_per_centroid,
        )
    return fitted


def _quality(run: Run, ids: list[str], clusters: np.ndarray, fitted: KMeansResult) -> dict[str, Any]:
    num_asked = run.config.cluster.num_clusters
    cluster_of = dict(zip(ids, clusters.tolist(), strict=True))
    sizes = size_figures(clusters, num_asked=num_asked)
    logger.info(
        "cluster: %d clusters of %d samples, worth %.1f equal ones",
        sizes["num_clusters"],
        len(ids),
        sizes["effective_clusters"],
    )
    return {
        **sizes,
        "num_samples": len(ids),
        "points_per_centroid": fitted.num_fitted / num_asked,
        "objective": fitted.objective,
        "labels": agreement(cluster_of, run.manifest("clusterfit").labels_by_id),
        "noisy_labels": agreement(cluster_of, _noisy_labels(run)),
    }


def _noisy_labels(run: Run) -> dict[str, tuple[str, ...]]:
    """The labels that N_pre was trained on, of those samples of D_cf that are samples of D_pre: by D_cf's ids."""
    noisy = read_noisy_labels(run.folder / "pretrain")
    if not noisy:
        return {}
    twins = run.manifest("clusterfit").twins_in(run.manifest("pretrain"))
    return {ours: noisy[theirs] for ours, theirs in twins.items() if theirs in noisy}


# ---------------------------------------------------------------------------------------------- pseudo-labels


def write_pseudo_labels(path: Path, ids: list[str], clusters: np.ndarray, distances: np.ndarray) -> None:
    """Write clusters by sample id."""
    table = pa.table(
        {
            "sample_id": pa.array(ids, pa.string()),
            "cluster": pa.array(clusters.astype(np.int32)),
            "distance": pa.array(distances.astype(np.float32)),
        }
    )
    with atomic_file(path, check=pyarrow.parquet.read_metadata) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def read_pseudo_labels(folder: Path) -> dict[str, int]:
    """The cluster of each sample id of a complete cluster folder, its digests checked.

    Raises:
        DataError: when a sample is named twice.
    """
    Record.read(folder, kind=KIND).verify(folder)
    table = pyarrow.parquet.read_table(folder / "pseudo_labels.parquet")
    ids = table["sample_id"].to_pylist()
    cluster_of = dict(zip(ids, table["cluster"].to_pylist(), strict=True))
    if len(cluster_of) != len(ids):
        twice = next(sample_id for sample_id, count in Counter(ids).items() if count > 1)
        raise DataError(f"{folder / 'pseudo_labels.parquet'} names samples more than once, e.g. {twice}.")
    return cluster_of


def assign(folder: Path, store: FeatureStore, engine: KMeansEngine) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Assign the samples of another feature store to a cluster folder's centroids.

    The store must hold features of the same network and layer.

    Returns:
        Sample ids, cluster ids int64 (N,), squared distances float32 (N,), in the same order.

    Raises:
        ConfigError: when the features have another dimension than the clustered ones.
    """
    Record.read(folder, kind=KIND).verify(folder)
    projection = Projection.load(folder / "projection.safetensors")
    centroids_KP = np.load(folder / "centroids.npy", allow_pickle=False)
    expected = centroids_KP.shape[1] if projection.components_PD_ is None else projection.components_PD_.shape[1]
    if store.shape != (expected,):
        raise ConfigError(
            f"The features have shape {store.shape}, the clustered ones ({expected},).",
            fix="Extract them with the same network and layer.",
        )
    clusters, distances = engine.assign(projection.transform(store.gather(store.ids)), centroids_KP)
    return store.ids, clusters, distances
