"""The pool of a run, as the ways to make pseudo-labels take it: features, labels, N_pre's last layer; joined by id."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from cfvid.artifacts import Record, is_complete, read_json, user_path
from cfvid.clustering.base import KMeansEngine
from cfvid.clustering.faiss_engine import FaissEngine
from cfvid.clustering.methods.base import Pool
from cfvid.clustering.projection import Projection
from cfvid.clustering.streaming_engine import StreamingEngine
from cfvid.config import RunConfig
from cfvid.data.manifest import TWIN_COLUMNS, twins
from cfvid.data.sample_ids import SampleIds
from cfvid.data.sample_labels import SampleLabels
from cfvid.errors import ArtifactError, ConfigError, DataError, InputsChanged
from cfvid.features import KIND as FEATURES_KIND
from cfvid.features import FeatureStore
from cfvid.models.hub import is_on_hub
from cfvid.models.weights import load_network
from cfvid.seeds import derive
from cfvid.stages.context import Run
from cfvid.stages.pretrain import read_noisy_labels

logger = logging.getLogger(__name__)

WITH_K = ("kmeans", "per_label")
"""Methods for which `cluster.num_clusters` counts."""
POINTS_NAME = "points.npy"
"""In RUN/cluster while features are streamed; removed at the end."""
_MOST_BYTES = 8 * 2**30
"""Of features as float32 that `cluster.engine: auto` holds in memory."""
_STREAMED = ("kmeans", "prototypes", "distillation")
"""Methods that `cluster.engine: auto` streams; k-means within labels would come to other clusters that way."""
WITH_LABELS = ("per_label", "prototypes")
"""Methods that need labels."""


def build_pool(run: Run, engine: KMeansEngine) -> tuple[Pool, Projection]:
    """The features of RUN/extract (and of `cluster.more_features`), with all that the method needs.

    Raises:
        ConfigError: when there are too few samples or labels for the settings, or N_pre has no trained last layer.
        DataError: when no sample is in all feature stores.
        InputsChanged: when the features are not those of the N_pre in the run.
    """
    config, seed = run.config.cluster, derive(run.config.seed, "cluster")
    store_dims(run.config)
    store = FeatureStore(run.folder / "extract")
    labels = pool_labels(run) if config.method in WITH_LABELS else {}
    num_clusters = config.clusters_of(len(store), num_labels=len(set(labels.values())))
    config = config.model_copy(update={"num_clusters": num_clusters})
    projection = Projection(l2_normalize=config.l2_normalize, pca_dim=config.pca_dim, whiten=config.whiten, seed=seed)
    features_ND: np.ndarray | None = None
    if engine_name(run.config, store=store.record) == StreamingEngine.name:
        ids = store.ids
    else:
        ids, features_ND = _joined([store, *map(FeatureStore, more_stores(run.config))])
    label_of = {sample_id: labels[sample_id] for sample_id in ids if sample_id in labels} if labels else {}
    check_counts(run.config, num_samples=len(ids), labels=label_of)
    is_distilled = config.method == "distillation"
    head = _trained_head(run, store) if is_distilled else None
    if features_ND is None:
        points_NP = _streamed(store, projection, run.folder / "cluster" / POINTS_NAME)
    else:
        points_NP = projection.fit(features_ND).transform(features_ND)
    return Pool(
        ids=ids,
        # Of all others, points are enough.
        features=(store.part if features_ND is None else features_ND.__getitem__) if is_distilled else None,
        points_NP=points_NP,
        engine=engine,
        config=config,
        seed=seed,
        label_of=label_of,
        head=head,
    ), projection


# ---------------------------------------------------------------------------------------------- features


def pool_ids(run: Run) -> SampleIds:
    """The ids of the samples to cluster: those in RUN/extract where that is complete, else those of the manifest."""
    folder = run.folder / "extract"
    if is_complete(folder):
        return FeatureStore(folder, verify=False).ids
    return run.manifest("clusterfit").split("train").ids


def more_stores(config: RunConfig) -> list[Path]:
    """The folders of `cluster.more_features`."""
    return [user_path(folder) for folder in config.cluster.more_features]


def store_records(config: RunConfig) -> list[Record]:
    """The records of `cluster.more_features`.

    Raises:
        ConfigError: when one is missing, not complete, or no feature store of one vector per sample.
    """
    return [_store_record(folder) for folder in more_stores(config)]


def _store_record(folder: Path) -> Record:
    fix = "Name feature stores of the extract stage (RUN/extract) in cluster.more_features."
    try:
        record = Record.read(folder, kind=FEATURES_KIND)
    except ArtifactError as error:
        raise ConfigError(
            f"cluster.more_features: {folder} is no complete feature store.", why=error.what, fix=fix
        ) from error
    shape = record.facts["shape"]
    if len(shape) != 1:
        raise ConfigError(f"{folder} holds features of shape {tuple(shape)}, not one vector per sample.", fix=fix)
    return record


def store_dims(config: RunConfig) -> list[int]:
    """The dimensions of each of `cluster.more_features`.

    Raises:
        ConfigError: as `store_records`.
    """
    return [int(record.facts["shape"][0]) for record in store_records(config)]


def engine_name(config: RunConfig, *, store: Record) -> str:
    """The k-means engine: as configured, or by how much there is to cluster.

    Args:
        config: the run's.
        store: of the features.
    """
    if config.cluster.engine != "auto":
        return config.cluster.engine
    num_bytes = 4 * store.facts["num_samples"] * int(np.prod(store.facts["shape"]))
    can_stream = config.cluster.method in _STREAMED and not config.cluster.more_features
    if num_bytes <= _MOST_BYTES or not can_stream:
        return FaissEngine.name
    logger.info("cluster: %.0f GiB of features are read in blocks (cluster.engine is auto)", num_bytes / 2**30)
    return StreamingEngine.name


def _streamed(store: FeatureStore, projection: Projection, path: Path) -> np.ndarray:
    """The points to cluster as a memory map in a file; it holds no features in memory."""
    projection.fit_blocks(features_ND for _, features_ND in store.shards())
    return _written(store, projection, path, (features_ND for _, features_ND in store.shards()))


@contextlib.contextmanager
def stored_points(store: FeatureStore, projection: Projection, path: Path) -> Iterator[np.ndarray]:
    """A store's features after a fitted projection: float32 (N, P), in a file that is removed in the end."""
    try:
        yield _written(store, projection, path, store.blocks())
    finally:
        path.unlink(missing_ok=True)


