"""Parts of a manifest, chosen by names alone: the same on every machine, and nested as they grow."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cfvid.data.manifest import SCHEMA, Manifest
from cfvid.seeds import derive


def drawn_order(names: Iterable[str], *, of: str) -> list[str]:
    """The names in an order that says nothing about them: alphabetical ones often go by kind."""
    return sorted(set(names), key=lambda name: (derive(0, of, name), name))


def keep_classes(manifest: Manifest, share: tuple[float, float]) -> Manifest:
    """The samples of a range of the classes, e.g. (0, 0.5); ranges that do not overlap have no class in common.

    Other labels are removed; samples that have none left, and those that had none, are left out. That a sample is
    unsure of a class which is kept does not keep it.
    """
    classes = drawn_order(manifest.classes, of="class-order")
    first, last = (round(end * len(classes)) for end in share)
    kept = set(classes[first:last])
    labels = [[label for label in sample.labels if label in kept] for sample in manifest]
    unsure = [[label for label in sample.unsure_labels if label in kept] for sample in manifest]
    table = manifest.table
    for name, column in (("labels", labels), ("unsure_labels", unsure)):
        table = table.set_column(SCHEMA.get_field_index(name), name, pa.array(column, pa.list_(pa.string())))
    return Manifest(table.filter(pa.array([bool(names) for names in labels])), trusted_roots=manifest.trusted_roots)


def keep_samples(manifest: Manifest, number: int, *, split: str) -> Manifest:
    """At most this many samples of one split, drawn by their ids; other splits stay whole."""
    in_split = np.flatnonzero(pc.equal(manifest.table["split"], split).to_numpy())
    if len(in_split) <= number:
        return manifest
    ids = manifest.ids.take(in_split)
    keys_N = np.fromiter((derive(0, "sample-order", name) for name in ids), dtype=np.int64, count=len(ids))
    # Equal keys go by the name, so that the order of the manifest does not count.
    last = np.partition(keys_N, number - 1)[number - 1]
    tied = np.flatnonzero(keys_N == last)
    by_name = tied[np.argsort(np.array(list(ids.take(tied))))]
    drawn = np.concatenate([np.flatnonzero(keys_N < last), by_name])[:number]
    is_kept = np.ones(len(manifest), dtype=bool)
    is_kept[in_split] = False
    is_kept[in_split[drawn]] = True
    return manifest.take(np.flatnonzero(is_kept))
