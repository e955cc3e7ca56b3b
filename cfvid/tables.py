"""Parquet tables that are written some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from cfvid.artifacts import atomic_file
from cfvid.parts import parts, rows_at_once

GROUP_ROWS = 2**20
"""The rows of a row group: the number that pyarrow takes by itself."""


def row_groups(num_rows: int, values_per_row: int = 1) -> list[slice]:
    """The rows of each row group: GROUP_ROWS, or fewer where these would have too many values.

    A group is in memory while it is written. Lists of more than 2^31 values in one would not even be possible.

    Args:
        num_rows: of the table.
        values_per_row: of its longest list.
    """
    if rows_at_once(values_per_row) < GROUP_ROWS:
        return parts(num_rows, values_per_row)
    return [slice(first, first + GROUP_ROWS) for first in range(0, max(1, num_rows), GROUP_ROWS)]


def write_groups(path: Path, part: Callable[[slice], pa.Table], groups: Sequence[slice]) -> None:
    """Write a table, making the rows of one row group at a time: the same bytes as of the whole table at once."""
    with (
        atomic_file(path, check=pyarrow.parquet.read_metadata) as temporary,
        pyarrow.parquet.ParquetWriter(temporary, part(slice(0)).schema) as writer,
    ):
        for rows in groups:
            writer.write_table(part(rows))
