"""Real odd, broken and hostile files go through `extract`: each is in the store or in the ledger, none in both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tiny import configure, tiny_values, write_pictures

from cfvid.artifacts import Record
from cfvid.data.skips import read_skips
from cfvid.features import FeatureStore
from cfvid.models.weights import NetworkConfig, save_network
from cfvid.models.zoo import build_network
from cfvid.pipeline import run_stages

CLIPS = {"num_frames": 4, "frame_rate_hz": 4, "crop_size": 32, "resize": 32}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("modality", "arch"), [("image", "resnet10_thin"), ("video", "r2plus1d_10_thin")])
def test_every_file_is_in_the_store_or_in_the_ledger(
    shared_data: Path, tmp_path: Path, modality: str, arch: str
) -> None:
    media = shared_data / "hard_media"
    # Listed one by one: by its ending, a reader of folders would pass over the worst of them.
    files = sorted(path.relative_to(media).as_posix() for path in (media / modality).iterdir())
    manifest = tmp_path / "hard.csv"
    rows = [f'"{name.replace(chr(34), chr(34) * 2)}","{name.replace(chr(34), chr(34) * 2)}",train' for name in files]
    manifest.write_text("\n".join(["sample_id,path,split", *rows]) + "\n", encoding="utf-8")
    weights = tmp_path / "weights"
    network = build_network(arch, num_classes=2, seed=0)
    save_network(weights, network, NetworkConfig(arch, modality, 2, [], {}))
    pictures = write_pictures(tmp_path / "pictures", train=2, val=1)
    values = tiny_values(
        pictures,
        modality=modality,
        data__clusterfit=[{"path": str(manifest), "media_root": str(media)}],
        data__skip_budget=1.0,
        pretrain__arch=arch,
        pretrain__weights=str(weights),
        extract__batch_size=16,
        runtime__num_workers=2,
        runtime__decode_deadline_s=5.0,
    )
    if modality == "video":
        values["input"] = CLIPS

    run_stages(configure(values), tmp_path / "run", stages=["pretrain", "extract"])

    store = FeatureStore(tmp_path / "run" / "extract")
    skips = {skip.sample_id: skip.reasons for skip in read_skips(tmp_path / "run" / "extract" / "skips.jsonl")}
    assert sorted([*store.ids, *skips]) == files
    assert all(skips.values())
    assert len(store) > 0.4 * len(files)
    assert np.isfinite(store.gather(store.ids)).all()
    fallbacks = Record.read(tmp_path / "run" / "extract", kind="features").facts["fallbacks"]
    if modality == "video":
        assert fallbacks["pyav"] > 0
