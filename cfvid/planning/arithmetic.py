"""What work costs, as pure functions of counts and rates: bytes, comparisons, seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cfvid.data.sample_ids import SampleIds
from cfvid.parts import MOST_VALUES

_FLOAT_BYTES = 4
_NPY_HEADER_BYTES = 128
_JSON_ID_BYTES = 8
"""Around each sample id in a shard's .json: indentation, quotes, comma, line break."""
_ROW_BYTES = 12
"""Of one sample's pseudo-label besides its id: cluster, distance, second distance."""
_BLOCKS_BYTES = 3 * 64 * 2**20
"""What the streaming engine holds of the points at a time."""
_PART_COPIES = 5
"""Arrays of the size of one part that are there while it is worked on: logits, their softmax, what is sorted."""
_COARSE_PROBED = 8
"""The hierarchical engine compares a point with the clusters of one group in so many; at least of so many groups."""
_REFINEMENTS = 6
"""Iterations of the hierarchical engine over all clusters."""

Limit = Literal["decoding limits", "the network limits", "both share the cores"]


# ---------------------------------------------------------------------------------------------- disk


def store_bytes(ids: SampleIds, *, num_views: int, dim: int, value_bytes: int, shard_size: int) -> int:
    """Bytes of a feature store, but for its records.

    Args:
        ids: the samples, all of them readable.
        num_views: kept apart; 1 where they are averaged.
        dim: values per view.
        value_bytes: 2 of fp16, 4 of fp32.
        shard_size: samples per shard.
    """
    shards = -(-len(ids) // shard_size)
    names = ids.num_bytes + len(ids) * _JSON_ID_BYTES
    return len(ids) * num_views * dim * value_bytes + shards * _NPY_HEADER_BYTES + names


def cluster_bytes(ids: SampleIds, *, num_clusters: int, dim: int, projected_from: int | None, soft_top: int) -> int:
    """Bytes of a cluster folder, but for its records: pseudo-labels, centroids, projection, soft labels.

    Args:
        ids: the samples.
        num_clusters: K.
        dim: P, of the clustered points.
        projected_from: D, where there is a PCA.
        soft_top: classes of a sample's soft label; 0 for none.
    """
    names = ids.num_bytes
    labels = names + len(ids) * _ROW_BYTES
    soft = names + len(ids) * 2 * _FLOAT_BYTES * soft_top if soft_top else 0
    projection = (dim + 1) * projected_from * _FLOAT_BYTES if projected_from else 0
    return labels + soft + projection + num_clusters * dim * _FLOAT_BYTES + _NPY_HEADER_BYTES


def mapped_soft_bytes(num_samples: int, *, size: int, all_alike: bool) -> int:
    """Bytes of the files from which soft labels are trained on.

    Args:
        num_samples: N.
        size: T, classes of each sample's soft label.
        all_alike: whether all samples have the same classes, which then are no file.
    """
    return (1 if all_alike else 2) * (num_samples * size * _FLOAT_BYTES + _NPY_HEADER_BYTES)


def most_on_disk(kept: Sequence[int], scratch: Sequence[int]) -> int:
    """The most bytes that lie on disk at a time, when stages in order keep some of what they write and remove some."""
    peak = before = 0
    for own, removed in zip(kept, scratch, strict=True):
        peak, before = max(peak, before + own + removed), before + own
    return peak


# ---------------------------------------------------------------------------------------------- memory


def cluster_memory(
    num_samples: int, *, dim: int, points_dim: int, num_clusters: int, is_streamed: bool, soft_top: int = 0
) -> int:
    """Bytes that clustering holds at a time, in float32.

    Args:
        num_samples: N.
        dim: D, of the features.
        points_dim: P, after the projection.
        num_clusters: K.
        is_streamed: points lie on disk and come in blocks; the PCA then holds float64 moments (D, D).
        soft_top: classes of a sample's soft label, which are made in parts; 0 for none.
    """
    soft = part_memory(num_samples, soft_top)
    centroids = num_clusters * points_dim * _FLOAT_BYTES
    if is_streamed:
        moments = 2 * dim * dim * 8 if points_dim != dim else 0
        return _BLOCKS_BYTES + max(moments, 4 * centroids, soft)
    features, points = num_samples * dim * _FLOAT_BYTES, num_samples * points_dim * _FLOAT_BYTES
    # Features, what they are normalised into, and, with a PCA, the points after it.
    return max(2 * features, features + soft) + (points if points_dim != dim else 0) + centroids


def probe_memory(num_train: int, num_val: int, *, dim: int, num_classes: int) -> int:
    """Bytes of frozen features in float32 (counted in views) while a classifier is fitted to them and asked.

    Of one layer of the training split: as it is, scaled, and the four fifths that a penalty is chosen on. The other
    split comes in parts, and so do its logits.
    """
    fitted = 2.8 * num_train * dim * _FLOAT_BYTES
    said = 2 * num_train * dim * _FLOAT_BYTES + part_memory(num_val, max(dim, num_classes))
    return int(max(fitted, said))


def part_memory(num_rows: int, values_per_row: int) -> int:
    """Bytes of what is made in parts of each row, in float32."""
    return _PART_COPIES * _FLOAT_BYTES * min(num_rows * values_per_row, MOST_VALUES)


# ---------------------------------------------------------------------------------------------- time


def comparisons(
    num_samples: int, num_clusters: int, *, iterations: int, restarts: int, num_fitted: int, hierarchical: bool = False
) -> float:
    """How often k-means compares a point with a centroid, assignment and second distances included, at most.

    Args:
        num_samples: N.
        num_clusters: K.
        iterations: of one run; fewer are made where nothing improves.
        restarts: runs.
        num_fitted: samples that centroids are fitted on.
        hierarchical: coarse groups first, and starting points within each.
    """
    if not hierarchical:
        return num_clusters * (num_fitted * iterations * restarts + 2 * num_samples)
    groups = max(1, round(math.sqrt(num_clusters)))
    probed = min(groups, max(_COARSE_PROBED, groups // _COARSE_PROBED))
    looked_at = groups + probed * num_clusters / groups
    coarse = num_fitted * groups * (iterations * restarts + 1)
    starting = num_fitted * restarts * num_clusters / groups
    return coarse + starting + looked_at * (_REFINEMENTS * restarts * num_fitted + 2 * num_samples)


@dataclass(frozen=True)
class Overlap:
    """How long decoding and computing take together, and which of them decides."""

    seconds: float
    limit: Limit


def overlap(
    *, decode_s: float, compute_s: float, decode_cores: int, compute_cores: int, num_cores: int, is_apart: bool = True
) -> Overlap:
    """Decoding processes work while the network computes: the slower one decides, as long as the cores suffice.

    Otherwise the core-seconds of both, spread over the cores, are the least that it takes.

    Args:
        decode_s: seconds of decoding alone.
        compute_s: seconds of the network alone.
        decode_cores: that decoding keeps busy; at most `num_cores` count.
        compute_cores: that the network keeps busy.
        num_cores: of the machine, for this process.
        is_apart: false when samples are decoded in the process that computes: one after the other.
    """
    slower: Limit = "decoding limits" if decode_s >= compute_s else "the network limits"
    if not is_apart:
        return Overlap(decode_s + compute_s, slower)
    busy = decode_s * min(decode_cores, num_cores) + compute_s * min(compute_cores, num_cores)
    longest, shared = max(decode_s, compute_s), busy / num_cores
    # A little more than the slower one alone is still that one's doing.
    return Overlap(max(longest, shared), slower if shared <= 1.1 * longest else "both share the cores")
