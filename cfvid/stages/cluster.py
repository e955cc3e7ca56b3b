"""cluster: features -> pseudo-labels by sample id, by one of several methods (see cfvid.clustering.methods).

RUN/cluster/
  pseudo_labels.parquet    sample_id, cluster (int32, 0 ... K-1 without gaps), distance, second_distance
                           (float32, squared, to the cluster's centroid and to the nearest other one, NaN for none)
  soft_labels.parquet      sample_id, classes (list of int32), shares (list of float32, sum 1): where asked for, and
                           by distillation
  centroids.npy            float32 (K, P), in the space of the projection
  projection.safetensors   what was done to the features first
  quality.json             sizes, effective K, agreement with labels, objective
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cfvid import ranks
from cfvid.artifacts import Record, atomic_file, digest_of, read_json, write_json
from cfvid.clustering import passes
from cfvid.clustering.base import KMeansEngine
from cfvid.clustering.faiss_engine import FaissEngine
from cfvid.clustering.health import symptoms_of
from cfvid.clustering.hierarchical_engine import HierarchicalEngine
from cfvid.clustering.methods import METHODS
from cfvid.clustering.methods.base import Grouping
from cfvid.clustering.projection import Projection
from cfvid.clustering.quality import agreement, size_figures
from cfvid.clustering.streaming_engine import StreamingEngine, forget
from cfvid.config import RunConfig
from cfvid.data.manifest import LABEL_COLUMNS, label_blocks
from cfvid.data.sample_ids import SampleIds
from cfvid.errors import ConfigError, DataError
from cfvid.features import KIND as FEATURES_KIND
from cfvid.features import FeatureStore
from cfvid.stages.context import Run
from cfvid.stages.pool import (
    POINTS_NAME,
    WITH_K,
    WITH_LABELS,
    build_pool,
    engine_name,
    noisy_labels,
    pool_labels,
    store_records,
    stored_points,
)
from cfvid.stages.soft_labels import SOFT_NAME, write_soft_labels
from cfvid.tables import row_groups, write_groups

logger = logging.getLogger(__name__)

KIND = "pseudo-labels"
FILES = ["centroids.npy", "projection.safetensors", "pseudo_labels.parquet", "quality.json"]


def cluster(run: Run) -> Path:
    """Cluster the features of RUN/extract into RUN/cluster; returns that folder.

    Raises:
        ConfigError: when samples, labels or N_pre do not suffice for the method.
        InputsChanged: when RUN/cluster was made from other features or settings.
    """
    [(folder, inputs)] = claims(run)
    with run.claimed(folder, inputs, kind=KIND) as done:
        if not done and ranks.is_main():
            _cluster(run, folder, inputs)
            passes.dismiss()
        elif not done:
            passes.follow()
    for symptom in symptoms_of(read_json(folder / "quality.json"), run.config.health):
        logger.log(logging.WARNING if symptom.is_severe else logging.INFO, "cluster: %s", symptom.text)
    return folder


def claims(run: Run) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder that `cluster` writes, and what it is made from.

    Raises:
        ArtifactError: when features are not there yet.
    """
    record = Record.read(run.folder / "extract", kind=FEATURES_KIND)
    inputs = {"seed": run.config.seed, "cluster": recorded_settings(run.config), "features": record.digest}
    engine, settings = engine_name(run.config, store=record), run.config.cluster
    # Where neither k-means nor a PCA is fitted, all engines come to the same.
    if engine != FaissEngine.name and (settings.method in WITH_K or settings.pca_dim is not None):
        inputs["engine"] = engine
    if run.config.cluster.more_features:
        inputs["more_features"] = [record.digest for record in store_records(run.config)]
    if run.config.cluster.method in WITH_LABELS:
        inputs["labels"] = digest_of(pool_labels(run))
    yield run.folder / "cluster", inputs


