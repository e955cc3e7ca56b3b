"""Blanks around labels and splits: `cat ` and `cat` are one class."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cfvid.data.manifest import Manifest

logger = logging.getLogger(__name__)


def trimmed(manifest: Manifest, *, place: object) -> Manifest:
    """The samples with labels and splits without white space at their ends; how many had some is told in the log.

    Labels that are nothing else are left out, and those that have become equal are one.

    Args:
        manifest: the samples; returned as it is where there is nothing to trim.
        place: where they come from, for the log.
    """
    table, told = manifest.table, []
    for name in ("labels", "unsure_labels"):
        lists = table[name].combine_chunks()
        texts = lists.flatten()
        plain = pc.utf8_trim_whitespace(texts)
        count = pc.sum(pc.not_equal(texts, plain)).as_py() or 0
        if count:
            table = table.set_column(table.column_names.index(name), name, _as_lists(plain, lists))
            told.append(f"{count} {name.replace('_', ' ')}")
    splits = table["split"].cast(pa.large_string())
    plain = pc.utf8_trim_whitespace(splits)
    count = pc.sum(pc.not_equal(splits, plain)).as_py() or 0
    if count:
        table = table.set_column(table.column_names.index("split"), "split", plain)
        told.append(f"the splits of {count} samples")
    if not told:
        return manifest
    logger.warning("%s: white space was removed around %s", place, " and ".join(told))
    return Manifest(table, trusted_roots=manifest.trusted_roots)


def _as_lists(texts: pa.Array, lists: pa.ListArray) -> pa.ListArray:
    """The texts of the lists anew, without empty ones and those that a list has before."""
    owners = pc.list_parent_indices(lists).to_numpy()
    numbers = texts.dictionary_encode()
    pairs = owners.astype(np.int64) * (1 + len(numbers.dictionary)) + numbers.indices.to_numpy()
    is_first = np.zeros(len(texts), dtype=bool)
    is_first[np.unique(pairs, return_index=True)[1]] = True
    is_kept = is_first & pc.not_equal(texts, "").to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.cumsum(np.bincount(owners[is_kept], minlength=len(lists)))])
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), texts.filter(pa.array(is_kept)))
