"""Which classes each network takes for which: counts over a target's validation samples and all seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
        are not too many; and `pairs`: what is taken for another class most often, as `label`, `predicted`, `share` of
        the label's samples.
        """
        entries = []
        for (target, protocol, network), parts in self._said.items():
            labels, said = (np.concatenate([np.array(part[side], dtype=object) for part in parts]) for side in (0, 1))
            classes = sorted({*labels, *said})
            counts = confusion_matrix(labels, said, labels=classes)
            entry: dict[str, Any] = {"target": target, "protocol": protocol, "network": network}
            if len(classes) <= MOST_CLASSES:
                entry |= {"classes": classes, "counts": counts.tolist()}
            entries.append(entry | {"pairs": _pairs(classes, counts)})
        return entries


def _pairs(classes: Sequence[str], counts: np.ndarray) -> list[dict[str, Any]]:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    first = np.argsort(-shares, axis=None, kind="stable")[:_MOST_PAIRS]
    places = [(int(row), int(column)) for row, column in zip(*np.unravel_index(first, shares.shape), strict=True)]
    return [
        {"label": classes[row], "predicted": classes[column], "share": float(shares[row, column])}
        for row, column in places
        if shares[row, column] > 0
    ]


def by_target(confusions: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Mapping[str, Any]]]:
    """The entries of each target and protocol, by network."""
    grouped: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for entry in confusions:
        grouped.setdefault((entry["target"], entry["protocol"]), {})[entry["network"]] = entry
    return grouped
