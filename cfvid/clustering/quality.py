"""Figures of a clustering: how even it is, and how it relates to labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix


def size_figures(cluster_ids: np.ndarray, *, num_asked: int) -> dict[str, Any]:
    """Figures of the cluster sizes.

    Args:
        cluster_ids: int64, (N,), compact ids 0 ... K-1.
        num_asked: clusters that were asked for.
    """
    sizes = np.bincount(cluster_ids)
    shares = sizes / sizes.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    return {
        "num_clusters": len(sizes),
        "num_empty": num_asked - len(sizes),
        "smallest": int(sizes.min()),
        "median": float(np.median(sizes)),
        "largest": int(sizes.max()),
        "entropy_nats": entropy,
        "effective_clusters": float(np.exp(entropy)),
        "sizes": sizes.tolist(),
    }


def agreement(cluster_of: Mapping[str, int], label_of: Mapping[str, Sequence[str]]) -> dict[str, float] | None:
    """NMI, ARI and purity against labels, over the samples that have exactly one.

    None when none have, or when most labelled samples have several: those that happen to have one are not like them.
    """
    labelled = [sample_id for sample_id in cluster_of if label_of.get(sample_id)]
    ids = [sample_id for sample_id in labelled if len(label_of[sample_id]) == 1]
    if not ids or 2 * len(ids) < len(labelled):
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
