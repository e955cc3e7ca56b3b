"""What an evaluation found, and the outcome of those that name one class for each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cfvid.evaluation.scoring import sample_probabilities, score
from cfvid.stages.context import Run
from cfvid.stages.evaluations import Evaluation


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found."""

    ids: list[str]
    """The validation samples that could be read."""
    num_views: int
    """Of each of them."""
    scores: dict[str, float]
    """In percent; those of further layers end in @LAYER."""
    predictions: pa.Table
    """A row for each sample: sample_id, and what the protocol says of it."""
    facts: dict[str, Any]
    """For the record."""


def at_layer(name: str, layer: str | None) -> str:
    """The name of a score or column for one layer."""
    return f"{name}@{layer}" if layer else name


def named(
    run: Run,
    evaluation: Evaluation,
    ids: list[str],
    logits_by_layer: dict[str | None, np.ndarray],
    facts: dict[str, Any],
) -> Outcome:
    """The outcome of a protocol that names one class for each sample, from its logits (N, V, C)."""
    target = evaluation.target
    labels_NL = target.label_sets(ids, target.val)
    scores: dict[str, float] = {}
    names = [[target.classes[i] for i in labels if i >= 0] for labels in labels_NL]
    # Where samples may have several labels, the column holds lists.
    several = labels_NL.shape[1] > 1
    columns: dict[str, Any] = {"sample_id": ids, "label": names if several else [name for (name,) in names]}
    for layer, logits_NVC in logits_by_layer.items():
        found = score(logits_NVC, labels_NL, view_noun=run.modality.view_noun)
        scores |= {at_layer(name, layer): value for name, value in found.items()}
        probabilities = sample_probabilities(logits_NVC)
        said = probabilities.argmax(axis=1)
        columns[at_layer("predicted", layer)] = [target.classes[i] for i in said]
        columns[at_layer("probability", layer)] = probabilities[np.arange(len(said)), said]
    return Outcome(ids, logits_by_layer[None].shape[1], scores, pa.table(columns), facts)
