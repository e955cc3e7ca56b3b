"""Manifests that are mapped into memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa

from cfvid.data.manifest import Manifest, Sample, from_samples
from cfvid.data.mapped import read_mapped, write_mapped


def samples(num: int) -> Manifest:
    """Two splits one after the other, of all kinds of samples."""
    rows = []
    for i in range(num):
        split, path = ("train", f"ü {i}.jpg") if i < num // 2 else ("val", f"s.tar!/{i}.jpg")
        place = (None, None) if split == "train" else (512 + i, i)
        unsure = ("c",) * (i % 3 == 0)
        rows.append(Sample(str(i), path, "/data", ("b", "a")[: i % 3], split, 1.5 * i, None, unsure, *place))
    return from_samples(rows, trusted_roots=["/media", "/other"])


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    for manifest in (samples(10), samples(10).split("val"), samples(10).take(np.array([0, 7, 9])), samples(0)):
        write_mapped(manifest, tmp_path / "m.arrow")
        found = read_mapped(tmp_path / "m.arrow")
        assert list(found) == list(manifest)
        assert (found.digest, found.trusted_roots) == (manifest.digest, manifest.trusted_roots)
        assert found.labels_by_id == manifest.labels_by_id
        found.write(tmp_path / "m.parquet")
        assert pa.parquet.read_table(tmp_path / "m.parquet").num_rows == len(manifest)


def test_rows_lie_in_the_file_also_those_of_a_split(tmp_path: Path) -> None:
    num = 20_000
    write_mapped(samples(num), tmp_path / "m.arrow")
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    train = read_mapped(tmp_path / "m.arrow").split("train")
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(train) == num // 2
    assert (used + pa.total_allocated_bytes() - before) / num < 30  # of more than 100: what ids are found by
    assert train.samples([num // 2 - 1])[0].sample_id == str(num // 2 - 1)
    assert "unsure" not in train.ids