def _written(store: FeatureStore, projection: Projection, path: Path, blocks: Iterable[np.ndarray]) -> np.ndarray:
    dim = store.shape[0] if projection.components_PD_ is None else len(projection.components_PD_)
    points_NP = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(store), dim))
    first = 0
    for features_ND in blocks:
        points_NP[first : first + len(features_ND)] = projection.transform(features_ND)
        first += len(features_ND)
    points_NP.flush()
    opened: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return opened


def _joined(stores: list[FeatureStore]) -> tuple[SampleIds, np.ndarray]:
    """The samples that all stores have, in the order of the first, and their features side by side."""
    first, *others = stores
    if not others:
        return first.ids, first.gather(first.ids)
    is_common = np.all([store.ids.find(first.ids) >= 0 for store in others], axis=0)
    ids = first.ids.take(np.flatnonzero(is_common))
    if not ids:
        raise DataError(
            "cluster: no sample is in all feature stores.",
            why="features are joined by sample_id",
            fix="Extract features of the same source in the runs that cluster.more_features names.",
        )
    if len(ids) < len(first):
        logger.info("cluster: %d of %d samples are not in all feature stores", len(first) - len(ids), len(first))
    return ids, side_by_side([store.gather(ids) for store in stores])


def side_by_side(features: list[np.ndarray]) -> np.ndarray:
    """Features of several networks as one: float32 (N, D_1), (N, D_2), ... -> (N, D_1 + D_2 + ...) of unit length.

    Each is given the length 1 / sqrt(number of networks), so that all count the same, whatever their scale.
    """
    units = [rows_ND / np.maximum(np.linalg.norm(rows_ND, axis=1, keepdims=True), 1e-12) for rows_ND in features]
    return np.concatenate(units, axis=1) / np.float32(np.sqrt(len(units)))


# ---------------------------------------------------------------------------------------------- labels


def noisy_labels(run: Run) -> SampleLabels:
    """The labels that N_pre was trained on, by D_cf's ids; those of samples that it does not have may be among them."""
    return _by_pool_ids(run, read_noisy_labels(run.folder / "pretrain"))


def pool_labels(run: Run) -> dict[str, str]:
    """The first label of each sample of the pool: what N_pre was trained on, noise included.

    Where that is known of no sample (weights that were brought along, another pool), the pool's own labels.
    """
    return _first_labels(run, noisy_labels(run))


def expected_labels(run: Run) -> dict[str, str]:
    """What `pool_labels` will be, but for the noise, before N_pre has been trained."""
    if run.config.pretrain.weights is not None:
        return _first_labels(run, SampleLabels.of_mapping({}))
    return _first_labels(run, _by_pool_ids(run, run.manifest("pretrain").split("train").labels_by_id))


