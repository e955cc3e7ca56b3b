"""Figures of a clustering, against hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from cfvid.clustering import quality
from cfvid.clustering.quality import agreement, size_figures
from cfvid.data.manifest import label_blocks
from cfvid.data.sample_ids import SampleIds


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
    ids, clusters = SampleIds(["a", "b", "c", "d", "e"]), np.array([0, 0, 1, 1, 1])
    labels = {"e": ("y",), "d": ("y",), "c": ("x", "y"), "b": ("x",), "a": ("x",), "z": ("w",)}
    found = agreement(ids, clusters, label_blocks(labels))
    assert found is not None
    assert found["num_samples"] == 4
    assert found["nmi"] == pytest.approx(1)
    assert found["ari"] == pytest.approx(1)
    assert found["purity"] == 1
    for others in ({}, {"z": ("w",)}, {"a": ()}, {"a": ("x",), "b": ("x", "y"), "c": ("x", "y")}):
        assert agreement(ids, clusters, label_blocks(others)) is None


def test_purity_counts_the_majority_of_each_cluster() -> None:
    labels = {str(i): ("x",) if i in (0, 1, 2, 4) else ("y",) for i in range(8)}
    found = agreement(SampleIds(list(labels)), np.arange(8) // 4, label_blocks(labels))
    assert found is not None
    assert found["purity"] == pytest.approx(6 / 8)


def test_agreement_is_the_same_to_the_last_bit_as_of_labels_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are looked up in blocks, in whatever order, and labels are numbered first."""
    monkeypatch.setattr(quality, "_AT_ONCE", 70)
    rng = np.random.default_rng(0)
    ids, clusters = [f"ü{i}" for i in rng.permutation(1000)], rng.integers(30, size=1000)
    labels = {i: (["a", "Z", "ä", "z 1", "z"][k % 5],) for i, k in zip(ids, clusters.tolist(), strict=True)}
    labels |= dict.fromkeys(ids[::3], ("Z",)) | {"foreign": ("b",)}
    order = [[*labels][i] for i in rng.permutation(len(labels))]
    [blocks] = label_blocks({i: labels[i] for i in order})
    found = agreement(SampleIds(ids), clusters, [blocks.slice(first, 50) for first in range(0, len(blocks), 50)])
    texts = [labels[i][0] for i in ids]
    assert found is not None
    assert found["nmi"] == normalized_mutual_info_score(texts, clusters)
    assert found["ari"] == adjusted_rand_score(texts, clusters)
    assert found["num_samples"] == 1000
