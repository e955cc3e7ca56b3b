"""The ways to make pseudo-labels, on pools small enough to check by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pytest

from cfvid.clustering.faiss_engine import FaissEngine
from cfvid.clustering.methods import METHODS
from cfvid.clustering.methods.base import Grouping, Pool, by_nearest
from cfvid.clustering.methods.per_label import share_out
from cfvid.data.sample_ids import SampleIds
from cfvid.errors import ConfigError
from cfvid.sections.stages import ClusterConfig


def make_pool(points: Any, labels: Mapping[str, str] | None = None, head: Any = None, **settings: Any) -> Pool:
    """Samples s0, s1, ... at these points, whose features are the points themselves."""
    points_NP = np.asarray(points, dtype=np.float32)
    config = ClusterConfig(**{"num_clusters": 2, "iterations": 10, **settings})
    ids = SampleIds(f"s{i}" for i in range(len(points_NP)))
    return Pool(ids, points_NP, FaissEngine(), config, 3, labels or {}, points_NP.__getitem__, head)


def group(pool: Pool) -> Grouping:
    return METHODS[pool.config.method](pool)


def random_points(num: int, *, dim: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32)


def test_the_configuration_names_all_methods_and_no_other() -> None:
    assert get_args(ClusterConfig.model_fields["method"].annotation) == tuple(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_again_and_no_empty_cluster(method: str) -> None:
    labels = {f"s{i}": "abc"[i % 3] for i in range(55)}
    rng = np.random.default_rng(1)
    head = (rng.normal(size=(5, 4)).astype(np.float32), np.zeros(5, np.float32))
    pool = make_pool(random_points(60), labels, head, method=method, num_clusters=9)
    first, second = group(pool), group(pool)
    np.testing.assert_array_equal(first.clusters_N, second.clusters_N)
    assert sorted(set(first.clusters_N.tolist())) == list(range(len(first.centroids_KP)))
    assert first.clusters_N.shape == first.distances_N.shape == first.second_distances_N.shape == (60,)
    squared = ((pool.points_NP - first.centroids_KP[first.clusters_N]) ** 2).sum(1)
    np.testing.assert_allclose(first.distances_N, squared, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------- nearest centroids


def test_second_distances_are_those_to_the_next_centroid() -> None:
    pool = make_pool([[0.0], [3.0], [10.0]])
    found = by_nearest(pool, np.array([[0.0], [10.0]], np.float32), num_fitted=3)
    assert found.clusters_N.tolist() == [0, 0, 1]
    assert found.distances_N.tolist() == [0, 9, 0]
    assert found.second_distances_N.tolist() == [100, 49, 100]
    alone = by_nearest(pool, np.array([[0.0]], np.float32), num_fitted=3)
    assert np.isnan(alone.second_distances_N).all()


def test_tiny_and_empty_clusters_are_dissolved_and_ids_stay_without_gaps() -> None:
    pool = make_pool([[0.0], [1.0], [4.0], [9.0], [10.0], [11.0]], merge_tiny_below=2)
    centroids = np.array([[99.0], [0.5], [4.0], [10.0]], np.float32)  # empty; two; one: tiny; three
    found = by_nearest(pool, centroids, num_fitted=6)
    assert found.clusters_N.tolist() == [0, 0, 0, 1, 1, 1]  # 4.0 is nearer to 0.5 than to 10
    assert found.distances_N[2] == pytest.approx(3.5**2)
    assert found.centroids_KP.ravel().tolist() == [0.5, 10.0]
    assert (found.num_asked, found.num_merged) == (4, 1)


def test_when_all_clusters_are_tiny_the_largest_is_named() -> None:
    with pytest.raises(ConfigError, match="the largest has 2"):
        by_nearest(make_pool([[0.0], [1.0]], merge_tiny_below=3), np.zeros((1, 1), np.float32), num_fitted=2)


def test_soft_labels_sum_to_one_and_follow_the_distances() -> None:
    pool = make_pool([[0.0], [4.0], [10.0], [5.0]], soft_top=2, soft_bandwidth=0.5)
    found = by_nearest(pool, np.array([[0.0], [10.0], [40.0]], np.float32), num_fitted=4)
    assert found.soft is not None
    classes, shares = found.soft.part(slice(None))
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    assert (shares[:, 0] >= shares[:, 1]).all()
    assert classes[:, 0].tolist()[:3] == [0, 0, 1]
    assert set(classes[3].tolist()) == {0, 1}
    assert shares[3].tolist() == [0.5, 0.5]  # half-way
    mean = (0 + 16 + 0 + 25) / 4
    assert shares[1, 0] / shares[1, 1] == pytest.approx(np.exp((36 - 16) / (0.5 * mean)), rel=1e-4)


def test_soft_labels_over_more_clusters_than_there_are_take_all() -> None:
    found = group(make_pool(random_points(30), num_clusters=3, soft_top=50))
    assert found.soft is not None
    assert found.soft.shape == (30, len(found.centroids_KP))
    np.testing.assert_array_equal(found.soft.part(slice(None))[0][:, 0], found.clusters_N)


# ---------------------------------------------------------------------------------------------- prototypes


def test_prototypes_are_the_mean_features_of_labels() -> None:
    labels = {"s0": "b", "s1": "b", "s2": "a", "s3": "a", "s4": "b"}
    pool = make_pool([[0, 0], [2, 0], [10, 0], [12, 0], [10, 3], [1, 1]], labels, method="prototypes", num_clusters=99)
    found = group(pool)
    np.testing.assert_allclose(found.centroids_KP, [[11, 0], [4, 1]])  # a, then b
    assert found.clusters_N.tolist() == [1, 1, 0, 0, 0, 1]  # s4 is labelled b, but nearer to a; s5 has no label
    assert found.distances_N[4] == pytest.approx(1 + 9)


def test_spherical_prototypes_have_unit_length() -> None:
    points = random_points(20)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    labels = {f"s{i}": "ab"[i % 2] for i in range(20)}
    found = group(make_pool(points, labels, method="prototypes", distance="spherical"))
    np.testing.assert_allclose(np.linalg.norm(found.centroids_KP, axis=1), 1, rtol=1e-5)


# ---------------------------------------------------------------------------------------------- per label


@pytest.mark.parametrize(
    ("num_clusters", "sizes", "expected"),
    [
        (10, {"a": 60, "b": 30, "c": 10}, {"a": 6, "b": 3, "c": 1}),
        (3, {"a": 1000, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}),
        (8, {"a": 6, "b": 1, "c": 1}, {"a": 6, "b": 1, "c": 1}),
        (5, {"a": 2, "b": 2, "c": 2}, {"a": 2, "b": 2, "c": 1}),
    ],
)
def test_clusters_are_shared_out_by_size(num_clusters: int, sizes: dict[str, int], expected: dict[str, int]) -> None:
    assert share_out(num_clusters, sizes) == expected


@pytest.mark.parametrize("seed", range(5))
def test_shares_sum_to_k_and_never_exceed_the_samples(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = {str(i): int(n) for i, n in enumerate(rng.integers(1, 50, size=12))}
    for num_clusters in (12, 40, sum(sizes.values())):
        counts = share_out(num_clusters, sizes)
        assert sum(counts.values()) == num_clusters
        assert all(1 <= counts[label] <= sizes[label] for label in sizes)


@pytest.mark.parametrize("num_clusters", [2, 7])
def test_too_few_or_too_many_clusters_for_the_labels_are_refused(num_clusters: int) -> None:
    with pytest.raises(ConfigError, match=f"{num_clusters}; with method per_label .* 3, .* 6"):
        share_out(num_clusters, {"a": 2, "b": 2, "c": 2})


@pytest.mark.parametrize("merge_tiny_below", [0, 4])
def test_no_cluster_mixes_labels_and_unlabelled_samples_go_to_the_nearest(merge_tiny_below: int) -> None:
    labels = {f"s{i}": "abc"[i % 3] for i in range(90)}
    pool = make_pool(random_points(100), labels, method="per_label", num_clusters=12, merge_tiny_below=merge_tiny_below)
    found = group(pool)
    assert len(found.centroids_KP) == 12 - found.num_merged
    labels_in: dict[int, set[str]] = {}
    for sample_id, cluster in zip(pool.ids[:90], found.clusters_N.tolist(), strict=False):
        labels_in.setdefault(cluster, set()).add(labels[sample_id])
    assert all(len(names) == 1 for names in labels_in.values())
    nearest, _ = pool.engine.assign(pool.points_NP[90:], found.centroids_KP)
    np.testing.assert_array_equal(found.clusters_N[90:], nearest)
    assert np.isnan(found.second_distances_N).all()
    assert np.bincount(found.clusters_N).min() >= max(1, merge_tiny_below)


# ---------------------------------------------------------------------------------------------- distillation

HEAD = (np.eye(4, dtype=np.float32) * 3, np.array([0, 0, 0, -50], np.float32))


def test_a_high_temperature_gives_even_shares_and_a_low_one_the_hard_labels() -> None:
    points = random_points(40)
    flat = group(make_pool(points, head=HEAD, method="distillation", temperature=1e6)).soft
    sharp = group(make_pool(points, head=HEAD, method="distillation", temperature=1e-3))
    assert flat is not None
    assert sharp.soft is not None
    np.testing.assert_allclose(flat.part(slice(None))[1], 0.25, atol=1e-3)
    np.testing.assert_allclose(sharp.soft.part(slice(None))[1], np.eye(4)[sharp.clusters_N], atol=1e-6)


def test_soft_classes_are_the_ids_of_clusters_though_some_classes_are_nobodys_first() -> None:
    head = (HEAD[0], np.array([-50, 0, 0, 0], np.float32))  # the first class is never the most likely one
    points = random_points(40)
    found = group(make_pool(points, head=head, method="distillation", temperature=2.0))
    assert found.soft is not None
    logits = points @ head[0].T + head[1]
    shares = np.exp(logits / 2) / np.exp(logits / 2).sum(1, keepdims=True)
    assert sorted(set(found.clusters_N.tolist())) == [0, 1, 2]
    np.testing.assert_array_equal(found.clusters_N + 1, logits.argmax(1))
    said, found_shares = found.soft.part(slice(None))
    np.testing.assert_allclose(found_shares, shares[:, [1, 2, 3, 0]], atol=1e-6)
    np.testing.assert_array_equal(found_shares.argmax(1), found.clusters_N)
    assert said[0].tolist() == [0, 1, 2, 3]
    assert found.num_asked == 4


# ---------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "per_label", "soft_top": 3}, "soft_top has no meaning"),
        ({"method": "distillation", "merge_tiny_below": 3}, "merge_tiny_below has no meaning"),
        ({"method": "distillation", "more_features": ["/a"]}, "one N_pre"),
        ({"more_features": ["/a", "/a"]}, "listed twice"),
    ],
)
def test_options_that_do_not_go_together_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClusterConfig(num_clusters=3, **settings)
