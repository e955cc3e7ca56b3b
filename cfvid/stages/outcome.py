"""What an evaluation found, and the outcome of those that name one class for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cfvid.data.sample_ids import SampleIds
from cfvid.evaluation.scoring import Said, score
from cfvid.stages.context import Run
from cfvid.stages.evaluations import Evaluation

_NAMES_AT_ONCE = 2**22
"""How many names go into one piece of a column of text, which can hold 2 GiB."""


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
    said_by_layer: dict[str | None, Said],
    facts: dict[str, Any],
    *,
    num_views: int,
) -> Outcome:
    """The outcome of a protocol that names one class for each sample, from what is kept of its logits."""
    target = evaluation.target
    labels_NL = target.label_sets(ids, target.val)
    scores: dict[str, float] = {}
    # Where samples may have several labels, the column holds lists.
    several = labels_NL.shape[1] > 1
    lists = [[target.classes[i] for i in labels if i >= 0] for labels in labels_NL] if several else None
    columns: dict[str, Any] = {"sample_id": ids, "label": lists or names_of(target.classes, labels_NL[:, 0])}
    for layer, said in said_by_layer.items():
        found = score(
            said,
            labels_NL,
            num_views=num_views,
            num_classes=len(target.classes),
            view_noun=run.modality.view_noun,
        )
        scores |= {at_layer(name, layer): value for name, value in found.items()}
        columns[at_layer("predicted", layer)] = names_of(target.classes, said.predicted_N)
        columns[at_layer("probability", layer)] = said.probability_N
    return Outcome(ids, num_views, scores, pa.table(columns), facts)


def names_of(names: Sequence[str], numbers_N: np.ndarray) -> pa.Array:
    """The name that each number stands for, as a column of text: not as Python's strings, one for each sample."""
    return pa.array(names, pa.string()).take(pa.array(numbers_N))


def lists_of_names(names: SampleIds, numbers_NK: np.ndarray) -> pa.ChunkedArray:
    """The names that each row's numbers stand for, as a column of lists of text."""
    num, size = numbers_NK.shape
    chunks = []
    for first in range(0, max(1, num), step := max(1, _NAMES_AT_ONCE // max(1, size))):
        part = numbers_NK[first : first + step]
        texts = names.take(part.ravel()).column.cast(pa.string()).combine_chunks()
        chunks.append(pa.ListArray.from_arrays(pa.array(np.arange(len(part) + 1) * size, pa.int32()), texts))
    return pa.chunked_array(chunks)