def _by_pool_ids(run: Run, labels: SampleLabels) -> SampleLabels:
    """Labels of samples of D_pre, by the ids that the same samples have in D_cf."""
    if not labels or run.config.data.clusterfit is None:
        return labels
    ours, theirs = twins(run.blocks("clusterfit", TWIN_COLUMNS), run.blocks("pretrain", TWIN_COLUMNS))
    rows = labels.ids.find(theirs)
    labelled = np.flatnonzero(rows >= 0)
    return labels.renamed(rows[labelled], ours.take(labelled))


def _first_labels(run: Run, labels: SampleLabels) -> dict[str, str]:
    """Of the samples of the pool; where none of them is there, the pool's own."""
    pool = run.manifest("clusterfit").split("train")
    is_in_pool = pool.ids.find(labels.ids) >= 0
    found = {sample_id: names[0] for sample_id, names in itertools.compress(labels.items(), is_in_pool)}
    return found or {sample_id: names[0] for sample_id, names in pool.labels_by_id.items()}


def check_counts(config: RunConfig, *, num_samples: int, labels: dict[str, str]) -> None:
    """Look whether there are enough samples and labels for the method; warn when the clusters will be small.

    Raises:
        ConfigError: when there are fewer samples than clusters, fewer clusters than labels, or no labels.
    """
    method = config.cluster.method
    num_clusters = config.cluster.clusters_of(num_samples, num_labels=len(set(labels.values())))
    if method in WITH_LABELS and not labels:
        raise ConfigError(
            f"cluster.method is {method}, but no sample of the pool has a label.",
            fix="Use kmeans, which needs none, or a pool with labels.",
        )
    if method == "per_label" and num_clusters < len(set(labels.values())):
        raise ConfigError(
            f"cluster.num_clusters is {num_clusters}, fewer than the {len(set(labels.values()))} labels of the pool.",
            why="with method per_label every label has a cluster of its own",
            fix="Ask for more clusters, or use another method.",
        )
    if method in WITH_K:
        # A sample without a label can be assigned, but nothing is fitted on it.
        _check_num_clusters(num_clusters, len(labels) if method == "per_label" else num_samples)


def _check_num_clusters(num_clusters: int, num_samples: int) -> None:
    if num_samples < num_clusters:
        raise ConfigError(
            f"cluster.num_clusters is {num_clusters}, but there are only {num_samples} samples.",
            fix=f"Ask for at most {num_samples} clusters, or cluster more samples.",
        )
    if num_samples < 4 * num_clusters:
        logger.warning(
            "cluster: %d samples for %d clusters: %.1f each", num_samples, num_clusters, num_samples / num_clusters
        )


# ---------------------------------------------------------------------------------------------- N_pre's last layer


def check_distillation(config: RunConfig) -> None:
    """Look whether N_pre will have outputs to distil, as far as that is known before any work.

    Raises:
        ConfigError: when the features are those of an inner layer, or weights are brought without a trained head.
    """
    if config.extract.layer is not None:
        raise ConfigError(
            f"cluster.method is distillation, but extract.layer is {config.extract.layer}.",
            why="N_pre's outputs are computed from the input of its last layer",
            fix="Leave extract.layer out, or use another method.",
        )
    if config.pretrain.weights is None:
        return
    if is_on_hub(config.pretrain.weights):
        raise _no_head(config.pretrain.weights)
    saved = user_path(config.pretrain.weights) / "config.json"
    # What does not exist at all is told by the check of the weights.
    if saved.parent.is_file() or (saved.is_file() and not read_json(saved).get("classes")):
        raise _no_head(str(saved.parent))


def _no_head(what: str) -> ConfigError:
    return ConfigError(
        f"cluster.method is distillation, but {what} has no last layer that was trained on labels.",
        why="of a foreign file only the trunk is used, and a network without names of classes was not trained on any",
        fix="Use another method, or an N_pre that cfvid trained on labels.",
    )


def _trained_head(run: Run, store: FeatureStore) -> tuple[np.ndarray, np.ndarray]:
    """Weight (C, D) and bias (C,) of N_pre's last layer, float32."""
    check_distillation(run.config)
    folder = run.folder / "pretrain" / "network"
    network, saved = load_network(folder)
    if not saved.classes:
        raise _no_head("N_pre")
    made_from = (store.record.inputs["network"], store.record.inputs["layers"])
    if made_from != (Record.read(folder, kind="network").digest, [None]):
        raise InputsChanged(
            "The run's features were made by another network or layer than its N_pre's last.",
            fix="Run the extract stage again.",
        )
    return network.head.weight.detach().numpy(), network.head.bias.detach().numpy()
