"""Soft labels are files that the processes of a machine map, not arrays in each of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.team import Team

from cfvid.artifacts import Record
from cfvid.clustering.soft import SoftLabels
from cfvid.data.sample_ids import SampleIds
from cfvid.errors import DataError
from cfvid.stages.cluster import KIND
from cfvid.stages.soft_labels import SOFT_NAME, map_soft_labels, write_soft_labels

NUM, SIZE = 50, 4


def write(folder: Path, *, all_alike: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shares = rng.random((NUM, SIZE), dtype=np.float32)
    alike = np.tile(np.arange(SIZE, dtype=np.int32), (NUM, 1))
    classes = alike if all_alike else rng.integers(9, size=(NUM, SIZE), dtype=np.int32)
    soft = SoftLabels((NUM, SIZE), lambda rows: (classes[rows], shares[rows]))
    write_soft_labels(folder / SOFT_NAME, SampleIds([f"s{n}" for n in range(NUM)]), soft)
    Record.write(folder, kind=KIND, inputs={}, files=[SOFT_NAME])
    return classes, shares


@pytest.mark.parametrize("all_alike", [True, False])
def test_all_see_the_rows_of_the_samples_that_are_trained_on(team: Team, tmp_path: Path, all_alike: bool) -> None:
    """Each of eight processes had all soft labels of a million samples in its own memory."""
    classes, shares = write(tmp_path, all_alike=all_alike)
    rows = np.random.default_rng(1).permutation(NUM)[:30]
    ids = [f"s{row}" for row in rows]
    assert team.run("mapped_soft_labels", tmp_path, ids, str(tmp_path / "seen"), all_alike, size=2) == [0, 0]
    for rank in range(2):
        seen = np.load(tmp_path / f"seen{rank}.npz")
        np.testing.assert_array_equal(seen["shares"], shares[rows])
        np.testing.assert_array_equal(seen["classes"], classes[rows])
        assert seen["num"] == 1 + classes.max()
    assert not [*tmp_path.glob("soft_*.npy")]


def test_a_sample_without_soft_labels_is_told(tmp_path: Path) -> None:
    write(tmp_path, all_alike=True)
    record = Record.read(tmp_path, kind=KIND)
    with pytest.raises(DataError, match="lacks 1 of the 2 samples"):
        map_soft_labels(tmp_path, record, SampleIds(["s3", "another"]), tmp_path, all_alike=True)
