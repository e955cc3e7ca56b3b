"""Whether pseudo-labels are worth a retraining: what their figures say, judged by the thresholds of `health`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cfvid.sections.stages import HealthConfig


@dataclass(frozen=True)
class Symptom:
    """Something to know about pseudo-labels before they are trained on."""

    text: str
    is_severe: bool
    """Whether a network trained on them is unlikely to be of use."""


def counts_of(figures: Mapping[str, Any], health: HealthConfig) -> dict[str, int]:
    """`num_tiny` and `num_giant` clusters, by the thresholds."""
    sizes = np.asarray(figures["sizes"])
    return {
        "num_tiny": int((sizes < health.tiny_below).sum()),
        "num_giant": int((sizes > health.giant_share * sizes.sum()).sum()),
    }


def symptoms_of(figures: Mapping[str, Any], health: HealthConfig) -> list[Symptom]:
    """All symptoms of a clustering.

    Args:
        figures: as in quality.json.
        health: thresholds.
    """
    return [*_of_collapse(figures, health), *_of_sizes(figures, health), *_of_copying(figures, health)]


def _of_collapse(figures: Mapping[str, Any], health: HealthConfig) -> Iterator[Symptom]:
    num, effective = figures["num_clusters"], figures["effective_clusters"]
    asked = num + figures["num_empty"]
    if num == 1:
        text = "all samples fell into one cluster: the features have collapsed, or the samples are identical"
        yield Symptom(text, is_severe=True)
    elif effective < health.min_effective_share * asked:
        text = (
            f"the clustering is near collapse: {asked} clusters were asked for, their sizes are worth {effective:.1f}"
        )
        yield Symptom(text, is_severe=True)
    if figures["num_empty"]:
        yield Symptom(f"empty clusters: {figures['num_empty']} of {asked}, removed", is_severe=False)


def _of_sizes(figures: Mapping[str, Any], health: HealthConfig) -> Iterator[Symptom]:
    counts, num = counts_of(figures, health), figures["num_clusters"]
    if counts["num_tiny"]:
        text = f"tiny clusters: {counts['num_tiny']} of {num}, the smallest with {figures['smallest']} samples"
        yield Symptom(text, is_severe=counts["num_tiny"] > health.max_tiny_share * num)
    if counts["num_giant"]:
        text = f"giant clusters: {counts['num_giant']}, the largest with {figures['largest']} samples"
        yield Symptom(text, is_severe=True)


def _of_copying(figures: Mapping[str, Any], health: HealthConfig) -> Iterator[Symptom]:
    noisy, clean = figures.get("noisy_labels"), figures.get("labels")
    if noisy is None:
        return
    is_pure = noisy["purity"] > health.max_label_purity
    means_it = noisy["num_samples"] >= health.tiny_below * figures["num_clusters"]
    if noisy["nmi"] <= health.max_label_nmi and not (is_pure and means_it):
        return
    text = (
        f"the clusters nearly copy the labels that N_pre was trained on (NMI {noisy['nmi']:.2f}, purity "
        f"{noisy['purity']:.2f}): "
        "N_pre has learnt them by heart, and N_cf would learn the same again"
    )
    # Over the same samples, or the two figures do not compare.
    if clean is not None and clean["num_samples"] == noisy["num_samples"] and clean["nmi"] < noisy["nmi"] - 0.05:
        text += f", noise included (NMI with the labels before the noise {clean['nmi']:.2f})"
    yield Symptom(text, is_severe=True)
