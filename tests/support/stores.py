"""Feature stores of made-up features."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from cfvid.artifacts import write_json
from cfvid.features import FeatureStore, FeatureWriter


def write_store(
    folder: Path, ids: list[str], *shape: int, shard_size: int = 1000, inputs: Any = None, seed: int = 0
) -> FeatureStore:
    """A store of random fp16 features of this shape each."""
    write_json(folder / "inputs.json", inputs or {})
    writer = FeatureWriter(folder, ids, shard_size=shard_size)
    rng = np.random.default_rng(seed)
    for shard in range(writer.num_shards):
        own = list(writer.ids_of(shard))
        features = rng.standard_normal((len(own), *shape), dtype=np.float32).astype(np.float16)
        writer.write(shard, ids=own, features=features, skips=[], fallbacks=Counter(), num_views=1)
    writer.finish()
    return FeatureStore(folder, verify=False)
