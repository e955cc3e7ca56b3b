"""Soft labels as a file, and as arrays in files that the processes of a machine map into memory.

RUN/cluster/soft_labels.parquet      sample_id, classes (list of int32), shares (list of float32, sum 1)
RUN/retrain/soft_{classes,shares}.npy    (N, T), in the order of the samples that are trained on; there while that lasts
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cfvid import ranks
from cfvid.artifacts import Record
from cfvid.clustering.soft import SoftLabels
from cfvid.data.sample_ids import SampleIds
from cfvid.errors import DataError
from cfvid.parts import rows_at_once
from cfvid.tables import row_groups, write_groups

SOFT_NAME = "soft_labels.parquet"
_CLASSES_NAME, _SHARES_NAME = "soft_classes.npy", "soft_shares.npy"


def write_soft_labels(path: Path, ids: SampleIds, soft: SoftLabels) -> None:
    """Write soft labels by sample id; those of one row group are there at a time."""

    def lists(values_NT: np.ndarray, kind: pa.DataType) -> pa.Array:
        starts = pa.array(np.arange(len(values_NT) + 1) * values_NT.shape[1], pa.int32())
        return pa.ListArray.from_arrays(starts, pa.array(values_NT.ravel(), kind))

    def part(rows: slice) -> pa.Table:
        classes_NT, shares_NT = soft.part(rows)
        return pa.table(
            {
                "sample_id": ids[rows].column.cast(pa.string()),
                "classes": lists(classes_NT, pa.int32()),
                "shares": lists(shares_NT, pa.float32()),
            }
        )

    write_groups(path, part, row_groups(*soft.shape))


def read_soft_labels(folder: Path, record: Record) -> Iterator[tuple[SampleIds, np.ndarray, np.ndarray]]:
    """Sample ids, classes int32 (n, T) and shares float32 (n, T) of a cluster folder, some rows at a time.

    Nothing where there are hard labels only.

    Args:
        folder: a complete one.
        record: its record.

    Raises:
        DamagedArtifact: when the file is not the one that was written.
    """
    if SOFT_NAME not in record.files:
        return
    record.verify(folder, only=(SOFT_NAME,))
    with pyarrow.parquet.ParquetFile(folder / SOFT_NAME, memory_map=True) as file:
        # The decoder holds several times what it gives.
        for batch in file.iter_batches(batch_size=rows_at_once(4 * _num_each(file.metadata))):
            classes, shares = (
                batch[name].flatten().to_numpy().reshape(len(batch), -1) for name in ("classes", "shares")
            )
            yield SampleIds(pa.chunked_array([batch["sample_id"]])), classes, shares


def _num_each(metadata: pyarrow.parquet.FileMetaData) -> int:
    """Classes of a sample's soft label."""
    if not metadata.num_rows:
        return 0
    group = metadata.row_group(0)
    return int(group.column(1).num_values // max(1, group.num_rows))


@dataclass(frozen=True)
class MappedSoftLabels:
    """Soft labels of N samples, whose rows lie in files and not in this process' own memory."""

    classes_NT: np.ndarray
    """int32."""
    shares_NT: np.ndarray
    """float32."""
    num_classes: int
    """One more than the largest class."""


def map_soft_labels(
    folder: Path, record: Record, ids: SampleIds, home: Path, *, all_alike: bool
) -> MappedSoftLabels | None:
    """The soft labels of these samples; None where there are hard ones only.

    The main process writes them into `home`, where all processes map them: those of one machine hold them once, and
    only the rows that they look at. They are float32 as in the file, so that training comes to the same bits.

    Args:
        folder: a complete cluster folder.
        record: its record.
        ids: the samples, N of them.
        home: takes the files; see `forget_soft_labels`.
        all_alike: whether all samples have the same classes in the same order, of which one row is enough.

    Raises:
        DataError: when a sample has no soft label.
    """
    found = ranks.from_main(_write_mapped(folder, record, ids, home, all_alike=all_alike) if ranks.is_main() else None)
    if found is None:
        return None
    first_T, num_classes = found
    shares_NT = np.load(home / _SHARES_NAME, mmap_mode="r", allow_pickle=False)
    if all_alike:
        classes_NT = np.broadcast_to(first_T, shares_NT.shape)
    else:
        classes_NT = np.load(home / _CLASSES_NAME, mmap_mode="r", allow_pickle=False)
    return MappedSoftLabels(classes_NT, shares_NT, num_classes)


def forget_soft_labels(home: Path) -> None:
    """Remove the files that `map_soft_labels` has left in a folder."""
    if ranks.is_main():
        for name in (_CLASSES_NAME, _SHARES_NAME):
            (home / name).unlink(missing_ok=True)


def _write_mapped(
    folder: Path, record: Record, ids: SampleIds, home: Path, *, all_alike: bool
) -> tuple[np.ndarray, int] | None:
    """The classes of the first sample, and how many classes there are."""
    first_T, num_classes, num_found = None, 0, 0
    arrays: dict[str, np.memmap] = {}
    for own, classes, shares in read_soft_labels(folder, record):
        if first_T is None:
            first_T = classes[0].copy()
            names = {_SHARES_NAME: np.float32} if all_alike else {_SHARES_NAME: np.float32, _CLASSES_NAME: np.int32}
            shape = (len(ids), len(first_T))
            arrays = {
                name: np.lib.format.open_memmap(home / name, mode="w+", dtype=dtype, shape=shape)
                for name, dtype in names.items()
            }
        rows = ids.find(own)
        is_wanted = rows >= 0
        for name, values in ((_SHARES_NAME, shares), (_CLASSES_NAME, classes)):
            if name in arrays:
                arrays[name][rows[is_wanted]] = values[is_wanted]
        num_found += int(is_wanted.sum())
        num_classes = max(num_classes, 1 + int(classes.max(initial=-1)))
    if first_T is None:
        return None
    if num_found < len(ids):
        raise DataError(
            f"{folder / SOFT_NAME} lacks {len(ids) - num_found} of the {len(ids)} samples that are to be trained on.",
            fix="Run the cluster stage again.",
        )
    for array in arrays.values():
        array.flush()
    return first_T, num_classes