def recorded_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that pseudo-labels are recorded with: the engine counts by what it came to, other features by what
    they hold, and options that came later do not when they are not used."""
    settings: dict[str, Any] = config.plain("cluster")["cluster"]
    unused = [name for name in ("hierarchical", "minibatch") if not settings[name]]
    return {name: value for name, value in settings.items() if name not in ("engine", "more_features", *unused)}


def _cluster(run: Run, folder: Path, inputs: dict[str, Any]) -> None:
    pool, projection = build_pool(run, build_engine(run, folder=folder))
    grouping = METHODS[pool.config.method](pool)
    quality = _quality(run, pool.ids, grouping)
    write_pseudo_labels(
        folder / "pseudo_labels.parquet",
        pool.ids,
        grouping.clusters_N,
        grouping.distances_N,
        grouping.second_distances_N,
    )
    with atomic_file(folder / "centroids.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, grouping.centroids_KP, allow_pickle=False)
    projection.save(folder / "projection.safetensors")
    write_json(folder / "quality.json", quality)
    facts = {"num_samples": len(pool.ids), "num_clusters": len(grouping.centroids_KP)}
    files = list(FILES)
    if pool.config.more_features:
        facts["num_left_out"] = Record.read(run.folder / "extract", kind=FEATURES_KIND).facts["num_samples"] - len(
            pool.ids
        )
    if grouping.soft is not None:
        write_soft_labels(folder / SOFT_NAME, pool.ids, grouping.soft)
        files.append(SOFT_NAME)
    Record.write(folder, kind=KIND, inputs=inputs, files=files, facts=facts)
    forget(folder)
    (folder / POINTS_NAME).unlink(missing_ok=True)


def build_engine(run: Run, *, folder: Path | None = None) -> KMeansEngine:
    """The k-means engine for this run's device and features.

    Args:
        run: with complete features.
        folder: takes the states of long fits.
    """
    use_gpu, minibatch = run.accelerator.device.type == "cuda", run.config.cluster.minibatch
    store = Record.read(run.folder / "extract", kind=FEATURES_KIND)
    streams = engine_name(run.config, store=store) == StreamingEngine.name
    engine: KMeansEngine = (
        StreamingEngine(folder=folder, use_gpu=use_gpu, minibatch=minibatch)
        if streams
        else FaissEngine(use_gpu=use_gpu, minibatch=minibatch)
    )
    return HierarchicalEngine(engine) if run.config.cluster.hierarchical else engine


def _quality(run: Run, ids: SampleIds, grouping: Grouping) -> dict[str, Any]:
    sizes = size_figures(grouping.clusters_N, num_asked=grouping.num_asked - grouping.num_merged)
    logger.info(
        "cluster: %d clusters of %d samples, worth %.1f equal ones",
        sizes["num_clusters"],
        len(ids),
        sizes["effective_clusters"],
    )
    if grouping.num_merged:
        logger.info("cluster: %d tiny clusters were dissolved", grouping.num_merged)
    merged = {"num_merged": grouping.num_merged} if run.config.cluster.merge_tiny_below else {}
    return {
        **sizes,
        **merged,
        "num_samples": len(ids),
        "points_per_centroid": grouping.num_fitted / grouping.num_asked,
        "objective": list(grouping.objective),
        "labels": agreement(ids, grouping.clusters_N, run.blocks("clusterfit", LABEL_COLUMNS)),
        "noisy_labels": agreement(ids, grouping.clusters_N, label_blocks(noisy_labels(run))),
    }


# ---------------------------------------------------------------------------------------------- pseudo-labels


@dataclass(frozen=True)
class PseudoLabels:
    """What pseudo_labels.parquet holds, row by row."""

    ids: SampleIds
    clusters_N: np.ndarray
    """int32."""
    distances_N: np.ndarray
    """float32, squared."""
    second_distances_N: np.ndarray
    """float32, squared; NaN where unknown."""

    def take(self, rows: np.ndarray) -> PseudoLabels:
        """These rows."""
        arrays = (self.clusters_N, self.distances_N, self.second_distances_N)
        return PseudoLabels(self.ids.take(rows), *(values[rows] for values in arrays))

    def of(self, ids: SampleIds) -> PseudoLabels:
        """The rows of these samples, in their order."""
        return dataclasses.replace(self.take(self.ids.rows(ids)), ids=ids)


def write_pseudo_labels(
    path: Path,
    ids: SampleIds,
    clusters: np.ndarray,
    distances: np.ndarray,
    second_distances: np.ndarray | None = None,
) -> None:
    """Write clusters by sample id; the last column is left out where nothing is known of it."""
    columns = {"cluster": clusters, "distance": distances}
    if second_distances is not None:
        columns["second_distance"] = second_distances

    def part(rows: slice) -> pa.Table:
        types = {"cluster": np.int32, "distance": np.float32, "second_distance": np.float32}
        arrays = {name: pa.array(values[rows].astype(types[name])) for name, values in columns.items()}
        return pa.table({"sample_id": ids[rows].column.cast(pa.string()), **arrays})

    write_groups(path, part, row_groups(len(ids)))


def load_pseudo_labels(folder: Path) -> PseudoLabels:
    """The pseudo-labels of a complete cluster folder, its digests checked.

    Raises:
        DataError: when a sample is named twice.
    """
    Record.read(folder, kind=KIND).verify(folder)
    table = pyarrow.parquet.read_table(folder / "pseudo_labels.parquet")
    ids = SampleIds(table["sample_id"])
    for twice in ids.repeated()[:1]:
        raise DataError(f"{folder / 'pseudo_labels.parquet'} names samples more than once, e.g. {twice}.")
    clusters, distances = table["cluster"].to_numpy(), table["distance"].to_numpy()
    # Files of new samples and of earlier versions have no second distances.
    known = "second_distance" in table.column_names
    second_distances = table["second_distance"].to_numpy() if known else np.full(len(ids), np.nan, np.float32)
    return PseudoLabels(ids, clusters, distances, second_distances)


def read_pseudo_labels(folder: Path) -> dict[str, int]:
    """The cluster of each sample id of a complete cluster folder, its digests checked.

    Raises:
        DataError: when a sample is named twice.
    """
    labels = load_pseudo_labels(folder)
    return dict(zip(labels.ids, labels.clusters_N.tolist(), strict=True))


# ---------------------------------------------------------------------------------------------- new samples


def assignable(folder: Path) -> Record:
    """The record of a cluster folder that new samples can be assigned to.

    Raises:
        ConfigError: when its clusters were made from several feature stores, or by distillation.
    """
    record = Record.read(folder, kind=KIND)
    if "more_features" in record.inputs:
        raise ConfigError(
            "New samples cannot be assigned to these clusters.",
            why="they were made from the features of several networks (cluster.more_features)",
            fix="Use a run whose clusters were made from its own features.",
        )
    if record.inputs["cluster"].get("method") == "distillation":
        raise ConfigError(
            "New samples cannot be assigned to these clusters.",
            why="they are N_pre's most likely classes (cluster.method is distillation), not nearest centroids",
            fix="Use a run whose clusters have centroids.",
        )
    return record


def assign(folder: Path, store: FeatureStore, engine: KMeansEngine) -> tuple[SampleIds, np.ndarray, np.ndarray]:
    """Assign the samples of another feature store to a cluster folder's centroids.

    The store must hold features of the same network and layer; its folder takes the projected ones meanwhile.

    Returns:
        Sample ids, cluster ids int64 (N,), squared distances float32 (N,), in the same order.

    Raises:
        ConfigError: when the features have another dimension than the clustered ones, or the clusters are not such
            that samples belong to the nearest one (see `assignable`).
    """
    assignable(folder).verify(folder)
    projection = Projection.load(folder / "projection.safetensors")
    centroids_KP = np.load(folder / "centroids.npy", allow_pickle=False)
    expected = centroids_KP.shape[1] if projection.components_PD_ is None else projection.components_PD_.shape[1]
    if store.shape != (expected,):
        raise ConfigError(
            f"The features have shape {store.shape}, the clustered ones ({expected},).",
            fix="Extract them with the same network and layer.",
        )
    with stored_points(store, projection, store.folder / POINTS_NAME) as points_NP:
        clusters, distances = engine.assign(points_NP, centroids_KP)
    return store.ids, clusters, distances
