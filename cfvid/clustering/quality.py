"""Figures of a clustering: how even it is, how it relates to labels, and what deserves a warning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix


def size_figures(cluster_ids: np.ndarray, *, num_asked: int, tiny_below: int, giant_share: float) -> dict[str, Any]:
    """Figures of the cluster sizes.

    Args:
        cluster_ids: int64, (N,), compact ids 0 ... K-1.
        num_asked: clusters that were asked for.
        tiny_below: clusters with fewer members are tiny.
        giant_share: clusters with more than this share of all members are giant.
    """
    sizes = np.bincount(cluster_ids)
    shares = sizes / sizes.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    return {
        "num_clusters": len(sizes),
        "num_empty": num_asked - len(sizes),
        "num_tiny": int((sizes < tiny_below).sum()),
        "num_giant": int((shares > giant_share).sum()),
        "smallest": int(sizes.min()),
        "median": float(np.median(sizes)),
        "largest": int(sizes.max()),
        "entropy_nats": entropy,
        "effective_clusters": float(np.exp(entropy)),
        "sizes": sizes.tolist(),
    }


def agreement(cluster_of: Mapping[str, int], label_of: Mapping[str, Sequence[str]]) -> dict[str, float] | None:
    """NMI, ARI and purity against labels, over the samples that have exactly one; None when none have."""
    ids = [sample_id for sample_id in cluster_of if len(label_of.get(sample_id, ())) == 1]
    if not ids:
        return None
    clusters = [cluster_of[sample_id] for sample_id in ids]
    labels = [label_of[sample_id][0] for sample_id in ids]
    counts = contingency_matrix(labels, clusters)
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "purity": float(counts.max(axis=0).sum() / counts.sum()),
        "num_samples": len(ids),
    }


def warnings_of(figures: Mapping[str, Any]) -> list[str]:
    """What a user should know before paying for the retraining."""
    asked = figures["num_clusters"] + figures["num_empty"]
    found = []
    if figures["num_clusters"] == 1:
        found.append("all samples fell into one cluster: the features have collapsed, or the samples are identical")
    elif figures["effective_clusters"] < 0.2 * asked:
        found.append(
            f"the clustering is near collapse: {asked} clusters were asked for, their sizes are worth "
            f"{figures['effective_clusters']:.1f}"
        )
    if figures["num_empty"]:
        found.append(f"empty clusters: {figures['num_empty']} of {asked}, removed")
    if figures["num_tiny"]:
        found.append(f"tiny clusters: {figures['num_tiny']}, the smallest with {figures['smallest']} samples")
    if figures["num_giant"]:
        found.append(f"giant clusters: {figures['num_giant']}, the largest with {figures['largest']} samples")
    return found
