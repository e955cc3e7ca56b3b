"""Figures of a clustering: how even it is, and how it relates to labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from cfvid.data.sample_ids import SampleIds

_NONE, _SEVERAL = -2, -1
"""Instead of a label's number."""
_AT_ONCE = 2**19
"""Labelled samples that are looked up together: a table of all ids would take several times the memory of the ids."""


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


def agreement(ids: SampleIds, clusters_N: np.ndarray, known: Iterable[pa.RecordBatch]) -> dict[str, float] | None:
    """NMI, ARI and purity against labels, over the samples that have exactly one.

    None when none have, or when most labelled samples have several: those that happen to have one are not like them.

    Args:
        ids: of the samples, N of them.
        clusters_N: their clusters.
        known: ids and lists of labels (`sample_id`, `labels`), in blocks; other samples may be among them.
    """
    labels_N = _numbered_labels(ids, known)
    num, num_labelled = (int(np.count_nonzero(labels_N >= least)) for least in (0, _SEVERAL))
    if not num or 2 * num < num_labelled:
        return None
    clusters, labels = clusters_N[labels_N >= 0].astype(np.int32), labels_N[labels_N >= 0]
    # Thousands of labels times thousands of clusters: most pairs do not occur.
    counts = contingency_matrix(labels, clusters, sparse=True)
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "purity": float(counts.max(axis=0).sum() / counts.sum()),
        "num_samples": num,
    }


def _numbered_labels(ids: SampleIds, known: Iterable[pa.RecordBatch]) -> np.ndarray:
    """The number of each sample's label, int32 (N,), in alphabetical order; or `_SEVERAL`, or `_NONE`."""
    labels_N = np.full(len(ids), _NONE, dtype=np.int32)
    number_of: dict[str, int] = {}
    for some in _labelled(known):
        first = pc.list_element(some["labels"], 0).combine_chunks().dictionary_encode()
        names = first.dictionary.to_pylist()
        numbers = np.array([number_of.setdefault(name, len(number_of)) for name in names], dtype=np.int32)
        has_one = pc.list_value_length(some["labels"]).to_numpy() == 1
        labels_M = np.where(has_one, numbers[first.indices.to_numpy()], _SEVERAL)
        rows_M = ids.find(SampleIds(some["sample_id"]))
        labels_N[rows_M[rows_M >= 0]] = labels_M[rows_M >= 0]
    places = np.empty(len(number_of), dtype=np.int32)
    places[[number_of[name] for name in sorted(number_of)]] = np.arange(len(number_of))
    labels_N[labels_N >= 0] = places[labels_N[labels_N >= 0]]
    return labels_N


def _labelled(known: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Those that have a label, `_AT_ONCE` and a few more of them at a time."""
    waiting: list[pa.RecordBatch] = []
    for block in known:
        waiting.append(block.filter(pc.greater(pc.list_value_length(block["labels"]), 0)))
        if sum(map(len, waiting)) >= _AT_ONCE:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if sum(map(len, waiting)):
        yield pa.Table.from_batches(waiting)
