"""assign: new samples -> the clusters of a run, by the same network, layer and projection.

RUN/assign/DIGEST/    a feature store of the new samples (see cfvid.features)
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from cfvid.artifacts import Record, differences, digest_of
from cfvid.data.readers import read_source
from cfvid.errors import ConfigError, InputsChanged
from cfvid.features import KIND as FEATURES_KIND
from cfvid.features import FeatureStore
from cfvid.models.weights import load_network
from cfvid.sections.data import SourceConfig
from cfvid.stages.cluster import assign, assignable, build_engine, write_pseudo_labels
from cfvid.stages.context import Run, cache_folder
from cfvid.stages.extract import extract_into, store_inputs

logger = logging.getLogger(__name__)


def assign_new(run: Run, source: SourceConfig, out: Path) -> int:
    """Write the cluster of every readable sample of a source, all its splits, as a file of pseudo-labels.

    Args:
        run: with complete extract and cluster stages.
        source: the new samples.
        out: a .parquet file: sample_id, cluster, distance (squared, to the cluster's centroid).

    Returns:
        How many samples were assigned; those that could not be read are in RUN/assign/DIGEST/skips.jsonl.

    Raises:
        ArtifactError: when a stage is missing.
        ConfigError: when `out` is no .parquet file, or the run's clusters are not such that samples belong to the
            nearest one.
        InputsChanged: when the run's features, clusters and network were not made from one another, or the run's
            configuration is not the one that they were made with.
    """
    if out.suffix.lower() != ".parquet":
        raise ConfigError(f"Pseudo-labels are a .parquet file, not {out.name!r}.")
    features = Record.read(run.folder / "extract", kind=FEATURES_KIND)
    clusters = assignable(run.folder / "cluster")
    if clusters.inputs["features"] != features.digest:
        raise InputsChanged(
            "The run's clusters were made from other features than it holds.", fix="Run the cluster stage again."
        )
    store = _extract_alike(run, features, source)
    ids, cluster_ids, distances = assign(run.folder / "cluster", store, build_engine(run))
    write_pseudo_labels(out, ids, cluster_ids, distances)
    logger.info("assign: %d samples in %d clusters", len(ids), len(set(cluster_ids.tolist())))
    return len(ids)


def _extract_alike(run: Run, features: Record, source: SourceConfig) -> FeatureStore:
    """The features of a source, made as those of the run were."""
    cache = cache_folder(run.config.runtime.cache)
    manifest = read_source(source, data=run.config.data, suffixes=run.modality.suffixes, cache=cache)
    network_folder = run.folder / "pretrain" / "network"
    how: dict[str, Any] = {
        "network_digest": Record.read(network_folder, kind="network").digest,
        "manifest": manifest,
        "look": "extract",
        "average_views": True,
        "layers": (run.config.extract.layer,),
    }
    inputs = store_inputs(run, **how)
    changes = differences(features.inputs, {**inputs, "manifest": features.inputs["manifest"]})
    if changes:
        raise InputsChanged(
            "The run's features were made with other settings:\n" + "\n".join(f"    {line}" for line in changes),
            fix="Use the run folder as it was when its features were extracted.",
        )
    network, _ = load_network(network_folder)
    return extract_into(run, run.folder / "assign" / digest_of(inputs)[:16], network=network, **how)
