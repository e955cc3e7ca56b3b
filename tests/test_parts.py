"""Long arrays in parts: all rows once, in order, and none of the parts much smaller than the others."""

from __future__ import annotations

import numpy as np
import pytest

from cfvid import parts
from cfvid.tables import GROUP_ROWS, row_groups


@pytest.mark.parametrize(("num", "values"), [(0, 3), (1, 3), (100, 1), (101, 7), (1000, 50), (7, 10**6)])
def test_parts_cover_all_rows_and_are_about_equal(num: int, values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MOST_VALUES", 100)
    found = parts.parts(num, values)
    assert [row for rows in found for row in range(rows.start, rows.stop)] == list(range(num))
    sizes = [rows.stop - rows.start for rows in found]
    assert max(sizes, default=0) * values <= max(100, values)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_blocks_are_cut_anew(size: int) -> None:
    rows = np.arange(46).reshape(23, 2)
    given = [rows[:1], rows[1:9], rows[9:9], rows[9:]]
    found = list(parts.blocks_of(size, given))
    np.testing.assert_array_equal(np.concatenate(found), rows)
    assert all(len(block) == size for block in found[:-1])
    assert list(parts.blocks_of(size, [])) == []


def test_a_row_group_never_has_more_values_than_fit_in_memory() -> None:
    """A million samples of 2,048 classes: 2^31 values in one group, more than int32 offsets can count."""
    for num_classes in (17, 1_000, 2_048, 9_000):
        groups = row_groups(GROUP_ROWS, num_classes)
        assert groups[-1].stop == GROUP_ROWS
        assert max(rows.stop - rows.start for rows in groups) * num_classes <= parts.MOST_VALUES
    assert row_groups(GROUP_ROWS + 1, 2) == [slice(0, GROUP_ROWS), slice(GROUP_ROWS, 2 * GROUP_ROWS)]
