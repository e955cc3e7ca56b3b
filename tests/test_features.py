"""The feature store: parts, rows and blocks of it are the same features."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.stores import write_store

from cfvid import parts
from cfvid.artifacts import write_json
from cfvid.clustering.projection import Projection
from cfvid.data.skips import Skip
from cfvid.features import FeatureStore, FeatureWriter, mean_features
from cfvid.stages.pool import stored_points

IDS = [f"s{n}" for n in range(23)]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return write_store(tmp_path / "store", IDS, 2, 5, shard_size=7)


def test_parts_rows_and_blocks_are_what_is_gathered(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = store.gather(IDS)
    assert (whole.shape, whole.dtype) == ((23, 2, 5), np.float32)
    columns = slice(1, 4)
    for rows in (slice(None), slice(0, 3), slice(5, 22), slice(7, 14), slice(20, 99), slice(3, 3)):
        np.testing.assert_array_equal(store.part(rows, columns), whole[rows, :, columns])
    drawn = np.array([22, 0, 7, 7, 13])
    np.testing.assert_array_equal(store.take(drawn, columns), whole[drawn][..., columns])
    np.testing.assert_array_equal(store.gather(["s9", "s1"]), whole[[9, 1]])
    monkeypatch.setattr(parts, "MOST_VALUES", 30)
    blocks = list(store.blocks(columns))
    assert [len(block) for block in blocks] == [5, 5, 5, 4, 4]
    np.testing.assert_array_equal(np.concatenate(blocks), whole[..., columns])
    assert max(len(block) for block in store.blocks(values=15)) == 2  # of each, so many things are made
    np.testing.assert_array_equal(np.concatenate(list(mean_features(store, 3))), whole[..., :3].mean(axis=1))


def test_a_shard_of_which_nothing_could_be_read(tmp_path: Path) -> None:
    """Streamed clustering of a pool whose 8 first files are broken."""
    folder = tmp_path / "store"
    write_json(folder / "inputs.json", {})
    writer = FeatureWriter(folder, IDS[:16], shard_size=8)
    features = np.arange(24, dtype=np.float32).reshape(8, 3)
    skips = [Skip(name, name, ("broken",)) for name in IDS[:8]]
    writer.write(0, ids=[], features=np.empty((0, 0), np.float32), skips=skips, fallbacks=Counter(), num_views=0)
    writer.write(1, ids=IDS[8:16], features=features, skips=[], fallbacks=Counter(), num_views=1)
    record = writer.finish()
    assert (record.facts["num_samples"], record.facts["num_skipped"], record.facts["views_seen"]) == (8, 8, 8)
    found = FeatureStore(folder)
    assert [len(ids) for ids, _ in found.shards()] == [8]
    with stored_points(found, Projection(l2_normalize=False), tmp_path / "points.npy") as points_NP:
        np.testing.assert_array_equal(points_NP, features)
    assert not (tmp_path / "points.npy").exists()
