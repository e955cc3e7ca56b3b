"""Symptoms of pseudo-labels, by the thresholds of `health`."""

from __future__ import annotations

from typing import Any

import numpy as np

from cfvid.clustering.health import counts_of, symptoms_of
from cfvid.clustering.quality import agreement, size_figures
from cfvid.data.manifest import label_blocks
from cfvid.data.sample_ids import SampleIds
from cfvid.sections.stages import HealthConfig


def figures(sizes: list[int], asked: int | None = None, **more: Any) -> dict[str, Any]:
    ids = np.repeat(np.arange(len(sizes)), sizes)
    return size_figures(ids, num_asked=asked or len(sizes)) | more


def severe(values: dict[str, Any], **thresholds: Any) -> list[str]:
    return [s.text for s in symptoms_of(values, HealthConfig(**thresholds)) if s.is_severe]


def test_even_clusters_have_no_symptoms() -> None:
    assert symptoms_of(figures([10] * 8), HealthConfig()) == []


def test_tiny_giant_and_empty_clusters_are_counted_and_named() -> None:
    uneven = figures([60, 20, 15, 4, 1], asked=7)
    assert counts_of(uneven, HealthConfig()) == {"num_tiny": 2, "num_giant": 1}
    text = " ".join(symptom.text for symptom in symptoms_of(uneven, HealthConfig()))
    assert "empty clusters: 2 of 7" in text
    assert "tiny clusters: 2 of 5" in text
    assert "giant clusters: 1" in text


def test_what_is_severe_depends_on_the_thresholds() -> None:
    uneven = figures([60, 20, 15, 4, 1])
    assert len(severe(uneven)) == 1
    assert severe(uneven, giant_share=0.7) == []
    assert len(severe(uneven, giant_share=0.7, max_tiny_share=0.3)) == 1


def test_one_cluster_is_a_collapse() -> None:
    assert "collapsed" in severe(figures([50], asked=10))[0]


def test_near_collapse_is_severe() -> None:
    assert any("near collapse" in text for text in severe(figures([990] + [1] * 10)))


def test_copies_of_the_training_labels_are_severe() -> None:
    even = figures(
        [10] * 8, noisy_labels={"nmi": 0.91, "purity": 0.8, "num_samples": 80}, labels={"nmi": 0.49, "num_samples": 80}
    )
    [told] = severe(even)
    assert "copy the labels" in told
    assert "noise included" in told
    assert severe(even, max_label_nmi=0.95) == []
    [other] = severe(even | {"labels": {"nmi": 0.49, "num_samples": 200}})
    assert "noise included" not in other
    assert severe(figures([10] * 8, noisy_labels=None, labels={"nmi": 0.99})) == []


def test_copies_are_seen_where_there_are_many_more_clusters_than_labels() -> None:
    """Five clusters for each of 50 labels, all of one label: their NMI cannot reach the limit."""
    ids, clusters = [str(i) for i in range(2500)], np.arange(2500) // 10
    labels = label_blocks({name: [f"label {k // 5}"] for name, k in zip(ids, clusters.tolist(), strict=True)})
    noisy = agreement(SampleIds(ids), clusters, labels)
    assert noisy is not None
    assert noisy["nmi"] < 0.85
    [told] = severe(figures([10] * 250, noisy_labels=noisy, labels=None))
    assert "purity 1.00" in told
    # Clusters of two are pure by chance.
    pairs = figures([2] * 1250, noisy_labels=noisy, labels=None)
    assert not any("copy" in text for text in severe(pairs, tiny_below=3))
