"""Figures of a clustering: how even it is, and how it relates to labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

_IDS_AT_ONCE = 2**19
"""That labels are looked up in: a table of all ids would take several times the memory of the ids themselves."""


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


def agreement(ids: pa.ChunkedArray, clusters_N: np.ndarray, known: pa.Table) -> dict[str, float] | None:
    """NMI, ARI and purity against labels, over the samples that have exactly one.

    None when none have, or when most labelled samples have several: those that happen to have one are not like them.

    Args:
        ids: of the samples, N of them.
        clusters_N: their clusters.
        known: ids and labels, as of `cfvid.data.manifest.label_table`; other samples may be among them.
    """
    known = known.filter(pc.greater(pc.list_value_length(known["labels"]), 0))
    rows_M = _rows_of(known["sample_id"], ids)
    counts_M = pc.list_value_length(known["labels"]).to_numpy()
    is_used_M = (rows_M >= 0) & (counts_M == 1)
    if not is_used_M.any() or 2 * is_used_M.sum() < (rows_M >= 0).sum():
        return None
    clusters = clusters_N[rows_M[is_used_M]]
    labels = _numbered(pc.list_flatten(known["labels"].filter(pa.array(is_used_M))))
    counts = contingency_matrix(labels, clusters)
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "purity": float(counts.max(axis=0).sum() / counts.sum()),
        "num_samples": len(labels),
    }


def _rows_of(wanted: pa.ChunkedArray, ids: pa.ChunkedArray) -> np.ndarray:
    """The row of each wanted id among `ids`, int64, -1 for those that are not there."""
    rows = np.full(len(wanted), -1, dtype=np.int64)
    for first in range(0, len(ids) if len(wanted) else 0, _IDS_AT_ONCE):
        some = ids.slice(first, _IDS_AT_ONCE).combine_chunks()
        found = pc.fill_null(pc.index_in(wanted, value_set=some), -1).to_numpy()
        rows = np.where(found >= 0, found + first, rows)
    return rows


def _numbered(labels: pa.ChunkedArray) -> np.ndarray:
    """Labels as numbers, in alphabetical order."""
    coded = labels.combine_chunks().dictionary_encode()
    places = pc.array_sort_indices(coded.dictionary).to_numpy()
    ranks = np.empty(len(places), dtype=np.int64)
    ranks[places] = np.arange(len(places))
    numbers: np.ndarray = ranks[coded.indices.to_numpy()]
    return numbers
