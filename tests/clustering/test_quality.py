"""Figures of a clustering, against hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest

from cfvid.clustering.quality import agreement, size_figures


def test_even_clusters_are_worth_their_number() -> None:
    figures = size_figures(np.repeat(np.arange(8), 10), num_asked=8)
    assert figures["effective_clusters"] == pytest.approx(8)
    assert figures["entropy_nats"] == pytest.approx(np.log(8))
    assert figures["num_empty"] == 0


def test_sizes_are_described() -> None:
    figures = size_figures(np.repeat(np.arange(5), [60, 20, 15, 4, 1]), num_asked=7)
    assert (figures["num_clusters"], figures["num_empty"]) == (5, 2)
    assert (figures["smallest"], figures["median"], figures["largest"]) == (1, 15, 60)


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
