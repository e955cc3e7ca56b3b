"""Which classes each network takes for which: counts over a target's validation samples and all seeds."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
from sklearn.metrics import confusion_matrix

Cell = tuple[str, str, str]
"""target, protocol, network"""

MOST_CLASSES = 100
"""Matrices of more classes are not kept: what is confused most often is."""
_MOST_PAIRS = 5


class Confusions:
    """Adds up predictions, evaluation by evaluation."""

    def __init__(self) -> None:
        self._said: dict[Cell, list[tuple[list[str], list[str]]]] = {}

    def add(self, cell: Cell, predictions: Path) -> None:
        """Count one evaluation's predictions; those that name no class, or of samples with several, are passed over."""
        schema = pyarrow.parquet.read_schema(predictions)
        if {"label", "predicted"} <= set(schema.names) and not pyarrow.types.is_list(schema.field("label").type):
            table = pyarrow.parquet.read_table(predictions, columns=["label", "predicted"]).to_pydict()
            self._said.setdefault(cell, []).append((table["label"], table["predicted"]))

    def plain(self) -> list[dict[str, Any]]:
        """For each cell `target`, `protocol`, `network`; `classes` and `counts` (rows are the true ones), where there
        are not too many; and `pairs`: what is taken for another class most often, as `label`, `predicted`, `count` and
        `share` of the label's samples.
        """
        entries = []
        for (target, protocol, network), parts in self._said.items():
            labels, said = (list(itertools.chain.from_iterable(part[side] for part in parts)) for side in (0, 1))
            classes = sorted({*labels, *said})
            entry: dict[str, Any] = {"target": target, "protocol": protocol, "network": network}
            if len(classes) <= MOST_CLASSES:
                entry |= {"classes": classes, "counts": confusion_matrix(labels, said, labels=classes).tolist()}
            entries.append(entry | {"pairs": _pairs(labels, said)})
        return entries


def _pairs(labels: Sequence[str], said: Sequence[str]) -> list[dict[str, Any]]:
    sizes = Counter(labels)
    wrong = Counter((label, name) for label, name in zip(labels, said, strict=True) if label != name)
    first = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:_MOST_PAIRS]
    return [
        {"label": label, "predicted": name, "count": count, "share": count / sizes[label]}
        for (label, name), count in first
    ]


def by_target(confusions: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Mapping[str, Any]]]:
    """The entries of each target and protocol, by network."""
    grouped: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for entry in confusions:
        grouped.setdefault((entry["target"], entry["protocol"]), {})[entry["network"]] = entry
    return grouped
