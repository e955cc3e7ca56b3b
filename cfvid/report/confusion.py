"""Which classes each network takes for which: counts over a target's validation samples and all seeds."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from sklearn.metrics import confusion_matrix

Cell = tuple[str, str, str]
"""target, protocol, network"""

MOST_CLASSES = 100
"""Matrices of more classes are not kept: what is confused most often is."""
_MOST_PAIRS = 5


class Confusions:
    """Adds up predictions, evaluation by evaluation; kept is how often each pair of a label and a name occurs."""

    def __init__(self) -> None:
        self._counts: dict[Cell, list[pa.Table]] = {}

    def add(self, cell: Cell, predictions: Path) -> None:
        """Count one evaluation's predictions; those that name no class, or of samples with several, are passed over."""
        schema = pyarrow.parquet.read_schema(predictions)
        if {"label", "predicted"} <= set(schema.names) and not pyarrow.types.is_list(schema.field("label").type):
            table = pyarrow.parquet.read_table(predictions, columns=["label", "predicted"])
            self._counts.setdefault(cell, []).append(
                table.group_by(["label", "predicted"]).aggregate([([], "count_all")])
            )

    def plain(self) -> list[dict[str, Any]]:
        """For each cell `target`, `protocol`, `network`; `classes` and `counts` (rows are the true ones), where there
        are not too many; and `pairs`: what is taken for another class most often, as `label`, `predicted`, `count` and
        `share` of the label's samples.
        """
        entries = []
        for (target, protocol, network), parts in self._counts.items():
            together = pa.concat_tables(parts).group_by(["label", "predicted"]).aggregate([("count_all", "sum")])
            labels, said = together["label"].to_pylist(), together["predicted"].to_pylist()
            counts = together["count_all_sum"].to_pylist()
            classes = sorted({*labels, *said})
            entry: dict[str, Any] = {"target": target, "protocol": protocol, "network": network}
            if len(classes) <= MOST_CLASSES:
                matrix = confusion_matrix(labels, said, labels=classes, sample_weight=counts)
                entry |= {"classes": classes, "counts": matrix.tolist()}
            entries.append(entry | {"pairs": _pairs(labels, said, counts)})
        return entries


def _pairs(labels: Sequence[str], said: Sequence[str], counts: Sequence[int]) -> list[dict[str, Any]]:
    sizes: Counter[str] = Counter()
    for label, count in zip(labels, counts, strict=True):
        sizes[label] += count
    wrong = [(-count, label, name) for label, name, count in zip(labels, said, counts, strict=True) if label != name]
    return [
        {"label": label, "predicted": name, "count": -count, "share": -count / sizes[label]}
        for count, label, name in heapq.nsmallest(_MOST_PAIRS, wrong)
    ]


def by_target(confusions: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Mapping[str, Any]]]:
    """The entries of each target and protocol, by network."""
    grouped: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for entry in confusions:
        grouped.setdefault((entry["target"], entry["protocol"]), {})[entry["network"]] = entry
    return grouped
