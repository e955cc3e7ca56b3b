"""Figures of a clustering, against hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest

from cfvid.clustering.quality import agreement, size_figures, warnings_of


def figures(sizes: list[int], asked: int | None = None) -> dict:
    ids = np.repeat(np.arange(len(sizes)), sizes)
    return size_figures(ids, num_asked=asked or len(sizes), tiny_below=5, giant_share=0.25)


def test_even_clusters_are_worth_their_number() -> None:
    even = figures([10] * 8)
    assert even["effective_clusters"] == pytest.approx(8)
    assert even["entropy_nats"] == pytest.approx(np.log(8))
    assert (even["num_empty"], even["num_tiny"], even["num_giant"]) == (0, 0, 0)
    assert warnings_of(even) == []


def test_tiny_giant_and_empty_clusters_are_counted_and_named() -> None:
    uneven = figures([60, 20, 15, 4, 1], asked=7)
    assert (uneven["num_empty"], uneven["num_tiny"], uneven["num_giant"]) == (2, 2, 1)
    assert (uneven["smallest"], uneven["median"], uneven["largest"]) == (1, 15, 60)
    text = " ".join(warnings_of(uneven))
    assert "empty clusters: 2 of 7" in text
    assert "tiny clusters: 2" in text
    assert "giant clusters: 1" in text


def test_one_cluster_is_a_collapse() -> None:
    assert "collapsed" in warnings_of(figures([50], asked=10))[0]


def test_near_collapse_is_told() -> None:
    assert any("near collapse" in warning for warning in warnings_of(figures([990] + [1] * 10)))


def test_agreement_is_by_id_over_samples_with_one_label() -> None:
    cluster_of = {"a": 0, "b": 0, "c": 1, "d": 1, "e": 1}
    labels = {"e": ("y",), "d": ("y",), "c": ("x", "y"), "b": ("x",), "a": ("x",), "z": ("w",)}
    found = agreement(cluster_of, labels)
    assert found is not None
    assert found["num_samples"] == 4
    assert found["nmi"] == pytest.approx(1)
    assert found["ari"] == pytest.approx(1)
    assert found["purity"] == 1
    assert agreement(cluster_of, {}) is None


def test_purity_counts_the_majority_of_each_cluster() -> None:
    cluster_of = {str(i): i // 4 for i in range(8)}
    labels = {str(i): ("x",) if i in (0, 1, 2, 4) else ("y",) for i in range(8)}
    found = agreement(cluster_of, labels)
    assert found is not None
    assert found["purity"] == pytest.approx(6 / 8)
