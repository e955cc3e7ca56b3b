"""Search in groups of centroids, against exact search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfvid.clustering.grouped import GroupedSearch
from cfvid.clustering.search import build_index
from cfvid.faiss_import import faiss


def _blobs(num: int, dim: int, *, num_blobs: int = 100, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(num_blobs, dim))
    return (centres[rng.integers(num_blobs, size=num)] + rng.normal(size=(num, dim))).astype(np.float32)


def _exact(points_ND: np.ndarray, centroids_KD: np.ndarray) -> np.ndarray:
    """All squared distances, float64 (N, K)."""
    return ((points_ND[:, None].astype(np.float64) - centroids_KD[None]) ** 2).sum(axis=2)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_with_all_groups_it_is_exact_search(data: st.DataObject) -> None:
    num_centroids, dim = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 9))
    num, num_groups = data.draw(st.integers(1, num_centroids)), data.draw(st.integers(1, 70))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    # Few values, so that there are ties; some centroids come twice.
    draw = data.draw(st.sampled_from([lambda *s: rng.integers(-2, 3, size=s), lambda *s: rng.normal(size=s)]))
    centroids_KD = draw(num_centroids, dim).astype(np.float32)
    centroids_KD[-(num_centroids // 3) :] = centroids_KD[0]
    points_ND = draw(data.draw(st.integers(0, 40)), dim).astype(np.float32)
    index = GroupedSearch(centroids_KD, num=num, num_groups=num_groups, num_probes=num_groups)
    distances, ids = index.search(points_ND, num)
    assert distances.shape == ids.shape == (len(points_ND), num)
    assert (distances.dtype, ids.dtype) == (np.float32, np.int64)
    exact = _exact(points_ND, centroids_KD)
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :num], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(exact, ids, axis=1), distances, atol=1e-4)
    assert all(len(set(row)) == num for row in ids.tolist())


def test_of_equally_near_centroids_the_first_is_found() -> None:
    # On small integers nothing is rounded.
    rng = np.random.default_rng(0)
    centroids_KD, points_ND = (rng.integers(-2, 3, size=(num, 3)).astype(np.float32) for num in (200, 500))
    index = GroupedSearch(centroids_KD, num=4, num_probes=200)
    order = np.argsort(_exact(points_ND, centroids_KD), axis=1, kind="stable")[:, :4]
    np.testing.assert_array_equal(index.search(points_ND, 4)[1], order)


@pytest.mark.parametrize("num_clusters", [300, 4096])
def test_it_finds_as_many_as_an_inverted_file_of_as_many_groups(num_clusters: int) -> None:
    centroids_KD, points_ND = _blobs(num_clusters, 16, seed=1), _blobs(5000, 16, seed=2)
    exact = build_index(centroids_KD, "flat").search(points_ND, 1)[1]
    index = GroupedSearch(centroids_KD)
    num_groups = round(num_clusters**0.5)
    reference = faiss.IndexIVFFlat(faiss.IndexFlatL2(16), 16, num_groups)
    reference.cp.min_points_per_centroid = 1
    reference.train(centroids_KD)
    reference.add(centroids_KD)
    reference.nprobe = index.num_probes
    assert index.num_probes == min(num_groups, max(8, num_groups // 8))
    theirs, ours = (np.mean(i.search(points_ND, 1)[1] == exact) for i in (reference, index))
    assert ours > max(0.9, theirs - 0.01)


@pytest.mark.parametrize("num", [1, 5, 100])
def test_as_many_as_asked_for_are_found_even_in_small_groups(num: int) -> None:
    # One large group, and many of one centroid each.
    far = 100 * np.eye(60, dtype=np.float32)
    near = np.random.default_rng(0).normal(size=(60, 60)).astype(np.float32)
    index = GroupedSearch(np.concatenate([far, near]), num=num, num_groups=61, num_probes=1)
    distances, ids = index.search(far, num)
    assert (ids >= 0).all()
    assert np.isfinite(distances).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    np.testing.assert_array_equal(ids[:, 0], np.arange(60))


def test_a_point_is_found_the_same_alone_and_among_others() -> None:
    centroids_KD, points_ND = _blobs(900, 16, seed=1), _blobs(70_000, 16, seed=2)  # two chunks
    index = GroupedSearch(centroids_KD, num=2)
    distances, ids = index.search(points_ND, 2)
    parts = [index.search(points_ND[place], 2) for place in (slice(0, 1), slice(1, 999), slice(999, 70_000))]
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), ids)
    np.testing.assert_allclose(np.concatenate([part for part, _ in parts]), distances, atol=1e-4)


def test_threads_make_no_difference() -> None:
    centroids_KD, points_ND = _blobs(900, 64, seed=1), _blobs(50_000, 64, seed=2)
    index, before, found = GroupedSearch(centroids_KD), torch.get_num_threads(), []
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            found.append(index.search(points_ND, 1))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
