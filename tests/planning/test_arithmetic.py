"""The arithmetic of an estimate, against sums done by hand and against what engines really compare and write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfvid.clustering import passes
from cfvid.clustering.search import HostSearch
from cfvid.clustering.streaming_engine import StreamingEngine
from cfvid.data.sample_ids import SampleIds
from cfvid.planning.arithmetic import (
    cluster_bytes,
    cluster_memory,
    comparisons,
    most_on_disk,
    overlap,
    probe_memory,
    store_bytes,
)
from cfvid.stages.cluster import write_pseudo_labels

SETTINGS: dict[str, Any] = {"spherical": False, "max_points_per_centroid": None, "seed": 0}


def test_a_store_is_its_values_its_headers_and_its_ids() -> None:
    # Two shards of 128 bytes of header; ids of 1, 1 and 2 bytes (UTF-8) with 8 more each.
    assert (
        store_bytes(SampleIds(["a", "b", "ü"]), num_views=4, dim=10, value_bytes=2, shard_size=2)
        == 3 * 4 * 10 * 2 + 256 + 28
    )
    assert store_bytes(SampleIds([]), num_views=1, dim=10, value_bytes=4, shard_size=2) == 0


def test_the_most_on_disk_is_what_was_kept_so_far_and_what_one_stage_needs_for_a_while() -> None:
    assert most_on_disk([5, 1, 5], [20, 50, 0]) == 56
    assert most_on_disk([5, 1, 50], [20, 0, 0]) == 56
    assert most_on_disk([5, 1, 5], [20, 0, 0]) == 25
    assert most_on_disk([], []) == 0


def test_pseudo_labels_take_about_what_is_counted(tmp_path: Path) -> None:
    num = 30_000
    rng = np.random.default_rng(0)
    ids = [rng.bytes(12).hex() for _ in range(num)]  # that do not compress
    distances = rng.random((2, num), dtype=np.float32)
    write_pseudo_labels(tmp_path / "p.parquet", SampleIds(ids), rng.integers(0, 2**31, num), *distances)
    counted = cluster_bytes(SampleIds(ids), num_clusters=1, dim=1, projected_from=None, soft_top=0)
    assert 0.8 < counted / (tmp_path / "p.parquet").stat().st_size < 1.2


def test_a_cluster_folder_is_its_labels_centroids_projection_and_soft_labels() -> None:
    ids = SampleIds(["ab"])
    base = cluster_bytes(ids, num_clusters=3, dim=5, projected_from=None, soft_top=0)
    assert base == 2 + 12 + 3 * 5 * 4 + 128
    assert cluster_bytes(ids, num_clusters=3, dim=5, projected_from=8, soft_top=0) - base == (5 + 1) * 8 * 4
    assert cluster_bytes(ids, num_clusters=3, dim=5, projected_from=None, soft_top=4) - base == 2 + 4 * 8


def test_memory_of_features_that_are_held_and_of_those_that_are_streamed() -> None:
    assert cluster_memory(100, dim=8, points_dim=8, num_clusters=4, is_streamed=False) == 2 * 100 * 8 * 4 + 4 * 8 * 4
    with_pca = cluster_memory(100, dim=8, points_dim=2, num_clusters=4, is_streamed=False)
    assert with_pca == (2 * 8 + 2) * 100 * 4 + 4 * 2 * 4
    few, many = (cluster_memory(n, dim=8, points_dim=8, num_clusters=4, is_streamed=True) for n in (100, 10**9))
    assert few == many < 10**9
    with_soft = cluster_memory(10**9, dim=8, points_dim=8, num_clusters=4, is_streamed=True, soft_top=9000)
    assert many < with_soft < 10**9


def test_memory_of_probes_is_that_of_the_training_split() -> None:
    """Scoring 450,000 samples of 9,000 classes takes parts of their logits, whose number does not grow."""
    assert probe_memory(100, 10, dim=4, num_classes=2) == 280 * 16
    few, many = (probe_memory(100, num, dim=4, num_classes=9000) for num in (450_000, 10**9))
    assert few == many < 10**9


# ---------------------------------------------------------------------------------------------- time


class Counted(HostSearch):
    """An index that counts what it compares."""

    total = 0

    def search(self, points_ND: np.ndarray, num: int) -> Any:
        Counted.total += len(points_ND) * self._shape[0]
        return super().search(points_ND, num)


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("per_centroid", [None, 5])
def test_comparisons_are_those_that_the_engine_makes(
    monkeypatch: pytest.MonkeyPatch, restarts: int, per_centroid: int | None
) -> None:
    monkeypatch.setattr(Counted, "total", 0)
    made = passes.build_index
    monkeypatch.setattr(passes, "build_index", lambda c, *how, **options: Counted(c, made(c, *how, **options)))
    points = np.random.default_rng(0).standard_normal((90, 4), dtype=np.float32)
    engine, settings = StreamingEngine(), SETTINGS | {"max_points_per_centroid": per_centroid}
    fitted = engine.fit(points, num_clusters=7, iterations=2, restarts=restarts, **settings)
    engine.assign(points, fitted.centroids_KD)
    engine.nearest(points, fitted.centroids_KD, num=2)
    count = comparisons(90, 7, iterations=2, restarts=restarts, num_fitted=fitted.num_fitted)
    assert count == Counted.total


def test_coarse_groups_save_comparisons_where_there_are_many_clusters() -> None:
    how: dict[str, Any] = {"iterations": 20, "restarts": 1, "num_fitted": 10**6}
    flat, coarse = (comparisons(10**6, 10**4, hierarchical=h, **how) for h in (False, True))
    # By hand: 21 x 100 groups, 100 starting points, and 8 x (100 + an eighth of the groups, 12, of 100 each).
    assert coarse == 10**6 * (21 * 100 + 100 + 8 * (100 + 1200))
    assert coarse < flat / 10


def test_with_cores_for_both_the_slower_decides() -> None:
    both = {"decode_cores": 8, "compute_cores": 8, "num_cores": 16}
    decoding, network = overlap(decode_s=10, compute_s=4, **both), overlap(decode_s=4, compute_s=10, **both)
    assert (decoding.seconds, decoding.limit) == (10, "decoding limits")
    assert (network.seconds, network.limit) == (10, "the network limits")


def test_on_few_cores_both_are_spread_over_them() -> None:
    shared = overlap(decode_s=10, compute_s=6, decode_cores=8, compute_cores=2, num_cores=2)
    assert (shared.seconds, shared.limit) == (16, "both share the cores")
    half = overlap(decode_s=10, compute_s=6, decode_cores=2, compute_cores=1, num_cores=2)
    assert half.seconds == 13
    hardly = overlap(decode_s=10, compute_s=0.5, decode_cores=2, compute_cores=2, num_cores=2)
    assert (hardly.seconds, hardly.limit) == (10.5, "decoding limits")


def test_without_decoding_processes_one_comes_after_the_other() -> None:
    alone = overlap(decode_s=3, compute_s=5, decode_cores=0, compute_cores=1, num_cores=16, is_apart=False)
    assert (alone.seconds, alone.limit) == (8, "the network limits")


@given(
    decode_s=st.floats(0, 1e6), compute_s=st.floats(0, 1e6), workers=st.integers(1, 99), threads=st.integers(1, 99),
    cores=st.integers(1, 99),
)  # fmt: skip
def test_an_overlap_lies_between_the_slower_one_and_the_sum(
    decode_s: float, compute_s: float, workers: int, threads: int, cores: int
) -> None:
    found = overlap(
        decode_s=decode_s, compute_s=compute_s, decode_cores=workers, compute_cores=threads, num_cores=cores
    ).seconds
    assert max(decode_s, compute_s) <= found <= (decode_s + compute_s) * (1 + 1e-9)
