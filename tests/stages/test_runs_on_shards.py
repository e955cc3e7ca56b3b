"""Shards as a source of whole stages: the same features as from files, wherever the shards lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from support.tiny import tiny_config, write_pictures

from cfvid.artifacts import digest_file
from cfvid.config import RunConfig
from cfvid.data.shard_writer import write_shards
from cfvid.features import FeatureStore
from cfvid.media.image import SUFFIXES
from cfvid.pipeline import run_stages
from cfvid.stages import Run

FITTING = {"pretrain__arch": "resnet10_thin", "transfer__protocols": ["linear"]}
STAGES = ["pretrain", "extract", "cluster", "retrain", "transfer"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pictures, the same as shards, and a run on the pictures."""
    home = tmp_path_factory.mktemp("shards")
    found = {"files": write_pictures(home / "files", classes=3, train=6, val=3), "run": home / "run"}
    config = tiny_config(found["files"], **FITTING)
    run_stages(config, found["run"], stages=STAGES)
    found["shards"] = home / "shards"
    write_shards(Run(config, found["run"]).manifest("target"), found["shards"], suffixes=SUFFIXES, samples_per_shard=5)
    return found


def assert_same_run(folder: Path, expected: Path) -> None:
    """The same samples, features, clusters and networks, to the bit."""
    ours, theirs = FeatureStore(folder / "extract"), FeatureStore(expected / "extract")
    assert ours.ids == theirs.ids
    np.testing.assert_array_equal(ours.gather(ours.ids), theirs.gather(ours.ids))
    for path in [*folder.glob("*/*.parquet"), *folder.glob("*/network/*.safetensors")]:
        name = path.relative_to(folder)
        if name.parts[0] != "data":
            assert digest_file(path) == digest_file(expected / name), name


def config_of(source: Any, **overrides: Any) -> RunConfig:
    return tiny_config(Path("unused"), **FITTING, data__pretrain=source, data__targets={"target": source}, **overrides)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_shards_is_the_run_on_files(workers: int, folders: dict[str, Path], tmp_path: Path) -> None:
    names = sorted(path.name for path in folders["shards"].glob("*.tar"))
    assert names == [*(f"train-{n:06d}.tar" for n in range(4)), "val-000000.tar", "val-000001.tar"]
    run_stages(config_of(str(folders["shards"]), runtime__num_workers=workers), tmp_path / "run", stages=STAGES)
    assert_same_run(tmp_path / "run", folders["run"])
    for stage in ("pretrain", "retrain"):
        assert list((tmp_path / "run" / stage / "network").glob("*.safetensors"))


@pytest.mark.parametrize(("protocol", "workers"), [("memory", 0), ("file", 2)])
def test_a_run_on_shards_behind_a_url(protocol: str, workers: int, folders: dict[str, Path], tmp_path: Path) -> None:
    url = f"file://{folders['shards']}"
    if protocol == "memory":
        url = "memory://stages/run"
        for path in folders["shards"].glob("*.tar"):
            fsspec.filesystem("memory").pipe(f"/stages/run/{path.name}", path.read_bytes())
    source = f"{url}/{{train,val}}-*.tar"
    run_stages(config_of(source, runtime__num_workers=workers), tmp_path / "run", stages=["pretrain", "extract"])
    assert_same_run(tmp_path / "run", folders["run"])
    snapshot = Run(config_of(source), tmp_path / "run").manifest("pretrain")
    assert set(snapshot.table["root"].to_pylist()) == {url}
